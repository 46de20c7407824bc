//! The store of a replica that shares with nobody: everything is in this process and ends with it.

use std::fmt;

use async_trait::async_trait;

use super::{
    Begun, Bounds, Census, Coverage, DueWork, Forgotten, Health, LiveToken, LiveTokens, OnForget, Recorded,
    Restriction, Restrictions, Store, StoreError, TokenHolder, effects::Effects, live_tokens::LiveTokenIndex,
    work::WorkQueue,
};
use crate::{clock::UnixMillis, tenant::TenantName};

/// The default store.
pub struct MemoryStore {
    pub(super) restrictions: Restrictions,
    pub(super) live_tokens: LiveTokenIndex,
    pub(super) work: WorkQueue,
    pub(super) effects: Effects,
    pub(super) on_forget: OnForget,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(bounds: &Bounds, on_forget: OnForget) -> Self {
        Self {
            restrictions: Restrictions::new(bounds),
            live_tokens: LiveTokenIndex::new(bounds),
            work: WorkQueue::new(bounds),
            effects: Effects::new(bounds),
            on_forget,
        }
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("restrictions", &self.restrictions.count()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn restrictions(&self) -> &Restrictions {
        &self.restrictions
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn health(&self, now: UnixMillis) -> Health {
        self.restrictions.take_queued(now);
        if self.restrictions.has_room(now) { Health::Ready } else { Health::Full }
    }

    fn census(&self, now: UnixMillis) -> Census {
        Census {
            health: self.health(now),
            restrictions: self.restrictions.count_holding(now),
            live_tokens: self.live_tokens.count(now),
            backlog: self.work.backlog(),
            unwritten: 0,
            unwritten_work: 0,
            outages: 0,
        }
    }

    fn may_issue(&self, now: UnixMillis) -> Result<(), StoreError> {
        if self.health(now) == Health::Ready { Ok(()) } else { Err(StoreError::Full) }
    }

    async fn record(&self, restriction: Restriction, now: UnixMillis) -> Result<Recorded, StoreError> {
        self.restrictions.take_queued(now);
        self.restrictions.learn_or_queue(&restriction, now)
    }

    fn take_learned_late(&self) -> Vec<Restriction> {
        Vec::new()
    }

    async fn put_live_token(&self, live_token: LiveToken, now: UnixMillis) -> Result<(), StoreError> {
        self.live_tokens.put(&live_token, now).map(|_| ())
    }

    async fn live_tokens(&self, tenant: &TenantName, to: &TokenHolder, now: UnixMillis) -> LiveTokens {
        LiveTokens { live_tokens: self.live_tokens.find(tenant, to, now), coverage: Coverage::AllReplicas }
    }

    async fn enqueue(&self, work: DueWork, _now: UnixMillis) -> Result<(), StoreError> {
        self.work.enqueue(&work)
    }

    async fn claim(&self, most: usize, now: UnixMillis) -> Vec<DueWork> {
        self.work.claim(most, now)
    }

    async fn complete(&self, id: &str) -> Result<(), StoreError> {
        self.work.complete(id);
        Ok(())
    }

    async fn postpone(&self, id: &str, due: UnixMillis) -> Result<(), StoreError> {
        self.work.postpone(id, due);
        Ok(())
    }

    async fn begin(&self, effect: &str, now: UnixMillis) -> Begun {
        self.effects.begin(effect, now)
    }

    async fn finish(&self, effect: &str, until: UnixMillis, _now: UnixMillis) {
        self.effects.finish(effect, until);
    }

    async fn is_done(&self, effect: &str, now: UnixMillis) -> bool {
        self.effects.is_done(effect, now)
    }

    async fn forget(&self, effect: &str) {
        self.effects.forget(effect);
    }

    async fn forget_user(&self, tenant: &TenantName, user: &str) -> Result<(), StoreError> {
        (self.on_forget)(Forgotten::User(tenant, user));
        Ok(())
    }
}

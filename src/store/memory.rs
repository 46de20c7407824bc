//! The store of a replica that shares with nobody: everything is in this process and ends with it.

use std::fmt;

use async_trait::async_trait;

use super::{
    Begun, Bounds, Census, Dropped, DueWork, Fact, Facts, Grant, GrantedTo, Health, LiveGrants, OnDrop, Reach,
    Recorded, Store, StoreError, effects::Effects, grants::GrantIndex, work::WorkQueue,
};
use crate::{clock::UnixMillis, tenant::TenantName};

/// The default store.
pub struct MemoryStore {
    pub(super) facts: Facts,
    pub(super) grants: GrantIndex,
    pub(super) work: WorkQueue,
    pub(super) effects: Effects,
    pub(super) on_drop: OnDrop,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(bounds: &Bounds, on_drop: OnDrop) -> Self {
        Self {
            facts: Facts::new(bounds),
            grants: GrantIndex::new(bounds),
            work: WorkQueue::new(bounds),
            effects: Effects::new(bounds),
            on_drop,
        }
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("facts", &self.facts.count()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn health(&self, now: UnixMillis) -> Health {
        self.facts.take_what_waits(now);
        if self.facts.has_room(now) { Health::Ready } else { Health::Full }
    }

    fn census(&self, now: UnixMillis) -> Census {
        Census {
            health: self.health(now),
            facts: self.facts.count_holding(now),
            grants: self.grants.count(now),
            backlog: self.work.backlog(),
            unwritten: 0,
            unwritten_work: 0,
            outages: 0,
        }
    }

    fn may_issue(&self, now: UnixMillis) -> Result<(), StoreError> {
        if self.health(now) == Health::Ready { Ok(()) } else { Err(StoreError::Full) }
    }

    async fn record(&self, fact: Fact, now: UnixMillis) -> Result<Recorded, StoreError> {
        self.facts.take_what_waits(now);
        self.facts.learn_or_let_wait(&fact, now)
    }

    fn take_heard_late(&self) -> Vec<Fact> {
        Vec::new()
    }

    async fn put_grant(&self, grant: Grant, now: UnixMillis) -> Result<(), StoreError> {
        self.grants.put(&grant, now).map(|_| ())
    }

    async fn grants(&self, tenant: &TenantName, to: &GrantedTo, now: UnixMillis) -> LiveGrants {
        LiveGrants { grants: self.grants.find(tenant, to, now), reach: Reach::AllReplicas }
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

    async fn drop_user(&self, tenant: &TenantName, user: &str) -> Result<(), StoreError> {
        (self.on_drop)(Dropped::User(tenant, user));
        Ok(())
    }
}

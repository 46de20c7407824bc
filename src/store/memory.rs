//! The store of a single replica, in memory.

use std::fmt;

use async_trait::async_trait;

use super::{
    Coverage, Forgotten, Health, IdempotencyClaim, LiveToken, LiveTokens, OnForget, RecordOutcome, Restriction,
    Restrictions, Store, StoreError, StoreLimits, StoreStats, StoredTask, TokenHolder, idempotency::IdempotencyKeys,
    live_tokens::LiveTokenIndex, tasks::TaskQueue,
};
use crate::{clock::UnixMillis, tenant::TenantName};

/// The default store. It ends with the process.
pub struct MemoryStore {
    pub(super) restrictions: Restrictions,
    pub(super) live_tokens: LiveTokenIndex,
    pub(super) tasks: TaskQueue,
    pub(super) idempotency_keys: IdempotencyKeys,
    pub(super) on_forget: OnForget,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(limits: &StoreLimits, on_forget: OnForget) -> Self {
        Self {
            restrictions: Restrictions::new(limits),
            live_tokens: LiveTokenIndex::new(limits),
            tasks: TaskQueue::new(limits),
            idempotency_keys: IdempotencyKeys::new(limits),
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
        self.restrictions.apply_waiting(now);
        if self.restrictions.has_room(now) { Health::Ready } else { Health::Full }
    }

    fn stats(&self, now: UnixMillis) -> StoreStats {
        StoreStats {
            health: self.health(now),
            restrictions: self.restrictions.count_active(now),
            live_tokens: self.live_tokens.count(now),
            tasks: self.tasks.backlog(),
            unwritten_restrictions: 0,
            unwritten_tasks: 0,
            outages: 0,
        }
    }

    fn may_issue(&self, now: UnixMillis) -> Result<(), StoreError> {
        if self.health(now) == Health::Ready { Ok(()) } else { Err(StoreError::Full) }
    }

    async fn record(&self, restriction: Restriction, now: UnixMillis) -> Result<RecordOutcome, StoreError> {
        self.restrictions.apply_waiting(now);
        self.restrictions.apply_or_wait(&restriction, now)
    }

    fn take_late_restrictions(&self) -> Vec<Restriction> {
        Vec::new()
    }

    async fn put_live_token(&self, live_token: LiveToken, now: UnixMillis) -> Result<(), StoreError> {
        self.live_tokens.put(&live_token, now).map(|_| ())
    }

    async fn live_tokens(&self, tenant: &TenantName, holder: &TokenHolder, now: UnixMillis) -> LiveTokens {
        LiveTokens { live_tokens: self.live_tokens.find(tenant, holder, now), coverage: Coverage::AllReplicas }
    }

    async fn enqueue_task(&self, task: StoredTask, _now: UnixMillis) -> Result<(), StoreError> {
        self.tasks.enqueue(&task)
    }

    async fn claim_tasks(&self, max: usize, now: UnixMillis) -> Vec<StoredTask> {
        self.tasks.claim(max, now)
    }

    async fn complete_task(&self, id: &str) -> Result<(), StoreError> {
        self.tasks.complete(id);
        Ok(())
    }

    async fn postpone_task(&self, id: &str, due: UnixMillis) -> Result<(), StoreError> {
        self.tasks.postpone(id, due);
        Ok(())
    }

    async fn claim_once(&self, key: &str, now: UnixMillis) -> IdempotencyClaim {
        self.idempotency_keys.claim_once(key, now)
    }

    async fn mark_done(&self, key: &str, until: UnixMillis, _now: UnixMillis) {
        self.idempotency_keys.mark_done(key, until);
    }

    async fn is_done(&self, key: &str, now: UnixMillis) -> bool {
        self.idempotency_keys.is_done(key, now)
    }

    async fn release(&self, key: &str) {
        self.idempotency_keys.release(key);
    }

    async fn forget_user(&self, tenant: &TenantName, user: &str) -> Result<(), StoreError> {
        (self.on_forget)(Forgotten::User(tenant, user));
        Ok(())
    }
}

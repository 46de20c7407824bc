//! The store that replicas share through Redis or Valkey.
//!
//! Each replica keeps what it knows in memory, as with the memory store. Through Redis, replicas exchange it, and it
//! outlives them. A [background task](sync) synchronizes the two. On each connection it subscribes to changes, reads
//! the active restrictions, writes what Redis lacks, and then marks the store ready.

mod address;
mod commands;
mod connection;
mod connector;
mod encoding;
mod failure;
mod keys;
mod outage;
mod prefix;
mod reader;
mod shared;
mod sync;

use std::{
    fmt, mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use ::redis::ProtocolVersion;
use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use tokio::{sync::Notify, task::JoinHandle};

pub use address::{InvalidRedisAddress, InvalidRedisAuthorities, RedisAddress};
pub use connector::RedisConnector;
pub use prefix::RedisKeyPrefix;
pub use shared::OnFailure;

use self::{
    connection::{Names, RedisFailure},
    shared::{SharedState, SyncPhase},
};
use super::{
    Coverage, Forgotten, Health, IdempotencyClaim, LiveToken, LiveTokens, MemoryStore, OnForget, RecordOutcome,
    Restriction, Restrictions, Store, StoreError, StoreLimits, StoreStats, StoredTask, TokenHolder,
    live_tokens::PutOutcome, tasks::QueuedTask,
};
use crate::{
    clock::{Clock, UnixMillis},
    tenant::TenantName,
};

/// The store that replicas share.
pub struct RedisStore {
    shared: Arc<SharedState>,
    sync_task: JoinHandle<()>,
}

impl RedisStore {
    /// Starts a store, which connects in the background on the current Tokio runtime. The runtime must outlive it.
    ///
    /// # Errors
    /// When the client cannot be set up. The server is not called.
    pub fn start(
        address: &RedisAddress,
        prefix: &RedisKeyPrefix,
        on_failure: OnFailure,
        limits: &StoreLimits,
        clock: Clock,
        on_forget: OnForget,
    ) -> Result<Self, InvalidRedisAddress> {
        let client = address.client(ProtocolVersion::RESP3).map_err(|_| InvalidRedisAddress::NotAUrl)?;
        let shared = Arc::new(SharedState {
            on_failure,
            max_unwritten: limits.restrictions.saturating_add(limits.remembered),
            clock,
            local: MemoryStore::new(limits, on_forget),
            connection: ArcSwapOption::empty(),
            phase: Mutex::new(SyncPhase::Starting),
            unwritten: Mutex::default(),
            backlog: Mutex::default(),
            outages: AtomicU64::new(0),
            redis_is_full: AtomicBool::new(false),
            redis_lacks_tasks: AtomicBool::new(false),
            missed_restrictions: AtomicU64::new(0),
            recovered_restrictions: AtomicU64::new(0),
            missed_forget: AtomicBool::new(false),
            redis_lacks_live_tokens: Notify::new(),
            last_outage: Mutex::default(),
            late_restrictions: Mutex::default(),
        });
        let sync_task = sync::run(Arc::clone(&shared), client, Names::new(prefix), address.to_string());
        Ok(Self { shared, sync_task: tokio::spawn(sync_task) })
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.sync_task.abort();
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("phase", &self.shared.phase()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for RedisStore {
    fn restrictions(&self) -> &Restrictions {
        &self.shared.local.restrictions
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn health(&self, now: UnixMillis) -> Health {
        self.shared.health(now)
    }

    fn stats(&self, now: UnixMillis) -> StoreStats {
        let shared = &self.shared;
        let in_redis = *shared.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        StoreStats {
            health: shared.health(now),
            restrictions: shared.local.restrictions.count_active(now),
            live_tokens: shared.local.live_tokens.count(now),
            tasks: in_redis.unwrap_or_else(|| shared.local.tasks.backlog()),
            unwritten_restrictions: shared.unwritten().len(),
            unwritten_tasks: if shared.redis_has_all_tasks() { 0 } else { shared.local.tasks.backlog().count },
            outages: shared.outages.load(Ordering::Relaxed),
        }
    }

    fn may_issue(&self, now: UnixMillis) -> Result<(), StoreError> {
        match (self.shared.health(now), self.shared.on_failure) {
            (Health::Ready, _) | (Health::Degraded, OnFailure::Degrade) => Ok(()),
            (Health::Full, _) => Err(StoreError::Full),
            (Health::Starting, _) | (Health::Degraded, OnFailure::Refuse) => Err(StoreError::Unavailable),
        }
    }

    async fn record(&self, restriction: Restriction, now: UnixMillis) -> Result<RecordOutcome, StoreError> {
        let shared = &self.shared;
        let newer_here = shared.local.restrictions.newer_than(&restriction);
        let stored = match shared.connection() {
            Ok(connection) => {
                // Redis may have lost a newer one that this replica knows.
                let newest = newer_here.as_ref().unwrap_or(&restriction);
                let stored = connection.record(std::slice::from_ref(newest), now).await;
                if stored == Err(RedisFailure::Full) && newest.terms().is_active(now) {
                    // Other replicas can apply it anyway. Publishing does not store it.
                    let _ = connection.publish_restriction(newest).await;
                }
                stored.map_err(|error| shared.failed(&connection, &error))
            }
            Err(error) => Err(error),
        };
        match stored {
            Ok(known) => {
                let known = [known.into_iter().next().flatten(), newer_here];
                let newest_known = known.into_iter().flatten().max_by(|one, other| one.terms().compare(&other.terms()));
                let recorded = RecordOutcome::of(newest_known.as_ref().map(Restriction::terms), restriction.terms());
                let newer = newest_known.filter(|known| known.terms().compare(&restriction.terms()).is_gt());
                shared.apply_stored(&newer.unwrap_or(restriction), now)?;
                Ok(recorded)
            }
            Err(error) => {
                if shared.apply_local(&restriction, now)? == RecordOutcome::Outdated {
                    // No retry is needed: a newer restriction is known and will be written.
                    return Ok(RecordOutcome::Outdated);
                }
                if error == StoreError::Full && restriction.terms().is_active(now) {
                    // Only after it is in `unwritten`: otherwise the flag could be reset before it is written.
                    shared.redis_is_full.store(true, Ordering::Relaxed);
                }
                Err(error)
            }
        }
    }

    fn take_late_restrictions(&self) -> Vec<Restriction> {
        mem::take(&mut *self.shared.late_restrictions())
    }

    async fn put_live_token(&self, live_token: LiveToken, now: UnixMillis) -> Result<(), StoreError> {
        let shared = &self.shared;
        // Without room at this replica, Redis can still store it.
        let in_memory = shared.local.live_tokens.put(&live_token, now);
        let in_redis = match shared.connection() {
            Ok(connection) => {
                connection.put_live_token(&live_token, now).await.map_err(|error| shared.failed(&connection, &error))
            }
            Err(error) => Err(error),
        };
        match in_redis {
            Ok(()) => Ok(()),
            Err(StoreError::Full) => match in_memory {
                Ok(PutOutcome::Extended) => {
                    // Redis knows an earlier end.
                    shared.redis_lacks_live_tokens.notify_one();
                    Ok(())
                }
                Ok(PutOutcome::Added) => {
                    shared.local.live_tokens.remove(&live_token);
                    Err(StoreError::Full)
                }
                Err(error) => Err(error),
            },
            Err(StoreError::Unavailable) => match shared.on_failure {
                OnFailure::Degrade => in_memory.map(|_| ()),
                OnFailure::Refuse => Err(StoreError::Unavailable),
            },
        }
    }

    async fn live_tokens(&self, tenant: &TenantName, holder: &TokenHolder, now: UnixMillis) -> LiveTokens {
        let shared = &self.shared;
        let mut live_tokens = shared.local.live_tokens.find(tenant, holder, now);
        let others = match shared.connection() {
            Ok(connection) => {
                connection.live_tokens(tenant, holder, now).await.map_err(|error| shared.failed(&connection, &error))
            }
            Err(error) => Err(error),
        };
        let Ok(others) = others else { return LiveTokens { live_tokens, coverage: Coverage::ThisReplica } };
        // Another replica may have extended the same live token: the latest end counts.
        live_tokens.extend(others);
        live_tokens.sort_unstable_by(|a, b| b.cmp(a));
        live_tokens.dedup_by(|later, kept| LiveToken { until: kept.until, ..later.clone() } == *kept);
        LiveTokens { live_tokens, coverage: Coverage::AllReplicas }
    }

    async fn enqueue_task(&self, task: StoredTask, _now: UnixMillis) -> Result<(), StoreError> {
        let shared = &self.shared;
        let in_redis = match shared.connection() {
            Ok(connection) => {
                let enqueued = connection.enqueue(&QueuedTask { claimable: task.due, task: task.clone() }).await;
                enqueued.map_err(|error| shared.failed(&connection, &error))
            }
            Err(error) => Err(error),
        };
        match in_redis {
            Ok(()) => {
                // A copy, in case Redis loses it. Without room for the copy the task is still stored.
                let _ = shared.local.tasks.enqueue(&task);
                Ok(())
            }
            Err(StoreError::Full) => Err(StoreError::Full),
            Err(StoreError::Unavailable) => {
                shared.local.tasks.enqueue(&task)?;
                Err(StoreError::Unavailable)
            }
        }
    }

    async fn claim_tasks(&self, max: usize, now: UnixMillis) -> Vec<StoredTask> {
        let shared = &self.shared;
        let claimed = match shared.connection() {
            Ok(connection) => connection.claim(max, now).await.map_err(|error| shared.failed(&connection, &error)),
            Err(error) => Err(error),
        };
        match claimed {
            Ok(claimed) => {
                for task in &claimed {
                    shared.local.tasks.postpone(&task.id, now.after(StoredTask::LEASE));
                }
                if shared.redis_has_all_tasks() {
                    return claimed;
                }
                // No other replica has the tasks that Redis had no memory for.
                let own = shared.local.tasks.claim(max.saturating_sub(claimed.len()), now);
                claimed.into_iter().chain(own).collect()
            }
            // Better twice than late: this replica claims its own tasks.
            Err(_) => shared.local.tasks.claim(max, now),
        }
    }

    async fn complete_task(&self, id: &str) -> Result<(), StoreError> {
        self.shared.local.tasks.complete(id);
        let connection = self.shared.connection()?;
        connection.complete(id.as_bytes()).await.map_err(|error| self.shared.failed(&connection, &error))
    }

    async fn postpone_task(&self, id: &str, due: UnixMillis) -> Result<(), StoreError> {
        self.shared.local.tasks.postpone(id, due);
        let connection = self.shared.connection()?;
        connection.postpone(id, due).await.map_err(|error| self.shared.failed(&connection, &error))
    }

    async fn claim_once(&self, key: &str, now: UnixMillis) -> IdempotencyClaim {
        let shared = &self.shared;
        if let Ok(connection) = shared.connection() {
            match connection.claim_once(key).await {
                Ok(claim) => return claim,
                Err(error) => _ = shared.failed(&connection, &error),
            }
        }
        // Better twice than never.
        shared.local.idempotency_keys.claim_once(key, now)
    }

    async fn mark_done(&self, key: &str, until: UnixMillis, now: UnixMillis) {
        let shared = &self.shared;
        shared.local.idempotency_keys.release(key);
        if let Ok(connection) = shared.connection()
            && let Err(error) = connection.mark_done(key, until, now).await
        {
            shared.failed(&connection, &error);
        }
    }

    async fn is_done(&self, key: &str, _now: UnixMillis) -> bool {
        let shared = &self.shared;
        let Ok(connection) = shared.connection() else { return false };
        match connection.is_done(key).await {
            Ok(is_done) => is_done,
            Err(error) => {
                shared.failed(&connection, &error);
                false
            }
        }
    }

    async fn release(&self, key: &str) {
        let shared = &self.shared;
        shared.local.idempotency_keys.release(key);
        if let Ok(connection) = shared.connection()
            && let Err(error) = connection.release(key).await
        {
            shared.failed(&connection, &error);
        }
    }

    async fn forget_user(&self, tenant: &TenantName, user: &str) -> Result<(), StoreError> {
        let shared = &self.shared;
        (shared.local.on_forget)(Forgotten::User(tenant, user));
        let sent = match shared.connection() {
            Ok(connection) => {
                let sent = connection.publish_forget(Some((tenant, user))).await;
                sent.map_err(|error| shared.failed(&connection, &error))
            }
            Err(error) => Err(error),
        };
        if sent.is_err() {
            shared.missed_forget.store(true, Ordering::Relaxed);
        }
        sent
    }
}

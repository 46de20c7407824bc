//! The store that replicas share by way of Redis or Valkey.
//!
//! Each replica keeps what it knows in memory, as with the memory store, and Redis is where replicas exchange it and
//! where it outlives them. A task keeps both [in step](in_step): it subscribes to news, reads all that holds, writes back
//! what Redis lacks, and only then calls the store ready; after every loss of the connection again.

mod absence;
mod address;
mod in_step;
mod link;
mod prefix;
mod shared;

use std::{
    fmt, mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use tokio::{sync::Notify, task::JoinHandle};

pub use address::{InvalidRedisAddress, InvalidRedisAuthorities, RedisAddress};
pub use prefix::RedisKeyPrefix;
pub use shared::OnFailure;

use self::{
    link::{Names, RedisFailure},
    shared::{Phase, Shared},
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
    shared: Arc<Shared>,
    in_step: JoinHandle<()>,
}

impl RedisStore {
    /// A store that connects in the background, on the current Tokio runtime, which must outlive it.
    ///
    /// # Errors
    /// When the client cannot be set up; the server is not asked.
    pub fn start(
        address: &RedisAddress,
        prefix: &RedisKeyPrefix,
        on_failure: OnFailure,
        limits: &StoreLimits,
        clock: Clock,
        on_forget: OnForget,
    ) -> Result<Self, InvalidRedisAddress> {
        let client = address.client().map_err(|_| InvalidRedisAddress::NotAUrl)?;
        let shared = Arc::new(Shared {
            on_failure,
            most_unwritten: limits.restrictions.saturating_add(limits.remembered),
            clock,
            local: MemoryStore::new(limits, on_forget),
            link: ArcSwapOption::empty(),
            phase: Mutex::new(Phase::Starting),
            unwritten: Mutex::default(),
            backlog: Mutex::default(),
            outages: AtomicU64::new(0),
            redis_is_full: AtomicBool::new(false),
            work_refused: AtomicBool::new(false),
            missed_facts: AtomicU64::new(0),
            regained_facts: AtomicU64::new(0),
            missed_a_drop: AtomicBool::new(false),
            grant_refused: Notify::new(),
            absence: Mutex::default(),
            heard_late: Mutex::default(),
        });
        let in_step = in_step::keep(Arc::clone(&shared), client, Names::new(prefix), address.to_string());
        Ok(Self { shared, in_step: tokio::spawn(in_step) })
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.in_step.abort();
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
            unwritten_tasks: if shared.redis_has_all_work() { 0 } else { shared.local.tasks.backlog().count },
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
        let stored = match shared.link() {
            Ok(link) => {
                // What this replica knows, Redis may have lost.
                let newest = newer_here.as_ref().unwrap_or(&restriction);
                let stored = link.record(std::slice::from_ref(newest), now).await;
                if stored == Err(RedisFailure::Full) && newest.terms().is_active(now) {
                    // Others can refuse by it all the same. That they were told, does not make it stored.
                    let _ = link.publish_fact(newest).await;
                }
                stored.map_err(|trouble| shared.failed(&link, &trouble))
            }
            Err(error) => Err(error),
        };
        match stored {
            Ok(known) => {
                let known = [known.into_iter().next().flatten(), newer_here];
                let newest_known = known.into_iter().flatten().max_by(|one, other| one.terms().compare(&other.terms()));
                let recorded = RecordOutcome::of(newest_known.as_ref().map(Restriction::terms), restriction.terms());
                let newer = newest_known.filter(|known| known.terms().compare(&restriction.terms()).is_gt());
                shared.hear(&newer.unwrap_or(restriction), now)?;
                Ok(recorded)
            }
            Err(error) => {
                if shared.learn_alone(&restriction, now)? == RecordOutcome::Outdated {
                    // It need not come again: what it yields to is known, and Redis will be given that.
                    return Ok(RecordOutcome::Outdated);
                }
                if error == StoreError::Full && restriction.terms().is_active(now) {
                    // After the restriction is among the unwritten, so that this is not taken back before it is written.
                    shared.redis_is_full.store(true, Ordering::Relaxed);
                }
                Err(error)
            }
        }
    }

    fn take_late_restrictions(&self) -> Vec<Restriction> {
        mem::take(&mut *self.shared.heard_late())
    }

    async fn put_live_token(&self, live_token: LiveToken, now: UnixMillis) -> Result<(), StoreError> {
        let shared = &self.shared;
        // What this replica has no room for, it can still have Redis remember.
        let here = shared.local.live_tokens.put(&live_token, now);
        let there = match shared.link() {
            Ok(link) => link.put_live_token(&live_token, now).await.map_err(|trouble| shared.failed(&link, &trouble)),
            Err(error) => Err(error),
        };
        match there {
            Ok(()) => Ok(()),
            Err(StoreError::Full) => match here {
                Ok(PutOutcome::Extended) => {
                    // Others know of a shorter life than it has now.
                    shared.grant_refused.notify_one();
                    Ok(())
                }
                Ok(PutOutcome::Added) => {
                    shared.local.live_tokens.remove(&live_token);
                    Err(StoreError::Full)
                }
                Err(error) => Err(error),
            },
            Err(StoreError::Unavailable) => match shared.on_failure {
                OnFailure::Degrade => here.map(|_| ()),
                OnFailure::Refuse => Err(StoreError::Unavailable),
            },
        }
    }

    async fn live_tokens(&self, tenant: &TenantName, holder: &TokenHolder, now: UnixMillis) -> LiveTokens {
        let shared = &self.shared;
        let mut live_tokens = shared.local.live_tokens.find(tenant, holder, now);
        let others = match shared.link() {
            Ok(link) => link.live_tokens(tenant, holder, now).await.map_err(|trouble| shared.failed(&link, &trouble)),
            Err(error) => Err(error),
        };
        let Ok(others) = others else { return LiveTokens { live_tokens, coverage: Coverage::ThisReplica } };
        // The same live_token may have been refreshed by another replica: the last of them, by its end, is the one.
        live_tokens.extend(others);
        live_tokens.sort_unstable_by(|a, b| b.cmp(a));
        live_tokens.dedup_by(|later, kept| LiveToken { until: kept.until, ..later.clone() } == *kept);
        LiveTokens { live_tokens, coverage: Coverage::AllReplicas }
    }

    async fn enqueue_task(&self, task: StoredTask, _now: UnixMillis) -> Result<(), StoreError> {
        let shared = &self.shared;
        let there = match shared.link() {
            Ok(link) => {
                let enqueued = link.enqueue(&QueuedTask { claimable: task.due, task: task.clone() }).await;
                enqueued.map_err(|trouble| shared.failed(&link, &trouble))
            }
            Err(error) => Err(error),
        };
        match there {
            Ok(()) => {
                // A copy, should Redis lose its own. That there is room for it is not needed.
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
        let claimed = match shared.link() {
            Ok(link) => link.claim(max, now).await.map_err(|trouble| shared.failed(&link, &trouble)),
            Err(error) => Err(error),
        };
        match claimed {
            Ok(claimed) => {
                for task in &claimed {
                    shared.local.tasks.postpone(&task.id, now.after(StoredTask::LEASE));
                }
                if shared.redis_has_all_work() {
                    return claimed;
                }
                // What Redis has no memory for nobody else does.
                let own = shared.local.tasks.claim(max.saturating_sub(claimed.len()), now);
                claimed.into_iter().chain(own).collect()
            }
            // Better done twice than not in time: this replica does its own.
            Err(_) => shared.local.tasks.claim(max, now),
        }
    }

    async fn complete_task(&self, id: &str) -> Result<(), StoreError> {
        self.shared.local.tasks.complete(id);
        let link = self.shared.link()?;
        link.complete(id.as_bytes()).await.map_err(|trouble| self.shared.failed(&link, &trouble))
    }

    async fn postpone_task(&self, id: &str, due: UnixMillis) -> Result<(), StoreError> {
        self.shared.local.tasks.postpone(id, due);
        let link = self.shared.link()?;
        link.postpone(id, due).await.map_err(|trouble| self.shared.failed(&link, &trouble))
    }

    async fn claim_once(&self, key: &str, now: UnixMillis) -> IdempotencyClaim {
        let shared = &self.shared;
        if let Ok(link) = shared.link() {
            match link.claim_once(key).await {
                Ok(claim) => return claim,
                Err(trouble) => _ = shared.failed(&link, &trouble),
            }
        }
        // Better handled twice than not at all.
        shared.local.idempotency_keys.claim_once(key, now)
    }

    async fn mark_done(&self, key: &str, until: UnixMillis, now: UnixMillis) {
        let shared = &self.shared;
        shared.local.idempotency_keys.release(key);
        if let Ok(link) = shared.link()
            && let Err(trouble) = link.mark_done(key, until, now).await
        {
            shared.failed(&link, &trouble);
        }
    }

    async fn is_done(&self, key: &str, _now: UnixMillis) -> bool {
        let shared = &self.shared;
        let Ok(link) = shared.link() else { return false };
        match link.is_done(key).await {
            Ok(is_done) => is_done,
            Err(trouble) => {
                shared.failed(&link, &trouble);
                false
            }
        }
    }

    async fn release(&self, key: &str) {
        let shared = &self.shared;
        shared.local.idempotency_keys.release(key);
        if let Ok(link) = shared.link()
            && let Err(trouble) = link.release(key).await
        {
            shared.failed(&link, &trouble);
        }
    }

    async fn forget_user(&self, tenant: &TenantName, user: &str) -> Result<(), StoreError> {
        let shared = &self.shared;
        (shared.local.on_forget)(Forgotten::User(tenant, user));
        let told = match shared.link() {
            Ok(link) => {
                let told = link.publish_drop(Some((tenant, user))).await;
                told.map_err(|trouble| shared.failed(&link, &trouble))
            }
            Err(error) => Err(error),
        };
        if told.is_err() {
            shared.missed_a_drop.store(true, Ordering::Relaxed);
        }
        told
    }
}

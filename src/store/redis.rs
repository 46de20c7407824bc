//! The store that replicas share by way of Redis or Valkey.
//!
//! Each replica keeps what it knows in memory, as with the memory store, and Redis is where replicas exchange it and
//! where it outlives them. A task keeps both [in step](in_step): it subscribes to news, reads all that holds, writes back
//! what Redis lacks, and only then calls the store ready; after every loss of the connection again.

mod absence;
mod address;
mod in_step;
mod link;

use std::{
    collections::HashMap,
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use tokio::{sync::Notify, task::JoinHandle};

pub use address::{InvalidRedisAddress, InvalidRedisAuthorities, RedisAddress, RedisKeyPrefix};

use self::{
    absence::Absence,
    link::{Link, Names, RedisFailure},
};
use super::{
    Coverage, Forgotten, Health, IdempotencyClaim, LiveToken, LiveTokens, MemoryStore, OnForget, RecordOutcome,
    Restriction, Restrictions, Store, StoreError, StoreLimits, StoreStats, StoredTask, TaskBacklog, TokenHolder,
    live_tokens::PutOutcome, restriction::RestrictionKey, tasks::QueuedTask,
};
use crate::{
    clock::{Clock, UnixMillis},
    tenant::TenantName,
};

/// What happens while Redis cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The replica goes on with what it knows: it hears late of what others learn meanwhile.
    Degrade,
    /// No tokens are issued.
    Refuse,
}

/// The store that replicas share.
pub struct RedisStore {
    shared: Arc<Shared>,
    in_step: JoinHandle<()>,
}

struct Shared {
    on_failure: OnFailure,
    most_unwritten: usize,
    clock: Clock,
    /// What this replica knows; of live_tokens and work, what it put there itself.
    local: MemoryStore,
    link: ArcSwapOption<Link>,
    phase: Mutex<Phase>,
    /// Restrictions that Redis lacks.
    unwritten: Mutex<HashMap<RestrictionKey, Restriction>>,
    /// The work that Redis had at the last heartbeat; none while it cannot be used.
    backlog: Mutex<Option<TaskBacklog>>,
    /// How many times Redis was lost.
    outages: AtomicU64,
    /// Redis has no memory for a denial or mark.
    redis_is_full: AtomicBool,
    /// Redis has no memory for work that is known here.
    work_refused: AtomicBool,
    /// How many times there was no room here for a restriction that Redis has.
    missed_facts: AtomicU64,
    /// How many of those have been made up for, by reading all that holds.
    regained_facts: AtomicU64,
    /// Others were not told of a user to be forgotten.
    missed_a_drop: AtomicBool,
    /// Redis had no memory for a live_token that is known here.
    grant_refused: Notify,
    /// When it was without Redis.
    absence: Mutex<Absence>,
    /// What was news to this replica when it came back.
    heard_late: Mutex<Vec<Restriction>>,
}

/// How far the replica is in step with Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It never was.
    Starting,
    InStep,
    /// It was.
    Away,
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

impl Shared {
    fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unwritten(&self) -> MutexGuard<'_, HashMap<RestrictionKey, Restriction>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard_late(&self) -> MutexGuard<'_, Vec<Restriction>> {
        self.heard_late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn absence(&self) -> MutexGuard<'_, Absence> {
        self.absence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> UnixMillis {
        (self.clock)()
    }

    fn link(&self) -> Result<Arc<Link>, StoreError> {
        self.link.load_full().ok_or(StoreError::Unavailable)
    }

    /// What a caller is told of `trouble`. A link that is lost is not used again.
    fn failed(&self, link: &Arc<Link>, trouble: &RedisFailure) -> StoreError {
        match trouble {
            RedisFailure::Full => StoreError::Full,
            RedisFailure::Lost(reason) => {
                link.report(reason);
                self.link.compare_and_swap(&Some(Arc::clone(link)), None);
                StoreError::Unavailable
            }
        }
    }

    fn health(&self, now: UnixMillis) -> Health {
        self.apply_waiting(now);
        let full = self.redis_is_full.load(Ordering::Relaxed)
            || self.misses_facts()
            || !self.local.restrictions.has_room(now)
            || self.unwritten().len() >= self.most_unwritten;
        match self.phase() {
            Phase::Starting => Health::Starting,
            _ if full => Health::Full,
            Phase::InStep if self.link.load().is_some() => Health::Ready,
            Phase::InStep | Phase::Away => Health::Degraded,
        }
    }

    /// Whether Redis has restrictions that this replica does not know.
    fn misses_facts(&self) -> bool {
        // In this order: whoever sees what was regained sees what was missed again meanwhile.
        let regained = self.regained_facts.load(Ordering::Acquire);
        self.missed_facts.load(Ordering::Relaxed) != regained
    }

    fn redis_has_all_work(&self) -> bool {
        self.phase() == Phase::InStep && self.link.load().is_some() && !self.work_refused.load(Ordering::Relaxed)
    }

    /// Takes a restriction that Redis has.
    fn hear(&self, restriction: &Restriction, now: UnixMillis) -> Result<(), StoreError> {
        let heard = self.local.restrictions.apply(restriction, now);
        if heard.is_err() {
            self.missed_facts.fetch_add(1, Ordering::Relaxed);
        } else if heard == Ok(RecordOutcome::New) {
            let absence = self.absence();
            let is_late = match restriction.terms() {
                terms if terms.is_active(now) => absence.makes_late(restriction.at, now),
                // Of others that are over it may have known, and forgotten.
                terms => terms.restricts() && absence.is_of_it(restriction.at, now),
            };
            drop(absence);
            if is_late {
                self.heard_late().push(restriction.clone());
            }
        } else if let Some(newer) = self.local.restrictions.newer_than(restriction) {
            // Redis, or another replica, has lost what this one knows.
            let _ = self.write_later(&newer);
        }
        heard.map(|_| ())
    }

    /// Has a restriction written to Redis when that is possible.
    fn write_later(&self, restriction: &Restriction) -> Result<(), StoreError> {
        let mut unwritten = self.unwritten();
        let key = restriction.key();
        if unwritten.len() >= self.most_unwritten && !unwritten.contains_key(&key) {
            return Err(StoreError::Full);
        }
        unwritten.insert(key, restriction.clone());
        Ok(())
    }

    /// Takes what there was no room for, as far as there is now.
    fn apply_waiting(&self, now: UnixMillis) {
        for restriction in self.local.restrictions.apply_waiting(now) {
            // Without room to note it, there are no tokens until there is.
            let _ = self.write_later(&restriction);
        }
    }

    /// Has this replica act by a restriction that Redis could not be given, and give Redis the newest later.
    fn learn_alone(&self, restriction: &Restriction, now: UnixMillis) -> Result<RecordOutcome, StoreError> {
        self.apply_waiting(now);
        let recorded = self.local.restrictions.apply_or_wait(restriction, now)?;
        let newer = self.local.restrictions.newer_than(restriction);
        self.write_later(newer.as_ref().unwrap_or(restriction))?;
        Ok(recorded)
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

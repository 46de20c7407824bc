//! A Redis in memory, for tests.

use std::{
    collections::BTreeMap,
    future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{
    Claim, Commands, Connect, Connected, ConnectionLost, Health, LiveToken, LogPage, LogPosition, OnFailure, ReadLog,
    RecordOutcome, Reply, Restriction, SharedState, Store, StoreLimits, StoredTask, TasksOf, TokenHolder,
    live_tokens::LiveTokenIndex, restriction::RestrictionKey, tasks::TaskQueue,
};
use crate::{clock::UnixMillis, tenant::TenantName};

/// What a call does whose turn it is to fail.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The connection is lost after the call took effect.
    Lost,
    /// The replica dies: the call does not return, and this is notified.
    Death(Arc<Notify>),
}

/// A Redis. One call of one connection can fail, or all of them for a while.
#[derive(derive_more::Debug)]
#[debug("MemoryRedis")]
pub(crate) struct MemoryRedis {
    restrictions: Mutex<BTreeMap<RestrictionKey, Restriction>>,
    log: Mutex<Vec<Restriction>>,
    live_tokens: LiveTokenIndex,
    tasks: TaskQueue,
    /// Its time, in milliseconds.
    pub(crate) time: AtomicI64,
    /// No calls succeed.
    pub(crate) is_down: AtomicBool,
    calls_until_failure: AtomicUsize,
    failure: Failure,
}

impl MemoryRedis {
    pub(crate) fn new(now: UnixMillis) -> Self {
        Self {
            restrictions: Mutex::default(),
            log: Mutex::default(),
            live_tokens: LiveTokenIndex::new(&StoreLimits::default()),
            tasks: TaskQueue::default(),
            time: AtomicI64::new(now.0),
            is_down: AtomicBool::new(false),
            calls_until_failure: AtomicUsize::new(0),
            failure: Failure::Lost,
        }
    }

    pub(crate) fn failing_with(self, failure: Failure) -> Self {
        Self { failure, ..self }
    }

    /// The call fails that comes after so many others; with 0, none.
    pub(crate) fn fail_at(&self, call: usize) {
        self.calls_until_failure.store(call, Ordering::Relaxed);
    }

    /// A ready replica that stores no tasks of its own.
    pub(crate) async fn replica(self: &Arc<Self>) -> Store {
        self.replica_with(Arc::new(|_, _, _| Vec::new())).await
    }

    /// A ready replica.
    pub(crate) async fn replica_with(self: &Arc<Self>, tasks_of: TasksOf) -> Store {
        let (clock, redis) = (Arc::clone(self), Arc::new(Arc::clone(self)));
        let clock = Arc::new(move || clock.now());
        let limits = StoreLimits::default();
        let store = Store::shared(redis, OnFailure::Degrade, &limits, clock, Arc::new(|_| {}), tasks_of);
        store.becomes_ready().await;
        store
    }

    fn now(&self) -> UnixMillis {
        UnixMillis(self.time.load(Ordering::Relaxed))
    }

    fn last(&self) -> LogPosition {
        LogPosition { millis: 1, number: self.log.lock().unwrap().len() as u64 }
    }

    async fn answer<T>(&self, answer: T) -> Reply<T> {
        let left =
            self.calls_until_failure.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match &self.failure {
            _ if self.is_down.load(Ordering::Relaxed) => Err(ConnectionLost("a test".to_owned())),
            _ if left != Ok(1) => Ok(answer),
            Failure::Lost => Err(ConnectionLost("a test".to_owned())),
            Failure::Death(death) => {
                death.notify_one();
                future::pending().await
            }
        }
    }
}

impl Store {
    pub(crate) async fn becomes_ready(&self) {
        while self.health() != Health::Ready {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[async_trait]
impl Connect for Arc<MemoryRedis> {
    async fn connect(&self) -> Reply<Connected> {
        self.answer(Connected { commands: Box::new(Arc::clone(self)), log: Box::new(Arc::clone(self)) }).await
    }

    fn address(&self) -> String {
        "memory".to_owned()
    }
}

#[async_trait]
impl ReadLog for Arc<MemoryRedis> {
    async fn read(&mut self, after: LogPosition, wait: Duration) -> Reply<LogPage> {
        tokio::time::sleep(wait.min(Duration::from_millis(1))).await;
        let log = self.log.lock().unwrap();
        let numbered = (1..).zip(log.iter()).filter(|(number, _)| *number > after.number);
        let entries = numbered.map(|(number, entry)| (LogPosition { millis: 1, number }, Some(entry.clone())));
        let last = LogPosition { millis: 1, number: log.len() as u64 };
        Ok(LogPage { entries: entries.collect(), first: Some(LogPosition { millis: 1, number: 0 }), last: Some(last) })
    }
}

#[async_trait]
impl Commands for Arc<MemoryRedis> {
    async fn state(&self) -> Reply<SharedState> {
        Ok(SharedState { data_id: "1".to_owned(), last: self.last(), backlog: self.tasks.backlog() })
    }

    async fn restrictions(&self, _cursor: u64) -> Reply<(Option<u64>, Vec<Restriction>)> {
        Ok((None, self.restrictions.lock().unwrap().values().cloned().collect()))
    }

    async fn record(
        &self,
        restrictions: &[Restriction],
        tasks: &[StoredTask],
        tasks_if: RecordOutcome,
        _now: UnixMillis,
    ) -> Reply<Vec<Option<Restriction>>> {
        let (mut before, mut is_any_new) = (Vec::new(), restrictions.is_empty());
        for restriction in restrictions {
            let known = self.restrictions.lock().unwrap().get(&restriction.key()).cloned();
            is_any_new |= [RecordOutcome::New, tasks_if].contains(&RecordOutcome::of(known.as_ref(), restriction));
            if known.as_ref().is_none_or(|known| known.compare(restriction).is_lt()) {
                self.restrictions.lock().unwrap().insert(restriction.key(), restriction.clone());
                self.log.lock().unwrap().push(restriction.clone());
            }
            before.push(known);
        }
        if is_any_new {
            self.tasks.add(tasks);
        }
        self.answer(before).await
    }

    async fn register(&self, live_tokens: &[LiveToken], now: UnixMillis) -> Reply<Vec<bool>> {
        let mut lacked = Vec::new();
        for live_token in live_tokens {
            let holder = TokenHolder::User(live_token.user.clone());
            let known = self.live_tokens.find(&live_token.tenant, &holder, now);
            let has = |known: &LiveToken| known.is_same_but_for_end(live_token) && known.until == live_token.until;
            lacked.push(!known.iter().any(has));
            self.live_tokens.put(live_token, now).unwrap();
        }
        self.answer(lacked).await
    }

    async fn live_tokens(&self, tenant: &TenantName, holder: &TokenHolder, now: UnixMillis) -> Reply<Vec<LiveToken>> {
        self.answer(self.live_tokens.find(tenant, holder, now)).await
    }

    async fn claim(&self, claim: Claim<'_>, now: UnixMillis) -> Reply<Vec<StoredTask>> {
        self.answer(self.tasks.claim(claim, now)).await
    }

    async fn end_claim(&self, left: &StoredTask, retry_at: Option<UnixMillis>) -> Reply<()> {
        self.tasks.end_claim(left, retry_at);
        self.answer(()).await
    }
}

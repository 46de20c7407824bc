//! Losses of Redis at the worst moments: while a call is under way, and at the end of a start.

use std::{
    slice,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    fixtures::{Failure, MemoryRedis},
    *,
};
use crate::ably::{KeyName, TokenFormat};

const START: UnixMillis = UnixMillis(1_700_000_000_000);

/// What happens in the calls of the connections. The first one is to a master that another one replaces.
#[derive(Debug, Default)]
struct Script {
    connects: AtomicUsize,
    /// The heartbeat of the first connection fails.
    lose_first: AtomicBool,
    /// No more connections.
    is_down: AtomicBool,
    /// The first connection answers only once the second one is read.
    holds: AtomicBool,
    release: Notify,
    /// A command of the second connection fails on another thread, at the end of its start.
    races: AtomicBool,
    /// A token is issued while the second connection reads the restrictions.
    issues: AtomicBool,
    /// Due tasks are claimed while the second connection reads the restrictions.
    claims: AtomicBool,
    /// The second connection records, and is lost before it answers.
    loses_answer: AtomicBool,
    store: OnceLock<std::sync::Weak<Store>>,
}

#[derive(Debug)]
struct Scripted {
    new: Arc<MemoryRedis>,
    old: Arc<MemoryRedis>,
    script: Arc<Script>,
}

struct One {
    redis: Arc<MemoryRedis>,
    script: Arc<Script>,
    number: usize,
    states: AtomicUsize,
}

#[async_trait]
impl Connect for Scripted {
    async fn connect(&self) -> Reply<Connected> {
        if self.script.is_down.load(Ordering::SeqCst) {
            return Err(ConnectionLost("down".into()));
        }
        let number = 1 + self.script.connects.fetch_add(1, Ordering::SeqCst);
        let redis = if number == 1 { &self.old } else { &self.new };
        let one =
            One { redis: Arc::clone(redis), script: Arc::clone(&self.script), number, states: AtomicUsize::new(0) };
        Ok(Connected { commands: Box::new(one), log: Box::new(Arc::clone(redis)) })
    }
    fn address(&self) -> String {
        "scripted".into()
    }
}

#[async_trait]
impl Commands for One {
    async fn state(&self) -> Reply<SharedState> {
        if self.number == 1 && self.script.lose_first.load(Ordering::SeqCst) {
            return Err(ConnectionLost("not the master any more".into()));
        }
        let nth = self.states.fetch_add(1, Ordering::SeqCst);
        if self.number == 2 && nth == 1 && self.script.races.load(Ordering::SeqCst) {
            self.script.is_down.store(true, Ordering::SeqCst);
            let store = self.script.store.get().unwrap().upgrade().unwrap();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let _ = runtime.block_on(store.end_claim(&task("x", ""), None));
            })
            .join()
            .unwrap();
        }
        self.redis.state().await
    }
    async fn restrictions(&self, cursor: u64) -> Reply<(Option<u64>, Vec<Restriction>)> {
        if self.number == 2 && self.script.holds.load(Ordering::SeqCst) {
            self.script.release.notify_waiters();
            sleep(Duration::from_millis(5)).await;
        }
        if self.number == 2 && self.script.issues.load(Ordering::SeqCst) {
            let store = self.script.store.get().unwrap().upgrade().unwrap();
            store.put_live_token(live_token("org_1"), START).await.unwrap();
        }
        if self.number == 2 && self.script.claims.load(Ordering::SeqCst) {
            let store = self.script.store.get().unwrap().upgrade().unwrap();
            assert_eq!(store.claim_tasks(Claim::Due(9), START).await, Ok(Vec::new()));
        }
        Commands::restrictions(&self.redis, cursor).await
    }
    async fn record(
        &self,
        restrictions: &[Restriction],
        tasks: &[StoredTask],
        tasks_if: RecordOutcome,
        now: UnixMillis,
    ) -> Reply<Vec<Option<Restriction>>> {
        if self.number == 1 && self.script.holds.load(Ordering::SeqCst) {
            self.script.release.notified().await;
            if !tasks.is_empty() {
                // Answers after the new connection has caught up; within 100 ms.
                sleep(Duration::from_millis(20)).await;
            }
        }
        let before = Commands::record(&self.redis, restrictions, tasks, tasks_if, now).await;
        if self.number == 2 && self.script.loses_answer.load(Ordering::SeqCst) {
            return Err(ConnectionLost("timed out".into()));
        }
        before
    }
    async fn register(&self, t: &[LiveToken], now: UnixMillis) -> Reply<Vec<bool>> {
        self.redis.register(t, now).await
    }
    async fn live_tokens(&self, t: &TenantName, h: &TokenHolder, now: UnixMillis) -> Reply<Vec<LiveToken>> {
        Commands::live_tokens(&self.redis, t, h, now).await
    }
    async fn claim(&self, claim: Claim<'_>, now: UnixMillis) -> Reply<Vec<StoredTask>> {
        self.redis.claim(claim, now).await
    }
    async fn end_claim(&self, left: &StoredTask, retry_at: Option<UnixMillis>) -> Reply<()> {
        if self.number == 2 && self.script.races.load(Ordering::SeqCst) {
            return Err(ConnectionLost("timed out".into()));
        }
        self.redis.end_claim(left, retry_at).await
    }
}

async fn scene(on_failure: OnFailure) -> (Arc<Store>, Arc<Script>, Arc<MemoryRedis>) {
    scene_that_forgets(on_failure, Arc::new(|_| {})).await
}

async fn scene_that_forgets(on_failure: OnFailure, on_forget: OnForget) -> (Arc<Store>, Arc<Script>, Arc<MemoryRedis>) {
    let (old, new) = (Arc::new(MemoryRedis::new(START)), Arc::new(MemoryRedis::new(START)));
    let script = Arc::new(Script::default());
    let redis = Arc::new(Scripted { new: Arc::clone(&new), old, script: Arc::clone(&script) });
    let clock = Arc::new(|| START);
    let store = Store::shared(redis, on_failure, &StoreLimits::default(), clock, on_forget, Arc::new(tasks_of));
    let store = Arc::new(store);
    script.store.set(Arc::downgrade(&store)).unwrap();
    store.becomes_ready().await;
    (store, script, new)
}

/// A task for a restriction, which names the subject.
fn tasks_of(restriction: &Restriction, start: u64, now: UnixMillis) -> Vec<StoredTask> {
    let payload = restriction.subject.to_string();
    vec![StoredTask { id: format!("{payload}/{start}"), due: now, payload }]
}

fn task(id: &str, payload: &str) -> StoredTask {
    StoredTask { id: id.into(), due: START, payload: payload.into() }
}

/// What the tasks in a Redis name.
async fn tasks_in(redis: &Arc<MemoryRedis>) -> Vec<String> {
    redis.claim(Claim::Due(9), START).await.unwrap().into_iter().map(|task| task.payload).collect()
}

fn denial() -> Restriction {
    Restriction {
        session_user: None,
        tenant: TenantName::default(),
        subject: Subject::User("user_1".to_owned()),
        kind: RestrictionKind::Denied(DenialSource::Clerk),
        at: START,
        until: START.after(Duration::from_mins(5)),
    }
}

fn live_token(organization: &str) -> LiveToken {
    LiveToken {
        tenant: TenantName::default(),
        user: "user_1".into(),
        session: "sess_1".into(),
        organization: Some(organization.into()),
        client_id: "user_1".into(),
        format: TokenFormat::Jwt,
        key: KeyName::parse("app.key").unwrap(),
        until: START.after(Duration::from_hours(1)),
    }
}

/// Waits for a condition, at most 20 seconds.
async fn eventually(is_true: impl AsyncFn() -> bool) {
    let waiting = async {
        while !is_true().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), waiting).await.expect("within 20 seconds");
}

#[tokio::test]
async fn a_restriction_acknowledged_by_an_abandoned_master_reaches_the_new_one_with_tasks() {
    let (store, script, new) = scene(OnFailure::Degrade).await;
    script.holds.store(true, Ordering::SeqCst);
    script.lose_first.store(true, Ordering::SeqCst);
    let recorded = store.record(&[denial()], &[], START).await;
    assert_eq!(recorded, Err(StoreError::Unavailable));
    eventually(async || Commands::restrictions(&new, 0).await.unwrap().1 == [denial()]).await;
    assert_eq!(tasks_in(&new).await, ["user user_1"]);
}

#[tokio::test]
async fn a_task_acknowledged_by_an_abandoned_master_is_performed_by_the_replica_that_was_told() {
    let (store, script, _) = scene(OnFailure::Degrade).await;
    script.holds.store(true, Ordering::SeqCst);
    script.lose_first.store(true, Ordering::SeqCst);
    let task = task("1", "");
    assert_eq!(store.record(&[], slice::from_ref(&task), START).await, Err(StoreError::Unavailable));
    assert_eq!(store.claim_tasks(Claim::Due(9), START).await, Ok(vec![task]));
}

#[tokio::test]
async fn a_loss_at_the_end_of_a_start_is_an_outage() {
    let (store, script, _) = scene(OnFailure::Refuse).await;
    script.races.store(true, Ordering::SeqCst);
    script.lose_first.store(true, Ordering::SeqCst);
    eventually(async || script.is_down.load(Ordering::SeqCst)).await;
    eventually(async || store.health() == Health::Degraded).await;
    assert_eq!(store.may_issue(), Err(StoreError::Unavailable));
}

#[tokio::test]
async fn only_restrictions_of_live_tokens_that_redis_lacked_get_tasks_at_the_end_of_an_outage() {
    let (store, script, new) = scene(OnFailure::Degrade).await;
    let mark = |organization: &str| Restriction {
        subject: Subject::Organization(organization.to_owned()),
        kind: RestrictionKind::NotBefore,
        ..denial()
    };
    store.record(&[mark("org_1")], &[], START).await.unwrap();
    Commands::record(&new, &[mark("org_1"), mark("org_2")], &[], RecordOutcome::New, START).await.unwrap();
    for organization in ["org_1", "org_2"] {
        let live_token = live_token(organization);
        if organization == "org_1" {
            new.register(slice::from_ref(&live_token), START).await.unwrap();
        }
        store.put_live_token(live_token, START).await.unwrap();
    }
    script.lose_first.store(true, Ordering::SeqCst);
    eventually(async || script.connects.load(Ordering::SeqCst) > 1).await;
    store.becomes_ready().await;
    assert_eq!(tasks_in(&new).await, ["organization org_2"]);
}

#[tokio::test]
async fn a_restriction_that_redis_lost_gets_its_tasks_once_even_if_redis_lost_a_live_token_too() {
    let (store, script, new) = scene(OnFailure::Degrade).await;
    store.put_live_token(live_token("org_1"), START).await.unwrap();
    store.record(&[denial()], &[], START).await.unwrap();
    script.lose_first.store(true, Ordering::SeqCst);
    eventually(async || script.connects.load(Ordering::SeqCst) > 1).await;
    store.becomes_ready().await;
    assert_eq!(tasks_in(&new).await, ["user user_1"]);
}

#[tokio::test]
async fn a_restriction_gets_tasks_if_a_token_is_issued_before_a_returning_replica_knows_it() {
    let (store, script, new) = scene(OnFailure::Degrade).await;
    Commands::record(&new, &[denial()], &[], RecordOutcome::New, START).await.unwrap();
    script.issues.store(true, Ordering::SeqCst);
    script.lose_first.store(true, Ordering::SeqCst);
    eventually(async || script.connects.load(Ordering::SeqCst) > 1).await;
    store.becomes_ready().await;
    assert_eq!(tasks_in(&new).await, ["user user_1"]);
}

#[tokio::test]
async fn a_restriction_that_is_recorded_late_gets_its_tasks_once_even_if_the_answer_is_lost() {
    let (store, script, new) = scene(OnFailure::Degrade).await;
    store.record(&[denial()], &[], START).await.unwrap();
    script.loses_answer.store(true, Ordering::SeqCst);
    script.lose_first.store(true, Ordering::SeqCst);
    eventually(async || script.connects.load(Ordering::SeqCst) > 2).await;
    store.becomes_ready().await;
    assert_eq!(tasks_in(&new).await, ["user user_1"]);
}

#[tokio::test]
async fn until_it_has_read_the_restrictions_a_replica_claims_no_due_tasks_in_redis() {
    let (store, script, new) = scene(OnFailure::Degrade).await;
    Commands::record(&new, &[], &[task("1", "")], RecordOutcome::New, START).await.unwrap();
    script.claims.store(true, Ordering::SeqCst);
    script.lose_first.store(true, Ordering::SeqCst);
    eventually(async || script.connects.load(Ordering::SeqCst) > 1).await;
    store.becomes_ready().await;
    assert_eq!(script.connects.load(Ordering::SeqCst), 2);
    assert_eq!(store.claim_tasks(Claim::Due(9), START).await, Ok(vec![task("1", "")]));
}

#[tokio::test(start_paused = true)]
async fn a_search_that_waits_for_another_one_fails_in_the_end_without_a_loss() {
    let hangs = Arc::new(Notify::new());
    let redis = Arc::new(MemoryRedis::new(START).failing_with(Failure::Death(Arc::clone(&hangs))));
    let store = redis.replica().await;
    redis.fail_at(1);
    let find = async |holder| store.live_tokens(&TenantName::default(), &holder, START).await.of_others;
    let session = TokenHolder::Session("sess_1".into());
    let meanwhile = async {
        hangs.notified().await;
        (find(session.clone()).await, find(TokenHolder::User("user_1".into())).await)
    };
    tokio::select! {
        found = find(session.clone()) => panic!("it hangs, and found {found:?}"),
        found = meanwhile => assert_eq!(found, (Err(StoreError::Unavailable), Ok(()))),
    }
    assert_eq!(store.health(), Health::Ready);
    assert_eq!(find(session).await, Ok(()));
}

#[tokio::test]
async fn a_user_is_forgotten_when_another_replica_records_a_restriction_late() {
    let forgotten = Arc::new(AtomicUsize::new(0));
    let on_forget = {
        let forgotten = Arc::clone(&forgotten);
        Arc::new(move |_: Forgotten<'_>| _ = forgotten.fetch_add(1, Ordering::SeqCst))
    };
    let (_store, script, new) = scene_that_forgets(OnFailure::Degrade, on_forget).await;
    script.lose_first.store(true, Ordering::SeqCst);
    eventually(async || forgotten.load(Ordering::SeqCst) == 1).await;
    Commands::record(&new, &[denial()], &[], RecordOutcome::New, START).await.unwrap();
    eventually(async || forgotten.load(Ordering::SeqCst) == 2).await;
}

#[tokio::test]
async fn a_panic_of_what_keeps_in_sync_is_an_outage_that_ends() {
    let panics = Arc::new(AtomicBool::new(false));
    let clock = {
        let panics = Arc::clone(&panics);
        Arc::new(move || if panics.load(Ordering::SeqCst) { panic!("on purpose") } else { START })
    };
    let (redis, limits) = (Arc::new(MemoryRedis::new(START)), StoreLimits::default());
    let tasks_of = Arc::new(|_: &Restriction, _, _| Vec::new());
    let shared = Arc::new(Arc::clone(&redis));
    let store = Store::shared(shared, OnFailure::Refuse, &limits, clock, Arc::new(|_| {}), tasks_of);
    store.becomes_ready().await;
    panics.store(true, Ordering::SeqCst);
    eventually(async || store.health() == Health::Degraded).await;
    assert_eq!(store.may_issue(), Err(StoreError::Unavailable));
    panics.store(false, Ordering::SeqCst);
    store.becomes_ready().await;
    panics.store(true, Ordering::SeqCst);
    let token = live_token("org_1");
    assert_eq!(store.put_live_token(token.clone(), START).await, Err(StoreError::Unavailable));
    assert_eq!(store.health(), Health::Degraded);
    panics.store(false, Ordering::SeqCst);
    store.becomes_ready().await;
    let other = redis.replica().await;
    let found = other.live_tokens(&token.tenant, &TokenHolder::User("user_1".into()), START).await;
    assert_eq!(found, LiveTokens { live_tokens: vec![token], of_others: Ok(()) });
}

#[test]
fn restrictions_are_late_while_the_tokens_that_they_concern_may_live() {
    let replica = Replica::new(&StoreLimits::default(), Arc::new(|_| {}), Arc::new(|_, _, _| Vec::new()));
    replica.learn(&denial(), Source::Told, START);
    replica.were_unfound([&live_token("org_1")], START);
    for (minutes, late) in [(64, vec![denial()]), (66, Vec::new())] {
        replica.forget_unfound(START.after(Duration::from_mins(minutes)));
        assert_eq!(replica.late(), late);
    }
}

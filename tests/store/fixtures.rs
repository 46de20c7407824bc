//! Replicas with a clock that the test moves, and restrictions and live tokens to store.

use std::{
    slice,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ably_clerk_auth::{
    ably::{KeyName, TokenFormat},
    clerk::{Claims, Organization, Scoped, Session},
    clock::{Clock, UnixMillis},
    redis::RedisAddress,
    store::{
        Claim, DenialSource, Forgotten, Health, LiveToken, OnFailure, OnForget, RecordOutcome, RedisConnector,
        RedisKeyPrefix, Restriction, RestrictionKind, Store, StoreLimits, StoredTask, Subject, TasksOf, Verdict,
    },
    tenant::TenantName,
};

use crate::{proxy::Proxy, redis_server::RedisServer};

/// The start of each test.
pub(crate) const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
pub(crate) const MINUTE: Duration = Duration::from_mins(1);
/// How long a test waits for what must happen, also on a busy machine.
pub(crate) const PATIENCE: Duration = MINUTE;
pub(crate) const DENIED: RestrictionKind = RestrictionKind::Denied(DenialSource::Clerk);
pub(crate) const LIFTED: RestrictionKind = RestrictionKind::Lifted(DenialSource::Clerk);

/// A store, its clock, and the users that it removed from caches.
pub(crate) struct Replica {
    pub(crate) store: Store,
    pub(crate) forgotten: ForgottenUsers,
    time: Arc<AtomicI64>,
}

pub(crate) type ForgottenUsers = Arc<Mutex<Vec<String>>>;

fn on_forget(forgotten: &ForgottenUsers) -> OnForget {
    let forgotten = Arc::clone(forgotten);
    Arc::new(move |users| {
        forgotten.lock().unwrap().push(match users {
            Forgotten::User(tenant, user) => format!("{} of {}", user, tenant.as_str()),
            Forgotten::Everyone => "everyone".to_owned(),
        });
    })
}

impl Replica {
    pub(crate) fn in_memory(limits: &StoreLimits) -> Self {
        let forgotten = ForgottenUsers::default();
        let store = Store::in_memory(limits, on_forget(&forgotten));
        Self { store, forgotten, time: Arc::new(AtomicI64::new(NOW.0)) }
    }

    /// A replica that may not be ready yet.
    pub(crate) fn at(address: &RedisAddress, limits: &StoreLimits, on_failure: OnFailure) -> Self {
        Self::with_prefix(address, "aca:", limits, on_failure)
    }

    pub(crate) fn with_prefix(
        address: &RedisAddress,
        prefix: &str,
        limits: &StoreLimits,
        on_failure: OnFailure,
    ) -> Self {
        Self::connected_by(connector_for(address, prefix), limits, on_failure)
    }

    /// A replica that does not wait for a slow Redis, as the service does not. It may not be ready yet.
    pub(crate) fn impatient_at(address: &RedisAddress) -> Self {
        Self::connected_by(impatient_connector(address), &StoreLimits::default(), OnFailure::Degrade)
    }

    fn connected_by(connector: RedisConnector, limits: &StoreLimits, on_failure: OnFailure) -> Self {
        let forgotten = ForgottenUsers::default();
        let time = Arc::new(AtomicI64::new(NOW.0));
        let clock: Clock = {
            let time = Arc::clone(&time);
            Arc::new(move || UnixMillis(time.load(Ordering::Relaxed)))
        };
        let store = Store::shared(Arc::new(connector), on_failure, limits, clock, on_forget(&forgotten), tasks_of());
        Self { store, forgotten, time }
    }

    /// A ready replica with `on_failure = degrade`.
    pub(crate) async fn of(server: &RedisServer) -> Self {
        Self::ready_at(&server.address()).await
    }

    /// As [`Self::of`], connected through a proxy.
    pub(crate) async fn over(line: &Proxy) -> Self {
        Self::ready_at(&line.address()).await
    }

    pub(crate) async fn ready_at(address: &RedisAddress) -> Self {
        let replica = Self::at(address, &StoreLimits::default(), OnFailure::Degrade);
        replica.becomes(Health::Ready).await;
        replica
    }

    pub(crate) fn now(&self) -> UnixMillis {
        UnixMillis(self.time.load(Ordering::Relaxed))
    }

    /// Moves this replica's clock.
    pub(crate) fn pass(&self, time: Duration) {
        self.time.store(self.now().after(time).0, Ordering::Relaxed);
    }

    /// Moves this replica's clock to a millisecond before `time` has passed.
    pub(crate) fn pass_short_of(&self, time: Duration) {
        self.time.store(self.now().after(time).0 - 1, Ordering::Relaxed);
    }

    pub(crate) fn health(&self) -> Health {
        self.store.health()
    }

    /// Since its start.
    pub(crate) fn outages(&self) -> u64 {
        self.store.stats(self.now()).outages
    }

    pub(crate) async fn becomes(&self, health: Health) {
        eventually(&format!("becomes {health:?}"), || self.health() == health).await;
    }

    pub(crate) fn verdict(&self, session: &Session) -> Verdict {
        self.verdict_of(&TenantName::default(), session)
    }

    pub(crate) fn verdict_of(&self, tenant: &TenantName, session: &Session) -> Verdict {
        self.store.restrictions().verdict(tenant, session, None, self.now())
    }

    /// As [`Self::verdict_of`], with the client ID of the session token.
    pub(crate) fn verdict_on_client_id(&self, tenant: &TenantName, session: &Session, client_id: &str) -> Verdict {
        self.store.restrictions().verdict(tenant, session, Some(client_id), self.now())
    }

    pub(crate) async fn record(&self, restriction: Restriction) -> RecordOutcome {
        self.store.record(slice::from_ref(&restriction), &[], self.now()).await.unwrap()[0]
    }

    /// Is told of a restriction until Redis has it, as Clerk delivers an event again.
    pub(crate) async fn record_at_last(&self, restriction: Restriction) -> RecordOutcome {
        loop {
            match self.store.record(slice::from_ref(&restriction), &[], self.now()).await {
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                Ok(outcomes) => return outcomes[0],
            }
        }
    }

    pub(crate) async fn put_live_token(&self, live_token: LiveToken) {
        self.store.put_live_token(live_token, self.now()).await.unwrap();
    }

    /// Stores a task that follows from a new restriction.
    pub(crate) async fn store_task(&self, task: StoredTask) {
        let lifted = restriction(of_user(&clerk_id("user", unique_number())), LIFTED, ago(1));
        self.store.record(&[lifted], &[task], self.now()).await.unwrap();
    }

    /// Claims the tasks that are due now. Returns what they do.
    pub(crate) async fn claims(&self) -> Vec<String> {
        let mut payloads = Vec::new();
        loop {
            let claimed = self.store.claim_tasks(Claim::Due(99), self.now()).await.unwrap_or_default();
            if claimed.is_empty() {
                break;
            }
            payloads.extend(claimed.into_iter().map(|task| task.payload));
        }
        payloads.sort();
        payloads
    }
}

/// A replica's task that finds the tokens that a restriction ends. A lift ends none.
fn tasks_of() -> TasksOf {
    let replica = unique_number();
    Arc::new(move |restriction, start, now| {
        if let RestrictionKind::Lifted(_) = restriction.kind {
            return Vec::new();
        }
        let payload = format!("revoke {}", restriction.subject);
        vec![StoredTask { id: format!("{payload}/{replica}/{start}"), due: now, payload }]
    })
}

/// What the tasks in Redis do, claimed ones included.
pub(crate) fn tasks_in(server: &RedisServer) -> Vec<String> {
    let mut payloads: Vec<String> = server.run("HVALS aca:{v4}:tasks");
    payloads.sort();
    payloads
}

fn unique_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Waits for a slow Redis.
pub(crate) fn connector(address: &RedisAddress) -> RedisConnector {
    connector_for(address, "aca:")
}

pub(crate) fn connector_for(address: &RedisAddress, prefix: &str) -> RedisConnector {
    RedisConnector::new(address, &RedisKeyPrefix::parse(prefix).unwrap()).unwrap().patient(PATIENCE)
}

/// Does not wait for a slow Redis, as the service does not.
pub(crate) fn impatient_connector(address: &RedisAddress) -> RedisConnector {
    RedisConnector::new(address, &RedisKeyPrefix::parse("aca:").unwrap()).unwrap()
}

/// Waits until a condition is true.
pub(crate) async fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A session of `user` in which `organization` is active. Its token was minted now.
pub(crate) fn session(id: &str, user: &str, organization: Option<&str>) -> Session {
    Session {
        user_id: user.to_owned(),
        session_id: id.to_owned(),
        issued_at: NOW,
        expires_at: NOW.after(MINUTE),
        organization: organization.map(|id| Organization {
            id: id.to_owned(),
            slug: None,
            role: None,
            permissions: None,
        }),
        plans: Scoped::default(),
        features: Scoped::default(),
        factor_age: None,
        actor: None,
        claims: Claims::default(),
    }
}

/// A lift, or a restriction that expires in ten minutes.
pub(crate) fn restriction(subject: Subject, kind: RestrictionKind, at: UnixMillis) -> Restriction {
    let until = if matches!(kind, RestrictionKind::Lifted(_)) { at } else { NOW.after(10 * MINUTE) };
    Restriction { tenant: TenantName::default(), subject, kind, at, until, session_user: None }
}

pub(crate) fn of_user(id: &str) -> Subject {
    Subject::User(id.to_owned())
}

pub(crate) fn of_session(id: &str) -> Subject {
    Subject::Session(id.to_owned())
}

/// This many milliseconds before the start of the test.
pub(crate) fn ago(millis: i64) -> UnixMillis {
    UnixMillis(NOW.0 - millis)
}

/// A token that lives for `life`.
pub(crate) fn live_token(
    user: &str,
    session: &str,
    organization: Option<&str>,
    client_id: &str,
    life: Duration,
) -> LiveToken {
    LiveToken {
        tenant: TenantName::default(),
        user: user.to_owned(),
        session: session.to_owned(),
        organization: organization.map(str::to_owned),
        client_id: client_id.to_owned(),
        format: TokenFormat::default(),
        key: KeyName::parse("xVLyHw.s5VHkA").unwrap(),
        until: NOW.after(life),
    }
}

/// An ID as long as Clerk's.
pub(crate) fn clerk_id(kind: &str, number: usize) -> String {
    format!("{kind}_{number:027}")
}

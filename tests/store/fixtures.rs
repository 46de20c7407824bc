//! Replicas with a clock that the test moves, and restrictions and live tokens to store.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use ably_clerk_auth::{
    ably::TokenFormat,
    clerk::{Claims, Organization, Scoped, Session},
    clock::{Clock, UnixMillis},
    store::{
        Forgotten, Health, LiveToken, OnFailure, OnForget, RecordOutcome, RedisAddress, RedisConnector, RedisKeyPrefix,
        Restriction, RestrictionKind, Store, StoreError, StoreLimits, Subject, Verdict,
    },
    tenant::TenantName,
};

use crate::{proxy::Proxy, redis_server::RedisServer};

/// The start of each test.
pub(crate) const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
pub(crate) const MINUTE: Duration = Duration::from_mins(1);

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
        let forgotten = ForgottenUsers::default();
        let time = Arc::new(AtomicI64::new(NOW.0));
        let clock: Clock = {
            let time = Arc::clone(&time);
            Arc::new(move || UnixMillis(time.load(Ordering::Relaxed)))
        };
        let prefix = RedisKeyPrefix::parse(prefix).unwrap();
        let redis = Arc::new(RedisConnector::new(address, &prefix).unwrap());
        let store = Store::shared(redis, on_failure, limits, clock, on_forget(&forgotten));
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

    async fn ready_at(address: &RedisAddress) -> Self {
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

    /// Stores a restriction. Retries if Redis is slow.
    pub(crate) async fn record(&self, restriction: Restriction) -> RecordOutcome {
        retry!(self, self.store.record(restriction.clone(), self.now()))
    }

    pub(crate) async fn put_live_token(&self, live_token: LiveToken) {
        retry!(self, self.store.put_live_token(live_token.clone(), self.now()));
    }
}

/// Retries an operation that Redis did not answer within 100 ms, as happens on a busy machine.
macro_rules! retry {
    ($replica:expr, $operation:expr) => {{
        let mut tries = 0;
        loop {
            match $operation.await {
                Err(StoreError::Unavailable) if tries < 20 => {
                    tries += 1;
                    $replica.becomes(Health::Ready).await;
                }
                outcome => break outcome.unwrap(),
            }
        }
    }};
}
pub(crate) use retry;

/// Waits until a condition is true, at most 20 seconds.
pub(crate) async fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_true() {
        assert!(Instant::now() < deadline, "not within 20 seconds: {what}");
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

/// A restriction that expires in ten minutes.
pub(crate) fn restriction(subject: Subject, kind: RestrictionKind, at: UnixMillis) -> Restriction {
    Restriction { tenant: TenantName::default(), subject, kind, at, until: NOW.after(10 * MINUTE) }
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
        until: NOW.after(life),
    }
}

/// An ID as long as Clerk's.
pub(crate) fn clerk_id(kind: &str, number: usize) -> String {
    format!("{kind}_{number:027}")
}

//! Stores to try, a time that stands still until it is moved, and what the tests say of whom.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use ably_clerk_auth::{
    ably::TokenFormat,
    clerk::{Organization, Scoped, Session},
    clock::{Clock, UnixMillis},
    store::{
        Forgotten, Health, LiveToken, MemoryStore, OnFailure, OnForget, RecordOutcome, RedisAddress, RedisKeyPrefix,
        RedisStore, Restriction, RestrictionKind, Store, StoreError, StoreLimits, Subject, Verdict,
    },
    tenant::TenantName,
};

use crate::{proxy::Line, redis_server::RedisServer};

/// The time at which each test begins.
pub(crate) const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
pub(crate) const MINUTE: Duration = Duration::from_mins(1);

/// A store, and what it told of users to be forgotten.
pub(crate) struct Replica {
    pub(crate) store: Box<dyn Store>,
    pub(crate) drops: Drops,
    time: Arc<AtomicI64>,
}

pub(crate) type Drops = Arc<Mutex<Vec<String>>>;

fn on_forget(drops: &Drops) -> OnForget {
    let drops = Arc::clone(drops);
    Arc::new(move |dropped| {
        drops.lock().unwrap().push(match dropped {
            Forgotten::User(tenant, user) => format!("{} of {}", user, tenant.as_str()),
            Forgotten::Everyone => "everyone".to_owned(),
        });
    })
}

impl Replica {
    pub(crate) fn in_memory(bounds: &StoreLimits) -> Self {
        let drops = Drops::default();
        let store = Box::new(MemoryStore::new(bounds, on_forget(&drops)));
        Self { store, drops, time: Arc::new(AtomicI64::new(NOW.0)) }
    }

    /// One that may not be ready.
    pub(crate) fn at(address: &RedisAddress, bounds: &StoreLimits, on_failure: OnFailure) -> Self {
        Self::with_prefix(address, "aca:", bounds, on_failure)
    }

    pub(crate) fn with_prefix(
        address: &RedisAddress,
        prefix: &str,
        bounds: &StoreLimits,
        on_failure: OnFailure,
    ) -> Self {
        let drops = Drops::default();
        let time = Arc::new(AtomicI64::new(NOW.0));
        let clock: Clock = {
            let time = Arc::clone(&time);
            Arc::new(move || UnixMillis(time.load(Ordering::Relaxed)))
        };
        let prefix = RedisKeyPrefix::parse(prefix).unwrap();
        let store = RedisStore::start(address, &prefix, on_failure, bounds, clock, on_forget(&drops)).unwrap();
        Self { store: Box::new(store), drops, time }
    }

    /// One that is ready, and goes on when Redis fails.
    pub(crate) async fn of(server: &RedisServer) -> Self {
        Self::ready_at(&server.address()).await
    }

    /// The same, by a line of its own.
    pub(crate) async fn over(line: &Line) -> Self {
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

    /// Lets time pass for this replica.
    pub(crate) fn pass(&self, time: Duration) {
        self.time.store(self.now().after(time).0, Ordering::Relaxed);
    }

    /// Lets all of it pass but a millisecond.
    pub(crate) fn pass_short_of(&self, time: Duration) {
        self.time.store(self.now().after(time).0 - 1, Ordering::Relaxed);
    }

    pub(crate) fn health(&self) -> Health {
        self.store.health(self.now())
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

    /// The same of a session whose token gives a client ID.
    pub(crate) fn verdict_of_named(&self, tenant: &TenantName, session: &Session, client_id: &str) -> Verdict {
        self.store.restrictions().verdict(tenant, session, Some(client_id), self.now())
    }

    /// Stores a restriction, and has Redis's patience when the machine is too busy for ours.
    pub(crate) async fn record(&self, restriction: Restriction) -> RecordOutcome {
        in_time!(self, self.store.record(restriction.clone(), self.now()))
    }

    pub(crate) async fn put_live_token(&self, live_token: LiveToken) {
        in_time!(self, self.store.put_live_token(live_token.clone(), self.now()));
    }
}

/// Tries again what Redis did not answer within its 100 ms, as happens where tests crowd a small machine.
macro_rules! in_time {
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
pub(crate) use in_time;

/// Waits until something is so, for as long as a busy machine may take.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within 20 seconds: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A session of `user`, active in `organization`, whose token was minted just now.
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
        claims: serde_json::Map::new(),
    }
}

/// What an event of that time says, for ten minutes from now on.
pub(crate) fn restriction(subject: Subject, kind: RestrictionKind, at: UnixMillis) -> Restriction {
    Restriction { tenant: TenantName::default(), subject, kind, at, until: NOW.after(10 * MINUTE) }
}

pub(crate) fn of_user(id: &str) -> Subject {
    Subject::User(id.to_owned())
}

pub(crate) fn of_session(id: &str) -> Subject {
    Subject::Session(id.to_owned())
}

/// So many milliseconds before the test began.
pub(crate) fn ago(millis: i64) -> UnixMillis {
    UnixMillis(NOW.0 - millis)
}

/// A token that lives so long.
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

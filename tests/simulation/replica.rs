//! Replicas of the real service: its store, its revocation and its queues, around simulated clocks and vendors.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use ably_clerk_auth::{
    ably::{ApiKey, KeyName, RevocationCounts, RevocationQueue, TokenFormat},
    clerk::{PublishableKey, SessionRules, SigningKey, SigningKeys, Verifier},
    clock::UnixMillis,
    identity::Identity,
    policy::Policy,
    revocation::{self, Revocation},
    store::{Forgotten, OnFailure, Store, StoreLimits},
    telemetry::metrics::TenantMetrics,
    tenant::{SignedOut, Signing, Tenant, TenantName, Tenants},
};
use tokio::task::JoinHandle;

use crate::{
    ably::SimulatedAbly,
    checker::Answer,
    clerk::SESSION_TOKEN_LIFE,
    faults::FaultLog,
    moments,
    random::Random,
    redis::SimulatedConnect,
    world::{World, lock},
};

pub(crate) const REPLICAS: usize = 3;
pub(crate) const TENANTS: [&str; 2] = ["one", "two"];
const CLOCK_SKEW_MS: i64 = 5000;
const LONGEST_SKEW_MS: u64 = 2000;

const PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEArj21vypqCbVum2sKRqCC\n\
MYkzuNWaahYVZX9WhJDAnjGuxgLsWyCtkbWoCaCxxjcLXvQetOhFxiMt0pE+35m5\n\
nNW8ukIc6n3XykcHT7BPoK2xxtuDJNUb0J68uC84iCgXJFqgZshL4X6HwJ4+CgQF\n\
Jdnjkc0AEnRJcgzPIIcmoKYLIYdvoPIVYDpB59zgD4yJDOAv7YO3hmzWxRsgT2uB\n\
1wIjjao+9xoKQ3r9aOuQ2tOsjo4FU2EKtzQ3xseUgzvyMdnMKgqaoilS/nwJLBHt\n\
qgDJGgIUoi5rLbrScXbLglsSf2wLl4ucWuUSaVUeGgKB4Y70qk5pZ9a/OLuj1eWl\n\
GQIDAQAB\n-----END PUBLIC KEY-----\n";

static SIGNING_KEY: LazyLock<Arc<SigningKey>> = LazyLock::new(|| match SigningKeys::from_pem(PEM).unwrap() {
    SigningKeys::Pem(key) => key,
    SigningKeys::Jwks(_) => unreachable!(),
});

/// How long a denial of Clerk lasts.
pub(crate) fn denial() -> Duration {
    revocation::denial(SESSION_TOKEN_LIFE, CLOCK_SKEW_MS)
}

/// The usernames that a run has looked up, by tenant and user. `None`: the user had none.
pub(crate) type UserCache = Arc<Mutex<BTreeMap<(String, String), Option<String>>>>;

/// One run of a replica, from its start to its crash.
#[expect(clippy::struct_field_names, reason = "the number of a run is its run everywhere")]
#[derive(Clone)]
pub(crate) struct Run {
    /// Unique among all runs of all replicas.
    pub(crate) run: usize,
    pub(crate) number: usize,
    skew: i64,
    pub(crate) started_at: UnixMillis,
    pub(crate) store: Arc<Store>,
    pub(crate) revocation: Arc<Revocation>,
    pub(crate) users: UserCache,
    jobs: Arc<Mutex<Vec<tokio::task::AbortHandle>>>,
}

pub(crate) struct Replicas {
    skews: Vec<i64>,
    running: Vec<Option<Run>>,
    runs: usize,
    /// The names of the API keys: two while one replaces the other.
    keys: Vec<KeyName>,
    /// The replica that signs with another of them than the others.
    signs_otherwise: usize,
    pub(crate) formats: [TokenFormat; 2],
    pub(crate) on_failure: OnFailure,
    pub(crate) limits: StoreLimits,
}

impl Replicas {
    pub(crate) fn new(random: &mut Random) -> Self {
        let format = |random: &mut Random| random.pick(&[TokenFormat::Jwt, TokenFormat::TokenRequest]);
        let is_skewed = random.percent(50);
        let skew = |_| {
            let skew = i64::try_from(random.within(0..2 * LONGEST_SKEW_MS)).unwrap();
            if is_skewed { skew - i64::try_from(LONGEST_SKEW_MS).unwrap() } else { 0 }
        };
        let skews = (0..REPLICAS).map(skew).collect();
        let mut keys = ["app.one", "app.two"].map(|key| KeyName::parse(key).unwrap()).to_vec();
        let count = if random.percent(50) { 1 } else { 2 };
        keys.truncate(count);
        if count > 1 && random.percent(50) {
            keys.reverse();
        }
        let live_tokens = if random.percent(10) { 12 } else { 500 };
        let ended_restrictions = if random.percent(10) { 4 } else { 1000 };
        Self {
            skews,
            running: vec![None; REPLICAS],
            runs: 0,
            keys,
            signs_otherwise: random.index(REPLICAS),
            formats: [format(random), format(random)],
            on_failure: random.pick(&[OnFailure::Degrade, OnFailure::Degrade, OnFailure::Refuse]),
            limits: StoreLimits { live_tokens, ended_restrictions },
        }
    }

    pub(crate) fn are_clocks_skewed(&self) -> bool {
        self.skews.iter().any(|skew| *skew != 0)
    }

    pub(crate) fn is_running(&self, run: usize) -> bool {
        self.running().any(|running| running.run == run)
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Run> {
        self.running.iter().flatten()
    }

    /// The names of a replica's API keys. The first signs, all revoke.
    pub(crate) fn keys_of(&self, number: usize) -> Vec<KeyName> {
        let keys = self.keys.iter().cloned();
        if number == self.signs_otherwise { keys.rev().collect() } else { keys.collect() }
    }

    pub(crate) fn any(&self, random: &mut Random) -> Option<Run> {
        self.running[random.index(REPLICAS)].clone()
    }

    /// Ends the run of a replica.
    pub(crate) fn crash(&mut self, number: usize) -> Option<Run> {
        let run = self.running[number].take()?;
        lock(&run.jobs).drain(..).for_each(|job| job.abort());
        Some(run)
    }
}

impl Run {
    pub(crate) fn clock(&self, now: UnixMillis) -> UnixMillis {
        UnixMillis(now.0 + self.skew)
    }

    /// Checks that a replica that has no Redis counts a statement that it was told at `told_at`, and refused, as unrecorded. If
    /// Redis can be read, the replica may have found out that Redis has it.
    pub(crate) fn check_kept(&self, world: &World, statement: usize, told_at: UnixMillis, answer: Answer) {
        let now = world.now();
        let has_none = |faults: &FaultLog, time| faults.is_without_redis(self.number, self.started_at, time);
        let was_away = [told_at, now].into_iter().all(|time| has_none(&lock(&world.faults), time));
        let stats = self.store.stats(self.clock(now));
        let is_counted = stats.unrecorded_restrictions > 0 || stats.unrecorded_tasks > 0;
        let redis = lock(&world.redis);
        let may_be_known =
            redis.refuses_writes(now).is_some() && lock(&world.checker).is_in(statement, &redis.master().data);
        if answer == Answer::Refused && was_away && !is_counted && !may_be_known {
            lock(&world.checker).violations.push(format!("5: replica {} does not count what it keeps", self.number));
        }
    }

    /// `None` if the replica crashes meanwhile.
    pub(crate) async fn run_until_crash<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let job: JoinHandle<T> = tokio::spawn(work);
        lock(&self.jobs).push(job.abort_handle());
        match job.await {
            Ok(done) => Some(done),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => None,
        }
    }
}

/// Starts a replica that is not running.
pub(crate) fn start(world: &Arc<World>, number: usize) {
    let mut replicas = lock(&world.replicas);
    if replicas.running[number].is_some() {
        return;
    }
    let (run, skew) = (replicas.runs, replicas.skews[number]);
    replicas.runs += 1;
    let clock = {
        let world = Arc::clone(world);
        Arc::new(move || UnixMillis(world.now().0 + skew))
    };
    let users = UserCache::default();
    let on_forget = {
        let users = Arc::clone(&users);
        Arc::new(move |forgotten: Forgotten<'_>| match forgotten {
            Forgotten::User(tenant, user) => _ = lock(&users).remove(&(tenant.to_string(), user.to_owned())),
            Forgotten::Everyone => lock(&users).clear(),
        })
    };
    let connect = Arc::new(SimulatedConnect { world: Arc::clone(world), run, replica: number });
    let keys = replicas.keys_of(number);
    let tenant = |(name, format): (&&str, _)| tenant(world, [number, run], name, format, &keys);
    let tenants = TENANTS.iter().zip(replicas.formats).map(tenant);
    let tenants = Arc::new(Tenants::new(tenants.collect()));
    let tasks_of = revocation::tasks_of_restriction(Arc::clone(&tenants), u64::try_from(run).unwrap());
    let (on_failure, limits) = (replicas.on_failure, &replicas.limits);
    let store = Store::shared(connect, on_failure, limits, Arc::clone(&clock) as _, on_forget, tasks_of);
    let store = Arc::new(store);
    let revocation = Arc::new(Revocation::new(Arc::clone(&store), tenants, clock()));
    let tasks = tokio::spawn(Arc::clone(&revocation).perform_tasks(clock));
    let jobs = Arc::new(Mutex::new(vec![tasks.abort_handle()]));
    replicas.running[number] = Some(Run { run, number, skew, started_at: world.now(), store, revocation, users, jobs });
    drop(replicas);
    lock(&world.checker).starts(run, world.now());
    moments::connects(world, number);
    world.trace(|| format!("replica {number} starts (run {run})"));
}

fn tenant(world: &Arc<World>, [replica, run]: [usize; 2], name: &str, format: TokenFormat, keys: &[KeyName]) -> Tenant {
    let name = TenantName::parse(name).unwrap();
    let rules = SessionRules {
        issuers: vec![format!("https://{name}.example.com")],
        authorized_parties: Vec::new(),
        native_apps: false,
        audience: Vec::new(),
        clock_skew_ms: CLOCK_SKEW_MS,
        longest_life_ms: i64::try_from(SESSION_TOKEN_LIFE.as_millis()).unwrap(),
    };
    let revocation_queue = |key: &KeyName| {
        let ably = SimulatedAbly { world: Arc::clone(world), run, replica, tenant: name.clone(), key: key.clone() };
        RevocationQueue::new(name.as_str(), key.clone(), ably, RevocationCounts::default())
    };
    Tenant {
        publishable_key: PublishableKey::parse("pk_test_Y2xlcmsuZXhhbXBsZS5jb20k").unwrap(),
        verifier: Verifier::new(SigningKeys::Pem(Arc::clone(&SIGNING_KEY)), rules),
        webhook_secrets: None,
        identity: Identity::new("{username}".parse().unwrap(), None),
        policy: arc_swap::ArcSwap::from_pointee(Policy::default()),
        api_key: ApiKey::parse(&format!("{}:secret", keys[0])).unwrap(),
        signing: if format == TokenFormat::Jwt { Signing::Jwt } else { Signing::TokenRequest },
        revocation_queues: keys.iter().map(revocation_queue).collect(),
        denial: denial(),
        signed_out: SignedOut::Retry,
        allowed_origins: HashSet::new(),
        metrics: TenantMetrics::default(),
        name,
    }
}

//! A simulated Clerk: users and sessions of two tenants, and what it tells the service of them by webhooks. Both tenants
//! have users, sessions and organizations with the same IDs.

use std::{mem, sync::Arc, time::Duration};

use ably_clerk_auth::{
    clerk::{Change, Claims, Event, Organization, Scoped, Session, User},
    clock::UnixMillis,
    store::{Restriction, Subject},
    tenant::TenantName,
};

use tokio::{sync::oneshot, time::timeout};

use crate::{
    checker::Answer,
    clients, moments,
    random::Random,
    replica::{Run, TENANTS},
    schedule::is_long,
    world::{World, lock},
};

/// How long a session token lives.
pub(crate) const SESSION_TOKEN_LIFE: Duration = Duration::from_secs(40);
const USERS: usize = 3;
const SESSIONS: usize = 4;

pub(crate) struct Clerk {
    tenants: Vec<Instance>,
    clock_skew: i64,
    /// Who waits until the restrictions of an event are recorded, by its timestamp.
    waiting: Vec<(UnixMillis, oneshot::Sender<Run>)>,
}

/// What Clerk tells the service.
struct Webhook {
    tenant: usize,
    event: Event,
    statement: usize,
}

struct Instance {
    users: Vec<UserState>,
    sessions: Vec<SessionState>,
    last_event_at: UnixMillis,
}

struct UserState {
    id: String,
    name: Option<String>,
    names: u32,
    /// The name before the last change.
    former_name: Option<String>,
    is_banned: bool,
    is_deleted: bool,
}

struct SessionState {
    id: String,
    user: usize,
    organization: Option<String>,
    has_ended: bool,
    /// Its client asks no more.
    is_left: bool,
    /// The same, for a while.
    is_silent: bool,
    /// The last session token.
    token: Option<SessionToken>,
}

/// A session token, as a replica knows it when it has verified it.
#[derive(Clone)]
pub(crate) struct SessionToken {
    pub(crate) session: Session,
    /// The username in the token, if the user had one.
    pub(crate) name: Option<String>,
}

/// What happens at Clerk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    SessionEnds,
    Ban,
    Unban,
    Rename,
    RenameBack,
    LoseName,
    Delete,
    MembershipChanges,
    OrganizationDeleted,
}

impl Happening {
    const ANY: [Self; 14] = [
        Self::SessionEnds,
        Self::SessionEnds,
        Self::Ban,
        Self::Ban,
        Self::Unban,
        Self::Unban,
        Self::Unban,
        Self::Rename,
        Self::Rename,
        Self::LoseName,
        Self::Delete,
        Self::MembershipChanges,
        Self::MembershipChanges,
        Self::OrganizationDeleted,
    ];
    const OF_USER: [Self; 4] = [Self::Ban, Self::Unban, Self::Rename, Self::LoseName];
}

impl Clerk {
    pub(crate) fn new(random: &mut Random) -> Self {
        let instance = |number: usize| {
            let user = |user: usize| UserState {
                id: format!("user_{user}"),
                name: Some(format!("name{user}")),
                names: 0,
                former_name: None,
                is_banned: false,
                is_deleted: false,
            };
            let session = |session: usize| SessionState {
                id: format!("sess_{session}"),
                user: session / SESSIONS,
                organization: (session % 2 == number % 2).then(|| "org_1".to_owned()),
                has_ended: false,
                is_left: false,
                is_silent: false,
                token: None,
            };
            let sessions = (0..USERS * SESSIONS).map(session).collect();
            Instance { users: (0..USERS).map(user).collect(), sessions, last_event_at: UnixMillis(0) }
        };
        let clock_skew = i64::try_from(random.within(0..2000)).unwrap() - 1000;
        let tenants = (0..TENANTS.len()).map(instance).collect();
        Self { tenants, clock_skew, waiting: Vec::new() }
    }

    /// A run begins to record restrictions.
    pub(crate) fn is_recording(&mut self, restrictions: &[Restriction], run: &Run) {
        let is_of = |at| restrictions.iter().any(|restriction| restriction.at == at);
        for (_, waiting) in self.waiting.extract_if(.., |(at, _)| is_of(*at)) {
            // It may have lost patience.
            let _ = waiting.send(run.clone());
        }
    }

    /// The number of sessions of each tenant.
    pub(crate) fn session_count(&self) -> usize {
        self.tenants[0].sessions.len()
    }

    pub(crate) fn session_id(&self, tenant: usize, session: usize) -> &str {
        &self.tenants[tenant].sessions[session].id
    }

    /// The sessions that a restriction of a subject concerns.
    pub(crate) fn sessions_of(&self, tenant: usize, subject: &Subject) -> Vec<usize> {
        let Instance { users, sessions, .. } = &self.tenants[tenant];
        let is_of = |session: &SessionState| match subject {
            Subject::Session(id) => session.id == *id,
            Subject::User(id) => users[session.user].id == *id,
            Subject::Member { user, organization } => {
                users[session.user].id == *user && session.organization.as_ref() == Some(organization)
            }
            Subject::Organization(organization) => session.organization.as_ref() == Some(organization),
        };
        (0..sessions.len()).filter(|number| is_of(&sessions[*number])).collect()
    }

    /// Whether an organization is active in a session.
    pub(crate) fn has_organization(&self, tenant: usize, session: usize) -> bool {
        self.tenants[tenant].sessions[session].organization.is_some()
    }

    /// A session of another user with the same organization.
    pub(crate) fn another_member(&self, tenant: usize, session: usize) -> Option<usize> {
        let sessions = &self.tenants[tenant].sessions;
        let SessionState { user, organization, .. } = &sessions[session];
        sessions.iter().position(|other| other.user != *user && other.organization == *organization)
    }

    /// The clients of a session's user in the session's organization ask no more. Clerk tells nobody.
    pub(crate) fn leave(&mut self, tenant: usize, session: usize) {
        let sessions = &mut self.tenants[tenant].sessions;
        let (user, organization) = (sessions[session].user, sessions[session].organization.clone());
        let of_member = sessions.iter_mut().filter(|left| left.user == user && left.organization == organization);
        of_member.for_each(|left| left.is_left = true);
    }

    /// The client of a session asks no more for a while.
    pub(crate) fn fall_silent(&mut self, tenant: usize, session: usize) {
        self.tenants[tenant].sessions[session].is_silent = true;
    }

    /// It asks again.
    pub(crate) fn speak_again(&mut self, tenant: usize, session: usize) {
        let SessionState { is_silent, is_left, .. } = &mut self.tenants[tenant].sessions[session];
        (*is_silent, *is_left) = (false, false);
    }

    fn clock(&self, now: UnixMillis) -> UnixMillis {
        UnixMillis(now.0 + self.clock_skew)
    }

    pub(crate) fn name_of(&self, tenant: usize, user: &str) -> Option<String> {
        self.tenants[tenant].users.iter().find(|known| known.id == user).unwrap().name.clone()
    }

    /// The names that a user has and had before.
    pub(crate) fn last_names_of(&self, tenant: usize, user: usize) -> Vec<String> {
        let UserState { name, former_name, .. } = &self.tenants[tenant].users[user];
        [name, former_name].into_iter().flatten().cloned().collect()
    }

    /// The last session token, if it is valid by a replica's clock.
    pub(crate) fn last_token(&self, tenant: usize, session: usize, by_clock: UnixMillis) -> Option<SessionToken> {
        const TOLERANCE: Duration = Duration::from_secs(5);
        let state = &self.tenants[tenant].sessions[session];
        let token = state.token.clone().filter(|_| !state.is_left && !state.is_silent)?;
        (by_clock < token.session.expires_at.after(TOLERANCE)).then_some(token)
    }

    /// A new session token, if Clerk mints one.
    pub(crate) fn mint(&mut self, tenant: usize, session: usize, now: UnixMillis) -> Option<SessionToken> {
        let issued_at = self.clock(now);
        let Instance { users, sessions, .. } = &mut self.tenants[tenant];
        let state = &mut sessions[session];
        let user = &users[state.user];
        if state.has_ended || state.is_left || state.is_silent || user.is_banned || user.is_deleted {
            return None;
        }
        let organization_of = |id: &String| Organization { id: id.clone(), slug: None, role: None, permissions: None };
        let session = Session {
            user_id: user.id.clone(),
            session_id: state.id.clone(),
            issued_at,
            expires_at: issued_at.after(SESSION_TOKEN_LIFE),
            organization: state.organization.as_ref().map(organization_of),
            plans: Scoped::default(),
            features: Scoped::default(),
            factor_age: None,
            actor: None,
            claims: Claims::default(),
        };
        let token = SessionToken { session, name: user.name.clone() };
        state.token = Some(token.clone());
        Some(token)
    }

    /// Something happens to a session of a tenant, or to its user. Returns the event that Clerk will tell.
    fn happen(
        &mut self,
        random: &mut Random,
        tenant: usize,
        session_number: usize,
        happening: Happening,
        now: UnixMillis,
    ) -> Option<Event> {
        use Happening as H;
        let clock = self.clock(now);
        let Instance { users, sessions, last_event_at } = &mut self.tenants[tenant];
        let user_number = sessions[session_number].user;
        let user = &mut users[user_number];
        let change = match happening {
            // A late update, with a later timestamp.
            H::Unban if user.is_deleted => Change::UserUpdated(user.record()),
            _ if user.is_deleted => return None,
            H::SessionEnds => {
                let session = &mut sessions[session_number];
                session.has_ended = true;
                let user = &users[session.user];
                let is_told = random.percent(70).then_some(user);
                Change::SessionEnded {
                    session_id: session.id.clone(),
                    user_id: is_told.map(|user| user.id.clone()),
                    username: is_told.and_then(|user| user.name.clone()),
                }
            }
            H::Ban => {
                user.is_banned = true;
                Change::UserUpdated(user.record())
            }
            H::Unban => {
                user.is_banned = false;
                Change::UserUpdated(user.record())
            }
            H::Rename | H::RenameBack | H::LoseName if user.is_banned => return None,
            H::Rename => {
                user.names += 1;
                // Sometimes back to the first name.
                let suffix = if user.names % 3 == 0 { String::new() } else { format!("v{}", user.names) };
                user.former_name = user.name.replace(format!("name{user_number}{suffix}"));
                Change::UserUpdated(user.record())
            }
            H::RenameBack => {
                mem::swap(&mut user.name, &mut user.former_name);
                Change::UserUpdated(user.record())
            }
            H::LoseName => {
                user.former_name = user.name.take();
                Change::UserUpdated(user.record())
            }
            H::Delete => {
                user.is_deleted = true;
                Change::UserDeleted { user_id: user.id.clone() }
            }
            H::MembershipChanges => {
                Change::MembershipChanged { user_id: user.id.clone(), organization_id: "org_1".into() }
            }
            H::OrganizationDeleted => Change::OrganizationDeleted { organization_id: "org_1".into() },
        };
        // Two events of one user are never in the same millisecond: Clerk orders them.
        let at = clock.max(last_event_at.after(Duration::from_millis(1)));
        *last_event_at = at;
        Some(Event { at, change })
    }
}

impl UserState {
    fn record(&self) -> User {
        User { id: self.id.clone(), username: self.name.clone(), banned: self.is_banned, deprovisioned: false }
    }
}

/// Things happen at Clerk until `until`. From then on every webhook gets through.
pub(crate) async fn live(world: Arc<World>, until: UnixMillis, length: Duration) {
    let pauses: &[u64] = if is_long(length) { &[4000, 300_000] } else { &[1500, 4000, 9000] };
    let pauses = world.random(|random| random.pick(pauses));
    if world.random(|random| random.percent(40)) {
        // Nothing that comes later covers it.
        let (world, before) = (Arc::clone(&world), world.random(|random| random.within(300..3000)));
        let (tenant, session) = clients::any_session(&world);
        tokio::spawn(async move {
            world.sleep_until(UnixMillis(until.0 - i64::try_from(before).unwrap())).await;
            rename_and_back(world, tenant, session, until).await;
        });
    }
    loop {
        world.pause(world.random(|random| random.within(50..pauses))).await;
        if world.now() >= until {
            return;
        }
        let (tenant, session) = clients::any_session(&world);
        if world.random(|random| random.percent(10)) {
            let Some(older) = happen(&world, tenant, session, &Happening::OF_USER) else { continue };
            let newer = happen(&world, tenant, session, &Happening::OF_USER);
            tokio::spawn(deliver_at_once(Arc::clone(&world), older, newer));
        } else if world.random(|random| random.percent(10)) {
            tokio::spawn(rename_and_back(Arc::clone(&world), tenant, session, until));
        } else {
            let happening = world.random(|random| random.pick(&Happening::ANY));
            // Sometimes the same in both tenants, with the same timestamp.
            let is_in_both = world.random(|random| random.percent(10));
            for tenant in if is_in_both { 0..TENANTS.len() } else { tenant..tenant + 1 } {
                if let Some(webhook) = happen(&world, tenant, session, &[happening]) {
                    let slowness = world.random(|random| random.pick(&[0, 0, 200, 8000]));
                    tokio::spawn(deliver(Arc::clone(&world), webhook, slowness, None));
                }
            }
        }
    }
}

/// A user has another name for a moment, and gets a token with it, or has none. The service knows the user's name before.
async fn rename_and_back(world: Arc<World>, tenant: usize, session: usize, until: UnixMillis) {
    happens_as(Arc::clone(&world), tenant, session, Happening::Unban, None).await;
    if world.now() >= until {
        return;
    }
    let any_of = [Happening::Rename, Happening::Rename, Happening::LoseName];
    let Some(older) = happen(&world, tenant, session, &any_of) else { return };
    if let Some(replica) = world.random(|random| lock(&world.replicas).any(random)) {
        clients::ask_with_new(&world, replica, tenant, session);
        world.pause(world.random(|random| random.within(0..200))).await;
    }
    let newer = happen(&world, tenant, session, &[Happening::RenameBack]);
    deliver_at_once(world, older, newer).await;
}

/// Something happens to a session or its user, and a replica is told at once.
pub(crate) async fn happens(world: Arc<World>, tenant: usize, session: usize) {
    if let Some(webhook) = happen(&world, tenant, session, &Happening::ANY) {
        deliver(world, webhook, 0, None).await;
    }
}

/// The same, but it is known what happens. The replica is any, or a certain one.
pub(crate) async fn happens_as(
    world: Arc<World>,
    tenant: usize,
    session: usize,
    happening: Happening,
    told: Option<Run>,
) {
    if let Some(webhook) = happen(&world, tenant, session, &[happening]) {
        deliver(world, webhook, 0, told).await;
    }
}

fn happen(world: &World, tenant: usize, session: usize, any_of: &[Happening]) -> Option<Webhook> {
    let now = world.now();
    let event = world.random(|random| {
        let happening = random.pick(any_of);
        lock(&world.clerk).happen(random, tenant, session, happening, now)
    })?;
    world.trace(|| format!("Clerk: {:?} of {} at {}", event.change, TENANTS[tenant], event.at.0));
    let statement = lock(&world.checker).clerk_says(TENANTS[tenant], &event, now);
    Some(Webhook { tenant, event, statement })
}

/// Delivers two events of one user, if there is a second: the older one while a replica records the newer one, to this
/// replica or to any.
async fn deliver_at_once(world: Arc<World>, older: Webhook, newer: Option<Webhook>) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let (sender, recording) = oneshot::channel();
    if let Some(newer) = newer {
        lock(&world.clerk).waiting.push((newer.event.at, sender));
        tokio::spawn(deliver(Arc::clone(&world), newer, 0, None));
    }
    let recording = timeout(PATIENCE, recording).await.ok().and_then(Result::ok);
    let any = world.random(|random| if random.percent(50) { lock(&world.replicas).any(random) } else { None });
    if let Some(any) = &any {
        moments::is_told_older(&world, any.number);
    }
    let run = any.or(recording);
    deliver(world, older, 0, run).await;
}

/// Delivers an event to replicas until one takes it, and sometimes again. The first one may be given.
async fn deliver(world: Arc<World>, webhook: Webhook, slowness: u64, mut first: Option<Run>) {
    let copies = if world.random(|random| random.percent(25)) { 2 } else { 1 };
    if slowness > 1000 {
        lock(&world.faults).note(crate::faults::Fault::LateWebhook);
    }
    if copies > 1 {
        lock(&world.faults).note(crate::faults::Fault::RepeatedWebhook);
    }
    for _ in 0..copies {
        if first.is_none() {
            world.pause(world.random(|random| random.within(0..slowness + 10))).await;
        }
        loop {
            match tell(&world, &webhook, first.take()).await {
                Answer::Accepted => break,
                Answer::None | Answer::Refused => {}
            }
            let longest = if lock(&world.faults).are_over(world.now()) { 1000 } else { 5000 };
            world.pause(world.random(|random| random.within(300..longest))).await;
        }
    }
}

async fn tell(world: &Arc<World>, webhook: &Webhook, replica: Option<Run>) -> Answer {
    let replica = replica.filter(|run| lock(&world.replicas).is_running(run.run));
    let replica = replica.or_else(|| world.random(|random| lock(&world.replicas).any(random)));
    let Some(replica) = replica else { return Answer::None };
    let Webhook { statement, event, .. } = webhook;
    let now = world.now();
    lock(&world.checker).told(*statement, replica.run, replica.clock(now), now);
    let (by_clock, revocation) = (replica.clock(now), Arc::clone(&replica.revocation));
    let (tenant, event) = (TenantName::parse(TENANTS[webhook.tenant]).unwrap(), event.clone());
    let applied = replica.run_until_crash(async move { revocation.apply(&tenant, &event, by_clock).await }).await;
    let answer = match &applied {
        None => Answer::None,
        Some(Ok(_)) => Answer::Accepted,
        Some(Err(_)) => Answer::Refused,
    };
    world.trace(|| format!("replica {} (run {}) about event {statement}: {applied:?}", replica.number, replica.run));
    let redis = lock(&world.redis);
    lock(&world.checker).answered(*statement, replica.run, answer, &redis, world.now());
    drop(redis);
    replica.check_kept(world, *statement, now, answer);
    answer
}

//! What happens at the very moment at which it can do harm:
//! - Clients that a restriction concerns ask a replica that has just connected, or as soon as it is recorded.
//! - While a replica scans what is recorded, or registers its live tokens again, something happens to the holder of a token of
//!   its own, or its connections close.
//! - Something happens to whoever gets a token from a replica without Redis, also while it has none for minutes, or from one that
//!   then crashes.
//! - A replica crashes, or a failover loses what it wrote, as soon as Redis has it.
//! - An older event arrives while a newer one of its user is being recorded.
//! - A look-up hangs.
//! - A replica is cut off for minutes, and Redis loses a token that it has just issued. Meanwhile another replica issues the same
//!   token, with another end.
//! - Two replicas are cut off, and return one after the other while Ably cannot be used.
//! - Sessions end whose second revocations will fail at first.
//! - A task is put back late: meanwhile another replica has performed it, and it is stored again.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use ably_clerk_auth::{
    ably::TokenFormat,
    clock::UnixMillis,
    revocation::operator::Action,
    store::{DenialSource, LiveToken, Restriction, RestrictionKind, StoredTask, Subject},
};

use crate::{
    clerk::{self, Happening},
    clients, faults,
    node::is_active,
    operator,
    replica::{REPLICAS, Run, TENANTS},
    work,
    world::{World, lock},
};

/// Whether it happens, in so many of 100 cases.
fn happens(world: &World, percent: u64) -> bool {
    world.random(|random| random.percent(percent)) && !lock(&world.faults).are_over(world.now())
}

/// A replica starts, or connects.
pub(crate) fn connects(world: &Arc<World>, number: usize) {
    if happens(world, 25) {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            let restriction =
                if world.random(|random| random.percent(60)) { any_in_force(&world, |_| true) } else { None };
            ask(world, number, restriction).await;
        });
    }
}

/// One of the newest restrictions that are recorded and in force, of some.
fn any_in_force(world: &World, is_sought: impl Fn(&Restriction) -> bool) -> Option<Restriction> {
    const NEWEST: usize = 4;
    let now = world.now();
    let redis = lock(&world.redis);
    let mut in_force: Vec<_> =
        redis.master().data.rows.values().filter(|row| is_active(row, now) && is_sought(row)).collect();
    in_force.sort_by_key(|row| Reverse(row.at));
    in_force.truncate(NEWEST);
    (!in_force.is_empty()).then(|| world.random(|random| random.pick(&in_force)).clone())
}

/// A restriction is recorded.
pub(crate) fn is_recorded(world: &Arc<World>, restriction: &Restriction) {
    if happens(world, 20) {
        let number = world.random(|random| random.index(REPLICAS));
        tokio::spawn(ask(Arc::clone(world), number, Some(restriction.clone())));
    }
}

/// A replica looks up live tokens. Whether the answer never comes, while other commands find that the connection is closed.
pub(crate) fn look_up_hangs(world: &Arc<World>, number: usize) -> bool {
    let now = world.now();
    let hangs = lock(&world.network).look_ups_hang(number, now) && world.random(|random| random.percent(60));
    if hangs {
        lock(&world.network).reset(number, now);
        tokio::spawn(ask(Arc::clone(world), number, None));
    }
    hangs
}

/// A replica begins to scan the recorded restrictions. Clients that new ones concern ask it, and the scan takes long.
pub(crate) async fn begins_to_scan(world: &Arc<World>, number: usize, run: usize) {
    if happens(world, 50) {
        for turn in 0..5 {
            // Clients can ask despite the operator's as long as they last.
            let is_sought = |row: &Restriction| turn > 1 || row.kind == RestrictionKind::Denied(DenialSource::Operator);
            let unheard = any_in_force(world, |row| is_sought(row) && !lock(&world.checker).has_heard(run, row));
            if unheard.is_some() {
                tokio::spawn(ask(Arc::clone(world), number, unheard));
            }
        }
        world.pause(world.random(|random| random.within(1..60))).await;
    }
}

/// A replica that returns registers its live tokens. Before Redis has them, the session of one of them ends.
pub(crate) async fn registers_again(world: &Arc<World>, number: usize, live_tokens: &[LiveToken]) {
    if !live_tokens.is_empty() && happens(world, 20) {
        let LiveToken { tenant, session, .. } = world.random(|random| random.pick(live_tokens));
        let (tenant, told) = (tenant_number(tenant.as_str()), any_but(world, number));
        let sessions = lock(&world.clerk).sessions_of(tenant, &Subject::Session(session));
        for session in sessions {
            let told = told.clone();
            tokio::spawn(clerk::happens_as(Arc::clone(world), tenant, session, Happening::SessionEnds, told));
        }
        world.pause(world.random(|random| random.within(1..60))).await;
    }
}

/// A replica reads the log to its end before it is ready. Its connections may close. Meanwhile it issues a token that no other
/// replica can guess, and whose session ends.
pub(crate) async fn reads_to_end(world: &Arc<World>, number: usize) {
    if happens(world, 10) {
        reset(world, number);
    }
    let unknown = unknown_sessions(world, Happening::SessionEnds);
    if !unknown.is_empty() && happens(world, 30) {
        let (tenant, session) = world.random(|random| random.pick(&unknown));
        let Some(run) = running(world, number) else { return };
        clients::ask_with_new(world, run, tenant, session);
        world.pause(world.random(|random| random.within(1..60))).await;
        let world = Arc::clone(world);
        tokio::spawn(async move {
            world.pause(world.random(|random| random.within(50..2000))).await;
            let told = any_but(&world, number);
            clerk::happens_as(world, tenant, session, Happening::SessionEnds, told).await;
        });
    }
}

/// A run scans the recorded restrictions: it has read another page.
pub(crate) fn has_scanned(world: &Arc<World>, number: usize, run: usize) {
    if happens(world, 5) {
        reset(world, number);
    }
    let Some(last) = lock(&world.checker).last_token_of(run) else { return };
    if happens(world, 25) {
        happens_to(world, tenant_number(last.tenant.as_str()), last.session);
    }
}

/// Redis has what a replica wrote that is not ready yet, most likely what it learned in an outage.
pub(crate) fn is_recorded_late(world: &Arc<World>, number: usize) {
    if happens(world, 10) {
        faults::crash_now(world, number);
    }
}

/// Redis has what a replica wrote on its return. Others find its tasks before they read its restrictions.
pub(crate) fn lag_behind(world: &World, number: usize) {
    if happens(world, 40) {
        (0..REPLICAS).filter(|other| *other != number).for_each(|other| lag(world, other));
    }
}

/// A replica is about to be told an older event than another one. It may not have read the newer one yet.
pub(crate) fn is_told_older(world: &World, number: usize) {
    if happens(world, 50) {
        lag(world, number);
    }
}

fn reset(world: &World, number: usize) {
    let now = world.now();
    lock(&world.faults).disturb(now, now);
    lock(&world.network).reset(number, now);
}

fn lag(world: &World, number: usize) {
    let now = world.now();
    let until = now.after(Duration::from_millis(world.random(|random| random.within(100..500))));
    lock(&world.faults).disturb(now, until);
    lock(&world.network).lag(number, until);
}

/// A replica is about to store tasks at the end of its return. It may crash.
pub(crate) fn are_late_tasks_sent(world: &Arc<World>, number: usize) {
    if happens(world, 25) {
        faults::crash_now(world, number);
    }
}

/// Redis has tasks that a replica stored at the end of its return. Soon the replica crashes, or a failover loses them, and often
/// nothing from before.
pub(crate) fn are_late_tasks_stored(world: &Arc<World>, number: usize) {
    if happens(world, 30) {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            let longest = world.random(|random| random.pick(&[20, 300]));
            let pause = world.random(|random| random.within(1..longest));
            world.pause(pause).await;
            if world.random(|random| random.percent(30)) {
                faults::crash_now(&world, number);
            } else {
                let is_exact = world.random(|random| random.percent(70));
                let lag = if is_exact { pause + 1 } else { world.random(|random| random.within(1..500)) };
                faults::fail_over_now(&world, Duration::from_millis(lag));
            }
        });
    }
}

/// A replica has stored a task of the schedule that others may be performing. It may crash.
pub(crate) fn is_stored_again(world: &Arc<World>, number: usize) {
    if happens(world, 10) {
        faults::crash_now(world, number);
    }
}

/// A replica that works issues a token. It may crash at once, and something happens to the session or its user.
pub(crate) fn issues(world: &Arc<World>, number: usize, tenant: usize, session: &str) {
    const ONE_OF: u64 = 200;
    if world.random(|random| random.within(0..ONE_OF)) == 0 && happens(world, 100) {
        faults::crash_now(world, number);
        happens_to(world, tenant, session.to_owned());
    }
}

/// A replica issues a token for a session while it has no Redis. Something may happen to the session or its user.
pub(crate) fn issues_alone(world: &Arc<World>, tenant: usize, session: &str) {
    if happens(world, 10) {
        happens_to(world, tenant, session.to_owned());
    }
}

/// Redis and replicas have lost all tokens. Users are banned.
pub(crate) fn are_tokens_lost(world: &Arc<World>) {
    for _ in 0..3 {
        let ((tenant, session), world) = (clients::any_session(world), Arc::clone(world));
        tokio::spawn(async move {
            world.pause(world.random(|random| random.within(500..8000))).await;
            clerk::happens_as(world, tenant, session, Happening::Ban, None).await;
        });
    }
}

/// A replica is cut off from Redis until `end`. Meanwhile others are told what concerns sessions to which it issues tokens.
pub(crate) fn is_cut_off(world: &Arc<World>, number: usize, end: UnixMillis) {
    for _ in 0..3 {
        tokio::spawn(end_session_elsewhere(Arc::clone(world), number, end));
    }
    tokio::spawn(restrict_unknown(Arc::clone(world), number, end));
    if happens(world, 25) {
        tokio::spawn(returns_before_another(Arc::clone(world), number, end));
    }
    for _ in 0..world.random(|random| random.pick(&[0, 1, 3])) {
        tokio::spawn(deny_elsewhere(Arc::clone(world), number, end));
    }
}

/// A session whose token Redis is about to lose: its tenant, and its number.
type Losing = (usize, usize);

/// A replica is about to be cut off for minutes. It issues a token that no other replica can guess, and whose client then asks
/// no more.
pub(crate) async fn is_about_to_be_cut_off(world: &Arc<World>, number: usize) -> Option<Losing> {
    let unknown = unknown_sessions(world, Happening::MembershipChanges);
    if unknown.is_empty() || !happens(world, 50) {
        return None;
    }
    let (tenant, session) = world.random(|random| random.pick(&unknown));
    tokio::spawn(clerk::happens_as(Arc::clone(world), tenant, session, Happening::Rename, None));
    world.pause(1500).await;
    clients::ask_with_new(world, running(world, number)?, tenant, session);
    world.pause(300).await;
    lock(&world.clerk).leave(tenant, session);
    Some((tenant, session))
}

/// The replica is cut off until `end`, and Redis loses the token. What changes its rights is told and revoked twice. Then its
/// client comes back, and another replica issues the same token, but for its end.
pub(crate) async fn is_issued_again(world: Arc<World>, number: usize, (tenant, session): Losing, end: UnixMillis) {
    const LOSES: Duration = Duration::from_secs(1);
    faults::fail_over_now(&world, LOSES);
    world.pause(world.random(|random| random.within(2500..6000))).await;
    let told = any_but(&world, number);
    tokio::spawn(clerk::happens_as(Arc::clone(&world), tenant, session, Happening::MembershipChanges, told));
    let before = world.random(|random| random.pick(&[1000, 3000, 6000]));
    world.sleep_until(UnixMillis(end.0 - before)).await;
    lock(&world.clerk).speak_again(tenant, session);
    if let Some(other) = any_but(&world, number) {
        clients::ask_with_new(&world, other, tenant, session);
    }
}

/// While a replica is cut off until `end`, the operator tells another one to deny a session. Clerk knows nothing of it: when the
/// replica returns, the client has a new session token, and asks for the first time since.
async fn deny_elsewhere(world: Arc<World>, number: usize, end: UnixMillis) {
    const LASTS: Duration = Duration::from_hours(1);
    world.pause(world.random(|random| random.within(100..8000))).await;
    let ((tenant, session), told) = (clients::any_session(&world), any_but(&world, number));
    if told.is_none() || end <= world.now() {
        return;
    }
    let subject = Subject::Session(lock(&world.clerk).session_id(tenant, session).to_owned());
    lock(&world.clerk).fall_silent(tenant, session);
    let denied = Arc::clone(&world);
    tokio::spawn(async move {
        operator::request(&denied, TENANTS[tenant], &subject, None, Action::Deny(LASTS), told).await;
    });
    world.sleep_until(UnixMillis(end.0 - 1000)).await;
    lock(&world.clerk).speak_again(tenant, session);
    let now = world.now();
    lock(&world.clerk).mint(tenant, session, now);
}

/// A session ends, and another replica is told. Later, its client asks the replica that is cut off.
async fn end_session_elsewhere(world: Arc<World>, number: usize, end: UnixMillis) {
    const HEARD_AFTER: u64 = 4500;
    const TAKES: i64 = 9000;
    let start = u64::try_from(end.0 - world.now().0 - TAKES).unwrap_or(0);
    world.pause(world.random(|random| random.within(100..start.max(101)))).await;
    let ((tenant, session), other) = (clients::any_session(&world), any_but(&world, number));
    let (Some(other), true) = (other, world.now().0 + TAKES < end.0 + 1000) else { return };
    clients::ask_with_new(&world, other.clone(), tenant, session);
    world.pause(world.random(|random| random.within(50..500))).await;
    tokio::spawn(clerk::happens_as(Arc::clone(&world), tenant, session, Happening::SessionEnds, Some(other)));
    world.pause(HEARD_AFTER + world.random(|random| random.within(0..2000))).await;
    if let Some(run) = running(&world, number) {
        clients::ask_again(&world, run, tenant, session);
    }
}

/// If it is cut off for longer than the pause before the second revocation, it issues tokens that no other replica can find, and
/// that it has to revoke: any replica is told, most likely another one.
async fn restrict_unknown(world: Arc<World>, number: usize, end: UnixMillis) {
    const SECOND_AFTER: Duration = Duration::from_secs(165);
    const ANY: [Happening; 4] =
        [Happening::SessionEnds, Happening::Rename, Happening::MembershipChanges, Happening::OrganizationDeleted];
    world.pause(world.random(|random| random.within(2500..8000))).await;
    while world.now().after(SECOND_AFTER) < end {
        let happening = world.random(|random| random.pick(&ANY));
        let unknown = unknown_sessions(&world, happening);
        if !unknown.is_empty() {
            let (tenant, session) = world.random(|random| random.pick(&unknown));
            let tell = |happening, told| {
                tokio::spawn(clerk::happens_as(Arc::clone(&world), tenant, session, happening, told));
            };
            if happening != Happening::SessionEnds {
                // No other token has the new client ID.
                tell(Happening::Rename, any_but(&world, number));
                world.pause(world.random(|random| random.within(20..1000))).await;
            }
            let Some(run) = running(&world, number) else { return };
            clients::ask_with_new(&world, run.clone(), tenant, session);
            world.pause(world.random(|random| random.within(20..3000))).await;
            if matches!(happening, Happening::MembershipChanges | Happening::OrganizationDeleted) {
                lock(&world.clerk).leave(tenant, session);
            }
            let is_it = world.random(|random| random.percent(20));
            tell(happening, if is_it { Some(run) } else { any_but(&world, number) });
        }
        world.pause(world.random(|random| random.within(2000..20_000))).await;
    }
}

/// A second replica is cut off for longer. Both issue tokens to members of an organization that the third knows to be deleted. Ably
/// cannot be used when they return: what the first one finds is not revoked yet when the second one finds more.
async fn returns_before_another(world: Arc<World>, number: usize, end: UnixMillis) {
    const RETURNS_AFTER: Duration = Duration::from_secs(4);
    const HEARD_AFTER: u64 = 4500;
    const TAKES: Duration = Duration::from_secs(9);
    let [first, second, third] = [number, (number + 1) % REPLICAS, (number + 2) % REPLICAS];
    let unknown = unknown_sessions(&world, Happening::OrganizationDeleted);
    let is_too_short = end <= world.now().after(TAKES) || lock(&world.faults).are_over(end.after(2 * RETURNS_AFTER));
    if unknown.is_empty() || is_too_short {
        return;
    }
    let (tenant, unknown) = world.random(|random| random.pick(&unknown));
    let Some(other) = lock(&world.clerk).another_member(tenant, unknown) else { return };
    faults::cut_off_now(&world, second, end.after(RETURNS_AFTER));
    world.pause(2500).await;
    let told = running(&world, third);
    // No other token has the new client ID.
    tokio::spawn(clerk::happens_as(Arc::clone(&world), tenant, unknown, Happening::Rename, told.clone()));
    world.pause(500).await;
    for member in [other, unknown] {
        let now = world.now();
        lock(&world.clerk).mint(tenant, member, now);
    }
    tokio::spawn(clerk::happens_as(Arc::clone(&world), tenant, other, Happening::OrganizationDeleted, told));
    world.pause(HEARD_AFTER + world.random(|random| random.within(0..500))).await;
    for (number, member) in [(first, other), (second, unknown)] {
        if let Some(run) = running(&world, number) {
            clients::ask_again(&world, run, tenant, member);
        }
    }
    world.sleep_until(end).await;
    faults::fail_ably_now(&world, end.after(2 * RETURNS_AFTER));
}

/// Shortly before `until`, sessions end. No other replica can guess their tokens, and some clients exchange their token
/// requests after the first revocation.
pub(crate) async fn end_unknown_sessions(world: Arc<World>, until: UnixMillis) {
    world.sleep_until(UnixMillis(until.0 - 12_000)).await;
    while world.now() < until {
        world.pause(world.random(|random| random.within(100..1000))).await;
        let unknown = unknown_sessions(&world, Happening::SessionEnds);
        let run = world.random(|random| lock(&world.replicas).any(random));
        let (false, Some(run)) = (unknown.is_empty(), run) else { continue };
        let (tenant, session) = world.random(|random| random.pick(&unknown));
        let told = any_but(&world, run.number);
        clients::ask_with_new(&world, run, tenant, session);
        world.pause(world.random(|random| random.within(100..1000))).await;
        tokio::spawn(clerk::happens_as(Arc::clone(&world), tenant, session, Happening::SessionEnds, told));
    }
}

fn running(world: &World, number: usize) -> Option<Run> {
    lock(&world.replicas).running().find(|run| run.number == number).cloned()
}

/// Any replica but this one.
fn any_but(world: &World, number: usize) -> Option<Run> {
    let others: Vec<_> = lock(&world.replicas).running().filter(|run| run.number != number).cloned().collect();
    (!others.is_empty()).then(|| world.random(|random| random.pick(&others)))
}

/// The sessions, by tenant, whose next token is revoked because of this only if it is known itself.
fn unknown_sessions(world: &World, happening: Happening) -> Vec<(usize, usize)> {
    let formats = lock(&world.replicas).formats;
    let (clerk, checker) = (lock(&world.clerk), lock(&world.checker));
    let is_unknown = |(tenant, session): &(usize, usize)| {
        let (tenant, session) = (*tenant, *session);
        let is_registered = checker.has_registered(TENANTS[tenant], clerk.session_id(tenant, session));
        match happening {
            Happening::SessionEnds => formats[tenant] != TokenFormat::Jwt && !is_registered,
            Happening::MembershipChanges | Happening::OrganizationDeleted => {
                clerk.has_organization(tenant, session) && !(formats[tenant] == TokenFormat::Jwt && is_registered)
            }
            _ => true,
        }
    };
    let all = (0..TENANTS.len()).flat_map(|tenant| (0..clerk.session_count()).map(move |session| (tenant, session)));
    all.filter(is_unknown).collect()
}

/// A replica puts back a task of the schedule that it could not perform. It may wait until the task is stored again.
pub(crate) async fn puts_back(world: &World, task: &StoredTask) {
    const MOST_SECONDS: usize = 40;
    let is_stored_again = || {
        let redis = lock(&world.redis);
        redis.master().data.tasks.get(&task.id).is_some_and(|(known, _)| known.due > task.due)
    };
    if work::is_client_id(&task.id) && happens(world, 50) {
        for _ in 0..MOST_SECONDS {
            if is_stored_again() || lock(&world.faults).are_over(world.now()) {
                return;
            }
            world.pause(1000).await;
        }
    }
}

/// A run begins to record restrictions. It is told an older event that waited for this.
pub(crate) fn records(world: &World, run: usize, restrictions: &[Restriction]) {
    let run = lock(&world.replicas).running().find(|running| running.run == run).cloned();
    if let Some(run) = run {
        lock(&world.clerk).is_recording(restrictions, &run);
    }
}

/// Something happens to a session or its user.
fn happens_to(world: &Arc<World>, tenant: usize, session: String) {
    let sessions = lock(&world.clerk).sessions_of(tenant, &Subject::Session(session));
    for session in sessions {
        tokio::spawn(clerk::happens(Arc::clone(world), tenant, session));
    }
}

fn tenant_number(name: &str) -> usize {
    TENANTS.iter().position(|known| *known == name).unwrap()
}

/// Clients ask a replica for some tokens: any clients, or those that a restriction concerns.
async fn ask(world: Arc<World>, number: usize, restriction: Option<Restriction>) {
    let spread = world.random(|random| random.pick(&[4, 4, 30, 300]));
    for _ in 0..4 {
        world.pause(world.random(|random| random.within(0..spread))).await;
        let Some(run) = running(&world, number) else { continue };
        let Some(Restriction { tenant, subject, .. }) = &restriction else {
            clients::ask_for_any(&world, run);
            continue;
        };
        let tenant = tenant_number(tenant.as_str());
        let sessions = lock(&world.clerk).sessions_of(tenant, subject);
        if !sessions.is_empty() {
            clients::ask_again(&world, run, tenant, world.random(|random| random.pick(&sessions)));
        }
    }
}

//! Simulated clients, which ask replicas for tokens. A token is issued by the steps of `issuer.rs`.

use std::{sync::Arc, time::Duration};

use ably_clerk_auth::{
    ably::TokenFormat,
    clock::UnixMillis,
    revocation,
    store::{Health, LiveToken, OnFailure, StoreError, Verdict},
    tenant::TenantName,
};

use crate::{
    checker::{Decision, IssuedToken, Request},
    clerk::SessionToken,
    moments,
    replica::{Run, TENANTS},
    schedule::is_long,
    world::{World, lock},
};

/// Clients ask until `until`, in a schedule of a length.
pub(crate) async fn ask(world: Arc<World>, until: UnixMillis, length: Duration) {
    let pauses: &[u64] = if is_long(length) { &[4000] } else { &[150, 600, 4000, 20_000] };
    let pauses = world.random(|random| random.pick(pauses));
    while world.now() < until {
        world.pause(world.random(|random| random.within(1..pauses))).await;
        let Some(replica) = world.random(|random| lock(&world.replicas).any(random)) else { continue };
        ask_for_any(&world, replica);
    }
}

/// Clients get session tokens until `until`, whether or not they ask for tokens of Ably.
pub(crate) async fn refresh(world: Arc<World>, until: UnixMillis) {
    while world.now() < until {
        world.pause(world.random(|random| random.within(1..3000))).await;
        let (tenant, session) = any_session(&world);
        let now = world.now();
        lock(&world.clerk).mint(tenant, session, now);
    }
}

pub(crate) fn any_session(world: &World) -> (usize, usize) {
    world.random(|random| (random.index(TENANTS.len()), random.index(lock(&world.clerk).session_count())))
}

/// A client asks a replica, with the session token that it has or with a new one.
pub(crate) fn ask_for_any(world: &Arc<World>, replica: Run) {
    let ((tenant, session), is_fresh) = (any_session(world), world.random(|random| random.percent(35)));
    let now = world.now();
    let known = lock(&world.clerk).last_token(tenant, session, replica.clock(now)).filter(|_| !is_fresh);
    if let Some(token) = known.or_else(|| lock(&world.clerk).mint(tenant, session, now)) {
        ask_with(world, replica, tenant, token);
    }
}

/// The client of a session asks a replica with a new session token.
pub(crate) fn ask_with_new(world: &Arc<World>, replica: Run, tenant: usize, session: usize) {
    let now = world.now();
    if let Some(token) = lock(&world.clerk).mint(tenant, session, now) {
        ask_with(world, replica, tenant, token);
    }
}

/// The client of a session asks a replica with the session token that it has.
pub(crate) fn ask_again(world: &Arc<World>, replica: Run, tenant: usize, session: usize) {
    let by_clock = replica.clock(world.now());
    if let Some(token) = lock(&world.clerk).last_token(tenant, session, by_clock) {
        ask_with(world, replica, tenant, token);
    }
}

fn ask_with(world: &Arc<World>, replica: Run, tenant: usize, token: SessionToken) {
    let issuing = issue(Arc::clone(world), replica.clone(), tenant, token);
    tokio::spawn(async move { replica.run_until_crash(issuing).await });
}

/// Where a client ID comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameSource {
    /// The session token.
    Claim,
    /// A look-up, or the cache of an earlier one.
    Users,
}

async fn issue(world: Arc<World>, replica: Run, tenant_number: usize, token: SessionToken) {
    let asked_at = world.now();
    let now = replica.clock(asked_at);
    let tenant = TenantName::parse(TENANTS[tenant_number]).unwrap();
    let format = lock(&world.replicas).formats[tenant_number];
    let user = token.session.user_id.clone();
    let source = if tenant_number == 0 { NameSource::Claim } else { NameSource::Users };
    let request = |client_id: Option<String>| Request {
        tenant: tenant.clone(),
        token: token.clone(),
        client_id,
        source,
        asked_at,
    };
    let refused = |client_id: Option<String>, decision| {
        world
            .trace(|| format!("replica {}: {decision:?} for {} of {tenant}", replica.number, token.session.session_id));
        let end = world.now();
        lock(&world.checker).decided(&request(client_id), replica.run, decision, &lock(&world.faults), end);
    };
    if let Err(decision) = check(&replica, &tenant, &token, None, now) {
        return refused(None, decision);
    }
    let client_id = match source {
        NameSource::Claim => token.name.clone(),
        NameSource::Users => {
            let name = lock(&world.clerk).name_of(tenant_number, &user);
            lock(&replica.users).entry((tenant.to_string(), user.clone())).or_insert(name).clone()
        }
    };
    let Some(client_id) = client_id else { return refused(None, Decision::Nameless) };
    let ttl = Duration::from_secs(world.random(|random| random.pick(&[100, 1800, 3600])));
    let live_token = LiveToken {
        tenant: tenant.clone(),
        user,
        session: token.session.session_id.clone(),
        organization: token.session.organization.as_ref().map(|organization| organization.id.clone()),
        client_id: client_id.clone(),
        format,
        key: lock(&world.replicas).keys_of(replica.number).remove(0),
        until: revocation::ends_by(format, ttl, now),
    };
    lock(&world.checker).registers(&live_token);
    let put = replica.store.put_live_token(live_token.clone(), now).await;
    if put == Err(StoreError::Full) {
        return refused(Some(client_id), Decision::Full);
    }
    let is_in_redis = put.is_ok() && lock(&world.redis).is_followed_by(replica.run);
    if let Err(decision) = check(&replica, &tenant, &token, Some(&client_id), now) {
        return refused(Some(client_id), decision);
    }
    let signed_at = world.now();
    let refuses = lock(&world.replicas).on_failure == OnFailure::Refuse;
    if refuses && lock(&world.faults).is_without_redis(replica.number, replica.started_at, asked_at) {
        lock(&world.checker).violations.push(format!("1: replica {} issues without Redis", replica.number));
    }
    if lock(&world.faults).is_starting_without_redis(replica.number, replica.started_at, asked_at) {
        lock(&world.checker).violations.push(format!("1: replica {} issues before it is ready", replica.number));
    }
    world.trace(|| format!("replica {} (run {}) issues {live_token:?}", replica.number, replica.run));
    let session = live_token.session.clone();
    let registered_since = is_in_redis.then_some(asked_at);
    let issued = IssuedToken::new(live_token, token.session.issued_at, replica.run, signed_at, registered_since);
    let number = {
        let mut checker = lock(&world.checker);
        checker.decided(&request(Some(client_id)), replica.run, Decision::Clear, &lock(&world.faults), signed_at);
        checker.issued(issued)
    };
    if replica.store.health() == Health::Ready {
        moments::issues(&world, replica.number, tenant_number, &session);
    } else {
        moments::issues_alone(&world, tenant_number, &session);
    }
    tokio::spawn(exchange(Arc::clone(&world), number, format, replica.clock(signed_at), ttl));
}

fn check(
    replica: &Run,
    tenant: &TenantName,
    token: &SessionToken,
    client_id: Option<&str>,
    now: UnixMillis,
) -> Result<(), Decision> {
    replica.store.may_issue().map_err(|_| Decision::Unavailable)?;
    match replica.store.restrictions().verdict(tenant, &token.session, client_id, now) {
        Verdict::Clear => Ok(()),
        Verdict::Denied => Err(Decision::Denied),
        Verdict::Outdated => Err(Decision::Outdated),
    }
}

/// The client uses its token. A token request becomes a token when it is exchanged; a JWT is dated in whole seconds.
async fn exchange(world: Arc<World>, number: usize, format: TokenFormat, signed_at: UnixMillis, ttl: Duration) {
    let dated = if format == TokenFormat::Jwt {
        UnixMillis(signed_at.0 - signed_at.0 % 1000)
    } else {
        world.pause(world.random(|random| random.pick(&[0, 0, 40, 1000, 60_000, 118_000]))).await;
        world.now()
    };
    lock(&world.checker).at_ably(number, dated, dated.after(ttl));
}

/// Asks every replica for its verdict on every session.
pub(crate) fn probe(world: &Arc<World>) {
    let now = world.now();
    let replicas: Vec<Run> = lock(&world.replicas).running().cloned().collect();
    let sessions = lock(&world.clerk).session_count();
    for replica in replicas {
        for (number, name) in TENANTS.iter().enumerate() {
            let tenant = TenantName::parse(name).unwrap();
            for session in 0..sessions {
                let by_clock = replica.clock(now);
                let last = lock(&world.clerk).last_token(number, session, by_clock);
                for token in last.into_iter().chain(lock(&world.clerk).mint(number, session, now)) {
                    let client_id = token.name.clone();
                    let decision = check(&replica, &tenant, &token, client_id.as_deref(), by_clock);
                    let request =
                        Request { tenant: tenant.clone(), token, client_id, source: NameSource::Claim, asked_at: now };
                    let decision = decision.err().unwrap_or(Decision::Clear);
                    lock(&world.checker).decided(&request, replica.run, decision, &lock(&world.faults), now);
                }
            }
        }
    }
}

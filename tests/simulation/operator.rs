//! A simulated operator, who denies users and sessions, and lifts denials. A request may name a user by client ID.

use std::{sync::Arc, time::Duration};

use ably_clerk_auth::{
    ably::ClientId,
    clock::UnixMillis,
    revocation::{
        RevocationScope,
        operator::{Action, RevocationRequest},
    },
    store::Subject,
    tenant::TenantName,
};

use crate::{
    checker::Answer,
    replica::{Run, TENANTS},
    schedule::is_long,
    world::{World, lock},
};

/// The operator works until `until`, and often sends a request again until it is complete.
pub(crate) async fn work(world: Arc<World>, until: UnixMillis, length: Duration) {
    let pauses = if is_long(length) { &[25_000, 300_000] } else { &[6000, 25_000] };
    let pauses = world.random(|random| random.pick(pauses));
    loop {
        world.pause(world.random(|random| random.within(1000..pauses))).await;
        if world.now() >= until {
            return;
        }
        let (tenant, user, session, is_for_user, is_lift, duration) = world.random(|random| {
            let duration = random.pick(&[10, 30, 200, 3600]);
            (
                random.index(2),
                random.index(3),
                random.index(6),
                random.percent(60),
                random.percent(40),
                Duration::from_secs(duration),
            )
        });
        let subject = if is_for_user {
            Subject::User(format!("user_{user}"))
        } else {
            Subject::Session(format!("sess_{session}"))
        };
        let is_by_client_id = is_for_user && world.random(|random| random.percent(40));
        let names = if is_by_client_id { lock(&world.clerk).last_names_of(tenant, user) } else { Vec::new() };
        let client_id = (!names.is_empty()).then(|| world.random(|random| random.pick(&names)));
        let action = if is_lift { Action::Lift } else { Action::Deny(duration) };
        // By client ID there may be nobody to find.
        let gives_up = client_id.is_some() || world.random(|random| random.percent(50));
        while request(&world, TENANTS[tenant], &subject, client_id.as_deref(), action, None).await != Answer::Accepted
            && !gives_up
        {
            world.pause(world.random(|random| random.within(1000..3000))).await;
        }
    }
}

/// Sends a request about a subject, or about the user who has a client ID, to a certain replica, or to any.
pub(crate) async fn request(
    world: &Arc<World>,
    tenant: &str,
    subject: &Subject,
    client_id: Option<&str>,
    action: Action,
    told: Option<Run>,
) -> Answer {
    let told = told.or_else(|| world.random(|random| lock(&world.replicas).any(random)));
    let Some(replica) = told else { return Answer::None };
    let tenant = TenantName::parse(tenant).unwrap();
    let now = world.now();
    let by_clock = replica.clock(now);
    let statement = lock(&world.checker).operator_says(&tenant, subject, client_id, action, by_clock, now);
    lock(&world.checker).told(statement, replica.run, by_clock, now);
    let target = client_id.map_or_else(
        || RevocationScope::Of(subject.clone()),
        |client_id| RevocationScope::ClientId(ClientId::parse(client_id).unwrap()),
    );
    world.trace(|| format!("operator: {action:?} {target:?} of {tenant}, statement {statement}"));
    let request = RevocationRequest { tenant: Some(tenant), target, action, dry_run: false };
    let revocation = Arc::clone(&replica.revocation);
    let report = replica.run_until_crash(async move { revocation.execute(&request, by_clock).await }).await;
    let answer = match &report {
        None => Answer::None,
        Some(report) if report.as_ref().is_ok_and(|report| report.complete) => Answer::Accepted,
        Some(_) => Answer::Refused,
    };
    world.trace(|| format!("replica {} (run {}) about statement {statement}: {answer:?}", replica.number, replica.run));
    if let (Some(report), Some(_)) = (&report, client_id) {
        let (keys, ably) = (lock(&world.replicas).keys_of(replica.number), lock(&world.ably));
        if !lock(&world.checker).reported(statement, replica.run, report.as_ref().ok(), keys, &ably.revoked) {
            return answer;
        }
    }
    let redis = lock(&world.redis);
    lock(&world.checker).answered(statement, replica.run, answer, &redis, world.now());
    drop(redis);
    replica.check_kept(world, statement, now, answer);
    answer
}

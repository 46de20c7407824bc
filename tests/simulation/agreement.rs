//! Checks that replicas and Redis agree on every restriction: no replica knows less than Redis, nor more. And that no replica
//! knows more ended ones than its limit.

use std::{collections::BTreeMap, time::Duration};

use ably_clerk_auth::{
    clerk::{Claims, Organization, Scoped, Session},
    clock::UnixMillis,
    store::{ClientIdDigest, DenialSource, Restriction, RestrictionKind, Subject, Topic, Verdict},
    tenant::TenantName,
};

use crate::{
    checker::key,
    node::{RowKey, is_active},
    replica::Run,
    world::{World, lock},
};

type Rows = BTreeMap<RowKey, Restriction>;

/// Checks what every replica says of every subject in Redis. What has forgotten a deletion disagrees with what has not.
pub(crate) fn check(world: &World) {
    let (now, redis) = (world.now(), lock(&world.redis));
    let rows = &redis.master().data.rows;
    let mut checker = lock(&world.checker);
    if checker.is_forgetful() {
        return;
    }
    let mut violations = Vec::new();
    for replica in lock(&world.replicas).running() {
        let by_clock = replica.clock(now);
        let in_force = rows.values().filter(|row| is_active(row, by_clock)).count();
        let known = replica.store.stats(by_clock).restrictions;
        if known != in_force {
            violations
                .push(format!("5: Redis has {in_force} restrictions in force, replica {} {known}", replica.number));
        }
        for row in rows.values() {
            let names = match &row.subject {
                Subject::User(user) => checker.names_of(&row.tenant, user),
                _ => Vec::new(),
            };
            let is_same_verdict = sessions_of(row).iter().all(|session| {
                let mut names = names.iter().map(Option::as_deref).chain([None, Some("another")]);
                names.all(|name| {
                    replica.store.restrictions().verdict(&row.tenant, session, name, by_clock)
                        == verdict(rows, &row.tenant, session, name, by_clock)
                })
            });
            if !is_same_verdict || !is_same_lift(replica, row) {
                violations.push(format!("5: replica {} and Redis do not agree on {row:?}", replica.number));
            }
        }
    }
    checker.violations.extend(violations);
}

/// Sessions that a restriction concerns, with session tokens from before it and from after it.
fn sessions_of(row: &Restriction) -> Vec<Session> {
    let (session_id, user_id, organization) = match row.subject.clone() {
        Subject::Session(session) => (session, "user_none".to_owned(), None),
        Subject::User(user) => ("sess_none".to_owned(), user, None),
        Subject::Member { user, organization } => ("sess_none".to_owned(), user, Some(organization)),
        Subject::Organization(organization) => ("sess_none".to_owned(), "user_none".to_owned(), Some(organization)),
    };
    let session = |issued_at: UnixMillis| Session {
        user_id: user_id.clone(),
        session_id: session_id.clone(),
        issued_at,
        expires_at: issued_at.after(Duration::from_mins(1)),
        organization: organization.clone().map(|id| Organization { id, slug: None, role: None, permissions: None }),
        plans: Scoped::default(),
        features: Scoped::default(),
        factor_age: None,
        actor: None,
        claims: Claims::default(),
    };
    vec![session(row.at), session(row.at.after(Duration::from_millis(1)))]
}

/// Checks that a replica has forgotten what exceeds its limit of ended restrictions.
pub(crate) fn check_limit(world: &World) {
    let mut checker = lock(&world.checker);
    let mut violations = Vec::new();
    let replicas = lock(&world.replicas);
    for replica in replicas.running() {
        let Some(learned) = checker.last_learned(replica.run) else { continue };
        let had_ended = |RowKey(tenant, subject, topic): &&RowKey| {
            let known = replica.store.restrictions().latest(tenant, subject, *topic);
            known.is_some_and(|known| known.until <= replica.clock(learned))
        };
        let (ended, most) = (checker.said_keys().filter(had_ended).count(), replicas.limits.ended_restrictions);
        if ended > most {
            violations.push(format!("5: replica {} knows {ended} ended restrictions, at most {most}", replica.number));
        }
    }
    checker.violations.extend(violations);
}

/// The verdict that the rows of Redis give.
fn verdict(rows: &Rows, tenant: &TenantName, session: &Session, client_id: Option<&str>, now: UnixMillis) -> Verdict {
    let row = |subject: Subject, kind| rows.get(&key(tenant, subject, kind)).filter(|row| is_active(row, now));
    let user = Subject::User(session.user_id.clone());
    let denials = [DenialSource::Clerk, DenialSource::Operator].map(RestrictionKind::Denied);
    let is_denied = |subject: &Subject| denials.iter().any(|denial| row(subject.clone(), *denial).is_some());
    if is_denied(&Subject::Session(session.session_id.clone())) || is_denied(&user) {
        return Verdict::Denied;
    }
    let is_former = |mark: &Restriction| {
        client_id.is_some_and(|id| mark.kind != RestrictionKind::ClientId(Some(ClientIdDigest::of(id))))
    };
    let mut marks: Vec<_> =
        row(user, RestrictionKind::ClientId(None)).filter(|mark| is_former(mark)).into_iter().collect();
    if let Some(Organization { id, .. }) = &session.organization {
        let member = Subject::Member { user: session.user_id.clone(), organization: id.clone() };
        let subjects = [member, Subject::Organization(id.clone())];
        marks.extend(subjects.into_iter().filter_map(|subject| row(subject, RestrictionKind::NotBefore)));
    }
    if marks.iter().any(|mark| session.issued_at <= mark.at) { Verdict::Outdated } else { Verdict::Clear }
}

/// Whether a replica knows of a lift what Redis knows.
fn is_same_lift(replica: &Run, row: &Restriction) -> bool {
    let source = match row.kind {
        RestrictionKind::Lifted(source) | RestrictionKind::Denied(source) => source,
        RestrictionKind::Deleted => DenialSource::Clerk,
        RestrictionKind::NotBefore | RestrictionKind::ClientId(_) => return true,
    };
    let latest = replica.store.restrictions().latest(&row.tenant, &row.subject, Topic::Denial(source));
    let lifted_at = latest.filter(|latest| latest.kind == RestrictionKind::Lifted(source)).map(|latest| latest.at);
    if row.kind == RestrictionKind::Lifted(source) {
        lifted_at == Some(row.at)
    } else {
        lifted_at.is_none_or(|lifted_at| lifted_at < row.at)
    }
}

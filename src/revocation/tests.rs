use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    ably::{ReauthMargin, RevocationKey},
    clerk::{Change, Claims, Organization, Scoped, Session, User},
    store::{LiveToken, StoreLimits, TokenHolder, Verdict},
    tenant::fixtures,
};

pub(super) const NOW: UnixMillis = UnixMillis(1_795_290_000_000);

fn tenant(format: TokenFormat, template: &str) -> Tenant {
    fixtures::tenant("default", format, template)
}

fn tenants(tenants: Vec<Tenant>) -> Arc<Tenants> {
    Arc::new(Tenants::new(tenants))
}

fn revocation() -> Revocation {
    let store = Store::in_memory(&StoreLimits::default(), Arc::new(|_| {}));
    Revocation::new(Arc::new(store), tenants(vec![tenant(TokenFormat::Jwt, "{username}")]), NOW)
}

fn session(user: u8, session: u8, organization: Option<u8>, issued_at: UnixMillis) -> Session {
    Session {
        user_id: format!("user_{user}"),
        session_id: format!("sess_{session}"),
        issued_at,
        expires_at: issued_at.after(Duration::from_mins(1)),
        organization: organization.map(|organization| Organization {
            id: format!("org_{organization}"),
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

fn user(id: u8, banned: bool) -> User {
    User { id: format!("user_{id}"), username: Some("alice".into()), banned, deprovisioned: false }
}

fn live_token(user: &str, session: &str, organization: Option<&str>, client_id: &str) -> LiveToken {
    LiveToken {
        tenant: TenantName::default(),
        user: user.into(),
        session: session.into(),
        organization: organization.map(str::to_owned),
        client_id: client_id.into(),
        format: TokenFormat::Jwt,
        key: fixtures::key_name(),
        until: NOW.after(Duration::from_hours(1)),
    }
}

fn client_id(text: &str) -> Target {
    Target::ClientId(ClientId::parse(text).unwrap())
}

fn revocation_key(text: &str) -> Target {
    Target::RevocationKey(RevocationKey::parse(text).unwrap())
}

/// An event of few users, sessions and organizations, so that events meet. At one time a user has one name.
pub(super) fn event() -> impl Strategy<Value = Event> {
    let (id, other) = (0..2_u8, 0..2_u8);
    (id, other, 0..6_u8, 0..8_u8).prop_map(|(id, other, kind, seconds)| {
        let (user_id, organization_id) = (format!("user_{id}"), format!("org_{other}"));
        let user = |id, banned| {
            let username = [Some("alice"), Some("bob"), None][usize::from(seconds / 2 % 3)].map(str::to_owned);
            User { username, ..user(id, banned) }
        };
        let change = match kind {
            // A session has one user.
            0 => Change::SessionEnded { session_id: format!("sess_{id}"), user_id: Some(user_id), username: None },
            1 => Change::UserUpdated(user(id, true)),
            2 => Change::UserUpdated(user(id, false)),
            3 => Change::UserDeleted { user_id },
            4 => Change::MembershipChanged { user_id, organization_id },
            _ => Change::OrganizationDeleted { organization_id },
        };
        Event { at: NOW.after(Duration::from_secs(seconds.into())), change }
    })
}

/// The names that updates without a ban give a user, the latest last.
fn names(events: &[Event], user_id: &str) -> Vec<(UnixMillis, Option<String>)> {
    let plain = events.iter().filter_map(|event| match &event.change {
        Change::UserUpdated(user) if user.id == user_id && !user.banned => Some((event.at, user.username.clone())),
        _ => None,
    });
    let mut names: Vec<_> = plain.collect();
    names.sort();
    names
}

/// The verdict on a session after these events, in any order: the latest update decides whether the user is banned, nothing
/// undoes an end or a deletion, and marks count by their timestamps.
fn model(events: &[Event], session: &Session) -> Verdict {
    let mut bans = BTreeMap::new();
    let (mut ended, mut outdated) = (false, false);
    for Event { at, change } in events {
        let organization = session.organization.as_ref().map(|organization| organization.id.as_str());
        match change {
            Change::SessionEnded { session_id, .. } => ended |= *session_id == session.session_id,
            Change::UserDeleted { user_id } => ended |= *user_id == session.user_id,
            Change::UserUpdated(user) if user.id == session.user_id => {
                // Of two in the same millisecond, the ban counts.
                let is_banned = bans.entry(*at).or_insert(false);
                *is_banned |= user.banned;
            }
            Change::UserUpdated(_) => {}
            Change::MembershipChanged { user_id, organization_id } => {
                outdated |=
                    *user_id == session.user_id && organization == Some(organization_id) && session.issued_at <= *at;
            }
            Change::OrganizationDeleted { organization_id } => {
                outdated |= organization == Some(organization_id) && session.issued_at <= *at;
            }
        }
    }
    if ended || bans.last_key_value().is_some_and(|(_, is_banned)| *is_banned) {
        Verdict::Denied
    } else if outdated {
        Verdict::Outdated
    } else {
        Verdict::Clear
    }
}

proptest! {
    #[test]
    fn the_order_and_number_of_deliveries_do_not_change_the_outcome(
        events in proptest::collection::vec(event(), 0..12),
        deliveries in proptest::collection::vec(any::<prop::sample::Index>(), 0..30),
        last in Just(()).prop_perturb(|(), mut random| random.random::<u64>()),
    ) {
        let mut order: Vec<usize> = if events.is_empty() { Vec::new() } else {
            deliveries.iter().map(|index| index.index(events.len())).collect()
        };
        // Each event is delivered at least once.
        let mut rest: Vec<usize> = (0..events.len()).collect();
        let places = usize::try_from(last % 13).unwrap() % rest.len().max(1);
        rest.rotate_left(places);
        order.extend(rest);
        let revocation = revocation();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for index in order {
            runtime.block_on(revocation.apply(&TenantName::default(), &events[index], NOW)).unwrap();
        }
        for (id, number, organization, issued) in (0..2).flat_map(|id| (0..2).flat_map(move |number| {
            [None, Some(0), Some(1)].into_iter().flat_map(move |organization| {
                [0, 4, 9].map(move |issued| (id, number, organization, issued))
            })
        })) {
            let session = session(id, number, organization, UnixMillis(NOW.0 + issued * 1000));
            let names = names(&events, &session.user_id);
            for client_id in ["alice", "bob"] {
                let restrictions = revocation.store.restrictions();
                let verdict = restrictions.verdict(&TenantName::default(), &session, Some(client_id), NOW);
                let is_outdated = |(at, name): &(UnixMillis, Option<String>)| {
                    session.issued_at <= *at && name.as_deref() != Some(client_id)
                };
                match model(&events, &session) {
                    Verdict::Clear if names.last().is_some_and(is_outdated) => prop_assert_eq!(verdict, Verdict::Outdated),
                    expected => prop_assert_eq!(verdict, expected, "{:?}", session),
                }
            }
        }
    }
}

#[tokio::test]
async fn an_event_changes_nothing_if_it_is_so_old_that_a_newer_one_may_be_forgotten() {
    let revocation = revocation();
    let (day, session) = (Duration::from_hours(24), session(1, 1, None, NOW));
    let verdict = || revocation.store.restrictions().verdict(&TenantName::default(), &session, None, NOW);
    for (age, applied, expected) in [
        (2 * day + Duration::from_millis(1), Applied::Outdated, Verdict::Clear),
        (2 * day, Applied::InForce, Verdict::Denied),
    ] {
        let event = Event { at: UnixMillis(NOW.0 - clock::millis(age)), change: Change::UserUpdated(user(1, true)) };
        assert_eq!(revocation.apply(&TenantName::default(), &event, NOW).await, Ok(applied));
        assert_eq!(verdict(), expected);
    }
}

fn targets(scope: &RevocationScope, format: TokenFormat, live_tokens: &[LiveToken]) -> Vec<Target> {
    let included: Vec<_> = live_tokens.iter().filter(|live_token| scope.includes(live_token)).cloned().collect();
    let targets = scope.targets(&tenant(format, "{username}"), &included);
    targets.into_iter().map(|signed| signed.target).collect()
}

#[tokio::test]
async fn a_jwt_is_revoked_by_its_session_and_every_other_token_by_client_id() {
    let client_ids = |names: &[&str]| names.iter().map(|name| client_id(name)).collect::<Vec<_>>();
    let key = |session: &str| vec![revocation_key(session)];
    let session = RevocationScope::Of(Subject::Session("sess_1".into()));
    let member = RevocationScope::Of(Subject::Member { user: "user_1".into(), organization: "org_1".into() });
    let names = RevocationScope::ClientId(ClientId::parse("old").unwrap());
    for (scope, of_jwt, of_others) in [
        (&session, key("sess_1"), client_ids(&["alice"])),
        (&member, key("sess_1"), client_ids(&["alice"])),
        (
            &RevocationScope::Of(Subject::User("user_1".into())),
            client_ids(&["alice", "alice-2"]),
            client_ids(&["alice", "alice-2"]),
        ),
        (&names, client_ids(&["old"]), client_ids(&["old"])),
    ] {
        for format in [TokenFormat::Jwt, TokenFormat::TokenRequest, TokenFormat::TokenDetails] {
            let of_session = [
                live_token("user_1", "sess_1", Some("org_1"), "alice"),
                live_token("user_1", "sess_2", None, "alice"),
                live_token("user_1", "sess_3", Some("org_2"), "alice-2"),
            ];
            let live = of_session.map(|live_token| LiveToken { format, ..live_token });
            let live = if matches!(scope, RevocationScope::ClientId(_)) { &[] } else { &live[..] };
            let expected = if format == TokenFormat::Jwt { &of_jwt } else { &of_others };
            assert_eq!(targets(scope, format, live), *expected, "{scope:?} {format}");
        }
    }
    // A JWT names its session, so it can be revoked although no live token is known.
    assert_eq!(targets(&session, TokenFormat::Jwt, &[]), key("sess_1"));
    assert_eq!(targets(&session, TokenFormat::TokenRequest, &[]), []);
}

#[test]
fn ids_from_the_store_that_no_token_can_have_are_not_revoked() {
    let forged = "alice\n2026-01-01 INFO token issued";
    let live = [live_token("user_1", forged, None, forged), live_token("user_1", "sess_1", None, "alice")];
    let (user, session) =
        (RevocationScope::Of(Subject::User("user_1".into())), RevocationScope::Of(Subject::Session(forged.into())));
    assert_eq!(targets(&user, TokenFormat::Jwt, &live), [client_id("alice")]);
    assert_eq!(targets(&session, TokenFormat::Jwt, &live[..1]), []);
}

#[test]
fn after_a_change_of_format_tokens_of_the_former_format_are_revoked_too() {
    let of = |format| LiveToken { format, ..live_token("user_1", "sess_1", Some("org_1"), "alice") };
    let both = [client_id("alice"), revocation_key("sess_1")];
    for scope in [
        RevocationScope::Of(Subject::Session("sess_1".into())),
        RevocationScope::Of(Subject::Organization("org_1".into())),
    ] {
        let live = [of(TokenFormat::TokenRequest), of(TokenFormat::Jwt)];
        for format in [TokenFormat::TokenRequest, TokenFormat::Jwt] {
            assert_eq!(targets(&scope, format, &live), both, "{scope:?} {format}");
        }
    }
    let live = [of(TokenFormat::TokenRequest)];
    assert_eq!(targets(&RevocationScope::Of(Subject::Session("sess_1".into())), TokenFormat::Jwt, &live), both);
}

#[test]
fn the_tokens_of_a_session_are_looked_up_by_its_user_also_when_its_denial_is_written_to_redis_again() {
    let tenant = tenant(TokenFormat::TokenRequest, "{username}");
    for (user_id, holder) in
        [(Some("user_1"), TokenHolder::User("user_1".into())), (None, TokenHolder::Session("sess_1".into()))]
    {
        let user_id = user_id.map(str::to_owned);
        let change = Change::SessionEnded { session_id: "sess_1".into(), user_id, username: None };
        let [denial] = &restrictions_of(&Event { at: NOW, change }, &tenant, NOW)[..] else { panic!("one denial") };
        let written: Restriction = serde_json::from_str(&serde_json::to_string(denial).unwrap()).unwrap();
        let scope = RevocationScope::of(&written).unwrap();
        assert_eq!(scope.holder(written.session_user.as_deref()), holder);
    }
}

#[test]
fn an_update_gives_the_client_id_if_it_depends_on_nothing_but_the_username() {
    let named = |template, username: Option<&str>| {
        let user = User { username: username.map(str::to_owned), ..user(1, false) };
        let event = Event { at: NOW, change: Change::UserUpdated(user) };
        let restrictions = restrictions_of(&event, &tenant(TokenFormat::Jwt, template), NOW);
        restrictions.iter().find_map(|restriction| {
            if let RestrictionKind::ClientId(name) = restriction.kind { Some(name) } else { None }
        })
    };
    let is = |client_id| Some(Some(ClientIdDigest::of(client_id)));
    assert_eq!(named("{username}", Some("alice")), is("alice"));
    assert_eq!(named("{username}/{user_id}", Some("alice")), is("alice/user_1"));
    assert_eq!(named("{username}", None), Some(None));
    assert_eq!(named("{username}", Some("")), Some(None));
    assert_eq!(named("u-{user_id}", Some("alice")), None);
    assert_eq!(named("{claim.handle}", Some("alice")), None);
    assert_eq!(named("{username}-{claim.handle}", Some("alice")), None);
}

#[test]
fn after_a_change_of_client_id_the_tokens_with_all_others_are_revoked() {
    let live = [live_token("user_1", "sess_1", None, "alice"), live_token("user_1", "sess_2", None, "alice2")];
    let of = |client_id: Option<&str>| {
        let scope =
            RevocationScope::FormerClientIds { user: "user_1".into(), client_id: client_id.map(ClientIdDigest::of) };
        assert_eq!(scope.margin(TokenFormat::Jwt), ReauthMargin::Reauthentication);
        targets(&scope, TokenFormat::Jwt, &live)
    };
    assert_eq!(of(Some("alice2")), [client_id("alice")]);
    assert_eq!(of(Some("alice3")), [client_id("alice"), client_id("alice2")]);
    assert_eq!(of(None), [client_id("alice"), client_id("alice2")]);
}

#[test]
fn a_live_token_is_kept_until_the_token_has_expired() {
    let seconds = |format, ttl| (ends_by(format, Duration::from_mins(ttl), NOW).0 - NOW.0) / 1000;
    assert_eq!(seconds(TokenFormat::TokenRequest, 60), 62 * 60 + 30);
    assert_eq!(seconds(TokenFormat::Jwt, 60), 60 * 60 + 30);
    assert_eq!(seconds(TokenFormat::TokenDetails, 10), 10 * 60 + 30);
    assert_eq!(denial(Duration::from_mins(10), 5000), Duration::from_secs(610));
}

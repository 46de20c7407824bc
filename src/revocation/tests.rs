use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::Map;

use super::*;
use crate::{
    clerk::{Change, Organization, Scoped, Session, User},
    store::{Bounds, Grant, MemoryStore, Verdict},
};

const NOW: UnixMillis = UnixMillis(1_795_290_000_000);

fn authority(format: TokenFormat, template: &str) -> Authority {
    Authority {
        tenant: TenantName::default(),
        denial: Duration::from_mins(10),
        format,
        client_id: template.parse().unwrap(),
        users: None,
        ably: None,
        counts: RevocationCounts::default(),
    }
}

fn revocation() -> Revocation {
    let store = MemoryStore::new(&Bounds::default(), Arc::new(|_| {}));
    Revocation::new(Arc::new(store), vec![authority(TokenFormat::Jwt, "{username}")])
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
        claims: Map::new(),
    }
}

fn user(id: u8, banned: bool) -> User {
    User { id: format!("user_{id}"), username: Some("alice".into()), banned, deprovisioned: false, updated_at: 0 }
}

fn grant(user: &str, session: &str, organization: Option<&str>, client_id: &str) -> Grant {
    Grant {
        tenant: TenantName::default(),
        user: user.into(),
        session: session.into(),
        organization: organization.map(str::to_owned),
        client_id: client_id.into(),
        until: NOW.after(Duration::from_hours(1)),
    }
}

/// What can happen, among few enough that events meet.
fn change() -> impl Strategy<Value = Change> {
    let (id, other) = (0..2_u8, 0..2_u8);
    (id, other, 0..6_u8).prop_map(|(id, other, kind)| {
        let (user_id, organization_id) = (format!("user_{id}"), format!("org_{other}"));
        match kind {
            0 => Change::SessionEnded { session_id: format!("sess_{other}"), user_id },
            1 => Change::UserUpdated(user(id, true)),
            2 => Change::UserUpdated(user(id, false)),
            3 => Change::UserDeleted { user_id },
            4 => Change::MembershipChanged { user_id, organization_id },
            _ => Change::OrganizationDeleted { organization_id },
        }
    })
}

/// What a session is to be told after these events, whatever their order: the latest says whether a user is barred, an
/// end is an end, and marks count by their time.
fn model(events: &[Event], session: &Session) -> Verdict {
    let mut barred = BTreeMap::new();
    let (mut ended, mut outdated) = (false, false);
    for Event { at, change } in events {
        let organization = session.organization.as_ref().map(|organization| organization.id.as_str());
        match change {
            Change::SessionEnded { session_id, .. } => ended |= *session_id == session.session_id,
            Change::UserDeleted { user_id } => ended |= *user_id == session.user_id,
            Change::UserUpdated(user) if user.id == session.user_id => {
                // Of two in the same millisecond the one that bars.
                let barred = barred.entry(*at).or_insert(false);
                *barred |= user.banned;
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
    if ended || barred.last_key_value().is_some_and(|(_, barred)| *barred) {
        Verdict::Denied
    } else if outdated {
        Verdict::Outdated
    } else {
        Verdict::Clear
    }
}

proptest! {
    #[test]
    fn deliveries_in_any_order_and_several_times_come_to_the_same(
        events in proptest::collection::vec((change(), 0..8_i64), 0..12),
        deliveries in proptest::collection::vec(any::<prop::sample::Index>(), 0..30),
        last in Just(()).prop_perturb(|(), mut random| random.random::<u64>()),
    ) {
        let events: Vec<Event> =
            events.into_iter().map(|(change, at)| Event { at: UnixMillis(NOW.0 + at * 1000), change }).collect();
        let mut order: Vec<usize> = if events.is_empty() { Vec::new() } else {
            deliveries.iter().map(|index| index.index(events.len())).collect()
        };
        // Each comes once at least.
        let mut rest: Vec<usize> = (0..events.len()).collect();
        let turns = usize::try_from(last % 13).unwrap() % rest.len().max(1);
        rest.rotate_left(turns);
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
            let verdict = revocation.store.facts().verdict(&TenantName::default(), &session, NOW);
            prop_assert_eq!(verdict, model(&events, &session), "{:?}", session);
        }
    }
}

#[test]
fn a_jwt_is_revoked_by_its_session_and_all_else_by_client_id() {
    let live = [
        grant("user_1", "sess_1", Some("org_1"), "alice"),
        grant("user_1", "sess_2", None, "alice"),
        grant("user_1", "sess_3", Some("org_2"), "alice-2"),
    ];
    let client_ids = |names: &[&str]| names.iter().map(|name| Target::ClientId((*name).to_owned())).collect::<Vec<_>>();
    let key = |session: &str| vec![Target::RevocationKey(session.to_owned())];
    let session = Whom::Session("sess_1".into());
    let member = Whom::Member { user: "user_1".into(), organization: "org_1".into() };
    let names = Whom::Names(BTreeSet::from(["old".to_owned()]));
    for (whom, of_jwt, of_others) in [
        (&session, key("sess_1"), client_ids(&["alice"])),
        (&member, key("sess_1"), client_ids(&["alice"])),
        (&Whom::User("user_1".into()), client_ids(&["alice", "alice-2"]), client_ids(&["alice", "alice-2"])),
        (&names, client_ids(&["old"]), client_ids(&["old"])),
    ] {
        let live: Vec<Grant> = if *whom == session { live[..1].to_vec() } else { live.to_vec() };
        assert_eq!(targets(whom, TokenFormat::Jwt, &live), of_jwt, "{whom:?}");
        for format in [TokenFormat::TokenRequest, TokenFormat::TokenDetails] {
            assert_eq!(targets(whom, format, &live), of_others, "{whom:?} {format}");
        }
    }
    // A session whose tokens nobody remembers can still be told to Ably where a JWT has its name.
    assert_eq!(targets(&session, TokenFormat::Jwt, &[]), key("sess_1"));
    assert_eq!(targets(&session, TokenFormat::TokenRequest, &[]), []);
}

#[test]
fn a_change_of_name_is_one_only_where_tokens_are_out_under_another() {
    let live = [grant("user_1", "sess_1", None, "alice")];
    let event = |username: Option<&str>| Event {
        at: NOW,
        change: Change::UserUpdated(User { username: username.map(str::to_owned), ..user(1, false) }),
    };
    let names = |template, username, live: &[Grant]| {
        let effect = Effect::of(&event(username), &authority(TokenFormat::Jwt, template), live, NOW);
        effect.revoke.map(|(whom, margin)| {
            assert_eq!(margin, Margin::Reauthentication);
            whom
        })
    };
    let old = Some(Whom::Names(BTreeSet::from(["alice".to_owned()])));
    assert_eq!(names("{username}", Some("alice"), &live), None);
    assert_eq!(names("{username}", Some("alice2"), &live), old);
    assert_eq!(names("{username}", Some("alice2"), &[]), None);
    assert_eq!(names("u-{user_id}", Some("alice2"), &[grant("user_1", "sess_1", None, "u-user_1")]), None);
    assert_eq!(names("{claim.handle}", Some("alice2"), &live), None);
}

#[test]
fn a_token_ends_no_later_than_it_is_remembered() {
    let minutes = |format, ttl| (ends_by(format, Duration::from_mins(ttl), NOW).0 - NOW.0) / 60_000;
    assert_eq!(minutes(TokenFormat::TokenRequest, 60), 62);
    assert_eq!(minutes(TokenFormat::Jwt, 60), 60);
    assert_eq!(minutes(TokenFormat::TokenDetails, 10), 10);
    assert_eq!(denial(Duration::from_mins(10), 5000), Duration::from_secs(610));
}

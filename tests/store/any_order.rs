//! Events arrive in any order, more than once, at any replica: all replicas come to the same verdict.

use ably_clerk_auth::{
    clock::UnixMillis,
    store::{
        ClientIdDigest, DenialSource, Health, OnFailure, Restriction, RestrictionKind, StoreLimits, Subject, Verdict,
    },
    tenant::TenantName,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::runtime::Runtime;

use crate::{
    fixtures::{DENIED, LIFTED, NOW, Replica, ago, eventually, session},
    redis_server::RedisServer,
};

fn a_restriction() -> impl Strategy<Value = Restriction> {
    let subjects = vec![
        Subject::Session("sess_1".into()),
        Subject::User("user_1".into()),
        Subject::Member { user: "user_1".into(), organization: "org_1".into() },
        Subject::Organization("org_1".into()),
    ];
    let kinds = vec![
        LIFTED,
        DENIED,
        RestrictionKind::Lifted(DenialSource::Operator),
        RestrictionKind::Denied(DenialSource::Operator),
        RestrictionKind::Deleted,
        RestrictionKind::NotBefore,
        RestrictionKind::ClientId(None),
    ];
    // Few times, subjects and tenants, so that restrictions collide; some have expired.
    let until = prop_oneof![4 => 1..5_i64, 1 => -5..=0_i64].prop_map(|minutes| UnixMillis(NOW.0 + minutes * 60_000));
    let (subject, kind) = (prop::sample::select(subjects), prop::sample::select(kinds));
    (prop::sample::select(TENANTS.to_vec()), subject, kind, 0..6_i64, until).prop_map(
        |(tenant, subject, kind, at, until)| Restriction {
            session_user: None,
            tenant: TenantName::parse(tenant).unwrap(),
            subject,
            // A user has one client ID at a time.
            kind: if let RestrictionKind::ClientId(_) = kind {
                RestrictionKind::ClientId(client_id_at(ago(at)))
            } else {
                kind
            },
            at: ago(at),
            until,
        },
    )
}

fn client_id_at(at: UnixMillis) -> Option<ClientIdDigest> {
    [Some("alice"), Some("bob"), None][usize::try_from(at.0 % 3).unwrap()].map(ClientIdDigest::of)
}

const TENANTS: [&str; 2] = ["one", "other"];

/// Restrictions, each delivered once or several times, to one replica or the other, in any order.
fn deliveries() -> impl Strategy<Value = Vec<(Restriction, usize)>> {
    prop::collection::vec((a_restriction(), prop::collection::vec(0..2_usize, 1..4)), 1..14)
        .prop_map(|restrictions| {
            let each = restrictions.into_iter();
            each.flat_map(|(restriction, replicas)| {
                replicas.into_iter().map(move |replica| (restriction.clone(), replica))
            })
            .collect()
        })
        .prop_shuffle()
}

/// The verdict on the only session, from all restrictions at once. Each says the same of every subject.
fn model(restrictions: &[(Restriction, usize)], tenant: &str) -> Verdict {
    let about = |subject: &Subject| -> Vec<&Restriction> {
        let ours = restrictions
            .iter()
            .map(|(restriction, _)| restriction)
            .filter(|restriction| restriction.tenant.as_str() == tenant);
        ours.filter(|restriction| restriction.subject == *subject).collect()
    };
    let ends = |restrictions: &[&Restriction]| restrictions.iter().map(|restriction| restriction.until).max();
    let newest = |restrictions: Vec<&Restriction>| -> Vec<Restriction> {
        let at = restrictions.iter().map(|restriction| restriction.at).max();
        restrictions.into_iter().filter(|restriction| Some(restriction.at) == at).cloned().collect()
    };
    let holds =
        |restrictions: Vec<Restriction>| ends(&restrictions.iter().collect::<Vec<_>>()).is_some_and(|end| end > NOW);

    let subjects = [
        Subject::Session("sess_1".into()),
        Subject::User("user_1".into()),
        Subject::Member { user: "user_1".into(), organization: "org_1".into() },
        Subject::Organization("org_1".into()),
    ];
    let says = |subject, kinds: &[RestrictionKind]| -> Vec<&Restriction> {
        about(subject).into_iter().filter(|restriction| kinds.contains(&restriction.kind)).collect()
    };
    let denied = subjects.iter().any(|subject| {
        let deletions = says(subject, &[RestrictionKind::Deleted]);
        let deleted = !deletions.is_empty();
        let by = |source| {
            let last = newest(says(subject, &[RestrictionKind::Denied(source), RestrictionKind::Lifted(source)]));
            holds(last.into_iter().filter(|restriction| restriction.kind == RestrictionKind::Denied(source)).collect())
        };
        holds(newest(deletions)) || (!deleted && by(DenialSource::Clerk)) || by(DenialSource::Operator)
    });
    if denied {
        return Verdict::Denied;
    }
    let outdated = subjects.iter().any(|subject| {
        let last = newest(says(subject, &[RestrictionKind::NotBefore]));
        last.first().is_some_and(|mark| mark.at >= MINTED) && holds(last)
    });
    let renamed = subjects.iter().any(|subject| {
        let client_ids =
            about(subject).into_iter().filter(|restriction| matches!(restriction.kind, RestrictionKind::ClientId(_)));
        let last = newest(client_ids.collect());
        let is_other = last.first().is_some_and(|latest| {
            latest.at >= MINTED && latest.kind != RestrictionKind::ClientId(Some(ClientIdDigest::of(CLIENT_ID)))
        });
        is_other && holds(last)
    });
    if outdated || renamed { Verdict::Outdated } else { Verdict::Clear }
}

/// The client ID of the session token.
const CLIENT_ID: &str = "alice";

/// When the session token was minted: in the middle of the events.
const MINTED: UnixMillis = UnixMillis(NOW.0 - 3);

async fn assert_same_verdict(replicas: &[Replica], restrictions: &[(Restriction, usize)]) {
    for (restriction, replica) in restrictions {
        replicas[replica % replicas.len()].record(restriction.clone()).await;
    }
    let mut subject = session("sess_1", "user_1", Some("org_1"));
    subject.issued_at = MINTED;
    for tenant in TENANTS {
        let verdict = model(restrictions, tenant);
        for replica in replicas {
            let verdict_here =
                || replica.verdict_on_client_id(&TenantName::parse(tenant).unwrap(), &subject, CLIENT_ID);
            eventually(&format!("{verdict:?}, not {:?}, of {restrictions:?}", verdict_here()), || {
                verdict_here() == verdict
            })
            .await;
        }
    }
}

#[test]
fn in_memory() {
    let runtime = Runtime::new().unwrap();
    let mut runner = TestRunner::new(Config::with_cases(2000));
    let outcome = runner.run(&deliveries(), |restrictions| {
        let replica = Replica::in_memory(&StoreLimits::default());
        runtime.block_on(assert_same_verdict(&[replica], &restrictions));
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn in_redis() {
    let runtime = Runtime::new().unwrap();
    let server = RedisServer::start();
    let mut runner = TestRunner::new(Config::with_cases(100));
    let outcome = runner.run(&deliveries(), |restrictions| {
        runtime.block_on(async {
            let () = server.run("FLUSHALL");
            let replica = || Replica::at(&server.address(), &StoreLimits::default(), OnFailure::Degrade);
            let replicas = [replica(), replica()];
            for replica in &replicas {
                replica.becomes(Health::Ready).await;
            }
            assert_same_verdict(&replicas, &restrictions).await;
            // A new replica has only what is in Redis.
            let late = [replica()];
            late[0].becomes(Health::Ready).await;
            let mut subject = session("sess_1", "user_1", Some("org_1"));
            subject.issued_at = MINTED;
            for tenant in TENANTS {
                assert_eq!(
                    late[0].verdict_on_client_id(&TenantName::parse(tenant).unwrap(), &subject, CLIENT_ID),
                    model(&restrictions, tenant),
                    "{restrictions:?}"
                );
            }
        });
        Ok(())
    });
    outcome.unwrap();
}

//! Events arrive in any order, more than once, at any replica: all come to the verdict that the events add up to.

use ably_clerk_auth::{
    clock::UnixMillis,
    store::{Bounds, ClientIdDigest, Fact, Health, OnFailure, Ruling, Source, Subject, Verdict},
    tenant::TenantName,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::runtime::Runtime;

use crate::{
    server::RedisServer,
    stage::{NOW, Replica, ago, eventually, session},
};

fn a_fact() -> impl Strategy<Value = Fact> {
    let subjects = vec![
        Subject::Session("sess_1".into()),
        Subject::User("user_1".into()),
        Subject::Member { user: "user_1".into(), organization: "org_1".into() },
        Subject::Organization("org_1".into()),
    ];
    let rulings = vec![
        Ruling::Lifted(Source::Clerk),
        Ruling::Denied(Source::Clerk),
        Ruling::Lifted(Source::Operator),
        Ruling::Denied(Source::Operator),
        Ruling::Deleted,
        Ruling::Marked,
        Ruling::Named(None),
    ];
    // Few times, subjects and tenants, so that events meet; some are over already.
    let until = prop_oneof![4 => 1..5_i64, 1 => -5..=0_i64].prop_map(|minutes| UnixMillis(NOW.0 + minutes * 60_000));
    let (subject, ruling) = (prop::sample::select(subjects), prop::sample::select(rulings));
    (prop::sample::select(TENANTS.to_vec()), subject, ruling, 0..6_i64, until).prop_map(
        |(tenant, subject, ruling, at, until)| Fact {
            tenant: TenantName::parse(tenant).unwrap(),
            subject,
            // A user has one name at one time.
            ruling: if let Ruling::Named(_) = ruling { Ruling::Named(name_at(ago(at))) } else { ruling },
            at: ago(at),
            until,
        },
    )
}

fn name_at(at: UnixMillis) -> Option<ClientIdDigest> {
    [Some("alice"), Some("bob"), None][usize::try_from(at.0 % 3).unwrap()].map(ClientIdDigest::of)
}

const TENANTS: [&str; 2] = ["one", "other"];

/// Facts, each delivered once or several times, to one replica or the other, in any order.
fn deliveries() -> impl Strategy<Value = Vec<(Fact, usize)>> {
    prop::collection::vec((a_fact(), prop::collection::vec(0..2_usize, 1..4)), 1..14)
        .prop_map(|facts| {
            let each = facts.into_iter();
            each.flat_map(|(fact, replicas)| replicas.into_iter().map(move |replica| (fact.clone(), replica))).collect()
        })
        .prop_shuffle()
}

/// What facts add up to for the one session that there is, told from all of them at once.
fn model(facts: &[(Fact, usize)], tenant: &str) -> Verdict {
    let about = |subject: &Subject| -> Vec<&Fact> {
        let ours = facts.iter().map(|(fact, _)| fact).filter(|fact| fact.tenant.as_str() == tenant);
        ours.filter(|fact| fact.subject == *subject).collect()
    };
    let ends = |facts: &[&Fact]| facts.iter().map(|fact| fact.until).max();
    let newest = |facts: Vec<&Fact>| -> Vec<Fact> {
        let at = facts.iter().map(|fact| fact.at).max();
        facts.into_iter().filter(|fact| Some(fact.at) == at).cloned().collect()
    };
    let holds = |facts: Vec<Fact>| ends(&facts.iter().collect::<Vec<_>>()).is_some_and(|end| end > NOW);

    let [session, user, member, organization] = [
        Subject::Session("sess_1".into()),
        Subject::User("user_1".into()),
        Subject::Member { user: "user_1".into(), organization: "org_1".into() },
        Subject::Organization("org_1".into()),
    ];
    let says = |subject, rulings: &[Ruling]| -> Vec<&Fact> {
        about(subject).into_iter().filter(|fact| rulings.contains(&fact.ruling)).collect()
    };
    let denied = [&session, &user].into_iter().any(|subject| {
        let deletions = says(subject, &[Ruling::Deleted]);
        let deleted = !deletions.is_empty();
        let by = |source| {
            let last = newest(says(subject, &[Ruling::Denied(source), Ruling::Lifted(source)]));
            holds(last.into_iter().filter(|fact| fact.ruling == Ruling::Denied(source)).collect())
        };
        holds(newest(deletions)) || (!deleted && by(Source::Clerk)) || by(Source::Operator)
    });
    if denied {
        return Verdict::Denied;
    }
    // The token was minted in the millisecond of the newest events.
    let outdated = [&user, &member, &organization].into_iter().any(|subject| {
        let last = newest(says(subject, &[Ruling::Marked]));
        last.first().is_some_and(|mark| mark.at >= MINTED) && holds(last)
    });
    let names = about(&user).into_iter().filter(|fact| matches!(fact.ruling, Ruling::Named(_)));
    let last_name = newest(names.collect());
    let renamed = last_name
        .first()
        .is_some_and(|name| name.at >= MINTED && name.ruling != Ruling::Named(Some(ClientIdDigest::of(CLIENT_ID))));
    if outdated || renamed && holds(last_name) { Verdict::Outdated } else { Verdict::Clear }
}

/// What the session token gives.
const CLIENT_ID: &str = "alice";

/// When the session token was minted: amid the events.
const MINTED: UnixMillis = UnixMillis(NOW.0 - 3);

async fn come_to_the_verdict(replicas: &[Replica], facts: &[(Fact, usize)]) {
    for (fact, replica) in facts {
        replicas[replica % replicas.len()].record(fact.clone()).await;
    }
    let mut subject = session("sess_1", "user_1", Some("org_1"));
    subject.issued_at = MINTED;
    for tenant in TENANTS {
        let verdict = model(facts, tenant);
        for replica in replicas {
            let verdict_here = || replica.verdict_of_named(&TenantName::parse(tenant).unwrap(), &subject, CLIENT_ID);
            eventually(&format!("{verdict:?}, not {:?}, of {facts:?}", verdict_here()), || verdict_here() == verdict)
                .await;
        }
    }
}

#[test]
fn in_memory() {
    let runtime = Runtime::new().unwrap();
    let mut runner = TestRunner::new(Config::with_cases(2000));
    let outcome = runner.run(&deliveries(), |facts| {
        let replica = Replica::in_memory(&Bounds::default());
        runtime.block_on(come_to_the_verdict(&[replica], &facts));
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn in_redis() {
    let runtime = Runtime::new().unwrap();
    let server = RedisServer::start();
    let mut runner = TestRunner::new(Config::with_cases(100));
    let outcome = runner.run(&deliveries(), |facts| {
        runtime.block_on(async {
            let () = redis::cmd("FLUSHALL").query(&mut server.connection()).unwrap();
            let replica = || Replica::at(&server.address(), &Bounds::default(), OnFailure::Degrade);
            let replicas = [replica(), replica()];
            for replica in &replicas {
                replica.becomes(Health::Ready).await;
            }
            come_to_the_verdict(&replicas, &facts).await;
            // And one that has only what was left in Redis.
            let late = [replica()];
            late[0].becomes(Health::Ready).await;
            let mut subject = session("sess_1", "user_1", Some("org_1"));
            subject.issued_at = MINTED;
            for tenant in TENANTS {
                assert_eq!(
                    late[0].verdict_of_named(&TenantName::parse(tenant).unwrap(), &subject, CLIENT_ID),
                    model(&facts, tenant),
                    "{facts:?}"
                );
            }
        });
        Ok(())
    });
    outcome.unwrap();
}

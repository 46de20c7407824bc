//! What every store does, tested over both.

use std::time::Duration;

use ably_clerk_auth::{
    store::{
        Claim, ClientIdDigest, DenialSource, Health, LiveToken, OnFailure, RecordOutcome, Restriction, RestrictionKind,
        StoreError, StoreLimits, StoreStats, StoredTask, Subject, TaskBacklog, TokenHolder, Topic, Verdict,
    },
    tenant::TenantName,
};

use crate::{
    fixtures::{
        DENIED, LIFTED, MINUTE, NOW, Replica, ago, eventually, live_token, of_session, of_user, restriction, session,
    },
    redis_server::RedisServer,
};

/// Runs each test with each store.
macro_rules! with_both_stores {
    ($($(#[doc = $doc:literal])? async fn $name:ident($replica:ident, $limits:expr) $body:block)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Replica::in_memory(&super::limits($limits))).await;
            })*
        }

        mod redis {
            $(#[tokio::test]
            async fn $name() {
                let server = super::RedisServer::start();
                let limits = super::limits($limits);
                let replica = super::Replica::at(&server.address(), &limits, super::OnFailure::Degrade);
                replica.becomes(super::Health::Ready).await;
                super::$name(replica).await;
            })*
        }

        $(async fn $name($replica: Replica) $body)*
    };
}

/// At most `max` of everything; 0 for the default.
fn limits(max: usize) -> StoreLimits {
    match max {
        0 => StoreLimits::default(),
        _ => StoreLimits { ended_restrictions: max, live_tokens: max },
    }
}

fn sorted(mut live_tokens: Vec<LiveToken>) -> Vec<LiveToken> {
    live_tokens.sort();
    live_tokens
}

fn task(id: &str, due: ably_clerk_auth::clock::UnixMillis) -> StoredTask {
    StoredTask { id: id.to_owned(), due, payload: format!("the payload of {id}") }
}

async fn claimed(replica: &Replica, max: usize) -> Vec<String> {
    let mut ids: Vec<_> = replica
        .store
        .claim_tasks(Claim::Due(max), replica.now())
        .await
        .unwrap()
        .into_iter()
        .map(|task| task.id)
        .collect();
    ids.sort();
    ids
}

with_both_stores! {
    async fn a_denied_session_is_refused_and_no_other(replica, 0) {
        let denied = restriction(of_session("sess_1"), DENIED, ago(1));
        assert_eq!(replica.record(denied).await, RecordOutcome::New);
        assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);
        assert_eq!(replica.verdict(&session("sess_2", "user_1", None)), Verdict::Clear);
        assert_eq!(replica.verdict(&session("user_1", "sess_1", None)), Verdict::Clear);
    }

    async fn a_denied_user_is_refused_in_every_session(replica, 0) {
        replica.record(restriction(of_user("user_1"), DENIED, ago(1))).await;
        assert_eq!(replica.verdict(&session("sess_1", "user_1", Some("org_1"))), Verdict::Denied);
        assert_eq!(replica.verdict(&session("sess_2", "user_1", None)), Verdict::Denied);
        assert_eq!(replica.verdict(&session("sess_3", "user_2", None)), Verdict::Clear);
    }

    async fn a_new_client_id_outdates_session_tokens_minted_before_it_that_give_another(replica, 0) {
        let is = |client_id: &str, minted, verdict| {
            let mut session = session("sess_1", "user_1", None);
            session.issued_at = minted;
            assert_eq!(replica.verdict_on_client_id(&TenantName::default(), &session, client_id), verdict, "{client_id}");
        };
        let named = |name: Option<&str>| RestrictionKind::ClientId(name.map(ClientIdDigest::of));
        replica.record(restriction(of_user("user_1"), named(Some("bob")), ago(5))).await;
        for (minted, of_alice) in [(ago(6), Verdict::Outdated), (ago(5), Verdict::Outdated), (ago(4), Verdict::Clear)] {
            is("alice", minted, of_alice);
            is("bob", minted, Verdict::Clear);
        }
        // A late event or a lifted ban does not change the client ID; a newer event does.
        assert_eq!(replica.record(restriction(of_user("user_1"), named(Some("alice")), ago(6))).await, RecordOutcome::Outdated);
        replica.record(restriction(of_user("user_1"), LIFTED, ago(3))).await;
        is("alice", ago(5), Verdict::Outdated);
        replica.record(restriction(of_user("user_1"), named(None), ago(2))).await;
        for client_id in ["alice", "bob"] {
            is(client_id, ago(2), Verdict::Outdated);
            is(client_id, ago(1), Verdict::Clear);
        }
        replica.pass(10 * MINUTE);
        is("alice", ago(2), Verdict::Clear);
    }

    async fn a_denial_expires(replica, 0) {
        replica.record(restriction(of_user("user_1"), DENIED, ago(1))).await;
        replica.pass_short_of(10 * MINUTE);
        assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);
        replica.pass(Duration::from_millis(1));
        assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Clear);
    }

    async fn only_a_newer_event_lifts_a_denial(replica, 0) {
        let is = |verdict| assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), verdict);
        replica.record(restriction(of_user("user_1"), DENIED, ago(20))).await;
        let late = restriction(of_user("user_1"), LIFTED, ago(30));
        assert_eq!(replica.record(late).await, RecordOutcome::Outdated);
        is(Verdict::Denied);
        let newer = restriction(of_user("user_1"), LIFTED, ago(10));
        assert_eq!(replica.record(newer).await, RecordOutcome::New);
        is(Verdict::Clear);
        let late = restriction(of_user("user_1"), DENIED, ago(15));
        assert_eq!(replica.record(late).await, RecordOutcome::Outdated);
        is(Verdict::Clear);
    }

    async fn of_two_events_in_one_millisecond_the_one_that_denies_counts(replica, 0) {
        replica.record(restriction(of_user("user_1"), LIFTED, ago(20))).await;
        replica.record(restriction(of_user("user_1"), DENIED, ago(20))).await;
        replica.record(restriction(of_user("user_1"), LIFTED, ago(20))).await;
        assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);
    }

    async fn a_repeated_event_is_distinguished_from_an_older_one(replica, 0) {
        let denied = restriction(of_user("user_1"), DENIED, ago(20));
        assert_eq!(replica.record(denied.clone()).await, RecordOutcome::New);
        assert_eq!(replica.record(denied.clone()).await, RecordOutcome::Repeated);
        let again = Restriction { until: denied.until.after(MINUTE), ..denied.clone() };
        assert_eq!(replica.record(again).await, RecordOutcome::Repeated);
        // It arrived later, so it expires later.
        replica.pass_short_of(11 * MINUTE);
        assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);
    }

    async fn no_event_undoes_a_deletion(replica, 0) {
        replica.record(restriction(of_user("user_1"), RestrictionKind::Deleted, ago(20))).await;
        for kind in [LIFTED, DENIED, RestrictionKind::Lifted(DenialSource::Operator)] {
            replica.record(restriction(of_user("user_1"), kind, ago(10))).await;
            assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);
        }
    }

    async fn a_timestamp_is_remembered_for_48_hours(replica, 0) {
        let lifted = restriction(of_user("user_1"), LIFTED, NOW);
        let denied = |replica: &Replica| Restriction {
            until: replica.now().after(MINUTE),
            ..restriction(of_user("user_1"), DENIED, ago(1))
        };
        replica.record(lifted).await;
        replica.pass_short_of(Restriction::REMEMBERED_FOR);
        assert_eq!(replica.record(denied(&replica)).await, RecordOutcome::Outdated);
        assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Clear);
    }

    async fn only_an_operator_lifts_an_operators_denial(replica, 0) {
        let is = |verdict| assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), verdict);
        replica.record(restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Operator), ago(20))).await;
        replica.record(restriction(of_user("user_1"), LIFTED, ago(10))).await;
        is(Verdict::Denied);
        replica.record(restriction(of_user("user_1"), RestrictionKind::Lifted(DenialSource::Operator), ago(5))).await;
        is(Verdict::Clear);
        replica.record(restriction(of_user("user_1"), DENIED, ago(4))).await;
        replica.record(restriction(of_user("user_1"), RestrictionKind::Lifted(DenialSource::Operator), ago(3))).await;
        is(Verdict::Denied);
    }

    async fn a_mark_outdates_the_session_tokens_of_its_subject_minted_before_it(replica, 0) {
        let minted = |at, user, organization| {
            let mut session = session("sess_1", user, organization);
            session.issued_at = at;
            session
        };
        let member = Subject::Member { user: "user_1".into(), organization: "org_1".into() };
        for (subject, concerned, other) in [
            (member.clone(), ("user_1", Some("org_1")), ("user_1", Some("org_2"))),
            (member, ("user_1", Some("org_1")), ("user_2", Some("org_1"))),
            (Subject::Organization("org_3".into()), ("user_3", Some("org_3")), ("user_3", None)),
        ] {
            replica.record(restriction(subject, RestrictionKind::NotBefore, ago(50))).await;
            assert_eq!(replica.verdict(&minted(ago(50), concerned.0, concerned.1)), Verdict::Outdated);
            assert_eq!(replica.verdict(&minted(ago(49), concerned.0, concerned.1)), Verdict::Clear);
            assert_eq!(replica.verdict(&minted(ago(50), other.0, other.1)), Verdict::Clear);
        }
        replica.record(restriction(Subject::Organization("org_3".into()), RestrictionKind::NotBefore, ago(60))).await;
        assert_eq!(replica.verdict(&minted(ago(50), "user_3", Some("org_3"))), Verdict::Outdated);
        replica.pass(10 * MINUTE);
        assert_eq!(replica.verdict(&minted(ago(50), "user_3", Some("org_3"))), Verdict::Clear);
    }

    async fn a_denial_has_priority_over_a_mark(replica, 0) {
        replica.record(restriction(Subject::Organization("org_1".into()), RestrictionKind::NotBefore, NOW)).await;
        assert_eq!(replica.verdict(&session("sess_1", "user_1", Some("org_1"))), Verdict::Outdated);
        replica.record(restriction(of_session("sess_1"), DENIED, NOW)).await;
        assert_eq!(replica.verdict(&session("sess_1", "user_1", Some("org_1"))), Verdict::Denied);
    }

    async fn tenants_do_not_share_restrictions_or_live_tokens(replica, 0) {
        let [one, other] = ["a", "b-2"].map(|name| TenantName::parse(name).unwrap());
        let denied = restriction(of_user("user_1"), DENIED, ago(1));
        replica.record(Restriction { tenant: one.clone(), ..denied }).await;
        assert_eq!(replica.verdict_of(&one, &session("sess_1", "user_1", None)), Verdict::Denied);
        assert_eq!(replica.verdict_of(&other, &session("sess_1", "user_1", None)), Verdict::Clear);
        assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Clear);

        let given = LiveToken { tenant: one.clone(), ..live_token("user_1", "sess_1", None, "alice", MINUTE) };
        replica.put_live_token(given.clone()).await;
        let to = TokenHolder::ClientId("alice".into());
        assert_eq!(replica.store.live_tokens(&one, &to, NOW).await.live_tokens, [given]);
        assert_eq!(replica.store.live_tokens(&other, &to, NOW).await.live_tokens, []);
    }

    async fn stats_count_restrictions_live_tokens_and_tasks(replica, 0) {
        let stats = |replica: &Replica| replica.store.stats(replica.now());
        let StoreStats { restrictions, live_tokens, tasks, .. } = stats(&replica);
        assert_eq!((restrictions, live_tokens, tasks), (0, 0, TaskBacklog::default()));

        for (kind, at) in [(DENIED, 2), (RestrictionKind::NotBefore, 2), (RestrictionKind::Lifted(DenialSource::Operator), 2)] {
            replica.record(restriction(of_user("user_1"), kind, ago(at))).await;
        }
        replica.put_live_token(live_token("user_1", "sess_1", None, "alice", MINUTE)).await;
        replica.put_live_token(live_token("user_1", "sess_1", None, "alice", 2 * MINUTE)).await;
        replica.put_live_token(live_token("user_1", "sess_2", None, "alice", MINUTE)).await;
        for (id, due) in [("late", NOW.after(2 * MINUTE)), ("early", NOW.after(MINUTE))] {
            replica.store_task(task(id, due)).await;
        }
        let waits = |count, due| TaskBacklog { count, oldest_due: Some(due) };
        eventually("the tasks are counted", || stats(&replica).tasks == waits(2, NOW.after(MINUTE))).await;
        let StoreStats { restrictions, live_tokens, unrecorded_restrictions, outages, .. } = stats(&replica);
        assert_eq!(replica.store.health(), Health::Ready);
        assert_eq!((restrictions, live_tokens, unrecorded_restrictions, outages), (2, 2, 0, 0));

        replica.pass(MINUTE);
        assert_eq!(stats(&replica).live_tokens, 1);
        assert_eq!(claimed(&replica, 1).await, ["early"]);
        // A postponed task still waits.
        replica.store.end_claim(&task("early", NOW.after(MINUTE)), Some(NOW.after(9 * MINUTE))).await.unwrap();
        replica.store_task(task("last", NOW.after(9 * MINUTE))).await;
        eventually("the tasks are counted", || stats(&replica).tasks == waits(3, NOW.after(MINUTE))).await;
        replica.store.end_claim(&task("early", NOW.after(MINUTE)), None).await.unwrap();
        eventually("the tasks are counted", || stats(&replica).tasks == waits(2, NOW.after(2 * MINUTE))).await;
        replica.pass(9 * MINUTE);
        assert_eq!(stats(&replica).restrictions, 0);
    }

    async fn a_live_token_is_found_by_each_of_its_holders(replica, 0) {
        let tenant = TenantName::default();
        let one = live_token("user_1", "sess_1", Some("org_1"), "alice", MINUTE);
        let two = live_token("user_1", "sess_2", None, "alice", 2 * MINUTE);
        let three = live_token("user_2", "sess_3", Some("org_1"), "bob", 3 * MINUTE);
        for live_token in [&one, &two, &three] {
            replica.put_live_token(live_token.clone()).await;
        }
        for (to, found) in [
            (TokenHolder::User("user_1".into()), vec![one.clone(), two.clone()]),
            (TokenHolder::Session("sess_2".into()), vec![two.clone()]),
            (TokenHolder::Organization("org_1".into()), vec![one.clone(), three.clone()]),
            (TokenHolder::ClientId("alice".into()), vec![one.clone(), two.clone()]),
            (TokenHolder::User("alice".into()), vec![]),
        ] {
            let live = replica.store.live_tokens(&tenant, &to, NOW).await;
            assert_eq!((sorted(live.live_tokens), live.of_others), (sorted(found), Ok(())), "{to:?}");
        }
    }

    async fn a_live_token_lives_as_long_as_the_last_token(replica, 0) {
        let user = TokenHolder::User("user_1".into());
        let first = live_token("user_1", "sess_1", None, "alice", MINUTE);
        let longer = LiveToken { until: NOW.after(2 * MINUTE), ..first.clone() };
        for given in [&first, &longer, &first] {
            replica.put_live_token(given.clone()).await;
        }
        let found = async |replica: &Replica| {
            replica.store.live_tokens(&TenantName::default(), &user, replica.now()).await.live_tokens
        };
        assert_eq!(found(&replica).await, std::slice::from_ref(&longer));
        replica.pass_short_of(2 * MINUTE);
        assert_eq!(found(&replica).await, [longer]);
        replica.pass(Duration::from_millis(1));
        assert_eq!(found(&replica).await, []);
    }

    async fn many_live_tokens_of_one_organization_are_all_found(replica, 0) {
        for n in 0..1500 {
            replica.put_live_token(live_token(&format!("user_{n}"), &format!("sess_{n}"), Some("org_1"), "one", MINUTE)).await;
        }
        let to = TokenHolder::Organization("org_1".into());
        assert_eq!(replica.store.live_tokens(&TenantName::default(), &to, NOW).await.live_tokens.len(), 1500);
    }

    async fn tasks_are_claimed_when_they_are_due_the_earliest_first(replica, 0) {
        for (id, due) in [("later", NOW.after(MINUTE)), ("second", ago(1)), ("first", ago(2))] {
            replica.store_task(task(id, due)).await;
        }
        let claimed = replica.store.claim_tasks(Claim::Due(1), NOW).await.unwrap();
        assert_eq!(claimed, [task("first", ago(2))]);
        assert_eq!(replica.store.claim_tasks(Claim::Due(9), NOW).await.unwrap(), [task("second", ago(1))]);
        assert_eq!(replica.store.claim_tasks(Claim::Due(9), NOW).await.unwrap(), []);
    }

    async fn a_claimed_task_can_be_claimed_again_after_the_lease_unless_it_is_completed(replica, 0) {
        for id in ["done", "left", "postponed"] {
            replica.store_task(task(id, NOW)).await;
        }
        assert_eq!(claimed(&replica, 9).await, ["done", "left", "postponed"]);
        replica.store.end_claim(&task("done", NOW), None).await.unwrap();
        replica.store.end_claim(&task("postponed", NOW), Some(NOW.after(5 * MINUTE))).await.unwrap();
        replica.store.end_claim(&task("done", NOW), Some(NOW)).await.unwrap();
        replica.pass_short_of(StoredTask::LEASE);
        assert_eq!(claimed(&replica, 9).await, [""; 0]);
        replica.pass(Duration::from_millis(1));
        assert_eq!(claimed(&replica, 9).await, ["left"]);
        replica.pass(5 * MINUTE);
        assert_eq!(claimed(&replica, 9).await, ["left", "postponed"]);
    }

    async fn a_task_whose_id_is_known_is_not_stored_again(replica, 0) {
        let first = task("one", NOW);
        replica.store_task(first.clone()).await;
        let other = StoredTask { due: NOW.after(MINUTE), payload: "another".into(), ..first.clone() };
        replica.store_task(other).await;
        assert_eq!(replica.store.claim_tasks(Claim::Due(9), NOW).await.unwrap(), [first]);
        replica.store.end_claim(&task("one", NOW), None).await.unwrap();
        replica.pass(MINUTE);
        assert_eq!(claimed(&replica, 9).await, [""; 0]);
    }

    async fn a_named_task_is_claimed_whatever_its_time_and_others_do_not_get_it_meanwhile(replica, 0) {
        replica.store_task(task("one", NOW.after(MINUTE))).await;
        for _ in 0..2 {
            let claimed = replica.store.claim_tasks(Claim::Named("one"), NOW.after(MINUTE)).await.unwrap();
            assert_eq!(claimed, [task("one", NOW.after(MINUTE))]);
        }
        replica.pass(MINUTE);
        assert_eq!(claimed(&replica, 9).await, [""; 0]);
        replica.store.end_claim(&task("one", NOW.after(MINUTE)), None).await.unwrap();
        assert_eq!(replica.store.claim_tasks(Claim::Named("one"), replica.now()).await.unwrap(), []);
    }

    async fn tasks_are_stored_once_with_the_restriction_that_they_follow_from(replica, 0) {
        let denied = restriction(of_user("user_1"), DENIED, ago(2));
        let lifted = restriction(of_user("user_1"), LIFTED, ago(1));
        for (restriction, outcome, is_stored) in [
            (&denied, RecordOutcome::New, true),
            (&denied, RecordOutcome::Repeated, false),
            (&lifted, RecordOutcome::New, true),
            (&denied, RecordOutcome::Outdated, false),
        ] {
            let (restrictions, tasks) = (std::slice::from_ref(restriction), [task("one", NOW)]);
            let recorded = replica.store.record(restrictions, &tasks, NOW).await.unwrap();
            assert_eq!(recorded, [outcome]);
            let stored = replica.store.claim_tasks(Claim::Named("one"), NOW).await.unwrap();
            assert_eq!(stored.len(), usize::from(is_stored), "{restriction:?} {outcome:?}");
            replica.store.end_claim(&task("one", NOW), None).await.unwrap();
        }
    }

    async fn tasks_are_stored_if_any_of_many_restrictions_is_new(replica, 0) {
        let denied: Vec<_> =
            (0..251).map(|n| restriction(of_user(&format!("user_{n}")), DENIED, ago(1))).collect();
        replica.store.record(&denied[..250], &[], NOW).await.unwrap();
        let recorded = replica.store.record(&denied, &[task("one", NOW)], NOW).await.unwrap();
        assert_eq!(recorded[..250], [RecordOutcome::Repeated; 250]);
        assert_eq!(recorded[250..], [RecordOutcome::New]);
        assert_eq!(replica.store.claim_tasks(Claim::Named("one"), NOW).await.unwrap(), [task("one", NOW)]);
    }

    async fn the_user_of_a_restriction_is_removed_from_the_cache(replica, 0) {
        replica.record(restriction(of_user("user_1"), LIFTED, ago(1))).await;
        assert_eq!(replica.forgotten.lock().unwrap()[0], "user_1 of default");
    }

    async fn ended_restrictions_are_forgotten_before_denials(replica, 2) {
        replica.record(restriction(of_user("user_0"), DENIED, ago(1))).await;
        for n in 1..9 {
            replica.record(restriction(of_user(&format!("user_{n}")), LIFTED, ago(1))).await;
        }
        assert_eq!(replica.verdict(&session("sess_1", "user_0", None)), Verdict::Denied);
        assert_eq!(replica.store.may_issue(), Ok(()));
    }
}

#[tokio::test]
async fn beyond_the_limit_a_replica_forgets_the_restrictions_that_ended_first() {
    let replica = Replica::in_memory(&limits(2));
    let until = |user: &str, until| Restriction { until, ..restriction(of_user(user), LIFTED, ago(9)) };
    let knows = |user: &str| {
        let topic = Topic::Denial(DenialSource::Clerk);
        replica.store.restrictions().latest(&TenantName::default(), &of_user(user), topic).is_some()
    };
    replica.record(until("user_1", ago(1))).await;
    replica.record(until("user_2", ago(2))).await;
    for user in ["user_3", "user_4", "user_5"] {
        replica.record(restriction(of_user(user), DENIED, ago(1))).await;
    }
    assert!(["user_1", "user_2"].into_iter().all(knows));
    replica.record(until("user_6", ago(3))).await;
    replica.record(until("user_7", NOW)).await;
    assert_eq!(["user_6", "user_2", "user_1", "user_7"].map(knows), [false, false, true, true]);
    assert!(["user_3", "user_4", "user_5"].into_iter().all(knows));
}

#[tokio::test]
async fn a_full_index_in_memory_refuses_only_the_new_live_token() {
    let replica = Replica::in_memory(&limits(2));
    for n in 1..=2 {
        replica.put_live_token(live_token(&format!("user_{n}"), "sess_1", None, "alice", MINUTE)).await;
    }
    let third = live_token("user_3", "sess_1", None, "alice", 2 * MINUTE);
    assert_eq!(replica.store.put_live_token(third.clone(), NOW).await, Err(StoreError::Full));
    replica.put_live_token(live_token("user_1", "sess_1", None, "alice", 2 * MINUTE)).await;
    assert_eq!(replica.store.may_issue(), Ok(()));
    replica.pass(MINUTE);
    replica.put_live_token(third).await;
}

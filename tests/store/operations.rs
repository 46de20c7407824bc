//! What every store does.

use std::time::Duration;

use ably_clerk_auth::{
    store::{
        ClientIdDigest, Coverage, DenialSource, Health, IdempotencyClaim, LiveToken, OnFailure, RecordOutcome,
        Restriction, RestrictionKind, StoreError, StoreLimits, StoreStats, StoredTask, Subject, TaskBacklog,
        TokenHolder, Verdict,
    },
    tenant::TenantName,
};

use crate::{
    fixtures::{MINUTE, NOW, Replica, ago, eventually, in_time, live_token, of_session, of_user, restriction, session},
    redis_server::RedisServer,
};

/// Each test once with each store.
macro_rules! with_both_stores {
    ($($(#[doc = $doc:literal])? async fn $name:ident($replica:ident, $bounds:expr) $body:block)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Replica::in_memory(&super::bounds($bounds))).await;
            })*
        }

        mod redis {
            $(#[tokio::test]
            async fn $name() {
                let server = super::RedisServer::start();
                let bounds = super::bounds($bounds);
                let replica = super::Replica::at(&server.address(), &bounds, super::OnFailure::Degrade);
                replica.becomes(super::Health::Ready).await;
                super::$name(replica).await;
            })*
        }

        $(async fn $name($replica: Replica) $body)*
    };
}

/// At most so many of everything; 0 for the default.
fn bounds(most: usize) -> StoreLimits {
    match most {
        0 => StoreLimits::default(),
        _ => StoreLimits { restrictions: most, remembered: most, waiting: most, live_tokens: most, tasks: most },
    }
}

fn sorted(mut live_tokens: Vec<LiveToken>) -> Vec<LiveToken> {
    live_tokens.sort();
    live_tokens
}

fn work(id: &str, due: ably_clerk_auth::clock::UnixMillis) -> StoredTask {
    StoredTask { id: id.to_owned(), due, payload: format!("the job of {id}") }
}

async fn claimed(replica: &Replica, most: usize) -> Vec<String> {
    let mut ids: Vec<_> =
        replica.store.claim_tasks(most, replica.now()).await.into_iter().map(|work| work.id).collect();
    ids.sort();
    ids
}

with_both_stores! {
    async fn a_denied_session_is_refused_and_no_other(replica, 0) {
        let denied = restriction(of_session("sess_1"), RestrictionKind::Denied(DenialSource::Clerk), ago(1));
        assert_eq!(replica.record(denied).await, RecordOutcome::New);
        assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);
        assert_eq!(replica.verdict(&session("sess_2", "user_1", None)), Verdict::Clear);
        assert_eq!(replica.verdict(&session("user_1", "sess_1", None)), Verdict::Clear);
    }

    async fn a_denied_user_is_refused_in_every_session(replica, 0) {
        replica.record(restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), ago(1))).await;
        assert_eq!(replica.verdict(&session("sess_1", "user_1", Some("org_1"))), Verdict::Denied);
        assert_eq!(replica.verdict(&session("sess_2", "user_1", None)), Verdict::Denied);
        assert_eq!(replica.verdict(&session("sess_3", "user_2", None)), Verdict::Clear);
    }

    async fn a_name_counts_against_session_tokens_that_were_minted_until_then(replica, 0) {
        let is = |client_id: &str, minted, verdict| {
            let mut session = session("sess_1", "user_1", None);
            session.issued_at = minted;
            assert_eq!(replica.verdict_of_named(&TenantName::default(), &session, client_id), verdict, "{client_id}");
        };
        let named = |name: Option<&str>| RestrictionKind::ClientId(name.map(ClientIdDigest::of));
        replica.record(restriction(of_user("user_1"), named(Some("bob")), ago(5))).await;
        for (minted, of_alice) in [(ago(6), Verdict::Outdated), (ago(5), Verdict::Outdated), (ago(4), Verdict::Clear)] {
            is("alice", minted, of_alice);
            is("bob", minted, Verdict::Clear);
        }
        // Neither a late event nor a lifted ban changes it; a newer one does.
        assert_eq!(replica.record(restriction(of_user("user_1"), named(Some("alice")), ago(6))).await, RecordOutcome::Outdated);
        replica.record(restriction(of_user("user_1"), RestrictionKind::Lifted(DenialSource::Clerk), ago(3))).await;
        is("alice", ago(5), Verdict::Outdated);
        replica.record(restriction(of_user("user_1"), named(None), ago(2))).await;
        for client_id in ["alice", "bob"] {
            is(client_id, ago(2), Verdict::Outdated);
            is(client_id, ago(1), Verdict::Clear);
        }
        replica.pass(10 * MINUTE);
        is("alice", ago(2), Verdict::Clear);
    }

    async fn a_denial_ends_at_its_time(replica, 0) {
        replica.record(restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), ago(1))).await;
        replica.pass_short_of(10 * MINUTE);
        assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);
        replica.pass(Duration::from_millis(1));
        assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Clear);
    }

    async fn only_a_newer_event_lifts_a_denial(replica, 0) {
        let is = |verdict| assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), verdict);
        replica.record(restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), ago(20))).await;
        let late = restriction(of_user("user_1"), RestrictionKind::Lifted(DenialSource::Clerk), ago(30));
        assert_eq!(replica.record(late).await, RecordOutcome::Outdated);
        is(Verdict::Denied);
        let newer = restriction(of_user("user_1"), RestrictionKind::Lifted(DenialSource::Clerk), ago(10));
        assert_eq!(replica.record(newer).await, RecordOutcome::New);
        is(Verdict::Clear);
        let late = restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), ago(15));
        assert_eq!(replica.record(late).await, RecordOutcome::Outdated);
        is(Verdict::Clear);
    }

    async fn of_two_events_of_one_millisecond_the_one_that_refuses_holds(replica, 0) {
        replica.record(restriction(of_user("user_1"), RestrictionKind::Lifted(DenialSource::Clerk), ago(20))).await;
        replica.record(restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), ago(20))).await;
        replica.record(restriction(of_user("user_1"), RestrictionKind::Lifted(DenialSource::Clerk), ago(20))).await;
        assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);
    }

    async fn the_same_event_again_is_told_from_an_older_one(replica, 0) {
        let denied = restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), ago(20));
        assert_eq!(replica.record(denied.clone()).await, RecordOutcome::New);
        assert_eq!(replica.record(denied.clone()).await, RecordOutcome::Repeated);
        let again = Restriction { until: denied.until.after(MINUTE), ..denied.clone() };
        assert_eq!(replica.record(again).await, RecordOutcome::Repeated);
        // It came later, so it holds for longer.
        replica.pass_short_of(11 * MINUTE);
        assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);
    }

    async fn no_event_undoes_a_deletion(replica, 0) {
        replica.record(restriction(of_user("user_1"), RestrictionKind::Deleted, ago(20))).await;
        for kind in [RestrictionKind::Lifted(DenialSource::Clerk), RestrictionKind::Denied(DenialSource::Clerk), RestrictionKind::Lifted(DenialSource::Operator)] {
            replica.record(restriction(of_user("user_1"), kind, ago(10))).await;
            assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Denied);
        }
    }

    async fn a_timestamp_counts_for_48_hours(replica, 0) {
        let lifted = restriction(of_user("user_1"), RestrictionKind::Lifted(DenialSource::Clerk), NOW);
        let denied = |replica: &Replica| Restriction {
            until: replica.now().after(MINUTE),
            ..restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), ago(1))
        };
        replica.record(lifted).await;
        replica.pass_short_of(Restriction::REMEMBERED_FOR);
        assert_eq!(replica.record(denied(&replica)).await, RecordOutcome::Outdated);
        assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), Verdict::Clear);
    }

    async fn what_an_operator_denies_only_an_operator_lifts(replica, 0) {
        let is = |verdict| assert_eq!(replica.verdict(&session("sess_1", "user_1", None)), verdict);
        replica.record(restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Operator), ago(20))).await;
        replica.record(restriction(of_user("user_1"), RestrictionKind::Lifted(DenialSource::Clerk), ago(10))).await;
        is(Verdict::Denied);
        replica.record(restriction(of_user("user_1"), RestrictionKind::Lifted(DenialSource::Operator), ago(5))).await;
        is(Verdict::Clear);
        replica.record(restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), ago(4))).await;
        replica.record(restriction(of_user("user_1"), RestrictionKind::Lifted(DenialSource::Operator), ago(3))).await;
        is(Verdict::Denied);
    }

    async fn a_mark_outdates_the_tokens_minted_until_then_of_those_concerned(replica, 0) {
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

    async fn who_is_denied_is_not_told_to_come_again(replica, 0) {
        replica.record(restriction(Subject::Organization("org_1".into()), RestrictionKind::NotBefore, NOW)).await;
        assert_eq!(replica.verdict(&session("sess_1", "user_1", Some("org_1"))), Verdict::Outdated);
        replica.record(restriction(of_session("sess_1"), RestrictionKind::Denied(DenialSource::Clerk), NOW)).await;
        assert_eq!(replica.verdict(&session("sess_1", "user_1", Some("org_1"))), Verdict::Denied);
    }

    async fn tenants_do_not_see_each_others_facts_or_grants(replica, 0) {
        // Names that would be one if they were only written one after the other.
        let [one, other] = ["a", "b-2"].map(|name| TenantName::parse(name).unwrap());
        let denied = restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), ago(1));
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

    async fn a_census_counts_what_holds_lives_and_waits(replica, 0) {
        let census = |replica: &Replica| replica.store.stats(replica.now());
        let StoreStats { restrictions, live_tokens, tasks, .. } = census(&replica);
        assert_eq!((restrictions, live_tokens, tasks), (0, 0, TaskBacklog::default()));

        for (kind, at) in [(RestrictionKind::Denied(DenialSource::Clerk), 2), (RestrictionKind::NotBefore, 2), (RestrictionKind::Lifted(DenialSource::Operator), 2)] {
            replica.record(restriction(of_user("user_1"), kind, ago(at))).await;
        }
        replica.put_live_token(live_token("user_1", "sess_1", None, "alice", MINUTE)).await;
        replica.put_live_token(live_token("user_1", "sess_1", None, "alice", 2 * MINUTE)).await;
        replica.put_live_token(live_token("user_1", "sess_2", None, "alice", MINUTE)).await;
        for (id, due) in [("late", NOW.after(2 * MINUTE)), ("early", NOW.after(MINUTE))] {
            in_time!(replica, replica.store.enqueue_task(work(id, due), NOW));
        }
        let waits = |count, due| TaskBacklog { count, oldest_due: Some(due) };
        eventually("the work is counted", || census(&replica).tasks == waits(2, NOW.after(MINUTE))).await;
        let StoreStats { health, restrictions, live_tokens, unwritten_restrictions, outages, .. } = census(&replica);
        assert_eq!((health, restrictions, live_tokens, unwritten_restrictions, outages), (Health::Ready, 2, 2, 0, 0));

        replica.pass(MINUTE);
        assert_eq!(census(&replica).live_tokens, 1);
        assert_eq!(claimed(&replica, 1).await, ["early"]);
        // Whoever puts it off has not done it.
        in_time!(replica, replica.store.postpone_task("early", NOW.after(9 * MINUTE)));
        in_time!(replica, replica.store.enqueue_task(work("last", NOW.after(9 * MINUTE)), NOW));
        eventually("the work is counted", || census(&replica).tasks == waits(3, NOW.after(MINUTE))).await;
        in_time!(replica, replica.store.complete_task("early"));
        eventually("the work is counted", || census(&replica).tasks == waits(2, NOW.after(2 * MINUTE))).await;
        replica.pass(9 * MINUTE);
        assert_eq!(census(&replica).restrictions, 0);
    }

    async fn a_grant_is_found_by_all_that_it_names(replica, 0) {
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
            assert_eq!((sorted(live.live_tokens), live.coverage), (sorted(found), Coverage::AllReplicas), "{to:?}");
        }
    }

    async fn a_grant_lives_as_long_as_its_last_token(replica, 0) {
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

    async fn many_grants_of_one_organization_are_all_found(replica, 0) {
        for n in 0..1500 {
            replica.put_live_token(live_token(&format!("user_{n}"), &format!("sess_{n}"), Some("org_1"), "one", MINUTE)).await;
        }
        let to = TokenHolder::Organization("org_1".into());
        assert_eq!(replica.store.live_tokens(&TenantName::default(), &to, NOW).await.live_tokens.len(), 1500);
    }

    async fn work_is_claimed_when_it_is_due_and_the_earliest_first(replica, 0) {
        for (id, due) in [("later", NOW.after(MINUTE)), ("second", ago(1)), ("first", ago(2))] {
            in_time!(replica, replica.store.enqueue_task(work(id, due), NOW));
        }
        let claimed = replica.store.claim_tasks(1, NOW).await;
        assert_eq!(claimed, [work("first", ago(2))]);
        assert_eq!(replica.store.claim_tasks(9, NOW).await, [work("second", ago(1))]);
        assert_eq!(replica.store.claim_tasks(9, NOW).await, []);
    }

    async fn claimed_work_falls_to_another_after_the_lease_unless_it_is_done(replica, 0) {
        for id in ["done", "left", "postponed"] {
            in_time!(replica, replica.store.enqueue_task(work(id, NOW), NOW));
        }
        assert_eq!(claimed(&replica, 9).await, ["done", "left", "postponed"]);
        in_time!(replica, replica.store.complete_task("done"));
        in_time!(replica, replica.store.postpone_task("postponed", NOW.after(5 * MINUTE)));
        in_time!(replica, replica.store.postpone_task("done", NOW));
        replica.pass_short_of(StoredTask::LEASE);
        assert_eq!(claimed(&replica, 9).await, [""; 0]);
        replica.pass(Duration::from_millis(1));
        assert_eq!(claimed(&replica, 9).await, ["left"]);
        replica.pass(5 * MINUTE);
        assert_eq!(claimed(&replica, 9).await, ["left", "postponed"]);
    }

    async fn work_enqueued_again_waits_for_the_later_time_and_never_an_earlier(replica, 0) {
        let later = NOW.after(MINUTE);
        for due in [NOW, later, NOW] {
            in_time!(replica, replica.store.enqueue_task(work("one", due), NOW));
        }
        eventually("the work is counted", || replica.store.stats(NOW).tasks.oldest_due == Some(later)).await;
        replica.pass_short_of(MINUTE);
        assert_eq!(claimed(&replica, 9).await, [""; 0]);
        replica.pass(Duration::from_millis(1));
        assert_eq!(replica.store.claim_tasks(9, replica.now()).await, [work("one", later)]);
        // Whoever has claimed it keeps it.
        in_time!(replica, replica.store.enqueue_task(work("one", later.after(StoredTask::LEASE / 2)), NOW));
        replica.pass_short_of(StoredTask::LEASE);
        assert_eq!(claimed(&replica, 9).await, [""; 0]);
        in_time!(replica, replica.store.complete_task("one"));
        replica.pass(MINUTE);
        assert_eq!(claimed(&replica, 9).await, [""; 0]);
    }

    async fn of_work_enqueued_again_the_first_job_is_done(replica, 0) {
        in_time!(replica, replica.store.enqueue_task(work("one", NOW), NOW));
        let other = StoredTask { payload: "another".into(), ..work("one", NOW) };
        in_time!(replica, replica.store.enqueue_task(other.clone(), NOW));
        assert_eq!(replica.store.claim_tasks(9, NOW).await, [work("one", NOW)]);
    }

    async fn an_effect_is_claimed_by_one_and_done_until_it_is_forgotten(replica, 0) {
        let (store, until) = (&replica.store, NOW.after(MINUTE));
        assert_eq!(store.claim_once("one", NOW).await, IdempotencyClaim::Granted);
        assert_eq!(store.claim_once("one", NOW).await, IdempotencyClaim::InProgress);
        assert_eq!(store.claim_once("other", NOW).await, IdempotencyClaim::Granted);
        store.mark_done("one", until, NOW).await;
        assert_eq!(store.claim_once("one", NOW).await, IdempotencyClaim::Done);
        let done = [store.is_done("one", NOW).await, store.is_done("other", NOW).await, store.is_done("none", NOW).await];
        assert_eq!(done, [true, false, false]);
        for effect in ["one", "other"] {
            store.release(effect).await;
            assert_eq!(store.claim_once(effect, NOW).await, IdempotencyClaim::Granted);
        }
    }

    async fn a_drop_reaches_whoever_remembers_the_user(replica, 0) {
        in_time!(replica, replica.store.forget_user(&TenantName::default(), "user_1"));
        assert_eq!(replica.drops.lock().unwrap()[0], "user_1 of default");
    }

    async fn a_denial_without_room_is_refused_and_so_are_tokens_until_there_is_room(replica, 2) {
        let denied = |n, minutes| Restriction {
            until: NOW.after(minutes * MINUTE),
            ..restriction(of_user(&format!("user_{n}")), RestrictionKind::Denied(DenialSource::Clerk), ago(1))
        };
        replica.record(denied(1, 1)).await;
        assert_eq!(replica.store.may_issue(replica.now()), Ok(()));
        replica.record(denied(2, 2)).await;
        assert_eq!(replica.store.record(denied(3, 3), NOW).await, Err(StoreError::Full));
        assert_eq!(replica.store.may_issue(NOW), Err(StoreError::Full));
        assert_eq!(replica.health(), Health::Full);
        // What is known already can be told again, and lifted.
        assert_eq!(replica.record(denied(2, 2)).await, RecordOutcome::Repeated);
        replica.pass(MINUTE);
        replica.record(denied(3, 3)).await;
        for (user, verdict) in [("user_1", Verdict::Clear), ("user_2", Verdict::Denied), ("user_3", Verdict::Denied)] {
            assert_eq!(replica.verdict(&session("sess_1", user, None)), verdict);
        }
        let lifted = restriction(of_user("user_2"), RestrictionKind::Lifted(DenialSource::Clerk), NOW);
        replica.record(lifted).await;
        // With Redis not before it has looked whether there is another that it had no room for.
        eventually("tokens are issued", || replica.store.may_issue(replica.now()) == Ok(())).await;
    }

    async fn timestamps_give_way_before_denials_do(replica, 2) {
        let denied = restriction(of_user("user_0"), RestrictionKind::Denied(DenialSource::Clerk), ago(1));
        replica.record(denied).await;
        for n in 1..9 {
            replica.record(restriction(of_user(&format!("user_{n}")), RestrictionKind::Lifted(DenialSource::Clerk), ago(1))).await;
        }
        assert_eq!(replica.verdict(&session("sess_1", "user_0", None)), Verdict::Denied);
        assert_eq!(replica.store.may_issue(NOW), Ok(()));
    }
}

#[tokio::test]
async fn a_full_index_in_memory_refuses_only_the_new_grant() {
    let replica = Replica::in_memory(&bounds(2));
    for n in 1..=2 {
        replica.put_live_token(live_token(&format!("user_{n}"), "sess_1", None, "alice", MINUTE)).await;
    }
    let third = live_token("user_3", "sess_1", None, "alice", 2 * MINUTE);
    assert_eq!(replica.store.put_live_token(third.clone(), NOW).await, Err(StoreError::Full));
    replica.put_live_token(live_token("user_1", "sess_1", None, "alice", 2 * MINUTE)).await;
    assert_eq!(replica.store.may_issue(NOW), Ok(()));
    replica.pass(MINUTE);
    replica.put_live_token(third).await;
}

#[tokio::test]
async fn a_full_queue_in_memory_takes_no_more_work() {
    let replica = Replica::in_memory(&bounds(1));
    replica.store.enqueue_task(work("one", NOW), NOW).await.unwrap();
    assert_eq!(replica.store.enqueue_task(work("two", NOW), NOW).await, Err(StoreError::Full));
    replica.store.complete_task("one").await.unwrap();
    replica.store.enqueue_task(work("two", NOW), NOW).await.unwrap();
}

#[tokio::test]
async fn a_denial_without_room_in_memory_waits_for_it_and_tokens_wait_too() {
    let replica = Replica::in_memory(&bounds(2));
    let denied = |n, minutes| Restriction {
        until: NOW.after(minutes * MINUTE),
        ..restriction(of_user(&format!("user_{n}")), RestrictionKind::Denied(DenialSource::Clerk), ago(5))
    };
    let verdicts = |replica: &Replica| {
        [1, 2, 3, 4, 5].map(|n| replica.verdict(&session("sess_1", &format!("user_{n}"), None)) == Verdict::Denied)
    };
    for (n, minutes) in [(1, 1), (2, 2)] {
        replica.record(denied(n, minutes)).await;
    }
    // Two can wait, and of the third only the end is known.
    for (n, minutes) in [(3, 9), (4, 9), (5, 5)] {
        assert_eq!(replica.store.record(denied(n, minutes), NOW).await, Err(StoreError::Full));
    }
    // A newer event about one that waits.
    assert_eq!(replica.store.record(Restriction { at: NOW, ..denied(4, 3) }, NOW).await, Err(StoreError::Full));
    replica.record(restriction(of_user("user_3"), RestrictionKind::Lifted(DenialSource::Clerk), ago(6))).await;
    assert_eq!(verdicts(&replica), [true, true, false, false, false]);

    replica.pass(MINUTE);
    assert_eq!(replica.store.may_issue(replica.now()), Err(StoreError::Full));
    let [_, _, three, four, five] = verdicts(&replica);
    assert!(three != four && !five, "one of those that wait has the room");

    replica.pass(MINUTE);
    assert_eq!(replica.store.may_issue(replica.now()), Err(StoreError::Full));
    assert_eq!(verdicts(&replica), [false, false, true, true, false]);

    replica.pass(MINUTE);
    assert_eq!(verdicts(&replica), [false, false, true, false, false]);
    // There is room, and still it is not known whom the one refuses that could not even wait.
    assert_eq!(replica.store.may_issue(replica.now()), Err(StoreError::Full));
    replica.pass_short_of(2 * MINUTE);
    assert_eq!(replica.health(), Health::Full);
    replica.pass(Duration::from_millis(1));
    assert_eq!(replica.store.may_issue(replica.now()), Ok(()));
    assert_eq!(verdicts(&replica), [false, false, true, false, false]);
}

#[tokio::test]
async fn what_waits_for_room_and_is_lifted_or_over_keeps_nobody_waiting() {
    let replica = Replica::in_memory(&StoreLimits { restrictions: 1, ..StoreLimits::default() });
    let denied = |n, until| Restriction {
        until,
        ..restriction(of_user(&format!("user_{n}")), RestrictionKind::Denied(DenialSource::Clerk), ago(5))
    };
    let end = NOW.after(MINUTE);
    replica.record(denied(1, end)).await;
    for (n, until) in [(2, end), (3, end.after(MINUTE))] {
        assert_eq!(replica.store.record(denied(n, until), NOW).await, Err(StoreError::Full));
    }
    replica.record(restriction(of_user("user_3"), RestrictionKind::Lifted(DenialSource::Clerk), ago(4))).await;
    replica.pass(MINUTE);
    assert_eq!(replica.store.may_issue(replica.now()), Ok(()));
    for user in ["user_1", "user_2", "user_3"] {
        assert_eq!(replica.verdict(&session("sess_1", user, None)), Verdict::Clear);
    }
}

#[tokio::test]
async fn a_claim_lapses_and_of_too_many_effects_those_that_end_first_are_forgotten() {
    let replica = Replica::in_memory(&bounds(2));
    let store = &replica.store;
    assert_eq!(store.claim_once("one", NOW).await, IdempotencyClaim::Granted);
    assert_eq!(store.claim_once("one", NOW.after(IdempotencyClaim::LEASE)).await, IdempotencyClaim::Granted);
    for (effect, minutes) in [("one", 3), ("two", 1), ("three", 2)] {
        store.mark_done(effect, NOW.after(minutes * MINUTE), NOW).await;
    }
    let later = NOW.after(MINUTE / 2);
    for (effect, begun) in
        [("one", IdempotencyClaim::Done), ("three", IdempotencyClaim::Done), ("two", IdempotencyClaim::Granted)]
    {
        assert_eq!(store.claim_once(effect, later).await, begun, "{effect}");
    }
}

#[tokio::test]
async fn an_effect_that_one_replica_has_done_is_done_for_all_and_claims_lapse() {
    let server = RedisServer::start();
    let [one, other] = [Replica::of(&server).await, Replica::of(&server).await];
    assert_eq!(one.store.claim_once("effect", NOW).await, IdempotencyClaim::Granted);
    assert_eq!(other.store.claim_once("effect", NOW).await, IdempotencyClaim::InProgress);
    let mut connection = server.connection();
    let mut ttl = || ::redis::cmd("PTTL").arg("aca:{v1}:effect:effect").query::<i64>(&mut connection).unwrap();
    assert!((1..=5000).contains(&ttl()));
    one.store.mark_done("effect", NOW.after(60 * MINUTE), NOW).await;
    assert_eq!(other.store.claim_once("effect", NOW).await, IdempotencyClaim::Done);
    assert!((3_500_000..=3_600_000).contains(&ttl()));
}

//! The connector: each command, and the log, with a real Redis.

use std::{net::TcpListener, slice, time::Duration};

use ably_clerk_auth::{
    ably::{KeyName, TokenFormat},
    clock::UnixMillis,
    redis::{ConnectionLost, Persistence, RedisAddress, RedisMode},
    store::{
        Claim, ClientIdDigest, Connect as _, Connected, DenialSource, LONGEST_WAIT, LiveToken, LogPosition,
        RecordOutcome, Restriction, RestrictionKind, StoredTask, TaskBacklog, TokenHolder,
    },
    tenant::TenantName,
};

use crate::{
    acl::{base, documented_commands},
    fixtures::{
        DENIED, LIFTED, MINUTE, NOW, ago, clerk_id, connector, impatient_connector, live_token, of_user, restriction,
    },
    redis_server::RedisServer,
};

const REMEMBERED_FOR: Duration = Restriction::REMEMBERED_FOR;

async fn connect(server: &RedisServer) -> Connected {
    let connector = connector(&server.address());
    connector.connect().await.unwrap()
}

async fn record(redis: &Connected, restrictions: &[Restriction], now: UnixMillis) -> Vec<Option<Restriction>> {
    redis.commands.record(restrictions, &[], RecordOutcome::New, now).await.unwrap()
}

/// All recorded restrictions, ordered by subject.
async fn recorded(redis: &Connected) -> Vec<Restriction> {
    let (mut all, mut cursor) = (Vec::new(), Some(0));
    while let Some(at) = cursor {
        let (next, page) = redis.commands.restrictions(at).await.unwrap();
        all.extend(page);
        cursor = next;
    }
    all.sort_unstable_by(|one, other| one.subject.cmp(&other.subject));
    all
}

async fn last(redis: &Connected) -> LogPosition {
    redis.commands.state().await.unwrap().last
}

/// The entries after a position.
async fn entries(redis: &mut Connected, after: LogPosition) -> Vec<Option<Restriction>> {
    let page = redis.log.read(after, Duration::ZERO).await.unwrap();
    page.entries.into_iter().map(|(_, entry)| entry).collect()
}

fn denial(user: &str, at: UnixMillis) -> Restriction {
    restriction(of_user(user), DENIED, at)
}

fn task(id: &str, due: UnixMillis) -> StoredTask {
    StoredTask { id: id.to_owned(), due, payload: format!("what {id} does") }
}

async fn enqueue(redis: &Connected, tasks: &[StoredTask]) {
    redis.commands.record(&[], tasks, RecordOutcome::New, NOW).await.unwrap();
}

#[tokio::test]
async fn data_without_an_id_and_a_log_gets_both_once() {
    let server = RedisServer::start();
    let mut redis = connect(&server).await;
    let state = redis.commands.state().await.unwrap();
    assert_eq!(state.data_id.len(), 32);
    assert_eq!(state.backlog, TaskBacklog::default());
    assert_eq!(connect(&server).await.commands.state().await.unwrap(), state);
    let page = redis.log.read(LogPosition::default(), Duration::ZERO).await.unwrap();
    assert_eq!(page.entries, [(state.last, None)]);
    assert_eq!((page.first, page.last), (Some(state.last), Some(state.last)));

    let () = server.run("FLUSHALL");
    let replaced = redis.commands.state().await.unwrap();
    assert!(replaced.data_id != state.data_id && replaced.last > state.last);
}

#[tokio::test]
async fn a_newer_restriction_is_recorded_and_appended_to_the_log() {
    let server = RedisServer::start();
    let mut redis = connect(&server).await;
    let start = last(&redis).await;
    let first = [denial("user_1", ago(3)), denial("user_2", ago(3))];
    assert_eq!(record(&redis, &first, NOW).await, [None, None]);
    let second = [denial("user_1", ago(4)), restriction(of_user("user_2"), LIFTED, ago(2))];
    assert_eq!(record(&redis, &second, NOW).await, first.clone().map(Some));
    assert_eq!(recorded(&redis).await, [first[0].clone(), second[1].clone()]);
    let appended = [&first[0], &first[1], &second[1]].map(|newer| Some(newer.clone()));
    assert_eq!(entries(&mut redis, start).await, appended);
}

#[tokio::test]
async fn in_whatever_order_restrictions_are_recorded_the_same_ones_count() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    // From the one that yields to all others to the one that yields to none.
    let of_a_user = [
        restriction(of_user("user_1"), LIFTED, ago(3)),
        restriction(of_user("user_1"), DENIED, ago(3)),
        Restriction { until: NOW.after(20 * MINUTE), ..restriction(of_user("user_1"), DENIED, ago(3)) },
        restriction(of_user("user_1"), LIFTED, ago(2)),
        restriction(of_user("user_1"), RestrictionKind::Deleted, ago(4)),
    ];
    let operators = restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Operator), ago(9));
    for turn in 0..of_a_user.len() {
        for backwards in [false, true] {
            let mut order = of_a_user.to_vec();
            order.rotate_left(turn);
            if backwards {
                order.reverse();
            }
            let () = server.run("FLUSHALL");
            record(&redis, &order, NOW).await;
            record(&redis, slice::from_ref(&operators), NOW).await;
            let mut rows = recorded(&redis).await;
            rows.sort_unstable_by_key(|row| row.at);
            assert_eq!(rows, [operators.clone(), of_a_user[4].clone()], "{order:?}");
        }
    }
}

#[tokio::test]
async fn a_restriction_stays_for_48_hours_after_its_end() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let near = denial("user_1", NOW);
    let far = Restriction { until: NOW.after(2 * REMEMBERED_FOR), ..denial("user_2", NOW) };
    record(&redis, &[near.clone(), far.clone()], NOW).await;
    for (time, left) in [
        (UnixMillis(near.until.after(REMEMBERED_FOR).0 - 1), vec![near.clone(), far.clone()]),
        (near.until.after(REMEMBERED_FOR), vec![far.clone()]),
        (far.until.after(REMEMBERED_FOR), vec![]),
    ] {
        record(&redis, &[], time).await;
        assert_eq!(recorded(&redis).await, left);
        assert_eq!(server.run::<usize>("ZCARD aca:{v4}:ends"), left.len());
    }
}

#[tokio::test]
async fn a_newer_restriction_ends_when_it_says() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    for (kind, at, minutes) in [(DENIED, 3, 9), (LIFTED, 2, 1), (DENIED, 1, 5)] {
        let until = NOW.after(minutes * MINUTE);
        record(&redis, &[Restriction { until, ..restriction(of_user("user_1"), kind, ago(at)) }], NOW).await;
        let ends: Vec<(String, i64)> = server.run("ZRANGE aca:{v4}:ends 0 -1 WITHSCORES");
        assert_eq!(ends.iter().map(|(_, end)| UnixMillis(*end)).collect::<Vec<_>>(), [until], "{kind:?}");
    }
}

#[tokio::test]
async fn at_the_limit_of_ended_restrictions_those_that_ended_first_go_first() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let count = || server.run::<usize>("ZCARD aca:{v4}:ends");
    let fill =
        "for i = 1, 200150 do redis.call('ZADD', KEYS[1], i + ARGV[1], i) redis.call('HSET', KEYS[2], i, '') end";
    let before = ago(300_000);
    let mut filling = redis::cmd("EVAL");
    filling.arg(fill).arg(2).arg("aca:{v4}:ends").arg("aca:{v4}:restrictions").arg(before.0);
    let () = filling.query(&mut server.connection()).unwrap();
    let mut counts = Vec::new();
    for at in 1..=3 {
        record(&redis, &[restriction(of_user("user_1"), LIFTED, UnixMillis(NOW.0 + at))], NOW).await;
        counts.push(count());
    }
    // A call removes 100 at most.
    assert_eq!(counts, [200_051, 200_001, 200_001]);
    assert_eq!(server.run::<usize>("HLEN aca:{v4}:restrictions"), 200_001);
    let first: Vec<String> = server.run("ZRANGE aca:{v4}:ends 0 0");
    assert_eq!(first, ["151"]);

    // None of them has ended by this clock.
    record(&redis, &[denial("user_2", NOW)], before).await;
    record(&redis, &[denial("user_3", NOW)], before).await;
    assert_eq!(count(), 200_003);
}

#[tokio::test]
async fn a_page_of_the_log_has_its_first_and_last_position() {
    let server = RedisServer::start();
    let mut redis = connect(&server).await;
    let start = last(&redis).await;
    let denials: Vec<_> = (0..1_001).map(|number| denial(&clerk_id("user", number), NOW)).collect();
    record(&redis, &denials, NOW).await;
    let end = last(&redis).await;
    let page = redis.log.read(start, LONGEST_WAIT).await.unwrap();
    assert_eq!((page.entries.len(), page.first, page.last), (1_000, Some(start), Some(end)));
    assert_eq!(page.entries[0].1.as_ref(), Some(&denials[0]));
    let (position, _) = page.entries[999];
    let rest = redis.log.read(position, LONGEST_WAIT).await.unwrap();
    assert_eq!(rest.entries.last(), Some(&(end, Some(denials[1_000].clone()))));
    assert_eq!(redis.log.read(end, LONGEST_WAIT).await.unwrap().entries, []);
}

#[tokio::test]
async fn a_reader_that_waits_gets_an_entry_as_soon_as_it_is_appended() {
    let server = RedisServer::start();
    let mut redis = connect(&server).await;
    let start = last(&redis).await;
    let denial = denial("user_1", NOW);
    // The log and the commands have connections of their own.
    let recording = redis.commands.record(slice::from_ref(&denial), &[], RecordOutcome::New, NOW);
    let (page, recorded) = tokio::join!(redis.log.read(start, LONGEST_WAIT), recording);
    recorded.unwrap();
    let page = page.unwrap();
    assert_eq!(page.entries, [(last(&redis).await, Some(denial))]);
    assert_eq!(page.last, Some(page.entries[0].0));
}

#[tokio::test]
async fn the_first_position_of_a_trimmed_log_is_that_of_its_first_entry() {
    let server = RedisServer::start();
    let mut redis = connect(&server).await;
    let start = last(&redis).await;
    record(&redis, &[denial("user_1", NOW), denial("user_2", NOW), denial("user_3", NOW)], NOW).await;
    let _: usize = server.run("XTRIM aca:{v4}:log MAXLEN 2");
    let page = redis.log.read(start, Duration::ZERO).await.unwrap();
    let [(first, _), (end, _)] = page.entries[..] else { panic!("{page:?}") };
    assert_eq!((page.first, page.last), (Some(first), Some(end)));
    assert!(first > start);

    let _: usize = server.run("XTRIM aca:{v4}:log MAXLEN 0");
    let page = redis.log.read(start, Duration::ZERO).await.unwrap();
    assert_eq!((page.first, page.last), (None, None));
    // An empty log gets an entry again, with a greater position.
    assert!(last(&redis).await > end);
}

#[tokio::test]
async fn live_tokens_are_found_by_each_holder_with_their_last_end() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let short = live_token("user_1", "sess_1", Some("org_1"), "alice", MINUTE);
    let other = live_token("user_2", "sess_2", None, "bob", MINUTE);
    let long = LiveToken { until: NOW.after(60 * MINUTE), ..short.clone() };
    let registered = [long.clone(), other.clone(), short];
    redis.commands.register(&registered, NOW).await.unwrap();
    let tenant = TenantName::default();
    for (holder, found) in [
        (TokenHolder::User("user_1".into()), vec![long.clone()]),
        (TokenHolder::Session("sess_1".into()), vec![long.clone()]),
        (TokenHolder::Organization("org_1".into()), vec![long.clone()]),
        (TokenHolder::ClientId("alice".into()), vec![long]),
        (TokenHolder::User("user_2".into()), vec![other]),
        (TokenHolder::Session("sess_3".into()), vec![]),
    ] {
        assert_eq!(redis.commands.live_tokens(&tenant, &holder, NOW).await.unwrap(), found, "{holder:?}");
    }
    let later = NOW.after(MINUTE);
    let ended = redis.commands.live_tokens(&tenant, &TokenHolder::User("user_2".into()), later).await.unwrap();
    assert_eq!(ended, []);
    let left: i64 = server.run("PTTL aca:{v4}:tokens:default:user_2");
    assert!((1..=60_000).contains(&left), "{left}");
}

#[tokio::test]
async fn live_tokens_that_differ_in_session_organization_client_id_format_or_key_are_kept_apart() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let one = live_token("user_1", "sess_1", Some("org_1"), "alice", MINUTE);
    let mut registered = vec![
        LiveToken { session: "sess_2".into(), ..one.clone() },
        LiveToken { organization: Some("org_2".into()), ..one.clone() },
        LiveToken { organization: None, ..one.clone() },
        LiveToken { client_id: "bob".into(), ..one.clone() },
        LiveToken { format: TokenFormat::Jwt, ..one.clone() },
        LiveToken { format: TokenFormat::TokenDetails, ..one.clone() },
        LiveToken { key: KeyName::parse("xVLyHw.other0").unwrap(), ..one.clone() },
        LiveToken { key: KeyName::parse("xVLyHw.other0").unwrap(), organization: None, ..one.clone() },
        one,
    ];
    redis.commands.register(&registered, NOW).await.unwrap();
    let user = TokenHolder::User("user_1".into());
    let mut found = redis.commands.live_tokens(&TenantName::default(), &user, NOW).await.unwrap();
    found.sort();
    registered.sort();
    assert_eq!(found, registered);
}

#[tokio::test]
async fn the_many_users_of_an_organization_or_a_client_id_are_all_found() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let ids = |kind: &'static str| (0..3000).map(move |number| clerk_id(kind, number));
    let member = |(user, session): (String, String)| live_token(&user, &session, Some("org_1"), "everyone", MINUTE);
    let registered: Vec<_> = ids("user").zip(ids("sess")).map(member).collect();
    for batch in registered.chunks(100) {
        redis.commands.register(batch, NOW).await.unwrap();
    }
    for holder in [TokenHolder::Organization("org_1".into()), TokenHolder::ClientId("everyone".into())] {
        let mut found = redis.commands.live_tokens(&TenantName::default(), &holder, NOW).await.unwrap();
        found.sort();
        assert!(found == registered, "{holder:?}: {} of {}", found.len(), registered.len());
    }
}

#[tokio::test]
async fn redis_lacked_a_live_token_unless_it_has_it_with_the_same_end() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let token = live_token("user_1", "sess_1", None, "alice", 2 * MINUTE);
    let ends = [2, 2, 3, 2, 3].map(|minutes| LiveToken { until: NOW.after(minutes * MINUTE), ..token.clone() });
    let [first, again, later, earlier, latest] = ends;
    for (registered, lacked) in [
        (vec![first], vec![true]),
        (vec![again], vec![false]),
        (vec![later.clone(), earlier, latest], vec![true, true, false]),
    ] {
        assert_eq!(redis.commands.register(&registered, NOW).await.unwrap(), lacked);
    }
    let holder = TokenHolder::User("user_1".into());
    assert_eq!(redis.commands.live_tokens(&TenantName::default(), &holder, NOW).await.unwrap(), [later]);
}

#[tokio::test]
async fn ended_live_tokens_are_removed() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let sessions = |life: Duration| (0..7).map(move |n| live_token("user_1", &format!("{n}"), None, "alice", life));
    redis.commands.register(&sessions(MINUTE).collect::<Vec<_>>(), NOW).await.unwrap();
    let long = live_token("user_1", "sess_1", None, "alice", 60 * MINUTE);
    let ended = live_token("user_2", "sess_2", None, "bob", MINUTE);
    let registered = [long, ended];
    redis.commands.register(&registered, NOW.after(MINUTE)).await.unwrap();
    assert_eq!(server.run::<usize>("HLEN aca:{v4}:tokens:default:user_1"), 1);
    let left: i64 = server.run("PTTL aca:{v4}:tokens:default:user_2");
    assert!([-2, 0, 1].contains(&left), "{left}");
}

#[tokio::test]
async fn ended_members_of_the_index_are_removed_a_few_at_a_time() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let member = |n: u32, life| live_token(&format!("user_{n}"), "sess_1", Some("org_1"), "alice", life);
    let ended: Vec<_> = (1..=20).map(|n| member(n, MINUTE)).collect();
    redis.commands.register(&ended, NOW).await.unwrap();
    let [part] = server.run::<[String; 1]>("KEYS aca:{v4}:users:*");
    let left = async |now| {
        redis.commands.register(&[member(0, 60 * MINUTE)], now).await.unwrap();
        server.run::<usize>(&format!("ZCARD {part}"))
    };
    assert_eq!(left(NOW.after(MINUTE / 2)).await, 21);
    let mut counts = Vec::new();
    for _ in 0..3 {
        counts.push(left(NOW.after(MINUTE)).await);
    }
    assert_eq!(counts, [13, 5, 1]);
}

#[tokio::test]
async fn a_task_is_claimed_once_a_lease_and_keeps_its_first_due_time() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let tasks = [task("1", NOW), task("2", NOW.after(MINUTE)), task("3", NOW.after(2 * MINUTE))];
    enqueue(&redis, &tasks).await;
    let backlog = redis.commands.state().await.unwrap().backlog;
    assert_eq!(backlog, TaskBacklog { count: 3, oldest_due: Some(NOW) });

    let now = NOW.after(MINUTE);
    let claim = async |max, now| redis.commands.claim(Claim::Due(max), now).await.unwrap();
    assert_eq!(claim(1, now).await, tasks[..1]);
    assert_eq!(claim(9, now).await, tasks[1..2]);
    assert_eq!(claim(9, now).await, []);
    let now = now.after(StoredTask::LEASE);
    assert_eq!(claim(9, now).await, tasks[..2]);
    redis.commands.end_claim(&task("1", NOW), Some(now.after(MINUTE))).await.unwrap();
    redis.commands.end_claim(&task("unknown", NOW), Some(now)).await.unwrap();
    let now = now.after(MINUTE);
    assert_eq!(claim(9, now).await.len(), 3);
}

#[tokio::test]
async fn a_task_whose_id_is_known_is_not_stored_again() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let later = NOW.after(MINUTE);
    enqueue(&redis, &[task("1", NOW)]).await;
    enqueue(&redis, &[StoredTask { payload: "another".to_owned(), ..task("1", later) }]).await;
    assert_eq!(redis.commands.state().await.unwrap().backlog, TaskBacklog { count: 1, oldest_due: Some(NOW) });
    assert_eq!(redis.commands.claim(Claim::Due(9), later).await.unwrap(), [task("1", NOW)]);
}

#[tokio::test]
async fn a_task_that_was_stored_again_later_is_not_completed_for_the_earlier_time() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let later = NOW.after(MINUTE);
    for due in [NOW, later] {
        enqueue(&redis, &[task("1", due)]).await;
        // The second time by a replica that claimed it before.
        redis.commands.end_claim(&task("1", NOW), None).await.unwrap();
    }
    redis.commands.end_claim(&task("unknown", NOW), None).await.unwrap();
    assert_eq!(redis.commands.claim(Claim::Due(9), later).await.unwrap(), [task("1", later)]);
    redis.commands.end_claim(&task("1", later), None).await.unwrap();
    assert_eq!(redis.commands.state().await.unwrap().backlog, TaskBacklog::default());
}

#[tokio::test]
async fn tasks_are_stored_with_a_restriction_only_if_it_is_new() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let record_if = async |tasks_if, restrictions: &[Restriction], id| {
        redis.commands.record(restrictions, &[task(id, NOW)], tasks_if, NOW).await.unwrap();
        let claimed = redis.commands.claim(Claim::Named(id), NOW).await.unwrap();
        claimed.len() == 1
    };
    let record = async |restrictions: &[Restriction], id| record_if(RecordOutcome::New, restrictions, id).await;
    let (first, second) = (denial("user_1", NOW), denial("user_1", NOW.after(MINUTE)));
    let later_end = Restriction { until: first.until.after(MINUTE), ..first.clone() };
    assert!(record(&[], "without a restriction").await);
    assert!(record(slice::from_ref(&first), "new").await);
    assert!(!record(slice::from_ref(&first), "again").await);
    assert!(!record(&[later_end], "again, with another end").await);
    assert!(record(&[first.clone(), second], "one of them is new").await);
    assert!(!record(&[first], "outdated").await);
    let named = |name: Option<&str>, minutes| {
        let kind = RestrictionKind::ClientId(name.map(ClientIdDigest::of));
        Restriction { kind, ..denial("user_1", NOW.after(MINUTE * minutes)) }
    };
    assert!(record(&[named(Some("alice"), 1)], "first name").await);
    assert!(!record(&[named(Some("alice"), 2)], "same name").await);
    assert!(record(&[named(Some("bob"), 3)], "other name").await);
    assert!(record(&[named(Some("alice"), 4)], "former name").await);
    assert!(record(&[named(None, 5)], "no name").await);
    assert!(!record(&[named(None, 6)], "still no name").await);
    assert!(!record(&[named(Some("bob"), 3)], "outdated name").await);
    assert!(record_if(RecordOutcome::Confirmed, &[named(None, 7)], "no name, written back").await);
    assert!(!record_if(RecordOutcome::Confirmed, &[named(None, 7)], "written back again").await);
}

#[tokio::test]
async fn what_is_left_of_a_task_replaces_it_unless_it_was_stored_again_later() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let (later, claim) = (NOW.after(MINUTE), async |now| redis.commands.claim(Claim::Due(9), now).await.unwrap());
    enqueue(&redis, &[task("1", NOW)]).await;
    redis.commands.end_claim(&task("1", NOW), None).await.unwrap();
    enqueue(&redis, &[task("1", later)]).await;
    let left = StoredTask { payload: "the rest".to_owned(), ..task("1", NOW) };
    redis.commands.end_claim(&left, Some(NOW)).await.unwrap();
    assert_eq!(claim(NOW).await, []);
    assert_eq!(claim(later).await, [task("1", later)]);
    let left = StoredTask { due: later, ..left };
    redis.commands.end_claim(&left, Some(later)).await.unwrap();
    assert_eq!(claim(later).await, [left]);
}

#[tokio::test]
async fn foreign_data_is_ignored() {
    let server = RedisServer::start();
    let mut redis = connect(&server).await;
    let start = last(&redis).await;
    let mut foreign = redis::pipe();
    for row in [&b""[..], b"x", b"\xff\xfe", b"00000000000000000000000000000000[]"] {
        foreign.cmd("HSET").arg("aca:{v4}:restrictions").arg(row).arg(row);
        foreign.cmd("ZADD").arg("aca:{v4}:ends").arg(1).arg(row);
        foreign.cmd("XADD").arg(&["aca:{v4}:log", "*", "restriction"]).arg(row);
        foreign.cmd("XADD").arg(&["aca:{v4}:log", "*", "of a later version"]).arg(row);
        foreign.cmd("HSET").arg("aca:{v4}:tokens:default:user_1").arg(row).arg(row);
        foreign.cmd("HSET").arg("aca:{v4}:tasks").arg(row).arg(row);
        foreign.cmd("ZADD").arg("aca:{v4}:claimable").arg(1).arg(row);
    }
    let field = |session: &str, client_id: &str| {
        postcard::to_allocvec(&(session, client_id, TokenFormat::Jwt, [0_u8; 4])).unwrap()
    };
    let value = |end: &str, key: &str, organization: Option<&str>| {
        [end.as_bytes(), &postcard::to_allocvec(&(key, organization)).unwrap()].concat()
    };
    let (end, key) = (&*(NOW.0 + 1).to_string(), "app.key");
    for (field, value) in [
        (field("sess_0", "alice"), value(end, key, None)),
        (field("sess_1", "ali\nce"), value(end, key, None)),
        (field("sess\t_1", "alice"), value(end, key, None)),
        (field("sess_2", "alice"), value(end, key, Some("org\n_1"))),
        (field("sess_3", "alice"), value("1xxxxxxxxxxxx", key, None)),
        (field("sess_4", "alice"), value(end, "app", None)),
        (field("sess_5", "alice"), end.into()),
        (b"\x06sess_6\x05alice\x09\x00\x00\x00\x00".to_vec(), value(end, key, None)),
        (b"\x06sess_6\x05al".to_vec(), value(end, key, None)),
    ] {
        foreign.cmd("HSET").arg("aca:{v4}:tokens:default:user_1").arg(field).arg(value);
    }
    for member in [&b"user_1"[..], b"000000user_1", b"\xff\xff", b"1"] {
        foreign.cmd("ZADD").arg("aca:{v4}:users:default:7").arg(i64::MAX).arg(member);
    }
    let () = foreign.query(&mut server.connection()).unwrap();

    assert_eq!(recorded(&redis).await, []);
    assert_eq!(entries(&mut redis, start).await, [const { None }; 8]);
    for holder in [TokenHolder::User("user_1".into()), TokenHolder::ClientId("alice".into())] {
        let found = redis.commands.live_tokens(&TenantName::default(), &holder, NOW).await.unwrap();
        let sessions: Vec<_> = found.iter().map(|live_token| &*live_token.session).collect();
        assert_eq!(sessions, ["sess_0"], "only that is as the service writes it");
    }
    // The store does not read payloads. It removes a task whose ID is not text.
    let claimed = redis.commands.claim(Claim::Due(9), NOW).await.unwrap();
    assert!(claimed.iter().all(|task| task.payload == task.id && task.due == NOW), "{claimed:?}");
    assert_eq!((claimed.len(), redis.commands.state().await.unwrap().backlog.count), (3, 3));
    // Restrictions that it cannot read are removed too.
    record(&redis, &[], NOW).await;
    assert_eq!(server.run::<usize>("HLEN aca:{v4}:restrictions"), 0);
}

#[tokio::test]
async fn a_connection_is_lost_if_redis_does_not_know_a_script_any_more_and_the_next_one_sends_it() {
    let server = RedisServer::start();
    let live_tokens = [live_token("user_1", "sess_1", None, "alice", MINUTE)];
    for number in 0..5 {
        let run = async |redis: &Connected| match number {
            0 => redis.commands.state().await.map(drop),
            1 => redis.commands.record(&[denial("user_1", NOW)], &[], RecordOutcome::New, NOW).await.map(drop),
            2 => redis.commands.register(&live_tokens, NOW).await.map(drop),
            3 => redis.commands.claim(Claim::Due(1), NOW).await.map(drop),
            _ => redis.commands.end_claim(&task("1", NOW), None).await,
        };
        let redis = connect(&server).await;
        server.run::<()>("SCRIPT FLUSH");
        assert!(run(&redis).await.unwrap_err().0.starts_with("it answered NOSCRIPT"), "{number}");
        run(&connect(&server).await).await.unwrap();
    }
}

#[tokio::test]
async fn a_redis_that_takes_no_writes_cannot_be_used() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let connector = connector(&server.address());
    for (forbid, code, allow) in [
        ("CONFIG SET maxmemory 1", "OOM", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 1", "READONLY", "REPLICAOF NO ONE"),
        ("CONFIG SET min-replicas-to-write 1", "NOREPLICAS", "CONFIG SET min-replicas-to-write 0"),
    ] {
        let lost = ConnectionLost(format!("it answered {code}"));
        let () = server.run(forbid);
        assert_eq!(redis.commands.state().await.unwrap_err(), lost);
        assert_eq!(
            redis.commands.record(&[denial("user_1", NOW)], &[], RecordOutcome::New, NOW).await.unwrap_err(),
            lost
        );
        assert_eq!(connector.connect().await.unwrap_err(), lost);
        let () = server.run(allow);
        redis.commands.state().await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_is_lost_with_its_server() {
    let mut server = RedisServer::start();
    let mut redis = connect(&server).await;
    let connector = connector(&server.address());
    let position = last(&redis).await;
    server.kill();
    assert!(redis.commands.state().await.is_err());
    assert!(redis.log.read(position, LONGEST_WAIT).await.is_err());
    let reason = connector.connect().await.unwrap_err().0;
    assert!(reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = RedisAddress::parse(&format!("redis://:PASSWORD@{}", silent.local_addr().unwrap())).unwrap();
    assert_eq!(impatient_connector(&address).connect().await.unwrap_err().0, "it did not answer in time");
}

#[tokio::test]
async fn a_wrong_password_is_not_printed() {
    let server = RedisServer::start();
    let address = RedisAddress::parse(&format!("redis://aca:hunter2@127.0.0.1:{}", server.port())).unwrap();
    let connector = connector(&address);
    let reason = connector.connect().await.unwrap_err().0;
    assert_eq!(reason, "authentication failed");
    assert!(!format!("{connector:?} {}", connector.address()).contains("hunter2"), "{connector:?}");
}

#[tokio::test]
async fn a_probe_tells_what_it_found() {
    let server = RedisServer::start();
    let connector = connector(&server.address());
    let found = connector.probe().await.unwrap();
    assert_eq!((found.mode, found.node), (RedisMode::Single, format!("127.0.0.1:{}", server.port())));
    assert_eq!(found.info.eviction_policy().as_deref(), Some("noeviction"));
    assert_eq!(found.info.persistence(), Some(Persistence::AppendOnlyFile));
    assert_eq!((found.refused, found.refused_extras), (vec![], vec![]));
    assert!(found.info.server().is_some_and(|server| server.contains(' ')));
    let () = server.run("CONFIG SET maxmemory-policy allkeys-lru");
    let () = server.run("CONFIG SET appendonly no");
    let found = connector.probe().await.unwrap();
    assert_eq!(found.info.evicts().as_deref(), Some("allkeys-lru"));
    assert!(matches!(found.info.persistence(), Some(Persistence::Snapshots { .. })), "{:?}", found.info.persistence());
}

#[tokio::test]
async fn a_probe_names_each_command_that_the_user_may_not_run() {
    let server = RedisServer::start();
    let connector = connector(&server.address());
    let allowed = documented_commands();
    for command in &allowed {
        // Redis 6.2 cannot take away a subcommand.
        let () = server.run(&format!("ACL SETUSER aca -{}", base(command)));
        let found = connector.probe().await.unwrap();
        assert_eq!([found.refused, found.refused_extras].concat().join(" "), *command);
        let () = server.run(&format!("ACL SETUSER aca +{command}"));
    }
    let () = server.run("ACL SETUSER aca resetkeys");
    let found = connector.probe().await.unwrap();
    assert_eq!(found.refused.len() + ["info", "script|load"].len(), allowed.len());
    assert_eq!(server.run::<usize>("DBSIZE"), 2, "the ID of the data and the log");
}

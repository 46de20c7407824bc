//! The connector: each command, and the log, with a real Redis.

use std::{collections::BTreeSet, net::TcpListener, time::Duration};

use ably_clerk_auth::{
    ably::TokenFormat,
    clock::UnixMillis,
    store::{
        Connect as _, Connected, ConnectionLost, DenialSource, IdempotencyClaim, LiveToken, LogEntry, LogPosition,
        Persistence, QueuedTask, RedisAddress, RedisConnector, RedisKeyPrefix, RedisMode, Restriction, RestrictionKind,
        StoredTask, TaskBacklog, TokenHolder, Wait,
    },
    tenant::TenantName,
};

use crate::{
    fixtures::{MINUTE, NOW, ago, clerk_id, live_token, of_session, of_user, restriction},
    redis_server::RedisServer,
};

/// What the user of the connector may run.
const COMMANDS: &str = "evalsha script|load info get set pexpire pttl hget hgetall hset hsetnx hdel hexists hlen hscan zadd zrem \
                        zcard zcount zscore zrange zrangebyscore zremrangebyscore zscan xadd xread xrange xrevrange";
const DENIED: RestrictionKind = RestrictionKind::Denied(DenialSource::Clerk);
const LIFTED: RestrictionKind = RestrictionKind::Lifted(DenialSource::Clerk);
const REMEMBERED_FOR: Duration = Restriction::REMEMBERED_FOR;

fn address(server: &RedisServer) -> RedisAddress {
    let allowed = COMMANDS.split_whitespace().map(|command| format!("+{command}"));
    let rules = ["reset", "on", ">PASSWORD", "~aca:*", "resetchannels"].map(str::to_owned).into_iter().chain(allowed);
    let mut user = redis::cmd("ACL");
    let () =
        user.arg("SETUSER").arg("connector").arg(rules.collect::<Vec<_>>()).query(&mut server.connection()).unwrap();
    RedisAddress::parse(&server.url().replace("aca:", "connector:")).unwrap()
}

fn connector(address: &RedisAddress) -> RedisConnector {
    RedisConnector::new(address, &RedisKeyPrefix::parse("aca:").unwrap()).unwrap()
}

/// Repeats an operation that Redis did not answer within 100 ms, as happens on a busy machine.
macro_rules! answered {
    ($operation:expr) => {{
        let mut tries = 0;
        loop {
            match $operation.await {
                Err(lost) if tries < 20 && lost.0 == "it did not answer in time" => tries += 1,
                outcome => break outcome,
            }
        }
    }};
}

async fn connect(server: &RedisServer) -> Connected {
    let connector = connector(&address(server));
    answered!(connector.connect()).unwrap()
}

async fn record(redis: &Connected, restrictions: &[Restriction], now: UnixMillis) -> Vec<Option<Restriction>> {
    answered!(redis.commands.record(restrictions, now)).unwrap()
}

/// All recorded restrictions, ordered by subject.
async fn recorded(redis: &Connected) -> Vec<Restriction> {
    let (mut all, mut cursor) = (Vec::new(), 0);
    loop {
        let (next, page) = answered!(redis.commands.restrictions(cursor)).unwrap();
        all.extend(page);
        if next == 0 {
            all.sort_unstable_by(|one, other| one.subject.cmp(&other.subject));
            return all;
        }
        cursor = next;
    }
}

async fn last(redis: &Connected) -> LogPosition {
    answered!(redis.commands.state()).unwrap().last
}

/// The entries after a position.
async fn entries(redis: &mut Connected, after: LogPosition) -> Vec<Option<LogEntry>> {
    let page = answered!(redis.log.read(after, Wait::No)).unwrap();
    page.entries.into_iter().map(|(_, entry)| entry).collect()
}

fn denial(user: &str, at: UnixMillis) -> Restriction {
    restriction(of_user(user), DENIED, at)
}

fn task(id: &str, due: UnixMillis) -> StoredTask {
    StoredTask { id: id.to_owned(), due, payload: format!("what {id} does") }
}

async fn enqueue(redis: &Connected, tasks: &[StoredTask]) {
    let tasks: Vec<_> = tasks.iter().map(|task| QueuedTask { claimable: task.due, task: task.clone() }).collect();
    answered!(redis.commands.enqueue(&tasks)).unwrap();
}

fn admin<T: redis::FromRedisValue>(server: &RedisServer, command: &str) -> T {
    let words: Vec<_> = command.split(' ').collect();
    redis::cmd(words[0]).arg(&words[1..]).query(&mut server.connection()).unwrap()
}

#[tokio::test]
async fn data_without_an_id_and_a_log_gets_both_once() {
    let server = RedisServer::start();
    let mut redis = connect(&server).await;
    let state = answered!(redis.commands.state()).unwrap();
    assert_eq!(state.data_id.len(), 32);
    assert_eq!(state.backlog, TaskBacklog::default());
    assert_eq!(answered!(connect(&server).await.commands.state()).unwrap(), state);
    let page = answered!(redis.log.read(LogPosition::default(), Wait::No)).unwrap();
    assert_eq!(page.entries, [(state.last, None)]);
    assert_eq!((page.first, page.last), (Some(state.last), Some(state.last)));

    let () = admin(&server, "FLUSHALL");
    let replaced = answered!(redis.commands.state()).unwrap();
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
    let appended = [&first[0], &first[1], &second[1]].map(|newer| Some(LogEntry::Recorded(newer.clone())));
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
            let () = admin(&server, "FLUSHALL");
            record(&redis, &order, NOW).await;
            record(&redis, std::slice::from_ref(&operators), NOW).await;
            let mut rows = recorded(&redis).await;
            rows.sort_unstable_by_key(|row| row.at);
            assert_eq!(rows, [operators.clone(), of_a_user[4].clone()], "{order:?}");
        }
    }
}

#[tokio::test]
async fn an_ended_restriction_stays_until_its_timestamp_is_forgotten() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let denial_1 = denial("user_1", NOW);
    let far = Restriction { until: NOW.after(2 * REMEMBERED_FOR), ..denial("user_2", NOW) };
    record(&redis, &[denial_1.clone(), far.clone()], NOW).await;
    let scores = |key: &str| admin::<Vec<(String, i64)>>(&server, &format!("ZRANGE aca:{{v3}}:{key} 0 -1 WITHSCORES"));
    let times = |key: &str| scores(key).into_iter().map(|(_, time)| UnixMillis(time)).collect::<Vec<_>>();
    assert_eq!((times("active"), times("ended")), (vec![denial_1.until, far.until], vec![]));

    record(&redis, &[], denial_1.until).await;
    assert_eq!((times("active"), times("ended")), (vec![far.until], vec![NOW.after(REMEMBERED_FOR)]));
    assert_eq!(recorded(&redis).await, [denial_1, far.clone()]);

    record(&redis, &[], NOW.after(REMEMBERED_FOR)).await;
    assert_eq!(recorded(&redis).await, std::slice::from_ref(&far));
    // Active for longer than its timestamp is remembered: it is forgotten as soon as it ends.
    record(&redis, &[], far.until).await;
    assert_eq!(recorded(&redis).await, []);
    assert_eq!((times("active"), times("ended")), (vec![], vec![]));
}

#[tokio::test]
async fn a_denial_is_active_again_after_a_lift() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let count = |key: &str| admin::<usize>(&server, &format!("ZCARD aca:{{v3}}:{key}"));
    for (kind, at, counts) in [(DENIED, 3, (1, 0)), (LIFTED, 2, (0, 1)), (DENIED, 1, (1, 0))] {
        record(&redis, &[restriction(of_user("user_1"), kind, ago(at))], NOW).await;
        assert_eq!((count("active"), count("ended")), counts, "{kind:?}");
    }
}

#[tokio::test]
async fn at_the_bound_of_ended_restrictions_those_forgotten_first_go_first() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let fill =
        "for i = 1, 200150 do redis.call('ZADD', KEYS[1], i + ARGV[1], i) redis.call('HSET', KEYS[2], i, '') end";
    let mut filling = redis::cmd("EVAL");
    filling.arg(fill).arg(2).arg("aca:{v3}:ended").arg("aca:{v3}:restrictions").arg(NOW.0);
    let () = filling.query(&mut server.connection()).unwrap();
    let mut counts = Vec::new();
    for at in 1..=3 {
        record(&redis, &[restriction(of_user("user_1"), LIFTED, UnixMillis(NOW.0 + at))], NOW).await;
        counts.push(admin::<usize>(&server, "ZCARD aca:{v3}:ended"));
    }
    // A call removes 100 at most.
    assert_eq!(counts, [200_051, 200_000, 200_000]);
    assert_eq!(admin::<usize>(&server, "HLEN aca:{v3}:restrictions"), 200_000);
    let first: Vec<String> = admin(&server, "ZRANGE aca:{v3}:ended 0 0");
    assert_eq!(first, ["152"]);
}

#[tokio::test]
async fn a_page_of_the_log_has_its_first_and_last_position() {
    let server = RedisServer::start();
    let mut redis = connect(&server).await;
    let start = last(&redis).await;
    let changed = |user: usize| LogEntry::UserChanged(TenantName::default(), user.to_string());
    for user in 0..1_001 {
        answered!(redis.commands.append(&changed(user))).unwrap();
    }
    let end = last(&redis).await;
    let page = answered!(redis.log.read(start, Wait::ForEntries)).unwrap();
    assert_eq!((page.entries.len(), page.first, page.last), (1_000, Some(start), Some(end)));
    assert_eq!(page.entries[0].1, Some(changed(0)));
    let (position, _) = page.entries[999];
    let rest = answered!(redis.log.read(position, Wait::ForEntries)).unwrap();
    assert_eq!(rest.entries.last(), Some(&(end, Some(changed(1_000)))));
    assert_eq!(answered!(redis.log.read(end, Wait::ForEntries)).unwrap().entries, []);
}

#[tokio::test]
async fn a_reader_that_waits_gets_an_entry_as_soon_as_it_is_appended() {
    let server = RedisServer::start();
    let mut redis = connect(&server).await;
    let start = last(&redis).await;
    let entry = LogEntry::UserChanged(TenantName::default(), "user_1".to_owned());
    // The log and the commands have connections of their own.
    let (page, appended) = tokio::join!(redis.log.read(start, Wait::ForEntries), redis.commands.append(&entry));
    appended.unwrap();
    let page = page.unwrap();
    assert_eq!(page.entries, [(last(&redis).await, Some(entry))]);
    assert_eq!(page.last, Some(page.entries[0].0));
}

#[tokio::test]
async fn the_first_position_of_a_trimmed_log_is_that_of_its_first_entry() {
    let server = RedisServer::start();
    let mut redis = connect(&server).await;
    let start = last(&redis).await;
    record(&redis, &[denial("user_1", NOW), denial("user_2", NOW), denial("user_3", NOW)], NOW).await;
    let _: usize = admin(&server, "XTRIM aca:{v3}:log MAXLEN 2");
    let page = answered!(redis.log.read(start, Wait::No)).unwrap();
    let [(first, _), (end, _)] = page.entries[..] else { panic!("{page:?}") };
    assert_eq!((page.first, page.last), (Some(first), Some(end)));
    assert!(first > start);

    let _: usize = admin(&server, "XTRIM aca:{v3}:log MAXLEN 0");
    let page = answered!(redis.log.read(start, Wait::No)).unwrap();
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
    answered!(redis.commands.register(&registered, NOW)).unwrap();
    let tenant = TenantName::default();
    for (holder, found) in [
        (TokenHolder::User("user_1".into()), vec![long.clone()]),
        (TokenHolder::Session("sess_1".into()), vec![long.clone()]),
        (TokenHolder::Organization("org_1".into()), vec![long.clone()]),
        (TokenHolder::ClientId("alice".into()), vec![long]),
        (TokenHolder::User("user_2".into()), vec![other]),
        (TokenHolder::Session("sess_3".into()), vec![]),
    ] {
        assert_eq!(answered!(redis.commands.live_tokens(&tenant, &holder, NOW)).unwrap(), found, "{holder:?}");
    }
    let later = NOW.after(MINUTE);
    let ended = answered!(redis.commands.live_tokens(&tenant, &TokenHolder::User("user_2".into()), later)).unwrap();
    assert_eq!(ended, []);
    let left: i64 = admin(&server, "PTTL aca:{v3}:tokens:default:user_2");
    assert!((1..=60_000).contains(&left), "{left}");
}

#[tokio::test]
async fn live_tokens_that_differ_in_session_organization_client_id_or_format_are_kept_apart() {
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
        one,
    ];
    answered!(redis.commands.register(&registered, NOW)).unwrap();
    let user = TokenHolder::User("user_1".into());
    let mut found = answered!(redis.commands.live_tokens(&TenantName::default(), &user, NOW)).unwrap();
    found.sort();
    registered.sort();
    assert_eq!(found, registered);
}

#[tokio::test]
async fn the_many_users_of_an_organization_are_all_found_in_small_collections() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let ids = |kind: &'static str| (0..3000).map(move |number| clerk_id(kind, number));
    let member = |(user, session): (String, String)| live_token(&user, &session, Some("org_1"), "everyone", MINUTE);
    let registered: Vec<_> = ids("user").zip(ids("sess")).map(member).collect();
    for batch in registered.chunks(100) {
        answered!(redis.commands.register(batch, NOW)).unwrap();
    }
    for holder in [TokenHolder::Organization("org_1".into()), TokenHolder::ClientId("everyone".into())] {
        let mut found = answered!(redis.commands.live_tokens(&TenantName::default(), &holder, NOW)).unwrap();
        found.sort();
        assert!(found == registered, "{holder:?}: {} of {}", found.len(), registered.len());
    }
    let keys: Vec<String> = admin(&server, "KEYS *:holders:*");
    for key in keys {
        let encoding: String = admin(&server, &format!("OBJECT ENCODING {key}"));
        assert!(["listpack", "ziplist"].contains(&encoding.as_str()), "{key}: {encoding}");
    }
}

#[tokio::test]
async fn ended_live_tokens_are_removed() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let sessions = |life: Duration| (0..7).map(move |n| live_token("user_1", &format!("{n}"), None, "alice", life));
    answered!(redis.commands.register(&sessions(MINUTE).collect::<Vec<_>>(), NOW)).unwrap();
    let long = live_token("user_1", "sess_1", None, "alice", 60 * MINUTE);
    let ended = live_token("user_2", "sess_2", None, "bob", MINUTE);
    let registered = [long, ended];
    answered!(redis.commands.register(&registered, NOW.after(MINUTE))).unwrap();
    assert_eq!(admin::<usize>(&server, "HLEN aca:{v3}:tokens:default:user_1"), 1);
    let left: i64 = admin(&server, "PTTL aca:{v3}:tokens:default:user_2");
    assert!([-2, 0, 1].contains(&left), "{left}");
}

#[tokio::test]
async fn a_task_is_claimed_once_a_lease_and_keeps_its_first_due_time() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let tasks = [task("1", NOW), task("2", NOW.after(MINUTE)), task("3", NOW.after(2 * MINUTE))];
    enqueue(&redis, &tasks).await;
    let backlog = answered!(redis.commands.state()).unwrap().backlog;
    assert_eq!(backlog, TaskBacklog { count: 3, oldest_due: Some(NOW) });

    let now = NOW.after(MINUTE);
    let claim = async |max, now| answered!(redis.commands.claim(max, now)).unwrap();
    assert_eq!(claim(1, now).await, tasks[..1]);
    assert_eq!(claim(9, now).await, tasks[1..2]);
    assert_eq!(claim(9, now).await, []);
    let now = now.after(StoredTask::LEASE);
    assert_eq!(claim(9, now).await, tasks[..2]);
    answered!(redis.commands.postpone("1", now.after(MINUTE))).unwrap();
    answered!(redis.commands.postpone("unknown", now)).unwrap();
    let now = now.after(MINUTE);
    assert_eq!(claim(9, now).await.len(), 3);
}

#[tokio::test]
async fn a_task_that_is_due_later_now_is_not_completed() {
    let server = RedisServer::start();
    let mut redis = connect(&server).await;
    let later = NOW.after(MINUTE);
    enqueue(&redis, &[task("1", NOW), task("2", NOW), task("1", later)]).await;
    let start = last(&redis).await;
    for (id, due) in [("1", NOW), ("2", NOW), ("unknown", NOW)] {
        answered!(redis.commands.complete(id, due)).unwrap();
    }
    assert_eq!(answered!(redis.commands.claim(9, later)).unwrap(), [StoredTask { due: later, ..task("1", NOW) }]);
    answered!(redis.commands.complete("1", later)).unwrap();
    assert_eq!(answered!(redis.commands.state()).unwrap().backlog, TaskBacklog::default());
    let done = [("2", NOW), ("unknown", NOW), ("1", later)];
    let done = done.map(|(id, due)| Some(LogEntry::TaskDone { id: id.to_owned(), due }));
    assert_eq!(entries(&mut redis, start).await, done);
}

#[tokio::test]
async fn an_idempotency_key_is_claimed_once_until_it_is_released() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let claim = async || answered!(redis.commands.claim_once("event")).unwrap();
    assert_eq!(claim().await, IdempotencyClaim::Granted);
    assert_eq!(claim().await, IdempotencyClaim::InProgress);
    assert!(!answered!(redis.commands.is_done("event")).unwrap());
    answered!(redis.commands.release("event")).unwrap();
    assert_eq!(claim().await, IdempotencyClaim::Granted);
    answered!(redis.commands.mark_done("event", NOW.after(MINUTE), NOW)).unwrap();
    assert_eq!(claim().await, IdempotencyClaim::Done);
    assert!(answered!(redis.commands.is_done("event")).unwrap());
    let left: i64 = admin(&server, "PTTL aca:{v3}:idempotency:event");
    assert!((1..=60_000).contains(&left), "{left}");
}

#[tokio::test]
async fn foreign_data_is_ignored() {
    let server = RedisServer::start();
    let mut redis = connect(&server).await;
    let start = last(&redis).await;
    let holder = TokenHolder::User("user_1".into());
    let mut foreign = redis::pipe();
    for row in [&b""[..], b"x", b"\xff\xfe", b"00000000000000000000000000000000[]"] {
        foreign.cmd("HSET").arg("aca:{v3}:restrictions").arg(row).arg(row);
        foreign.cmd("ZADD").arg("aca:{v3}:active").arg(1).arg(row);
        foreign.cmd("XADD").arg(&["aca:{v3}:log", "*", "t", "restriction", "v"]).arg(row);
        foreign.cmd("XADD").arg(&["aca:{v3}:log", "*", "of a later version"]).arg(row);
        foreign.cmd("HSET").arg("aca:{v3}:tokens:default:user_1").arg(row).arg(row);
        foreign.cmd("HSET").arg("aca:{v3}:tasks").arg(row).arg(row);
        foreign.cmd("ZADD").arg("aca:{v3}:claimable").arg(1).arg(row);
    }
    let end = (NOW.0 + 1).to_string();
    for (field, value) in [
        ("sess_1\nr\n\nali\nce", end.clone()),
        ("sess\t_1\nr\n\nalice", end.clone()),
        ("sess_1\nr\n\nalice", end.clone() + "org\n_1"),
        ("sess_1\nx\n\nalice", end.clone()),
        ("sess_1\nr\nalice", end.clone()),
        ("sess_1\nr\n\nalice", "ünïcode".to_owned()),
    ] {
        foreign.cmd("HSET").arg("aca:{v3}:tokens:default:user_1").arg(field).arg(value);
    }
    let () = foreign.query(&mut server.connection()).unwrap();

    assert_eq!(recorded(&redis).await, []);
    assert_eq!(entries(&mut redis, start).await, [const { None }; 8]);
    assert_eq!(answered!(redis.commands.live_tokens(&TenantName::default(), &holder, NOW)).unwrap(), []);
    assert_eq!(answered!(redis.commands.claim(9, NOW)).unwrap(), []);
    // They are removed after a day.
    let later = NOW.after(StoredTask::UNREAD_FOR).after(MINUTE);
    assert_eq!(answered!(redis.commands.claim(9, later)).unwrap(), []);
    assert_eq!(answered!(redis.commands.state()).unwrap().backlog.count, 0);
    // These at once.
    record(&redis, &[], NOW).await;
    assert_eq!(admin::<usize>(&server, "HLEN aca:{v3}:restrictions"), 0);
}

#[tokio::test]
async fn scripts_that_redis_does_not_know_any_more_are_sent_again() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let commands = &redis.commands;
    let forget_scripts = || admin::<()>(&server, "SCRIPT FLUSH");
    forget_scripts();
    answered!(commands.state()).unwrap();
    forget_scripts();
    record(&redis, &[denial("user_1", NOW)], NOW).await;
    forget_scripts();
    answered!(commands.register(&[live_token("user_1", "sess_1", None, "alice", MINUTE)], NOW)).unwrap();
    forget_scripts();
    enqueue(&redis, &[task("1", NOW)]).await;
    forget_scripts();
    answered!(commands.claim(1, NOW)).unwrap();
    forget_scripts();
    answered!(commands.postpone("1", NOW)).unwrap();
    forget_scripts();
    answered!(commands.complete("1", NOW)).unwrap();
    assert_eq!(answered!(commands.state()).unwrap().backlog.count, 0);
    assert_eq!(recorded(&redis).await, [denial("user_1", NOW)]);
}

#[tokio::test]
async fn a_redis_that_takes_no_writes_cannot_be_used() {
    let server = RedisServer::start();
    let redis = connect(&server).await;
    let connector = connector(&address(&server));
    for (forbid, code, allow) in [
        ("CONFIG SET maxmemory 1", "OOM", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 1", "READONLY", "REPLICAOF NO ONE"),
        ("CONFIG SET min-replicas-to-write 1", "NOREPLICAS", "CONFIG SET min-replicas-to-write 0"),
    ] {
        let lost = ConnectionLost(format!("it answered {code}"));
        let () = admin(&server, forbid);
        assert_eq!(answered!(redis.commands.state()).unwrap_err(), lost);
        assert_eq!(answered!(redis.commands.record(&[denial("user_1", NOW)], NOW)).unwrap_err(), lost);
        assert_eq!(answered!(redis.commands.claim_once("event")).unwrap_err(), lost);
        assert_eq!(answered!(connector.connect()).unwrap_err(), lost);
        let () = admin(&server, allow);
        answered!(redis.commands.state()).unwrap();
    }
}

#[tokio::test]
async fn a_connection_is_lost_with_its_server() {
    let mut server = RedisServer::start();
    let mut redis = connect(&server).await;
    let connector = connector(&address(&server));
    let position = last(&redis).await;
    server.kill();
    assert!(redis.commands.state().await.is_err());
    assert!(redis.log.read(position, Wait::ForEntries).await.is_err());
    let reason = connector.connect().await.unwrap_err().0;
    assert!(reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = RedisAddress::parse(&format!("redis://:PASSWORD@{}", silent.local_addr().unwrap())).unwrap();
    assert_eq!(connector(&address).connect().await.unwrap_err().0, "it did not answer in time");
}

#[tokio::test]
async fn a_wrong_password_is_not_printed() {
    let server = RedisServer::start();
    let address = RedisAddress::parse(&format!("redis://connector:hunter2@127.0.0.1:{}", server.port())).unwrap();
    let connector = connector(&address);
    let reason = answered!(connector.connect()).unwrap_err().0;
    assert_eq!(reason, "authentication failed");
    assert!(!format!("{connector:?} {}", connector.address()).contains("hunter2"), "{connector:?}");
}

#[tokio::test]
async fn a_probe_tells_what_it_found() {
    let server = RedisServer::start();
    let connector = connector(&address(&server));
    let found = answered!(connector.probe()).unwrap();
    assert_eq!((found.mode, found.node), (RedisMode::Single, format!("127.0.0.1:{}", server.port())));
    assert_eq!(found.eviction_policy.as_deref(), Some("noeviction"));
    assert_eq!(found.persistence, Some(Persistence::AppendOnlyFile));
    assert_eq!((found.refused, found.refused_extras), (vec![], vec![]));
    assert!(found.server.is_some_and(|server| server.contains(' ')));
    let () = admin(&server, "CONFIG SET maxmemory-policy allkeys-lru");
    let () = admin(&server, "CONFIG SET appendonly no");
    let found = answered!(connector.probe()).unwrap();
    assert_eq!(found.evicts(), Some("allkeys-lru"));
    assert!(matches!(found.persistence, Some(Persistence::Snapshots { .. })), "{:?}", found.persistence);
}

#[tokio::test]
async fn a_probe_names_each_command_that_the_user_may_not_run() {
    let server = RedisServer::start();
    let connector = connector(&address(&server));
    for command in COMMANDS.split_whitespace() {
        let () = admin(&server, &format!("ACL SETUSER connector -{command}"));
        let found = answered!(connector.probe()).unwrap();
        let refused = [found.refused, found.refused_extras].concat();
        let is_named = refused.iter().any(|name| *name == command);
        assert!(is_named && refused.len() == 1, "{command}: {refused:?}");
        let () = admin(&server, &format!("ACL SETUSER connector +{command}"));
    }
    let () = admin(&server, "ACL SETUSER connector resetkeys");
    let found = answered!(connector.probe()).unwrap();
    assert_eq!(found.refused.len() + ["info", "script|load"].len(), COMMANDS.split_whitespace().count());
    assert_eq!(admin::<usize>(&server, "DBSIZE"), 2, "the ID of the data and the log");
}

#[tokio::test]
async fn the_user_needs_these_commands_and_no_others() {
    let server = RedisServer::start();
    let connector = connector(&address(&server));
    let () = admin(&server, "CONFIG RESETSTAT");
    let mut redis = answered!(connector.connect()).unwrap();
    let commands = &redis.commands;
    // One that is forgotten, one that ends, and one more.
    for (user, time) in [("user_1", NOW), ("user_2", NOW.after(REMEMBERED_FOR)), ("user_3", NOW.after(REMEMBERED_FOR))]
    {
        record(&redis, &[denial(user, NOW), restriction(of_session("sess_1"), LIFTED, NOW)], time).await;
    }
    recorded(&redis).await;
    answered!(commands.register(&[live_token("user_1", "sess_1", None, "alice", MINUTE)], NOW)).unwrap();
    answered!(commands.live_tokens(&TenantName::default(), &TokenHolder::Session("sess_1".into()), NOW)).unwrap();
    enqueue(&redis, &[task("1", NOW)]).await;
    answered!(commands.claim(1, NOW)).unwrap();
    answered!(commands.postpone("1", NOW)).unwrap();
    answered!(commands.complete("1", NOW)).unwrap();
    answered!(commands.claim_once("event")).unwrap();
    answered!(commands.release("event")).unwrap();
    answered!(commands.append(&LogEntry::UserChanged(TenantName::default(), "user_1".to_owned()))).unwrap();
    answered!(redis.log.read(LogPosition::default(), Wait::ForEntries)).unwrap();

    let stats: String = admin(&server, "INFO commandstats");
    // Redis 6.2 does not name what follows the bar.
    let base = |name: &str| name.split('|').next().unwrap_or_default().to_owned();
    let run = stats.lines().filter_map(|line| Some(base(line.strip_prefix("cmdstat_")?.split(':').next()?)));
    // Logging in needs no permission, and the administrator does the rest.
    let run: BTreeSet<_> = run.filter(|name| !["auth", "client", "config"].contains(&name.as_str())).collect();
    assert_eq!(run, COMMANDS.split_whitespace().map(base).collect());
}

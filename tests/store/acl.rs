//! The Redis user of `docs/revocation.md`, as which all tests of the store run.

use std::collections::BTreeSet;

use ably_clerk_auth::{
    store::{DenialSource, Health, RestrictionKind, StoreError, StoredTask, TokenHolder},
    tenant::TenantName,
};

use crate::{
    fixtures::{MINUTE, NOW, Replica, ago, live_token, of_user, restriction, retry},
    redis_server::{RedisServer, documented_rules},
};

/// Commands that were run on a server since its statistics were reset.
fn commands_run(admin: &mut redis::Connection) -> BTreeSet<String> {
    let stats: String = redis::cmd("INFO").arg("commandstats").query(admin).unwrap();
    let names = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split(':').next());
    names.map(str::to_owned).collect()
}

#[tokio::test]
async fn the_service_uses_the_documented_commands_and_no_others() {
    let server = RedisServer::start();
    let mut admin = server.connection();
    let () = redis::cmd("CONFIG").arg("RESETSTAT").query(&mut admin).unwrap();
    let replica = Replica::of(&server).await;

    replica.record(restriction(of_user("user_1"), RestrictionKind::Denied(DenialSource::Clerk), ago(2))).await;
    replica.record(restriction(of_user("user_1"), RestrictionKind::Lifted(DenialSource::Clerk), ago(1))).await;
    replica.put_live_token(live_token("user_1", "sess_1", None, "alice", 60 * MINUTE)).await;
    replica.store.live_tokens(&TenantName::default(), &TokenHolder::Session("sess_1".into()), NOW).await;
    let task = StoredTask { id: "1".into(), due: NOW, payload: String::new() };
    retry!(replica, replica.store.enqueue_task(task.clone()));
    replica.store.claim_tasks(1, NOW).await;
    retry!(replica, replica.store.postpone_task("1", NOW));
    retry!(replica, replica.store.complete_task("1", NOW));
    replica.store.claim_once("effect", NOW).await;
    replica.store.mark_done("effect", NOW.after(MINUTE), NOW).await;
    replica.store.release("effect").await;
    retry!(replica, replica.store.forget_user(&TenantName::default(), "user_1"));
    let documented: BTreeSet<_> =
        documented_rules("aca:").iter().filter_map(|rule| rule.strip_prefix('+')).map(str::to_owned).collect();
    let mut run = commands_run(&mut admin);
    // AUTH needs no permission.
    assert!(run.remove("auth") && run.remove("config|resetstat"), "{run:?}");
    assert_eq!(run, documented);
    let refused: Vec<redis::Value> = redis::cmd("ACL").arg("LOG").query(&mut admin).unwrap();
    assert_eq!(refused, []);
}

#[tokio::test]
async fn the_documented_user_can_neither_empty_redis_nor_disconnect_others_nor_look_beyond_its_prefix() {
    let server = RedisServer::start();
    let replica = Replica::of(&server).await;
    let mut connection = server.connection_as("aca:PASSWORD");
    let mut refusal = |command: &str| {
        let mut words = command.split(' ');
        let mut refused = redis::cmd(words.next().unwrap());
        refused.arg(words.collect::<Vec<_>>());
        refused.query::<redis::Value>(&mut connection).expect_err(command).to_string()
    };
    for command in [
        "FLUSHALL",
        "FLUSHDB",
        "KEYS *",
        "RANDOMKEY",
        "DEL aca:{v3}:restrictions",
        "RENAME aca:{v3}:restrictions aca:gone",
        "CLIENT KILL TYPE normal",
        "CLIENT LIST",
        "CONFIG GET requirepass",
        "CONFIG SET maxmemory 1",
        "ACL LIST",
        "ACL SETUSER aca +@all",
        "SCRIPT FLUSH",
        "FUNCTION FLUSH",
        "EVAL return 0",
        "MONITOR",
        "REPLICAOF NO ONE",
        "SHUTDOWN",
        "PSUBSCRIBE aca:*",
        "SUBSCRIBE other:{v3}:log",
        "PUBLISH other:{v3}:log x",
        "GET other:{v3}:data_id",
        "HGET other:{v3}:restrictions x",
    ] {
        let error = refusal(command);
        assert!(error.to_lowercase().contains("permission"), "{command}: {error}");
    }
    let flush = redis::cmd("SCRIPT")
        .arg(&["LOAD", "return redis.call('FLUSHALL')"])
        .query::<String>(&mut server.connection())
        .unwrap();
    assert!(refusal(&format!("EVALSHA {flush} 0")).contains("can't run this command"), "in a script");
    assert_eq!(replica.health(), Health::Ready);
}

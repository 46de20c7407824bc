//! The Redis user of `docs/revocation.md`, as which all tests of the store run.

use std::collections::BTreeSet;

use ably_clerk_auth::{
    store::{Claim, Health, StoredTask, TokenHolder},
    tenant::TenantName,
};

use crate::{
    fixtures::{DENIED, LIFTED, MINUTE, NOW, Replica, ago, live_token, of_user, restriction},
    redis_server::{RedisServer, documented_rules, run},
};

/// The commands of the documented user, as an ACL names them.
pub(crate) fn documented_commands() -> Vec<String> {
    documented_rules("aca:").iter().filter_map(|rule| rule.strip_prefix('+')).map(str::to_owned).collect()
}

/// A command without its subcommand, which Redis 6.2 does not tell.
pub(crate) fn base(command: &str) -> &str {
    command.split('|').next().unwrap_or_default()
}

/// Commands that were run on a server since its statistics were reset.
fn commands_run(server: &RedisServer) -> BTreeSet<String> {
    let stats: String = server.run("INFO commandstats");
    let names = stats.lines().filter_map(|line| Some(base(line.strip_prefix("cmdstat_")?.split(':').next()?)));
    // Logging in needs no permission, and the administrator does the rest.
    names.filter(|name| !["auth", "client", "config"].contains(name)).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_service_uses_the_documented_commands_and_no_others() {
    let server = RedisServer::start();
    let () = server.run("CONFIG RESETSTAT");
    let replica = Replica::of(&server).await;

    replica.record(restriction(of_user("user_1"), DENIED, ago(2))).await;
    replica.record(restriction(of_user("user_1"), LIFTED, ago(1))).await;
    replica.put_live_token(live_token("user_1", "sess_1", None, "alice", 60 * MINUTE)).await;
    replica.store.live_tokens(&TenantName::default(), &TokenHolder::Session("sess_1".into()), NOW).await;
    let task = StoredTask { id: "1".into(), due: NOW, payload: String::new() };
    replica.store_task(task.clone()).await;
    replica.store.claim_tasks(Claim::Due(1), NOW).await.unwrap();
    replica.store.end_claim(&task, Some(NOW)).await.unwrap();
    replica.store.end_claim(&task, None).await.unwrap();
    let documented: BTreeSet<_> = documented_commands().iter().map(|command| base(command).to_owned()).collect();
    assert_eq!(commands_run(&server), documented);
    let refused: Vec<redis::Value> = server.run("ACL LOG");
    assert_eq!(refused, []);
}

#[tokio::test]
async fn the_documented_user_can_neither_empty_redis_nor_disconnect_others_nor_look_beyond_its_prefix() {
    let server = RedisServer::start();
    let replica = Replica::of(&server).await;
    let mut connection = server.connection_as("aca:PASSWORD");
    let mut refusal = |command: &str| run::<redis::Value>(&mut connection, command).expect_err(command).to_string();
    for command in [
        "FLUSHALL",
        "FLUSHDB",
        "KEYS *",
        "RANDOMKEY",
        "DEL aca:{v4}:restrictions",
        "RENAME aca:{v4}:restrictions aca:gone",
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
        "SUBSCRIBE other:{v4}:log",
        "PUBLISH other:{v4}:log x",
        "GET other:{v4}:data_id",
        "HGET other:{v4}:restrictions x",
    ] {
        let error = refusal(command);
        // Redis 6.2 has no functions.
        assert!(error.to_lowercase().contains("permission") || error.contains("unknown command"), "{command}: {error}");
    }
    let flush: String = server.run("SCRIPT LOAD return(redis.call('FLUSHALL'))");
    let error = refusal(&format!("EVALSHA {flush} 0"));
    assert!(error.contains("can't run this command") || error.contains("no permissions"), "in a script: {error}");
    assert_eq!(replica.health(), Health::Ready);
}

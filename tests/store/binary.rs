//! The binary, with a cluster and with sentinels.

use crate::{
    cluster::Cluster,
    fixtures::eventually,
    redis_server::RedisServer,
    sentinel::{USERS, Watched},
    service::{Vendors, checked, json, text},
    topology::urls,
};

/// What `check` prints with these settings if Redis works, and if its user may not run all commands at the server that has the data.
/// In between, asks a service with these settings for a token.
async fn reports(changes: &[(&str, &str)], master: &RedisServer) -> [String; 2] {
    let vendors = Vendors::start().await;
    let revocable = [&[("ABLY_REVOCABLE_TOKENS", "true")], changes].concat();
    let check = |code| {
        let output = checked(&vendors.settings_for_check(&revocable));
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        text(&output)
    };
    let works = check(0);
    for line in [
        " ms a round trip\n",
        "\n      Redis memory        maxmemory-policy noeviction\n",
        "\n      Redis persistence   append-only file\n",
        "\nok    Redis user          may run what the service needs\n",
    ] {
        assert!(works.contains(line), "{line}: {works}");
    }
    assert!(!works.contains("unknown"), "{works}");
    let service = vendors.service_with(&revocable).await;
    json(service.token(&vendors.token("alice")).await, 200).await;
    let live_tokens = format!("HLEN aca:{{v4}}:tokens:default:{}", vendors.user("alice"));
    eventually("the live token is in Redis", || master.run::<usize>(&live_tokens) == 1).await;

    let () = master.run("ACL SETUSER aca -zscan -cluster");
    let refused = check(1);
    assert!(refused.contains("\nFAIL  Redis user          may not run zscan, "), "{refused}");
    for report in [&works, &refused] {
        assert!(!report.contains("PASSWORD") && !report.contains("WATCHER"), "{report}");
    }
    [works, refused]
}

#[tokio::test]
async fn it_works_with_a_cluster() {
    let cluster = Cluster::start(2, 0).await;
    let (owner, urls) = (cluster.owner(), urls("redis", cluster.nodes.iter().map(RedisServer::port)));
    let [works, refused] = reports(&[("REDIS_URL", &urls)], &cluster.nodes[owner]).await;
    let found = format!("answers at {}: cluster, data at {}, ", cluster.address(), cluster.name(owner));
    assert!(works.contains(&found), "{found}: {works}");
    let warning = "warn  the user of Redis may not run CLUSTER SLOTS: ";
    assert!(!works.contains(warning) && refused.contains(warning), "{works}{refused}");
}

#[tokio::test]
async fn it_works_with_sentinels() {
    let watched = Watched::start(USERS, None).await;
    let settings = [
        ("REDIS_URL", &*watched.urls("redis")),
        ("REDIS_SENTINEL_MASTER", "main"),
        ("REDIS_SENTINEL_USERNAME", "watcher"),
        ("REDIS_SENTINEL_PASSWORD", "WATCHER"),
    ];
    let [works, _] = reports(&settings, &watched.master).await;
    let master = watched.master.port();
    let found = format!("answers at {}: master of sentinels, data at 127.0.0.1:{master}, ", watched.address());
    assert!(works.contains(&found), "{found}: {works}");
}

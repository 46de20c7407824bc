//! The memory that live tokens take in Redis.

use std::time::Duration;

use ably_clerk_auth::{
    store::{Connect as _, LiveToken, TokenHolder},
    tenant::TenantName,
};

use crate::{
    fixtures::{MINUTE, NOW, clerk_id, connector, impatient_connector, live_token},
    redis_server::RedisServer,
};

const TOKENS: usize = 10_000;

fn used_memory(server: &RedisServer) -> usize {
    let info: String = server.run("INFO memory");
    info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().parse().unwrap()
}

/// A client ID of 5 to 25 bytes.
fn name(number: usize) -> String {
    format!("{number:0digits$}", digits = 5 + number % 21)
}

/// A live token of a user of its own, with IDs as long as Clerk's.
fn live_token_of(number: usize, organization: Option<usize>, client_id: &str) -> LiveToken {
    let organization = organization.map(|number| clerk_id("org", number));
    let [user, session] = ["user", "sess"].map(|kind| clerk_id(kind, number));
    live_token(&user, &session, organization.as_deref(), client_id, 60 * MINUTE)
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "the figure is printed")]
async fn a_live_token_takes_few_bytes_of_redis_however_often_it_is_extended() {
    type Organizations = fn(usize) -> Option<usize>;
    type Names = fn(usize) -> String;
    let cases: [(&str, Organizations, Names, usize); 7] = [
        ("without organizations", |_| None, name, 500),
        ("an organization for each user", Some, name, 500),
        ("3 members in each organization", |number| Some(number / 3), name, 500),
        ("100 members in each organization", |number| Some(number / 100), name, 500),
        ("one organization", |_| Some(0), name, 500),
        ("client IDs that are user IDs", Some, |number| clerk_id("user", number), 500),
        ("one organization, and client IDs of 36 bytes", |_| Some(0), |number| format!("{number:036}"), 650),
    ];
    for (case, organization, name, most_bytes) in cases {
        let server = RedisServer::start();
        let redis = connector(&server.address());
        let redis = redis.connect().await.unwrap();
        let live_tokens: Vec<_> =
            (0..TOKENS).map(|number| live_token_of(number, organization(number), &name(number))).collect();
        let before = used_memory(&server);
        for round in 0..3 {
            let extend = |live_token: &LiveToken| LiveToken {
                until: live_token.until.after(50 * round * MINUTE),
                ..live_token.clone()
            };
            let extended: Vec<_> = live_tokens.iter().map(extend).collect();
            for batch in extended.chunks(100) {
                redis.commands.register(batch, NOW.after(50 * round * MINUTE)).await.unwrap();
            }
        }
        let taken = (used_memory(&server) - before) / TOKENS;
        println!("{case}: {taken} bytes of Redis for each live token");
        assert!(taken <= most_bytes, "{case}: {taken} bytes");
    }
}

/// All live tokens are read in many steps: one that waited for all of them would exceed the timeout.
#[tokio::test]
async fn a_live_token_is_found_among_100_000_without_an_answer_that_takes_long() {
    let server = RedisServer::start();
    let redis = impatient_connector(&server.address()).patient(Duration::from_millis(500));
    let redis = redis.connect().await.unwrap();
    let live_tokens: Vec<_> =
        (0..100_000).map(|number| live_token_of(number, Some(number / 50), &name(number))).collect();
    for batch in live_tokens.chunks(100) {
        redis.commands.register(batch, NOW).await.unwrap();
    }
    let sought = &live_tokens[70_007];
    for holder in [TokenHolder::ClientId(sought.client_id.clone()), TokenHolder::Session(sought.session.clone())] {
        let found = redis.commands.live_tokens(&TenantName::default(), &holder, NOW).await.unwrap();
        assert!(found.contains(sought), "{holder:?}");
    }
}

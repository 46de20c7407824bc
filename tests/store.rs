//! What replicas share: the same tests over both stores, and what only Redis can do, against a real Redis.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "store/acl.rs"]
mod acl;
#[path = "store/any_order.rs"]
mod any_order;
#[path = "store/line.rs"]
mod line;
#[path = "store/operations.rs"]
mod operations;
#[path = "store/outages.rs"]
mod outages;
#[path = "store/replicas.rs"]
mod replicas;
#[path = "store/secrecy.rs"]
mod secrecy;
#[path = "store/server.rs"]
mod server;
#[path = "store/stage.rs"]
mod stage;
#[path = "store/tls.rs"]
mod tls;

//! The store: tests that both stores pass, and tests of several replicas with a real Redis.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/redis_server.rs"]
mod redis_server;

mod acl;
mod any_order;
mod connector;
mod fixtures;
mod memory;
mod operations;
mod outages;
mod replicas;
mod secrecy;
mod tls;

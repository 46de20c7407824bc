//! The store: tests that both stores pass, and tests of several replicas with a real Redis.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/redis_server.rs"]
mod redis_server;

mod acl;
mod any_order;
mod cluster;
mod connector;
mod fixtures;
mod lines;
mod memory;
mod operations;
mod outages;
mod replicas;
mod secrecy;
mod sentinel;
mod tls;
mod topology;

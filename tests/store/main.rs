//! The store: tests that both stores pass, and tests of several replicas with a real Redis.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "the simulation needs more of it")]
#[path = "../simulation/node.rs"]
mod node;
#[path = "../support/proxy.rs"]
mod proxy;
#[expect(dead_code, reason = "the simulation needs more of it")]
#[path = "../simulation/random.rs"]
mod random;
#[path = "../support/redis_server.rs"]
mod redis_server;
#[expect(dead_code, reason = "the black-box tests use all of it")]
#[path = "../support/service.rs"]
mod service;

mod acl;
mod any_order;
mod binary;
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
mod simulated;
mod tls;
mod topology;

//! Black-box tests: the real binary over HTTP, between stand-ins for Clerk and Ably.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../support/proxy.rs"]
#[expect(dead_code, reason = "the store's own tests use all of it")]
mod proxy;
#[path = "../support/redis_server.rs"]
#[expect(dead_code, reason = "the store's own tests use all of it")]
mod redis_server;
#[path = "../support/service.rs"]
mod service;

mod clocks;
mod command_line;
mod connections;
mod cross_origin;
mod explain;
mod forged_lines;
mod formats;
mod hostile_requests;
mod identity;
mod image;
mod impersonation;
mod key_rotation;
mod limits;
mod log_output;
mod metrics;
mod native_apps;
mod organizations;
mod outages;
mod policy;
mod refusals;
mod reload;
mod remembered_tokens;
mod revoke;
mod secrecy;
mod settings;
mod shutdown;
mod signed_out;
mod tenants;
mod tokens;
mod webhooks;

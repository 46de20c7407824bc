//! Stand-ins for Clerk and Ably that speak their real protocols on loopback.
//!
//! Tests, examples, benchmarks and `make dev` use them. The service never links this package, so production contains
//! no development back door; and this package never calls the service's code, so it can judge it.

pub mod ably;
pub mod clerk;
mod clock;
mod event_stream;
pub mod loopback;

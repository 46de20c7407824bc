//! Stand-ins for Clerk and Ably that speak their real protocols on loopback.
//!
//! Tests, examples, benchmarks and `make dev` use them. The service does not link this package, so it has no
//! development back door. This package shares no code with the service, so it can check the service.

pub mod ably;
pub mod clerk;
mod clock;
mod event_stream;
pub mod loopback;

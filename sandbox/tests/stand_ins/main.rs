//! The stand-ins from outside: over HTTP and WebSocket.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod ably;
mod clerk;
mod event_stream;
mod webhooks;

//! Turns a Clerk session into an Ably token request.

pub mod ably;
pub mod clerk;
pub mod clock;

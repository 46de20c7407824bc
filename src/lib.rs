//! Turns a Clerk session into an Ably token request.
//!
//! A request runs along one line, left to right; nothing reaches back:
//!
//! ```text
//! credential -> session -> identity -> grant -> signature -> answer
//! ```
//!
//! [`issuer`] is that line. [`clerk`] finds and verifies the session, [`identity`] names its user, [`policy`] decides what
//! they may do, [`ably`] signs. [`limits`] says how much of it there is, [`store`] holds what replicas share, [`routes`] is
//! the HTTP around it, `connection` what carries it, [`config`] the settings, and [`server`] puts it all together.

pub mod ably;
pub mod clerk;
pub mod cli;
pub mod clock;
pub mod config;
mod connection;
pub mod identity;
pub mod issuer;
pub mod limits;
mod outgoing;
mod placeholder;
pub mod policy;
pub mod reload;
pub mod revocation;
pub mod routes;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod tenant;
pub mod trusted_proxies;

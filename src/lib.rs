//! Turns a Clerk session into an Ably token.
//!
//! A token request runs along one line. Each step hands its result to the next:
//!
//! ```text
//! routes/token -> issuer: credential -> session -> identity -> grant -> signature -> answer
//! ```
//!
//! A webhook or an operator request runs along another:
//!
//! ```text
//! routes/webhooks -> revocation: event -> restrictions in the store -> revocations at Ably, now and as due tasks
//! ```
//!
//! | modules | what they do |
//! |---|---|
//! | [`issuer`] | the first line, as code to read from top to bottom |
//! | [`refusal`] | every refusal, a row each |
//! | [`clerk`] | credentials, sessions, signing keys, users, webhooks |
//! | [`identity`], [`policy`] | client IDs; rules that grant capabilities |
//! | [`ably`] | API keys, capabilities, tokens, the REST API, the queue of revocations |
//! | [`tenant`] | a Clerk instance, an Ably app and their policy; all tenants |
//! | [`revocation`], [`store`] | ending access; what replicas share |
//! | [`routes`], `connection`, [`limits`] | HTTP, its connections, and their bounds |
//! | [`config`], [`assembly`], [`server`], [`reload`], [`cli`] | from settings to a running service |
//! | [`telemetry`], [`clock`], [`detached`], `outgoing`, [`trusted_proxies`] | what the others use |

pub mod ably;
pub mod assembly;
pub mod clerk;
pub mod cli;
pub mod clock;
pub mod config;
mod connection;
pub mod detached;
pub mod identity;
pub mod issuer;
pub mod limits;
mod outgoing;
mod placeholder;
pub mod policy;
pub mod refusal;
pub mod reload;
pub mod revocation;
pub mod routes;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod tenant;
pub mod trusted_proxies;

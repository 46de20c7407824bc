//! Turns a Clerk session into an Ably token.
//!
//! A token request runs along one line. Each step hands its result to the next:
//!
//! ```text
//! connection -> routes/token -> issuer: credential -> session -> identity -> grant -> signature -> routes/token: answer
//! ```
//!
//! A webhook or an operator request runs along another:
//!
//! ```text
//! connection -> routes/webhooks -> clerk/event -> revocation: event -> restrictions in the store
//!     -> revocations at Ably: now, and again later by tasks in the store
//! ```
//!
//! | modules | what they do |
//! |---|---|
//! | [`issuer`] | the first line, as code to read from top to bottom |
//! | [`refusal`] | every refusal, a row each |
//! | [`clerk`] | credentials, sessions, signing keys, users, webhooks |
//! | [`identity`], [`policy`], `placeholder` | client IDs; rules that grant capabilities; their templates |
//! | [`ably`] | API keys, capabilities, tokens, the REST API, the queue of revocations |
//! | [`tenant`] | a Clerk instance, an Ably app and their policy; all tenants |
//! | [`revocation`], [`store`] | ending access; what replicas share |
//! | [`redis`] | where Redis is, and which of its servers has the data |
//! | `connection`, [`routes`], [`limits`] | HTTP/1.1 connections (hyper); middleware, and routes (Actix); limits on tokens, requests and connections |
//! | [`config`], [`assembly`], [`server`], [`reload`], [`cli`] | from settings to a running service |
//! | [`telemetry`], [`clock`], [`detached`], `outgoing`, [`trusted_proxies`] | logs and metrics; time; work that outlives its request; calls to Clerk and Ably; client addresses |
//!
//! A change begins here: a refusal in [`refusal`], a setting in [`config::settings`], a condition in `policy/condition` and
//! `config/policy`, an operation in `ably/capability`, a webhook event in `clerk/event` and `revocation`.

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
pub mod redis;
pub mod refusal;
pub mod reload;
pub mod revocation;
pub mod routes;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod tenant;
pub mod trusted_proxies;

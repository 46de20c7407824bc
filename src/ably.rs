//! Ably: API keys, capabilities, tokens in each format, errors, and parts of the REST API.
//!
//! Independent of Clerk, of HTTP serving and of configuration files. The rules come from Ably's client library
//! specification; comments cite its clauses.

mod api_key;
mod capability;
mod checked_text;
mod client_id;
mod error_body;
mod exchange;
mod jwt;
mod resource;
mod rest;
mod revocation;
mod revocation_queue;
mod token_details;
mod token_format;
mod token_params;
mod token_request;

pub use api_key::{ApiKey, InvalidApiKey, InvalidKeyName, KeyName};
pub use capability::{Capability, InvalidCapability, InvalidOperations, NoIntersection, OPERATIONS, Operations};
pub use client_id::{ClientId, InvalidClientId};
pub use error_body::{ErrorBody, code};
pub use exchange::{Exchange, ExchangeCounts, ExchangeError};
pub use jwt::{AblyJwt, JwtExtras, JwtTooLarge};
pub use rest::{AblyRefusal, RestClient, RestError};
pub use revocation::{
    InvalidRevocationKey, ReauthMargin, RevocationKey, Target, TargetError, TargetOutcome, diagnosis,
};
pub use revocation_queue::{
    RevocationCounts, RevocationQueue, RevokeOutcome, RevokeTokens, RevokingKey, retry_of_target,
};
pub use token_details::TokenDetails;
pub use token_format::TokenFormat;
pub use token_params::{InvalidTokenParams, TokenParams};
pub use token_request::{NoRandomness, Nonce, TokenRequest, Ttl};

//! Clerk: session tokens, their verification, webhooks, and parts of the Backend API.
//!
//! Independent of Ably, of HTTP serving and of configuration files. The rules are those of `@clerk/backend`;
//! `docs/clerk.md` lists the differences.

mod backend_api;
mod claims;
mod cookies;
mod credential;
mod event;
mod invalid;
mod javascript;
mod jwk_set;
mod jwks;
mod jwt;
mod publishable_key;
mod session;
mod session_token;
mod signing_key;
mod signing_keys;
mod users;
mod verified_tokens;
mod verifier;
mod webhook;

pub use backend_api::{BackendApi, BackendApiError, User};
pub use claims::Claims;
pub use credential::{Credential, NoCredential};
pub use event::{Change, Event, MalformedEvent};
pub use invalid::{Invalid, Unverified};
pub use jwk_set::{JwksError, JwksSource, Probe};
pub use jwks::{Jwks, KeysState, RefreshCounts};
pub use publishable_key::{InstanceKind, InvalidPublishableKey, PublishableKey, frontend_api_at};
pub use session::{Actor, ClaimPath, FactorAge, Organization, Scoped, Session};
pub use signing_key::SigningKey;
pub use signing_keys::{InvalidPem, SigningKeys};
pub use users::{LookupCounts, LookupError, Users};
pub use verified_tokens::VerifiedTokens;
pub use verifier::{Examined, SessionRules, Verifier};
pub use webhook::{InvalidDelivery, InvalidSigningSecret, SigningSecrets, UnverifiedHeaders};

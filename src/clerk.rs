//! What the service knows of Clerk: where a session token is, how it is verified, what it says, and a little of the
//! Backend API.
//!
//! Knows nothing of Ably, of HTTP serving or of configuration files. The rules are those of `@clerk/backend`; where this
//! service is stricter, `docs/clerk.md` says so.

mod backend_api;
mod cookies;
mod credential;
mod event;
mod jwt;
mod publishable_key;
mod session;
mod signing_keys;
mod users;
mod verifier;
mod webhook;

pub use backend_api::{BackendApi, BackendApiError, User};
pub use credential::{Credential, NoCredential};
pub use event::{Change, Event, MalformedEvent};
pub use publishable_key::{InstanceKind, InvalidPublishableKey, PublishableKey, frontend_api_at};
pub use session::{Actor, ActorKind, ClaimPath, FactorAge, Organization, Scoped, Session};
pub use signing_keys::{
    InvalidPem, Jwks, JwksError, JwksSource, KeysState, KeysUnavailable, PemKey, Probe, RefreshCounts, SigningKeys,
};
pub use users::{LookupCounts, LookupError, Users};
pub use verifier::{Examined, Invalid, SessionRules, Unverified, Verifier};
pub use webhook::{InvalidDelivery, InvalidSigningSecret, SigningSecrets, UnverifiedHeaders};

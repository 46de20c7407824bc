//! What it takes to end the access of a tenant's users.

use std::time::Duration;

use super::RevocationQueue;
use crate::{ably::TokenFormat, clerk::Users, identity::ClientIdTemplate, tenant::TenantName};

/// What it takes to end the access of a tenant's users.
#[derive(Debug)]
pub struct Authority {
    /// Whose users.
    pub tenant: TenantName,
    /// How long somebody is denied: longer than any session token lives.
    pub denial: Duration,
    /// What tokens are given as.
    pub format: TokenFormat,
    /// Who a user is on Ably.
    pub client_id: ClientIdTemplate,
    /// Users that are remembered, if any are.
    pub users: Option<Users>,
    /// Revocations at Ably; none unless the key has revocable tokens.
    pub ably: Option<RevocationQueue>,
}

//! All tenants of a service.

use super::{Tenant, TenantName};
use crate::clerk::{Credential, Invalid};

/// All tenants of a service, at least one. No two share a name or an issuer of session tokens.
#[derive(Debug)]
pub struct Tenants(Vec<Tenant>);

impl Tenants {
    /// These tenants.
    #[must_use]
    pub fn new(tenants: Vec<Tenant>) -> Self {
        Self(tenants)
    }

    /// The tenant, if there is only one.
    #[must_use]
    pub fn only(&self) -> Option<&Tenant> {
        if let [only] = &self.0[..] { Some(only) } else { None }
    }

    /// The tenant of this name.
    #[must_use]
    pub fn named(&self, name: &TenantName) -> Option<&Tenant> {
        self.iter().find(|tenant| tenant.name == *name)
    }

    /// The tenant whose session tokens have this `iss`.
    #[must_use]
    pub fn of_issuer(&self, issuer: &str) -> Option<&Tenant> {
        self.iter().find(|tenant| tenant.verifier.is_for(issuer))
    }

    /// The tenant that must verify this session token. With several tenants, the token's issuer selects it.
    pub fn of_token(&self, token: &Credential) -> Result<&Tenant, Invalid> {
        match self.only() {
            Some(only) => Ok(only),
            None => self.of_issuer(token.unverified_issuer()?).ok_or(Invalid::Issuer),
        }
    }

    /// All of them, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Tenant> {
        self.0.iter()
    }
}

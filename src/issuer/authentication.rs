//! Finds the session of a request and the tenant that verifies it.
//!
//! With one tenant, a token is verified in the order of `@clerk/backend`. With several, the token's issuer selects the one
//! tenant whose keys are tried, and the verified session must be of that issuer.

use std::sync::Arc;

use super::{Caller, IncomingRequest, Issuer};
use crate::{
    clerk::{Credential, Invalid, NoCredential, Session},
    clock::UnixMillis,
    refusal::Refusal,
    tenant::Tenant,
};

impl Issuer {
    pub(super) async fn authenticate(
        &self,
        request: IncomingRequest<'_>,
        now: UnixMillis,
    ) -> Result<Caller<'_>, Refusal> {
        let in_header = Credential::in_header(request.authorization.iter().map(AsRef::as_ref), &self.verified_tokens)?;
        let (tenant, credential) = match (self.tenants.only(), in_header) {
            (_, Some(credential)) => (self.tenants.of_token(&credential)?, credential),
            (Some(only), None) => {
                let credential =
                    Credential::in_cookies(request.cookies, &only.publishable_key, &self.verified_tokens, now)?;
                check_site(only, request)?;
                (only, credential)
            }
            (None, None) => return self.verify_cookies(request, now).await,
        };
        Ok(Caller { tenant, session: tenant.verifier.verify(credential, &self.verified_tokens, now).await? })
    }

    /// Each tenant verifies its own cookies as if it were alone. If two accept, or one lacks its signing keys, the request is
    /// refused.
    async fn verify_cookies(&self, request: IncomingRequest<'_>, now: UnixMillis) -> Result<Caller<'_>, Refusal> {
        let mut accepted = None;
        let mut refused = Refusal::from(NoCredential::Missing);
        for tenant in self.tenants.iter() {
            match self.verify_cookies_of(tenant, request, now).await {
                Ok(_) if accepted.is_some() => return Err(Refusal::SeveralTenants),
                Ok(session) => accepted = Some(Caller { tenant, session }),
                Err(refusal) if specificity(&refusal) > specificity(&refused) => refused = refusal,
                Err(_) => {}
            }
        }
        accepted.filter(|_| refused != Refusal::KeysUnavailable).ok_or(refused)
    }

    async fn verify_cookies_of(
        &self,
        tenant: &Tenant,
        request: IncomingRequest<'_>,
        now: UnixMillis,
    ) -> Result<Arc<Session>, Refusal> {
        let credential = Credential::in_cookies(request.cookies, &tenant.publishable_key, &self.verified_tokens, now)?;
        if !tenant.verifier.is_for(credential.unverified_issuer()?) {
            return Err(Invalid::Issuer.into());
        }
        check_site(tenant, request)?;
        Ok(tenant.verifier.verify(credential, &self.verified_tokens, now).await?)
    }
}

/// Refuses the tenant's cookies if a page of another site caused the request.
fn check_site(tenant: &Tenant, request: IncomingRequest<'_>) -> Result<(), Refusal> {
    if (request.accepts_cookies)(tenant) { Ok(()) } else { Err(Refusal::AnotherSite) }
}

/// How much the refusal of one of several tenants tells the caller. The most specific one is the answer.
fn specificity(refusal: &Refusal) -> u8 {
    match refusal {
        Refusal::NoCredential(NoCredential::Missing, _) => 0,
        Refusal::NoCredential(NoCredential::SessionCookieMissing, _) => 1,
        Refusal::Invalid(Invalid::Issuer) => 2,
        Refusal::NoCredential(..) => 3,
        Refusal::KeysUnavailable => 5,
        _ => 4,
    }
}

//! Whose session a request shows, and which tenant's.
//!
//! With one tenant there is nothing to choose, and a token is verified in the order of `@clerk/backend`. With several, the
//! issuer that a token names chooses which of them verifies it: its keys are tried and no others, and what it verifies is
//! of that issuer.

use super::{Cause, IncomingRequest, Issuer};
use crate::{
    clerk::{Credential, Invalid, NoCredential, Session, Unverified},
    clock::UnixMillis,
    tenant::{Tenant, Tenants},
};

impl Issuer {
    /// The verified session of the request's caller, and the tenant that verified it.
    pub(super) async fn authenticate(
        &self,
        asked: IncomingRequest<'_>,
        now: UnixMillis,
    ) -> Result<(&Tenant, Session), Cause> {
        let in_header = Credential::in_header(asked.authorization.iter().map(AsRef::as_ref))?;
        let (tenant, credential) = match (self.tenants.only(), in_header) {
            (Some(only), Some(credential)) => (only, credential),
            (Some(only), None) => {
                let credential = Credential::in_cookies(asked.cookies, &only.publishable_key, now)?;
                check_site(only, asked)?;
                (only, credential)
            }
            (None, Some(credential)) => (self.tenant_of(&credential).map_err(Unverified::Invalid)?, credential),
            (None, None) => return judge_cookies(&self.tenants, asked, now).await,
        };
        Ok((tenant, tenant.verifier.verify(&credential, now).await?))
    }

    /// The tenant that must verify this session token.
    fn tenant_of(&self, credential: &Credential) -> Result<&Tenant, Invalid> {
        self.tenants.of_issuer(&credential.unverified_issuer()?).ok_or(Invalid::Issuer)
    }
}

/// Refuses the tenant's cookies when a page of another site has them sent.
fn check_site(tenant: &Tenant, asked: IncomingRequest<'_>) -> Result<(), Cause> {
    if (asked.accepts_cookies)(tenant) { Ok(()) } else { Err(Cause::AnotherSite) }
}

/// Each tenant judges its own cookies as if there were no other. If more than one accepts, none does; and while one
/// cannot tell for lack of keys, no other's word counts.
async fn judge_cookies<'a>(
    tenants: &'a Tenants,
    asked: IncomingRequest<'_>,
    now: UnixMillis,
) -> Result<(&'a Tenant, Session), Cause> {
    let mut accepted = None;
    let mut refused = Cause::NoCredential(NoCredential::Missing);
    for tenant in tenants.iter() {
        match judge_own_cookies(tenant, asked, now).await {
            Ok(_) if accepted.is_some() => return Err(Cause::SeveralTenants),
            Ok(session) => accepted = Some((tenant, session)),
            Err(cause) if specificity(&cause) > specificity(&refused) => refused = cause,
            Err(_) => {}
        }
    }
    match accepted {
        Some(accepted) if !matches!(refused, Cause::Unverified(Unverified::KeysUnavailable(_))) => Ok(accepted),
        _ => Err(refused),
    }
}

async fn judge_own_cookies(tenant: &Tenant, asked: IncomingRequest<'_>, now: UnixMillis) -> Result<Session, Cause> {
    let credential = Credential::in_cookies(asked.cookies, &tenant.publishable_key, now)?;
    let issuer = credential.unverified_issuer().map_err(Unverified::Invalid)?;
    if !tenant.verifier.is_for(&issuer) {
        return Err(Unverified::Invalid(Invalid::Issuer).into());
    }
    check_site(tenant, asked)?;
    Ok(tenant.verifier.verify(&credential, now).await?)
}

/// How much a refusal by one of several tenants tells the caller.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Specificity {
    NothingThere,
    NothingYet,
    OfAnother,
    Incomplete,
    Refused,
    Undecided,
}

fn specificity(cause: &Cause) -> Specificity {
    match cause {
        Cause::NoCredential(NoCredential::Missing) => Specificity::NothingThere,
        Cause::NoCredential(NoCredential::SessionCookieMissing) => Specificity::NothingYet,
        Cause::Unverified(Unverified::Invalid(Invalid::Issuer)) => Specificity::OfAnother,
        Cause::NoCredential(_) => Specificity::Incomplete,
        Cause::Unverified(Unverified::KeysUnavailable(_)) => Specificity::Undecided,
        _ => Specificity::Refused,
    }
}

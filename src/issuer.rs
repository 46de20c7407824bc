//! How a token request becomes a token: credential, session, identity, grant, signature.
//!
//! [`Issuer::verify`] finds the session, [`Issuer::issue`] does the rest. [`Explainer`] runs the same decisions without
//! signing, and collects their reasons.

mod authentication;
mod explanation;

use std::{borrow::Cow, sync::Arc, time::Duration};

pub use explanation::{ClaimsOrigin, Explainer, TokenExplanation};

use crate::{
    ably::{
        AblyJwt, ApiKey, ClientId, JwtExtras, JwtTooLarge, NoRandomness, Nonce, TokenDetails, TokenFormat, TokenParams,
        TokenRequest, Ttl,
    },
    clerk::{Session, VerifiedTokens},
    clock::UnixMillis,
    identity::IdentityError,
    limits::{Allowance, Permit, TokenLimit},
    policy::{Dropped, Grant, OrganizationName, Policy, PolicyRefusal, RuleName},
    refusal::Refusal,
    revocation,
    store::{LiveToken, Store, StoreError, Verdict},
    telemetry::metrics::TenantMetrics,
    tenant::{SignedOut, Signing, Tenant, Tenants},
};

/// Issues tokens to the users of all tenants.
#[derive(Debug)]
pub struct Issuer {
    tenants: Arc<Tenants>,
    verified_tokens: VerifiedTokens,
    /// Knows restrictions and live tokens.
    store: Arc<Store>,
    token_limit: Option<TokenLimit>,
    /// Metrics for requests whose tenant is unknown. With a single tenant, its own.
    without_tenant: TenantMetrics,
}

/// What makes a signature unique.
#[derive(Clone, Debug)]
pub struct SigningContext {
    /// The time of signing.
    pub timestamp: UnixMillis,
    /// Used once.
    pub nonce: Nonce,
}

/// Gives a new context for each signature.
pub type SigningContexts<'a> = &'a (dyn Fn() -> Result<SigningContext, NoRandomness> + Sync);

/// The parts of a request that can show a session.
#[derive(Clone, Copy)]
pub struct IncomingRequest<'a> {
    /// Every `Authorization` header.
    pub authorization: &'a [Cow<'a, str>],
    /// The `Cookie` header; several are joined by `; `.
    pub cookies: &'a str,
    /// Whether a tenant accepts these cookies. A browser sends them with requests of other sites' pages too.
    pub accepts_cookies: &'a (dyn Fn(&Tenant) -> bool + Sync),
}

/// A verified session and the tenant that verified it.
#[derive(Debug)]
pub struct Caller<'a> {
    /// The tenant.
    pub tenant: &'a Tenant,
    /// The session.
    pub session: Arc<Session>,
}

/// The result of a token request.
#[derive(Debug)]
pub struct Outcome<'a> {
    /// None: [`Issuer::verify`] refused the request.
    pub caller: Option<Caller<'a>>,
    /// How many more tokens the caller may have. None: there is no limit, or the request was not counted.
    pub allowance: Option<Allowance>,
    /// The token, or why there is none.
    pub result: Result<IssuedToken, Refusal>,
}

/// A token, and what it grants.
#[derive(Debug)]
pub struct IssuedToken {
    /// What the client gets.
    pub token: Token,
    /// The client ID of the token.
    pub client_id: ClientId,
    /// The policy rules that granted it.
    pub rules: Vec<RuleName>,
    /// How long it lives.
    pub ttl: Ttl,
}

/// What the client gets, in the tenant's format.
#[derive(Debug)]
pub enum Token {
    /// A token request to exchange at Ably.
    Request(TokenRequest),
    /// A JWT signed with the API key.
    Jwt(AblyJwt),
    /// A token that Ably made.
    Details(TokenDetails),
}

impl Token {
    /// Its format.
    #[must_use]
    pub fn format(&self) -> TokenFormat {
        match self {
            Self::Request(_) => TokenFormat::TokenRequest,
            Self::Jwt(_) => TokenFormat::Jwt,
            Self::Details(_) => TokenFormat::TokenDetails,
        }
    }
}

impl Issuer {
    /// Issues tokens to the users of these tenants. Without a limit users get as many tokens as they ask for.
    #[must_use]
    pub fn new(
        tenants: Arc<Tenants>,
        store: Arc<Store>,
        token_limit: Option<TokenLimit>,
        without_tenant: TenantMetrics,
    ) -> Self {
        Self { tenants, verified_tokens: VerifiedTokens::default(), store, token_limit, without_tenant }
    }

    /// The store of restrictions and live tokens.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Its tenants.
    #[must_use]
    pub fn tenants(&self) -> &Tenants {
        &self.tenants
    }

    /// The metrics for a request of this caller, or of none.
    #[must_use]
    pub fn metrics_of<'a>(&'a self, caller: Option<&Caller<'a>>) -> &'a TenantMetrics {
        caller.map_or(&self.without_tenant, |caller| &caller.tenant.metrics)
    }

    /// Finds and verifies the session of a request.
    pub async fn verify(
        &self,
        request: IncomingRequest<'_>,
        permit: &mut Permit<'_>,
        now: UnixMillis,
    ) -> Result<Caller<'_>, Refusal> {
        // Anyone can send a token whose verification waits for signing keys. Others use the permit meanwhile.
        permit.release_while_waiting(self.authenticate(request, now)).await?.map_err(|refusal| match refusal {
            Refusal::NoCredential(cause, _) => Refusal::NoCredential(cause, self.signed_out()),
            refusal => refusal,
        })
    }

    /// The answer for clients that show no session: `Fail` if every tenant says so, since theirs is unknown.
    fn signed_out(&self) -> SignedOut {
        let fails = self.tenants.iter().all(|tenant| tenant.signed_out == SignedOut::Fail);
        if fails { SignedOut::Fail } else { SignedOut::Retry }
    }

    /// Issues a token to a verified session.
    pub async fn issue<'a>(
        &'a self,
        caller: Caller<'a>,
        params: &[u8],
        now: UnixMillis,
        contexts: SigningContexts<'_>,
    ) -> Outcome<'a> {
        let mut allowance = None;
        let result = self.try_to_issue(&caller, &mut allowance, params, now, contexts).await;
        Outcome { caller: Some(caller), allowance, result }
    }

    async fn try_to_issue(
        &self,
        caller: &Caller<'_>,
        allowance: &mut Option<Allowance>,
        params: &[u8],
        now: UnixMillis,
        contexts: SigningContexts<'_>,
    ) -> Result<IssuedToken, Refusal> {
        self.check_restrictions(caller, None, now)?;
        // After verification, so that only the user can use up their allowance; before any call to Clerk or Ably.
        if let Some(limit) = &self.token_limit {
            let counted = limit.take(&caller.tenant.name, &caller.session.user_id);
            *allowance = Some(counted.unwrap_or_else(|exceeded| exceeded.0));
            counted?;
        }
        let issued = caller.sign(params, now, contexts).await?;
        if caller.tenant.is_revocable() {
            self.record_live_token(caller, &issued, now).await?;
        }
        // Again, after the live token is recorded: a denial before this check refuses the token, a later one finds it.
        self.check_restrictions(caller, Some(issued.client_id.as_str()), now)?;
        Ok(issued)
    }

    fn check_restrictions(&self, caller: &Caller<'_>, client_id: Option<&str>, now: UnixMillis) -> Result<(), Refusal> {
        self.store.may_issue()?;
        match self.store.restrictions().verdict(&caller.tenant.name, &caller.session, client_id, now) {
            Verdict::Clear => Ok(()),
            Verdict::Denied => Err(Refusal::Denied),
            Verdict::Outdated => Err(Refusal::Outdated),
        }
    }

    /// Records the token, so that it can be revoked.
    async fn record_live_token(
        &self,
        Caller { tenant, session }: &Caller<'_>,
        issued: &IssuedToken,
        now: UnixMillis,
    ) -> Result<(), Refusal> {
        let ttl = Duration::from_millis(issued.ttl.as_millis());
        let live_token = LiveToken {
            tenant: tenant.name.clone(),
            user: session.user_id.clone(),
            session: session.session_id.clone(),
            organization: session.organization.as_ref().map(|organization| organization.id.clone()),
            client_id: issued.client_id.as_str().to_owned(),
            format: issued.token.format(),
            key: tenant.api_key.name().clone(),
            until: revocation::ends_by(issued.token.format(), ttl, now),
        };
        match self.store.put_live_token(live_token, now).await {
            // Without Redis only this replica has it. `may_issue` refuses if the operator chose that.
            Ok(()) | Err(StoreError::Unavailable) => Ok(()),
            Err(error @ StoreError::Full) => Err(error.into()),
        }
    }
}

impl Caller<'_> {
    async fn sign(
        &self,
        params: &[u8],
        now: UnixMillis,
        contexts: SigningContexts<'_>,
    ) -> Result<IssuedToken, Refusal> {
        let Self { tenant, session } = self;
        let params = TokenParams::parse(form_urlencoded::parse(params))?;
        let policy = tenant.policy.load_full();
        let (client_id, grant) = decide(session, &params, tenant.identity.client_id(session), || {
            let decision = policy.decide(session, &params);
            log_dropped(session, &decision.dropped);
            decision.outcome
        })
        .await?;
        let sign = || {
            let SigningContext { timestamp, nonce } = contexts()?;
            let capability = grant.capability.as_ref();
            Ok(TokenRequest::sign(&tenant.api_key, client_id.clone(), capability, grant.ttl, timestamp, nonce))
        };
        let token = match &tenant.signing {
            Signing::TokenRequest => Token::Request(sign()?),
            Signing::Jwt => Token::Jwt(sign_jwt(&tenant.api_key, &client_id, &grant, session, &policy, &params, now)?),
            Signing::TokenDetails(exchange) => Token::Details(exchange.token(sign).await.map_err(|error| {
                let (tenant, session_id) = (tenant.name.as_str(), &session.session_id);
                tracing::warn!(tenant, session_id, %error, "Ably did not make a token");
                Refusal::from(error)
            })?),
        };
        Ok(IssuedToken { token, client_id, rules: grant.rules, ttl: grant.ttl.unwrap_or(Ttl::ABLY_DEFAULT) })
    }
}

/// Decides the client ID and the grant. The checks run in a fixed order, and the first refusal is returned: organization,
/// client ID, policy. `client_id` and `grant` run only when it is their turn.
async fn decide(
    session: &Session,
    params: &TokenParams,
    client_id: impl Future<Output = Result<ClientId, IdentityError>>,
    grant: impl FnOnce() -> Result<Grant, PolicyRefusal>,
) -> Result<(ClientId, Grant), Refusal> {
    check_organization(session, params)?;
    let client_id = client_id.await?;
    if params.client_id.as_ref().is_some_and(|asked| *asked != client_id) {
        return Err(Refusal::OtherClientId);
    }
    Ok((client_id, grant()?))
}

/// Refuses a client that names another organization than its session's active one.
fn check_organization(session: &Session, params: &TokenParams) -> Result<(), Refusal> {
    let active = session.organization.as_ref();
    let is_active = match params.organization.as_deref() {
        None => true,
        Some("none") => active.is_none(),
        Some(name) => active.is_some_and(|active| OrganizationName::parse(name).is_ok_and(|name| name.is_of(active))),
    };
    if is_active { Ok(()) } else { Err(Refusal::OtherOrganization) }
}

/// Signs a JWT. Its revocation key is the session ID. If it is too large, the refusal blames the capability that the client
/// asks for if the whole grant would fit, and the policy otherwise.
fn sign_jwt(
    api_key: &ApiKey,
    client_id: &ClientId,
    grant: &Grant,
    session: &Session,
    policy: &Policy,
    params: &TokenParams,
    now: UnixMillis,
) -> Result<AblyJwt, Refusal> {
    let sign = |grant: &Grant| {
        let (channel_claims, publish_rate) = (grant.channel_claims.clone(), grant.publish_rate.clone());
        let extras = JwtExtras { channel_claims, publish_rate };
        AblyJwt::sign(api_key, client_id, grant.capability.as_ref(), grant.ttl, &session.session_id, &extras, now)
    };
    sign(grant).map_err(|JwtTooLarge| {
        let whole_grant = || policy.decide(session, &TokenParams::default()).outcome;
        if params.capability.is_some() && whole_grant().is_ok_and(|grant| sign(&grant).is_ok()) {
            PolicyRefusal::RequestTooLarge.into()
        } else {
            Refusal::JwtTooLarge
        }
    })
}

/// Logs each resource that dropped out of the grant, and why. The values come from the user and are not logged.
fn log_dropped(session: &Session, dropped: &[Dropped]) {
    for Dropped { rule, resource, placeholder, why, loses } in dropped {
        let (session_id, rule, loses) = (&session.session_id, rule.as_str(), loses.in_words());
        tracing::debug!(session_id, rule, resource, placeholder, %why, "resource dropped from the grant{loses}");
    }
}

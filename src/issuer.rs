//! The line that every request runs along: credential, session, identity, grant, signature.

mod authentication;
mod rehearsal;

use std::{borrow::Cow, sync::Arc, time::Duration};

pub use rehearsal::{Claims, Rehearsal, Rehearsed};

use crate::{
    ably::{
        AblyJwt, ApiKey, ClientId, ErrorInfo, InvalidTokenParams, JwtExtras, JwtTooLarge, NoRandomness, NoToken, Nonce,
        TokenDetails, TokenFormat, TokenParams, TokenRequest, Ttl, code,
    },
    clerk::{NoCredential, Session, Unverified},
    clock::UnixMillis,
    identity::IdentityError,
    limits::{Allowance, LimitExceeded, NoPermit, Permit, TokenLimit},
    policy::{Dropped, Grant, OrganizationName, Policy, PolicyRefusal, RuleName},
    revocation,
    store::{LiveToken, Store, StoreError, Verdict},
    telemetry::metrics::TenantMetrics,
    tenant::{SignedOut, Signing, Tenant, Tenants},
};

/// Issues tokens to the users of its tenants.
#[derive(Debug)]
pub struct Issuer {
    tenants: Arc<Tenants>,
    /// Knows who is denied, and which tokens are out.
    store: Arc<dyn Store>,
    token_limit: Option<TokenLimit>,
    /// Metrics for refusals that cannot be attributed to a tenant. With a single tenant, its own.
    without_tenant: TenantMetrics,
}

/// When a token request is signed, and what makes it unique.
#[derive(Clone, Debug)]
pub struct SigningContext {
    /// The time.
    pub timestamp: UnixMillis,
    /// Good for one token request.
    pub nonce: Nonce,
}

/// Gives a fresh stamp for each token request that is signed.
pub type SigningContexts<'a> = &'a (dyn Fn() -> Result<SigningContext, NoRandomness> + Sync);

/// What a request shows and asks for.
#[derive(Clone, Copy)]
pub struct IncomingRequest<'a> {
    /// Every `Authorization` header.
    pub authorization: &'a [Cow<'a, str>],
    /// The `Cookie` header; several are joined by `; `.
    pub cookies: &'a str,
    /// Whether a tenant accepts these cookies: a browser sends them for pages of other sites too.
    pub accepts_cookies: &'a (dyn Fn(&Tenant) -> bool + Sync),
    /// The token params, form-encoded.
    pub params: &'a [u8],
}

/// What a client is given, in the form of its tenant.
#[derive(Debug)]
pub enum Token {
    /// To be exchanged at Ably.
    Request(TokenRequest),
    /// The token itself, as the API key signs it.
    Jwt(AblyJwt),
    /// The token itself, as Ably gives it.
    Details(TokenDetails),
}

impl Token {
    /// The format that it has.
    #[must_use]
    pub fn format(&self) -> TokenFormat {
        match self {
            Self::Request(_) => TokenFormat::TokenRequest,
            Self::Jwt(_) => TokenFormat::Jwt,
            Self::Details(_) => TokenFormat::TokenDetails,
        }
    }
}

/// A token, and whom it was issued to.
#[derive(Debug)]
pub struct Issued<'a> {
    /// The answer.
    pub token: Token,
    /// Whose user it is.
    pub tenant: &'a Tenant,
    /// Who the user is on Ably.
    pub client_id: ClientId,
    /// The rules of the policy that granted it.
    pub rules: Vec<RuleName>,
    /// How long the token lives.
    pub ttl: Ttl,
    /// Who the user is at Clerk.
    pub session: Session,
    /// How many more tokens the user may have, if there is a limit.
    pub allowance: Option<Allowance>,
}

/// Why there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// Nobody is signed in, as far as the request shows.
    #[error(transparent)]
    NoCredential(#[from] NoCredential),
    /// The same, and clients are told to stop asking.
    #[error(transparent)]
    SignedOut(NoCredential),
    /// The session token does not hold, or cannot be verified.
    #[error(transparent)]
    Unverified(#[from] Unverified),
    /// There are cookies of several tenants, and more than one would be accepted.
    #[error("signed in to several tenants")]
    SeveralTenants,
    /// A page of another site had the browser send the user's cookies.
    #[error("the cookies come with a request from another site")]
    AnotherSite,
    /// The service works on as many requests as it may.
    #[error(transparent)]
    Overloaded(#[from] NoPermit),
    /// The user has asked for too many tokens.
    #[error(transparent)]
    RateLimited(#[from] LimitExceeded),
    /// The user has no client ID.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The params are malformed.
    #[error(transparent)]
    Params(#[from] InvalidTokenParams),
    /// The client takes itself for somebody else.
    #[error("the clientId asked for is not the caller's")]
    OtherClientId,
    /// The client takes its session to be active in another organization.
    #[error("the session is not active in the organization asked for")]
    OtherOrganization,
    /// The rights of the token are too many for a JWT.
    #[error(transparent)]
    JwtTooLarge(#[from] JwtTooLarge),
    /// Ably gives no token.
    #[error(transparent)]
    NoToken(#[from] NoToken),
    /// No nonce could be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The policy is against it.
    #[error(transparent)]
    Policy(#[from] PolicyRefusal),
    /// The session has ended, or its user is barred or deleted.
    #[error("the session or its user is denied")]
    Denied,
    /// The session token is from before a change of rights or name.
    #[error("the session token is older than a change of rights or name")]
    Outdated,
    /// It cannot be known who is denied, or noted that the token is out.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a tenant signed.
struct Signed {
    token: Token,
    client_id: ClientId,
    rules: Vec<RuleName>,
    /// How long the token lives.
    ttl: Ttl,
}

/// A refusal: why, and whose, once that is known.
#[derive(Debug)]
pub struct Refused<'a> {
    /// Why.
    pub cause: Cause,
    /// The verified session and its tenant, if it came to that.
    pub whose: Option<(&'a Tenant, Box<Session>)>,
    /// How many more tokens the user may have, if there is a limit and it came to counting.
    pub allowance: Option<Allowance>,
}

impl Issuer {
    /// Issues tokens to the users of these tenants. Without a limit users get as many tokens as they ask for.
    #[must_use]
    pub fn new(
        tenants: Arc<Tenants>,
        store: Arc<dyn Store>,
        token_limit: Option<TokenLimit>,
        without_tenant: TenantMetrics,
    ) -> Self {
        Self { tenants, store, token_limit, without_tenant }
    }

    /// Who is denied, and which tokens are out.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Its tenants.
    #[must_use]
    pub fn tenants(&self) -> &Tenants {
        &self.tenants
    }

    /// Where it is recorded what becomes of a request.
    #[must_use]
    pub fn metrics_of<'a>(&'a self, tenant: Option<&'a Tenant>) -> &'a TenantMetrics {
        tenant.map_or(&self.without_tenant, |tenant| &tenant.metrics)
    }

    /// The verified session of a request's caller, and the tenant that verified it; or why there is none.
    pub async fn verify(
        &self,
        asked: IncomingRequest<'_>,
        permit: &mut Permit<'_>,
        now: UnixMillis,
    ) -> Result<(&Tenant, Session), Refused<'_>> {
        // Anyone can send a token that has to wait for signing keys. Such a request holds up no verified session.
        let authenticated = permit.release_while_waiting(self.authenticate(asked, now)).await;
        let refused = |cause| {
            let cause = match cause {
                Cause::NoCredential(no_credential) if no_credential.is_signed_out() && self.signed_out_fails() => {
                    Cause::SignedOut(no_credential)
                }
                cause => cause,
            };
            Refused { cause, whose: None, allowance: None }
        };
        authenticated.map_err(Cause::from).flatten().map_err(refused)
    }

    /// Whether a client whose user is signed out is told to stop asking. Of which tenant that client is cannot be known, so
    /// all have to agree.
    fn signed_out_fails(&self) -> bool {
        self.tenants.iter().all(|tenant| tenant.signed_out == SignedOut::Fail)
    }

    /// Answers the request of a verified session, or says why not. What is signed takes its time and nonce from `stamps`.
    pub async fn issue<'a>(
        &'a self,
        (tenant, session): (&'a Tenant, Session),
        asked: IncomingRequest<'_>,
        now: UnixMillis,
        stamps: SigningContexts<'_>,
    ) -> Result<Issued<'a>, Refused<'a>> {
        if let Err(cause) = self.admit(tenant, &session, None, now) {
            return Err(Refused { cause, whose: Some((tenant, Box::new(session))), allowance: None });
        }
        // Only the user can spend it, so not before the session is verified; and no call to Clerk or Ably before it.
        let limit = self.token_limit.as_ref();
        let allowance = match limit.map(|limit| limit.take(&tenant.name, &session.user_id)).transpose() {
            Ok(allowance) => allowance,
            Err(exceeded) => {
                let whose = Some((tenant, Box::new(session)));
                return Err(Refused { cause: exceeded.into(), whose, allowance: Some(exceeded.0) });
            }
        };
        match self.issue_to(tenant, &session, asked, now, stamps).await {
            Ok(Signed { token, client_id, rules, ttl }) => {
                Ok(Issued { token, tenant, client_id, rules, ttl, session, allowance })
            }
            Err(cause) => Err(Refused { cause, whose: Some((tenant, Box::new(session))), allowance }),
        }
    }

    async fn issue_to(
        &self,
        tenant: &Tenant,
        session: &Session,
        asked: IncomingRequest<'_>,
        now: UnixMillis,
        stamps: SigningContexts<'_>,
    ) -> Result<Signed, Cause> {
        let signed = tenant.sign_for(session, asked, now, stamps).await?;
        if tenant.revocations.is_some() {
            self.note(tenant, session, &signed, now).await?;
        }
        // Again, and last: a denial that came meanwhile counts, and one that comes from here on finds the token noted.
        self.admit(tenant, session, Some(signed.client_id.as_str()), now)?;
        Ok(signed)
    }

    /// Whether anybody is served, this session is, and under this client ID.
    fn admit(&self, tenant: &Tenant, session: &Session, client_id: Option<&str>, now: UnixMillis) -> Result<(), Cause> {
        self.store.may_issue(now)?;
        match self.store.restrictions().verdict(&tenant.name, session, client_id, now) {
            Verdict::Clear => Ok(()),
            Verdict::Denied => Err(Cause::Denied),
            Verdict::Outdated => Err(Cause::Outdated),
        }
    }

    /// Notes that a token is out, so that it is known what to revoke.
    async fn note(&self, tenant: &Tenant, session: &Session, signed: &Signed, now: UnixMillis) -> Result<(), Cause> {
        let ttl = Duration::from_millis(signed.ttl.as_millis());
        let grant = LiveToken {
            tenant: tenant.name.clone(),
            user: session.user_id.clone(),
            session: session.session_id.clone(),
            organization: session.organization.as_ref().map(|organization| organization.id.clone()),
            client_id: signed.client_id.as_str().to_owned(),
            format: signed.token.format(),
            until: revocation::ends_by(signed.token.format(), ttl, now),
        };
        match self.store.put_live_token(grant, now).await {
            // This replica has noted it; whether that is enough, the operator has said: the store is asked last.
            Ok(()) | Err(StoreError::Unavailable) => Ok(()),
            Err(error @ StoreError::Full) => Err(error.into()),
        }
    }
}

impl Tenant {
    async fn sign_for(
        &self,
        session: &Session,
        asked: IncomingRequest<'_>,
        now: UnixMillis,
        stamps: SigningContexts<'_>,
    ) -> Result<Signed, Cause> {
        let params = TokenParams::parse(form_urlencoded::parse(asked.params))?;
        check_organization(session, &params)?;
        let client_id = self.identity.client_id(session).await?;
        if params.client_id.as_ref().is_some_and(|asked| *asked != client_id) {
            return Err(Cause::OtherClientId);
        }
        let policy = self.policy.load_full();
        let decision = policy.decide(session, &params);
        log_dropped(session, &decision.dropped);
        let grant = decision.outcome?;
        let sign = || Ok(self.token_request(&client_id, &grant, stamps()?));
        let token = match &self.signing {
            Signing::TokenRequest => Token::Request(sign()?),
            Signing::Jwt => {
                let sign = |grant: &Grant| jwt(&self.api_key, &client_id, grant, session, now);
                Token::Jwt(sign(&grant).map_err(|error| too_large(error, &policy, session, &params, sign))?)
            }
            Signing::TokenDetails(exchange) => match exchange.token(sign).await {
                Ok(details) => Token::Details(details),
                Err(error) => {
                    let (tenant, session_id) = (self.name.as_str(), &session.session_id);
                    tracing::warn!(tenant, session_id, %error, "Ably gave no token");
                    return Err(NoToken::from(error).into());
                }
            },
        };
        Ok(Signed { token, client_id, rules: grant.rules, ttl: grant.ttl.unwrap_or(Ttl::ABLY_DEFAULT) })
    }

    fn token_request(&self, client_id: &ClientId, grant: &Grant, stamp: SigningContext) -> TokenRequest {
        let SigningContext { timestamp, nonce } = stamp;
        TokenRequest::sign(&self.api_key, client_id.clone(), grant.capability.as_ref(), grant.ttl, timestamp, nonce)
    }
}

/// Refuses a client that wants its token for an organization in which its session is not active (yet).
fn check_organization(session: &Session, asked: &TokenParams) -> Result<(), Cause> {
    let active = session.organization.as_ref();
    let is_active = match asked.organization.as_deref() {
        None => true,
        Some("none") => active.is_none(),
        Some(name) => active.is_some_and(|active| OrganizationName::parse(name).is_ok_and(|name| name.is_of(active))),
    };
    if is_active { Ok(()) } else { Err(Cause::OtherOrganization) }
}

/// A JWT can be revoked by the session that it was issued to, and by nothing finer.
fn jwt(
    api_key: &ApiKey,
    client_id: &ClientId,
    grant: &Grant,
    session: &Session,
    now: UnixMillis,
) -> Result<AblyJwt, JwtTooLarge> {
    let (channel_claims, publish_rate) = (grant.channel_claims.clone(), grant.publish_rate.clone());
    let extras = JwtExtras { channel_claims, publish_rate };
    let (capability, revocation_key) = (grant.capability.as_ref(), &session.session_id);
    AblyJwt::sign(api_key, client_id, capability, grant.ttl, revocation_key, &extras, now)
}

/// Why a JWT is too large: because of what its client asks for, unless the policy alone makes it so.
fn too_large(
    error: JwtTooLarge,
    policy: &Policy,
    session: &Session,
    params: &TokenParams,
    sign: impl Fn(&Grant) -> Result<AblyJwt, JwtTooLarge>,
) -> Cause {
    let by_the_policy = || policy.decide(session, &TokenParams::default()).outcome;
    if params.capability.is_some() && by_the_policy().is_ok_and(|grant| sign(&grant).is_ok()) {
        PolicyRefusal::TooMuchAsked.into()
    } else {
        error.into()
    }
}

/// Says, without the values, why a client lacks a channel that a rule names.
fn log_dropped(session: &Session, dropped: &[Dropped]) {
    for Dropped { rule, resource, placeholder, why, loses } in dropped {
        let (session_id, rule, loses) = (&session.session_id, rule.as_str(), loses.in_words());
        tracing::debug!(session_id, rule, resource, placeholder, %why, "a resource drops out of a grant{loses}");
    }
}

impl Cause {
    /// A short name for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCredential(cause) | Self::SignedOut(cause) => cause.reason(),
            Self::Unverified(Unverified::Invalid(cause)) => cause.reason(),
            Self::Unverified(Unverified::KeysUnavailable(_)) => "signing-keys-unavailable",
            Self::SeveralTenants => "tenant-ambiguous",
            Self::AnotherSite => "request-from-another-site",
            Self::Overloaded(_) => "overloaded",
            Self::RateLimited(_) => "rate-limited",
            Self::Identity(IdentityError::UsernameOutOfReach) => "username-out-of-reach",
            Self::Identity(IdentityError::NoUsername) => "user-without-username",
            Self::Identity(IdentityError::Banned) => "user-banned",
            Self::Identity(IdentityError::Deleted) => "user-deleted",
            Self::Identity(IdentityError::ClaimMissing) => "client-id-claim-missing",
            Self::Identity(IdentityError::NotAClientId(_)) => "client-id-impossible",
            Self::Identity(IdentityError::Unavailable(_)) => "user-lookup-unavailable",
            Self::Params(_) => "params-malformed",
            Self::OtherClientId => "client-id-of-another",
            Self::OtherOrganization => "organization-mismatch",
            Self::JwtTooLarge(_) => "jwt-too-large",
            Self::NoToken(NoToken::Refused(_)) => "ably-refused",
            Self::NoToken(NoToken::Unavailable) => "ably-unavailable",
            Self::NoRandomness(_) | Self::NoToken(NoToken::NoRandomness(_)) => "no-randomness",
            Self::Denied => "session-denied",
            Self::Outdated => "session-token-outdated",
            Self::Store(StoreError::Full) => "store-full",
            Self::Store(StoreError::Unavailable) => "store-unavailable",
            Self::Policy(PolicyRefusal::Requirement) => "policy-requirement-unmet",
            Self::Policy(PolicyRefusal::NothingGranted) => "policy-grants-nothing",
            Self::Policy(PolicyRefusal::NothingOfAsked) => "policy-grants-nothing-asked",
            Self::Policy(PolicyRefusal::TooMuchAsked) => "policy-asked-too-much",
        }
    }

    /// What the client reads. The one permit where a refusal becomes a status and a code.
    #[must_use]
    pub fn error_info(&self) -> ErrorInfo {
        let (status_code, code) = match self {
            Self::NoCredential(_)
            | Self::Unverified(Unverified::Invalid(_))
            | Self::SeveralTenants
            | Self::AnotherSite
            | Self::OtherOrganization
            | Self::Outdated => (401, code::INVALID_CREDENTIALS),
            Self::Store(_) => (503, code::UNREACHABLE),
            Self::Unverified(Unverified::KeysUnavailable(_)) | Self::Identity(IdentityError::Unavailable(_)) => {
                (503, code::UNREACHABLE)
            }
            Self::RateLimited(_) => (429, code::RATE_LIMITED),
            Self::SignedOut(_) | Self::Identity(_) | Self::Denied | Self::Policy(PolicyRefusal::Requirement) => {
                (403, code::FORBIDDEN)
            }
            Self::Policy(PolicyRefusal::NothingGranted | PolicyRefusal::NothingOfAsked) => (403, code::NOT_PERMITTED),
            Self::Params(InvalidTokenParams::ClientId(_)) => (400, code::INVALID_CLIENT_ID),
            Self::Params(InvalidTokenParams::Ttl | InvalidTokenParams::TtlTooShort) => (400, code::INVALID_PARAMETER),
            Self::Params(InvalidTokenParams::Capability | InvalidTokenParams::Repeated)
            | Self::Policy(PolicyRefusal::TooMuchAsked) => (400, code::BAD_REQUEST),
            Self::OtherClientId => (403, code::INVALID_CLIENT_ID),
            Self::JwtTooLarge(_) | Self::NoRandomness(_) => (500, code::INTERNAL),
            Self::Overloaded(_) => (503, code::INTERNAL),
            Self::NoToken(cause) => return cause.error_info(),
        };
        ErrorInfo { code, status_code, message: self.message() }
    }

    /// When it is worth asking again, for refusals that pass by themselves.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        const SOON: Duration = Duration::from_secs(5);
        match self {
            Self::Overloaded(_) => Some(Duration::from_secs(1)),
            Self::Unverified(Unverified::KeysUnavailable(_)) | Self::Store(_) => Some(SOON),
            Self::RateLimited(LimitExceeded(allowance)) => Some(Duration::from_secs(allowance.lasts.into())),
            Self::Identity(IdentityError::Unavailable(after)) => Some(*after),
            Self::NoToken(cause) => cause.retry_after(),
            _ => None,
        }
    }

    fn message(&self) -> &'static str {
        match self {
            Self::NoCredential(cause) | Self::SignedOut(cause) => cause.message(),
            Self::Unverified(Unverified::KeysUnavailable(_)) => {
                "Clerk's signing keys cannot be had now, so no session token can be verified. Try again soon."
            }
            Self::Unverified(Unverified::Invalid(cause)) => cause.message(),
            Self::SeveralTenants => {
                "The cookies are of sessions at several Clerk instances. Send the session token of one as a Bearer token."
            }
            Self::AnotherSite => {
                "A page of another site sent the user's cookies. Add its origin to CORS_ALLOWED_ORIGINS, or send a Bearer \
                 token."
            }
            Self::Overloaded(_) => "The token service has more to do than it can. Try again soon.",
            Self::RateLimited(_) => {
                "The user has asked for too many tokens. The Retry-After header says in how many seconds there is one more."
            }
            Self::Identity(IdentityError::UsernameOutOfReach) => {
                "No username: add a username claim to Clerk's session token, or give this service CLERK_SECRET_KEY."
            }
            Self::Identity(IdentityError::NoUsername) => {
                "The user has no username. Give them one in Clerk, or set TOKEN_CLIENT_ID to {user_id}."
            }
            Self::Identity(IdentityError::Banned) => "The user is banned. Lift the ban in Clerk to let them in.",
            Self::Identity(IdentityError::Deleted) => "The user does not exist any more at Clerk.",
            Self::Identity(IdentityError::ClaimMissing) => {
                "The session token lacks a claim that TOKEN_CLIENT_ID names. Add it to Clerk's session token."
            }
            Self::Identity(IdentityError::NotAClientId(_)) => {
                "The user's name cannot be an Ably client ID: it is empty, *, over 256 bytes, or has control characters."
            }
            Self::Identity(IdentityError::Unavailable(_)) => {
                "Clerk cannot be asked for the username now. Try again soon."
            }
            Self::Params(InvalidTokenParams::Repeated) => "A token param is given twice: send each once.",
            Self::Params(InvalidTokenParams::ClientId(_)) => {
                "The clientId asked for cannot be one: not *, at most 256 bytes, no control characters. Or leave it out."
            }
            Self::Params(InvalidTokenParams::Capability) => {
                "The capability asked for is not one: a JSON object of resources, each with a list of operations."
            }
            Self::Params(InvalidTokenParams::Ttl) => {
                "The ttl asked for is not a positive whole number of milliseconds."
            }
            Self::Params(InvalidTokenParams::TtlTooShort) => {
                "The ttl asked for is shorter than 10 seconds. It is in milliseconds: an hour is 3600000."
            }
            Self::OtherOrganization => {
                "The session is not active in the organization asked for. Call setActive(), then authorize() with that \
                 organization."
            }
            Self::OtherClientId => {
                "The clientId asked for is not the caller's. Leave it out, or make a new client after a change of name."
            }
            Self::JwtTooLarge(_) => {
                "The rights of this user do not fit into a JWT. The service is to use another token format."
            }
            Self::NoToken(cause) => cause.error_info().message,
            Self::NoRandomness(_) => "Something is broken in the token service.",
            Self::Denied => {
                "The session has ended, or the user is barred or deleted. If signing in again does not help, ask whoever \
                 runs this service."
            }
            Self::Outdated => {
                "The session token is from before a change of the user's rights or name. The next one, within a minute, is not."
            }
            Self::Store(_) => "The service cannot tell now who is signed out. Try again soon.",
            Self::Policy(PolicyRefusal::Requirement) => {
                "The session does not meet what the policy requires for any token: see [token] require."
            }
            Self::Policy(PolicyRefusal::NothingGranted) => {
                "The policy grants this session nothing: no rule matches it, or no resource of those that do can be filled."
            }
            Self::Policy(PolicyRefusal::NothingOfAsked) => {
                "The policy grants nothing of the capability asked for. Ask for less, or for none in particular."
            }
            Self::Policy(PolicyRefusal::TooMuchAsked) => {
                "The capability asked for is too large. Ask for fewer resources, at most 512, and name channels rather than \
                 patterns."
            }
        }
    }
}

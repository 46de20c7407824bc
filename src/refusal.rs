//! Every refusal: one row each with the reason for logs and metrics, and the answer for the client.
//!
//! A handler returns a [`Refusal`] with `?`, and `routes::actix` logs, counts and answers it. Where the tenant is known, the
//! handler logs and counts it itself, and returns a [`ReportedRefusal`]. `docs/errors.md` explains each reason.

use std::{cell::RefCell, collections::HashMap, fmt, time::Duration};

use actix_web::{HttpResponse, ResponseError};
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use hyper::body::Bytes;

use crate::{
    ably::{AblyRefusal, ErrorBody, ExchangeError, InvalidTokenParams, JwtTooLarge, NoRandomness, RestError, code},
    clerk::{Invalid, InvalidDelivery, LookupError, NoCredential, Unverified},
    identity::IdentityError,
    limits::{LimitExceeded, NoPermit},
    policy::PolicyRefusal,
    revocation::{
        Incomplete,
        operator::{InvalidRevocationRequest, RequestFailed},
    },
    store::StoreError,
    tenant::SignedOut,
};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the messages of the table say it")]
pub enum Refusal {
    /// The second value (`[token] signed_out`) chooses 401 or 403 for a signed-out user.
    NoCredential(NoCredential, SignedOut),
    Invalid(Invalid),
    KeysUnavailable,
    SeveralTenants,
    AnotherSite,
    Overloaded,
    RateLimited(LimitExceeded),
    Identity(IdentityError),
    Params(InvalidTokenParams),
    OtherClientId,
    OtherOrganization,
    JwtTooLarge,
    AblyRefused(AblyRefusal),
    AblyUnavailable,
    NoRandomness,
    Policy(PolicyRefusal),
    Denied,
    Outdated,
    Store(StoreError),

    Delivery(InvalidDelivery),
    WebhookBody(InvalidBody),
    WebhookOverloaded,
    WebhookMalformed,
    WebhookIncomplete(Incomplete),
    WebhookInterrupted,

    AdminTokenUnset,
    AdminTokenMissing,
    AdminTokenWrong,
    AdminFromPage,
    AdminHost,
    Host,
    AdminBody(InvalidBody),
    NotJson,
    RevocationRequest(InvalidRevocationRequest),
    RevocationRequestNotStored,
    RevocationRequestInterrupted,
    MetricsNotWritten,

    Body(InvalidBody),
    HeadTooLarge,
    HeadTooSlow,
    NotHttp,
    NoRoute,
    NoAdminRoute,
    /// The route has other methods: the value of `Allow`.
    Method(&'static str),
}

/// Why a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidBody {
    /// It has more bytes than the route takes.
    TooLarge,
    /// It did not arrive in time.
    TooSlow,
    /// It ended early or its framing is invalid.
    Interrupted,
    /// It is not form-encoded.
    NotForm,
}

/// What a refusal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// A short name: in logs, as a label of metrics, and in brackets behind the message.
    pub reason: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// Ably's error code.
    pub code: u32,
    /// A fixed ASCII sentence that says what to do: it travels in a header.
    pub message: &'static str,
    /// `Retry-After`, for a temporary refusal.
    pub retry_after: Option<Duration>,
}

/// How many headers an answer usually has, with those of the middleware.
pub(crate) const USUAL_HEADERS: usize = 12;

/// The usual `Retry-After`, in seconds.
const SOON: u64 = 5;

macro_rules! rows {
    ($($pattern:pat => $reason:literal, $status:literal, $code:ident, $(after $after:expr,)? $message:literal;)*) => {
        impl Refusal {
            fn fixed_row(&self) -> Row {
                match self {
                    $($pattern => Row {
                        reason: $reason,
                        status: $status,
                        code: code::$code,
                        message: $message,
                        retry_after: None $(.or(Some(Duration::from_secs($after))))?,
                    },)*
                }
            }
        }

        /// The fixed rows, for the tests that compare documents with them.
        #[cfg(test)]
        const ROWS: &[(&str, u16, u32, &str)] = &[$(($reason, $status, code::$code, $message)),*];
    };
}

use Refusal as R;

rows! {
    R::NoCredential(NoCredential::Missing | NoCredential::SessionCookieMissing, _)
        => "session-token-missing", 401, INVALID_CREDENTIALS,
        "No Clerk session: send the session token as a Bearer token, or its cookies. Is the user signed in?";
    R::NoCredential(NoCredential::Ambiguous, _) => "authorization-ambiguous", 401, INVALID_CREDENTIALS,
        "Two Authorization headers: send one.";
    R::NoCredential(NoCredential::DevBrowserMissing, _) => "dev-browser-missing", 401, INVALID_CREDENTIALS,
        "No __clerk_db_jwt cookie, which a Clerk development instance needs beside its session cookie.";
    R::NoCredential(NoCredential::SignedOut, _) => "client-uat-signed-out", 401, INVALID_CREDENTIALS,
        "The user is signed out: the __client_uat cookie is missing or 0.";
    R::NoCredential(NoCredential::OlderThanClient, _)
        => "session-token-older-than-client-uat", 401, INVALID_CREDENTIALS,
        "The session cookie is older than the last sign-in or sign-out. A page renews it within a minute.";

    R::Invalid(Invalid::Malformed) => "token-malformed", 401, INVALID_CREDENTIALS, "The session token is not a JWT.";
    R::Invalid(Invalid::NotASession) => "token-type-mismatch", 401, INVALID_CREDENTIALS,
        "The token is not a session token. Send what getToken() returns without a template, not an API key, a machine token or an OAuth token.";
    R::Invalid(Invalid::Type) => "token-invalid-typ", 401, INVALID_CREDENTIALS,
        "The header of the session token is not that of a Clerk session token.";
    R::Invalid(Invalid::Algorithm) => "token-invalid-algorithm", 401, INVALID_CREDENTIALS,
        "The header of the session token is not that of a Clerk session token.";
    R::Invalid(Invalid::CriticalExtension) => "token-invalid-crit", 401, INVALID_CREDENTIALS,
        "The header of the session token is not that of a Clerk session token.";
    R::Invalid(Invalid::KeyId) => "token-invalid-kid", 401, INVALID_CREDENTIALS,
        "The header of the session token is not that of a Clerk session token.";
    R::Invalid(Invalid::UnknownKey) => "token-unknown-kid", 401, INVALID_CREDENTIALS,
        "The session token is signed with a key that this Clerk instance does not have.";
    R::Invalid(Invalid::Signature) => "token-invalid-signature", 401, INVALID_CREDENTIALS,
        "The signature of the session token is invalid.";
    R::Invalid(Invalid::Subject) => "token-invalid-subject", 401, INVALID_CREDENTIALS,
        "The session token lacks claims that a Clerk session token has.";
    R::Invalid(Invalid::Audience) => "token-invalid-audience", 401, INVALID_CREDENTIALS,
        "The session token is for another audience.";
    R::Invalid(Invalid::AuthorizedPartyMissing) => "token-missing-authorized-party", 401, INVALID_CREDENTIALS,
        "The session token has no azp. In a browser the next one, within a minute, has it. For native apps, set CLERK_NATIVE_APPS=true.";
    R::Invalid(Invalid::AuthorizedParty) => "token-invalid-authorized-party", 401, INVALID_CREDENTIALS,
        "The session token was minted for an origin that is not an authorized party.";
    R::Invalid(Invalid::Issuer) => "token-invalid-issuer", 401, INVALID_CREDENTIALS,
        "The session token is of another Clerk instance.";
    R::Invalid(Invalid::ExpirationMissing) => "token-missing-expiration", 401, INVALID_CREDENTIALS,
        "The session token lacks claims that a Clerk session token has.";
    R::Invalid(Invalid::Expired) => "token-expired", 401, INVALID_CREDENTIALS,
        "The session token has expired. Get a fresh one with getToken().";
    R::Invalid(Invalid::NotYetValid) => "token-not-active-yet", 401, INVALID_CREDENTIALS,
        "The session token is not valid yet: the clocks of Clerk and this service differ.";
    R::Invalid(Invalid::IssuedInTheFuture) => "token-issued-in-the-future", 401, INVALID_CREDENTIALS,
        "The session token is not valid yet: the clocks of Clerk and this service differ.";
    R::Invalid(Invalid::IssuedAtMissing) => "token-missing-issued-at", 401, INVALID_CREDENTIALS,
        "The session token lacks claims that a Clerk session token has.";
    R::Invalid(Invalid::LivesTooLong) => "token-lives-too-long", 401, INVALID_CREDENTIALS,
        "The session token lives longer than this service allows.";
    R::Invalid(Invalid::SessionIdMissing) => "token-missing-session-id", 401, INVALID_CREDENTIALS,
        "The session token lacks claims that a Clerk session token has.";
    R::Invalid(Invalid::Actor) => "token-invalid-actor", 401, INVALID_CREDENTIALS,
        "The session token lacks claims that a Clerk session token has.";
    R::Invalid(Invalid::Pending) => "session-pending", 401, INVALID_CREDENTIALS,
        "The session is pending: the user has tasks to complete in Clerk.";
    R::Invalid(Invalid::Features) => "token-invalid-features", 401, INVALID_CREDENTIALS,
        "The session token lacks claims that a Clerk session token has.";
    R::KeysUnavailable => "signing-keys-unavailable", 503, UNREACHABLE, after SOON,
        "Clerk's signing keys are unavailable, so no session token can be verified. Try again soon.";

    R::SeveralTenants => "tenant-ambiguous", 401, INVALID_CREDENTIALS,
        "The cookies are of sessions at several Clerk instances. Send the session token of one as a Bearer token.";
    R::AnotherSite => "request-from-another-site", 401, INVALID_CREDENTIALS,
        "A page of another site sent the user's cookies. Add its origin to CORS_ALLOWED_ORIGINS, or send a Bearer token.";
    R::Overloaded => "overloaded", 503, INTERNAL, after 1, "The token service is overloaded. Try again soon.";
    R::RateLimited(LimitExceeded(allowance)) => "rate-limited", 429, RATE_LIMITED, after allowance.lasts.into(),
        "The user has asked for too many tokens. Wait as many seconds as the Retry-After header says.";

    R::Identity(IdentityError::UsernameUnavailable) => "username-out-of-reach", 403, FORBIDDEN,
        "No username: add a username claim to Clerk's session token, or give this service CLERK_SECRET_KEY.";
    R::Identity(IdentityError::NoUsername) => "user-without-username", 403, FORBIDDEN,
        "The user has no username. Give them one in Clerk, or set TOKEN_CLIENT_ID to {user_id}.";
    R::Identity(IdentityError::Banned) => "user-banned", 403, FORBIDDEN,
        "The user is banned. Lift the ban in Clerk to let them in.";
    R::Identity(IdentityError::Lookup(LookupError::Deleted)) => "user-deleted", 403, FORBIDDEN,
        "The user does not exist any more at Clerk.";
    R::Identity(IdentityError::ClaimMissing) => "client-id-claim-missing", 403, FORBIDDEN,
        "The session token lacks a claim that TOKEN_CLIENT_ID names. Add it to Clerk's session token.";
    R::Identity(IdentityError::InvalidClientId(_)) => "client-id-impossible", 403, FORBIDDEN,
        "The user's name cannot be an Ably client ID: it is empty, *, over 256 bytes, or has control characters.";
    R::Identity(IdentityError::Lookup(LookupError::Unavailable(after)))
        => "user-lookup-unavailable", 503, UNREACHABLE, after after.as_secs(),
        "Clerk cannot be asked for the username now. Try again soon.";

    R::Params(InvalidTokenParams::Repeated) => "params-malformed", 400, BAD_REQUEST,
        "A token param is given twice: send each once.";
    R::Params(InvalidTokenParams::ClientId(_)) => "params-malformed", 400, INVALID_CLIENT_ID,
        "The clientId asked for is invalid: not *, at most 256 bytes, no control characters. Or leave it out.";
    R::Params(InvalidTokenParams::Capability) => "params-malformed", 400, BAD_REQUEST,
        "The capability asked for is invalid. Send a JSON object of resources, each with a list of operations.";
    R::Params(InvalidTokenParams::Ttl) => "params-malformed", 400, INVALID_PARAMETER,
        "The ttl asked for is not a positive whole number of milliseconds.";
    R::Params(InvalidTokenParams::TtlTooShort) => "params-malformed", 400, INVALID_PARAMETER,
        "The ttl asked for is shorter than 10 seconds. It is in milliseconds: an hour is 3600000.";
    R::OtherOrganization => "organization-mismatch", 401, INVALID_CREDENTIALS,
        "The session is not active in the organization asked for. Call setActive(), then authorize() with that organization.";
    R::OtherClientId => "client-id-of-another", 403, INVALID_CLIENT_ID,
        "The clientId asked for is not the caller's. Leave it out, or make a new client after a change of name.";

    R::JwtTooLarge => "jwt-too-large", 500, INTERNAL,
        "This user's capability is too large for a JWT. Use token requests: TOKEN_FORMAT=token_request.";
    R::AblyRefused(_) => "ably-refused", 503, UNREACHABLE, after SOON,
        "Ably does not accept this service's token requests now. The service's log has Ably's code.";
    R::AblyUnavailable => "ably-unavailable", 503, UNREACHABLE, after SOON,
        "Ably cannot be asked for a token now. Try again soon.";
    R::NoRandomness => "no-randomness", 500, INTERNAL,
        "The token service failed. Its log says more.";

    R::Denied => "session-denied", 403, FORBIDDEN,
        "The session has ended, or the user is banned or deleted. If signing in again does not help, ask whoever runs this service.";
    R::Outdated => "session-token-outdated", 401, INVALID_CREDENTIALS,
        "The session token is older than a change of the user's rights or name. Use the next one, within a minute.";
    R::Store(StoreError::Full) => "store-full", 503, UNREACHABLE, after SOON,
        "The service cannot check now whether the session has ended. Try again soon.";
    R::Store(StoreError::Unavailable) => "store-unavailable", 503, UNREACHABLE, after SOON,
        "The service cannot check now whether the session has ended. Try again soon.";

    R::Policy(PolicyRefusal::Requirement) => "policy-requirement-unmet", 403, FORBIDDEN,
        "The session does not meet what the policy requires for any token: see [token] require.";
    R::Policy(PolicyRefusal::NothingGranted) => "policy-grants-nothing", 403, NOT_PERMITTED,
        "The policy grants this session nothing: no rule matches, or no placeholder of the matching rules can be filled.";
    R::Policy(PolicyRefusal::NothingOfRequested) => "policy-grants-nothing-asked", 403, NOT_PERMITTED,
        "The policy grants nothing of the capability asked for. Ask for less, or leave the capability out.";
    R::Policy(PolicyRefusal::RequestTooLarge) => "policy-asked-too-much", 400, BAD_REQUEST,
        "The capability asked for is too large. Ask for fewer resources, at most 512, and name channels rather than patterns.";

    R::Delivery(InvalidDelivery::Headers) => "webhook-headers-missing", 401, INVALID_CREDENTIALS,
        "The webhook is not signed with CLERK_WEBHOOK_SIGNING_SECRET, or not within the last 5 minutes.";
    R::Delivery(InvalidDelivery::Signature) => "webhook-invalid-signature", 401, INVALID_CREDENTIALS,
        "The webhook is not signed with CLERK_WEBHOOK_SIGNING_SECRET, or not within the last 5 minutes.";
    R::Delivery(InvalidDelivery::Timestamp) => "webhook-invalid-timestamp", 401, INVALID_CREDENTIALS,
        "The webhook is not signed with CLERK_WEBHOOK_SIGNING_SECRET, or not within the last 5 minutes.";
    R::WebhookBody(InvalidBody::TooLarge) => "webhook-body-refused", 413, BAD_REQUEST,
        "The body of the request is too large.";
    R::WebhookBody(InvalidBody::TooSlow) => "webhook-body-refused", 408, BAD_REQUEST,
        "The request did not arrive whole within 5 seconds.";
    R::WebhookBody(InvalidBody::Interrupted | InvalidBody::NotForm) => "webhook-body-refused", 400, BAD_REQUEST,
        "The body of the request did not arrive whole.";
    R::WebhookOverloaded => "webhook-overloaded", 503, INTERNAL, after SOON,
        "Too many webhooks of more than 64 KiB are being received. Send the event again.";
    R::WebhookMalformed => "webhook-malformed", 400, BAD_REQUEST,
        "The webhook is signed, but it is not an event as Clerk documents it. Please report it: the log says more.";
    R::WebhookIncomplete(Incomplete::Store(_)) => "webhook-not-stored", 503, UNREACHABLE, after SOON,
        "The event cannot be stored now. Send it again.";
    R::WebhookIncomplete(Incomplete::Ably) => "webhook-not-revoked", 503, UNREACHABLE, after SOON,
        "Ably cannot revoke tokens now. Send the event again.";
    R::WebhookInterrupted => "webhook-broken-off", 503, INTERNAL, after SOON,
        "The service failed: its log says more. Send the event again.";

    R::AdminTokenUnset => "admin-token-not-set", 403, FORBIDDEN,
        "The admin listener is not on loopback and has no token: set ADMIN_TOKEN, for the service and for revoke.";
    R::AdminTokenMissing => "admin-token-missing", 401, INVALID_CREDENTIALS,
        "The token is missing: send ADMIN_TOKEN as a Bearer token.";
    R::AdminTokenWrong => "admin-token-wrong", 401, INVALID_CREDENTIALS,
        "The token is wrong: send this service's ADMIN_TOKEN as a Bearer token.";
    R::AdminFromPage => "from-a-page", 403, FORBIDDEN, "Web pages may not send this request: it has an Origin header.";
    R::AdminHost => "host-unknown", 403, FORBIDDEN,
        "Without ADMIN_TOKEN, the Host header must be an IP address or localhost: a web page could be behind it.";
    R::Host => "host-unknown", 403, FORBIDDEN,
        "The Host header must be an IP address or localhost: any other name could be that of a web page.";
    R::NotJson => "not-json", 415, BAD_REQUEST, "The body must be application/json.";
    R::RevocationRequest(InvalidRevocationRequest::Malformed) => "revocation-request-invalid", 400, BAD_REQUEST,
        "Send a JSON object with tenant, session, user, client_id, for (strings), lift, dry_run (true or false).";
    R::RevocationRequest(InvalidRevocationRequest::NotOneSubject) => "revocation-request-invalid", 400, BAD_REQUEST,
        "Name exactly one of session, user and client_id.";
    R::RevocationRequest(InvalidRevocationRequest::NotASession) => "revocation-request-invalid", 400, BAD_REQUEST,
        "session is not a Clerk session ID: sess_ and then ASCII letters and digits.";
    R::RevocationRequest(InvalidRevocationRequest::NotAUser) => "revocation-request-invalid", 400, BAD_REQUEST,
        "user is not a Clerk user ID: user_ and then ASCII letters and digits.";
    R::RevocationRequest(InvalidRevocationRequest::NotAClientId) => "revocation-request-invalid", 400, BAD_REQUEST,
        "client_id is invalid: it has 1 to 256 bytes, no control characters, and is not the wildcard *.";
    R::RevocationRequest(InvalidRevocationRequest::Duration) => "revocation-request-invalid", 400, BAD_REQUEST,
        "for is not a duration above zero, or exceeds 30 days. Use for example 2h.";
    R::RevocationRequest(InvalidRevocationRequest::LastsAndLifts) => "revocation-request-invalid", 400, BAD_REQUEST,
        "for and lift exclude each other: a lifted denial ends at once.";
    R::RevocationRequest(InvalidRevocationRequest::WithoutTenant) => "revocation-request-invalid", 400, BAD_REQUEST,
        "There are several tenants: name one.";
    R::RevocationRequest(InvalidRevocationRequest::NoSuchTenant) => "revocation-request-invalid", 400, BAD_REQUEST,
        "The tenant is unknown.";
    R::RevocationRequestNotStored => "revocation-request-not-stored", 503, UNREACHABLE, after SOON,
        "Redis cannot be used now, so only one replica knows of the request so far. Send it again.";
    R::RevocationRequestInterrupted => "revocation-request-broken-off", 500, INTERNAL,
        "The service failed: its log says more. Send the request again.";
    R::MetricsNotWritten => "metrics-not-written", 500, INTERNAL, "The metrics cannot be written.";

    R::Body(InvalidBody::TooLarge) | R::AdminBody(InvalidBody::TooLarge) => "body-refused", 413, BAD_REQUEST, "The body of the request is too large.";
    R::Body(InvalidBody::TooSlow) | R::AdminBody(InvalidBody::TooSlow) => "body-refused", 408, BAD_REQUEST,
        "The request did not arrive whole within 5 seconds.";
    R::Body(InvalidBody::Interrupted) | R::AdminBody(InvalidBody::Interrupted) => "body-refused", 400, BAD_REQUEST,
        "The body of the request did not arrive whole.";
    R::Body(InvalidBody::NotForm) | R::AdminBody(InvalidBody::NotForm) => "body-refused", 415, BAD_REQUEST,
        "The body of a POST must be application/x-www-form-urlencoded, without content encoding.";
    R::HeadTooLarge => "head-too-large", 431, BAD_REQUEST,
        "The address and headers of the request are larger than 16 KiB, or it has more than 96 headers.";
    R::HeadTooSlow => "not-a-request", 408, BAD_REQUEST, "The request did not arrive whole within 5 seconds.";
    R::NotHttp => "not-a-request", 400, BAD_REQUEST, "The request is not valid HTTP/1.1.";
    R::NoRoute => "no-such-route", 404, NOT_FOUND, "The route is unknown. Tokens are at /api/ably; see /openapi.yaml.";
    R::NoAdminRoute => "no-such-route", 404, NOT_FOUND,
        "The route is unknown. The admin listener has /metrics, /healthz, /readyz and /revocations.";
    R::Method(_) => "no-such-route", 405, METHOD_NOT_ALLOWED,
        "The route does not have this method. The Allow header lists its methods.";
}

impl Refusal {
    /// The row of this refusal. Two rows depend on the value.
    #[must_use]
    pub fn row(&self) -> Row {
        let row = self.fixed_row();
        match self {
            Self::NoCredential(cause, SignedOut::Fail) if cause.is_signed_out() => {
                Row { status: 403, code: code::FORBIDDEN, ..row }
            }
            Self::AblyRefused(refusal) => ably_row(*refusal, row),
            _ => row,
        }
    }

    /// A short name for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.row().reason
    }

    /// Whether the log warns of it: only known senders send webhooks and operator requests.
    #[must_use]
    pub fn concerns_operator(&self) -> bool {
        matches!(
            self,
            Self::Delivery(_)
                | Self::WebhookBody(_)
                | Self::WebhookOverloaded
                | Self::AdminTokenUnset
                | Self::AdminTokenMissing
                | Self::AdminTokenWrong
                | Self::AdminFromPage
                | Self::AdminHost
                | Self::Host
                | Self::AdminBody(_)
                | Self::NotJson
                | Self::RevocationRequest(_)
        )
    }
}

/// The answer for a refusal of Ably's: Ably's status and code, unless an SDK would misread them. It would take a 401 (this
/// service's key or clock) and 40140 to 40149 for errors of its own token; 40102 and 40171 would end its connection for good.
fn ably_row(refusal: AblyRefusal, about_the_service: Row) -> Row {
    const LONGEST: Duration = Duration::from_mins(1);
    let AblyRefusal { code, status, retry_after } = refusal;
    let row = if status == 401 || matches!(code, 40102 | 40140..=40149 | 40171) {
        about_the_service
    } else {
        Row { code, status, message: ably_message(code, status), ..about_the_service }
    };
    let is_temporary = row.status == 429 || row.status >= 500;
    Row {
        retry_after: row.retry_after.filter(|_| is_temporary).map(|after| retry_after.unwrap_or(after).min(LONGEST)),
        ..row
    }
}

fn ably_message(code: u32, status: u16) -> &'static str {
    match (code, status) {
        (_, 429) | (42900..=42999, _) => "Ably limits the rate of token requests. Try again later.",
        (_, 500..) => "Ably failed to make a token. Try again soon.",
        (40003, _) => "Ably refuses the ttl of the token request.",
        (40012, _) => "Ably refuses the client ID of the token request.",
        (40160..=40169, _) => "The Ably API key has none of the capability that was asked for.",
        (_, 403) => "Ably does not allow this token request.",
        (_, 404) => "Ably does not know the API key of this service.",
        _ => "Ably refuses the token request.",
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().message)
    }
}

/// The parts of an answer that depend on the row alone.
#[derive(Clone)]
struct Answer {
    code: HeaderValue,
    message: HeaderValue,
    body: Bytes,
}

impl Answer {
    /// The number of answers that a thread keeps. This service's own rows are fewer; Ably's codes are many.
    const MAX_KEPT: usize = 128;

    /// Cached per row and thread, so that refusing strangers is cheap.
    fn of(row: Row) -> Self {
        thread_local! {
            static KEPT: RefCell<HashMap<Row, Answer>> = RefCell::default();
        }
        KEPT.with_borrow_mut(|kept| {
            if let Some(answer) = kept.get(&row) {
                return answer.clone();
            }
            let answer = Self::new(row);
            if kept.len() < Self::MAX_KEPT {
                kept.insert(row, answer.clone());
            }
            answer
        })
    }

    fn new(Row { reason, status, code, message, .. }: Row) -> Self {
        let body = ErrorBody::new(code, status, message, reason);
        Self {
            code: code.into(),
            // Messages are ASCII.
            message: HeaderValue::from_str(body.message()).unwrap_or(HeaderValue::from_static(reason)),
            body: serde_json::to_vec(&body).unwrap_or_default().into(),
        }
    }
}

impl Refusal {
    /// The answer in the shape that an Ably SDK reads. The content type has no charset: ably-js in Node parses no other
    /// as an error. A browser's SDK reads code and message from the headers, which CORS exposes.
    #[must_use]
    pub fn answer(&self) -> Response<Bytes> {
        let row = self.row();
        let Answer { code, message, body } = Answer::of(Row { retry_after: None, ..row });
        let mut answer = Response::new(body);
        *answer.status_mut() = StatusCode::from_u16(row.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        *answer.headers_mut() = HeaderMap::with_capacity(USUAL_HEADERS);
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(HeaderName::from_static("x-ably-errorcode"), code);
        headers.insert(HeaderName::from_static("x-ably-errormessage"), message);
        if let Some(after) = row.retry_after {
            headers.insert(RETRY_AFTER, after.as_secs().max(1).into());
        }
        match self {
            Self::Method(allow) => _ = headers.insert(ALLOW, HeaderValue::from_static(allow)),
            Self::AdminTokenMissing | Self::AdminTokenWrong => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        answer
    }
}

/// Never sent: `routes::actix` answers with [`Refusal::answer`].
impl ResponseError for Refusal {
    fn error_response(&self) -> HttpResponse {
        HttpResponse::InternalServerError().finish()
    }
}

/// A refusal that is logged and counted.
#[derive(Clone, Copy, Debug, derive_more::Display)]
pub struct ReportedRefusal(pub Refusal);

/// Never sent either.
impl ResponseError for ReportedRefusal {
    fn error_response(&self) -> HttpResponse {
        self.0.error_response()
    }
}

macro_rules! from {
    ($($error:ty => $variant:ident;)*) => {
        $(impl From<$error> for Refusal {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })*
    };
}

from! {
    Invalid => Invalid;
    LimitExceeded => RateLimited;
    IdentityError => Identity;
    InvalidTokenParams => Params;
    PolicyRefusal => Policy;
    StoreError => Store;
    InvalidDelivery => Delivery;
    Incomplete => WebhookIncomplete;
    InvalidRevocationRequest => RevocationRequest;
    InvalidBody => Body;
}

impl From<RequestFailed> for Refusal {
    fn from(failed: RequestFailed) -> Self {
        match failed {
            RequestFailed::Invalid(invalid) => Self::RevocationRequest(invalid),
            RequestFailed::Store(_) => Self::RevocationRequestNotStored,
        }
    }
}

impl From<NoCredential> for Refusal {
    fn from(error: NoCredential) -> Self {
        Self::NoCredential(error, SignedOut::Retry)
    }
}

impl From<Unverified> for Refusal {
    fn from(error: Unverified) -> Self {
        match error {
            Unverified::Invalid(invalid) => Self::Invalid(invalid),
            Unverified::KeysUnavailable => Self::KeysUnavailable,
        }
    }
}

impl From<ExchangeError> for Refusal {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Rest(RestError::Refused(refusal)) => Self::AblyRefused(refusal),
            ExchangeError::Rest(_) => Self::AblyUnavailable,
            ExchangeError::NoRandomness(error) => error.into(),
        }
    }
}

impl From<NoPermit> for Refusal {
    fn from(NoPermit: NoPermit) -> Self {
        Self::Overloaded
    }
}

impl From<NoRandomness> for Refusal {
    fn from(_: NoRandomness) -> Self {
        Self::NoRandomness
    }
}

impl From<JwtTooLarge> for Refusal {
    fn from(_: JwtTooLarge) -> Self {
        Self::JwtTooLarge
    }
}

#[cfg(test)]
mod tests;

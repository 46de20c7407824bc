//! The token endpoint, for `authUrl` (RSA8c).

use std::borrow::Cow;

use actix_web::{
    HttpMessage as _, HttpRequest, HttpResponse, ResponseError as _,
    http::{StatusCode, header::CONTENT_ENCODING},
    web::{Bytes, Data, Payload},
};
use tokio::{task::yield_now, time::Instant};

use super::{answer, body, cors};
use crate::{
    ably::{NoRandomness, Nonce},
    clock::UnixMillis,
    connection::{Credentials, RequestClock},
    issuer::{Caller, IncomingRequest, IssuedToken, Issuer, Outcome, SigningContext, Token},
    limits::InFlightLimit,
    policy::RuleName,
    refusal::{InvalidBody, Refusal, Row},
};

/// The most bytes of a form.
const LARGEST_BODY: usize = 16 * 1024;

/// Token params in the query string.
pub(super) async fn get(
    request: HttpRequest,
    issuer: Data<Issuer>,
    in_flight: Data<InFlightLimit>,
) -> Result<HttpResponse, Refusal> {
    answer(&request, &issuer, &in_flight, request.query_string().as_bytes(), Instant::now()).await
}

/// Token params in a form. Those in the query string do not count.
pub(super) async fn post(
    request: HttpRequest,
    body: Payload,
    issuer: Data<Issuer>,
    in_flight: Data<InFlightLimit>,
) -> Result<HttpResponse, Refusal> {
    let begun_at = Instant::now();
    // Before the permit: a slow sender would hold it.
    let form = read_form(&request, body).await?;
    answer(&request, &issuer, &in_flight, &form, begun_at).await
}

async fn answer(
    request: &HttpRequest,
    issuer: &Issuer,
    in_flight: &InFlightLimit,
    params: &[u8],
    begun_at: Instant,
) -> Result<HttpResponse, Refusal> {
    let mut permit = in_flight.acquire().ok_or(Refusal::Overloaded)?;
    // The worker accepts all waiting requests before it goes on with this one. Otherwise they would wait in their sockets,
    // where they are not counted and cannot be refused.
    yield_now().await;
    let credentials = request.extensions_mut().remove::<Credentials>().unwrap_or_default();
    let authorization: Vec<_> = credentials.authorization().map(characters).collect();
    let cookies: Vec<_> = credentials.cookies().map(characters).collect();
    let accepts_cookies = cors::accepts_cookies(request.headers());
    let incoming = IncomingRequest {
        authorization: &authorization,
        cookies: &cookies.join("; "),
        accepts_cookies: &accepts_cookies,
    };
    let outcome = match issuer.verify(incoming, &mut permit, UnixMillis::now()).await {
        Ok(caller) => {
            RequestClock::verified(request);
            issuer.issue(caller, params, UnixMillis::now(), &signing_context).await
        }
        Err(Refusal::Overloaded) => return Err(Refusal::Overloaded),
        Err(refusal) => Outcome { caller: None, allowance: None, result: Err(refusal) },
    };
    if let Some(caller) = &outcome.caller {
        request.extensions_mut().insert(caller.tenant.name.clone());
    }
    report(issuer, &outcome, begun_at);
    if let Some(allowance) = outcome.allowance {
        request.extensions_mut().insert(allowance);
    }
    Ok(match outcome.result {
        Ok(IssuedToken { token: Token::Request(token_request), .. }) => answer::json(StatusCode::OK, &token_request),
        Ok(IssuedToken { token: Token::Jwt(jwt), .. }) => answer::jwt(jwt.expose().to_owned()),
        Ok(IssuedToken { token: Token::Details(details), .. }) => answer::json(StatusCode::OK, &details),
        Err(refusal) => refusal.error_response(),
    })
}

fn signing_context() -> Result<SigningContext, NoRandomness> {
    Ok(SigningContext { timestamp: UnixMillis::now(), nonce: Nonce::random()? })
}

/// The value of a header, a character for each byte as JavaScript's `Headers` has it: Clerk's rules are written for those.
/// Another app's cookie may hold bytes that are no text; they must not spoil ours.
fn characters(value: &[u8]) -> Cow<'_, str> {
    match str::from_utf8(value) {
        Ok(text) if text.is_ascii() => Cow::Borrowed(text),
        _ => Cow::Owned(value.iter().map(|byte| char::from(*byte)).collect()),
    }
}

/// Logs and counts the outcome.
fn report(issuer: &Issuer, outcome: &Outcome<'_>, begun_at: Instant) {
    let caller = outcome.caller.as_ref();
    let metrics = issuer.metrics_of(caller);
    let (tenant, session) = (caller.map(|Caller { tenant, .. }| *tenant), caller.map(|Caller { session, .. }| session));
    let tenant_name = tenant.map(|tenant| tenant.name.as_str());
    let user_id = session.map(|session| &session.user_id);
    let session_id = session.map(|session| &session.session_id);
    let impersonator = session.and_then(|session| session.impersonator());
    let agent = session.and_then(|session| session.is_of_an_agent().then_some(true));
    match &outcome.result {
        Ok(IssuedToken { token, client_id, rules, ttl }) => {
            metrics.issued(token.format(), begun_at.elapsed());
            let rules: Vec<_> = rules.iter().map(RuleName::as_str).collect();
            tracing::info!(
                tenant = tenant_name,
                user_id,
                session_id,
                client_id = client_id.as_str(),
                impersonator,
                agent,
                rules = (!rules.is_empty()).then(|| rules.join(", ")),
                ttl_ms = ttl.as_millis(),
                key_name = tenant.map(|tenant| tenant.api_key.name().as_str()),
                "token issued"
            );
        }
        Err(refusal) => {
            let Row { reason, status, code, message, .. } = refusal.row();
            metrics.refused(reason, status, begun_at.elapsed());
            tracing::info!(
                tenant = tenant_name,
                user_id,
                session_id,
                impersonator,
                agent,
                reason,
                status,
                code,
                "token refused"
            );
            match refusal {
                Refusal::JwtTooLarge => tracing::error!(tenant = tenant_name, reason, "{message}"),
                Refusal::NoRandomness => tracing::error!(tenant = tenant_name, reason, "{NoRandomness}"),
                _ => {}
            }
        }
    }
}

async fn read_form(request: &HttpRequest, payload: Payload) -> Result<Bytes, InvalidBody> {
    let body = body::read(request, payload, LARGEST_BODY).await?;
    if body.is_empty() || is_form(request) { Ok(body) } else { Err(InvalidBody::NotForm) }
}

fn is_form(request: &HttpRequest) -> bool {
    request.content_type().eq_ignore_ascii_case("application/x-www-form-urlencoded")
        && !request.headers().contains_key(CONTENT_ENCODING)
}

//! The token endpoint, for `authUrl` (RSA8c).

use std::borrow::Cow;

use actix_web::{
    Error, HttpRequest, HttpResponse,
    http::StatusCode,
    web::{Bytes, Data, Payload},
};
use http::{
    HeaderValue,
    header::{AUTHORIZATION, CONTENT_ENCODING, COOKIE},
};
use tokio::{task::yield_now, time::Instant};

use super::{
    answer, body,
    context::{Context, RequestContext},
    cors,
};
use crate::{
    ably::{NoRandomness, Nonce},
    clock::UnixMillis,
    issuer::{Caller, IncomingRequest, IssuedToken, Issuer, Outcome, SigningContext, Token},
    limits::InFlightLimit,
    policy::RuleName,
    refusal::{InvalidBody, Refusal, ReportedRefusal, Row},
};

/// The most bytes of a form.
const LARGEST_BODY: usize = 16 * 1024;

/// Token params in the query string.
pub(super) async fn get(
    request: HttpRequest,
    context: Context,
    issuer: Data<Issuer>,
    in_flight: Data<InFlightLimit>,
) -> Result<HttpResponse, Error> {
    answer(&context, &issuer, &in_flight, request.query_string().as_bytes(), Instant::now()).await
}

/// Token params in a form. Those in the query string do not count.
pub(super) async fn post(
    context: Context,
    body: Payload,
    issuer: Data<Issuer>,
    in_flight: Data<InFlightLimit>,
) -> Result<HttpResponse, Error> {
    let begun_at = Instant::now();
    // Before the permit: a slow sender would hold it.
    let form = read_form(&context, body).await.map_err(Refusal::from)?;
    answer(&context, &issuer, &in_flight, &form, begun_at).await
}

async fn answer(
    request: &RequestContext,
    issuer: &Issuer,
    in_flight: &InFlightLimit,
    params: &[u8],
    begun_at: Instant,
) -> Result<HttpResponse, Error> {
    let mut permit = in_flight.acquire().ok_or(Refusal::Overloaded)?;
    // The worker accepts all waiting requests before it goes on with this one. Otherwise they would wait in their sockets,
    // where they are not counted and cannot be refused.
    yield_now().await;
    let values = |name| request.headers.get_all(name).iter().map(characters).collect::<Vec<_>>();
    let (authorization, cookies) = (values(AUTHORIZATION), values(COOKIE));
    let accepts_cookies = cors::accepts_cookies(&request.headers);
    let incoming = IncomingRequest {
        authorization: &authorization,
        cookies: &cookies.join("; "),
        accepts_cookies: &accepts_cookies,
    };
    let outcome = match issuer.verify(incoming, &mut permit, UnixMillis::now()).await {
        Ok(caller) => {
            request.clock.verified();
            issuer.issue(caller, params, UnixMillis::now(), &signing_context).await
        }
        Err(Refusal::Overloaded) => return Err(Refusal::Overloaded.into()),
        Err(refusal) => Outcome { caller: None, allowance: None, result: Err(refusal) },
    };
    if let Some(caller) = &outcome.caller {
        _ = request.tenant.set(caller.tenant.name.clone());
    }
    report(issuer, &outcome, begun_at);
    request.allowance.set(outcome.allowance);
    match outcome.result {
        Ok(IssuedToken { token: Token::Request(token_request), .. }) => {
            Ok(answer::json(StatusCode::OK, &token_request))
        }
        Ok(IssuedToken { token: Token::Jwt(jwt), .. }) => Ok(answer::jwt(jwt.expose().to_owned())),
        Ok(IssuedToken { token: Token::Details(details), .. }) => Ok(answer::json(StatusCode::OK, &details)),
        Err(refusal) => Err(ReportedRefusal(refusal).into()),
    }
}

fn signing_context() -> Result<SigningContext, NoRandomness> {
    Ok(SigningContext { timestamp: UnixMillis::now(), nonce: Nonce::random()? })
}

/// The value of a header, a character for each byte as JavaScript's `Headers` has it: Clerk's rules are written for those.
/// Another app's cookie may hold bytes that are no text; they must not spoil ours.
fn characters(value: &HeaderValue) -> Cow<'_, str> {
    let value = value.as_bytes();
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

async fn read_form(request: &RequestContext, payload: Payload) -> Result<Bytes, InvalidBody> {
    let body = body::read(request, payload, LARGEST_BODY).await?;
    if body.is_empty() || is_form(request) { Ok(body) } else { Err(InvalidBody::NotForm) }
}

fn is_form(RequestContext { headers, .. }: &RequestContext) -> bool {
    body::is_of_type(headers, "application/x-www-form-urlencoded") && !headers.contains_key(CONTENT_ENCODING)
}

//! The token endpoint, for `authUrl` (RSA8c).

use std::{borrow::Cow, time::Duration};

use actix_web::{
    HttpMessage as _, HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{AUTHORIZATION, CONTENT_ENCODING, COOKIE, HeaderName},
    },
    web::{Bytes, Data, Payload},
};
use tokio::{task::yield_now, time::Instant};

use super::{answer, body, client_address::ClientAddress, cors, rate_limit, request_id};
use crate::{
    ably::{ErrorInfo, NoRandomness, NoToken, Nonce},
    clock::UnixMillis,
    connection::RequestClock,
    issuer::{Cause, IncomingRequest, Issued, Issuer, Refused, SigningContext, Token},
    limits::{InFlightLimit, NoPermit, Permit},
    policy::RuleName,
    telemetry::metrics::RequestMetrics,
};

/// The most bytes of a form.
const LARGEST_BODY: usize = 16 * 1024;

/// Token params in the query string.
pub(super) async fn get(
    request: HttpRequest,
    issuer: Data<Issuer>,
    in_flight: Data<InFlightLimit>,
    metrics: Data<RequestMetrics>,
) -> HttpResponse {
    let begun_at = Instant::now();
    let Some(permit) = in_flight.acquire() else { return overloaded(&request, &metrics) };
    issue(&request, &issuer, &metrics, permit, request.query_string().as_bytes(), begun_at).await
}

/// Token params in a form. Those in the query string do not count.
pub(super) async fn post(
    request: HttpRequest,
    body: Payload,
    issuer: Data<Issuer>,
    in_flight: Data<InFlightLimit>,
    metrics: Data<RequestMetrics>,
) -> HttpResponse {
    let begun_at = Instant::now();
    // No permit is taken before the body is there: a slow sender would hold it for nothing.
    match read_form(&request, body).await {
        Ok(form) => {
            let Some(permit) = in_flight.acquire() else { return overloaded(&request, &metrics) };
            issue(&request, &issuer, &metrics, permit, &form, begun_at).await
        }
        Err(error) => refuse(&request, &metrics, "body-refused", &error, None),
    }
}

/// Has the worker take in all requests that are there before it goes on with this one. It would work on one at a time
/// otherwise, and the others would wait in their sockets, where nobody counts them and none is turned away.
async fn let_others_in() {
    yield_now().await;
}

fn overloaded(request: &HttpRequest, metrics: &RequestMetrics) -> HttpResponse {
    let cause = Cause::Overloaded(NoPermit);
    refuse(request, metrics, cause.reason(), &cause.error_info(), cause.retry_after())
}

/// Refuses a request that nobody knows the sender of.
fn refuse(
    request: &HttpRequest,
    metrics: &RequestMetrics,
    reason: &'static str,
    error: &ErrorInfo,
    retry_after: Option<Duration>,
) -> HttpResponse {
    let status = error.status_code;
    metrics.refused(reason, status);
    let (request_id, client_address) = (request_id::of(request), ClientAddress::known(request));
    tracing::info!(request_id, client_address = client_address.field(), reason, status, "token refused");
    answer::failure(reason, error, retry_after)
}

async fn issue(
    request: &HttpRequest,
    issuer: &Issuer,
    metrics: &RequestMetrics,
    mut permit: Permit<'_>,
    params: &[u8],
    begun_at: Instant,
) -> HttpResponse {
    let_others_in().await;
    let authorization = texts(request, AUTHORIZATION);
    let cookies = texts(request, COOKIE).join("; ");
    let accepts_cookies = cors::accepts_cookies(request.headers());
    let asked =
        IncomingRequest { authorization: &authorization, cookies: &cookies, accepts_cookies: &accepts_cookies, params };
    let issuing = async {
        let verified = issuer.verify(asked, &mut permit, UnixMillis::now()).await?;
        RequestClock::verified(request);
        issuer.issue(verified, asked, UnixMillis::now(), &stamp).await
    };
    match issuing.await {
        Ok(issued) => {
            request.extensions_mut().insert(issued.tenant.name.clone());
            issued.tenant.metrics.issued(issued.token.format(), begun_at.elapsed());
            log_issued(&issued, request);
            let mut response = match issued.token {
                Token::Request(token_request) => answer::json(StatusCode::OK, &token_request),
                Token::Jwt(jwt) => answer::jwt(jwt.expose().to_owned()),
                Token::Details(details) => answer::json(StatusCode::OK, &details),
            };
            rate_limit::add_headers(issued.allowance.as_ref(), response.headers_mut());
            response
        }
        Err(Refused { cause: Cause::Overloaded(_), .. }) => overloaded(request, metrics),
        Err(refused) => {
            if let Some((tenant, _)) = &refused.whose {
                request.extensions_mut().insert(tenant.name.clone());
            }
            let error = refused.cause.error_info();
            let metrics = issuer.metrics_of(refused.whose.as_ref().map(|(tenant, _)| *tenant));
            metrics.refused(refused.cause.reason(), error.status_code, begun_at.elapsed());
            log_refused(&refused, &error, request);
            let mut response = answer::failure(refused.cause.reason(), &error, refused.cause.retry_after());
            rate_limit::add_headers(refused.allowance.as_ref(), response.headers_mut());
            response
        }
    }
}

fn stamp() -> Result<SigningContext, NoRandomness> {
    Ok(SigningContext { timestamp: UnixMillis::now(), nonce: Nonce::random()? })
}

/// The values of a header, a character for each byte as JavaScript's `Headers` has them: Clerk's rules are written for
/// those. Another app's cookie may hold bytes that are no text; they must not spoil ours.
fn texts(request: &HttpRequest, name: HeaderName) -> Vec<Cow<'_, str>> {
    request.headers().get_all(name).map(|value| characters(value.as_bytes())).collect()
}

fn characters(value: &[u8]) -> Cow<'_, str> {
    match str::from_utf8(value) {
        Ok(text) if text.is_ascii() => Cow::Borrowed(text),
        _ => Cow::Owned(value.iter().map(|byte| char::from(*byte)).collect()),
    }
}

fn log_issued(issued: &Issued<'_>, request: &HttpRequest) {
    let (request_id, client_address) = (request_id::of(request), ClientAddress::known(request));
    let rules: Vec<_> = issued.rules.iter().map(RuleName::as_str).collect();
    tracing::info!(
        request_id,
        client_address = client_address.field(),
        tenant = issued.tenant.name.as_str(),
        user_id = issued.session.user_id,
        session_id = issued.session.session_id,
        client_id = issued.client_id.as_str(),
        impersonator = issued.session.impersonator(),
        agent = issued.session.is_of_an_agent().then_some(true),
        rules = (!rules.is_empty()).then(|| rules.join(", ")),
        ttl_ms = issued.ttl.as_millis(),
        key_name = issued.tenant.api_key.name().as_str(),
        "token issued"
    );
}

fn log_refused(refused: &Refused<'_>, error: &ErrorInfo, request: &HttpRequest) {
    let (request_id, client_address) = (request_id::of(request), ClientAddress::known(request));
    let whose = refused.whose.as_ref();
    tracing::info!(
        request_id,
        client_address = client_address.field(),
        tenant = whose.map(|(tenant, _)| tenant.name.as_str()),
        user_id = whose.map(|(_, session)| &session.user_id),
        session_id = whose.map(|(_, session)| &session.session_id),
        impersonator = whose.and_then(|(_, session)| session.impersonator()),
        agent = whose.and_then(|(_, session)| session.is_of_an_agent().then_some(true)),
        reason = refused.cause.reason(),
        status = error.status_code,
        code = error.code,
        "token refused"
    );
    match refused.cause {
        Cause::JwtTooLarge(_) => {
            tracing::error!(
                request_id,
                tenant = whose.map(|(tenant, _)| tenant.name.as_str()),
                "a user's rights do not fit into a JWT; use token requests: [token] format = \"token_request\""
            );
        }
        Cause::NoRandomness(error) | Cause::NoToken(NoToken::NoRandomness(error)) => {
            tracing::error!(request_id, "{error}");
        }
        _ => {}
    }
}

async fn read_form(request: &HttpRequest, payload: Payload) -> Result<Bytes, ErrorInfo> {
    let body = body::read(request, payload, LARGEST_BODY).await?;
    if body.is_empty() || is_form(request) { Ok(body) } else { Err(answer::NOT_A_FORM) }
}

fn is_form(request: &HttpRequest) -> bool {
    request.content_type().eq_ignore_ascii_case("application/x-www-form-urlencoded")
        && !request.headers().contains_key(CONTENT_ENCODING)
}

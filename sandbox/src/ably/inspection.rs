//! The routes below `/sandbox`, which Ably does not have: views and controls for pages and scripts.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Data, Path, Payload, ServiceConfig},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    error::ErrorInfo,
    http::{RestCall, RestResult, resource, write},
    outage::Outage,
    protocol::Format,
    revocation::RevocableTokens,
    shared_app::SharedApp,
};
use crate::event_stream::stream_changes;

pub(crate) fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/sandbox/connections").get(live_connections).post(change_connections))
        .service(resource("/sandbox/connections/stream").get(connection_stream))
        .service(resource("/sandbox/connections/{id}").delete(drop_connection))
        .service(resource("/sandbox/revocations").get(revocations))
        .service(resource("/sandbox/calls").get(calls))
        .service(resource("/sandbox/key").post(change_key))
        .service(resource("/sandbox/clock").post(change_clock))
        .service(resource("/sandbox/outage").post(change_outage));
}

async fn live_connections(shared: Data<SharedApp>) -> HttpResponse {
    let connections = shared.app().connections();
    write(200, &json!(connections), Format::Json)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConnectionSettings {
    state_ttl_ms: u32,
}

/// Sets how long dropped connections can be resumed: `{"stateTtlMs":2000}`.
async fn change_connections(request: HttpRequest, payload: Payload, shared: Data<SharedApp>) -> RestResult {
    let expected = "stateTtlMs must be a whole number of milliseconds";
    let ConnectionSettings { state_ttl_ms } = RestCall::of(&request).params(payload, expected).await?;
    shared.app().state_ttl_ms = i64::from(state_ttl_ms);
    Ok(HttpResponse::NoContent().finish())
}

async fn drop_connection(request: HttpRequest, id: Path<String>, shared: Data<SharedApp>) -> RestResult {
    let now_ms = shared.now_ms();
    if shared.app().drop_connection(&id, now_ms) {
        return Ok(HttpResponse::NoContent().finish());
    }
    let unknown = ErrorInfo::new(404, 40400, "no live connection has this ID");
    Err(RestCall::of(&request).error(unknown))
}

async fn connection_stream(shared: Data<SharedApp>) -> HttpResponse {
    let changes = shared.app().connections_changed.subscribe();
    stream_changes(changes, move || {
        let app = shared.app();
        json!({ "connections": app.connections(), "endings": app.endings() })
    })
}

async fn revocations(shared: Data<SharedApp>) -> HttpResponse {
    let calls = json!(shared.app().revocation_calls);
    write(200, &calls, Format::Json)
}

async fn calls(shared: Data<SharedApp>) -> HttpResponse {
    let calls = shared.app().calls;
    write(200, &json!(calls), Format::Json)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KeySettings {
    revocable_tokens: Option<bool>,
    reauth_margin_ms: Option<u32>,
}

/// Changes settings of the key: `revocableTokens`, for tokens issued from now on, and `reauthMarginMs`.
async fn change_key(request: HttpRequest, payload: Payload, shared: Data<SharedApp>) -> RestResult {
    let expected = "send revocableTokens, reauthMarginMs or both";
    let settings: KeySettings = RestCall::of(&request).params(payload, expected).await?;
    match settings.revocable_tokens {
        Some(true) => shared.set_revocable_tokens(RevocableTokens::On),
        Some(false) => shared.set_revocable_tokens(RevocableTokens::Off),
        None => {}
    }
    if let Some(margin_ms) = settings.reauth_margin_ms {
        shared.app().reauth_margin_ms = i64::from(margin_ms);
    }
    Ok(HttpResponse::NoContent().finish())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ClockSettings {
    offset_ms: i64,
}

/// Sets the stand-in's clock minus this machine's: `{"offsetMs":150000}`.
async fn change_clock(request: HttpRequest, payload: Payload, shared: Data<SharedApp>) -> RestResult {
    let expected = "offsetMs must be a whole number of milliseconds";
    let ClockSettings { offset_ms } = RestCall::of(&request).params(payload, expected).await?;
    shared.clock.set_offset_ms(offset_ms);
    Ok(HttpResponse::NoContent().finish())
}

#[derive(Deserialize)]
struct OutageRequest {
    route: Option<String>,
    #[serde(flatten)]
    outage: OutageParams,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum OutageParams {
    None,
    Status { status: u16 },
    RateLimited { retry_after_s: u32 },
    Hang,
    Drop,
    LoseOneAnswer,
}

impl From<OutageParams> for Option<Outage> {
    fn from(params: OutageParams) -> Self {
        match params {
            OutageParams::None => None,
            OutageParams::Status { status } => Some(Outage::Status(status)),
            OutageParams::RateLimited { retry_after_s } => Some(Outage::RateLimited { retry_after_s }),
            OutageParams::Hang => Some(Outage::Hang),
            OutageParams::Drop => Some(Outage::Drop),
            OutageParams::LoseOneAnswer => Some(Outage::LoseOneAnswer),
        }
    }
}

/// Starts or ends an outage: `{"kind":"status","status":503}`, `{"kind":"rate_limited","retry_after_s":2}`, or a kind
/// alone: `hang`, `drop`, `lose_one_answer`, or `none` to end it. With `"route":"revokeTokens"` it affects only that
/// route.
async fn change_outage(request: HttpRequest, payload: Payload, shared: Data<SharedApp>) -> RestResult {
    let expected = "the kind or the route of the outage is unknown";
    let call = RestCall::of(&request);
    let OutageRequest { route, outage } = call.params(payload, expected).await?;
    match route.as_deref() {
        None => shared.app().outage = outage.into(),
        Some("revokeTokens") => shared.app().revocation_outage = outage.into(),
        Some(_) => return Err(call.error(ErrorInfo::bad_request(expected))),
    }
    Ok(HttpResponse::NoContent().finish())
}

//! The routes below `/sandbox/webhooks`: settings, events and attempts, and sending more.

use std::time::Duration;

use actix_web::web::{Bytes, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::input;
use crate::clerk::api_error::{ApiError, ApiResult};
use crate::clerk::instance::Instance;
use crate::clerk::webhooks::{Endpoint, Flow, Outbox};
use crate::event_stream::stream_changes;

/// The number of events in the stream, which repeats them at every change.
const MOST_STREAMED: usize = 50;

/// Settings, events and attempts, oldest first, without signing secrets.
pub(super) async fn show(instance: Data<Instance>) -> HttpResponse {
    HttpResponse::Ok().json(view(&instance.outbox, usize::MAX))
}

/// The same with only the newest events, now and after each change.
pub(super) async fn stream(instance: Data<Instance>) -> HttpResponse {
    stream_changes(instance.outbox.changes(), move || view(&instance.outbox, MOST_STREAMED))
}

fn view(outbox: &Outbox, most: usize) -> Value {
    let (events, attempts) = outbox.newest(most);
    let endpoints: Vec<_> = outbox.endpoints().iter().map(|endpoint| json!({"url": endpoint.url()})).collect();
    let waits: Vec<_> = outbox.retry_schedule().iter().map(|wait| json!(wait.as_millis())).collect();
    json!({
        "endpoints": endpoints,
        "flow": outbox.flow(),
        "retry_schedule_ms": waits,
        "events": events,
        "attempts": attempts,
    })
}

#[derive(Deserialize)]
struct EndpointParams {
    url: String,
    signing_secrets: Vec<String>,
}

/// Changes the given settings: `endpoints` (a list of `{"url","signing_secrets"}`), `flow` (`flowing` or `paused`),
/// `retry_schedule_ms` (a list of waits). If one is invalid, none changes.
pub(super) async fn change(instance: Data<Instance>, request: HttpRequest, body: Bytes) -> ApiResult {
    let params = input::params(&request, &body)?;
    let endpoints = list::<EndpointParams>(&params, "endpoints")?.map(to_endpoints).transpose()?;
    let waits = list::<u64>(&params, "retry_schedule_ms")?;
    let flow = match input::text(&params, "flow")?.as_deref() {
        None => None,
        Some("flowing") => Some(Flow::Flowing),
        Some("paused") => Some(Flow::Paused),
        Some(_) => return Err(ApiError::bad_param("flow must be flowing or paused.")),
    };
    if let Some(endpoints) = endpoints {
        instance.outbox.set_endpoints(endpoints);
    }
    if let Some(waits) = waits {
        instance.outbox.set_retry_schedule(waits.into_iter().map(Duration::from_millis).collect());
    }
    if let Some(flow) = flow {
        instance.outbox.set_flow(flow);
    }
    Ok(HttpResponse::NoContent().finish())
}

fn to_endpoints(params: Vec<EndpointParams>) -> Result<Vec<Endpoint>, ApiError> {
    let endpoint = |params: EndpointParams| {
        let secrets: Vec<_> = params.signing_secrets.iter().map(String::as_str).collect();
        Endpoint::new(&params.url, &secrets).map_err(|error| ApiError::bad_param(format!("{error}.")))
    };
    params.into_iter().map(endpoint).collect()
}

/// An optional list field; a form writes it as JSON.
fn list<T: for<'de> Deserialize<'de>>(params: &Map<String, Value>, name: &str) -> Result<Option<Vec<T>>, ApiError> {
    let read = match params.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(json)) => serde_json::from_str(json),
        Some(value) => serde_json::from_value(value.clone()),
    };
    read.map(Some).map_err(|_| ApiError::bad_param(format!("{name} must be a list in the documented form.")))
}

/// Sends an event, `{"type","data","timestamp"}`, that need not have happened. Without a timestamp it is of now.
pub(super) async fn send(instance: Data<Instance>, request: HttpRequest, body: Bytes) -> ApiResult {
    let params = input::params(&request, &body)?;
    let event_type = input::text(&params, "type")?.ok_or_else(|| ApiError::bad_param("type is missing."))?;
    let data = input::object(&params, "data")?.ok_or_else(|| ApiError::bad_param("data is missing."))?;
    let timestamp = match params.get("timestamp") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.parse().ok().ok_or_else(bad_timestamp)?),
        Some(value) => Some(value.as_i64().ok_or_else(bad_timestamp)?),
    };
    let id = instance.outbox.send(&event_type, Value::Object(data), timestamp);
    Ok(HttpResponse::Ok().json(json!({"id": id})))
}

fn bad_timestamp() -> ApiError {
    ApiError::bad_param("timestamp must be a whole number of milliseconds.")
}

/// Sends an event again, at once and without retries, and returns the answers of the endpoints.
pub(super) async fn redeliver(instance: Data<Instance>, id: Path<String>) -> ApiResult {
    if !instance.outbox.events().iter().any(|event| event.id == *id) {
        return Err(ApiError::not_found("Event"));
    }
    Ok(HttpResponse::Ok().json(instance.outbox.redeliver(&id).await))
}

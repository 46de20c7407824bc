//! The routes of Ably: REST, and the WebSocket on `/`.

use std::{collections::HashMap, sync::Arc};

use actix_web::{
    Error, HttpRequest, HttpResponse,
    web::{self, Data, Path, Payload, ServiceConfig},
};
use serde_json::{Value, json};

use super::{
    channel::HistoryQuery,
    connection::{ConnectRequest, Echo},
    error::ErrorInfo,
    http::{RestCall, RestResult, add_error_headers, error_response_of, resource},
    middleware::{aborted_response, outage_response},
    outage::Outage,
    protocol::{Format, LARGEST_FRAME},
    records::{RevocationCall, RevocationOutcome},
    revocation::AnswerShape,
    shared_app::SharedApp,
    socket::{Heartbeat, Socket},
};

const MOST_HISTORY: usize = 1000;
const DEFAULT_HISTORY: usize = 100;

pub(crate) fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/").get(realtime))
        .service(resource("/time").get(time))
        .service(resource("/keys/{key}/requestToken").post(request_token))
        .service(resource("/keys/{key}/revokeTokens").post(revoke_tokens))
        .service(resource("/channels/{channel}/messages").get(history).post(publish))
        .service(resource("/channels/{channel}/presence").get(present))
        .default_service(web::to(unknown_route));
}

async fn time(request: HttpRequest, shared: Data<SharedApp>) -> HttpResponse {
    RestCall::of(&request).answer(200, &json!([shared.now_ms()]), None)
}

async fn request_token(
    request: HttpRequest,
    key: Path<String>,
    payload: Payload,
    shared: Data<SharedApp>,
) -> RestResult {
    let call = RestCall::of(&request);
    let body = call.body(payload).await?;
    let now_ms = shared.now_ms();
    let details =
        shared.app().request_token(&key, &call.credential(), &body, now_ms).map_err(|error| call.error(error))?;
    Ok(call.answer(201, &details, None))
}

async fn revoke_tokens(
    request: HttpRequest,
    key: Path<String>,
    payload: Payload,
    shared: Data<SharedApp>,
) -> RestResult {
    let call = RestCall::of(&request);
    let body = call.body(payload).await?;
    let now_ms = shared.now_ms();
    let outage = {
        let mut app = shared.app();
        match app.revocation_outage {
            Some(Outage::LoseOneAnswer) => app.revocation_outage.take(),
            outage => outage,
        }
    };
    let rate_limit = shared.app().revocation_limiter.as_mut().map_or(Ok(()), |limiter| limiter.admit(now_ms));
    let log = |outcome| shared.app().log_revocation_call(revocation_call(&key, &body, outcome, now_ms));
    match outage {
        None => {}
        Some(Outage::LoseOneAnswer) => {
            let answer = revoke(&call, &key, &body, &shared, now_ms);
            log(RevocationOutcome::AnswerLost(status_of(&answer)));
            return Ok(aborted_response());
        }
        Some(outage) => {
            log(RevocationOutcome::Outage);
            return Ok(outage_response(outage, call.format).await);
        }
    }
    if let Err(retry_after_s) = rate_limit {
        log(RevocationOutcome::Answered(429));
        return Ok(outage_response(Outage::RateLimited { retry_after_s }, call.format).await);
    }
    let answer = revoke(&call, &key, &body, &shared, now_ms);
    log(RevocationOutcome::Answered(status_of(&answer)));
    answer
}

fn status_of(answer: &RestResult) -> u16 {
    match answer {
        Ok(answer) => answer.status().as_u16(),
        Err(error) => error.error.status,
    }
}

fn revoke(call: &RestCall<'_>, key_name: &str, body: &Value, shared: &SharedApp, now_ms: i64) -> RestResult {
    let shape = AnswerShape::of_version(call.header("x-ably-version"));
    let (status, body) = shared
        .app()
        .revoke_tokens(key_name, &call.credential(), body, shape, now_ms)
        .map_err(|error| call.error(error))?;
    let mut answer = call.answer(status, &body, None);
    if status == 400 {
        add_error_headers(answer.headers_mut(), 40020, "some of the targets failed");
    }
    Ok(answer)
}

fn revocation_call(key_name: &str, body: &Value, outcome: RevocationOutcome, now_ms: i64) -> RevocationCall {
    let targets = body["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    RevocationCall {
        at: now_ms,
        key_name: key_name.to_owned(),
        targets: targets.iter().filter_map(|target| target.as_str().map(str::to_owned)).collect(),
        issued_before: body["issuedBefore"].as_i64(),
        allow_reauth_margin: body["allowReauthMargin"].as_bool().unwrap_or(false),
        outcome,
    }
}

async fn publish(request: HttpRequest, channel: Path<String>, payload: Payload, shared: Data<SharedApp>) -> RestResult {
    let call = RestCall::of(&request);
    let access = call.access(&shared)?;
    let body = call.body(payload).await?;
    let now_ms = shared.now_ms();
    let published = shared.app().publish(&access, &channel, body, now_ms).map_err(|error| call.error(error))?;
    Ok(call.answer(201, &published, None))
}

async fn history(request: HttpRequest, channel: Path<String>, shared: Data<SharedApp>) -> RestResult {
    let call = RestCall::of(&request);
    let access = call.access(&shared)?;
    let query = history_query(&call.query).map_err(|error| call.error(error))?;
    let page = shared.app().history(&access, &channel, &query).map_err(|error| call.error(error))?;
    let link = history_links(&query, page.next.as_deref());
    Ok(call.answer(200, &json!(page.messages), Some(link)))
}

fn history_query(query: &HashMap<String, String>) -> Result<HistoryQuery, ErrorInfo> {
    let number = |name: &str, default: i64| match query.get(name) {
        None => Ok(default),
        Some(text) => {
            text.parse::<i64>().map_err(|_| ErrorInfo::bad_request("start, end and limit must be whole numbers"))
        }
    };
    let limit = number("limit", i64::try_from(DEFAULT_HISTORY).unwrap_or(i64::MAX))?;
    let limit = usize::try_from(limit)
        .ok()
        .filter(|limit| (1..=MOST_HISTORY).contains(limit))
        .ok_or(ErrorInfo::bad_request("limit must be between 1 and 1000"))?;
    let forwards = match query.get("direction").map(String::as_str) {
        None | Some("backwards") => false,
        Some("forwards") => true,
        Some(_) => {
            return Err(ErrorInfo::bad_request("direction must be forwards or backwards"));
        }
    };
    Ok(HistoryQuery {
        forwards,
        limit,
        start_ms: number("start", 0)?,
        end_ms: number("end", i64::MAX)?,
        after: query.get("after").cloned(),
    })
}

/// The `Link` header of a history page (`TG*`). Its URLs are relative to the channel.
fn history_links(query: &HistoryQuery, next: Option<&str>) -> String {
    let direction = if query.forwards { "forwards" } else { "backwards" };
    let (limit, start_ms, end_ms) = (query.limit, query.start_ms, query.end_ms);
    let page = format!("./messages?limit={limit}&direction={direction}&start={start_ms}&end={end_ms}");
    let first = format!(r#"<{page}>; rel="first""#);
    match next {
        None => first,
        Some(next) => format!(r#"{first}, <{page}&after={next}>; rel="next""#),
    }
}

async fn present(request: HttpRequest, channel: Path<String>, shared: Data<SharedApp>) -> RestResult {
    let call = RestCall::of(&request);
    let access = call.access(&shared)?;
    let members = shared.app().present(&access, &channel).map_err(|error| call.error(error))?;
    Ok(call.answer(200, &members, None))
}

/// Opens a WebSocket (`RTN2`), even for a client that is refused, which can read the error only there.
async fn realtime(request: HttpRequest, payload: Payload, shared: Data<SharedApp>) -> Result<HttpResponse, Error> {
    let call = RestCall::of(&request);
    let upgrades = call.header("upgrade").is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"));
    if !upgrades {
        return Err(call.error(UNKNOWN_ROUTE).into());
    }
    let (answer, session, frames) = actix_ws::handle(&request, payload)?;
    let parameter = |name: &str| call.query.get(name).filter(|value| !value.is_empty()).cloned();
    let is = |name: &str, value: &str| call.query.get(name).is_some_and(|given| given == value);
    shared.app().calls.websocket += 1;
    let connect_request = ConnectRequest {
        credential: call.credential(),
        client_id: parameter("clientId"),
        echo: if is("echo", "false") { Echo::Off } else { Echo::On },
        resume: parameter("resume").or_else(|| parameter("recover")),
    };
    let socket = Socket {
        shared: Arc::clone(&shared),
        session,
        format: if is("format", "msgpack") { Format::MessagePack } else { Format::Json },
        heartbeat: if is("heartbeats", "true") { Heartbeat::Message } else { Heartbeat::Ping },
    };
    let frames = frames.max_frame_size(LARGEST_FRAME).aggregate_continuations().max_continuation_size(LARGEST_FRAME);
    socket.serve(connect_request, frames);
    Ok(answer)
}

const UNKNOWN_ROUTE: ErrorInfo = ErrorInfo::new(404, 40400, "this route does not exist");

async fn unknown_route(request: HttpRequest) -> HttpResponse {
    error_response_of(UNKNOWN_ROUTE, RestCall::of(&request).format)
}

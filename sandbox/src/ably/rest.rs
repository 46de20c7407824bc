//! The routes that Ably has: REST, and the WebSocket on `/`.

use std::{collections::HashMap, sync::Arc};

use actix_web::{
    Error, HttpRequest, HttpResponse,
    web::{self, Data, Path, Payload, ServiceConfig},
};
use serde_json::{Value, json};

use super::{
    channel::HistoryQuery,
    connection::{Echo, Opening},
    error::ErrorInfo,
    http::{Asked, Refusal, add_error_headers, refuse, resource},
    middleware::{cut, failing},
    outage::Outage,
    protocol::{Format, LARGEST_FRAME},
    records::{RevocationCall, RevocationOutcome},
    revocation::AnswerShape,
    shared::Shared,
    socket::{Heartbeat, Socket},
};

const MOST_HISTORY: usize = 1000;
const DEFAULT_HISTORY: usize = 100;

/// Every route of the stand-in.
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

async fn time(request: HttpRequest, shared: Data<Shared>) -> HttpResponse {
    Asked::of(&request).answer(200, &json!([shared.now_ms()]), None)
}

async fn request_token(
    request: HttpRequest,
    key_name: Path<String>,
    payload: Payload,
    shared: Data<Shared>,
) -> Result<HttpResponse, Refusal> {
    let asked = Asked::of(&request);
    let body = asked.body(payload).await?;
    let now_ms = shared.now_ms();
    let details = shared
        .realm()
        .request_token(&key_name, &asked.credential(), &body, now_ms)
        .map_err(|error| asked.refusal(error))?;
    Ok(asked.answer(201, &details, None))
}

async fn revoke_tokens(
    request: HttpRequest,
    key_name: Path<String>,
    payload: Payload,
    shared: Data<Shared>,
) -> Result<HttpResponse, Refusal> {
    let asked = Asked::of(&request);
    let body = asked.body(payload).await?;
    let now_ms = shared.now_ms();
    let outage = {
        let mut realm = shared.realm();
        match realm.revocation_outage {
            Some(Outage::LoseOneAnswer) => realm.revocation_outage.take(),
            outage => outage,
        }
    };
    let admitted = shared.realm().revocation_limiter.as_mut().map_or(Ok(()), |limiter| limiter.admit(now_ms));
    let note = |outcome| shared.realm().note_revocation_call(revocation_call(&body, outcome, now_ms));
    match outage {
        None => {}
        Some(Outage::LoseOneAnswer) => {
            let status = match carry_out_revocation(&asked, &key_name, &body, &shared, now_ms) {
                Ok(answer) => answer.status().as_u16(),
                Err(refusal) => refusal.error.status,
            };
            note(RevocationOutcome::AnswerLost(status));
            return Ok(cut());
        }
        Some(outage) => {
            note(RevocationOutcome::Outage);
            return Ok(failing(outage, asked.format).await);
        }
    }
    if let Err(retry_after_s) = admitted {
        note(RevocationOutcome::Answered(429));
        return Ok(failing(Outage::RateLimited { retry_after_s }, asked.format).await);
    }
    let answer = carry_out_revocation(&asked, &key_name, &body, &shared, now_ms);
    note(RevocationOutcome::Answered(match &answer {
        Ok(answer) => answer.status().as_u16(),
        Err(refusal) => refusal.error.status,
    }));
    answer
}

fn carry_out_revocation(
    asked: &Asked<'_>,
    key_name: &str,
    body: &Value,
    shared: &Shared,
    now_ms: i64,
) -> Result<HttpResponse, Refusal> {
    let shape = AnswerShape::of_version(asked.header("x-ably-version"));
    let (status, body) = shared
        .realm()
        .revoke_tokens(key_name, &asked.credential(), body, shape, now_ms)
        .map_err(|error| asked.refusal(error))?;
    let mut answer = asked.answer(status, &body, None);
    if status == 400 {
        add_error_headers(answer.headers_mut(), 40020, "some of the targets failed");
    }
    Ok(answer)
}

fn revocation_call(body: &Value, outcome: RevocationOutcome, now_ms: i64) -> RevocationCall {
    let targets = body["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    RevocationCall {
        at: now_ms,
        targets: targets.iter().filter_map(|target| target.as_str().map(str::to_owned)).collect(),
        issued_before: body["issuedBefore"].as_i64(),
        allow_reauth_margin: body["allowReauthMargin"].as_bool().unwrap_or(false),
        outcome,
    }
}

async fn publish(
    request: HttpRequest,
    channel: Path<String>,
    payload: Payload,
    shared: Data<Shared>,
) -> Result<HttpResponse, Refusal> {
    let asked = Asked::of(&request);
    let grant = asked.grant(&shared)?;
    let body = asked.body(payload).await?;
    let now_ms = shared.now_ms();
    let published = shared.realm().publish(&grant, &channel, body, now_ms).map_err(|error| asked.refusal(error))?;
    Ok(asked.answer(201, &published, None))
}

async fn history(request: HttpRequest, channel: Path<String>, shared: Data<Shared>) -> Result<HttpResponse, Refusal> {
    let asked = Asked::of(&request);
    let grant = asked.grant(&shared)?;
    let query = history_query(&asked.query).map_err(|error| asked.refusal(error))?;
    let page = shared.realm().history(&grant, &channel, &query).map_err(|error| asked.refusal(error))?;
    let link = history_links(&query, page.next.as_deref());
    Ok(asked.answer(200, &json!(page.messages), Some(link)))
}

fn history_query(query: &HashMap<String, String>) -> Result<HistoryQuery, ErrorInfo> {
    let number = |name: &str, default: i64| match query.get(name) {
        None => Ok(default),
        Some(text) => {
            text.parse::<i64>().map_err(|_| ErrorInfo::bad_request("start, end or limit is not a whole number"))
        }
    };
    let limit = number("limit", i64::try_from(DEFAULT_HISTORY).unwrap_or(i64::MAX))?;
    let limit = usize::try_from(limit)
        .ok()
        .filter(|limit| (1..=MOST_HISTORY).contains(limit))
        .ok_or(ErrorInfo::bad_request("limit is not between 1 and 1000"))?;
    let forwards = match query.get("direction").map(String::as_str) {
        None | Some("backwards") => false,
        Some("forwards") => true,
        Some(_) => {
            return Err(ErrorInfo::bad_request("direction is neither forwards nor backwards"));
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

/// The pages, as `TG*` reads them. Their addresses are relative to the channel.
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

async fn present(request: HttpRequest, channel: Path<String>, shared: Data<Shared>) -> Result<HttpResponse, Refusal> {
    let asked = Asked::of(&request);
    let grant = asked.grant(&shared)?;
    let members = shared.realm().present(&grant, &channel).map_err(|error| asked.refusal(error))?;
    Ok(asked.answer(200, &members, None))
}

/// A WebSocket (`RTN2`). A refused one is opened too, since only then can its client read why.
async fn realtime(request: HttpRequest, payload: Payload, shared: Data<Shared>) -> Result<HttpResponse, Error> {
    let asked = Asked::of(&request);
    let upgrades = asked.header("upgrade").is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"));
    if !upgrades {
        return Err(asked.refusal(UNKNOWN_ROUTE).into());
    }
    let (answer, session, frames) = actix_ws::handle(&request, payload)?;
    let parameter = |name: &str| asked.query.get(name).filter(|value| !value.is_empty()).cloned();
    let is = |name: &str, value: &str| asked.query.get(name).is_some_and(|given| given == value);
    shared.realm().calls.websocket += 1;
    let opening = Opening {
        credential: asked.credential(),
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
    socket.serve(opening, frames);
    Ok(answer)
}

const UNKNOWN_ROUTE: ErrorInfo = ErrorInfo::new(404, 40400, "there is no such route");

async fn unknown_route(request: HttpRequest) -> HttpResponse {
    refuse(UNKNOWN_ROUTE, Asked::of(&request).format)
}

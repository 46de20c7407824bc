//! The HTTP surface: reads a request, asks the realm, writes the answer in the format that the caller wants. Any web
//! page may call it, as it may call Ably.

use std::{collections::HashMap, io, sync::Arc};

use actix_web::{
    Error, HttpRequest, HttpResponse, Resource,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method, StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
    web::{self, Bytes, Data, Path, Payload, Query, ServiceConfig},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::stream;
use serde_json::{Value, json};

use super::{
    Outage, RevocationCall, RevocationOutcome, Shared,
    channel::HistoryQuery,
    error::ErrorInfo,
    inspection,
    protocol::Format,
    realtime::{Echo, LARGEST_FRAME, Opening},
    revocation::AnswerShape,
    socket::{Heartbeat, Socket},
    token::{Credential, Grant},
};

const LARGEST_BODY: usize = 512 * 1024;
const MOST_HISTORY: usize = 1000;
const DEFAULT_HISTORY: usize = 100;
const EXPOSED: &str = "Link, X-Ably-Errorcode, X-Ably-Errormessage, X-Ably-Serverid";
const DEFAULT_ALLOWED: &str = "accept, ably-agent, authorization, content-type, x-ably-clientid, x-ably-version";

/// Every route of the stand-in.
pub(crate) fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/").get(realtime))
        .service(resource("/time").get(time))
        .service(resource("/keys/{key}/requestToken").post(request_token))
        .service(resource("/keys/{key}/revokeTokens").post(revoke_tokens))
        .service(resource("/channels/{channel}/messages").get(history).post(publish))
        .service(resource("/channels/{channel}/presence").get(present))
        .configure(inspection::routes)
        .default_service(web::to(unknown_route));
}

pub(super) fn resource(path: &str) -> Resource {
    web::resource(path).default_service(web::to(wrong_method))
}

pub(super) type Answer = Result<HttpResponse, Refusal>;

/// An error on its way out, in the format that the caller wants.
#[derive(Debug)]
pub(super) struct Refusal {
    error: ErrorInfo,
    format: Format,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.error.message)
    }
}

impl actix_web::ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        refuse(self.error, self.format)
    }
}

fn refuse(error: ErrorInfo, format: Format) -> HttpResponse {
    let mut answer = write(error.status, &json!({ "error": error.to_json() }), format);
    add_error_headers(answer.headers_mut(), error.code, error.message);
    answer
}

fn add_error_headers(headers: &mut HeaderMap, code: u32, message: &str) {
    headers.insert(HeaderName::from_static("x-ably-errorcode"), HeaderValue::from(code));
    if let Ok(message) = HeaderValue::from_str(message) {
        headers.insert(HeaderName::from_static("x-ably-errormessage"), message);
    }
}

pub(super) fn write(status: u16, body: &Value, format: Format) -> HttpResponse {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    HttpResponse::build(status)
        .content_type(format.content_type())
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(format.encode(body))
}

/// What a request says beside its path and body.
pub(super) struct Asked<'request> {
    request: &'request HttpRequest,
    query: HashMap<String, String>,
    format: Format,
}

impl<'request> Asked<'request> {
    pub(super) fn of(request: &'request HttpRequest) -> Self {
        let query = Query::from_query(request.query_string()).map(Query::into_inner).unwrap_or_default();
        let format = answer_format(request.headers(), &query);
        Self { request, query, format }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.request.headers().get(name)?.to_str().ok()
    }

    pub(super) fn refusal(&self, error: ErrorInfo) -> Refusal {
        Refusal { error, format: self.format }
    }

    /// Bearer before Basic before the query (`RSA3`, `RSA11`).
    fn credential(&self) -> Credential {
        let authorization = self.header("authorization").unwrap_or_default();
        if let Some((scheme, value)) = authorization.split_once(' ') {
            let value = value.trim();
            if scheme.eq_ignore_ascii_case("bearer") {
                return Credential::Token(bearer_token(value));
            }
            if scheme.eq_ignore_ascii_case("basic") {
                return Credential::Key(decoded(value).unwrap_or_default());
            }
        }
        let parameter = |name| self.query.get(name).filter(|value| !value.is_empty());
        if let Some(token) = parameter("access_token").or_else(|| parameter("accessToken")) {
            return Credential::Token(token.clone());
        }
        parameter("key").map_or(Credential::Nothing, |key| Credential::Key(key.clone()))
    }

    fn grant(&self, shared: &Shared) -> Result<Grant, Refusal> {
        let now_ms = shared.now_ms();
        shared.realm().authenticate(&self.credential(), now_ms).map_err(|error| self.refusal(error))
    }

    pub(super) async fn body(&self, payload: Payload) -> Result<Value, Refusal> {
        let too_large = ErrorInfo::new(413, 40009, "the body is too large");
        let bytes = payload
            .to_bytes_limited(LARGEST_BODY)
            .await
            .map_err(|_| self.refusal(too_large))?
            .map_err(|_| self.refusal(ErrorInfo::bad_request("the body could not be read")))?;
        let packed =
            self.header("content-type").is_some_and(|kind| kind.starts_with(Format::MessagePack.content_type()));
        let format = if packed { Format::MessagePack } else { Format::Json };
        format.decode(&bytes).map_err(|error| self.refusal(error))
    }

    /// The answer to a request that was granted, wrapped if the caller asked for that because it cannot see headers.
    fn answer(&self, status: u16, body: &Value, link: Option<String>) -> HttpResponse {
        if let Some(envelope) = self.query.get("envelope") {
            let format = Format::named(envelope).unwrap_or(self.format);
            let mut headers = json!({ "content-type": format.content_type() });
            if let Some(link) = link {
                headers["link"] = json!(link);
            }
            let wrapped = json!({ "statusCode": status, "headers": headers, "response": body });
            return write(200, &wrapped, format);
        }
        let mut answer = write(status, body, self.format);
        if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
            answer.headers_mut().insert(header::LINK, link);
        }
        answer
    }
}

/// SDKs send the base64 of a token (`RSA3a`); a token itself has a dot, which base64 has not.
fn bearer_token(value: &str) -> String {
    if value.contains('.') {
        return value.to_owned();
    }
    decoded(value).unwrap_or_default()
}

fn decoded(value: &str) -> Option<String> {
    String::from_utf8(BASE64_STANDARD.decode(value).ok()?).ok()
}

fn answer_format(headers: &HeaderMap, query: &HashMap<String, String>) -> Format {
    if let Some(format) = query.get("format").and_then(|name| Format::named(name)) {
        return format;
    }
    let accepts_packed = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains(Format::MessagePack.content_type()));
    if accepts_packed { Format::MessagePack } else { Format::Json }
}

async fn time(request: HttpRequest, shared: Data<Shared>) -> HttpResponse {
    Asked::of(&request).answer(200, &json!([shared.now_ms()]), None)
}

async fn request_token(request: HttpRequest, key_name: Path<String>, payload: Payload, shared: Data<Shared>) -> Answer {
    let asked = Asked::of(&request);
    let body = asked.body(payload).await?;
    let now_ms = shared.now_ms();
    let details = shared
        .realm()
        .request_token(&key_name, &asked.credential(), &body, now_ms)
        .map_err(|error| asked.refusal(error))?;
    Ok(asked.answer(201, &details, None))
}

async fn revoke_tokens(request: HttpRequest, key_name: Path<String>, payload: Payload, shared: Data<Shared>) -> Answer {
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

fn carry_out_revocation(asked: &Asked<'_>, key_name: &str, body: &Value, shared: &Shared, now_ms: i64) -> Answer {
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

async fn publish(request: HttpRequest, channel: Path<String>, payload: Payload, shared: Data<Shared>) -> Answer {
    let asked = Asked::of(&request);
    let grant = asked.grant(&shared)?;
    let body = asked.body(payload).await?;
    let now_ms = shared.now_ms();
    let published = shared.realm().publish(&grant, &channel, body, now_ms).map_err(|error| asked.refusal(error))?;
    Ok(asked.answer(201, &published, None))
}

async fn history(request: HttpRequest, channel: Path<String>, shared: Data<Shared>) -> Answer {
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

async fn present(request: HttpRequest, channel: Path<String>, shared: Data<Shared>) -> Answer {
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

async fn wrong_method(request: HttpRequest) -> HttpResponse {
    let error = ErrorInfo::new(405, 40500, "the route has no such method");
    refuse(error, Asked::of(&request).format)
}

/// Counts calls, and stands in for an Ably that is down.
pub(crate) async fn interfere(
    shared: Data<Shared>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let path = request.path();
    let inspects = path.starts_with("/sandbox/");
    let connects = path == "/";
    let outage = {
        let mut realm = shared.realm();
        match (request.method(), path) {
            (&Method::GET, "/time") => realm.calls.time += 1,
            (&Method::POST, path) if path.ends_with("/requestToken") => {
                realm.calls.request_token += 1;
            }
            (&Method::POST, path) if path.ends_with("/revokeTokens") => {
                realm.calls.revoke_tokens += 1;
            }
            _ => {}
        }
        if realm.outage == Some(Outage::LoseOneAnswer) && !inspects && !connects {
            realm.outage.take()
        } else {
            realm.outage
        }
    };
    match outage {
        Some(Outage::LoseOneAnswer) if !inspects && !connects => Ok(next.call(request).await?.into_response(cut())),
        Some(outage) if !inspects && !connects => {
            let format = Asked::of(request.request()).format;
            Ok(request.into_response(failing(outage, format).await))
        }
        _ => Ok(next.call(request).await?.map_into_boxed_body()),
    }
}

/// What a caller gets from an Ably that is down.
async fn failing(outage: Outage, format: Format) -> HttpResponse {
    match outage {
        Outage::Status(status) => {
            refuse(ErrorInfo::new(status, u32::from(status) * 100, "the stand-in was told to be down"), format)
        }
        Outage::RateLimited { retry_after_s } => {
            let error = ErrorInfo::new(429, 42910, "the stand-in was told to limit its rate");
            let mut answer = refuse(error, format);
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_s));
            answer
        }
        Outage::Hang => std::future::pending().await,
        Outage::Drop | Outage::LoseOneAnswer => cut(),
    }
}

/// An answer that never comes: the connection breaks instead.
fn cut() -> HttpResponse {
    HttpResponse::Ok().streaming(stream::once(async { Err::<Bytes, _>(io::Error::other("dropped")) }))
}

/// Lets any page call, with credentials, and see Ably's headers.
pub(crate) async fn allow_any_origin(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let header_of = |name: HeaderName| request.headers().get(name).cloned();
    let origin = header_of(header::ORIGIN);
    let asked_headers = header_of(header::ACCESS_CONTROL_REQUEST_HEADERS);
    let preflights = request.method() == Method::OPTIONS;
    let mut answer = if preflights {
        let mut answer = request.into_response(HttpResponse::NoContent().finish());
        let headers = answer.headers_mut();
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE, OPTIONS"),
        );
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            asked_headers.unwrap_or(HeaderValue::from_static(DEFAULT_ALLOWED)),
        );
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        answer
    } else {
        next.call(request).await?.map_into_boxed_body()
    };
    let headers = answer.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
    Ok(answer)
}

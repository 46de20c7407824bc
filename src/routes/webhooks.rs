//! Clerk's webhooks: what ends there, ends here.

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header::HeaderValue},
    web::{Data, Payload},
};
use tokio::runtime::Handle;

use super::{answer, body, request_id};
use crate::{
    ably::{ErrorInfo, code},
    clerk::{Event, InvalidDelivery, SigningSecrets, UnverifiedHeaders},
    clock::UnixMillis,
    revocation::{Applied, Incomplete, Revocation},
    telemetry::metrics::{RequestMetrics, TenantMetrics},
    tenant::TenantName,
};

/// The most bytes of an event.
const LARGEST_BODY: usize = 1024 * 1024;

/// What is needed to take the webhooks of all tenants that have some.
#[derive(Debug)]
pub struct Webhooks {
    /// The tenants that have signing secrets.
    pub receivers: Vec<Arc<Receiver>>,
    /// Lets events take effect.
    pub revocation: Arc<Revocation>,
    /// Where they do.
    pub runtime: Handle,
}

/// A tenant's end of its webhooks.
#[derive(Debug)]
pub struct Receiver {
    /// Whose events they are.
    pub tenant: TenantName,
    /// What they are signed with.
    pub secrets: SigningSecrets,
    /// Counts what becomes of them.
    pub metrics: TenantMetrics,
}

/// Takes an event. 2xx says that it may be forgotten; anything else has Clerk send it again.
pub(super) async fn post(
    request: HttpRequest,
    payload: Payload,
    webhooks: Data<Webhooks>,
    refusals: Data<RequestMetrics>,
) -> HttpResponse {
    if webhooks.receivers.is_empty() {
        return answer::not_found().await;
    }
    let header = |name: &str| request.headers().get(name).map(HeaderValue::as_bytes);
    // Before the body: nobody is to have 1 MiB received who has not so much as the headers of a delivery.
    let headers = match UnverifiedHeaders::read(header, UnixMillis::now()) {
        Ok(headers) => headers,
        Err(invalid) => return refused(&request, &refusals, invalid.reason(), &UNSIGNED),
    };
    let body = match body::read(&request, payload, LARGEST_BODY).await {
        Ok(body) => body,
        Err(error) => return refused(&request, &refusals, "webhook-body-refused", &error),
    };
    let now = UnixMillis::now();
    let receiver = match webhooks.receiver_of(&headers, &body) {
        Ok(receiver) => receiver,
        Err(invalid) => return refused(&request, &refusals, invalid.reason(), &UNSIGNED),
    };
    let request_id = request_id::of(&request);
    let tenant = receiver.tenant.as_str();
    let event = match Event::parse(&body, now) {
        Ok(Some(event)) => event,
        Ok(None) => {
            receiver.metrics.webhook("ignored");
            return done();
        }
        Err(error) => {
            receiver.metrics.webhook("malformed");
            tracing::error!(request_id, tenant, %error, "a webhook is signed, and is no event as Clerk sends them");
            return answer::failure(&MALFORMED, None);
        }
    };
    let taking = take(Arc::clone(&webhooks.revocation), Arc::clone(receiver), event, now, request_id.clone());
    // Not in this handler, which ends with its connection: a sender that goes away must not stop what it began.
    match webhooks.runtime.spawn(taking).await {
        Ok(Ok(())) => done(),
        Ok(Err(error)) => answer::failure(&postponed(error), Some(answer::COME_AGAIN_AFTER)),
        Err(error) => {
            receiver.metrics.webhook("postponed");
            tracing::error!(request_id, tenant, %error, "a webhook was not taken to its end; Clerk sends it again");
            answer::failure(&BROKEN_OFF, Some(answer::COME_AGAIN_AFTER))
        }
    }
}

/// Lets an event take effect, and says so in the log and the metrics.
async fn take(
    revocation: Arc<Revocation>,
    receiver: Arc<Receiver>,
    event: Event,
    now: UnixMillis,
    request_id: String,
) -> Result<(), Incomplete> {
    let tenant = receiver.tenant.as_str();
    let (change, user_id) = (event.change.name(), event.change.user_id());
    match revocation.apply(&receiver.tenant, &event, now).await {
        Ok(applied) => {
            let outcome = match applied {
                Applied::InForce => "applied",
                Applied::Outdated => "outdated",
            };
            receiver.metrics.webhook(outcome);
            tracing::info!(request_id, tenant, change, user_id, outcome, "webhook taken");
            Ok(())
        }
        Err(error) => {
            receiver.metrics.webhook("postponed");
            tracing::warn!(request_id, tenant, change, user_id, %error, "webhook not taken; Clerk sends it again");
            Err(error)
        }
    }
}

/// 405, unless there are no webhooks at all.
pub(super) async fn other_method(webhooks: Data<Webhooks>) -> HttpResponse {
    if webhooks.receivers.is_empty() { answer::not_found().await } else { answer::method_not_allowed("POST") }
}

impl Webhooks {
    /// The tenant one of whose secrets signed the delivery.
    fn receiver_of(&self, headers: &UnverifiedHeaders, body: &[u8]) -> Result<&Arc<Receiver>, InvalidDelivery> {
        let mut refused = InvalidDelivery::Signature;
        for receiver in &self.receivers {
            match receiver.secrets.verify(headers, body) {
                Ok(()) => return Ok(receiver),
                Err(invalid) if invalid != InvalidDelivery::Signature => refused = invalid,
                Err(_) => {}
            }
        }
        Err(refused)
    }
}

fn done() -> HttpResponse {
    HttpResponse::build(StatusCode::NO_CONTENT).finish()
}

fn refused(request: &HttpRequest, metrics: &RequestMetrics, reason: &'static str, error: &ErrorInfo) -> HttpResponse {
    let status = error.status_code;
    metrics.refused(reason, status);
    tracing::warn!(request_id = request_id::of(request), reason, status, "webhook refused");
    answer::failure(error, None)
}

const UNSIGNED: ErrorInfo = ErrorInfo {
    code: code::INVALID_CREDENTIALS,
    status_code: 401,
    message: "The webhook is not signed with CLERK_WEBHOOK_SIGNING_SECRET, or not within the last 5 minutes.",
};

const MALFORMED: ErrorInfo = ErrorInfo {
    code: code::BAD_REQUEST,
    status_code: 400,
    message: "The webhook is signed, and is no event as Clerk sends them. Please report it: the log says more.",
};

const BROKEN_OFF: ErrorInfo = ErrorInfo {
    code: code::INTERNAL,
    status_code: 503,
    message: "Something is broken in the service: its log says more. Send the event again.",
};

fn postponed(error: Incomplete) -> ErrorInfo {
    let message = match error {
        Incomplete::Store(_) => "The event cannot be stored now. Send it again.",
        Incomplete::Ably => "Ably cannot be told to revoke tokens now. Send the event again.",
    };
    ErrorInfo { code: code::UNREACHABLE, status_code: 503, message }
}

//! Clerk's webhooks: what ends there, ends here.

use std::{num::NonZeroU32, sync::Arc};

use actix_web::{
    HttpRequest, HttpResponse,
    http::StatusCode,
    web::{Data, Payload},
};
use tokio::runtime::Handle;

use super::{
    answer,
    body::{self, NoBody, Sizes},
    client_address::ClientAddress,
    request_id,
};
use crate::{
    ably::{ErrorInfo, code},
    clerk::{Event, InvalidDelivery, UnverifiedHeaders},
    clock::UnixMillis,
    connection::RequestClock,
    limits::InFlightLimit,
    revocation::{Applied, Incomplete, Revocation},
    telemetry::metrics::{RequestMetrics, TenantMetrics},
    tenant::{Tenant, TenantName, Tenants},
};

/// An event has a few KB. Whoever sends one is known only when it is here whole.
const BODY_SIZES: Sizes = Sizes { small: 64 * 1024, most: 1024 * 1024 };

/// How many bodies beyond the small ones are received at once.
const LARGE_BODIES: NonZeroU32 = NonZeroU32::new(32).unwrap();

/// What is needed to take the webhooks of all tenants that have some.
#[derive(Debug)]
pub struct Webhooks {
    tenants: Arc<Tenants>,
    revocation: Arc<Revocation>,
    runtime: Handle,
    large_bodies: InFlightLimit,
}

/// The request that brought an event, for the log.
#[derive(Clone, Debug)]
struct Sent {
    request_id: String,
    from: ClientAddress,
}

/// Takes an event. 2xx says that it may be forgotten; anything else has Clerk send it again.
pub(super) async fn post(
    request: HttpRequest,
    payload: Payload,
    webhooks: Data<Webhooks>,
    refusals: Data<RequestMetrics>,
) -> HttpResponse {
    if !webhooks.are_on() {
        return answer::not_found().await;
    }
    let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    // Before the body: nobody is to have 1 MiB received who has not so much as the headers of a delivery.
    let headers = match UnverifiedHeaders::read(headers, UnixMillis::now()) {
        Ok(headers) => headers,
        Err(invalid) => return refused(&request, &refusals, invalid.reason(), &UNSIGNED),
    };
    let body = match body::read_with_permit(&request, payload, BODY_SIZES, &webhooks.large_bodies).await {
        Ok(body) => body,
        Err(NoBody::Refused(error)) => return refused(&request, &refusals, "webhook-body-refused", &error),
        Err(NoBody::NoPermit) => return overloaded(&request, &refusals),
    };
    let now = UnixMillis::now();
    let tenant = match webhooks.tenant_of(&headers, &body.bytes) {
        Ok(tenant) => tenant,
        Err(invalid) => return refused(&request, &refusals, invalid.reason(), &UNSIGNED),
    };
    RequestClock::verified(&request);
    let sent = Sent { request_id: request_id::of(&request), from: ClientAddress::known(&request) };
    let event = match Event::parse(&body.bytes, now) {
        Ok(Some(event)) => event,
        Ok(None) => {
            tenant.metrics.webhook("ignored");
            return done();
        }
        Err(error) => {
            tenant.metrics.webhook("malformed");
            let reason = "webhook-malformed";
            tracing::error!(
                request_id = sent.request_id,
                client_address = sent.from.field(),
                tenant = tenant.name.as_str(),
                reason,
                status = MALFORMED.status_code,
                %error,
                "webhook rejected: it is signed, but is not an event as Clerk documents it"
            );
            return answer::failure(reason, &MALFORMED, None);
        }
    };
    drop(body);
    let taking =
        take(Arc::clone(&webhooks.revocation), tenant.name.clone(), tenant.metrics.clone(), event, now, sent.clone());
    // Not in this handler, which ends with its connection: a sender that goes away must not stop what it began.
    match webhooks.runtime.spawn(taking).await {
        Ok(Ok(())) => done(),
        Ok(Err(error)) => answer::failure(reason(error), &postponed(error), Some(answer::COME_AGAIN_AFTER)),
        Err(error) => {
            tenant.metrics.webhook("postponed");
            let reason = "webhook-broken-off";
            tracing::error!(
                request_id = sent.request_id,
                client_address = sent.from.field(),
                tenant = tenant.name.as_str(),
                reason,
                status = BROKEN_OFF.status_code,
                %error,
                "a webhook was not taken to its end; Clerk sends it again"
            );
            answer::failure(reason, &BROKEN_OFF, Some(answer::COME_AGAIN_AFTER))
        }
    }
}

/// Lets an event take effect, and says so in the log and the metrics.
async fn take(
    revocation: Arc<Revocation>,
    tenant: TenantName,
    metrics: TenantMetrics,
    event: Event,
    now: UnixMillis,
    Sent { request_id, from }: Sent,
) -> Result<(), Incomplete> {
    let client_address = from.field();
    let (change, user_id) = (event.change.name(), event.change.user_id());
    match revocation.apply(&tenant, &event, now).await {
        Ok(applied) => {
            let outcome = match applied {
                Applied::InForce => "applied",
                Applied::Outdated => "outdated",
            };
            metrics.webhook(outcome);
            tracing::info!(request_id, client_address, %tenant, change, user_id, outcome, "webhook taken");
            Ok(())
        }
        Err(error) => {
            metrics.webhook("postponed");
            let (status, reason) = (postponed(error).status_code, reason(error));
            tracing::warn!(
                request_id,
                client_address,
                %tenant,
                change,
                user_id,
                reason,
                status,
                %error,
                "webhook not taken; Clerk sends it again"
            );
            Err(error)
        }
    }
}

/// 405, unless there are no webhooks at all.
pub(super) async fn other_method(webhooks: Data<Webhooks>) -> HttpResponse {
    if webhooks.are_on() { answer::method_not_allowed("POST") } else { answer::not_found().await }
}

impl Webhooks {
    /// Takes the events of these tenants; `revocation` applies them, on `runtime`.
    #[must_use]
    pub fn new(tenants: Arc<Tenants>, revocation: Arc<Revocation>, runtime: Handle) -> Self {
        Self { tenants, revocation, runtime, large_bodies: InFlightLimit::new(LARGE_BODIES) }
    }

    fn are_on(&self) -> bool {
        self.tenants.iter().any(|tenant| tenant.webhook_secrets.is_some())
    }

    /// The tenant one of whose secrets signed the delivery.
    fn tenant_of(&self, headers: &UnverifiedHeaders, body: &[u8]) -> Result<&Tenant, InvalidDelivery> {
        let mut refused = InvalidDelivery::Signature;
        for tenant in self.tenants.iter() {
            let Some(secrets) = &tenant.webhook_secrets else { continue };
            match secrets.verify(headers, body) {
                Ok(()) => return Ok(tenant),
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
    record_refusal(request, metrics, reason, error.status_code);
    answer::failure(reason, error, None)
}

fn overloaded(request: &HttpRequest, metrics: &RequestMetrics) -> HttpResponse {
    let reason = "webhook-overloaded";
    record_refusal(request, metrics, reason, NO_PLACE.status_code);
    answer::failure(reason, &NO_PLACE, Some(answer::COME_AGAIN_AFTER))
}

fn record_refusal(request: &HttpRequest, metrics: &RequestMetrics, reason: &'static str, status: u16) {
    metrics.refused(reason, status);
    let client_address = ClientAddress::known(request);
    tracing::warn!(
        request_id = request_id::of(request),
        client_address = client_address.field(),
        reason,
        status,
        "webhook refused"
    );
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

const NO_PLACE: ErrorInfo = ErrorInfo {
    code: code::INTERNAL,
    status_code: 503,
    message: "Too many webhooks of more than 64 KiB are being received. Send the event again.",
};

const BROKEN_OFF: ErrorInfo = ErrorInfo {
    code: code::INTERNAL,
    status_code: 503,
    message: "Something is broken in the service: its log says more. Send the event again.",
};

fn reason(error: Incomplete) -> &'static str {
    match error {
        Incomplete::Store(_) => "webhook-not-stored",
        Incomplete::Ably => "webhook-not-revoked",
        Incomplete::InProgress => "webhook-in-progress",
    }
}

fn postponed(error: Incomplete) -> ErrorInfo {
    let message = match error {
        Incomplete::Store(_) => "The event cannot be stored now. Send it again.",
        Incomplete::Ably => "Ably cannot be told to revoke tokens now. Send the event again.",
        Incomplete::InProgress => "Another delivery of this event is in progress. Send the event again.",
    };
    ErrorInfo { code: code::UNREACHABLE, status_code: 503, message }
}

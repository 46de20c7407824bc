//! Clerk's webhooks: access that ends at Clerk ends here.

use std::{num::NonZeroU32, sync::Arc};

use actix_web::{
    Error, HttpResponse,
    web::{Data, Payload},
};

use super::{
    body::{self, Sizes},
    context::Context,
};
use crate::{
    clerk::{Event, InvalidDelivery, UnverifiedHeaders},
    clock::UnixMillis,
    detached::{Detached, Interrupted},
    limits::InFlightLimit,
    refusal::{Refusal, ReportedRefusal, Row},
    revocation::{Applied, Incomplete, Revocation},
    telemetry::metrics::TenantMetrics,
    tenant::{Tenant, TenantName, Tenants},
};

/// An event has a few KB. Its sender is known only when it has arrived whole.
const BODY_SIZES: Sizes = Sizes { small: 64 * 1024, most: 1024 * 1024 };

/// How many bodies beyond the small ones are received at once.
const LARGE_BODIES: NonZeroU32 = NonZeroU32::new(32).unwrap();

/// What the webhook route needs.
#[derive(Debug)]
pub struct Webhooks {
    tenants: Arc<Tenants>,
    revocation: Arc<Revocation>,
    detached: Detached,
    large_bodies: InFlightLimit,
}

/// Takes an event: 204. With another status Clerk sends it again.
pub(super) async fn post(request: Context, payload: Payload, webhooks: Data<Webhooks>) -> Result<HttpResponse, Error> {
    if !webhooks.are_on() {
        return Err(Refusal::NoRoute.into());
    }
    let headers = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    // Before the body: only a sender with the headers of a delivery may send a large one.
    let headers = UnverifiedHeaders::read(headers, UnixMillis::now()).map_err(Refusal::from)?;
    let body = body::read_with_permit(&request, payload, BODY_SIZES, &webhooks.large_bodies).await?;
    let now = UnixMillis::now();
    let tenant = webhooks.tenant_of(&headers, &body.bytes).map_err(Refusal::from)?;
    request.clock.verified();
    let event = match Event::parse(&body.bytes, now) {
        Ok(Some(event)) => event,
        Ok(None) => {
            tenant.metrics.webhook("ignored");
            return Ok(HttpResponse::NoContent().finish());
        }
        Err(error) => {
            tenant.metrics.webhook("malformed");
            let Row { reason, status, .. } = Refusal::WebhookMalformed.row();
            let tenant = tenant.name.as_str();
            tracing::error!(tenant, reason, status, %error, "webhook rejected: it is signed, but not an event as Clerk documents it");
            return Err(ReportedRefusal(Refusal::WebhookMalformed).into());
        }
    };
    drop(body);
    let applying = apply(Arc::clone(&webhooks.revocation), tenant.name.clone(), tenant.metrics.clone(), event, now);
    let refusal = match webhooks.detached.run(applying).await {
        Ok(Ok(())) => return Ok(HttpResponse::NoContent().finish()),
        Ok(Err(incomplete)) => Refusal::from(incomplete),
        Err(Interrupted) => {
            tenant.metrics.webhook("postponed");
            let (tenant, Row { reason, status, .. }) = (tenant.name.as_str(), Refusal::WebhookInterrupted.row());
            tracing::error!(tenant, reason, status, "webhook interrupted; Clerk sends it again");
            Refusal::WebhookInterrupted
        }
    };
    Err(ReportedRefusal(refusal).into())
}

/// Applies an event; logs and counts the outcome.
async fn apply(
    revocation: Arc<Revocation>,
    tenant: TenantName,
    metrics: TenantMetrics,
    event: Event,
    now: UnixMillis,
) -> Result<(), Incomplete> {
    let (change, user_id) = (event.change.name(), event.change.user_id());
    match revocation.apply(&tenant, &event, now).await {
        Ok(applied) => {
            let outcome = match applied {
                Applied::InForce => "applied",
                Applied::Outdated => "outdated",
            };
            metrics.webhook(outcome);
            tracing::info!(%tenant, change, user_id, outcome, "webhook applied");
            Ok(())
        }
        Err(error) => {
            metrics.webhook("postponed");
            let Row { reason, status, .. } = Refusal::from(error).row();
            tracing::warn!(%tenant, change, user_id, reason, status, %error, "webhook not applied; Clerk sends it again");
            Err(error)
        }
    }
}

/// 405; 404 while webhooks are off.
pub(super) async fn other_method(webhooks: Data<Webhooks>) -> Result<HttpResponse, Refusal> {
    Err(if webhooks.are_on() { Refusal::Method("POST") } else { Refusal::NoRoute })
}

impl Webhooks {
    /// Takes the events of these tenants, and has `revocation` apply them.
    #[must_use]
    pub fn new(tenants: Arc<Tenants>, revocation: Arc<Revocation>, detached: Detached) -> Self {
        Self { tenants, revocation, detached, large_bodies: InFlightLimit::new(LARGE_BODIES) }
    }

    fn are_on(&self) -> bool {
        self.tenants.iter().any(|tenant| tenant.webhook_secrets.is_some())
    }

    /// The tenant that has a secret which signed the delivery.
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

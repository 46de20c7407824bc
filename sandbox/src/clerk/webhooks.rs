//! Webhooks, as Svix sends them for Clerk: what happened becomes an [`Event`], each [`Endpoint`] is sent it, signed anew
//! at every attempt, until it answers 2xx or the retry schedule is over. Deliveries run side by side, so they arrive in
//! any order. What was sent and what came back is kept, for tests and for the page.

mod courier;
mod endpoint;
mod event;
mod outbox;
mod signature;

use std::io;
use std::sync::Arc;

use crate::clock::Clock;

pub(super) use courier::Courier;
pub use endpoint::{Endpoint, InvalidEndpoint};
pub use event::{Answer, Attempt, Event};
pub(super) use outbox::Webhooks;
pub use outbox::{Flow, WebhookOptions};
pub use signature::SigningSecret;

/// An outbox, and the courier who empties it while it is kept.
pub(super) fn start(
    options: WebhookOptions,
    instance_id: String,
    clock: Arc<Clock>,
) -> io::Result<(Arc<Webhooks>, Courier)> {
    let (webhooks, to_deliver) = Webhooks::new(options, instance_id, clock);
    let courier = Courier::start(Arc::clone(&webhooks), to_deliver)?;
    Ok((webhooks, courier))
}

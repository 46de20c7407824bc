//! Webhooks, as Svix sends them for Clerk. An [`Event`] is sent to each [`Endpoint`], with a new signature per
//! attempt, until the endpoint answers 2xx or the retry schedule ends. Deliveries run concurrently, so they arrive in
//! any order. Events and attempts are kept for tests and for the page.

mod dispatcher;
mod endpoint;
mod event;
mod outbox;
mod signature;

use std::io;
use std::sync::Arc;

use crate::clock::Clock;

pub(super) use dispatcher::Dispatcher;
pub use endpoint::{Endpoint, InvalidEndpoint};
pub use event::{Answer, Attempt, Event};
pub(super) use outbox::Outbox;
pub use outbox::{Flow, WebhookOptions};
pub use signature::SigningSecret;

/// Creates an outbox, and the dispatcher that delivers its events.
pub(super) fn start(
    options: WebhookOptions,
    instance_id: String,
    clock: Arc<Clock>,
) -> io::Result<(Arc<Outbox>, Dispatcher)> {
    let (outbox, to_deliver) = Outbox::new(options, instance_id, clock);
    let dispatcher = Dispatcher::start(Arc::clone(&outbox), to_deliver)?;
    Ok((outbox, dispatcher))
}

//! Outbox, as Svix sends them for Clerk: what happened becomes an [`Event`], each [`Endpoint`] is sent it, signed anew
//! at every attempt, until it answers 2xx or the retry schedule is over. Deliveries run side by side, so they arrive in
//! any order. What was sent and what came back is kept, for tests and for the page.

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

/// An outbox, and the dispatcher who empties it while it is kept.
pub(super) fn start(
    options: WebhookOptions,
    instance_id: String,
    clock: Arc<Clock>,
) -> io::Result<(Arc<Outbox>, Dispatcher)> {
    let (webhooks, to_deliver) = Outbox::new(options, instance_id, clock);
    let dispatcher = Dispatcher::start(Arc::clone(&webhooks), to_deliver)?;
    Ok((webhooks, dispatcher))
}

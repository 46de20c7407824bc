//! Server-sent events that show a stand-in's state, at once and after every change.

use std::{convert::Infallible, time::Duration};

use actix_web::{
    HttpResponse,
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    rt::time::timeout,
    web::Bytes,
};
use futures_util::stream;
use serde_json::Value;
use tokio::sync::watch;

/// The longest silence. Only a write notices that the client has gone.
const LONGEST_SILENCE: Duration = Duration::from_secs(15);

/// Streams `view` now and after each of the `changes`; ends when their sender is dropped.
pub(crate) fn stream_changes(mut changes: watch::Receiver<()>, view: impl Fn() -> Value + 'static) -> HttpResponse {
    changes.mark_changed();
    let events = stream::unfold((changes, view), |(mut changes, view)| async move {
        let text = match timeout(LONGEST_SILENCE, changes.changed()).await {
            Err(_silence) => ":\n\n".to_owned(),
            Ok(Err(_dropped)) => return None,
            Ok(Ok(())) => format!("data: {}\n\n", view()),
        };
        Some((Ok::<_, Infallible>(Bytes::from(text)), (changes, view)))
    });
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .streaming(Box::pin(events))
}

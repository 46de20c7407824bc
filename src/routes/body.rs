//! Reads the body of a request, up to a size and a deadline. Anybody can begin to send one, so only a few large bodies are
//! received at once.

use actix_web::{
    error::PayloadError,
    web::{Bytes, BytesMut, Payload},
};
use futures_util::StreamExt as _;
use http::{
    HeaderMap,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use tokio::time::timeout_at;

use super::context::RequestContext;
use crate::{
    limits::{InFlightLimit, Permit},
    refusal::{InvalidBody, Refusal},
};

/// How large a webhook's body may be, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Beyond this a body needs a permit.
    pub(super) small: usize,
    /// Beyond this it is refused.
    pub(super) most: usize,
}

/// A body with the permit that it may have needed.
#[derive(Debug)]
pub(super) struct PermittedBody<'p> {
    pub(super) bytes: Bytes,
    _permit: Option<Permit<'p>>,
}

/// Reads a body of at most `most` bytes.
pub(super) async fn read(request: &RequestContext, payload: Payload, most: usize) -> Result<Bytes, InvalidBody> {
    let make_room = |length| if length > most { Err(InvalidBody::TooLarge) } else { Ok(()) };
    let collected = timeout_at(request.clock.receive_by(), collect(payload, make_room, |invalid| invalid)).await;
    collected.unwrap_or(Err(InvalidBody::TooSlow))
}

/// Reads a webhook's body. Never waits for a permit.
pub(super) async fn read_with_permit<'p>(
    request: &RequestContext,
    payload: Payload,
    Sizes { small, most }: Sizes,
    permits: &'p InFlightLimit,
) -> Result<PermittedBody<'p>, Refusal> {
    let mut permit = None;
    let mut make_room = |length| {
        if length > most {
            return Err(Refusal::WebhookBody(InvalidBody::TooLarge));
        }
        if length > small && permit.is_none() {
            permit = Some(permits.acquire().ok_or(Refusal::WebhookOverloaded)?);
        }
        Ok(())
    };
    if let Some(announced) = announced_length(request) {
        make_room(announced)?;
    }
    let collecting = collect(payload, make_room, Refusal::WebhookBody);
    let collected = timeout_at(request.clock.receive_by(), collecting).await;
    let bytes = collected.unwrap_or(Err(Refusal::WebhookBody(InvalidBody::TooSlow)))?;
    Ok(PermittedBody { bytes, _permit: permit })
}

/// Whether the headers say that the body is of this media type.
pub(super) fn is_of_type(headers: &HeaderMap, media_type: &str) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    content_type.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case(media_type))
}

fn announced_length(request: &RequestContext) -> Option<usize> {
    request.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Calls `make_room` with the new length before the body grows. `refusal` is the error for an invalid body.
async fn collect<E>(
    mut payload: Payload,
    mut make_room: impl FnMut(usize) -> Result<(), E>,
    refusal: impl Fn(InvalidBody) -> E,
) -> Result<Bytes, E> {
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error| match error {
            PayloadError::Overflow => refusal(InvalidBody::TooLarge),
            _ => refusal(InvalidBody::Interrupted),
        })?;
        make_room(body.len() + chunk.len())?;
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

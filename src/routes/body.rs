//! Bodies of requests, read whole up to a size and within their time. Anybody may begin to send one, so that those which
//! may be large are received only a few at a time.

use actix_web::{
    HttpRequest,
    error::PayloadError,
    http::header::CONTENT_LENGTH,
    web::{Bytes, BytesMut, Payload},
};
use futures_util::StreamExt as _;
use tokio::time::timeout_at;

use super::answer;
use crate::{
    ably::ErrorInfo,
    connection::RequestClock,
    limits::{InFlightLimit, Permit},
};

/// How large a body may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// The most bytes that are received of whoever sends them.
    pub(super) small: usize,
    /// The most bytes of all; beyond `small` a body needs a permit.
    pub(super) most: usize,
}

/// A body that may have taken a permit, which is given again when this is dropped.
#[derive(Debug)]
pub(super) struct PermittedBody<'p> {
    pub(super) bytes: Bytes,
    _place: Option<Permit<'p>>,
}

/// Why there is no body.
#[derive(Clone, Copy, Debug)]
pub(super) enum NoBody {
    /// It is not to be had; the answer says why.
    Refused(ErrorInfo),
    /// It is large, and all permits are taken.
    NoPermit,
}

/// The body, if it has at most so many bytes and arrives in the time that the request has.
pub(super) async fn read(request: &HttpRequest, payload: Payload, most: usize) -> Result<Bytes, ErrorInfo> {
    let make_room = |length| if length > most { Err(answer::BODY_TOO_LARGE) } else { Ok(()) };
    timeout_at(RequestClock::receive_by(request), collect(payload, make_room)).await.unwrap_or(Err(answer::TOO_SLOW))
}

/// The body, if it arrives in the time that the request has, and is small or there is a permit for it. Never waits for one.
pub(super) async fn read_with_permit<'p>(
    request: &HttpRequest,
    payload: Payload,
    Sizes { small, most }: Sizes,
    permits: &'p InFlightLimit,
) -> Result<PermittedBody<'p>, NoBody> {
    let mut permit = None;
    let mut make_room = |length| {
        if length > most {
            return Err(NoBody::Refused(answer::BODY_TOO_LARGE));
        }
        if length > small && permit.is_none() {
            permit = Some(permits.acquire().ok_or(NoBody::NoPermit)?);
        }
        Ok(())
    };
    if let Some(announced) = announced_length(request) {
        make_room(announced)?;
    }
    let collected = timeout_at(RequestClock::receive_by(request), collect(payload, make_room)).await;
    let bytes = collected.unwrap_or(Err(NoBody::Refused(answer::TOO_SLOW)))?;
    Ok(PermittedBody { bytes, _place: permit })
}

/// The length that the head tells, if it tells one.
fn announced_length(request: &HttpRequest) -> Option<usize> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Asks `make_room` before the body grows, with the length that it is to have then.
async fn collect<E: From<ErrorInfo>>(
    mut payload: Payload,
    mut make_room: impl FnMut(usize) -> Result<(), E>,
) -> Result<Bytes, E> {
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error| match error {
            PayloadError::Overflow => answer::BODY_TOO_LARGE,
            _ => answer::BODY_BROKEN,
        })?;
        make_room(body.len() + chunk.len())?;
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

impl From<ErrorInfo> for NoBody {
    fn from(error: ErrorInfo) -> Self {
        Self::Refused(error)
    }
}

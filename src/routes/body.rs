//! Bodies of requests, read whole up to a size and within their time.

use std::rc::Rc;

use actix_web::{
    HttpRequest,
    error::PayloadError,
    web::{Bytes, BytesMut, Payload},
};
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use super::answer;
use crate::{ably::ErrorInfo, server::connection::RequestClock};

/// The body, if it has at most so many bytes and arrives in the time that the request has.
pub(super) async fn read(request: &HttpRequest, payload: Payload, most: usize) -> Result<Bytes, ErrorInfo> {
    let send_by = request.conn_data::<Rc<RequestClock>>().map_or_else(Instant::now, |clock| clock.send_by());
    timeout_at(send_by, collect(payload, most)).await.unwrap_or(Err(answer::TOO_SLOW))
}

async fn collect(mut payload: Payload, most: usize) -> Result<Bytes, ErrorInfo> {
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error| match error {
            PayloadError::Overflow => answer::BODY_TOO_LARGE,
            _ => answer::BODY_BROKEN,
        })?;
        if body.len() + chunk.len() > most {
            return Err(answer::BODY_TOO_LARGE);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

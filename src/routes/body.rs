//! Bodies of requests, read whole up to a size.

use actix_web::{
    error::PayloadError,
    web::{Bytes, BytesMut, Payload},
};
use futures_util::StreamExt as _;

use super::answer;
use crate::ably::ErrorInfo;

/// The body, if it has at most so many bytes.
pub(super) async fn read(mut payload: Payload, most: usize) -> Result<Bytes, ErrorInfo> {
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

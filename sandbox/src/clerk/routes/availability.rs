//! The outage and the delay of the JWKS and the Backend API.

use std::time::Duration;

use actix_web::HttpRequest;

use crate::clerk::api_error::ApiError;
use crate::clerk::instance::{Instance, Outage};
use crate::loopback::hang_up;

const LONGEST_HANG: Duration = Duration::from_mins(1);

/// Fails during an outage.
pub(super) async fn check(instance: &Instance, request: &HttpRequest) -> Result<(), ApiError> {
    let mut outage = instance.outage();
    let kind = *outage.borrow_and_update();
    match kind {
        None => Ok(()),
        Some(Outage::Status(status)) => Err(ApiError::outage(status)),
        Some(Outage::RateLimited { retry_after_s }) => Err(ApiError::rate_limited(retry_after_s)),
        Some(Outage::Hang) => {
            let _ = tokio::time::timeout(LONGEST_HANG, outage.changed()).await;
            hang_up(request);
            Err(ApiError::unanswered())
        }
        Some(Outage::Drop) => {
            hang_up(request);
            Err(ApiError::unanswered())
        }
    }
}

/// Fails during an outage, and otherwise waits for the configured delay.
pub(super) async fn check_backend(instance: &Instance, request: &HttpRequest) -> Result<(), ApiError> {
    check(instance, request).await?;
    let delay = instance.delay();
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    Ok(())
}

//! The metrics, for Prometheus.

use actix_web::{
    HttpResponse,
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    web::Data,
};

use super::answer;
use crate::telemetry::metrics::Metrics;

/// All of them, as they are now.
pub(super) async fn get(metrics: Data<Metrics>) -> HttpResponse {
    match metrics.exposition() {
        Ok(exposition) => HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, Metrics::CONTENT_TYPE))
            .insert_header((CACHE_CONTROL, "no-store"))
            .body(exposition),
        // A number above what the format can hold, which no count gets to.
        Err(error) => {
            let reason = "metrics-not-written";
            tracing::error!(reason, status = answer::NO_EXPOSITION.status_code, %error, "metrics request refused");
            answer::failure(reason, &answer::NO_EXPOSITION, None)
        }
    }
}

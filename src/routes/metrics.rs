//! The metrics, for Prometheus.

use actix_web::{
    HttpResponse,
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    web::Data,
};

use crate::{refusal::Refusal, telemetry::metrics::Metrics};

/// All metrics, as they are now.
pub(super) async fn get(metrics: Data<Metrics>) -> Result<HttpResponse, Refusal> {
    let exposition = metrics.exposition().map_err(|error| {
        tracing::error!(%error, "metrics cannot be written");
        Refusal::MetricsNotWritten
    })?;
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, Metrics::CONTENT_TYPE))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(exposition))
}

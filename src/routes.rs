//! The HTTP surface: this is its table of contents.

mod answer;
mod body;
mod client_address;
pub mod cors;
pub mod guard;
mod health;
mod host;
mod metrics;
mod openapi;
mod rate_limit;
mod request_id;
pub mod revocations;
mod token;
mod unparsed;
pub mod webhooks;

use actix_web::{
    http::Method,
    middleware::from_fn,
    web::{self, ServiceConfig},
};

/// The routes of the public listener.
pub fn configure_public(service: &mut ServiceConfig) {
    service
        .service(
            web::resource("/api/ably")
                .route(web::get().to(token::get))
                .route(web::post().to(token::post))
                .route(web::method(Method::OPTIONS).to(cors::preflight))
                .default_service(web::to(async || answer::method_not_allowed("GET, POST, OPTIONS"))),
        )
        .service(
            web::resource("/webhooks/clerk")
                .route(web::post().to(webhooks::post))
                .default_service(web::to(webhooks::other_method)),
        )
        .configure(configure_health)
        .service(readable("/openapi.yaml").route(readable_route().to(openapi::get)))
        .default_service(web::to(answer::not_found));
}

/// The routes of the admin listener.
pub fn configure_admin(service: &mut ServiceConfig) {
    service
        .service(
            web::resource("/revocations")
                .route(web::post().to(revocations::post))
                .default_service(web::to(async || answer::method_not_allowed("POST"))),
        )
        .service(
            web::scope("")
                .service(readable("/metrics").route(readable_route().to(metrics::get)))
                .configure(configure_health)
                .default_service(web::to(answer::not_found_for_admin))
                .wrap(from_fn(host::check)),
        );
}

fn configure_health(service: &mut ServiceConfig) {
    service
        .service(readable("/healthz").route(readable_route().to(health::live)))
        .service(readable("/readyz").route(readable_route().to(health::ready)));
}

pub use unparsed::UnparsedRequests;

fn readable(path: &str) -> actix_web::Resource {
    web::resource(path).default_service(web::to(async || answer::method_not_allowed("GET, HEAD")))
}

fn readable_route() -> actix_web::Route {
    web::route().guard(actix_web::guard::Any(actix_web::guard::Get()).or(actix_web::guard::Head()))
}

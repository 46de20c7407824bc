//! The HTTP surface: this is its table of contents.

mod answer;
pub mod cors;
pub mod guard;
mod health;
mod openapi;
mod request_id;
mod token;

use actix_web::{
    http::Method,
    web::{self, ServiceConfig},
};

/// All routes.
pub fn configure(service: &mut ServiceConfig) {
    service
        .service(
            web::resource("/api/ably")
                .route(web::get().to(token::get))
                .route(web::post().to(token::post))
                .route(web::method(Method::OPTIONS).to(cors::preflight))
                .default_service(web::to(async || answer::method_not_allowed("GET, POST, OPTIONS"))),
        )
        .service(readable("/healthz").route(readable_route().to(health::live)))
        .service(readable("/readyz").route(readable_route().to(health::ready)))
        .service(readable("/openapi.yaml").route(readable_route().to(openapi::get)))
        .default_service(web::to(answer::not_found));
}

pub use answer::bare_refusal;

fn readable(path: &str) -> actix_web::Resource {
    web::resource(path).default_service(web::to(async || answer::method_not_allowed("GET, HEAD")))
}

fn readable_route() -> actix_web::Route {
    web::route().guard(actix_web::guard::Any(actix_web::guard::Get()).or(actix_web::guard::Head()))
}

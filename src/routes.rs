//! The HTTP surface: this is its table of contents.

pub mod access;
mod actix;
mod answer;
mod body;
mod client_address;
mod context;
mod cors;
mod health;
mod host;
mod metrics;
mod middleware;
mod openapi;
mod rate_limit;
mod request_id;
pub mod revocations;
mod token;
mod unparsed;
pub mod webhooks;

use actix_web::{
    HttpResponse, Route,
    http::Method,
    middleware::from_fn,
    web::{self, ServiceConfig},
};

pub(crate) use actix::ActixHandler;
pub(crate) use middleware::Middleware;

use crate::refusal::Refusal;

/// The routes of the public listener.
pub fn configure_public(service: &mut ServiceConfig) {
    service
        .service(
            web::resource("/api/ably")
                .route(web::get().to(token::get))
                .route(web::post().to(token::post))
                .route(web::method(Method::OPTIONS).to(cors::preflight))
                .default_service(other_methods("GET, POST, OPTIONS")),
        )
        .service(
            web::resource("/webhooks/clerk")
                .route(web::post().to(webhooks::post))
                .default_service(web::to(webhooks::other_method)),
        )
        .configure(configure_health)
        .service(readable("/openapi.yaml").route(readable_route().to(openapi::get)))
        .default_service(refuse(Refusal::NoRoute));
}

/// The routes of the admin listener.
pub fn configure_admin(service: &mut ServiceConfig) {
    service
        .service(
            web::resource("/revocations")
                .route(web::post().to(revocations::post))
                .default_service(other_methods("POST")),
        )
        .service(
            web::scope("")
                .service(readable("/metrics").route(readable_route().to(metrics::get)))
                .configure(configure_health)
                .default_service(refuse(Refusal::NoAdminRoute))
                .wrap(from_fn(access::check_host)),
        );
}

fn configure_health(service: &mut ServiceConfig) {
    service
        .service(readable("/healthz").route(readable_route().to(health::live)))
        .service(readable("/readyz").route(readable_route().to(health::ready)));
}

fn readable(path: &str) -> actix_web::Resource {
    web::resource(path).default_service(other_methods("GET, HEAD"))
}

fn readable_route() -> Route {
    web::route().guard(actix_web::guard::Any(actix_web::guard::Get()).or(actix_web::guard::Head()))
}

fn other_methods(allow: &'static str) -> Route {
    refuse(Refusal::Method(allow))
}

fn refuse(refusal: Refusal) -> Route {
    web::to(move || async move { Err::<HttpResponse, _>(refusal) })
}

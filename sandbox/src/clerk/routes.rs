//! The stand-in's routes.

mod availability;
mod backend;
mod bundles;
mod frontend;
mod input;
mod sandbox_api;
mod sign_in_page;
mod webhooks;

use std::sync::Arc;

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{DATE, HttpDate, TryIntoHeaderValue};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, Data, ServiceConfig};

use super::api_error::unknown_route;
use super::cors;
use super::instance::{Instance, PROXY_PATH};

pub(super) fn table(instance: Arc<Instance>) -> impl Fn(&mut ServiceConfig) + Clone + Send + 'static {
    move |config: &mut ServiceConfig| {
        let routes = web::scope("")
            .wrap(from_fn(date))
            .configure(frontend::routes)
            .configure(bundles::routes)
            .service(web::scope(PROXY_PATH).configure(frontend::routes).configure(bundles::routes))
            .service(
                web::scope("/sign-in")
                    .wrap(from_fn(cors::for_allowed_pages))
                    .route("", web::get().to(sign_in_page::page)),
            )
            .route("/v1/jwks", web::get().to(backend::jwks))
            .route("/v1/clients/handshake_payload", web::get().to(backend::handshake_payload))
            .route("/v1/sessions", web::post().to(backend::create_session))
            .route("/v1/sessions/{id}", web::get().to(backend::session))
            .route("/v1/sessions/{id}/tokens", web::post().to(backend::session_token))
            .route("/v1/sessions/{id}/revoke", web::post().to(backend::revoke_session))
            .route("/v1/users", web::get().to(backend::users))
            .route("/v1/users", web::post().to(backend::create_user))
            .route("/v1/users/count", web::get().to(backend::count_users))
            .route("/v1/users/{id}", web::get().to(backend::user))
            .route("/v1/users/{id}", web::patch().to(backend::update_user))
            .route("/v1/users/{id}", web::delete().to(backend::delete_user))
            .route("/v1/users/{id}/ban", web::post().to(backend::ban_user))
            .route("/v1/users/{id}/unban", web::post().to(backend::unban_user))
            .route("/v1/organizations/{id}/memberships/{user}", web::patch().to(backend::update_membership))
            .route("/v1/organizations/{id}/memberships/{user}", web::delete().to(backend::delete_membership))
            .route("/v1/organizations/{id}", web::delete().to(backend::delete_organization))
            .service(
                web::scope("/sandbox")
                    .wrap(from_fn(cors::for_allowed_pages))
                    .route("/session-tokens", web::post().to(sandbox_api::session_token))
                    .route("/calls", web::get().to(sandbox_api::calls))
                    .route("/outage", web::post().to(sandbox_api::outage))
                    .route("/users", web::get().to(sandbox_api::users))
                    .route("/users", web::post().to(sandbox_api::change_user))
                    .route("/users/{id}", web::delete().to(sandbox_api::delete_user))
                    .route("/sessions", web::get().to(sandbox_api::sessions))
                    .route("/sessions/{sid}/revoke", web::post().to(sandbox_api::revoke_session))
                    .route("/organizations/{id}", web::delete().to(sandbox_api::delete_organization))
                    .route("/webhooks", web::get().to(webhooks::show))
                    .route("/webhooks", web::post().to(webhooks::change))
                    .route("/webhooks/stream", web::get().to(webhooks::stream))
                    .route("/webhooks/events", web::post().to(webhooks::send))
                    .route("/webhooks/events/{id}/redeliver", web::post().to(webhooks::redeliver))
                    .default_service(web::to(unknown_route)),
            )
            .default_service(web::to(unknown_route));
        config.app_data(Data::from(Arc::clone(&instance))).service(routes);
    }
}

async fn date(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let instance = request.app_data::<Data<Instance>>().cloned();
    let mut response = next.call(request).await?;
    if let Some(instance) = instance {
        let date = HttpDate::from(instance.now()).try_into_value()?;
        response.headers_mut().insert(DATE, date);
    }
    Ok(response)
}

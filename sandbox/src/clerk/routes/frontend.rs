//! The Frontend API: what clerk-js, the servers of an app and the sandbox page ask. It is at the root and behind the
//! proxy path.

mod clients;
mod handshake;
mod page;
mod sessions;
mod sign_ins;
mod users;

use actix_web::http::header::CACHE_CONTROL;
use actix_web::middleware::{DefaultHeaders, from_fn};
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};

use super::availability;
use crate::clerk::api_error::{ApiResult, unknown_route};
use crate::clerk::cors;
use crate::clerk::instance::Instance;

pub(super) fn routes(app: &mut ServiceConfig) {
    let scope = |path| web::scope(path).wrap(from_fn(cors::for_allowed_pages)).wrap(no_store());
    app.route("/.well-known/jwks.json", web::get().to(jwks))
        .service(
            scope("/v1/environment")
                .route("", web::get().to(clients::environment))
                .route("", web::post().to(clients::environment)),
        )
        .service(scope("/v1/dev_browser").route("", web::post().to(clients::dev_browser)))
        .service(
            scope("/v1/client")
                .route("", web::get().to(clients::client))
                .route("", web::post().to(clients::change_client))
                .route("/handshake", web::get().to(handshake::handshake))
                .route("/sign_ins", web::post().to(sign_ins::begin))
                .route("/sign_ins/{id}", web::get().to(sign_ins::show))
                .route("/sign_ins/{id}/attempt_first_factor", web::post().to(sign_ins::attempt_first_factor))
                .route("/sessions", web::post().to(sessions::remove_all))
                .route("/sessions", web::delete().to(sessions::remove_all))
                .route("/sessions/{sid}/touch", web::post().to(sessions::touch))
                .route("/sessions/{sid}/tokens", web::post().to(sessions::token))
                .route("/sessions/{sid}/end", web::post().to(sessions::sign_out))
                .route("/sessions/{sid}/remove", web::post().to(sessions::remove))
                .default_service(web::to(unknown_route)),
        )
        .service(
            scope("/v1/me")
                .route("", web::get().to(users::me))
                .route("/organization_memberships", web::get().to(users::memberships))
                .route("/organization_invitations", web::get().to(users::nothing))
                .route("/organization_suggestions", web::get().to(users::nothing))
                .default_service(web::to(unknown_route)),
        );
}

fn no_store() -> DefaultHeaders {
    DefaultHeaders::new().add((CACHE_CONTROL, "no-store"))
}

async fn jwks(instance: Data<Instance>, request: HttpRequest) -> ApiResult {
    instance.count(|calls| &mut calls.frontend_jwks);
    availability::check(&instance, &request).await?;
    Ok(HttpResponse::Ok().insert_header(("Access-Control-Allow-Origin", "*")).json(instance.jwks()))
}

//! actix-web with the middleware of clerk-rs, and an Ably token request signed in the handler. No log, limits, metrics or CORS.

use std::{
    env, io,
    time::{SystemTime, UNIX_EPOCH},
};

use actix_web::{
    App, HttpResponse, HttpServer, Responder, error,
    web::{self, Data, ReqData},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use clerk_rs::{
    Clerk, ClerkConfiguration,
    validators::{actix::ClerkMiddleware, authorizer::ClerkJwt, jwks::MemoryCacheJwksProvider},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use sha2::Sha256;

struct ApiKey {
    name: String,
    secret: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenRequest<'a> {
    key_name: &'a str,
    ttl: Option<u32>,
    capability: Option<&'a str>,
    client_id: &'a str,
    timestamp: u128,
    nonce: String,
    mac: String,
}

async fn token(jwt: ReqData<ClerkJwt>, key: Data<ApiKey>) -> actix_web::Result<impl Responder> {
    let client_id = jwt.other.get("username").and_then(|username| username.as_str()).unwrap_or(&jwt.sub);
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_err(error::ErrorInternalServerError)?.as_millis();
    let nonce = format!("{:032x}", rand::random::<u128>());
    let text = format!("{}\n\n\n{client_id}\n{timestamp}\n{nonce}\n", key.name);
    let mut mac = Hmac::<Sha256>::new_from_slice(key.secret.as_bytes()).map_err(error::ErrorInternalServerError)?;
    mac.update(text.as_bytes());
    let mac = BASE64_STANDARD.encode(mac.finalize().into_bytes());
    Ok(HttpResponse::Ok().json(TokenRequest {
        key_name: &key.name,
        ttl: None,
        capability: None,
        client_id,
        timestamp,
        nonce,
        mac,
    }))
}

fn setting(name: &str) -> io::Result<String> {
    env::var(name).map_err(|error| io::Error::other(format!("{name}: {error}")))
}

#[actix_web::main]
async fn main() -> io::Result<()> {
    let port = setting("PORT")?.parse().map_err(io::Error::other)?;
    let clerk = ClerkConfiguration::new(setting("CLERK_SECRET_KEY")?)
        .with_base_path(format!("{}/v1", setting("CLERK_API_URL")?));
    let api_key = setting("ABLY_API_KEY")?;
    let (name, secret) = api_key.split_once(':').ok_or_else(|| io::Error::other("ABLY_API_KEY has no secret"))?;
    let key = Data::new(ApiKey { name: name.to_owned(), secret: secret.to_owned() });
    HttpServer::new(move || {
        let jwks = MemoryCacheJwksProvider::new(Clerk::new(clerk.clone()));
        App::new()
            .app_data(key.clone())
            .wrap(ClerkMiddleware::new(jwks, None, true))
            .route("/api/ably", web::get().to(token))
    })
    .bind(("127.0.0.1", port))?
    .run()
    .await
}

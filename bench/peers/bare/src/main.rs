//! actix-web alone, with an answer as long as a token request: what HTTP itself costs.

use std::{env, io};

use actix_web::{App, HttpResponse, HttpServer, Responder, http::header::ContentType, web};

const ANSWER: &str = r#"{"keyName":"aBcDeF.gHiJkL","ttl":3600000,"capability":"{\"[*]*\":[\"*\"]}","clientId":"user000000","timestamp":1790000000000,"nonce":"417a7749b1b0da7a6f14bd3de3aed483","mac":"x+WXsc+cy4Vxgr9lknfLF1xTQ2vAOpPDrN3mJ/rHrII="}"#;

async fn token() -> impl Responder {
    HttpResponse::Ok().content_type(ContentType::json()).body(ANSWER)
}

#[actix_web::main]
async fn main() -> io::Result<()> {
    let port = env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080);
    HttpServer::new(|| App::new().route("/api/ably", web::get().to(token))).bind(("127.0.0.1", port))?.run().await
}

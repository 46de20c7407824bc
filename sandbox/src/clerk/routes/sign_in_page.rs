//! A page with Clerk's sign-in, like the one that Clerk hosts for each development instance.

use actix_web::HttpResponse;
use actix_web::http::header::CACHE_CONTROL;
use actix_web::web::Data;
use serde_json::json;

use crate::clerk::instance::Instance;

const HTML: &str = include_str!("sign_in.html");

/// The page. After the sign-in it goes to its `redirect_url`, if that is on this machine or of an allowed origin.
pub(super) async fn page(instance: Data<Instance>) -> HttpResponse {
    // JSON in a script must not end the script.
    let origins = json!(instance.allowed_origins()).to_string().replace('<', "\\u003c");
    let html = HTML.replace("{key}", &instance.publishable_key).replace("{origins}", &origins);
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header(("X-Frame-Options", "DENY"))
        .body(html)
}

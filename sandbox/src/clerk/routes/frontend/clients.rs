//! The environment and the client, which clerk-js loads at first.

use actix_web::web::{Data, Json};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::page::Page;
use crate::clerk::api_error::{ApiError, ApiResult};
use crate::clerk::environment;
use crate::clerk::instance::Instance;
use crate::clerk::resources;

pub(super) async fn environment(instance: Data<Instance>) -> Json<Value> {
    Json(environment::environment(&instance.home()))
}

/// A new client. clerk-js keeps the id, and names the client by it from then on.
pub(super) async fn dev_browser(instance: Data<Instance>) -> Json<Value> {
    let client = instance.client(None).client;
    Json(json!({"object": "dev_browser", "id": client.dev_browser, "instance_id": instance.kid()}))
}

pub(super) async fn client(instance: Data<Instance>, request: HttpRequest) -> HttpResponse {
    show(&instance, &request)
}

/// `PUT` shows the client, and `DELETE` signs it out.
pub(super) async fn change_client(instance: Data<Instance>, request: HttpRequest) -> ApiResult {
    let page = Page::of(&request);
    match page.method() {
        "PUT" => {}
        "DELETE" => {
            instance.count(|calls| &mut calls.sign_outs);
            instance.remove_sessions(page.dev_browser());
        }
        _ => return Err(ApiError::not_found("Route")),
    }
    Ok(show(&instance, &request))
}

fn show(instance: &Instance, request: &HttpRequest) -> HttpResponse {
    let page = Page::of(request);
    let client = resources::client(instance, &instance.client(page.dev_browser()), page.origin.as_deref());
    HttpResponse::Ok().json(json!({"response": client, "client": null}))
}

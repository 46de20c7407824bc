//! What a page says about itself with each request.

use std::collections::HashMap;

use actix_web::http::header::{ORIGIN, REFERER};
use actix_web::web::Query;
use actix_web::{HttpRequest, HttpResponse};
use reqwest::Url;
use serde_json::{Value, json};

use crate::clerk::client::ClientState;
use crate::clerk::instance::Instance;
use crate::clerk::resources;

/// What a page says about itself with each request.
pub(super) struct Page {
    query: HashMap<String, String>,
    /// The `azp` of tokens for this page; `None` if the request does not say where it comes from.
    pub(super) origin: Option<String>,
}

impl Page {
    pub(super) fn of(request: &HttpRequest) -> Self {
        let query = Query::from_query(request.query_string()).map(Query::into_inner).unwrap_or_default();
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        // A page that reaches the Frontend API below its own origin sends no `Origin` with GET.
        let referrer = || Some(Url::parse(header(REFERER)?).ok()?.origin().ascii_serialization());
        let origin = header(ORIGIN).map(str::to_owned).or_else(referrer);
        Self { query, origin }
    }

    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// The token that names the client.
    pub(super) fn dev_browser(&self) -> Option<&str> {
        self.param("__clerk_db_jwt")
    }

    /// The method: clerk-js sends PUT, PATCH and DELETE as POST, which needs no preflight.
    pub(super) fn method(&self) -> &str {
        self.param("_method").unwrap_or("POST")
    }

    /// An object, and the client after the request, which clerk-js takes over.
    pub(super) fn answer(&self, instance: &Instance, response: &Value, client: Option<&ClientState>) -> HttpResponse {
        let client = client.map(|client| resources::client(instance, client, self.origin.as_deref()));
        HttpResponse::Ok().json(json!({"response": response, "client": client}))
    }
}

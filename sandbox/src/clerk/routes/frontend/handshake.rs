//! The handshake: a server of an app sends the browser here for cookies that are missing or out of date.

use actix_web::http::header::LOCATION;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use reqwest::Url;
use serde_json::json;

use super::page::Page;
use crate::clerk::api_error::{ApiError, ApiResult};
use crate::clerk::instance::Instance;
use crate::clerk::session::ActiveOrganization;
use crate::clerk::{handshake, publishable_key};

/// Redirects back to `redirect_url`, with the cookies in a signed token, or with `format=nonce` kept here for the
/// Backend API. `organization_id`, an id or a slug, is made active first.
pub(super) async fn handshake(instance: Data<Instance>, request: HttpRequest) -> ApiResult {
    let page = Page::of(&request);
    let mut target = page.param("redirect_url").and_then(|url| Url::parse(url).ok()).ok_or_else(bad_redirect)?;
    if !instance.allows_origin(&target.origin().ascii_serialization()) {
        return Err(bad_redirect());
    }
    let mut client = instance.client(page.dev_browser());
    if let (Some((session, user)), Some(choice)) = (client.active(), page.param("organization_id")) {
        instance.touch(&session.id, ActiveOrganization::chosen_by(user, choice));
        client = instance.client(Some(&client.client.dev_browser));
    }
    // A navigation has no `Origin`, so the token has no `azp`.
    let token = client.active().map(|(session, _)| instance.mint(&instance.session_claims(session, None)));
    let suffix = publishable_key::cookie_suffix(&instance.publishable_key);
    let directives = handshake::directives(&client, token.as_deref(), &suffix);
    let (name, value) = if page.param("format") == Some("nonce") {
        ("__clerk_handshake_nonce", instance.keep_handshake(directives))
    } else {
        ("__clerk_handshake", instance.mint(&json!({"handshake": directives})))
    };
    target.query_pairs_mut().append_pair(name, &value);
    Ok(HttpResponse::TemporaryRedirect().insert_header((LOCATION, target.as_str())).finish())
}

fn bad_redirect() -> ApiError {
    ApiError::bad_param("redirect_url must be an address of this machine or of an allowed origin.")
}

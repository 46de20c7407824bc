//! Request bodies: JSON or a form.

use std::collections::HashMap;

use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::Query;
use actix_web::{HttpMessage, HttpRequest};
use serde_json::{Map, Value};

use crate::clerk::api_error::ApiError;

/// The fields of the body. Values of a form are texts.
pub(super) fn params(request: &HttpRequest, body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if request.headers().contains_key(CONTENT_TYPE) && request.content_type() == "application/json" {
        return serde_json::from_slice(body).map_err(|_| ApiError::bad_param("The body must be a JSON object."));
    }
    let form = std::str::from_utf8(body).ok().and_then(|form| Query::<HashMap<String, String>>::from_query(form).ok());
    let form = form.ok_or_else(|| ApiError::bad_param("The body must be JSON or a form."))?.into_inner();
    Ok(form.into_iter().map(|(name, value)| (name, Value::String(value))).collect())
}

/// An optional text field.
pub(super) fn text(params: &Map<String, Value>, name: &str) -> Result<Option<String>, ApiError> {
    match params.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(ApiError::bad_param(format!("{name} must be a text."))),
    }
}

/// An optional object field; a form writes it as JSON.
pub(super) fn object(params: &Map<String, Value>, name: &str) -> Result<Option<Map<String, Value>>, ApiError> {
    let value = match params.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(json)) => serde_json::from_str(json).unwrap_or(Value::Null),
        Some(value) => value.clone(),
    };
    match value {
        Value::Object(object) => Ok(Some(object)),
        _ => Err(ApiError::bad_param(format!("{name} must be a JSON object."))),
    }
}

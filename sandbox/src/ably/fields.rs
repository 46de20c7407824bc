//! Optional fields of JSON objects.

use serde_json::{Map, Value};

use super::error::ErrorInfo;

/// A text field; `None` if it is missing or null. `wrong` is the error message for another type.
pub(crate) fn text(fields: &Map<String, Value>, name: &str, wrong: &'static str) -> Result<Option<String>, ErrorInfo> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(ErrorInfo::bad_request(wrong)),
    }
}

//! Ably's error shape: a code, an HTTP status and a sentence (`TI1`).

use serde_json::{Value, json};

/// An error in Ably's terms. The sentence is fixed and ASCII, because it also travels in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ErrorInfo {
    pub(crate) status: u16,
    pub(crate) code: u32,
    pub(crate) message: &'static str,
}

impl ErrorInfo {
    pub(crate) const fn new(status: u16, code: u32, message: &'static str) -> Self {
        Self { status, code, message }
    }

    /// 400 / 40000: invalid request.
    pub(crate) const fn bad_request(message: &'static str) -> Self {
        Self::new(400, 40000, message)
    }

    /// 401 / 40101: invalid credentials.
    pub(crate) const fn invalid_credentials(message: &'static str) -> Self {
        Self::new(401, 40101, message)
    }

    /// 401 / 40160: the capability does not allow it.
    pub(crate) const fn not_permitted(message: &'static str) -> Self {
        Self::new(401, 40160, message)
    }

    pub(crate) fn href(&self) -> String {
        format!("https://help.ably.io/error/{}", self.code)
    }

    /// The `error` object of an HTTP response or a protocol message.
    pub(crate) fn to_json(self) -> Value {
        json!({ "code": self.code, "statusCode": self.status, "message": self.message, "href": self.href() })
    }
}

//! Errors in the shape that an Ably SDK reads (TI*).

use serde::Serialize;

/// Ably's codes that this service uses.
///
/// Never 40102, 40171 or 40140 to 40149: an SDK would take those for Ably's own token errors.
pub mod code {
    /// The request is malformed.
    pub const BAD_REQUEST: u32 = 40000;
    /// A token param is invalid.
    pub const INVALID_PARAMETER: u32 = 40003;
    /// The client ID is invalid, or not the caller's.
    pub const INVALID_CLIENT_ID: u32 = 40012;
    /// The caller's credential is invalid.
    pub const INVALID_CREDENTIALS: u32 = 40101;
    /// The policy grants nothing of the request.
    pub const NOT_PERMITTED: u32 = 40160;
    /// The caller is known and not allowed.
    pub const FORBIDDEN: u32 = 40300;
    /// Unknown route.
    pub const NOT_FOUND: u32 = 40400;
    /// Unsupported method.
    pub const METHOD_NOT_ALLOWED: u32 = 40500;
    /// Rate limit exceeded.
    pub const RATE_LIMITED: u32 = 42910;
    /// Internal error.
    pub const INTERNAL: u32 = 50000;
    /// Clerk, Ably or Redis is unreachable.
    pub const UNREACHABLE: u32 = 50003;
}

/// The body of an error: `{"error": …}`. All fields are needed, or an SDK throws the message away.
#[derive(Debug, Serialize)]
pub struct ErrorBody {
    error: Error,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Error {
    code: u32,
    status_code: u16,
    message: String,
    href: String,
}

impl ErrorBody {
    /// A body whose message ends with `reason`, so that a user's report leads to the reason's row in the docs. `status` is
    /// the response's: an SDK believes this one.
    #[must_use]
    pub fn new(code: u32, status: u16, message: &str, reason: &str) -> Self {
        let message = format!("{message} ({reason})");
        let href = format!("https://help.ably.io/error/{code}");
        Self { error: Error { code, status_code: status, message, href } }
    }

    /// The message with its reason.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.error.message
    }
}

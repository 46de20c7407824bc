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

/// An error. All its fields are needed, or an SDK throws the message away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorInfo {
    /// Ably's code.
    pub code: u32,
    /// The HTTP status; always that of the response, for an SDK believes this one.
    pub status_code: u16,
    /// A fixed sentence in ASCII: it travels in a header too.
    pub message: &'static str,
}

/// An error as it travels: `{"error": …}`.
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

impl ErrorInfo {
    /// The body to answer with. Its message ends with `reason`, so that what a user reports leads to the reason's row in the
    /// docs; `href` is the address of Ably's page on the code.
    #[must_use]
    pub fn body(&self, reason: &str) -> ErrorBody {
        let Self { code, status_code, message } = *self;
        let message = format!("{message} ({reason})");
        ErrorBody { error: Error { code, status_code, message, href: format!("https://help.ably.io/error/{code}") } }
    }
}

impl ErrorBody {
    /// The message with its reason.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.error.message
    }
}

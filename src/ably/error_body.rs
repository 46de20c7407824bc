//! Errors in the shape that an Ably SDK reads (TI*).

use serde::Serialize;

/// The codes that this service answers with, as Ably defines them.
///
/// 40102, 40171 and 40140 to 40149 are never among them: an SDK would take those for a verdict of Ably's own.
pub mod code {
    /// The request is malformed.
    pub const BAD_REQUEST: u32 = 40000;
    /// A token param has a value that it cannot have.
    pub const INVALID_PARAMETER: u32 = 40003;
    /// The client ID is not one, or not the caller's.
    pub const INVALID_CLIENT_ID: u32 = 40012;
    /// The caller's credential does not hold.
    pub const INVALID_CREDENTIALS: u32 = 40101;
    /// The capability allows none of it.
    pub const NOT_PERMITTED: u32 = 40160;
    /// The caller is known, and not allowed.
    pub const FORBIDDEN: u32 = 40300;
    /// There is no such route.
    pub const NOT_FOUND: u32 = 40400;
    /// The route has no such method.
    pub const METHOD_NOT_ALLOWED: u32 = 40500;
    /// Too much was asked for in too short a time.
    pub const RATE_LIMITED: u32 = 42910;
    /// Something is broken here.
    pub const INTERNAL: u32 = 50000;
    /// A party that is needed cannot be reached.
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

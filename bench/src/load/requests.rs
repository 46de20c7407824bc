//! Requests for tokens, as a browser's SDK sends them.

use std::sync::Arc;

use crate::tokens::Pool;

/// The page that session tokens are made for.
pub(crate) const ORIGIN: &str = "http://localhost:3000";

/// How often session tokens are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// Each once.
    Once,
    /// The first so many, again and again.
    Cycle(usize),
}

/// A sequence of requests. They differ by their session token.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    tokens: Option<Arc<Pool>>,
    order: Order,
    /// The suffix of the cookies' names. None: the token is in the `Authorization` header.
    cookie_suffix: Option<String>,
}

impl Requests {
    pub(crate) fn with_tokens(tokens: Arc<Pool>, order: Order) -> Self {
        Self { tokens: Some(tokens), order, cookie_suffix: None }
    }

    /// The same requests with Clerk's cookies, as clerk-js writes them: under plain names and with this suffix.
    #[must_use]
    pub(crate) fn in_cookies(self, suffix: String) -> Self {
        Self { cookie_suffix: Some(suffix), ..self }
    }

    /// Requests without a session token.
    pub(crate) fn signed_out() -> Self {
        Self { tokens: None, order: Order::Cycle(1), cookie_suffix: None }
    }

    /// Whether there is a request at this position.
    pub(crate) fn has(&self, position: usize) -> bool {
        match (&self.tokens, self.order) {
            (Some(tokens), Order::Once) => position < tokens.len(),
            (_, Order::Cycle(_)) | (None, _) => true,
        }
    }

    /// Writes the request at this position.
    pub(crate) fn write(&self, position: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(
            b"GET /api/ably HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: bench\r\nAccept: */*\r\nOrigin: ",
        );
        out.extend_from_slice(ORIGIN.as_bytes());
        if let Some(tokens) = &self.tokens {
            let position = match self.order {
                Order::Once => position,
                Order::Cycle(length) => position % length,
            };
            let token = tokens.get(position);
            let field = match &self.cookie_suffix {
                None => format!("\r\nAuthorization: Bearer {token}"),
                Some(suffix) => format!(
                    "\r\nCookie: __client_uat=1; __client_uat_{suffix}=1; __clerk_db_jwt=dvb_1; \
                     __clerk_db_jwt_{suffix}=dvb_1; __session={token}; __session_{suffix}={token}"
                ),
            };
            out.extend_from_slice(field.as_bytes());
        }
        out.extend_from_slice(b"\r\n\r\n");
    }
}

//! A client for the parts of Ably's REST API that the service needs.

use std::time::Duration;

use reqwest::{RequestBuilder, Response, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

use super::{
    api_key::{ApiKey, KeyName},
    revocation::{ReauthMargin, Request, RevocationResponse, Target, TargetOutcome},
    token_details::TokenDetails,
    token_request::TokenRequest,
};
use crate::{
    clock::{ClockOffset, ClockWatch, UnixMillis},
    outgoing::{causes, read_json, retry_after, send, url},
};

/// Ably's REST API at one address.
#[derive(Clone, Debug)]
pub struct RestClient {
    base: Url,
    http: reqwest::Client,
    clock: ClockWatch,
}

/// Why a call to Ably failed.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// No complete response in time.
    #[error("no answer from Ably: {}", causes(.0))]
    Unreachable(#[source] reqwest::Error),
    /// An error status without an error of Ably's: from something in front of Ably.
    #[error("Ably answered with status {status}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// The value of `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// An error of Ably's.
    #[error("Ably answered with status {} and code {}", .0.status, .0.code)]
    Refused(AblyRefusal),
    /// A response that differs from Ably's documentation.
    #[error("Ably's answer differs from its documentation")]
    Malformed,
}

/// An error of Ably's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AblyRefusal {
    /// The HTTP status: 400 to 599.
    pub status: u16,
    /// Ably's code.
    pub code: u32,
    /// The value of `Retry-After`.
    pub retry_after: Option<Duration>,
}

impl RestError {
    /// Whether an immediate retry may succeed.
    pub(super) fn is_worth_a_retry(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Status { status, .. } | Self::Refused(AblyRefusal { status, .. }) => *status >= 500,
            Self::Malformed => false,
        }
    }

    /// Whether a later retry may succeed, without a change at Ably.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Malformed | Self::Status { .. } => true,
            Self::Refused(AblyRefusal { status, .. }) => *status >= 500 || [408, 429].contains(status),
        }
    }

    /// Whether Ably may have refused a call because of only one of its targets, rather than the key or the app.
    #[must_use]
    pub fn may_concern_one_target(&self) -> bool {
        let Self::Refused(AblyRefusal { status, code, .. }) = self else { return false };
        !self.is_temporary() && ![401, 403, 404].contains(status) && !(40_100..40_200).contains(code)
    }

    /// The value of `Retry-After`.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } | Self::Refused(AblyRefusal { retry_after, .. }) => *retry_after,
            Self::Unreachable(_) | Self::Malformed => None,
        }
    }

    /// Ably's code, if it gave one.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        match self {
            Self::Refused(AblyRefusal { code, .. }) => Some(*code),
            Self::Unreachable(_) | Self::Status { .. } | Self::Malformed => None,
        }
    }
}

impl RestClient {
    const TIMEOUT: Duration = Duration::from_secs(2);

    /// The version of Ably's protocol (CSV2).
    const VERSION: &str = "3";

    /// The maximum number of targets of one `revokeTokens` call.
    pub const MAX_TARGETS: usize = 100;

    /// A client for the API at `base`.
    #[must_use]
    pub fn new(base: Url, http: reqwest::Client) -> Self {
        Self { base, http, clock: ClockWatch::default() }
    }

    /// The same client, which reports Ably's clock to `clock`.
    #[must_use]
    pub fn with_clock(self, clock: ClockWatch) -> Self {
        Self { clock, ..self }
    }

    /// The offset of our clock from Ably's (RSC16).
    pub async fn clock_offset(&self) -> Result<ClockOffset, RestError> {
        let call = self.http.get(url(&self.base, &["time"])).timeout(Self::TIMEOUT);
        let (response, arrival) = send(call).await.map_err(RestError::Unreachable)?;
        if !response.status().is_success() {
            let (status, retry_after) = (response.status().as_u16(), retry_after(&response));
            return Err(RestError::Status { status, retry_after });
        }
        let [millis]: [i64; 1] = read_json(response, RestError::Unreachable, RestError::Malformed).await?;
        Ok(arrival.clock_offset_from(UnixMillis(millis)))
    }

    /// Exchanges a token request for a token (RSA8a). Ably accepts each token request once.
    pub async fn request_token(&self, token_request: &TokenRequest) -> Result<TokenDetails, RestError> {
        let call = self.post(token_request.key_name(), "requestToken").json(token_request);
        let details: TokenDetails = self.send(call).await?;
        if details.matches(token_request) { Ok(details) } else { Err(RestError::Malformed) }
    }

    /// Revokes tokens that a key issued, at most [`RestClient::MAX_TARGETS`] targets at once. Returns the outcomes in the
    /// order of the targets.
    pub async fn revoke_tokens(
        &self,
        api_key: &ApiKey,
        targets: &[Target],
        margin: ReauthMargin,
    ) -> Result<Vec<TargetOutcome>, RestError> {
        let (name, secret) = api_key.basic_auth();
        let call = self.post(name, "revokeTokens").basic_auth(name, Some(secret)).json(&Request::new(targets, margin));
        let response: RevocationResponse = self.send(call).await?;
        Ok(response.outcomes(targets))
    }

    async fn send<T: DeserializeOwned>(&self, call: RequestBuilder) -> Result<T, RestError> {
        let (response, arrival) = send(call).await.map_err(RestError::Unreachable)?;
        let offset = arrival.clock_offset(&response);
        let outcome = if response.status().is_success() {
            read_json(response, RestError::Unreachable, RestError::Malformed).await
        } else {
            Err(read_error(response).await)
        };
        // Something in front of Ably may have a different clock.
        if matches!(outcome, Ok(_) | Err(RestError::Refused(_))) {
            self.clock.observe(offset);
        }
        outcome
    }

    fn post(&self, key: &KeyName, method: &str) -> RequestBuilder {
        let call = self.http.post(url(&self.base, &["keys", key.as_str(), method]));
        call.header("X-Ably-Version", Self::VERSION).timeout(Self::TIMEOUT)
    }
}

/// Reads an error response. Without a code of Ably's it comes from something in front of Ably.
async fn read_error(response: Response) -> RestError {
    #[derive(Deserialize)]
    struct ErrorEnvelope {
        error: Error,
    }
    #[derive(Deserialize)]
    struct Error {
        code: u32,
    }
    let (status, retry_after) = (response.status(), retry_after(&response));
    let is_error = status.is_client_error() || status.is_server_error();
    let code = read_json(response, |_| (), ()).await.ok().map(|ErrorEnvelope { error }| error.code);
    // Ably's codes have five digits, or six (103009).
    let code = code.filter(|code| (10_000..1_000_000).contains(code));
    let status = status.as_u16();
    match code {
        Some(code) if is_error => RestError::Refused(AblyRefusal { status, code, retry_after }),
        None if status == StatusCode::TOO_MANY_REQUESTS => {
            RestError::Refused(AblyRefusal { status, code: 42900, retry_after })
        }
        _ => RestError::Status { status, retry_after },
    }
}

//! The little of Ably's REST API that the service calls.

use std::time::Duration;

use reqwest::{RequestBuilder, Response, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

use super::{
    AblyRefusal, ApiKey, KeyName, TokenDetails, TokenRequest,
    revocation::{ReauthMargin, Request, Response as Revoked, Target, TargetOutcome},
};
use crate::{
    clock::{ClockOffset, ClockWatch, UnixMillis},
    outgoing::{UnreadableBody, causes, read_json, retry_after, send},
};

/// Ably's REST API at one address.
#[derive(Clone, Debug)]
pub struct RestClient {
    base: Url,
    http: reqwest::Client,
    clock: ClockWatch,
}

/// Why a call to Ably gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// No answer in time.
    #[error("no answer from Ably: {}", causes(.0))]
    Unreachable(#[source] reqwest::Error),
    /// An answer that says no.
    #[error("Ably answered with status {status}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// When to ask again, if the answer says.
        retry_after: Option<Duration>,
    },
    /// An answer that says no, and why.
    #[error("Ably answered with status {} and code {}", .0.status, .0.code)]
    Refused(AblyRefusal),
    /// An answer that is not what Ably documents.
    #[error("Ably's answer is not what it documents")]
    Malformed,
}

impl RestError {
    /// Whether the same call may well succeed the next moment.
    pub(super) fn is_worth_a_retry(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Status { status, .. } | Self::Refused(AblyRefusal { status, .. }) => *status >= 500,
            Self::Malformed => false,
        }
    }

    /// Whether trying again later can help at all, or somebody has to change something at Ably first.
    #[must_use]
    pub fn passes_by_itself(&self) -> bool {
        match self {
            // A status without Ably's code is of something that stands before Ably.
            Self::Unreachable(_) | Self::Malformed | Self::Status { .. } => true,
            Self::Refused(AblyRefusal { status, .. }) => *status >= 500 || [408, 429].contains(status),
        }
    }

    /// Whether Ably may refuse a call because of one of its targets, and take the others: not when the key or the app is at
    /// fault.
    #[must_use]
    pub fn may_be_of_one_target(&self) -> bool {
        let Self::Refused(AblyRefusal { status, code, .. }) = self else { return false };
        !self.passes_by_itself() && ![401, 403, 404].contains(status) && !(40_100..40_200).contains(code)
    }

    /// When to ask again, if Ably says.
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

impl From<UnreadableBody> for RestError {
    fn from(error: UnreadableBody) -> Self {
        match error {
            UnreadableBody::Interrupted(error) => Self::Unreachable(error),
            UnreadableBody::Malformed => Self::Malformed,
        }
    }
}

impl RestClient {
    const TIMEOUT: Duration = Duration::from_secs(2);

    /// The version of Ably's protocol that answers are read by (CSV2).
    const VERSION: &str = "3";

    /// The most targets of one call of `revokeTokens`.
    pub const MOST_TARGETS: usize = 100;

    /// A client for the API at `base`.
    #[must_use]
    pub fn new(base: Url, http: reqwest::Client) -> Self {
        Self { base, http, clock: ClockWatch::default() }
    }

    /// The same client, whose calls are observed by `clock`.
    #[must_use]
    pub fn observed_by(self, clock: ClockWatch) -> Self {
        Self { clock, ..self }
    }

    /// How far our clock is ahead of Ably's (RSC16).
    pub async fn clock_offset(&self) -> Result<ClockOffset, RestError> {
        let call = self.http.get(self.url(&["time"])).timeout(Self::TIMEOUT);
        let (response, arrival) = send(call).await.map_err(RestError::Unreachable)?;
        if !response.status().is_success() {
            let (status, retry_after) = (response.status().as_u16(), retry_after(&response));
            return Err(RestError::Status { status, retry_after });
        }
        let [millis]: [i64; 1] = read_json(response).await?;
        Ok(arrival.clock_offset_from(UnixMillis(millis)))
    }

    /// The token that a token request is worth (RSA8a). A token request is taken once.
    pub async fn request_token(&self, token_request: &TokenRequest) -> Result<TokenDetails, RestError> {
        let call = self.post_of_key(token_request.key_name(), "requestToken").json(token_request);
        let details: TokenDetails = self.answer_to(call).await?;
        if details.answers(token_request) { Ok(details) } else { Err(RestError::Malformed) }
    }

    /// Revokes tokens that were issued with a key, as many as [`RestClient::MOST_TARGETS`] at once. The outcomes are in
    /// the order of the targets.
    pub async fn revoke_tokens(
        &self,
        api_key: &ApiKey,
        targets: &[Target],
        margin: ReauthMargin,
    ) -> Result<Vec<TargetOutcome>, RestError> {
        let (name, secret) = api_key.basic_auth();
        let call = self.post_of_key(name, "revokeTokens").basic_auth(name, Some(secret));
        Ok(self.answer_to::<Revoked>(call.json(&Request::new(targets, margin))).await?.outcomes(targets))
    }

    /// What Ably answers, or its refusal.
    async fn answer_to<T: DeserializeOwned>(&self, call: RequestBuilder) -> Result<T, RestError> {
        let (response, arrival) = send(call).await.map_err(RestError::Unreachable)?;
        let offset = arrival.clock_offset(&response);
        let answer = if response.status().is_success() {
            read_json(response).await.map_err(RestError::from)
        } else {
            Err(refused(response).await)
        };
        // Something else that stands before Ably may have a clock of its own.
        if matches!(answer, Ok(_) | Err(RestError::Refused(_))) {
            self.clock.observe(offset);
        }
        answer
    }

    fn post_of_key(&self, name: &KeyName, what: &str) -> RequestBuilder {
        let call = self.http.post(self.url(&["keys", name.as_str(), what]));
        call.header("X-Ably-Version", Self::VERSION).timeout(Self::TIMEOUT)
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }
}

/// Ably's error, if it is one: what stands before Ably may have errors of its own.
async fn refused(response: Response) -> RestError {
    #[derive(Deserialize)]
    struct Body {
        error: Error,
    }
    #[derive(Deserialize)]
    struct Error {
        code: u32,
    }
    let (status, retry_after) = (response.status(), retry_after(&response));
    let is_error = status.is_client_error() || status.is_server_error();
    let code = read_json(response).await.ok().map(|Body { error }| error.code);
    // Five digits, or six (103009).
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

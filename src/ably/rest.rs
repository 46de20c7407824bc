//! The little of Ably's REST API that the service calls.

use std::time::Duration;

use url::Url;

use crate::{
    clock::UnixMillis,
    outgoing::{UnreadableBody, causes, read_json},
};

/// Ably's REST API at one address.
#[derive(Clone, Debug)]
pub struct RestClient {
    base: Url,
    http: reqwest::Client,
}

/// Why a call to Ably gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// No answer in time.
    #[error("no answer from Ably: {}", causes(.0))]
    Unreachable(#[source] reqwest::Error),
    /// An answer that says no.
    #[error("Ably answered with status {0}")]
    Status(u16),
    /// An answer that is not what Ably documents.
    #[error("Ably's answer is not what it documents")]
    Malformed,
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

    /// A client for the API at `base`.
    #[must_use]
    pub fn new(base: Url, http: reqwest::Client) -> Self {
        Self { base, http }
    }

    /// Ably's clock (RSC16).
    pub async fn time(&self) -> Result<UnixMillis, RestError> {
        let url = format!("{}/time", self.base.as_str().trim_end_matches('/'));
        let response = self.http.get(url).timeout(Self::TIMEOUT).send().await.map_err(unreachable)?;
        if !response.status().is_success() {
            return Err(RestError::Status(response.status().as_u16()));
        }
        let [millis]: [i64; 1] = read_json(response).await?;
        Ok(UnixMillis(millis))
    }
}

fn unreachable(error: reqwest::Error) -> RestError {
    RestError::Unreachable(error.without_url())
}

//! Exchanges token requests for tokens at Ably, where the service does it rather than its client.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::runtime::Handle;

use super::{NoRandomness, RestClient, RestError, TokenDetails, TokenRequest};

/// Ably, asked for tokens.
#[derive(Clone, Debug)]
pub struct Exchange {
    rest: RestClient,
    /// The runtime that calls run on, so that a client that goes away does not take a pooled connection with it.
    runtime: Handle,
    counts: ExchangeCounts,
}

/// How exchanges ended since the start, each with its retry. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct ExchangeCounts {
    /// Ably gave a token.
    pub given: Counter,
    /// Ably said no.
    pub refused: Counter,
    /// Ably did not answer, or not as it documents.
    pub unavailable: Counter,
}

/// What went wrong with an exchange, for the log.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// At Ably, or on the way.
    #[error(transparent)]
    Rest(#[from] RestError),
    /// Before it.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// Why there is no token, for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoToken {
    /// Ably says no.
    #[error("Ably refuses the token request with status {} and code {}", .0.status, .0.code)]
    Refused(AblyRefusal),
    /// Ably did not answer, or not as it documents.
    #[error("Ably cannot be asked for a token now")]
    Unavailable,
    /// No nonce could be made.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// An error of Ably's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AblyRefusal {
    /// The HTTP status: 400 to 599.
    pub status: u16,
    /// Ably's code.
    pub code: u32,
    /// When to ask again, if Ably says.
    pub retry_after: Option<Duration>,
}

impl Exchange {
    /// Tokens by `rest`; calls run on `runtime`, and how they end is counted by `counts`.
    #[must_use]
    pub fn new(rest: RestClient, runtime: Handle, counts: ExchangeCounts) -> Self {
        Self { rest, runtime, counts }
    }

    /// A token for what `sign` signs. Tried twice when Ably cannot be reached or fails, each time with what `sign` then
    /// gives: a nonce that may have arrived is spent (40105).
    pub async fn token(
        &self,
        sign: impl Fn() -> Result<TokenRequest, NoRandomness>,
    ) -> Result<TokenDetails, ExchangeError> {
        let mut outcome = self.attempt(sign()?).await;
        if outcome.as_ref().is_err_and(RestError::is_worth_a_retry) {
            outcome = self.attempt(sign()?).await;
        }
        match &outcome {
            Ok(_) => &self.counts.given,
            Err(RestError::Refused(_)) => &self.counts.refused,
            Err(_) => &self.counts.unavailable,
        }
        .inc();
        Ok(outcome?)
    }

    async fn attempt(&self, token_request: TokenRequest) -> Result<TokenDetails, RestError> {
        let rest = self.rest.clone();
        let call = self.runtime.spawn(async move { rest.request_token(&token_request).await });
        // A task ends early only with its runtime, hence with the service.
        call.await.unwrap_or(Err(RestError::Malformed))
    }
}

impl From<ExchangeError> for NoToken {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Rest(RestError::Refused(refusal)) => Self::Refused(refusal),
            ExchangeError::Rest(_) => Self::Unavailable,
            ExchangeError::NoRandomness(error) => Self::NoRandomness(error),
        }
    }
}

#[cfg(test)]
mod tests;

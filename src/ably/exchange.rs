//! Exchanges token requests for tokens at Ably on behalf of the client.

use prometheus_client::metrics::counter::Counter;

use super::{
    rest::{RestClient, RestError},
    token_details::TokenDetails,
    token_request::{NoRandomness, TokenRequest},
};
use crate::detached::Detached;

/// Gets tokens from Ably.
#[derive(Clone, Debug)]
pub struct Exchange {
    rest: RestClient,
    detached: Detached,
    counts: ExchangeCounts,
}

/// Counts of exchanges by outcome; a call and its retry count once. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct ExchangeCounts {
    /// Ably issued a token.
    pub given: Counter,
    /// Ably refused.
    pub refused: Counter,
    /// Ably was unreachable, or its response malformed.
    pub unavailable: Counter,
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The call failed.
    #[error(transparent)]
    Rest(#[from] RestError),
    /// The token request could not be signed.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

impl Exchange {
    /// Gets tokens by `rest`, and counts the outcomes in `counts`.
    #[must_use]
    pub fn new(rest: RestClient, detached: Detached, counts: ExchangeCounts) -> Self {
        Self { rest, detached, counts }
    }

    /// Exchanges what `sign` signs for a token. Retries once if Ably is unreachable or fails, with a newly signed request:
    /// Ably may have used the first nonce (40105).
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
        let call = self.detached.run(async move { rest.request_token(&token_request).await });
        // The task ends early only when the service stops.
        call.await.unwrap_or(Err(RestError::Malformed))
    }
}

#[cfg(test)]
mod tests;

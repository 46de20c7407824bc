//! Exchanges token requests for tokens at Ably on behalf of the client.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::runtime::Handle;

use super::{
    error_info::{ErrorInfo, code},
    rest::{AblyRefusal, RestClient, RestError},
    token_details::TokenDetails,
    token_request::{NoRandomness, TokenRequest},
};

/// Gets tokens from Ably.
#[derive(Clone, Debug)]
pub struct Exchange {
    rest: RestClient,
    /// The runtime for calls, so that a client that disconnects does not close a pooled connection.
    runtime: Handle,
    counts: ExchangeCounts,
}

/// Counts of exchanges by outcome; a retry does not count apart. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct ExchangeCounts {
    /// Ably issued a token.
    pub given: Counter,
    /// Ably refused.
    pub refused: Counter,
    /// Ably was unreachable, or its response malformed.
    pub unavailable: Counter,
}

/// Why an exchange failed, for the log.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The call failed.
    #[error(transparent)]
    Rest(#[from] RestError),
    /// The token request could not be signed.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// Why an exchange failed, for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoToken {
    /// Ably refused.
    #[error("Ably refuses the token request with status {} and code {}", .0.status, .0.code)]
    Refused(AblyRefusal),
    /// Ably was unreachable, or its response malformed.
    #[error("Ably cannot be asked for a token now")]
    Unavailable,
    /// No randomness for a nonce.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

impl Exchange {
    /// What a client is told to wait when Ably says nothing of it.
    const RETRY_AFTER: Duration = Duration::from_secs(5);

    /// Gets tokens by `rest` on `runtime`, and counts the outcomes in `counts`.
    #[must_use]
    pub fn new(rest: RestClient, runtime: Handle, counts: ExchangeCounts) -> Self {
        Self { rest, runtime, counts }
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
        let call = self.runtime.spawn(async move { rest.request_token(&token_request).await });
        // The task ends early only when the service stops.
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

impl NoToken {
    /// What the client reads: Ably's own verdict, unless an SDK would take it for one on its user. A 401 of Ably's is on
    /// this service's key or clock; 40102 and 40171 end a connection for good; 40140 to 40149 are for tokens.
    #[must_use]
    pub fn error_info(&self) -> ErrorInfo {
        let (code, status_code, message) = match *self {
            Self::NoRandomness(_) => (code::INTERNAL, 500, "Something is broken in the token service."),
            Self::Unavailable => (code::UNREACHABLE, 503, "Ably cannot be asked for a token now. Try again soon."),
            Self::Refused(refusal) if refusal.is_about_the_service() => (
                code::UNREACHABLE,
                503,
                "Ably does not take this service's token requests now. The service's log has Ably's code.",
            ),
            Self::Refused(AblyRefusal { code, status, .. }) => (code, status, sentence(code, status)),
        };
        ErrorInfo { code, status_code, message }
    }

    /// When it is worth asking again, for what is not the caller's fault: within a minute, whatever Ably says.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        const LONGEST: Duration = Duration::from_mins(1);
        match self {
            Self::NoRandomness(_) => None,
            Self::Unavailable => Some(Exchange::RETRY_AFTER),
            Self::Refused(refusal) => {
                let passes = refusal.status == 429 || refusal.status >= 500 || refusal.is_about_the_service();
                passes.then(|| refusal.retry_after.unwrap_or(Exchange::RETRY_AFTER).min(LONGEST))
            }
        }
    }
}

impl AblyRefusal {
    fn is_about_the_service(&self) -> bool {
        self.status == 401 || matches!(self.code, 40102 | 40140..=40149 | 40171)
    }
}

fn sentence(code: u32, status: u16) -> &'static str {
    match (code, status) {
        (_, 429) | (42900..=42999, _) => "Ably limits its rate now. Try again later.",
        (_, 500..) => "Ably failed to make a token. Try again soon.",
        (40003, _) => "Ably refuses the ttl of the token request.",
        (40012, _) => "Ably refuses the client ID of the token request.",
        (40160..=40169, _) => "The Ably API key has none of the capability that was asked for.",
        (_, 403) => "Ably does not allow this token request.",
        (_, 404) => "Ably does not know the API key of this service.",
        _ => "Ably refuses the token request.",
    }
}

#[cfg(test)]
mod tests;

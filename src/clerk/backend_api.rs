//! A client for the parts of Clerk's Backend API that the service needs.

use std::time::Duration;

use reqwest::{
    StatusCode,
    header::{AUTHORIZATION, HeaderValue},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

use crate::outgoing::{causes, read_json, retry_after, send, url};

/// The Backend API of one instance.
#[derive(derive_more::Debug)]
#[debug("BackendApi {{ base: {:?}, .. }}", base.as_str())]
pub struct BackendApi {
    base: Url,
    secret_key: SecretString,
    http: reqwest::Client,
}

/// A user's record.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct User {
    /// `user_…`
    pub id: String,
    /// `None` if the instance or the user has no usernames.
    pub username: Option<String>,
    /// Banned from signing in.
    pub banned: bool,
    /// Removed by the directory that the user comes from; counts as banned.
    #[serde(default)]
    pub deprovisioned: bool,
}

/// Why a call to the Backend API failed.
#[derive(Debug, thiserror::Error)]
pub enum BackendApiError {
    /// Clerk does not have the record.
    #[error("Clerk does not have this record")]
    NotFound,
    /// The secret key is invalid.
    #[error("Clerk rejects the secret key (status {0})")]
    Unauthorized(u16),
    /// Too many calls; retry after the given time, if Clerk gave one.
    #[error("Clerk's rate limit is reached")]
    RateLimited(Option<Duration>),
    /// Another error status.
    #[error("Clerk answered with status {0}")]
    Status(u16),
    /// No complete response in time.
    #[error("no answer from Clerk: {}", causes(.0))]
    Unreachable(#[source] reqwest::Error),
    /// A response that differs from Clerk's documentation.
    #[error("Clerk's answer differs from its documentation")]
    Malformed,
}

impl BackendApiError {
    fn is_worth_a_retry(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Status(500..))
    }
}

impl BackendApi {
    const TIMEOUT: Duration = Duration::from_secs(2);
    const VERSION: &str = "2026-05-12";

    /// The API at `base`, e.g. `https://api.clerk.com`.
    #[must_use]
    pub fn new(base: Url, secret_key: SecretString, http: reqwest::Client) -> Self {
        Self { base, secret_key, http }
    }

    /// The user with this id. Retries once if Clerk is unreachable or fails.
    pub async fn user(&self, id: &str) -> Result<User, BackendApiError> {
        let url = url(&self.base, &["v1", "users", id]);
        let user: User = match self.get(url.clone()).await {
            Err(error) if error.is_worth_a_retry() => self.get(url).await?,
            result => result?,
        };
        if user.id == id { Ok(user) } else { Err(BackendApiError::Malformed) }
    }

    /// The users created last, at most `limit`.
    pub async fn newest_users(&self, limit: u16) -> Result<Vec<User>, BackendApiError> {
        let mut url = url(&self.base, &["v1", "users"]);
        url.query_pairs_mut().append_pair("limit", &limit.to_string()).append_pair("order_by", "-created_at");
        self.get(url).await
    }

    async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<T, BackendApiError> {
        let request = self
            .http
            .get(url)
            .header(AUTHORIZATION, bearer(self.secret_key.expose_secret()))
            .header("Clerk-API-Version", Self::VERSION)
            .timeout(Self::TIMEOUT);
        let (response, _) = send(request).await.map_err(BackendApiError::Unreachable)?;
        match response.status() {
            StatusCode::OK => read_json(response, BackendApiError::Unreachable, BackendApiError::Malformed).await,
            StatusCode::NOT_FOUND => Err(BackendApiError::NotFound),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(BackendApiError::Unauthorized(status.as_u16()))
            }
            StatusCode::TOO_MANY_REQUESTS => Err(BackendApiError::RateLimited(retry_after(&response))),
            status => Err(BackendApiError::Status(status.as_u16())),
        }
    }
}

/// The `Authorization` header with a secret key, marked as sensitive so that client libraries do not log it.
pub(super) fn bearer(secret_key: &str) -> HeaderValue {
    // The configuration has checked that a secret key is ASCII without spaces.
    let mut value =
        HeaderValue::try_from(format!("Bearer {secret_key}")).unwrap_or_else(|_| HeaderValue::from_static("Bearer"));
    value.set_sensitive(true);
    value
}

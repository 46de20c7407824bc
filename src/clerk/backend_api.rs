//! The little of Clerk's Backend API that the service calls.

use std::{fmt, time::Duration};

use reqwest::{
    StatusCode,
    header::{AUTHORIZATION, HeaderValue},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

use crate::outgoing::{UnreadableBody, causes, read_json, retry_after};

/// The Backend API of one instance.
pub struct BackendApi {
    base: Url,
    secret_key: SecretString,
    http: reqwest::Client,
}

/// What is known of a user.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct User {
    /// `user_…`
    pub id: String,
    /// Null in an instance or for a user without usernames.
    pub username: Option<String>,
    /// Barred from signing in.
    pub banned: bool,
    /// Barred like `banned`, by the directory that the user comes from.
    #[serde(default)]
    pub deprovisioned: bool,
    /// When the record last changed, in milliseconds since the epoch.
    pub updated_at: i64,
}

/// Why a call to the Backend API gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum BackendApiError {
    /// No such record.
    #[error("Clerk knows no such record")]
    NotFound,
    /// The secret key is not one of the instance.
    #[error("Clerk refuses the secret key (status {0})")]
    Unauthorized(u16),
    /// Too many calls; to be repeated after the given time, if Clerk gave one.
    #[error("Clerk's rate limit is reached")]
    RateLimited(Option<Duration>),
    /// An answer that says no.
    #[error("Clerk answered with status {0}")]
    Status(u16),
    /// No answer in time.
    #[error("no answer from Clerk: {}", causes(.0))]
    Unreachable(#[source] reqwest::Error),
    /// An answer that is not what Clerk documents.
    #[error("Clerk's answer is not what it documents")]
    Malformed,
}

impl From<UnreadableBody> for BackendApiError {
    fn from(error: UnreadableBody) -> Self {
        match error {
            UnreadableBody::Interrupted(error) => Self::Unreachable(error),
            UnreadableBody::Malformed => Self::Malformed,
        }
    }
}

impl BackendApiError {
    fn is_worth_a_retry(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Status(500..))
    }
}

impl fmt::Debug for BackendApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendApi").field("base", &self.base.as_str()).finish_non_exhaustive()
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

    /// The user of that id. Tried twice when Clerk cannot be reached or fails.
    pub async fn user(&self, id: &str) -> Result<User, BackendApiError> {
        let url = self.url(&["v1", "users", id]);
        let user: User = match self.get(url.clone()).await {
            Err(error) if error.is_worth_a_retry() => self.get(url).await?,
            answer => answer?,
        };
        if user.id == id { Ok(user) } else { Err(BackendApiError::Malformed) }
    }

    /// The users that were created last, at most `limit` of them.
    pub async fn newest_users(&self, limit: u16) -> Result<Vec<User>, BackendApiError> {
        let mut url = self.url(&["v1", "users"]);
        url.query_pairs_mut().append_pair("limit", &limit.to_string()).append_pair("order_by", "-created_at");
        self.get(url).await
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<T, BackendApiError> {
        let response = self
            .http
            .get(url)
            .header(AUTHORIZATION, bearer(self.secret_key.expose_secret()))
            .header("Clerk-API-Version", Self::VERSION)
            .timeout(Self::TIMEOUT)
            .send()
            .await
            .map_err(|error| BackendApiError::Unreachable(error.without_url()))?;
        match response.status() {
            StatusCode::OK => Ok(read_json(response).await?),
            StatusCode::NOT_FOUND => Err(BackendApiError::NotFound),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(BackendApiError::Unauthorized(status.as_u16()))
            }
            StatusCode::TOO_MANY_REQUESTS => Err(BackendApiError::RateLimited(retry_after(&response))),
            status => Err(BackendApiError::Status(status.as_u16())),
        }
    }
}

/// The `Authorization` header with a secret key, marked so that no client library logs it.
pub(super) fn bearer(secret_key: &str) -> HeaderValue {
    // A secret key was checked to be ASCII without spaces when it was configured.
    let mut value =
        HeaderValue::try_from(format!("Bearer {secret_key}")).unwrap_or_else(|_| HeaderValue::from_static("Bearer"));
    value.set_sensitive(true);
    value
}

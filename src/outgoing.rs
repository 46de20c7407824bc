//! Outgoing HTTP, as every client of this crate uses it: no redirects, bounded answers, errors that say their cause.

use std::error::Error;

use reqwest::{Client, Response, redirect::Policy};
use serde::de::DeserializeOwned;

/// The client for all outgoing calls. It follows no redirect: every address comes from the configuration.
pub(crate) fn client() -> reqwest::Result<Client> {
    Client::builder()
        .redirect(Policy::none())
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Reads a JSON body of reasonable size; nothing when it is not the JSON wanted, or does not come whole.
pub(crate) async fn read_json<T: DeserializeOwned>(mut response: Response) -> Option<T> {
    const LARGEST: usize = 1024 * 1024;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        if body.len() + chunk.len() > LARGEST {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).ok()
}

/// What went wrong, down to the first cause: reqwest's own message stops before "connection refused".
pub(crate) fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

//! Outgoing HTTP, as every client of this crate uses it: no redirects, bounded answers, errors that say their cause.

use std::{env, error::Error, time::Duration};

use reqwest::{Client, NoProxy, Proxy, Response, header::RETRY_AFTER, redirect::Policy};
use serde::de::DeserializeOwned;

/// The client for all outgoing calls. It follows no redirect: every address comes from the configuration.
///
/// `HTTPS_PROXY` and `NO_PROXY` are honoured. `HTTP_PROXY` is not: plain HTTP is for addresses on this machine, and a
/// proxy would carry secrets away from it in clear.
pub(crate) fn client() -> reqwest::Result<Client> {
    let mut builder = Client::builder().redirect(Policy::none()).no_proxy().user_agent(concat!(
        env!("CARGO_PKG_NAME"),
        "/",
        env!("CARGO_PKG_VERSION")
    ));
    let proxy = ["HTTPS_PROXY", "https_proxy"].iter().find_map(|name| env::var(name).ok());
    if let Some(proxy) = proxy.filter(|proxy| !proxy.is_empty()) {
        builder = builder.proxy(Proxy::https(proxy)?.no_proxy(NoProxy::from_env()));
    }
    builder.build()
}

/// Why a body could not be read as the JSON wanted.
#[derive(Debug)]
pub(crate) enum UnreadableBody {
    /// It did not come whole, or not in time.
    Interrupted(reqwest::Error),
    /// It is too large, or not what the other side documents.
    Malformed,
}

/// Reads a JSON body of reasonable size.
pub(crate) async fn read_json<T: DeserializeOwned>(mut response: Response) -> Result<T, UnreadableBody> {
    const LARGEST: usize = 1024 * 1024;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| UnreadableBody::Interrupted(error.without_url()))? {
        if body.len() + chunk.len() > LARGEST {
            return Err(UnreadableBody::Malformed);
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).map_err(|_| UnreadableBody::Malformed)
}

/// How long the other side wants to be left alone; only the form in seconds is read.
pub(crate) fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
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

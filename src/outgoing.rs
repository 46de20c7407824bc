//! Outgoing HTTP for every client of this crate: no redirects, bounded responses, errors with their cause.

use std::{
    env,
    error::Error,
    time::{Duration, Instant},
};

use reqwest::{
    Client, NoProxy, Proxy, RequestBuilder, Response,
    header::{AGE, DATE, HeaderMap, RETRY_AFTER},
    redirect::Policy,
};
use serde::de::DeserializeOwned;
use url::Url;

use crate::clock::{ClockOffset, UnixMillis};

/// The client for all outgoing calls. It follows no redirects, because every address comes from the configuration.
///
/// It uses `HTTPS_PROXY` and `NO_PROXY`, and ignores `HTTP_PROXY`: plain HTTP is for addresses on this machine, and a
/// proxy would send secrets across the network unencrypted.
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

/// When a response arrived, and how long after its request was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    received_at: UnixMillis,
    round_trip: Duration,
}

/// Sends a request and measures the time. Errors do not contain its URL.
pub(crate) async fn send(request: RequestBuilder) -> reqwest::Result<(Response, Arrival)> {
    let sent_at = Instant::now();
    let response = request.send().await.map_err(reqwest::Error::without_url)?;
    Ok((response, Arrival { received_at: UnixMillis::now(), round_trip: sent_at.elapsed() }))
}

impl Arrival {
    /// Compares our clock with the response's `Date`. `None` if that is missing or unusable.
    pub(crate) fn clock_offset(self, response: &Response) -> Option<ClockOffset> {
        const RESOLUTION: Duration = Duration::from_secs(1);
        let date = date(response.headers())?;
        Some(ClockOffset::of_answer(date, RESOLUTION, self.received_at, self.round_trip))
    }

    /// Compares our clock with a time in milliseconds from the response.
    pub(crate) fn clock_offset_from(self, time: UnixMillis) -> ClockOffset {
        const RESOLUTION: Duration = Duration::from_millis(1);
        ClockOffset::of_answer(time, RESOLUTION, self.received_at, self.round_trip)
    }
}

/// The time at which a response was made, in whole seconds (RFC 9110 section 6.6.1). `None` if it comes from a cache
/// (RFC 9111 section 5.1).
fn date(headers: &HeaderMap) -> Option<UnixMillis> {
    let is_fresh = headers.get(AGE).is_none_or(|age| age == "0");
    let date = headers.get(DATE).filter(|_| is_fresh)?.to_str().ok()?;
    Some(httpdate::parse_http_date(date).ok()?.into())
}

/// The address of a path below `base`. Each segment is escaped.
pub(crate) fn url(base: &Url, path: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    url
}

/// Reads a JSON body of at most 1 MiB. The error is `unreachable` if the body breaks off or times out, and `malformed` if
/// it is too large or of another form.
pub(crate) async fn read_json<T: DeserializeOwned, E>(
    mut response: Response,
    unreachable: impl Fn(reqwest::Error) -> E,
    malformed: E,
) -> Result<T, E> {
    const MAX_BYTES: usize = 1024 * 1024;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(error.without_url()))? {
        if body.len() + chunk.len() > MAX_BYTES {
            return Err(malformed);
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).map_err(|_| malformed)
}

/// The value of `Retry-After`, if it is in seconds.
pub(crate) fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// An error with all its causes: reqwest's own message lacks the "connection refused".
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

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn a_response_has_a_time_unless_its_date_is_missing_malformed_or_from_a_cache() {
        const DATE: &str = "Tue, 14 Nov 2023 22:13:20 GMT";
        for (headers, expected) in [
            (&[("date", DATE)][..], Some(UnixMillis(1_700_000_000_000))),
            (&[("date", DATE), ("age", "0")], Some(UnixMillis(1_700_000_000_000))),
            (&[("date", DATE), ("age", "7")], None),
            (&[("date", DATE), ("age", "x")], None),
            (&[], None),
            (&[("date", "")], None),
            (&[("date", "1700000000")], None),
            (&[("date", "Tue, 14 Nov 2023 22:13:20 +0000")], None),
            (&[("date", "Tue, 32 Nov 2023 22:13:20 GMT")], None),
            (&[("date", "\u{e9}")], None),
        ] {
            let header = |(name, value): &(&'static str, &str)| {
                (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
            };
            assert_eq!(date(&headers.iter().map(header).collect()), expected, "{headers:?}");
        }
    }
}

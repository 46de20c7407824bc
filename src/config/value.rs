//! Parsers of the kinds of value that several sections have. Errors say what is wanted and do not repeat the value.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use url::Url;

/// A span of time with its unit.
pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    const LONGEST: Duration = Duration::from_hours(30 * 24);
    let duration = humantime::parse_duration(text).map_err(|_| "not a span of time; write it with a unit, like 30m")?;
    if duration > LONGEST { Err("longer than 30 days") } else { Ok(duration) }
}

/// `true` or `false`.
pub(super) fn boolean(text: &str) -> Result<bool, &'static str> {
    text.parse().map_err(|_| "neither true nor false")
}

/// An address to listen on.
pub(super) fn ip_address(text: &str) -> Result<IpAddr, &'static str> {
    if text == "localhost" {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    text.parse().map_err(|_| "not an IP address; use 127.0.0.1, or 0.0.0.0 to listen on all addresses")
}

/// The base of an API. Keys and secrets travel there, so it must be https, save on this machine.
pub(super) fn base_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "not a URL; write it like https://api.example.com")?;
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err("a URL with a user, a query or a fragment; write scheme, host and path only");
    }
    match url.scheme() {
        "https" if url.has_host() => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => Err("http would let anyone on the way read secrets and forge keys; use https"),
        _ => Err("not an https URL"),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(url::Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

/// An origin, exactly as browsers write it: Clerk compares `azp` exactly, and so do we.
pub(super) fn origin(text: &str) -> Result<String, String> {
    if text == "*" {
        return Err("* is not an origin: cookies and tokens must not be answered to any page; list the origins".into());
    }
    let wanted = "write scheme and host, and the port if it is not the usual one, like https://app.example.com";
    let url = Url::parse(text).map_err(|_| format!("an origin is not a URL; {wanted}"))?;
    let written = match url.scheme() {
        "http" | "https" => url.origin().ascii_serialization(),
        // Apps in a native shell have schemes of their own.
        scheme => match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{scheme}://{host}:{port}"),
            (Some(host), None) => format!("{scheme}://{host}"),
            (None, _) => return Err(format!("an origin has no host; {wanted}")),
        },
    };
    if written == text {
        Ok(written)
    } else {
        Err(format!(
            "an origin is not written as browsers write it: no path, no slash at the end, lower case; {wanted}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_taken_only_as_browsers_write_it() {
        for good in ["https://app.example.com", "http://localhost:3000", "capacitor://localhost", "http://[::1]:8080"] {
            assert_eq!(origin(good).as_deref(), Ok(good));
        }
        for bad in [
            "*",
            "null",
            "app.example.com",
            "https://app.example.com/",
            "https://App.example.com",
            "https://app.example.com:443",
            "https://app.example.com/path",
            "https://user@app.example.com",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_travel_over_https_or_stay_on_this_machine() {
        for good in ["https://api.clerk.com", "http://127.0.0.1:3001/__clerk", "http://localhost:1", "http://[::1]:1"] {
            assert!(base_url(good).is_ok(), "{good}");
        }
        for bad in ["http://api.clerk.com", "ftp://x", "api.clerk.com", "https://u:p@api.clerk.com", "https://x/?a=b"] {
            assert!(base_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_duration_has_a_unit_and_an_end() {
        assert_eq!(duration("30m"), Ok(Duration::from_mins(30)));
        assert!(duration("30").is_err());
        assert!(duration("1000years").is_err());
    }
}

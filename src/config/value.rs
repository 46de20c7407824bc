//! Parsers for the kinds of value that several sections have. An error says what is wrong, then what to write, and never
//! repeats the value.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use serde::de::DeserializeOwned;
use url::Url;

/// A duration with its unit.
pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    const MAX: Duration = Duration::from_hours(30 * 24);
    let duration =
        humantime::parse_duration(text).map_err(|_| "not a duration; write a number with a unit, like 30m")?;
    if duration > MAX { Err("longer than 30 days; write 30days or less") } else { Ok(duration) }
}

/// How long a denial lasts.
pub(super) fn denial_ttl(text: &str) -> Result<Duration, &'static str> {
    const SHORTEST: Duration = Duration::from_mins(2);
    let ttl = duration(text)?;
    if ttl < SHORTEST { Err("under 2m, so session tokens could outlive their denial; use 2m or more") } else { Ok(ttl) }
}

/// The variant of this name, if there is one.
pub(super) fn variant<T: DeserializeOwned>(name: &str) -> Option<T> {
    serde_json::from_value(name.into()).ok()
}

/// `true` or `false`.
pub(super) fn boolean(text: &str) -> Result<bool, &'static str> {
    text.parse().map_err(|_| "not a boolean; write true or false")
}

/// An address to listen on.
pub(super) fn ip_address(text: &str) -> Result<IpAddr, &'static str> {
    if text == "localhost" {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    // An IPv6 address may stand in brackets, as in a URL.
    let in_brackets = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = in_brackets.map_or_else(|| text.parse().ok(), |text| text.parse().ok().map(IpAddr::V6));
    address.ok_or(
        "not an IP address; use 127.0.0.1 for this machine only, 0.0.0.0 for all IPv4 addresses, or :: for all addresses \
         of IPv4 and IPv6",
    )
}

/// A port to listen on. `zero` says what 0 means.
pub(super) fn port(text: &str, zero: &str) -> Result<u16, String> {
    text.parse().map_err(|_| {
        if text.contains("://") {
            "a URL, not a port. Kubernetes sets this variable for a Service of that name; set enableServiceLinks: false \
             in the pod's spec, or rename the Service"
                .to_owned()
        } else {
            format!("not a port; use a number from 1 to 65535, or 0 for {zero}")
        }
    })
}

/// The base URL of an API. It receives keys and secrets, so it must be https, except on this machine.
pub(super) fn base_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "not a URL; write it like https://api.example.com")?;
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err("a URL with a user, a query or a fragment; write scheme, host and path only");
    }
    if url.host_str().is_some_and(|host| host.contains('*')) {
        return Err("a URL with a wildcard; write one host name");
    }
    match url.scheme() {
        "https" if url.has_host() => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => Err("http, with which others on the network can read secrets and forge keys; use https"),
        _ => Err("not an https URL; write it like https://api.example.com"),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// An origin, exactly as browsers write it: Clerk compares `azp` exactly, and so does this service.
pub(super) fn origin(text: &str) -> Result<String, &'static str> {
    const INCOMPLETE: &str = "an origin lacks its scheme or its host; write both, like https://app.example.com";
    if text == "*" {
        return Err("* is not an origin: it would let every page read tokens; list the origins");
    }
    if text.contains('*') {
        return Err(
            "an origin with a wildcard matches no page: origins are compared exactly. List the origins; for preview \
             deployments, use a development instance of Clerk and leave the authorized parties unset",
        );
    }
    if text.contains([' ', '\t', '\n', '"', '\'', ';']) {
        return Err("an origin has spaces or quotes in it; separate origins with commas, without quotes");
    }
    let (scheme, rest) = text.split_once("://").ok_or(INCOMPLETE)?;
    let url = Url::parse(text).map_err(|_| INCOMPLETE)?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or(INCOMPLETE)?;
    let is_web = ["http", "https"].contains(&url.scheme());
    if url.is_special() && !is_web {
        return Err("an origin has a scheme that pages cannot have; use https, http, or that of your native app");
    }
    if rest.contains(['/', '?', '#', '\\']) {
        return Err("an origin has a path, a slash at the end, a query or a fragment; end it after host or port");
    }
    if rest.contains('@') {
        return Err("an origin has a user or a password; remove both");
    }
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("an origin has upper case; write it in lower case, as browsers do");
    }
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    if format!("{host}{port}") == rest && !host.split('.').any(str::is_empty) {
        Ok(format!("{scheme}://{rest}"))
    } else if is_web && url.port().is_none() && rest.strip_prefix(host).is_some_and(|rest| rest.starts_with(':')) {
        Err("an origin names the default port of its scheme, which browsers leave out; remove the port")
    } else {
        Err("an origin has a host that browsers write differently; copy it from the Origin header of a request")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_valid_only_as_browsers_write_it() {
        for good in [
            "https://app.example.com",
            "http://localhost:3000",
            "capacitor://localhost",
            "chrome-extension://abcdefghijklmnop",
            "http://[::1]:8080",
            "https://xn--mnchen-3ya.example",
        ] {
            assert_eq!(origin(good).as_deref(), Ok(good));
        }
        for (bad, why) in [
            ("*", "* is not an origin"),
            ("https://*.vercel.app", "a wildcard"),
            ("https://app-*.vercel.app", "a wildcard"),
            ("http://localhost:*", "a wildcard"),
            ("*.example.com", "a wildcard"),
            ("https://a.example https://b.example", "spaces or quotes"),
            ("[\"https://a.example\"", "spaces or quotes"),
            ("null", "lacks its scheme"),
            ("app.example.com", "lacks its scheme"),
            ("localhost:3000", "lacks its scheme"),
            ("https://", "lacks its scheme"),
            ("file://", "lacks its scheme"),
            ("wss://app.example.com", "a scheme that pages cannot"),
            ("ftp://app.example.com", "a scheme that pages cannot"),
            ("https://app.example.com/", "a path, a slash"),
            ("https://app.example.com/path", "a path, a slash"),
            ("capacitor://localhost/", "a path, a slash"),
            ("https://app.example.com?a=b", "a path, a slash"),
            ("https://user@app.example.com", "a user or a password"),
            ("https://app.example.com:443", "the default port"),
            ("http://app.example.com:80", "the default port"),
            ("https://app.example.com:", "the default port"),
            ("https://App.example.com", "upper case"),
            ("HTTPS://app.example.com", "upper case"),
            ("chrome-extension://ABC", "upper case"),
            ("https://m\u{fc}nchen.example", "a host that browsers"),
            ("https://.example.com", "a host that browsers"),
            ("https://app.example.com.", "a host that browsers"),
            ("http://app.example.com:08080", "a host that browsers"),
            ("http://127.1", "a host that browsers"),
            ("http://[0:0::1]:8080", "a host that browsers"),
        ] {
            assert!(origin(bad).unwrap_err().contains(why), "{bad}");
        }
    }

    #[test]
    fn an_ipv6_address_may_stand_in_brackets() {
        for (text, address) in [("::", "::"), ("[::]", "::"), ("[::1]", "::1"), ("0.0.0.0", "0.0.0.0")] {
            assert_eq!(ip_address(text), Ok(address.parse().unwrap()));
        }
        for bad in ["[0.0.0.0]", "[::", "::]", "[]", "[::]:80", "*", ""] {
            assert!(ip_address(bad).unwrap_err().contains(":: for all addresses of IPv4 and IPv6"), "{bad}");
        }
    }

    #[test]
    fn secrets_travel_over_https_or_stay_on_this_machine() {
        for good in ["https://api.clerk.com", "http://127.0.0.1:3001/__clerk", "http://localhost:1", "http://[::1]:1"] {
            assert!(base_url(good).is_ok(), "{good}");
        }
        for bad in [
            "http://api.clerk.com",
            "ftp://x",
            "api.clerk.com",
            "https://u:p@api.clerk.com",
            "https://x/?a=b",
            "https://*.x",
        ] {
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

//! Protection against DNS rebinding: a page whose name an attacker resolves to this machine can reach a listener on loopback
//! through the visitor's browser. Its requests carry that name as `Host`, so only names that no page can have are accepted.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, header::HOST, uri::Authority};

/// Whether the `Host` header is an IP address or `localhost`, which no name server resolves.
pub(super) fn is_of_this_machine(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => is_address_or_localhost(host),
        _ => false,
    }
}

fn is_address_or_localhost(host: &HeaderValue) -> bool {
    let Some(authority) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else { return false };
    let host = authority.host();
    let ip = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || ip.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_accepted(hosts: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_static(host));
        }
        is_of_this_machine(&headers)
    }

    #[test]
    fn only_an_address_or_localhost_is_of_this_machine() {
        for host in ["127.0.0.1:9464", "10.0.0.1", "[::1]:9464", "localhost", "LOCALHOST:1"] {
            assert!(is_accepted(&[host]), "{host}");
        }
        for host in ["", "evil.example:9464", "localhost.evil.example", "127.0.0.1.evil.example", "a@b@c"] {
            assert!(!is_accepted(&[host]), "{host}");
        }
        assert!(!is_accepted(&[]));
        assert!(!is_accepted(&["localhost", "evil.example"]));
        assert!(!is_accepted(&["localhost", "localhost"]));
    }
}

//! The client address of a request: the peer of the connection or, behind trusted proxies, the address that they received it
//! from.
//!
//! Each proxy appends the address of its peer to `Forwarded` (RFC 7239) or `X-Forwarded-For`. The client can send anything
//! before that. So the lists are read from the right, and only as far as a trusted proxy wrote them. Libraries read them from
//! the left, where a client writes, or reject the whole list for one malformed part, which a client could send to hide.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// The networks whose forwarding headers are trusted.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

/// Why a text is not a network to trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidProxyNetwork {
    /// Neither a network nor an address.
    #[error("not a network; write it like 10.0.0.0/8 or 2001:db8::/32, or one address")]
    Malformed,
    /// Far larger than the network of anyone's proxies: `0.0.0.0/1` and `128.0.0.0/1` together are every address.
    #[error(
        "a network larger than a /8 of IPv4 or a /7 of IPv6: every client in it could write any address into the log; \
         name your proxies' networks"
    )]
    TooLarge,
    /// An address in a network.
    #[error("a network has bits set behind its prefix; write 10.0.0.0/8, not 10.1.2.3/8")]
    HostBits,
    /// IPv4 written as IPv6, which no address ever matches.
    #[error("a network of IPv4 addresses written as IPv6; write it as IPv4")]
    MappedIpv4,
}

/// Parses the network of proxies, or the address of one.
pub fn proxy_network(text: &str) -> Result<IpNet, InvalidProxyNetwork> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| InvalidProxyNetwork::Malformed)?,
    };
    match network {
        IpNet::V4(v4) if v4.prefix_len() < 8 => Err(InvalidProxyNetwork::TooLarge),
        IpNet::V6(v6) if v6.prefix_len() < 7 => Err(InvalidProxyNetwork::TooLarge),
        network if network != network.trunc() => Err(InvalidProxyNetwork::HostBits),
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => Err(InvalidProxyNetwork::MappedIpv4),
        network => Ok(network),
    }
}

impl TrustedProxies {
    /// The most addresses that are followed from the right.
    pub const MAX_HOPS: usize = 16;

    /// Makes the list of these networks.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// The client of a request, given the values of all its `Forwarded` and `X-Forwarded-For` headers.
    ///
    /// The search goes from right to left. It ends at the first address that is not trusted, and before anything that is not
    /// an address (`unknown`, an obfuscated identifier, something malformed).
    ///
    /// A proxy that writes one of the two headers passes on the other as the client sent it, and the service does not know
    /// which one it writes. So if both are there and lead to different addresses, the result is the peer.
    #[must_use]
    pub fn client_address(&self, peer: IpAddr, forwarded: &[&[u8]], x_forwarded_for: &[&[u8]]) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.trusts(peer) {
            return peer;
        }
        let by_forwarded = || self.follow(peer, forwarded.iter().rev().flat_map(|value| in_forwarded(value)));
        let by_x_forwarded_for =
            || self.follow(peer, x_forwarded_for.iter().rev().flat_map(|value| in_x_forwarded_for(value)));
        match (forwarded, x_forwarded_for) {
            ([], _) => by_x_forwarded_for(),
            (_, []) => by_forwarded(),
            _ => Some(by_forwarded()).filter(|address| *address == by_x_forwarded_for()).unwrap_or(peer),
        }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The last address from the right that a trusted proxy wrote. `addresses` come from the right.
    fn follow(&self, peer: IpAddr, addresses: impl Iterator<Item = Option<IpAddr>>) -> IpAddr {
        let mut client = peer;
        for address in addresses.take(Self::MAX_HOPS).map_while(|address| address) {
            client = address;
            if !self.trusts(address) {
                break;
            }
        }
        client
    }
}

/// The parts of a value of `X-Forwarded-For` from the right: `None` for what is not an address.
fn in_x_forwarded_for(value: &[u8]) -> impl Iterator<Item = Option<IpAddr>> {
    value.rsplit(|byte| *byte == b',').map(|entry| node(entry.trim_ascii()))
}

/// The elements of a value of `Forwarded` from the right: `None` for one without an address.
fn in_forwarded(value: &[u8]) -> impl Iterator<Item = Option<IpAddr>> {
    value.rsplit(outside_quotes(b',')).map(forwarded_for)
}

/// The address in the parameter `for`. `None` if the element has an escaped character: no address needs one.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    if element.contains(&b'\\') {
        return None;
    }
    let mut found = None;
    for pair in element.split(outside_quotes(b';')) {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (pair.get(..equals)?, pair.get(equals + 1..)?);
        if name.trim_ascii().eq_ignore_ascii_case(b"for") && found.replace(value.trim_ascii()).is_some() {
            return None;
        }
    }
    let value = found?;
    let unquoted = value.strip_prefix(b"\"").map_or(Some(value), |rest| rest.strip_suffix(b"\""));
    node(unquoted?)
}

/// Finds a separator that is not part of a quoted string.
fn outside_quotes(separator: u8) -> impl FnMut(&u8) -> bool {
    let mut quoted = false;
    move |byte| {
        quoted ^= *byte == b'"';
        *byte == separator && !quoted
    }
}

/// The address of a node with or without a port (RFC 7239, section 6).
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let with_port = || text.parse::<SocketAddr>().ok().map(|socket| socket.ip());
    let address = text.parse().ok().or_else(with_port).or_else(in_brackets)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn proxies() -> TrustedProxies {
        TrustedProxies::new(["10.0.0.0/8", "2001:db8:1::/48"].map(|text| proxy_network(text).unwrap()).into())
    }

    fn client(peer: &str, forwarded: &[&str], x_forwarded_for: &[&str]) -> String {
        let forwarded: Vec<_> = forwarded.iter().map(|value| value.as_bytes()).collect();
        let x_forwarded_for: Vec<_> = x_forwarded_for.iter().map(|value| value.as_bytes()).collect();
        proxies().client_address(ip(peer), &forwarded, &x_forwarded_for).to_string()
    }

    #[test]
    fn a_peer_that_is_not_trusted_is_the_client_whatever_it_sends() {
        assert_eq!(client("192.0.2.1", &["for=10.0.0.1"], &["10.0.0.1, 1.2.3.4"]), "192.0.2.1");
        assert_eq!(client("::ffff:192.0.2.1", &[], &["1.2.3.4"]), "192.0.2.1");
        let untrusted = TrustedProxies::default();
        assert_eq!(untrusted.client_address(ip("10.0.0.1"), &[], &[b"1.2.3.4"]), ip("10.0.0.1"));
    }

    #[test]
    fn a_list_is_read_from_the_right_up_to_the_first_address_that_is_not_trusted() {
        for (values, address) in [
            (&["192.0.2.7"][..], "192.0.2.7"),
            (&["6.6.6.6, 192.0.2.7"], "192.0.2.7"),
            (&["6.6.6.6, 192.0.2.7, 10.0.0.2,10.0.0.3"], "192.0.2.7"),
            (&["6.6.6.6", "192.0.2.7", "10.0.0.2"], "192.0.2.7"),
            (&["10.0.0.2, 10.0.0.3"], "10.0.0.2"),
            (&["192.0.2.7:1234"], "192.0.2.7"),
            (&["192.0.2.7, [2001:db8:1::1]:80"], "192.0.2.7"),
            (&["2001:db8:2::1, 2001:db8:1::1"], "2001:db8:2::1"),
            (&["::ffff:192.0.2.7, ::ffff:10.0.0.2"], "192.0.2.7"),
        ] {
            assert_eq!(client("10.0.0.1", &[], values), address, "{values:?}");
            assert_eq!(client("2001:db8:1::9", &[], values), address, "{values:?}");
        }
        for (values, address) in [
            (&["for=192.0.2.7"][..], "192.0.2.7"),
            (&["for=6.6.6.6, For=\"192.0.2.7\";proto=https;by=10.0.0.1 , for=10.0.0.2"], "192.0.2.7"),
            (&["for=6.6.6.6", "proto=http; for=\"192.0.2.7:4711\""], "192.0.2.7"),
            (&["for=\"[2001:db8:2::1]:4711\""], "2001:db8:2::1"),
            (&["for=192.0.2.7;host=\"a,b;for=6.6.6.6\""], "192.0.2.7"),
            (&["for=\", for=192.0.2.7"], "192.0.2.7"),
            (&["for=\"6.6.6.6, for=192.0.2.7, for=\"10.0.0.2\""], "192.0.2.7"),
        ] {
            assert_eq!(client("10.0.0.1", values, &[]), address, "{values:?}");
        }
    }

    #[test]
    fn the_search_ends_before_what_is_not_an_address() {
        let ends = ["", " ", "unknown", "_hidden", "localhost", "192.0.2", "192.0.2.7:", "192.0.2.7:123456", "[::1"];
        for end in ends.into_iter().chain([
            "::1]",
            "[192.0.2.7]",
            "[::1]x",
            "192.0.2.7:_port",
            "fe80::1%eth0",
            "\"192.0.2.7\"",
            "1.2.3.4 5",
        ]) {
            assert_eq!(client("10.0.0.1", &[], &[&format!("6.6.6.6, {end}, 10.0.0.2")]), "10.0.0.2", "{end}");
            assert_eq!(client("10.0.0.1", &[], &[&format!("6.6.6.6, {end}")]), "10.0.0.1", "{end}");
        }
        for end in [
            "",
            "for",
            "by=192.0.2.7",
            "for=unknown",
            "for=\"_hidden\"",
            "for=192.0.2.7;for=192.0.2.7",
            "for=\"192.0.2.\\7\"",
            "for=\"192.0.2.7",
            "for=192.0.2.7;",
            "for=x192.0.2.7",
        ] {
            assert_eq!(client("10.0.0.1", &[&format!("for=6.6.6.6, {end}, for=10.0.0.2")], &[]), "10.0.0.2", "{end}");
        }
    }

    #[test]
    fn two_headers_that_contradict_each_other_are_both_ignored() {
        assert_eq!(client("10.0.0.1", &["for=192.0.2.7"], &["6.6.6.6, 192.0.2.7"]), "192.0.2.7");
        assert_eq!(client("10.0.0.1", &["for=6.6.6.6"], &["192.0.2.7"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["for=192.0.2.7"], &["6.6.6.6"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["nonsense"], &["192.0.2.7"]), "10.0.0.1");
    }

    #[test]
    fn only_16_hops_are_followed() {
        let through = |hops: usize| format!("192.0.2.7{}", ", 10.0.0.2".repeat(hops - 1));
        assert_eq!(client("10.0.0.1", &[], &[&through(TrustedProxies::MAX_HOPS)]), "192.0.2.7");
        assert_eq!(client("10.0.0.1", &[], &[&through(TrustedProxies::MAX_HOPS + 1)]), "10.0.0.2");
    }

    #[test]
    fn only_networks_of_proxies_can_be_trusted() {
        for good in ["10.0.0.0/8", "fc00::/7", "192.0.2.7", "192.0.2.7/32", "2001:db8::/32", "::1"] {
            assert!(proxy_network(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", InvalidProxyNetwork::Malformed),
            ("private", InvalidProxyNetwork::Malformed),
            ("10.0.0.0/33", InvalidProxyNetwork::Malformed),
            ("10.0.0/8", InvalidProxyNetwork::Malformed),
            ("10.1.2.3/8", InvalidProxyNetwork::HostBits),
            ("0.0.0.0/0", InvalidProxyNetwork::TooLarge),
            ("::/0", InvalidProxyNetwork::TooLarge),
            ("0.0.0.0/1", InvalidProxyNetwork::TooLarge),
            ("128.0.0.0/1", InvalidProxyNetwork::TooLarge),
            ("10.0.0.0/7", InvalidProxyNetwork::TooLarge),
            ("8000::/1", InvalidProxyNetwork::TooLarge),
            ("fc00::/6", InvalidProxyNetwork::TooLarge),
            ("::ffff:10.0.0.0/104", InvalidProxyNetwork::MappedIpv4),
            ("::ffff:10.0.0.1", InvalidProxyNetwork::MappedIpv4),
        ] {
            assert_eq!(proxy_network(bad), Err(why), "{bad}");
        }
    }

    fn anything() -> impl Strategy<Value = Vec<u8>> {
        let likely = prop::sample::select(b"for=\"\\,;: []._x16%=\xff".to_vec());
        prop::collection::vec(prop_oneof![4 => likely, 1 => any::<u8>()], 0..60)
    }

    /// An address in the trusted networks, or outside of them.
    fn address(trusted: bool) -> impl Strategy<Value = IpAddr> {
        let v4 = any::<[u8; 3]>().prop_map(move |[b, c, d]| IpAddr::from([if trusted { 10 } else { 192 }, b, c, d]));
        let v6 = any::<[u16; 5]>()
            .prop_map(move |[d, e, f, g, h]| IpAddr::from([0x2001, 0xdb8, if trusted { 1 } else { 2 }, d, e, f, g, h]));
        prop_oneof![v4, v6]
    }

    fn in_x(address: &IpAddr) -> String {
        address.to_string()
    }

    fn in_forwarded_form(address: &IpAddr) -> String {
        match address {
            IpAddr::V4(address) => format!("for={address}"),
            IpAddr::V6(address) => format!("proto=https;for=\"[{address}]:1\""),
        }
    }

    /// A header as it arrives: what the client sent, then what each proxy appended.
    fn arrived(sent: &[u8], written: &[String]) -> Vec<u8> {
        written.iter().fold(sent.to_vec(), |so_far, entry| {
            if so_far.is_empty() { entry.clone().into_bytes() } else { [&so_far[..], b", ", entry.as_bytes()].concat() }
        })
    }

    proptest! {
        /// The client's true address is found whatever the client sends: in one line or in several, in the header that the
        /// proxies write or, together with it, in the other one, which can only hide the address.
        #[test]
        fn what_a_client_sends_never_becomes_its_address(
            sent in anything(),
            sent_in_the_other in prop::option::of(anything()),
            client in address(false),
            between in prop::collection::vec(address(true), 0..5),
            peer in address(true),
        ) {
            let proxies = proxies();
            let hops: Vec<_> = [client].into_iter().chain(between).collect();
            let x: Vec<String> = hops.iter().map(in_x).collect();
            let forwarded: Vec<String> = hops.iter().map(in_forwarded_form).collect();
            let (one, separate) = (arrived(&sent, &x), arrived(b"", &x));
            prop_assert_eq!(proxies.client_address(peer, &[], &[&one]), client);
            prop_assert_eq!(proxies.client_address(peer, &[], &[&sent, &separate]), client);
            if let Some(other) = &sent_in_the_other {
                let found = proxies.client_address(peer, &[other], &[&one]);
                prop_assert!(found == client || found == peer, "{}", found);
            }
            let (one, separate) = (arrived(&sent, &forwarded), arrived(b"", &forwarded));
            prop_assert_eq!(proxies.client_address(peer, &[&one], &[]), client);
            prop_assert_eq!(proxies.client_address(peer, &[&sent, &separate], &[]), client);
            if let Some(other) = &sent_in_the_other {
                let found = proxies.client_address(peer, &[&one], &[other]);
                prop_assert!(found == client || found == peer, "{}", found);
            }
        }

        #[test]
        fn an_untrusted_peer_is_the_client_whatever_it_sends_to_this_service(
            sent in anything(),
            in_the_other in anything(),
            peer in address(false),
        ) {
            prop_assert_eq!(proxies().client_address(peer, &[&sent], &[&in_the_other]), peer);
        }
    }
}

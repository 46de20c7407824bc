//! Requests to a listener of the running service.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use reqwest::Client;

/// A client without proxy and TLS: a listener is on this machine or a private network.
pub(super) fn client(timeout: Duration) -> reqwest::Result<Client> {
    // Without certificates of its own, so that it works in a container that has none.
    Client::builder().tls_certs_only([]).no_proxy().timeout(timeout).build()
}

/// The URL of a path. A listener on all addresses is reached at loopback.
pub(super) fn url(listener: SocketAddr, path: &str) -> String {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("http://{}{path}", SocketAddr::new(ip, listener.port()))
}

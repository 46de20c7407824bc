//! `healthcheck`: for containers without a shell or curl.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use super::Failure;
use crate::{
    config::{Config, Sources},
    outgoing::causes,
};

pub(super) async fn run(config: Option<&Path>) -> Result<(), Failure> {
    let server = Config::server_only(&Sources::read(config))?;
    let url = format!("http://{}/healthz", reachable(server.address));
    // Plain HTTP, so that a container without CA certificates can be healthy.
    let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().timeout(Duration::from_secs(2)).build();
    let answer = match client {
        Ok(client) => client.get(&url).send().await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(response) if response.status().is_success() => Ok(()),
        Ok(response) => Err(Failure::Unhealthy(format!("{url} answered with status {}", response.status().as_u16()))),
        Err(error) => Err(Failure::Unhealthy(format!("no answer from {url}: {}", causes(&error.without_url())))),
    }
}

/// An address to connect to. "All addresses", where a listener may be, becomes loopback.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

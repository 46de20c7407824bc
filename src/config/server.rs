//! `[server]`: the public listener.

use std::net::SocketAddr;

use super::{reader::Reader, settings, value};
use crate::trusted_proxies::{TrustedProxies, proxy_network};

/// The settings of the public listener.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Its address. Port 0 takes any free one.
    pub address: SocketAddr,
    /// The proxies whose forwarding headers the log uses.
    pub trusted_proxies: TrustedProxies,
}

impl ServerConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let host = reader.value(&settings::SERVER_HOST, value::ip_address);
        let port = reader.value(&settings::SERVER_PORT, |text| value::port(text, "any free one"));
        let trusted_proxies = reader.list(&settings::SERVER_TRUSTED_PROXIES, proxy_network).unwrap_or_default();
        let address = SocketAddr::new(host?, port?);
        Some(Self { address, trusted_proxies: TrustedProxies::new(trusted_proxies) })
    }
}

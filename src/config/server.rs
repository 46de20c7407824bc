//! `[server]`: where the service listens, and whom it believes about who calls.

use std::net::{IpAddr, SocketAddr};

use super::{
    reader::Reader,
    settings::{SERVER_HOST, SERVER_PORT, SERVER_TRUSTED_PROXIES},
    value::{ip_address, port},
};
use crate::trusted_proxies::{TrustedProxies, proxy_network};

/// The settings of the public listener.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The address.
    pub host: IpAddr,
    /// The port; 0 for any that is free.
    pub port: u16,
    /// Whose forwarding headers are believed.
    pub trusted_proxies: TrustedProxies,
}

impl ServerConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let host = reader.or_default(&SERVER_HOST, "127.0.0.1", ip_address);
        let port = reader.or_default(&SERVER_PORT, "8080", |text| port(text, "any that is free"));
        let trusted_proxies = reader.list(&SERVER_TRUSTED_PROXIES, proxy_network).unwrap_or_default();
        Some(Self { host: host?, port: port?, trusted_proxies: TrustedProxies::new(trusted_proxies) })
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }
}

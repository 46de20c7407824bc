//! The client address of a request, for the log.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};

use crate::trusted_proxies::TrustedProxies;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The peer of the connection or, if it is a trusted proxy, the address in the request's headers.
pub(super) fn of(peer: IpAddr, headers: &HeaderMap, proxies: Option<&TrustedProxies>) -> IpAddr {
    let Some(proxies) = proxies else { return peer.to_canonical() };
    let values = |name| headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
    proxies.client_address(peer, &values(FORWARDED), &values(X_FORWARDED_FOR))
}

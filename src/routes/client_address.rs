//! The client address of a request, for the log.

use std::net::IpAddr;

use actix_web::{
    HttpRequest,
    http::header::{FORWARDED, HeaderName, HeaderValue, X_FORWARDED_FOR},
    web::Data,
};

use crate::trusted_proxies::TrustedProxies;

/// The peer of the connection or, if it is a trusted proxy, the address in its headers.
pub(super) fn of(request: &HttpRequest) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip();
    let Some(proxies) = request.app_data::<Data<TrustedProxies>>() else { return Some(peer.to_canonical()) };
    let values = |name: HeaderName| request.headers().get_all(name).map(HeaderValue::as_bytes).collect::<Vec<_>>();
    Some(proxies.client_address(peer, &values(FORWARDED), &values(X_FORWARDED_FOR)))
}

//! The client address of a request, for the log.

use std::net::IpAddr;

use actix_web::{
    HttpMessage as _, HttpRequest,
    http::header::{FORWARDED, HeaderName, HeaderValue, X_FORWARDED_FOR},
    web::Data,
};
use tracing::field::{DisplayValue, display};

use crate::trusted_proxies::TrustedProxies;

/// The peer of the connection or, if it is a trusted proxy, the address in its headers.
pub(super) fn of(request: &HttpRequest) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip();
    let Some(proxies) = request.app_data::<Data<TrustedProxies>>() else { return Some(peer.to_canonical()) };
    let values = |name: HeaderName| request.headers().get_all(name).map(HeaderValue::as_bytes).collect::<Vec<_>>();
    Some(proxies.client_address(peer, &values(FORWARDED), &values(X_FORWARDED_FOR)))
}

/// The address of the client, if the connection has one.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientAddress(Option<IpAddr>);

impl ClientAddress {
    /// By the connection and, if its peer is a trusted proxy, by the headers.
    pub(super) fn of(request: &HttpRequest) -> Self {
        Self(of(request))
    }

    /// The peer of a connection that brought no request.
    pub(super) fn of_peer(peer: Option<IpAddr>) -> Self {
        Self(peer.map(|peer| peer.to_canonical()))
    }

    /// What was found out when the request came in.
    pub(super) fn known(request: &HttpRequest) -> Self {
        request.extensions().get::<Self>().copied().unwrap_or(Self(None))
    }

    /// As a field of a log line, which is left out if there is no address.
    pub(super) fn field(self) -> Option<DisplayValue<IpAddr>> {
        self.0.map(display)
    }
}

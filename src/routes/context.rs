//! What the middleware and the handlers of a request share.

use std::{
    cell::{Cell, OnceCell},
    net::{IpAddr, SocketAddr},
    rc::Rc,
};

use actix_web::web::ReqData;
use http::HeaderMap;

use crate::{connection::RequestClock, limits::Allowance, tenant::TenantName};

/// The extractor of a request's context.
pub(super) type Context = ReqData<Rc<RequestContext>>;

/// What the middleware and the handlers of a request share.
#[derive(derive_more::Debug)]
#[debug("RequestContext {{ .. }}")]
pub(super) struct RequestContext {
    pub(super) headers: HeaderMap,
    pub(super) peer: Option<IpAddr>,
    pub(super) clock: Rc<RequestClock>,
    /// The tenant of the verified session.
    pub(super) tenant: OnceCell<TenantName>,
    /// None: the request was not counted.
    pub(super) allowance: Cell<Option<Allowance>>,
}

impl RequestContext {
    pub(super) fn new(headers: HeaderMap, peer: Option<SocketAddr>, clock: Rc<RequestClock>) -> Self {
        let peer = peer.map(|peer| peer.ip());
        Self { headers, peer, clock, tenant: OnceCell::new(), allowance: Cell::default() }
    }
}

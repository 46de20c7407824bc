//! An Actix app with its middleware, as the handler of a listener's connections.
//!
//! Actix uses the crate `http` 0.2 and hyper `http` 1. Headers of requests are not converted: Actix's own map stays empty, and
//! handlers read them from the [`RequestContext`].

use std::{net::IpAddr, rc::Rc};

use actix_http::{HttpMessage as _, Payload};
use actix_service::Service;
use actix_web::{
    Error, HttpResponse,
    body::{self, MessageBody as _},
    dev::ServiceResponse,
    error::PayloadError,
};
use futures_util::TryStreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, request::Parts};
use hyper::body::Bytes;

use super::{context::RequestContext, middleware::Middleware};
use crate::{
    connection::{Handler, Request},
    refusal::{Refusal, ReportedRefusal, USUAL_HEADERS},
};

/// An Actix app and its middleware.
#[derive(Debug)]
pub(crate) struct ActixHandler<A> {
    app: A,
    middleware: Middleware,
}

impl<A> ActixHandler<A> {
    pub(crate) fn new(app: A, middleware: Middleware) -> Self {
        Self { app, middleware }
    }
}

impl<A> Handler for ActixHandler<A>
where
    A: Service<actix_http::Request, Response = ServiceResponse, Error = Error, Future: 'static> + 'static,
{
    async fn answer(self: Rc<Self>, Request { head, body, peer, clock }: Request) -> Response<Bytes> {
        let Some(mut request) = actix_request(&head) else {
            return clock.refuse(400).await;
        };
        if let Some(body) = body {
            let body = body.map_err(|_| PayloadError::Incomplete(None));
            *request.payload() = Payload::Stream { payload: Box::pin(body) };
        }
        let context = Rc::new(RequestContext::new(head.headers, peer, clock));
        request.extensions_mut().insert(Rc::clone(&context));
        self.middleware.around(&context, self.answer_of_app(request)).await
    }

    fn refuse(&self, status: u16, head: &[u8], peer: Option<IpAddr>) -> Vec<u8> {
        self.middleware.refuse_unparsed(status, head, peer)
    }
}

impl<A: Service<actix_http::Request, Response = ServiceResponse, Error = Error>> ActixHandler<A> {
    async fn answer_of_app(&self, request: actix_http::Request) -> Response<Bytes> {
        let answered = self.app.call(request).await;
        let response = answered.map_or_else(HttpResponse::from_error, |answered| answered.into_parts().1);
        if let Some(refusal) = response.error().and_then(Error::as_error::<Refusal>) {
            self.middleware.report(refusal);
            return refusal.answer();
        }
        if let Some(ReportedRefusal(refusal)) = response.error().and_then(Error::as_error) {
            return refusal.answer();
        }
        hyper_response(response).await
    }
}

/// `None` if Actix's types reject what hyper's accept.
fn actix_request(head: &Parts) -> Option<actix_http::Request> {
    let mut request = actix_http::Request::with_payload(Payload::None);
    let actix = request.head_mut();
    actix.method = match head.method {
        Method::GET => actix_http::Method::GET,
        Method::POST => actix_http::Method::POST,
        _ => actix_http::Method::from_bytes(head.method.as_str().as_bytes()).ok()?,
    };
    actix.uri = match head.uri.path_and_query() {
        Some(target) if head.uri.authority().is_none() => target.as_str().parse().ok()?,
        _ => head.uri.to_string().parse().ok()?,
    };
    actix.version =
        if head.version == Version::HTTP_10 { actix_http::Version::HTTP_10 } else { actix_http::Version::HTTP_11 };
    Some(request)
}

async fn hyper_response(response: HttpResponse) -> Response<Bytes> {
    let (head, body) = response.into_parts();
    let bytes = match body.try_into_bytes() {
        Ok(bytes) => bytes,
        // The service's answers are in memory, so reading one cannot fail.
        Err(body) => body::to_bytes(body).await.unwrap_or_default(),
    };
    let mut answer = Response::new(bytes);
    *answer.status_mut() = StatusCode::from_u16(head.status().as_u16()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *answer.headers_mut() = HeaderMap::with_capacity(USUAL_HEADERS);
    for (name, value) in head.headers() {
        // hyper accepts every header that Actix accepts.
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_str().as_bytes()), HeaderValue::from_bytes(value.as_bytes()))
        {
            answer.headers_mut().append(name, value);
        }
    }
    answer
}

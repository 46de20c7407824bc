//! Who may use the admin listener.

use std::{net::SocketAddr, rc::Rc};

use actix_web::{
    Error, HttpMessage as _,
    body::{EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    middleware::Next,
    web::Data,
};
use http::{
    HeaderMap, HeaderValue,
    header::{AUTHORIZATION, ORIGIN},
};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{context::RequestContext, host};
use crate::refusal::Refusal;

/// Who may send operator requests: whoever shows the token; without a token, whoever is on this machine.
#[derive(Debug)]
pub struct Access {
    exposure: Exposure,
    token: Option<SecretString>,
}

/// From where the admin listener can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exposure {
    /// From this machine only.
    ThisMachine,
    /// From other machines too.
    OtherMachines,
}

impl Access {
    /// Access to a listener at `address` with this token.
    #[must_use]
    pub fn to(address: Option<SocketAddr>, token: Option<SecretString>) -> Self {
        let is_loopback = address.is_some_and(|address| address.ip().to_canonical().is_loopback());
        Self { exposure: if is_loopback { Exposure::ThisMachine } else { Exposure::OtherMachines }, token }
    }

    /// Checks the headers of an operator request. A browser on the operator's machine can reach the listener too, so requests
    /// of web pages are refused: they have an `Origin`, or after DNS rebinding a foreign `Host`.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if self.token.is_none() && self.exposure == Exposure::OtherMachines {
            return Err(Refusal::AdminTokenUnset);
        }
        if headers.contains_key(ORIGIN) {
            return Err(Refusal::AdminFromPage);
        }
        match &self.token {
            None if host::is_of_this_machine(headers) => Ok(()),
            None => Err(Refusal::AdminHost),
            Some(token) => {
                let mut given = headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes);
                match (given.next().and_then(bearer), given.next()) {
                    (Some(given), None) if is_same(given, token) => Ok(()),
                    (Some(_), None) => Err(Refusal::AdminTokenWrong),
                    _ => Err(Refusal::AdminTokenMissing),
                }
            }
        }
    }
}

fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// Compares in constant time.
fn is_same(given: &[u8], token: &SecretString) -> bool {
    Sha256::digest(given).ct_eq(&Sha256::digest(token.expose_secret())).into()
}

/// The middleware of the admin listener's read-only routes. Beyond loopback every `Host` is accepted: monitoring uses names.
pub(super) async fn check_host<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let access = request.app_data::<Data<Access>>();
    let is_exposed = access.is_some_and(|access| access.exposure == Exposure::OtherMachines);
    let is_local = |context: &Rc<RequestContext>| host::is_of_this_machine(&context.headers);
    if is_exposed || request.extensions().get().is_some_and(is_local) {
        Ok(next.call(request).await?.map_into_left_body())
    } else {
        Ok(request.error_response(Refusal::Host).map_into_right_body())
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, header::HOST};

    use super::*;

    fn admit(access: &Access, headers: &[(HeaderName, &'static str)]) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.clone(), HeaderValue::from_static(value));
        }
        access.admit(&map)
    }

    fn listener(address: &str, token: Option<&str>) -> Access {
        Access::to(Some(address.parse().unwrap()), token.map(Into::into))
    }

    #[test]
    fn without_a_token_requests_come_from_this_machine_only() {
        for loopback in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            let access = listener(loopback, None);
            for host in ["127.0.0.1:9464", "[::1]:9464", "localhost", "LOCALHOST:1"] {
                assert_eq!(admit(&access, &[(HOST, host)]), Ok(()), "{loopback} {host}");
            }
            for host in ["", "evil.example:9464", "localhost.evil.example", "127.0.0.1.evil.example", "a@b@c"] {
                assert_eq!(admit(&access, &[(HOST, host)]), Err(Refusal::AdminHost), "{loopback} {host}");
            }
            assert_eq!(admit(&access, &[]), Err(Refusal::AdminHost));
        }
        for open in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
            let access = listener(open, None);
            assert_eq!(admit(&access, &[(HOST, "127.0.0.1")]), Err(Refusal::AdminTokenUnset), "{open}");
        }
    }

    #[test]
    fn with_a_token_it_is_needed_wherever_the_listener_is() {
        for address in ["127.0.0.1:1", "0.0.0.0:1"] {
            let access = listener(address, Some("t0k3n"));
            for good in ["Bearer t0k3n", "bearer t0k3n"] {
                assert_eq!(admit(&access, &[(HOST, "admin.internal"), (AUTHORIZATION, good)]), Ok(()));
            }
            for wrong in ["Bearer t0k3", "Bearer t0k3nn", "Bearer T0K3N", "Bearer ", "Bearer  t0k3n"] {
                assert_eq!(admit(&access, &[(AUTHORIZATION, wrong)]), Err(Refusal::AdminTokenWrong), "{wrong}");
            }
            for none in ["", "t0k3n", "Basic t0k3n"] {
                assert_eq!(admit(&access, &[(AUTHORIZATION, none)]), Err(Refusal::AdminTokenMissing), "{none}");
            }
            assert_eq!(admit(&access, &[(HOST, "127.0.0.1")]), Err(Refusal::AdminTokenMissing));
            let twice = [(AUTHORIZATION, "Bearer t0k3n"), (AUTHORIZATION, "Bearer t0k3n")];
            assert_eq!(admit(&access, &twice), Err(Refusal::AdminTokenMissing));
        }
    }

    #[test]
    fn no_page_sends_requests_not_even_with_the_token() {
        for origin in ["http://127.0.0.1:9464", "null", ""] {
            let headers = [(HOST, "127.0.0.1"), (ORIGIN, origin), (AUTHORIZATION, "Bearer t0k3n")];
            for token in [None, Some("t0k3n")] {
                assert_eq!(admit(&listener("127.0.0.1:1", token), &headers), Err(Refusal::AdminFromPage));
            }
        }
    }
}

//! Revocation by hand, on the admin listener: what the `revoke` command asks for.

use std::{net::SocketAddr, sync::Arc};

use actix_web::{
    HttpMessage as _, HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{AUTHORIZATION, HeaderMap, HeaderValue, ORIGIN, WWW_AUTHENTICATE},
    },
    web::{Data, Payload},
};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::runtime::Handle;

use super::{answer, body, client_address::ClientAddress, host, request_id};
use crate::{
    ably::{ErrorInfo, code},
    clock::UnixMillis,
    connection::RequestClock,
    revocation::{
        Revocation,
        operator::{Action, InvalidRevocationRequest, Report, RevocationRequest, Run},
    },
};

/// The most bytes of an revocation_request.
const LARGEST_BODY: usize = 16 * 1024;

/// What is needed to take an operator's orders.
#[derive(Debug)]
pub struct OperatorRequests {
    /// Carries them out.
    pub revocation: Arc<Revocation>,
    /// Where they are carried out.
    pub runtime: Handle,
    /// Whose orders are taken.
    pub access: Access,
}

/// Whose orders are taken: of whoever shows the token; without one, of whoever is on this machine.
#[derive(Debug)]
pub struct Access {
    exposure: Exposure,
    token: Option<SecretString>,
}

/// From where the admin listener can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exposure {
    /// From this machine only.
    ThisMachine,
    /// From other machines too.
    OtherMachines,
}

/// Why an revocation_request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotTaken {
    NoTokenConfigured,
    FromAPage,
    ByAnotherName,
    TokenMissing,
    TokenWrong,
}

impl Access {
    /// To a listener at `address` with this token.
    #[must_use]
    pub fn to(address: Option<SocketAddr>, token: Option<SecretString>) -> Self {
        let is_loopback = address.is_some_and(|address| address.ip().to_canonical().is_loopback());
        Self { exposure: if is_loopback { Exposure::ThisMachine } else { Exposure::OtherMachines }, token }
    }

    /// From where the admin listener can be reached.
    pub(super) fn exposure(&self) -> Exposure {
        self.exposure
    }

    /// Whether a request with these headers may give orders. A browser on the operator's machine reaches the listener too,
    /// so no page may: it would send its `Origin`, and one whose name was made to lead here, that name as `Host`.
    fn admit(&self, headers: &HeaderMap) -> Result<(), NotTaken> {
        if self.token.is_none() && self.exposure == Exposure::OtherMachines {
            return Err(NotTaken::NoTokenConfigured);
        }
        if headers.contains_key(ORIGIN) {
            return Err(NotTaken::FromAPage);
        }
        match &self.token {
            None if host::is_of_this_machine(headers) => Ok(()),
            None => Err(NotTaken::ByAnotherName),
            Some(token) => {
                let mut given = headers.get_all(AUTHORIZATION);
                match (given.next().and_then(bearer), given.next()) {
                    (Some(given), None) if is_same(given, token) => Ok(()),
                    (Some(_), None) => Err(NotTaken::TokenWrong),
                    _ => Err(NotTaken::TokenMissing),
                }
            }
        }
    }
}

fn bearer(authorization: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = authorization.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// In a time that tells neither how much of it is right nor how long it is.
fn is_same(given: &[u8], token: &SecretString) -> bool {
    Sha256::digest(given).ct_eq(&Sha256::digest(token.expose_secret())).into()
}

/// The request that brought an revocation_request, for the log.
#[derive(Clone, Debug)]
struct Given {
    request_id: String,
    from: ClientAddress,
}

/// Carries out an revocation_request. 200 says that it was taken; what came of it is in the report.
pub(super) async fn post(request: HttpRequest, payload: Payload, operator: Data<OperatorRequests>) -> HttpResponse {
    if let Err(cause) = operator.access.admit(request.headers()) {
        return refused(&request, cause.reason(), &cause.error_info());
    }
    RequestClock::verified(&request);
    if !request.content_type().eq_ignore_ascii_case("application/json") {
        return refused(&request, "not-json", &NOT_JSON);
    }
    let body = match body::read(&request, payload, LARGEST_BODY).await {
        Ok(body) => body,
        Err(error) => return refused(&request, "body-refused", &error),
    };
    let revocation_request = match RevocationRequest::parse(&body) {
        Ok(revocation_request) => revocation_request,
        Err(invalid) => return refused(&request, "revocation-request-invalid", &error_info(invalid)),
    };
    let given = Given { request_id: request_id::of(&request), from: ClientAddress::known(&request) };
    let carrying_out =
        carry_out(Arc::clone(&operator.revocation), revocation_request, UnixMillis::now(), given.clone());
    // Not in this handler, which ends with its connection: an operator who goes away must not stop what was begun.
    match operator.runtime.spawn(carrying_out).await {
        Ok(Ok(report)) => answer::json(StatusCode::OK, &report),
        Ok(Err(invalid)) => refused(&request, "revocation-request-invalid", &error_info(invalid)),
        Err(error) => {
            let reason = "revocation-request-interrupted";
            tracing::error!(
                request_id = given.request_id,
                client_address = given.from.field(),
                reason,
                status = BROKEN_OFF.status_code,
                %error,
                "operator request interrupted"
            );
            answer::failure(reason, &BROKEN_OFF, None)
        }
    }
}

/// Carries out an revocation_request, and says so in the log.
async fn carry_out(
    revocation: Arc<Revocation>,
    revocation_request: RevocationRequest,
    now: UnixMillis,
    Given { request_id, from }: Given,
) -> Result<Report, InvalidRevocationRequest> {
    let report = revocation.execute(&revocation_request, now).await?;
    let tenant = report.tenant.as_str();
    let action = match (revocation_request.run, revocation_request.action) {
        (Run::Dry, _) => "dry run",
        (Run::Real, Action::Deny(_)) => "deny",
        (Run::Real, Action::Lift) => "lift",
    };
    let (target, complete) = (revocation_request.target.id(), report.complete);
    let client_address = from.field();
    tracing::info!(request_id, client_address, tenant, target, action, complete, "operator request carried out");
    Ok(report)
}

fn refused(request: &HttpRequest, reason: &'static str, error: &ErrorInfo) -> HttpResponse {
    let status = error.status_code;
    let client_address = ClientAddress::known(request);
    tracing::warn!(
        request_id = request_id::of(request),
        client_address = client_address.field(),
        reason,
        status,
        "operator request refused"
    );
    let mut response = answer::failure(reason, error, None);
    if error.status_code == 401 {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

impl NotTaken {
    fn reason(self) -> &'static str {
        match self {
            Self::NoTokenConfigured => "admin-token-not-set",
            Self::FromAPage => "from-a-page",
            Self::ByAnotherName => "host-unknown",
            Self::TokenMissing => "admin-token-missing",
            Self::TokenWrong => "admin-token-wrong",
        }
    }

    fn error_info(self) -> ErrorInfo {
        let (status_code, code) = match self {
            Self::NoTokenConfigured | Self::FromAPage | Self::ByAnotherName => (403, code::FORBIDDEN),
            Self::TokenMissing | Self::TokenWrong => (401, code::INVALID_CREDENTIALS),
        };
        let message = match self {
            Self::NoTokenConfigured => {
                "The admin listener is not on loopback and has no token: set ADMIN_TOKEN, for the service and for revoke."
            }
            Self::FromAPage => "Requests of web pages are not taken here: this one has an Origin header.",
            Self::ByAnotherName => {
                "Without ADMIN_TOKEN, the Host header is to be an IP address or localhost: a web page could be behind it."
            }
            Self::TokenMissing => "The token is missing: send ADMIN_TOKEN as a Bearer token.",
            Self::TokenWrong => "The token is not that of this service: send its ADMIN_TOKEN as a Bearer token.",
        };
        ErrorInfo { code, status_code, message }
    }
}

const NOT_JSON: ErrorInfo =
    ErrorInfo { code: code::BAD_REQUEST, status_code: 415, message: "The body is to be application/json." };

const BROKEN_OFF: ErrorInfo = ErrorInfo {
    code: code::INTERNAL,
    status_code: 500,
    message: "Something is broken in the service: its log says more. Give the revocation_request again.",
};

fn error_info(invalid: InvalidRevocationRequest) -> ErrorInfo {
    ErrorInfo { code: code::BAD_REQUEST, status_code: 400, message: invalid.message() }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HOST, HeaderName};

    use super::*;

    fn admit(access: &Access, headers: &[(HeaderName, &'static str)]) -> Result<(), NotTaken> {
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
    fn without_a_token_orders_come_from_this_machine_only() {
        for loopback in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            let access = listener(loopback, None);
            for host in ["127.0.0.1:9464", "[::1]:9464", "localhost", "LOCALHOST:1"] {
                assert_eq!(admit(&access, &[(HOST, host)]), Ok(()), "{loopback} {host}");
            }
            for host in ["", "evil.example:9464", "localhost.evil.example", "127.0.0.1.evil.example", "a@b@c"] {
                assert_eq!(admit(&access, &[(HOST, host)]), Err(NotTaken::ByAnotherName), "{loopback} {host}");
            }
            assert_eq!(admit(&access, &[]), Err(NotTaken::ByAnotherName));
        }
        for open in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
            let access = listener(open, None);
            assert_eq!(admit(&access, &[(HOST, "127.0.0.1")]), Err(NotTaken::NoTokenConfigured), "{open}");
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
                assert_eq!(admit(&access, &[(AUTHORIZATION, wrong)]), Err(NotTaken::TokenWrong), "{wrong}");
            }
            for none in ["", "t0k3n", "Basic t0k3n"] {
                assert_eq!(admit(&access, &[(AUTHORIZATION, none)]), Err(NotTaken::TokenMissing), "{none}");
            }
            assert_eq!(admit(&access, &[(HOST, "127.0.0.1")]), Err(NotTaken::TokenMissing));
            let twice = [(AUTHORIZATION, "Bearer t0k3n"), (AUTHORIZATION, "Bearer t0k3n")];
            assert_eq!(admit(&access, &twice), Err(NotTaken::TokenMissing));
        }
    }

    #[test]
    fn no_page_gives_orders_not_even_with_the_token() {
        for origin in ["http://127.0.0.1:9464", "null", ""] {
            let headers = [(HOST, "127.0.0.1"), (ORIGIN, origin), (AUTHORIZATION, "Bearer t0k3n")];
            for token in [None, Some("t0k3n")] {
                assert_eq!(admit(&listener("127.0.0.1:1", token), &headers), Err(NotTaken::FromAPage));
            }
        }
    }
}

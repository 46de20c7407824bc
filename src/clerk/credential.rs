//! Where a request carries its session token.

use super::{
    InstanceKind, Invalid,
    cookies::ClerkCookies,
    jwt::{Decoded, javascript_parse_int},
    publishable_key::PublishableKey,
    session::non_empty,
};
use crate::clock::UnixMillis;

/// A session token as a request brought it, not verified.
#[derive(Clone, PartialEq)]
pub struct Credential {
    token: String,
    source: CredentialSource,
}

/// Where a session token comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CredentialSource {
    /// The `Authorization` header, or somebody who has the token itself.
    Bearer,
    /// The session cookie.
    Cookie,
}

/// Why a request brings no session token that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCredential {
    /// Neither header nor cookie.
    #[error("no session token")]
    Missing,
    /// No session cookie, although `__client_uat` says that the browser has a session: the page has not made it yet.
    #[error("no session cookie yet")]
    SessionCookieMissing,
    /// More than one `Authorization` header.
    #[error("two Authorization headers")]
    Ambiguous,
    /// A cookie session on a development instance without the browser's own cookie.
    #[error("no __clerk_db_jwt cookie")]
    DevBrowserMissing,
    /// A session cookie, but `__client_uat` says that nobody is signed in.
    #[error("the __client_uat cookie says signed out")]
    SignedOut,
    /// The session was changed after the token was minted, as a sign-out elsewhere does.
    #[error("the session token is older than the __client_uat cookie")]
    OlderThanClient,
}

impl NoCredential {
    /// Whether it means that the user is signed out. The others pass by themselves, or are mistakes of a page or a proxy.
    #[must_use]
    pub fn is_signed_out(self) -> bool {
        matches!(self, Self::Missing | Self::SignedOut)
    }
}

impl Credential {
    /// A session token that somebody gave by itself.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Self { token: token.to_owned(), source: CredentialSource::Bearer }
    }

    /// The session token in the `Authorization` header, of which `authorization` is every value. A token there wins over
    /// cookies.
    pub fn in_header<'a>(authorization: impl IntoIterator<Item = &'a str>) -> Result<Option<Self>, NoCredential> {
        let mut authorization = authorization.into_iter();
        let header = authorization.next();
        if authorization.next().is_some() {
            return Err(NoCredential::Ambiguous);
        }
        Ok(header.and_then(token_in_header).map(Self::new))
    }

    /// The session token in the cookies of the instance that `key` names. `header` is the `Cookie` header, several
    /// joined by `; `.
    pub fn in_cookies(header: &str, key: &PublishableKey, now: UnixMillis) -> Result<Self, NoCredential> {
        let cookies = ClerkCookies::choose(header, key, now);
        let client_uat = cookies.client_uat.as_deref().and_then(javascript_parse_int).unwrap_or(0.0);
        let missing = if client_uat == 0.0 { NoCredential::Missing } else { NoCredential::SessionCookieMissing };
        let session = cookies.session.ok_or(missing)?;
        if key.kind() == InstanceKind::Development && cookies.dev_browser.is_none() {
            return Err(NoCredential::DevBrowserMissing);
        }
        if client_uat == 0.0 {
            return Err(NoCredential::SignedOut);
        }
        // An iat that is no number is for the verifier to refuse.
        let issued_at = Decoded::new(&session).and_then(|token| token.payload.get("iat")?.as_f64());
        if issued_at.is_some_and(|issued_at| issued_at < client_uat) {
            return Err(NoCredential::OlderThanClient);
        }
        Ok(Self { token: session, source: CredentialSource::Cookie })
    }

    /// The session token. It is a secret: it must not be logged.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn source(&self) -> CredentialSource {
        self.source
    }

    /// Who the token says that it is from. Nothing vouches for it before the token is verified: it may choose who
    /// verifies, and no more.
    pub fn unverified_issuer(&self) -> Result<String, Invalid> {
        let token = Decoded::new(&self.token).ok_or_else(|| Invalid::undecodable(&self.token))?;
        non_empty(token.payload.get("iss")).ok_or(Invalid::Issuer)
    }
}

/// `Bearer <token>`, the scheme without regard to case (RFC 9110 section 11.1) and with any number of blanks behind it
/// (section 11.4), or a bare JWT. Anything else is not for us: a browser's ably-js must send a dummy `authorization` header
/// for cookies to go along, and JavaScript writes a token that is not there as `null`, `undefined` or nothing.
fn token_in_header(value: &str) -> Option<&str> {
    let value = value.trim_matches([' ', '\t']);
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    if scheme.eq_ignore_ascii_case("bearer") {
        let token = rest.trim_start_matches(' ');
        return (!matches!(token, "" | "null" | "undefined")).then_some(token);
    }
    // As `@clerk/backend` does, the value is split at single spaces, and nothing after an empty second piece counts.
    let is_alone = rest.is_empty() || rest.starts_with(' ');
    (is_alone && scheme.split('.').count() == 3).then_some(scheme)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_in_the_header_is_found() {
        for (value, token) in [
            ("Bearer a.b.c", Some("a.b.c")),
            ("bEARER a.b.c", Some("a.b.c")),
            (" Bearer a.b.c\t", Some("a.b.c")),
            ("Bearer  a.b.c", Some("a.b.c")),
            ("bearer     a.b.c", Some("a.b.c")),
            ("Bearer null", None),
            ("bearer   undefined", None),
            ("null", None),
            ("undefined", None),
            ("Bearer NULL", Some("NULL")),
            ("Bearer null x", Some("null x")),
            ("Bearer \ta.b.c", Some("\ta.b.c")),
            ("\u{a0}Bearer a.b.c", None),
            ("Bearer a.b.c\u{a0}", Some("a.b.c\u{a0}")),
            ("a.b.c  d", Some("a.b.c")),
            ("a.b.c d", None),
            ("a.b.c.d", None),
            ("a.b.c", Some("a.b.c")),
            ("Bearer", None),
            ("Bearer ", None),
            ("bearer", None),
            ("Bearer x y", Some("x y")),
            ("-", None),
            ("", None),
            ("a.b", None),
            ("Basic a.b.c", None),
        ] {
            assert_eq!(token_in_header(value), token, "{value}");
        }
    }

    #[test]
    fn a_request_without_a_session_token_is_signed_out_unless_the_browser_has_a_session() {
        let key = PublishableKey::parse("pk_live_Y2xlcmsuZXhhbXBsZS5jb20k").unwrap();
        for (cookies, signed_out) in [
            ("", true),
            ("theme=dark", true),
            ("__client_uat=0", true),
            ("__client_uat=x", true),
            ("__session=a.b.c; __client_uat=0", true),
            ("__client_uat=1", false),
            ("__session=e30.eyJpYXQiOjF9.c2ln; __client_uat=2", false),
        ] {
            let refused = Credential::in_cookies(cookies, &key, UnixMillis(0)).err().unwrap();
            assert_eq!(refused.is_signed_out(), signed_out, "{cookies}: {refused}");
        }
    }

    #[test]
    fn two_authorization_headers_are_refused() {
        let found = Credential::in_header(["Bearer a.b.c", "Bearer d.e.f"]);
        assert_eq!(found.err(), Some(NoCredential::Ambiguous));
    }
}

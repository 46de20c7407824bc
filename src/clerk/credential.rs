//! Finds the session token of a request.

use serde_json::Value;

use super::{
    cookies::ClerkCookies,
    invalid::Invalid,
    javascript,
    publishable_key::{InstanceKind, PublishableKey},
    session_token::SessionToken,
    verified_tokens::VerifiedTokens,
};
use crate::clock::UnixMillis;

/// An unverified session token, and where the request had it. It is a secret and is never printed.
#[derive(derive_more::Debug)]
#[debug("Credential {{ .. }}")]
pub struct Credential {
    pub(super) token: SessionToken,
    pub(super) source: CredentialSource,
}

/// The source of a session token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CredentialSource {
    /// The `Authorization` header, or a command.
    Bearer,
    /// The session cookie.
    Cookie,
}

/// Why a request has no usable session token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCredential {
    /// Neither header nor cookie.
    #[error("no session token")]
    Missing,
    /// No session cookie yet, although `__client_uat` says that the browser has a session.
    #[error("no session cookie yet")]
    SessionCookieMissing,
    /// More than one `Authorization` header.
    #[error("two Authorization headers")]
    Ambiguous,
    /// No development browser cookie, which a development instance requires beside the session cookie.
    #[error("no __clerk_db_jwt cookie")]
    DevBrowserMissing,
    /// A session cookie, although `__client_uat` says that the user is signed out.
    #[error("the __client_uat cookie says signed out")]
    SignedOut,
    /// The session changed after the token was issued, for example by a sign-out elsewhere.
    #[error("the session token is older than the __client_uat cookie")]
    OlderThanClient,
}

impl NoCredential {
    /// Whether the user is signed out. The other reasons are temporary, or mistakes of a page or a proxy.
    #[must_use]
    pub fn is_signed_out(self) -> bool {
        matches!(self, Self::Missing | Self::SignedOut)
    }
}

impl Credential {
    /// A session token on its own. `verified` are the tokens whose signature is known to be valid.
    #[must_use]
    pub fn new(token: &str, verified: &VerifiedTokens) -> Self {
        Self { token: SessionToken::read(token.to_owned(), verified), source: CredentialSource::Bearer }
    }

    /// The session token in the `Authorization` headers. It takes precedence over cookies.
    pub fn in_header<'a>(
        authorization: impl IntoIterator<Item = &'a str>,
        verified: &VerifiedTokens,
    ) -> Result<Option<Self>, NoCredential> {
        let mut authorization = authorization.into_iter();
        let header = authorization.next();
        if authorization.next().is_some() {
            return Err(NoCredential::Ambiguous);
        }
        Ok(header.and_then(token_in_header).map(|token| Self::new(token, verified)))
    }

    /// The session token in the cookies of the instance of `key`. `header` is the `Cookie` header; several are joined by
    /// `; `.
    pub fn in_cookies(
        header: &str,
        key: &PublishableKey,
        verified: &VerifiedTokens,
        now: UnixMillis,
    ) -> Result<Self, NoCredential> {
        let cookies = ClerkCookies::choose(header, key, verified, now);
        let client_uat = cookies.client_uat.as_deref().and_then(javascript::parse_int).unwrap_or(0.0);
        let missing = if client_uat == 0.0 { NoCredential::Missing } else { NoCredential::SessionCookieMissing };
        let token = cookies.session.ok_or(missing)?;
        if key.kind() == InstanceKind::Development && cookies.dev_browser.is_none() {
            return Err(NoCredential::DevBrowserMissing);
        }
        if client_uat == 0.0 {
            return Err(NoCredential::SignedOut);
        }
        // The verifier rejects an iat that is not a number.
        let issued_at = token.unverified_claims().ok().and_then(|claims| claims.get("iat")?.as_f64());
        if issued_at.is_some_and(|issued_at| issued_at < client_uat) {
            return Err(NoCredential::OlderThanClient);
        }
        Ok(Self { token, source: CredentialSource::Cookie })
    }

    /// The issuer that the token claims. Use it only to choose a verifier.
    pub fn unverified_issuer(&self) -> Result<&str, Invalid> {
        let issuer = self.token.unverified_claims()?.get("iss").and_then(Value::as_str);
        issuer.filter(|issuer| !issuer.is_empty()).ok_or(Invalid::Issuer)
    }
}

/// Parses `Bearer <token>`, with the scheme in any case (RFC 9110 section 11.1) and any number of spaces after it (section
/// 11.4), or a bare JWT. Ignores everything else: in a browser, ably-js must send a dummy `authorization` header with
/// cookies, and JavaScript writes a missing token as `null`, `undefined` or nothing.
fn token_in_header(value: &str) -> Option<&str> {
    let value = value.trim_matches([' ', '\t']);
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    if scheme.eq_ignore_ascii_case("bearer") {
        let token = rest.trim_start_matches(' ');
        return (!matches!(token, "" | "null" | "undefined")).then_some(token);
    }
    // Like `@clerk/backend`: split at single spaces, and ignore everything after an empty second piece.
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
            let rejected =
                Credential::in_cookies(cookies, &key, &VerifiedTokens::default(), UnixMillis(0)).err().unwrap();
            assert_eq!(rejected.is_signed_out(), signed_out, "{cookies}: {rejected}");
        }
    }

    #[test]
    fn two_authorization_headers_are_rejected() {
        let found = Credential::in_header(["Bearer a.b.c", "Bearer d.e.f"], &VerifiedTokens::default());
        assert_eq!(found.err(), Some(NoCredential::Ambiguous));
    }
}

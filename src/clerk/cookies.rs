//! Clerk's cookies.
//!
//! An instance sets its cookies under plain names and under names with the instance's suffix, so that two instances on
//! one host do not overwrite each other. All cookies of a request are taken from one of these two forms.

use std::borrow::Cow;

use memchr::memchr_iter;
use percent_encoding::percent_decode_str;

use super::{
    claims::Claims,
    javascript::is_truthy,
    jwt::LooselyDecoded,
    publishable_key::{InstanceKind, PublishableKey},
    session_token::SessionToken,
    verified_tokens::VerifiedTokens,
};
use crate::clock::UnixMillis;

/// Decodes as `decodeURIComponent` does: a value with an invalid escape stays as it is.
fn percent_decoded(value: &str) -> Cow<'_, str> {
    let is_hex = |b: Option<&u8>| b.is_some_and(u8::is_ascii_hexdigit);
    let bytes = value.as_bytes();
    let mut escapes = memchr_iter(b'%', bytes).peekable();
    if escapes.peek().is_none() || !escapes.all(|at| is_hex(bytes.get(at + 1)) && is_hex(bytes.get(at + 2))) {
        return Cow::Borrowed(value);
    }
    percent_decode_str(value).decode_utf8().unwrap_or(Cow::Borrowed(value))
}

/// Clerk's cookies, all of one form. An empty cookie counts as missing.
pub(super) struct ClerkCookies {
    pub(super) session: Option<SessionToken>,
    pub(super) client_uat: Option<String>,
    pub(super) dev_browser: Option<String>,
}

impl ClerkCookies {
    /// Chooses the form and reads its cookies. The first cookie of a name counts.
    pub(super) fn choose(header: &str, key: &PublishableKey, verified: &VerifiedTokens, now: UnixMillis) -> Self {
        const NAMES: [&str; 3] = ["__session", "__client_uat", "__clerk_db_jwt"];
        let (mut plain, mut suffixed) = ([None; 3], [None; 3]);
        for (name, value) in header.split(';').filter_map(|pair| pair.split_once('=')) {
            let [name, value] = [name, value].map(|text| text.trim_matches([' ', '\t']));
            for (position, base) in NAMES.iter().enumerate() {
                match name.strip_prefix(base) {
                    Some("") => _ = plain[position].get_or_insert(value),
                    Some(rest) if rest.strip_prefix('_') == Some(key.cookie_suffix()) => {
                        suffixed[position].get_or_insert(value);
                    }
                    _ => {}
                }
            }
        }
        let value = |cookie: Option<&str>| cookie.map(|v| percent_decoded(v).into_owned()).filter(|v| !v.is_empty());
        let read = |cookie| value(cookie).map(|token| SessionToken::read(token, verified));
        let form = |[_, client_uat, dev_browser]: [_; 3], session| Self {
            session,
            client_uat: value(client_uat),
            dev_browser: value(dev_browser),
        };
        let token = read(plain[0]);
        // Clerk writes the same session token under both names.
        let suffixed_token = if suffixed[0] == plain[0] { token.clone() } else { read(suffixed[0]) };
        let (plain, suffixed) = (form(plain, token), form(suffixed, suffixed_token));
        if suffixed_form_counts(&plain, &suffixed, key, now) { suffixed } else { plain }
    }
}

/// The rules of `@clerk/backend`, the first that applies. Tokens are only decoded here, not verified.
///
/// If Clerk's SDK may parse a token that this service cannot, its form is chosen: verification then rejects the token.
fn suffixed_form_counts(plain: &ClerkCookies, suffixed: &ClerkCookies, key: &PublishableKey, now: UnixMillis) -> bool {
    let plain_token = match plain.session.as_ref().map(SessionToken::loosely_decoded) {
        None => None,
        Some(LooselyDecoded::Undecodable | LooselyDecoded::Ambiguous) => return false,
        Some(LooselyDecoded::Payload(payload)) => Some(payload),
    };
    if let Some(payload) = &plain_token {
        match payload.get("iss").filter(|issuer| is_truthy(issuer)) {
            None => return false,
            Some(issuer) if !issuer.as_str().is_some_and(|issuer| is_host_of(issuer, key)) => return true,
            Some(_) => {}
        }
    }
    if suffixed.session.is_none() && suffixed.client_uat.is_none() {
        return false;
    }
    let suffixed_token = match suffixed.session.as_ref().map(SessionToken::loosely_decoded) {
        None | Some(LooselyDecoded::Undecodable) => None,
        Some(LooselyDecoded::Ambiguous) => return true,
        Some(LooselyDecoded::Payload(payload)) => Some(payload),
    };
    let is_signed_out = |form: &ClerkCookies| form.client_uat.as_deref() == Some("0");
    if !is_signed_out(suffixed) && !is_signed_out(plain) {
        let (plain, suffixed) = (issued_at(plain_token.as_deref()), issued_at(suffixed_token.as_deref()));
        if plain.is_nan() || plain > suffixed {
            return false;
        }
        if suffixed.is_nan() {
            return true;
        }
    }
    if is_signed_out(suffixed) && !is_signed_out(plain) {
        return false;
    }
    if key.kind() == InstanceKind::Development && !is_signed_out(suffixed) && is_signed_out(plain) {
        let expires = suffixed_token.as_ref().and_then(|payload| payload.get("exp")?.as_f64());
        #[expect(clippy::cast_precision_loss, reason = "seconds since the epoch are far below 2^53")]
        let seconds = now.0.div_euclid(1000) as f64;
        if expires.is_some_and(|expires| expires <= seconds) {
            return false;
        }
    }
    !(suffixed.client_uat.is_none() && suffixed.session.is_some())
}

/// The unverified `iat` of a token: 0 without a token or without the claim, NaN for a value of another type, which JavaScript
/// compares by its own rules.
fn issued_at(payload: Option<&Claims>) -> f64 {
    payload.and_then(|payload| payload.get("iat")).map_or(0.0, |issued_at| issued_at.as_f64().unwrap_or(f64::NAN))
}

/// Whether an issuer is the instance's Frontend API. Like Clerk's SDK, ignores schemes anywhere in the text.
fn is_host_of(issuer: &str, key: &PublishableKey) -> bool {
    let without_scheme = |part| {
        let without = |scheme: &str| {
            let (rest, end) = str::split_at_checked(part, part.len().checked_sub(scheme.len())?)?;
            end.eq_ignore_ascii_case(scheme).then_some(rest)
        };
        without("https://").or_else(|| without("http://")).unwrap_or(part)
    };
    let host: String = issuer.split_inclusive("://").map(without_scheme).collect();
    key.has_frontend_api_at(&host)
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::json;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_795_290_000_000);

    fn token(claims: &serde_json::Value) -> String {
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", part(&json!({})), part(claims))
    }

    fn chosen(header: &str, kind: &str) -> ClerkCookies {
        let key = PublishableKey::parse(&format!("pk_{kind}_Y2xlcmsuZXhhbXBsZS5jb20k")).unwrap();
        let header = header.replace("SUFFIX", key.cookie_suffix());
        ClerkCookies::choose(&header, &key, &VerifiedTokens::default(), NOW)
    }

    #[test]
    fn the_first_cookie_of_a_name_counts_and_values_are_percent_decoded() {
        let cookies = chosen("a=b; __session = a%20b ;__session=c; __client_uat=;__client_uat=1", "live");
        assert_eq!(cookies.session.map(|token| token.text).as_deref(), Some("a b"));
        assert_eq!(cookies.client_uat, None);
    }

    #[test]
    fn schemes_anywhere_in_an_issuer_are_ignored() {
        let key = PublishableKey::parse("pk_live_Y2xlcmsuZXhhbXBsZS5jb20k").unwrap();
        for (issuer, expected) in [
            ("https://clerk.example.com", true),
            ("HTTP://clerk.example.com", true),
            ("clerk.example.com", true),
            ("clerk.https://example.com", true),
            ("https://http://clerk.example.com", true),
            ("hthttps://tps://clerk.example.com", false),
            ("https://clerk.example.com/", false),
            ("https://clerk.other.com", false),
            ("\u{e9}", false),
            ("", false),
        ] {
            assert_eq!(is_host_of(issuer, &key), expected, "{issuer}");
        }
    }

    #[test]
    fn a_suffixed_session_that_only_javascript_can_read_is_the_one_that_counts() {
        let plain = token(&json!({ "iss": "https://clerk.example.com", "iat": 200 }));
        let null = format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode("null"));
        for uat in ["", "; __client_uat_SUFFIX=0", "; __client_uat_SUFFIX=1"] {
            let header = format!("__session={plain}; __client_uat=1; __session_SUFFIX={null}{uat}");
            assert_eq!(chosen(&header, "live").session.map(|token| token.text).as_ref(), Some(&null), "{uat}");
        }
    }

    #[test]
    fn the_form_is_chosen_by_the_first_rule_that_applies() {
        let iss = "https://clerk.example.com";
        let old = token(&json!({ "iss": iss, "iat": 100, "exp": 160 }));
        let new = token(&json!({ "iss": iss, "iat": 200, "exp": 1_795_290_060 }));
        let foreign = token(&json!({ "iss": "https://clerk.other.com", "iat": 300 }));
        let anonymous = token(&json!({ "iat": 300 }));
        let text_iat = token(&json!({ "iss": iss, "iat": "300" }));
        for (header, kind, expected) in [
            ("__session=junk; __session_SUFFIX=NEW; __client_uat_SUFFIX=1".into(), "live", "junk".to_owned()),
            (format!("__session={anonymous}; __session_SUFFIX={new}; __client_uat_SUFFIX=1"), "live", anonymous),
            (format!("__session={foreign}; __session_SUFFIX={old}; __client_uat_SUFFIX=1"), "live", old.clone()),
            (format!("__session={old}; __client_uat=1"), "live", old.clone()),
            (
                format!("__session={new}; __client_uat=1; __session_SUFFIX={old}; __client_uat_SUFFIX=1"),
                "live",
                new.clone(),
            ),
            (
                format!("__session={old}; __client_uat=1; __session_SUFFIX={new}; __client_uat_SUFFIX=1"),
                "live",
                new.clone(),
            ),
            (
                format!("__session={text_iat}; __client_uat=1; __session_SUFFIX={new}; __client_uat_SUFFIX=1"),
                "live",
                text_iat,
            ),
            (
                format!("__session={old}; __client_uat=1; __session_SUFFIX={new}; __client_uat_SUFFIX=0"),
                "live",
                old.clone(),
            ),
            (
                format!("__session={new}; __client_uat=0; __session_SUFFIX={old}; __client_uat_SUFFIX=1"),
                "test",
                new.clone(),
            ),
            (
                format!("__session={new}; __client_uat=0; __session_SUFFIX={old}; __client_uat_SUFFIX=1"),
                "live",
                old.clone(),
            ),
            (format!("__session={old}; __client_uat=0; __session_SUFFIX={new}"), "live", old),
            (format!("__session_SUFFIX={new}; __client_uat_SUFFIX=1"), "live", new),
        ] {
            assert_eq!(chosen(&header, kind).session.map(|token| token.text), Some(expected), "{header} ({kind})");
        }
    }
}

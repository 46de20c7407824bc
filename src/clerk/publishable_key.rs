//! Clerk's publishable key: it contains an instance's Frontend API and kind.

use base64::{
    Engine as _,
    engine::{GeneralPurpose, GeneralPurposeConfig, general_purpose::URL_SAFE},
};
use sha1::{Digest as _, Sha1};
use url::Url;

/// Standard base64, with or without padding: Clerk issues keys of both forms.
const BASE64_ANY_PADDING: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);

/// The kind of an instance. The rules for cookies differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_more::Display)]
pub enum InstanceKind {
    /// `pk_test_…`
    #[display("development")]
    Development,
    /// `pk_live_…`
    #[display("production")]
    Production,
}

/// A publishable key. It is not a secret.
#[derive(Clone, Debug, PartialEq, Eq, derive_more::Display)]
#[display("{text}")]
pub struct PublishableKey {
    text: String,
    kind: InstanceKind,
    frontend_api: Url,
    satellites: Vec<Url>,
    cookie_suffix: String,
}

/// Why a publishable key is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPublishableKey {
    /// An unknown prefix.
    #[error("a publishable key begins with pk_test_ or pk_live_")]
    Prefix,
    /// The rest is not base64 of a host name and `$`.
    #[error("the part after pk_test_ or pk_live_ does not name a Frontend API: copy the whole key")]
    FrontendApi,
}

impl PublishableKey {
    /// Parses `pk_test_…` or `pk_live_…`.
    pub fn parse(text: &str) -> Result<Self, InvalidPublishableKey> {
        let kinds = [("pk_test_", InstanceKind::Development), ("pk_live_", InstanceKind::Production)];
        let (kind, encoded) = kinds
            .into_iter()
            .find_map(|(prefix, kind)| Some((kind, text.strip_prefix(prefix)?)))
            .ok_or(InvalidPublishableKey::Prefix)?;
        let frontend_api = BASE64_ANY_PADDING
            .decode(encoded)
            .ok()
            .and_then(|decoded| String::from_utf8(decoded).ok())
            .and_then(|decoded| frontend_api_at(decoded.strip_suffix('$')?))
            .ok_or(InvalidPublishableKey::FrontendApi)?;
        let mut cookie_suffix = URL_SAFE.encode(Sha1::digest(text));
        cookie_suffix.truncate(8);
        Ok(Self { text: text.to_owned(), kind, frontend_api, satellites: Vec::new(), cookie_suffix })
    }

    /// The kind of the instance.
    #[must_use]
    pub fn kind(&self) -> InstanceKind {
        self.kind
    }

    /// The Frontend API: `https://` and a host name.
    #[must_use]
    pub fn frontend_api(&self) -> &Url {
        &self.frontend_api
    }

    /// The key on satellite domains, whose Frontend APIs are other addresses of the same instance.
    #[must_use]
    pub fn on_satellites(self, satellites: Vec<Url>) -> Self {
        Self { satellites, ..self }
    }

    /// Whether `host` is the Frontend API's: with satellites one of theirs, otherwise the instance's own.
    #[must_use]
    pub fn has_frontend_api_at(&self, host: &str) -> bool {
        match &self.satellites[..] {
            [] => self.frontend_api_host() == host,
            satellites => satellites.iter().any(|satellite| satellite.host_str() == Some(host)),
        }
    }

    /// The host name of the Frontend API.
    #[must_use]
    pub fn frontend_api_host(&self) -> &str {
        self.frontend_api.host_str().unwrap_or_default()
    }

    /// The suffix of the names of this instance's cookies: the first 8 characters of the url-safe base64 of the key's SHA-1.
    #[must_use]
    pub fn cookie_suffix(&self) -> &str {
        &self.cookie_suffix
    }
}

/// The Frontend API at a host name. `None` if the text is not only a host name.
#[must_use]
pub fn frontend_api_at(host: &str) -> Option<Url> {
    let url = Url::parse(&format!("https://{host}")).ok()?;
    (url.host_str() == Some(host) && host.contains('.')).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_its_frontend_api_its_kind_and_its_cookie_suffix() {
        let key = PublishableKey::parse("pk_live_Y2xlcmsuZXhhbXBsZS5jb20k").unwrap();
        assert_eq!(key.frontend_api_host(), "clerk.example.com");
        assert_eq!(key.kind(), InstanceKind::Production);
        assert_eq!(key.cookie_suffix(), "naoXFJnI");

        let key = PublishableKey::parse("pk_test_Y2xlYW4tbWF5Zmx5LTYyLmNsZXJrLmFjY291bnRzLmRldiQ").unwrap();
        assert_eq!(key.frontend_api_host(), "clean-mayfly-62.clerk.accounts.dev");
        assert_eq!(key.kind(), InstanceKind::Development);
    }

    #[test]
    fn an_invalid_key_is_rejected() {
        use InvalidPublishableKey::{FrontendApi, Prefix};
        for (text, error) in [
            ("", Prefix),
            ("sk_test_abc", Prefix),
            ("pk_test_", FrontendApi),
            ("pk_test_!!!", FrontendApi),
            ("pk_test_Y2xlcmsuZXhhbXBsZS5jb20", FrontendApi),
            ("pk_test_ZXZpbC5jb20vP3g9LmNvbSQ=", FrontendApi),
        ] {
            assert_eq!(PublishableKey::parse(text), Err(error), "{text}");
        }
    }
}

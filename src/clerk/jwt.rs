//! Decodes JWTs without verifying them: strictly, and as JavaScript does, because Clerk's rules are written in it.

use std::{borrow::Cow, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{claims::Claims, verified_tokens::ValidHeader};

/// The decoded parts of a JWT. Untrusted until the signature is verified.
#[derive(Clone)]
pub(super) struct Decoded {
    pub(super) header: Header,
    pub(super) payload: Claims,
    pub(super) signature: Vec<u8>,
}

#[derive(Clone)]
pub(super) enum Header {
    /// The same text as in a verified token.
    Valid(Arc<ValidHeader>),
    Unchecked {
        text: String,
        fields: Map<String, Value>,
    },
}

impl Decoded {
    /// `None` unless the text is three parts of base64url, the first two of them JSON objects. `valid` is its header, if known.
    pub(super) fn new(token: &str, valid: Option<Arc<ValidHeader>>) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.').filter(|(_, payload)| !payload.contains('.'))?;
        let header = match valid {
            Some(header) => Header::Valid(header),
            None => Header::Unchecked { text: header.to_owned(), fields: object(header)? },
        };
        Some(Self { header, payload: object(payload)?, signature: URL_SAFE_NO_PAD.decode(signature).ok()? })
    }
}

fn object<T: DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// A JWT as JavaScript decodes it, for rules that compare unverified tokens.
#[derive(Debug)]
pub(super) enum LooselyDecoded<'a> {
    /// Not three parts of base64url, with any padding.
    Undecodable,
    /// JavaScript may be able to parse it, and this parser cannot: it limits depth and size.
    Ambiguous,
    /// The payload: JSON other than null. Empty unless it is an object.
    Payload(Cow<'a, Claims>),
}

impl LooselyDecoded<'_> {
    pub(super) fn new(token: &str) -> Self {
        let without_padding = |part: &str| URL_SAFE_NO_PAD.decode(part.trim_end_matches('='));
        let parts: Vec<_> = token.split('.').map(without_padding).collect();
        let [Ok(header), Ok(payload), Ok(_)] = parts.as_slice() else { return Self::Undecodable };
        let json = |part: &[u8]| -> Option<Value> {
            let text = String::from_utf8_lossy(part);
            serde_json::from_str(text.strip_prefix('\u{feff}').unwrap_or(&text)).ok()
        };
        match (json(header), json(payload)) {
            (Some(_), Some(Value::Object(payload))) => Self::Payload(Cow::Owned(payload.into())),
            (Some(_), Some(payload)) if !payload.is_null() => Self::Payload(Cow::default()),
            _ => Self::Ambiguous,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn padding_is_accepted_loosely_and_rejected_strictly() {
        for (token, loosely, strictly) in [
            ("e30.e30.c2ln", true, true),
            ("e30=.e30.c2ln", true, false),
            ("e30.e30=====.c2ln====", true, false),
            ("e3=0.e30.c2ln", false, false),
        ] {
            assert_eq!(matches!(LooselyDecoded::new(token), LooselyDecoded::Payload(_)), loosely, "{token}");
            assert_eq!(Decoded::new(token, None).is_some(), strictly, "{token}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_decoder_panic(text in ".*") {
            let _ = Decoded::new(&text, None);
            let _ = LooselyDecoded::new(&text);
        }
    }
}

//! A session token as a client sends it: decoded once, unless its signature is already known to be valid.

use std::{borrow::Cow, sync::Arc};

use sha2::{Digest as _, Sha256};

use super::{
    claims::Claims,
    invalid::Invalid,
    jwt::{Decoded, LooselyDecoded},
    verified_tokens::{ValidHeader, VerifiedToken, VerifiedTokens},
};

/// A session token. Untrusted until it is verified.
#[derive(Clone)]
pub(super) struct SessionToken {
    pub(super) text: String,
    /// None if the token's header is not kept: then it is verified like a new one.
    header: Option<Arc<ValidHeader>>,
    /// None without that header.
    digests: Option<Digests>,
    /// A key has made its signature. Whether that key still counts, and whether the claims are valid now, is unknown.
    pub(super) remembered: Option<VerifiedToken>,
    /// None if the text is not a JWT, or `remembered` has its claims.
    decoded: Option<Arc<Decoded>>,
}

/// SHA-256 digests of a token.
#[derive(Clone, Copy)]
pub(super) struct Digests {
    /// Of the text that the signature covers: the first two parts.
    pub(super) signed: [u8; 32],
    /// Of the whole token.
    pub(super) whole: [u8; 32],
}

impl Digests {
    fn of(text: &str) -> Self {
        let (signed, signature) = text.rsplit_once('.').unwrap_or((text, ""));
        let hash = Sha256::new_with_prefix(signed);
        let whole = hash.clone().chain_update(".").chain_update(signature).finalize();
        Self { signed: hash.finalize().into(), whole: whole.into() }
    }
}

impl SessionToken {
    pub(super) fn read(text: String, verified: &VerifiedTokens) -> Self {
        let header = text.split_once('.').and_then(|(header, _)| verified.header(header));
        let digests = header.is_some().then(|| Digests::of(&text));
        let remembered = digests.and_then(|digests| verified.get(&digests.whole));
        let has_claims = remembered.as_ref().is_some_and(|token| token.session.is_some());
        let decoded = if has_claims { None } else { Decoded::new(&text, header.clone()).map(Arc::new) };
        Self { text, header, digests, remembered, decoded }
    }

    /// The claims, whose signature may be invalid.
    pub(super) fn unverified_claims(&self) -> Result<&Claims, Invalid> {
        let remembered = self.remembered.as_ref().and_then(|token| token.session.as_deref());
        remembered
            .map(|session| &session.claims)
            .or_else(|| self.decoded.as_deref().map(|decoded| &decoded.payload))
            .ok_or_else(|| Invalid::undecodable(&self.text))
    }

    /// Hashes the token, unless that is done.
    pub(super) fn digests(&self) -> Digests {
        self.digests.unwrap_or_else(|| Digests::of(&self.text))
    }

    /// The decoded token, whose signature may be invalid.
    pub(super) fn take_decoded(&mut self) -> Result<Decoded, Invalid> {
        let decoded = self.decoded.take();
        decoded
            .map(Arc::unwrap_or_clone)
            .or_else(|| Decoded::new(&self.text, self.header.clone()))
            .ok_or_else(|| Invalid::undecodable(&self.text))
    }

    /// What JavaScript reads in it.
    pub(super) fn loosely_decoded(&self) -> LooselyDecoded<'_> {
        match self.unverified_claims() {
            Ok(claims) => LooselyDecoded::Payload(Cow::Borrowed(claims)),
            Err(_) => LooselyDecoded::new(&self.text),
        }
    }
}

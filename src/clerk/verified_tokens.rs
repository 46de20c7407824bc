//! Remembers the session tokens whose signature is valid, for clients that show one more than once: in several tabs, or when
//! many connect again.
//!
//! A remembered token is found by the SHA-256 digest of its whole text. All that is remembered is that one key made its
//! signature, and what its claims say: both never change. Everything else is checked at every request.

use std::{iter, sync::Arc};

use arc_swap::ArcSwap;
use quick_cache::{Weighter, sync::Cache};
use serde_json::{Map, Value};

use super::{
    claims::Claims,
    session::{Organization, Session},
    signing_key::SigningKey,
};

/// A session token with the signature of a key.
#[derive(Clone, derive_more::Debug)]
#[debug("VerifiedToken {{ .. }}")]
pub(super) struct VerifiedToken {
    /// Its header.
    pub(super) header: Arc<ValidHeader>,
    /// The key that made its signature.
    pub(super) key: Arc<SigningKey>,
    /// What its claims say. None until its second use: most session tokens are used once, and never need the memory. Times,
    /// issuer, audience and authorized party may be invalid now, or for another tenant.
    pub(super) session: Option<Arc<Session>>,
}

/// A header that a session token of an instance may have.
#[derive(Debug)]
pub(super) struct ValidHeader {
    /// As it stands in the token.
    pub(super) text: String,
    /// The key ID.
    pub(super) kid: Option<String>,
}

impl ValidHeader {
    /// How much memory it takes.
    fn bytes(&self) -> usize {
        let text = |text: &String| ALLOCATION + text.capacity();
        ALLOCATION + size_of::<Self>() + text(&self.text) + self.kid.as_ref().map_or(0, text)
    }
}

/// Weighs a token by the memory that it takes.
#[derive(Clone)]
struct ByMemory;

impl Weighter<[u8; 32], Remembered> for ByMemory {
    fn weight(&self, _: &[u8; 32], remembered: &Remembered) -> u64 {
        remembered.bytes
    }
}

#[derive(Clone)]
struct Remembered {
    token: VerifiedToken,
    bytes: u64,
}

/// The session tokens with a valid signature that were used last.
#[derive(derive_more::Debug)]
#[debug("VerifiedTokens {{ .. }}")]
pub struct VerifiedTokens {
    tokens: Cache<[u8; 32], Remembered, ByMemory>,
    /// The newest headers of valid tokens, each once. All session tokens of one key have the same.
    headers: ArcSwap<Vec<Arc<ValidHeader>>>,
}

impl VerifiedTokens {
    /// Maximum memory, in bytes.
    pub const MAX_BYTES: u64 = 16 * 1024 * 1024;

    /// The number of headers that are kept, besides the tokens: enough for some keys of each of many tenants.
    const MAX_HEADERS: usize = 64;

    /// Clerk's headers have some 100 bytes. A longer one is parsed each time, and its token verified.
    const MAX_HEADER_BYTES: usize = 1024;

    /// What a token takes without its claims: a place in the cache's list and one in its table, each of which may have twice
    /// as much room.
    const BYTES_WITHOUT_CLAIMS: usize = 2 * (size_of::<([u8; 32], Remembered)>() + 32);

    pub(super) fn get(&self, digest: &[u8; 32]) -> Option<VerifiedToken> {
        self.tokens.get(digest).map(|remembered| remembered.token)
    }

    /// The header with this text, if it is kept.
    pub(super) fn header(&self, text: &str) -> Option<Arc<ValidHeader>> {
        self.headers.load().iter().find(|header| header.text == text).cloned()
    }

    /// How many bytes of memory they take, as estimated.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tokens.weight()
    }

    pub(super) fn insert(&self, digest: [u8; 32], token: VerifiedToken) {
        let is_kept = || self.headers.load().iter().any(|header| Arc::ptr_eq(header, &token.header));
        if token.header.text.len() <= Self::MAX_HEADER_BYTES && !is_kept() {
            self.headers.rcu(|headers| {
                let kept = headers.iter().filter(|header| header.text != token.header.text);
                iter::once(&token.header).chain(kept).take(Self::MAX_HEADERS).cloned().collect::<Vec<_>>()
            });
        }
        // A header that is not kept is in memory once for each token.
        let bytes = Self::BYTES_WITHOUT_CLAIMS + token.header.bytes() + token.session.as_deref().map_or(0, bytes_of);
        self.tokens.insert(digest, Remembered { token, bytes: u64::try_from(bytes).unwrap_or(u64::MAX) });
    }
}

impl Default for VerifiedTokens {
    /// None yet.
    fn default() -> Self {
        let least_bytes = u64::try_from(Self::BYTES_WITHOUT_CLAIMS).unwrap_or(u64::MAX);
        let tokens = usize::try_from(Self::MAX_BYTES / least_bytes).unwrap_or_default();
        Self { tokens: Cache::with_weighter(tokens, Self::MAX_BYTES, ByMemory), headers: ArcSwap::default() }
    }
}

/// What the allocator adds to an allocation.
const ALLOCATION: usize = 16;

/// A node of a BTreeMap: up to 11 entries. A map has at most one, and one more for every five entries.
const NODE: usize = 11 * (size_of::<String>() + size_of::<Value>()) + 12 * size_of::<usize>() + ALLOCATION;

/// How much memory a session takes.
fn bytes_of(session: &Session) -> usize {
    let Session { user_id, session_id, organization, plans, features, actor, claims, .. } = session;
    let organization = organization.iter().flat_map(|Organization { id, slug, role, permissions }| {
        iter::once(id).chain(slug).chain(role).chain(permissions.iter().flatten())
    });
    let scoped = [plans, features].into_iter().flat_map(|scoped| scoped.organization.iter().chain(&scoped.user));
    let actor = actor.iter().map(|actor| &actor.subject);
    let texts = [user_id, session_id].into_iter().chain(organization).chain(scoped).chain(actor);
    // A list may have room for twice its texts.
    let text = |text: &String| 2 * size_of::<String>() + ALLOCATION + text.capacity();
    ALLOCATION + size_of::<Session>() + texts.map(text).sum::<usize>() + bytes_of_claims(claims)
}

fn bytes_of_claims(claims: &Claims) -> usize {
    let claim = |(name, value): &(String, Value)| ALLOCATION + name.capacity() + bytes_of_value(value);
    ALLOCATION + claims.capacity() * size_of::<(String, Value)>() + claims.iter().map(claim).sum::<usize>()
}

fn bytes_of_object(object: &Map<String, Value>) -> usize {
    let entry = |(name, value): (&String, &Value)| ALLOCATION + name.capacity() + bytes_of_value(value);
    (1 + object.len() / 5) * NODE + object.iter().map(entry).sum::<usize>()
}

fn bytes_of_value(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => ALLOCATION + text.capacity(),
        Value::Array(list) => {
            ALLOCATION + list.capacity() * size_of::<Value>() + list.iter().map(bytes_of_value).sum::<usize>()
        }
        Value::Object(object) => bytes_of_object(object),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_of_the_newest_tokens_are_kept_each_once() {
        let key = Arc::new(SigningKey::from_components(vec![255; 256], vec![1, 0, 1]).unwrap());
        let verified = VerifiedTokens::default();
        let insert = |number: usize| {
            let header = Arc::new(ValidHeader { text: number.to_string(), kid: None });
            verified.insert([0; 32], VerifiedToken { header, key: Arc::clone(&key), session: None });
        };
        for number in [0, 1, 0, 1] {
            insert(number);
        }
        assert_eq!(verified.headers.load().len(), 2);
        (2..=VerifiedTokens::MAX_HEADERS).for_each(insert);
        let is_kept = |number: usize| verified.header(&number.to_string()).is_some();
        assert!(!is_kept(0) && (1..=VerifiedTokens::MAX_HEADERS).all(is_kept));
    }
}

//! `[ably]`: the API key and Ably's address.

use url::Url;

use super::{reader::Reader, settings, value};
use crate::ably::ApiKey;

/// Ably's settings.
#[derive(Clone, Debug)]
pub struct AblyConfig {
    /// Signs tokens and token requests.
    pub api_key: ApiKey,
    /// The REST API.
    pub rest_url: Url,
    /// Whether the key has revocable tokens on. Tokens are then valid for an hour at most.
    pub revocable_tokens: bool,
}

impl AblyConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let api_key = reader.value(&settings::ABLY_API_KEY, ApiKey::parse);
        let rest_url = reader.value(&settings::ABLY_REST_URL, value::base_url);
        let revocable_tokens = revocable_tokens(reader);
        Some(Self { api_key: api_key?, rest_url: rest_url?, revocable_tokens: revocable_tokens? })
    }
}

/// Whether the key has revocable tokens on.
pub(super) fn revocable_tokens(reader: &mut Reader<'_>) -> Option<bool> {
    reader.value(&settings::ABLY_REVOCABLE_TOKENS, value::boolean)
}

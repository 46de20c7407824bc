//! `[ably]`: the API keys and Ably's address.

use std::iter;

use url::Url;

use super::{
    reader::Reader,
    settings::{self, Setting},
    value,
};
use crate::ably::ApiKey;

/// Ably's settings.
#[derive(Clone, Debug)]
pub struct AblyConfig {
    /// Signs tokens and token requests.
    pub api_key: ApiKey,
    /// Another key of the same app, during a rotation. Only revokes.
    pub second_api_key: Option<ApiKey>,
    /// The REST API.
    pub rest_url: Url,
    /// Whether the API keys have revocable tokens on. Tokens are then valid for an hour at most.
    pub revocable_tokens: bool,
}

impl AblyConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let api_keys = api_keys(reader);
        let rest_url = reader.value(&settings::ABLY_REST_URL, value::base_url);
        let revocable_tokens = revocable_tokens(reader);
        let (api_key, second_api_key) = api_keys?;
        Some(Self { api_key, second_api_key, rest_url: rest_url?, revocable_tokens: revocable_tokens? })
    }

    /// All API keys, the signing one first.
    pub fn api_keys(&self) -> impl Iterator<Item = &ApiKey> {
        iter::once(&self.api_key).chain(&self.second_api_key)
    }

    /// The API keys that revoke tokens. None without revocable tokens.
    pub fn revoking_keys(&self) -> impl Iterator<Item = &ApiKey> {
        self.api_keys().filter(|_| self.revocable_tokens)
    }
}

/// The signing key, and the second key if there is one.
fn api_keys(reader: &mut Reader<'_>) -> Option<(ApiKey, Option<ApiKey>)> {
    const SETTING: Setting = settings::ABLY_API_KEY;
    let problems = reader.problems.len();
    let keys = reader.list(&SETTING, ApiKey::parse)?;
    let problem = match &keys[..] {
        _ if reader.problems.len() > problems => return None,
        [] => format!("not set; {}", SETTING.cure),
        [key] => return Some((key.clone(), None)),
        [signing, second] if signing.name() == second.name() => {
            "the same key twice; list the new key, then the key that it replaces".to_owned()
        }
        [signing, second] if signing.name().app_id() != second.name().app_id() => {
            "keys of two Ably apps; list two keys of the same app: the new key, then the key that it replaces"
                .to_owned()
        }
        [signing, second] => return Some((signing.clone(), Some(second.clone()))),
        _ => "more than two keys; list the new key, then the key that it replaces".to_owned(),
    };
    reader.problem(&SETTING, problem);
    None
}

/// Whether the API keys have revocable tokens on.
pub(super) fn revocable_tokens(reader: &mut Reader<'_>) -> Option<bool> {
    reader.value(&settings::ABLY_REVOCABLE_TOKENS, value::boolean)
}

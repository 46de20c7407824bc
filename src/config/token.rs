//! `[token]`: format, lifetime and client ID of tokens.

use super::{reader::Reader, settings, value};
use crate::{
    ably::{TokenFormat, Ttl},
    identity::ClientIdTemplate,
    tenant::SignedOut,
};

/// The settings of tokens.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    /// What a client gets.
    pub format: TokenFormat,
    /// How long a token is valid at most. If unset, Ably's default.
    pub ttl: Option<Ttl>,
    /// The template of client IDs.
    pub client_id: ClientIdTemplate,
    /// Whether the operator confirms that, without rules, tokens have the API key's whole capability.
    pub confirms_whole_capability: bool,
    /// What an SDK does when the user is signed out.
    pub signed_out: SignedOut,
}

impl TokenConfig {
    pub(super) fn read(reader: &mut Reader<'_>, revocable: bool) -> Option<Self> {
        let format = reader.choice(&settings::TOKEN_FORMAT, value::variant);
        let ttl = reader.value(&settings::TOKEN_TTL, |text| ttl(text, revocable));
        let client_id = reader.value(&settings::TOKEN_CLIENT_ID, str::parse::<ClientIdTemplate>);
        let confirms_whole_capability = reader.choice(&settings::TOKEN_CAPABILITY, |_| Some(true)).unwrap_or_default();
        let signed_out = reader.choice(&settings::TOKEN_SIGNED_OUT, value::variant);
        Some(Self { format: format?, ttl, client_id: client_id?, confirms_whole_capability, signed_out: signed_out? })
    }
}

pub(super) fn ttl(text: &str, revocable: bool) -> Result<Ttl, &'static str> {
    let ttl = Ttl::try_from(value::duration(text)?)
        .map_err(|()| "zero, or a fraction of a millisecond; write for example 30m")?;
    if revocable && ttl > Ttl::MAX_REVOCABLE {
        return Err("longer than the hour that Ably allows for a key with revocable tokens; use 1h or less");
    }
    if ttl > Ttl::MAX {
        return Err("longer than the 24 hours that Ably allows; use 24h or less");
    }
    Ok(ttl)
}

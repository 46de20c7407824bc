//! `[token]`: format, lifetime and client ID of tokens.

use super::{reader::Reader, settings, value::duration};
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
    /// What tokens may do without rules, if the operator confirms it.
    pub capability: Option<UnruledCapability>,
    /// What an SDK does when the user is signed out.
    pub signed_out: SignedOut,
}

/// What tokens may do without rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnruledCapability {
    /// What the API key may do.
    Key,
}

impl TokenConfig {
    pub(super) fn read(reader: &mut Reader<'_>, revocable: bool) -> Option<Self> {
        let format = reader.choice(&settings::TOKEN_FORMAT, |text| text.parse::<TokenFormat>().ok());
        let ttl = reader.value(&settings::TOKEN_TTL, |text| ttl(text, revocable));
        let client_id = reader.value(&settings::TOKEN_CLIENT_ID, str::parse::<ClientIdTemplate>);
        let capability = reader.choice(&settings::TOKEN_CAPABILITY, |_| Some(UnruledCapability::Key));
        let signed_out = reader.choice(&settings::TOKEN_SIGNED_OUT, |text| match text {
            "retry" => Some(SignedOut::Retry),
            "fail" => Some(SignedOut::Fail),
            _ => None,
        });
        Some(Self { format: format?, ttl, client_id: client_id?, capability, signed_out: signed_out? })
    }
}

pub(super) fn ttl(text: &str, revocable: bool) -> Result<Ttl, &'static str> {
    let ttl =
        Ttl::try_from(duration(text)?).map_err(|()| "zero, or a fraction of a millisecond; write for example 30m")?;
    if revocable && ttl > Ttl::MAX_REVOCABLE {
        return Err("longer than the hour that Ably allows for a key with revocable tokens; use 1h or less");
    }
    if ttl > Ttl::MAX {
        return Err("longer than the 24 hours that Ably allows; use 24h or less");
    }
    Ok(ttl)
}

//! `[token]`: what tokens are like.

use super::{
    reader::Reader,
    settings::{TOKEN_CAPABILITY, TOKEN_CLIENT_ID, TOKEN_FORMAT, TOKEN_SIGNED_OUT, TOKEN_TTL},
    value::duration,
};
use crate::{
    ably::{TokenFormat, Ttl},
    identity::ClientIdTemplate,
    tenant::SignedOut,
};

/// The settings of tokens.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    /// What tokens are given as.
    pub format: TokenFormat,
    /// The longest life of a token; without it, Ably's default.
    pub ttl: Option<Ttl>,
    /// How client IDs are made.
    pub client_id: ClientIdTemplate,
    /// What tokens may do where no rules say it, if that is meant.
    pub capability: Option<UnruledCapability>,
    /// What a client is told to do whose user is signed out.
    pub signed_out: SignedOut,
}

/// What tokens may do where no rules say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnruledCapability {
    /// All that the API key may.
    Key,
}

impl TokenConfig {
    pub(super) fn read(reader: &mut Reader<'_>, revocable: bool) -> Option<Self> {
        let format = reader.or_default(&TOKEN_FORMAT, "token_request", str::parse::<TokenFormat>);
        let ttl = reader.optional(&TOKEN_TTL, |text| ttl(text, revocable));
        let client_id = reader.or_default(&TOKEN_CLIENT_ID, "{username}", str::parse::<ClientIdTemplate>);
        let capability = reader.optional(&TOKEN_CAPABILITY, capability);
        let signed_out = reader.or_default(&TOKEN_SIGNED_OUT, "retry", signed_out);
        Some(Self { format: format?, ttl, client_id: client_id?, capability, signed_out: signed_out? })
    }
}

fn capability(text: &str) -> Result<UnruledCapability, &'static str> {
    match text {
        "key" => Ok(UnruledCapability::Key),
        _ => Err("only \"key\" can stand here: the API key's own capability; rules are [[grants]] tables"),
    }
}

fn signed_out(text: &str) -> Result<SignedOut, &'static str> {
    match text {
        "retry" => Ok(SignedOut::Retry),
        "fail" => Ok(SignedOut::Fail),
        _ => Err("neither retry (401: an SDK asks again) nor fail (403: it does not)"),
    }
}

pub(super) fn ttl(text: &str, revocable: bool) -> Result<Ttl, &'static str> {
    let ttl = Ttl::try_from(duration(text)?).map_err(|()| "not a whole number of milliseconds above zero")?;
    if revocable && ttl > Ttl::MAX_REVOCABLE {
        return Err("longer than the hour that Ably allows a key with revocable tokens");
    }
    if ttl > Ttl::MAX {
        return Err("longer than the 24 hours that Ably allows");
    }
    Ok(ttl)
}

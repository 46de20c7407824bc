//! `[token]`: what tokens are like.

use super::{
    reader::Reader,
    settings::{TOKEN_CLIENT_ID, TOKEN_FORMAT, TOKEN_TTL},
    value::duration,
};
use crate::{ably::Ttl, identity::ClientIdTemplate};

/// The settings of tokens.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    /// The longest life of a token; without it, Ably's default.
    pub ttl: Option<Ttl>,
    /// How client IDs are made.
    pub client_id: ClientIdTemplate,
}

impl TokenConfig {
    pub(super) fn read(reader: &mut Reader<'_>, revocable: bool) -> Option<Self> {
        let format = reader.or_default(&TOKEN_FORMAT, "token_request", format);
        let ttl = reader.optional(&TOKEN_TTL, |text| ttl(text, revocable));
        let client_id = reader.or_default(&TOKEN_CLIENT_ID, "{username}", str::parse::<ClientIdTemplate>);
        format?;
        Some(Self { ttl, client_id: client_id? })
    }
}

fn format(text: &str) -> Result<(), &'static str> {
    match text {
        "token_request" => Ok(()),
        "jwt" | "token_details" => Err("this version does not have that format yet; use token_request"),
        _ => Err("no such format; use token_request"),
    }
}

fn ttl(text: &str, revocable: bool) -> Result<Ttl, &'static str> {
    let ttl = Ttl::try_from(duration(text)?).map_err(|()| "not a whole number of milliseconds above zero")?;
    if revocable && ttl > Ttl::MAX_REVOCABLE {
        return Err("longer than the hour that Ably allows a key with revocable tokens");
    }
    if ttl > Ttl::MAX {
        return Err("longer than the 24 hours that Ably allows");
    }
    Ok(ttl)
}

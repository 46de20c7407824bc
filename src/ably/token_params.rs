//! Token params of a client (RSA8c1, TK2), from a query string or a form.

use super::{
    capability::Capability,
    client_id::{ClientId, InvalidClientId},
    token_request::Ttl,
};

/// The token that a client requests. Absent params are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenParams {
    /// The client ID that the client expects.
    pub client_id: Option<ClientId>,
    /// The requested rights.
    pub capability: Option<Capability>,
    /// The requested ttl.
    pub ttl: Option<Ttl>,
    /// The organization that the client expects to be active: an ID, a slug, or `none`. A param of this service, not of
    /// Ably.
    pub organization: Option<String>,
}

/// Why token params are invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTokenParams {
    /// A known param appears more than once.
    #[error("a token param is given twice")]
    Repeated,
    /// The client ID is `*`, too long, or has control characters.
    #[error("the clientId is invalid: {0}")]
    ClientId(InvalidClientId),
    /// The capability is not JSON, or not a capability.
    #[error("the capability is invalid: send a JSON object of resources, each with a list of Ably's operations")]
    Capability,
    /// The ttl is not a positive whole number.
    #[error("the ttl is not a positive whole number of milliseconds")]
    Ttl,
    /// The ttl is so short that it is probably in seconds.
    #[error("the ttl is shorter than 10 seconds; it is in milliseconds")]
    TtlTooShort,
}

impl TokenParams {
    /// Parses the known params and ignores the others. `timestamp` and `nonce` are checked for repetition only: the signer
    /// chooses them. An empty value, `null` and `undefined` count as absent, as SDKs send all three.
    pub fn parse<N: AsRef<str>, V: AsRef<str>>(
        params: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, InvalidTokenParams> {
        const KNOWN: [&str; 6] = ["clientId", "capability", "ttl", "organization", "timestamp", "nonce"];
        let mut values: [Option<V>; KNOWN.len()] = Default::default();
        for (name, value) in params {
            let Some(position) = KNOWN.iter().position(|known| *known == name.as_ref()) else { continue };
            if values[position].replace(value).is_some() {
                return Err(InvalidTokenParams::Repeated);
            }
        }
        let [client_id, capability, ttl, organization, ..] = values.each_ref().map(|value| {
            value.as_ref().map(AsRef::as_ref).filter(|value| !matches!(*value, "" | "null" | "undefined"))
        });
        Ok(Self {
            client_id: client_id.map(ClientId::parse).transpose().map_err(InvalidTokenParams::ClientId)?,
            capability: capability.map(str::parse).transpose().map_err(|_| InvalidTokenParams::Capability)?,
            ttl: ttl.map(parse_ttl).transpose()?,
            organization: organization.map(str::to_owned),
        })
    }
}

/// Parses digits. A huge number is not an error, as the policy lowers it. A small one is: a client that counts in seconds
/// would otherwise request a new token every few seconds.
fn parse_ttl(text: &str) -> Result<Ttl, InvalidTokenParams> {
    const SHORTEST_MS: u64 = 10_000;
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(InvalidTokenParams::Ttl);
    }
    let millis = text.parse().unwrap_or(u64::MAX);
    let ttl = Ttl::from_millis(millis).ok_or(InvalidTokenParams::Ttl)?;
    if millis < SHORTEST_MS { Err(InvalidTokenParams::TtlTooShort) } else { Ok(ttl) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<TokenParams, InvalidTokenParams> {
        TokenParams::parse(form_urlencoded::parse(query.as_bytes()))
    }

    #[test]
    fn an_absent_param_has_three_spellings() {
        for query in [
            "",
            "clientId=&capability=&ttl=&organization=",
            "clientId=null&capability=null&ttl=null&organization=null",
            "clientId=undefined&capability=undefined&ttl=undefined&organization=undefined",
            "rnd=1&rnd=2&clientid=bob",
        ] {
            assert_eq!(parse(query), Ok(TokenParams::default()), "{query}");
        }
    }

    #[test]
    fn known_params_are_parsed() {
        let params =
            parse("clientId=alice&capability=%7B%22a%22%3A%5B%22publish%22%5D%7D&ttl=60000&timestamp=x").unwrap();
        assert_eq!(params.client_id.unwrap().as_str(), "alice");
        assert_eq!(params.capability.unwrap().to_string(), r#"{"a":["publish"]}"#);
        assert_eq!(params.ttl, Ttl::from_millis(60_000));
        assert_eq!(parse("ttl=10000").unwrap().ttl, Ttl::from_millis(10_000));
        assert_eq!(parse("organization=acme").unwrap().organization.as_deref(), Some("acme"));
        assert_eq!(parse("ttl=99999999999999999999").unwrap().ttl, Ttl::from_millis(u64::MAX));
    }

    #[test]
    fn invalid_params_are_rejected() {
        use InvalidTokenParams as Invalid;
        for (query, error) in [
            ("clientId=*", Invalid::ClientId(InvalidClientId::Wildcard)),
            ("clientId=a%0Ab", Invalid::ClientId(InvalidClientId::ControlCharacter)),
            ("clientId=a&clientId=a", Invalid::Repeated),
            ("clientId=&clientId=a", Invalid::Repeated),
            ("timestamp=1&timestamp=2", Invalid::Repeated),
            ("organization=a&organization=a", Invalid::Repeated),
            ("ttl=0", Invalid::Ttl),
            ("ttl=1", Invalid::TtlTooShort),
            ("ttl=3600", Invalid::TtlTooShort),
            ("ttl=9999", Invalid::TtlTooShort),
            ("ttl=-1", Invalid::Ttl),
            ("ttl=1.5", Invalid::Ttl),
            ("ttl=1e3", Invalid::Ttl),
            ("ttl=%201", Invalid::Ttl),
            ("ttl=NaN", Invalid::Ttl),
            ("capability=x", Invalid::Capability),
            ("capability=%7B%7D", Invalid::Capability),
        ] {
            assert_eq!(parse(query), Err(error), "{query}");
        }
    }
}

//! `[admin]`: the listener for operators.

use std::net::SocketAddr;

use secrecy::{ExposeSecret, SecretString};

use super::{reader::Reader, server::ServerConfig, settings, value};

/// The minimum length of a token if other machines can reach the listener.
const MIN_TOKEN_LENGTH: usize = 16;

/// The settings of the admin listener.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// Its address, unless it is off.
    pub address: Option<SocketAddr>,
    /// What an operator request must send.
    pub token: Option<SecretString>,
}

impl AdminConfig {
    /// `server` is the public listener: the two cannot share an address.
    pub(super) fn read(reader: &mut Reader<'_>, server: Option<&ServerConfig>) -> Option<Self> {
        let host = reader.value(&settings::ADMIN_HOST, value::ip_address);
        let port = reader.value(&settings::ADMIN_PORT, |text| value::port(text, "no admin listener"));
        let token = reader.value(&settings::ADMIN_TOKEN, token);
        let address = Some(SocketAddr::new(host?, port?)).filter(|address| address.port() != 0);
        if address.zip(server).is_some_and(|(address, server)| overlap(server.address, address)) {
            reader.problem(
                &settings::ADMIN_PORT,
                "the public listener has this port; use another, or 0 for no admin listener",
            );
        }
        let is_beyond_loopback = address.is_some_and(|address| !address.ip().to_canonical().is_loopback());
        if is_beyond_loopback && token.as_ref().is_some_and(is_short) {
            reader.problem(
                &settings::ADMIN_TOKEN,
                format_args!(
                    "shorter than {MIN_TOKEN_LENGTH} characters, so others could guess it: the admin listener is not on \
                     loopback. Make a token with: openssl rand -hex 32"
                ),
            );
        }
        Some(Self { address, token })
    }

    /// A valid setting that may surprise.
    pub(super) fn warning(&self) -> Option<String> {
        self.token.as_ref().filter(|token| is_short(token))?;
        Some(format!(
            "a short ADMIN_TOKEN could be guessed, and beyond loopback it must have {MIN_TOKEN_LENGTH} characters or more. \
             Make a token with: openssl rand -hex 32"
        ))
    }
}

/// It travels in a header.
fn token(text: &str) -> Result<SecretString, &'static str> {
    let is_valid = text.bytes().all(|b| b.is_ascii_graphic());
    is_valid.then(|| text.into()).ok_or("has spaces, or characters beyond ASCII; make one with: openssl rand -hex 32")
}

fn is_short(token: &SecretString) -> bool {
    token.expose_secret().len() < MIN_TOKEN_LENGTH
}

fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let same_host = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    same_host && one.port() == other.port()
}

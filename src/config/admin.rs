//! `[admin]`: where the service shows its operator what it does, and takes orders.

use std::net::SocketAddr;

use secrecy::{ExposeSecret, SecretString};

use super::{
    ServerConfig,
    reader::Reader,
    settings::{ADMIN_HOST, ADMIN_PORT, ADMIN_TOKEN},
    value::{ip_address, port},
};

/// The fewest characters of a token for a listener that others than this machine can reach.
const SHORTEST_TOKEN: usize = 16;

/// The settings of the admin listener.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// Where it listens; none when it is off.
    pub address: Option<SocketAddr>,
    /// What whoever gives an order has to show.
    pub token: Option<SecretString>,
}

impl AdminConfig {
    /// `server` is the public listener, whose address cannot be this one's too.
    pub(super) fn read(reader: &mut Reader<'_>, server: Option<&ServerConfig>) -> Option<Self> {
        let host = reader.or_default(&ADMIN_HOST, "127.0.0.1", ip_address);
        let port = reader.or_default(&ADMIN_PORT, "9464", |text| port(text, "no admin listener"));
        let token = reader.optional(&ADMIN_TOKEN, token);
        let (host, port) = (host?, port?);
        if port == 0 {
            return Some(Self { address: None, token });
        }
        let address = SocketAddr::new(host, port);
        if server.is_some_and(|server| overlap(server.address(), address)) {
            reader
                .problem(&ADMIN_PORT, "the public listener has this port; choose another, or 0 for no admin listener");
        }
        if !is_loopback(address) && token.as_ref().is_some_and(is_short) {
            reader.problem(
                &ADMIN_TOKEN,
                format_args!(
                    "shorter than {SHORTEST_TOKEN} characters: whoever reaches the admin listener, which is not on \
                     loopback, could find it by trying; make one with: openssl rand -hex 32"
                ),
            );
        }
        Some(Self { address: Some(address), token })
    }

    /// What is allowed but may surprise.
    pub(super) fn warning(&self) -> Option<String> {
        self.token.as_ref().filter(|token| is_short(token))?;
        Some(format!(
            "a short ADMIN_TOKEN: it could be found by trying, and beyond loopback it is to have {SHORTEST_TOKEN} \
             characters at least; make one with: openssl rand -hex 32"
        ))
    }

    /// Whether both have the same token, or none.
    pub(super) fn has_token_of(&self, other: &Self) -> bool {
        let [ours, theirs] = [self, other].map(|config| config.token.as_ref().map(ExposeSecret::expose_secret));
        ours == theirs
    }
}

/// It travels in a header.
fn token(text: &str) -> Result<SecretString, &'static str> {
    if text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.into())
    } else {
        Err("has spaces, or characters beyond ASCII; make one with: openssl rand -hex 32")
    }
}

fn is_short(token: &SecretString) -> bool {
    token.expose_secret().len() < SHORTEST_TOKEN
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let same_host = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    same_host && one.port() == other.port()
}

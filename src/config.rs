//! Settings: a TOML file and the environment in, one validated [`Config`] out, or every problem at once.
//!
//! Precedence: variable, `NAME_FILE`, `.env`, TOML, default. The list of settings is in [`settings`]; each section has a
//! file that reads and checks its own.

mod ably;
mod clerk;
mod cors;
mod log;
mod policy;
mod policy_tests;
mod reader;
mod redis;
mod revocation;
mod server;
pub mod settings;
mod sources;
mod token;
mod value;

use std::fmt;

pub use ably::AblyConfig;
pub use clerk::{ClerkConfig, KeySource};
pub use cors::CorsConfig;
pub use log::{LogConfig, LogFormat};
pub use policy_tests::{Case, Expected, InvalidPolicyTests, PolicyTests, PolicyUnderTest};
pub use reader::{Origin, Problem, Provenance};
pub use redis::RedisConfig;
pub use revocation::RevocationConfig;
pub use server::ServerConfig;
pub use sources::Sources;
pub use token::{TokenConfig, UnruledCapability};

use reader::Reader;

use crate::{ably::TokenFormat, policy::Policy};

/// All settings, valid.
#[derive(Clone, Debug)]
pub struct Config {
    /// Ably's.
    pub ably: AblyConfig,
    /// Clerk's.
    pub clerk: ClerkConfig,
    /// What tokens are like.
    pub token: TokenConfig,
    /// Who may do what.
    pub policy: Policy,
    /// How denials work.
    pub revocation: RevocationConfig,
    /// What replicas share, if they do.
    pub redis: Option<RedisConfig>,
    /// Who may read answers in a browser.
    pub cors: CorsConfig,
    /// Where the service listens.
    pub server: ServerConfig,
    /// How it logs.
    pub log: LogConfig,
}

/// Everything that is wrong with the configuration.
#[derive(Debug)]
pub struct Problems(pub Vec<Problem>);

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        writeln!(f, "the configuration has {count} problem{}:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|problem| writeln!(f, "  - {problem}"))
    }
}

impl Config {
    /// Reads and checks all settings. Also returns where each came from.
    pub fn load(sources: &Sources) -> Result<(Self, Provenance), Problems> {
        let mut reader = Reader::new(sources);
        let config = Self::read(&mut reader);
        reader.finish(config)
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        // Every section is read before any is found missing, so that all problems are told.
        let ably = AblyConfig::read(reader);
        let clerk = ClerkConfig::read(reader);
        let revocable = ably.as_ref().is_some_and(|ably| ably.revocable_tokens);
        let token = TokenConfig::read(reader, revocable);
        let policy = policy::read(reader, token.as_ref(), revocable);
        let revocation = RevocationConfig::read(reader);
        let redis = RedisConfig::read(reader);
        let authorized_parties = clerk.as_ref().map(|clerk| clerk.authorized_parties.clone());
        let cors = CorsConfig::read(reader, authorized_parties.unwrap_or_default());
        let server = ServerConfig::read(reader);
        let log = LogConfig::read(reader);
        Some(Self {
            ably: ably?,
            clerk: clerk?,
            token: token?,
            policy,
            revocation: revocation?,
            redis,
            cors,
            server: server?,
            log: log?,
        })
    }

    /// Where the service listens, or would, whatever else is wrong: for the `healthcheck` command.
    pub fn server_only(sources: &Sources) -> Result<ServerConfig, Problems> {
        let mut reader = Reader::for_part(sources);
        let server = ServerConfig::read(&mut reader);
        reader.finish(server).map(|(server, _)| server)
    }

    /// The sections whose settings, the policy aside, are not those of `other`.
    #[must_use]
    pub fn differences_beyond_policy(&self, other: &Self) -> Vec<&'static str> {
        // What a section is, short of its secrets, is what it prints as.
        let differs = |a: &dyn fmt::Debug, b: &dyn fmt::Debug| format!("{a:?}") != format!("{b:?}");
        let token = |config: &Self| TokenConfig { capability: None, ..config.token.clone() };
        [
            ("ably", differs(&self.ably, &other.ably) || !self.ably.api_key.signs_like(&other.ably.api_key)),
            ("clerk", differs(&self.clerk, &other.clerk) || !self.clerk.has_secret_key_of(&other.clerk)),
            ("token", differs(&token(self), &token(other))),
            ("revocation", differs(&self.revocation, &other.revocation)),
            (
                "redis",
                differs(&self.redis, &other.redis)
                    || !RedisConfig::are_same_server(self.redis.as_ref(), other.redis.as_ref()),
            ),
            ("cors", differs(&self.cors, &other.cors)),
            ("server", differs(&self.server, &other.server)),
            ("log", differs(&self.log, &other.log)),
        ]
        .into_iter()
        .filter_map(|(section, differs)| differs.then_some(section))
        .collect()
    }

    /// What is allowed but may surprise: a sentence for each.
    #[must_use]
    pub fn warnings(&self) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        if self.clerk.authorized_parties.is_empty() {
            warnings.push(
                "no authorized parties: a session token minted for any origin of this Clerk instance is accepted; set \
                 CLERK_AUTHORIZED_PARTIES to your app's origins",
            );
        }
        if self.cors.allowed_origins.is_empty() {
            warnings.push("no CORS origins: no page on another origin than this service's own may read answers");
        }
        if self.redis.as_ref().is_some_and(|redis| redis.address.is_in_clear()) {
            warnings.push(
                "Redis without TLS: its password, and who is refused, can be read and changed on the way there; use \
                 rediss://, or a network that nobody else is on",
            );
        }
        if !self.policy.has_rules() && self.token.capability.is_none() {
            warnings.push(
                "no policy: every signed-in user gets the whole capability of the Ably API key; write [[grants]], or set \
                 TOKEN_CAPABILITY to key if that is meant",
            );
        }
        if self.token.format == TokenFormat::TokenDetails {
            warnings.push(
                "token_details: each token costs a call to Ably, and while Ably cannot be reached there are none; \
                 token_request and jwt need no call",
            );
        }
        if self.token.client_id.needs_username() && self.clerk.secret_key.is_none() {
            warnings.push(
                "no secret key: usernames must be in the session token; add a username claim in Clerk's dashboard, or set \
                 CLERK_SECRET_KEY, or set TOKEN_CLIENT_ID to {user_id}",
            );
        }
        warnings
    }
}

#[cfg(test)]
mod tests;

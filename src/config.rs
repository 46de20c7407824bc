//! Settings: a TOML file and the environment in, one validated [`Config`] out, or every problem at once.
//!
//! Precedence: variable, `NAME_FILE`, `.env`, TOML, default. The list of settings is in [`settings`]; each section has a
//! file that reads and checks its own.

mod ably;
mod admin;
mod clerk;
mod cors;
mod dot_env;
mod limits;
mod log;
mod mount;
mod policy;
mod policy_cases;
mod reader;
mod redis;
mod revocation;
mod server;
pub mod settings;
mod sources;
mod tenant;
mod token;
mod value;

use std::{collections::BTreeSet, fmt};

pub use ably::AblyConfig;
pub use admin::AdminConfig;
pub use clerk::{ClerkConfig, KeySource};
pub use cors::CorsConfig;
pub use limits::LimitsConfig;
pub use log::LogConfig;
pub use mount::mount_warning;
pub use policy_cases::{Case, Expected, InvalidPolicyTests, PolicyTests, PolicyUnderTest};
pub use reader::{Origin, Problem, Provenance};
pub use redis::RedisConfig;
pub use revocation::RevocationConfig;
pub use server::ServerConfig;
pub use sources::{Sources, TomlFile};
pub use tenant::{Scope, TenantConfig};
pub use token::{TokenConfig, UnruledCapability};

use reader::Reader;

use crate::tenant::TenantName;

/// All settings, valid.
#[derive(Clone, Debug)]
pub struct Config {
    /// The tenants: at least one, and no two that could be taken for one another.
    pub tenants: Vec<TenantConfig>,
    /// How denials work.
    pub revocation: RevocationConfig,
    /// What replicas share, if they do.
    pub redis: Option<RedisConfig>,
    /// Where the service listens.
    pub server: ServerConfig,
    /// Where it shows its operator what it does.
    pub admin: AdminConfig,
    /// How much it gives at most.
    pub limits: LimitsConfig,
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
        let tenants = tenant::each(reader, TenantConfig::read);
        tenant::refuse_overlaps(reader, &tenants);
        let revocation = RevocationConfig::read(reader);
        let redis = RedisConfig::read(reader);
        let server = ServerConfig::read(reader);
        let admin = AdminConfig::read(reader, server.as_ref());
        let limits = LimitsConfig::read(reader);
        let log = LogConfig::read(reader);
        let (server, admin, limits) = (server?, admin?, limits?);
        Some(Self { tenants, revocation: revocation?, redis, server, admin, limits, log: log? })
    }

    /// Where the service listens, or would, whatever else is wrong: for the `healthcheck` command.
    pub fn server_only(sources: &Sources) -> Result<ServerConfig, Problems> {
        let mut reader = Reader::for_part(sources);
        let server = ServerConfig::read(&mut reader);
        reader.finish(server).map(|(server, _)| server)
    }

    /// Where the service takes orders, or would, whatever else is wrong: for the `revoke` command.
    pub fn admin_only(sources: &Sources) -> Result<AdminConfig, Problems> {
        let mut reader = Reader::for_part_of_sound(sources);
        let admin = AdminConfig::read(&mut reader, None);
        reader.finish(admin).map(|(admin, _)| admin)
    }

    /// The tenant of a name.
    #[must_use]
    pub fn tenant(&self, name: &TenantName) -> Option<&TenantConfig> {
        self.tenants.iter().find(|tenant| tenant.name() == *name)
    }

    /// The sections whose settings, policies aside, are not those of `other`.
    #[must_use]
    pub fn differences_beyond_policy(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let names = |config: &Self| config.tenants.iter().map(TenantConfig::name).collect::<BTreeSet<_>>();
        if names(self) != names(other) {
            differences.push(tenant::TENANTS.to_owned());
        }
        for (tenant, theirs) in self.tenants.iter().filter_map(|tenant| Some((tenant, other.tenant(&tenant.name())?))) {
            let sections = tenant.differences_beyond_policy(theirs);
            differences.extend(sections.map(|section| format!("{}{section}", tenant.scope.prefix())));
        }
        let differs = |a: &dyn fmt::Debug, b: &dyn fmt::Debug| format!("{a:?}") != format!("{b:?}");
        let sections = [
            ("revocation", differs(&self.revocation, &other.revocation)),
            (
                "redis",
                differs(&self.redis, &other.redis)
                    || !RedisConfig::are_same_server(self.redis.as_ref(), other.redis.as_ref()),
            ),
            ("server", differs(&self.server, &other.server)),
            ("admin", differs(&self.admin, &other.admin) || !self.admin.has_token_of(&other.admin)),
            ("limits", differs(&self.limits, &other.limits)),
            ("log", differs(&self.log, &other.log)),
        ];
        differences.extend(sections.into_iter().filter(|(_, differs)| *differs).map(|(section, _)| section.to_owned()));
        differences
    }

    /// What is allowed but may surprise: a sentence for each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.tenants.iter().flat_map(TenantConfig::warnings).chain(self.warnings_beyond_tenants()).collect()
    }

    /// Those of them that are about no tenant.
    #[must_use]
    pub fn warnings_beyond_tenants(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.redis.as_ref().is_some_and(|redis| redis.address.is_in_clear()) {
            warnings.push(
                "Redis without TLS: its password, and who is refused, can be read and changed on the way there; use \
                 rediss://, or a network that nobody else is on"
                    .to_owned(),
            );
        }
        warnings.extend(self.admin.warning());
        warnings
    }
}

#[cfg(test)]
mod tests;

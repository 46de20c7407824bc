//! Settings: a TOML file and the environment in, one validated [`Config`] out, or every problem at once.
//!
//! Precedence: variable, `NAME_FILE`, `.env`, TOML file, default. [`settings`] lists the settings; the example file holds
//! the defaults; each section with several settings has a file that reads and checks it.

mod ably;
mod admin;
mod clerk;
mod dot_env;
mod limits;
mod log;
mod mount;
mod policy;
mod policy_cases;
mod problem;
mod reader;
mod redis;
mod scope;
mod server;
pub mod settings;
mod sources;
mod tenant;
mod token;
mod unknown;
mod value;

use std::{collections::BTreeSet, time::Duration};

use secrecy::ExposeSecret;

pub use ably::AblyConfig;
pub use admin::AdminConfig;
pub use clerk::{ClerkConfig, KeySource};
pub use limits::LimitsConfig;
pub use log::LogConfig;
pub use mount::mount_warning;
pub use policy_cases::{Case, Expected, ExpectedGrant, PolicyUnderTest};
pub use problem::{InvalidPolicyTests, Problem, Problems};
pub use reader::Provenance;
pub use redis::RedisConfig;
pub use scope::Scope;
pub use server::ServerConfig;
pub use sources::{Sources, TomlFile};
pub use tenant::TenantConfig;
pub use token::TokenConfig;

use reader::{RawValues, Reader};

use crate::tenant::TenantName;

/// All settings, validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// The tenants: at least one, and no two that could be confused with one another.
    pub tenants: Vec<TenantConfig>,
    /// How long a denial lasts. A session token that is valid for longer could outlive its denial, and is rejected.
    pub denial_ttl: Duration,
    /// `[redis]`, if replicas share one.
    pub redis: Option<RedisConfig>,
    /// `[server]`.
    pub server: ServerConfig,
    /// `[admin]`.
    pub admin: AdminConfig,
    /// `[limits]`.
    pub limits: LimitsConfig,
    /// `[log]`.
    pub log: LogConfig,
    values: RawValues,
}

impl Config {
    /// Reads and checks all settings. Also returns the origin of each.
    pub fn load(sources: &Sources) -> Result<(Self, Provenance), Problems> {
        let mut reader = Reader::new(sources);
        unknown::reject(&mut reader);
        let config = Self::read(&mut reader);
        reader.finish(config)
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let tenants = tenant::each(reader, TenantConfig::read);
        tenant::reject_overlaps(reader, &tenants);
        let denial_ttl = reader.value(&settings::REVOCATION_DENIAL_TTL, value::denial_ttl);
        let redis = RedisConfig::read(reader);
        let server = ServerConfig::read(reader);
        let admin = AdminConfig::read(reader, server.as_ref());
        let limits = LimitsConfig::read(reader);
        let log = LogConfig::read(reader);
        let values = std::mem::take(&mut reader.values);
        let (server, admin, limits) = (server?, admin?, limits?);
        Some(Self { tenants, denial_ttl: denial_ttl?, redis, server, admin, limits, log: log?, values })
    }

    /// The public listener, despite problems of other settings. For `healthcheck`.
    pub fn server_only(sources: &Sources) -> Result<ServerConfig, Problems> {
        let mut reader = Reader::new(sources);
        reader.problems.clear();
        let server = ServerConfig::read(&mut reader);
        reader.finish(server).map(|(server, _)| server)
    }

    /// The admin listener, despite problems of other settings. For `revoke`.
    pub fn admin_only(sources: &Sources) -> Result<AdminConfig, Problems> {
        let mut reader = Reader::new(sources);
        let admin = AdminConfig::read(&mut reader, None);
        reader.finish(admin).map(|(admin, _)| admin)
    }

    /// The policies of all tenants, for policy tests. Other settings may be unset, but not invalid.
    pub fn policies_only(sources: &Sources) -> Result<Vec<PolicyUnderTest>, Problems> {
        let mut reader = Reader::new(sources);
        unknown::reject(&mut reader);
        let policies = tenant::each(&mut reader, |reader| {
            let revocable = ably::revocable_tokens(reader).unwrap_or_default();
            let token = TokenConfig::read(reader, revocable);
            let policy = policy::read(reader, token.as_ref(), revocable);
            Some(PolicyUnderTest { tenant: reader.scope.name(), policy, token: token? })
        });
        reader.finish(Some(policies)).map(|(policies, _)| policies)
    }

    /// The tenant with this name.
    #[must_use]
    pub fn tenant(&self, name: &TenantName) -> Option<&TenantConfig> {
        self.tenants.iter().find(|tenant| tenant.name() == *name)
    }

    /// The sections in which a setting other than the policy has another value in `other`.
    #[must_use]
    pub fn differences_beyond_policy(&self, other: &Self) -> Vec<String> {
        let names = |config: &Self| config.tenants.iter().map(TenantConfig::name).collect::<BTreeSet<_>>();
        let mut sections = Vec::from_iter((names(self) != names(other)).then(|| settings::TENANTS.to_owned()));
        let in_both = self.tenants.iter().filter(|tenant| other.tenant(&tenant.name()).is_some());
        let scopes = in_both.map(|tenant| (Some(tenant.name()), tenant.scope.prefix())).chain([(None, String::new())]);
        for (tenant, prefix) in scopes {
            for setting in settings::ALL.iter().filter(|setting| **setting != settings::TOKEN_CAPABILITY) {
                let key = (tenant.clone(), setting.section, setting.key);
                let [ours, theirs] =
                    [self, other].map(|config| config.values.get(&key).map(ExposeSecret::expose_secret));
                sections.extend((ours != theirs).then(|| format!("{prefix}{}", setting.section)));
            }
        }
        sections.dedup();
        sections
    }

    /// A sentence for each valid setting that may surprise.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.tenants.iter().flat_map(TenantConfig::warnings).chain(self.warnings_beyond_tenants()).collect()
    }

    /// The warnings about settings that are not a tenant's.
    #[must_use]
    pub fn warnings_beyond_tenants(&self) -> Vec<String> {
        let in_clear = self.redis.as_ref().is_some_and(|redis| redis.address.is_in_clear()).then(|| {
            "Redis without TLS: others on the network can read and change its password and all denials. Use rediss://, or \
             a private network"
                .to_owned()
        });
        in_clear.into_iter().chain(self.admin.warning()).collect()
    }
}

#[cfg(test)]
mod tests;

//! `[[tenants]]`, or the flat form, which is a list of one: the sections that each tenant has of its own.

use std::fmt;

use super::{
    AblyConfig, ClerkConfig, CorsConfig, TokenConfig, policy,
    reader::Reader,
    settings::{
        ABLY_API_KEY, ABLY_REVOCABLE_TOKENS, CLERK_AUTHORIZED_PARTIES, CLERK_PUBLISHABLE_KEY, CLERK_SECRET_KEY,
        CLERK_WEBHOOK_SIGNING_SECRET, Setting, TOKEN_CAPABILITY, TOKEN_CLIENT_ID,
    },
};
use crate::{
    ably::{TokenFormat, Ttl},
    policy::Policy,
    tenant::{InvalidTenantName, TenantName},
};

/// The key of the list of tenants.
pub(super) const TENANTS: &str = "tenants";

/// The sections that are a tenant's own.
pub(super) const SECTIONS: [&str; 4] = ["ably", "clerk", "token", "cors"];

/// Where a tenant's settings stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// At the top of the file, and in variables named for section and key.
    Flat,
    /// In the table of `[[tenants]]` at this place in the list, and in variables that name the tenant too.
    Tenant(TenantName, usize),
}

impl Scope {
    /// The variable of a setting: `ABLY_API_KEY`, or `TENANTS_ACME_ABLY_API_KEY`.
    #[must_use]
    pub fn variable(&self, setting: &Setting) -> String {
        match self {
            Self::Tenant(name, _) if setting.is_of_a_tenant() => {
                let prefix = format!("{TENANTS}_{name}").to_ascii_uppercase().replace('-', "_");
                format!("{prefix}_{}", setting.variable())
            }
            _ => setting.variable(),
        }
    }

    /// The variable of a setting and the other names for it, which are the vendors' and so mean the only tenant's.
    pub(super) fn variables(&self, setting: &Setting) -> Vec<String> {
        match self {
            Self::Flat => setting.variables().collect(),
            Self::Tenant(..) => vec![self.variable(setting)],
        }
    }

    /// What begins a sentence about this tenant, where there may be others.
    #[must_use]
    pub fn prefix(&self) -> String {
        match self {
            Self::Flat => String::new(),
            Self::Tenant(name, _) => format!("tenant {name}: "),
        }
    }

    /// The tenant's name.
    #[must_use]
    pub fn name(&self) -> TenantName {
        match self {
            Self::Flat => TenantName::default(),
            Self::Tenant(name, _) => name.clone(),
        }
    }
}

/// The settings of one tenant.
#[derive(Clone, Debug)]
pub struct TenantConfig {
    /// What it is called, and where its settings stand.
    pub scope: Scope,
    /// Ably's.
    pub ably: AblyConfig,
    /// Clerk's.
    pub clerk: ClerkConfig,
    /// What tokens are like.
    pub token: TokenConfig,
    /// Who may do what.
    pub policy: Policy,
    /// Who may read answers in a browser.
    pub cors: CorsConfig,
}

impl TenantConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        // Every section is read before any is found missing, so that all problems are told.
        let ably = AblyConfig::read(reader);
        let clerk = ClerkConfig::read(reader);
        let revocable = ably.as_ref().is_some_and(|ably| ably.revocable_tokens);
        let token = TokenConfig::read(reader, revocable);
        let policy = policy::read(reader, token.as_ref(), revocable);
        let authorized_parties = clerk.as_ref().map(|clerk| clerk.authorized_parties.clone());
        let cors = CorsConfig::read(reader, authorized_parties.unwrap_or_default());
        Some(Self { scope: reader.scope().clone(), ably: ably?, clerk: clerk?, token: token?, policy, cors })
    }

    /// Whether tokens of these settings can be what a policy makes of them: their format carries all of it, and they may
    /// live as long.
    #[must_use]
    pub fn can_have(&self, policy: &Policy) -> bool {
        let longest = if self.ably.revocable_tokens { Ttl::MAX_REVOCABLE } else { Ttl::MAX };
        policy.rules.iter().all(|rule| {
            (self.token.format == TokenFormat::Jwt || !rule.needs_a_jwt()) && rule.ttl.is_none_or(|ttl| ttl <= longest)
        })
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> TenantName {
        self.scope.name()
    }

    /// The sections whose settings, the policy aside, are not those of `other`.
    pub(super) fn differences_beyond_policy(&self, other: &Self) -> impl Iterator<Item = &'static str> {
        // What a section is, short of its secrets, is what it prints as.
        let differs = |a: &dyn fmt::Debug, b: &dyn fmt::Debug| format!("{a:?}") != format!("{b:?}");
        let token = |config: &Self| TokenConfig { capability: None, ..config.token.clone() };
        [
            ("ably", differs(&self.ably, &other.ably) || !self.ably.api_key.signs_like(&other.ably.api_key)),
            ("clerk", differs(&self.clerk, &other.clerk) || !self.clerk.has_secrets_of(&other.clerk)),
            ("token", differs(&token(self), &token(other))),
            ("cors", differs(&self.cors, &other.cors)),
        ]
        .into_iter()
        .filter_map(|(section, differs)| differs.then_some(section))
    }

    /// What is allowed but may surprise: a sentence for each.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let mut warnings = Vec::new();
        let variable = |setting| self.scope.variable(setting);
        if self.clerk.authorized_parties.is_empty() {
            warnings.push(format!(
                "no authorized parties: a session token minted for any origin of this Clerk instance is accepted; set {} \
                 to your app's origins",
                variable(&CLERK_AUTHORIZED_PARTIES)
            ));
        }
        if self.cors.allowed_origins.is_empty() {
            warnings
                .push("no CORS origins: no page on another origin than this service's own may read answers".to_owned());
        }
        if !self.policy.has_rules() && self.token.capability.is_none() {
            warnings.push(format!(
                "no policy: every signed-in user gets the whole capability of the Ably API key; write [[grants]], or set \
                 {} to key if that is meant",
                variable(&TOKEN_CAPABILITY)
            ));
        }
        if self.token.format == TokenFormat::TokenDetails {
            warnings.push(
                "token_details: each token costs a call to Ably, and while Ably cannot be reached there are none; \
                 token_request and jwt need no call"
                    .to_owned(),
            );
        }
        if self.token.client_id.needs_username() && self.clerk.secret_key.is_none() {
            warnings.push(format!(
                "no secret key: usernames must be in the session token; add a username claim in Clerk's dashboard, or set \
                 {}, or set {} to {{user_id}}",
                variable(&CLERK_SECRET_KEY),
                variable(&TOKEN_CLIENT_ID)
            ));
        }
        if !self.clerk.webhook_signing_secrets.is_empty() && !self.ably.revocable_tokens {
            warnings.push(format!(
                "webhooks without revocable tokens: who signs out gets no new token, and a connection lasts until its \
                 token ends; turn revocable tokens on for the API key in Ably's dashboard, and set {} to true",
                variable(&ABLY_REVOCABLE_TOKENS)
            ));
        }
        let prefix = self.scope.prefix();
        warnings.into_iter().map(move |warning| format!("{prefix}{warning}"))
    }
}

/// Reads something of every tenant. What cannot be read is left out, and the reader knows why.
pub(super) fn each<T>(reader: &mut Reader<'_>, read: impl Fn(&mut Reader<'_>) -> Option<T>) -> Vec<T> {
    let scopes = match reader.toml().get(TENANTS) {
        None => vec![Scope::Flat],
        Some(value) => {
            reader.refuse_the_flat_form();
            scopes(reader, value)
        }
    };
    scopes.into_iter().filter_map(|scope| reader.within(scope, &read)).collect()
}

fn scopes(reader: &mut Reader<'_>, value: &toml::Value) -> Vec<Scope> {
    let tables = value.as_array().filter(|tables| !tables.is_empty() && tables.iter().all(toml::Value::is_table));
    let Some(tables) = tables else {
        reader.problem_of("tenants", "a list of tables is wanted; write [[tenants]] for each");
        return Vec::new();
    };
    let mut scopes: Vec<Scope> = Vec::new();
    for (index, table) in tables.iter().enumerate() {
        let subject = format!("[[{TENANTS}]] number {}", index + 1);
        match tenant_name(table) {
            Ok(name) if scopes.iter().any(|scope| scope.name() == name) => {
                reader.problem_of(&subject, "another tenant has this name already");
            }
            Ok(name) => scopes.push(Scope::Tenant(name, index)),
            Err(problem) => reader.problem_of(&subject, problem),
        }
    }
    scopes
}

fn tenant_name(table: &toml::Value) -> Result<TenantName, String> {
    let name = table.get("name").ok_or("no name; logs, variables and metrics need one")?;
    let name = name.as_str().ok_or("the name is no text")?;
    TenantName::parse(name).map_err(|error: InvalidTenantName| error.to_string())
}

/// The scopes of tenants whose tables are in order, for those who only want their names.
pub(super) fn named_scopes(toml: &toml::Table) -> impl Iterator<Item = Scope> {
    let tables = toml.get(TENANTS).and_then(toml::Value::as_array).into_iter().flatten();
    tables.enumerate().filter_map(|(index, table)| Some(Scope::Tenant(tenant_name(table).ok()?, index)))
}

/// Refuses tenants that could be taken for one another.
pub(super) fn refuse_overlaps(reader: &mut Reader<'_>, tenants: &[TenantConfig]) {
    for (index, tenant) in tenants.iter().enumerate() {
        for other in tenants.iter().take(index) {
            let name = other.name();
            if tenant.ably.api_key.name().app_id() == other.ably.api_key.name().app_id() {
                reader.within(tenant.scope.clone(), |reader| {
                    reader.problem(
                        &ABLY_API_KEY,
                        format_args!(
                            "a key of the same Ably app as that of tenant {name}: a client ID of one would be the same \
                             client ID of the other; make an Ably app for each"
                        ),
                    );
                });
            }
            if tenant.clerk.shares_a_webhook_secret_with(&other.clerk) {
                reader.within(tenant.scope.clone(), |reader| {
                    let what = format_args!("that of tenant {name} too: nothing would say whose a webhook is");
                    reader.problem(&CLERK_WEBHOOK_SIGNING_SECRET, what);
                });
            }
            let theirs = other.clerk.issuers();
            if tenant.clerk.issuers().iter().any(|issuer| theirs.contains(issuer)) {
                reader.within(tenant.scope.clone(), |reader| {
                    reader.problem(
                        &CLERK_PUBLISHABLE_KEY,
                        format_args!(
                            "session tokens of this tenant have the same issuer as those of tenant {name}, so that \
                             nothing tells the two apart; a tenant is a Clerk instance of its own"
                        ),
                    );
                });
            }
        }
    }
}

//! `[[tenants]]`, or the flat form, which is a list of one: the sections that each tenant has of its own.

use super::{
    ably::AblyConfig, clerk::ClerkConfig, policy, reader::Reader, scope, scope::Scope, settings, token::TokenConfig,
    unknown, value,
};
use crate::{
    ably::{TokenFormat, Ttl},
    policy::Policy,
    tenant::TenantName,
};

/// The settings of one tenant.
#[derive(Clone, Debug)]
pub struct TenantConfig {
    /// Its name, and the place of its settings.
    pub scope: Scope,
    /// `[ably]`.
    pub ably: AblyConfig,
    /// `[clerk]`.
    pub clerk: ClerkConfig,
    /// `[token]`.
    pub token: TokenConfig,
    /// `[[grants]]` and `[token] require`.
    pub policy: Policy,
    /// The origins whose pages may read answers. If unset, the authorized parties.
    pub allowed_origins: Vec<String>,
}

impl TenantConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        // Reads every section before the first `?`, to report all problems.
        let ably = AblyConfig::read(reader);
        let clerk = ClerkConfig::read(reader);
        let revocable = ably.as_ref().is_some_and(|ably| ably.revocable_tokens);
        let token = TokenConfig::read(reader, revocable);
        let policy = policy::read(reader, token.as_ref(), revocable);
        let origins = reader.list(&settings::CORS_ALLOWED_ORIGINS, value::origin);
        let clerk = clerk?;
        let allowed_origins = origins.unwrap_or_else(|| clerk.authorized_parties.clone());
        Some(Self { scope: reader.scope.clone(), ably: ably?, clerk, token: token?, policy, allowed_origins })
    }

    /// Whether tokens of these settings can carry what a policy grants, for as long as it grants it.
    #[must_use]
    pub fn can_have(&self, policy: &Policy) -> bool {
        let longest = if self.ably.revocable_tokens { Ttl::MAX_REVOCABLE } else { Ttl::MAX };
        policy.rules.iter().all(|rule| {
            (self.token.format == TokenFormat::Jwt || !rule.needs_a_jwt()) && rule.ttl.is_none_or(|ttl| ttl <= longest)
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> TenantName {
        self.scope.name()
    }

    /// A sentence for each valid setting that may surprise.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let variable = |setting| self.scope.variable(setting);
        let mut warnings = Vec::new();
        if self.clerk.authorized_parties.is_empty() {
            warnings.push(format!(
                "no authorized parties: this accepts session tokens for any origin of the Clerk instance; set {} to your \
                 app's origins",
                variable(&settings::CLERK_AUTHORIZED_PARTIES)
            ));
        }
        if self.allowed_origins.is_empty() {
            warnings.push("no CORS origins: only pages on this service's own origin may read answers".to_owned());
        }
        if !self.policy.has_rules() && !self.token.confirms_whole_capability {
            warnings.push(format!(
                "no policy: every signed-in user gets the API key's whole capability; write [[grants]], or confirm it \
                 with {}=key",
                variable(&settings::TOKEN_CAPABILITY)
            ));
        }
        if self.token.format == TokenFormat::TokenDetails {
            warnings.push(
                "token_details: each token costs a call to Ably, and an outage of Ably stops all tokens; token_request \
                 and jwt need no call"
                    .to_owned(),
            );
        }
        if self.token.client_id.needs_username() && self.clerk.secret_key.is_none() {
            warnings.push(format!(
                "no secret key: usernames must be in the session token; add a username claim in Clerk's dashboard, or set \
                 {}, or set {} to {{user_id}}",
                variable(&settings::CLERK_SECRET_KEY),
                variable(&settings::TOKEN_CLIENT_ID)
            ));
        }
        if !self.clerk.webhook_signing_secrets.is_empty() && !self.ably.revocable_tokens {
            warnings.push(format!(
                "webhooks without revocable tokens: a signed-out user gets no new token, but a connection lasts until its \
                 token expires; turn on revocable tokens for the API key in Ably's dashboard, and set {} to true",
                variable(&settings::ABLY_REVOCABLE_TOKENS)
            ));
        }
        if self.ably.second_api_key.is_some() && !self.ably.revocable_tokens {
            warnings.push(format!(
                "two API keys without revocable tokens: the second would only revoke, so it has no effect; list one key in {}",
                variable(&settings::ABLY_API_KEY)
            ));
        }
        let prefix = self.scope.prefix();
        warnings.into_iter().map(move |warning| format!("{prefix}{warning}"))
    }
}

/// Reads something of every tenant, and skips what is invalid.
pub(super) fn each<T>(reader: &mut Reader<'_>, read: impl Fn(&mut Reader<'_>) -> Option<T>) -> Vec<T> {
    scopes(reader).into_iter().filter_map(|scope| reader.within(scope, &read)).collect()
}

fn scopes(reader: &mut Reader<'_>) -> Vec<Scope> {
    let Some(value) = reader.sources.toml.get(settings::TENANTS) else { return vec![Scope::Flat] };
    unknown::reject_flat_form(reader);
    let tables = value.as_array().filter(|tables| !tables.is_empty() && tables.iter().all(toml::Value::is_table));
    let Some(tables) = tables else {
        reader.problem_of("tenants", "not a list of tables; write [[tenants]] above each");
        return Vec::new();
    };
    let mut scopes: Vec<Scope> = Vec::new();
    for (index, table) in tables.iter().enumerate() {
        let subject = format!("[[tenants]] number {}", index + 1);
        match scope::tenant_name(table) {
            Ok(name) if scopes.iter().any(|scope| scope.name() == name) => {
                reader.problem_of(&subject, "another tenant has this name; use another");
            }
            Ok(name) => scopes.push(Scope::Tenant(name, index)),
            Err(problem) => reader.problem_of(&subject, problem),
        }
    }
    scopes
}

/// Rejects tenants that could be confused with one another.
pub(super) fn reject_overlaps(reader: &mut Reader<'_>, tenants: &[TenantConfig]) {
    for (index, tenant) in tenants.iter().enumerate() {
        for other in tenants.iter().take(index) {
            let theirs = other.clerk.issuers();
            for (overlap, setting, what) in [
                (
                    tenant.ably.api_key.name().app_id() == other.ably.api_key.name().app_id(),
                    &settings::ABLY_API_KEY,
                    "a key of the same Ably app, where both tenants' client IDs would mix; create an Ably app for each",
                ),
                (
                    tenant.clerk.shares_a_webhook_secret_with(&other.clerk),
                    &settings::CLERK_WEBHOOK_SIGNING_SECRET,
                    "the same one, so a webhook could be for either; create an endpoint for each in Clerk's dashboard",
                ),
                (
                    tenant.clerk.issuers().iter().any(|issuer| theirs.contains(issuer)),
                    &settings::CLERK_PUBLISHABLE_KEY,
                    "the same issuer, so a session token could be for either; use a Clerk instance for each",
                ),
            ] {
                let what = format_args!("tenant {} has {what}", other.name());
                reader.within(tenant.scope.clone(), |reader| overlap.then(|| reader.problem(setting, what)));
            }
        }
    }
}

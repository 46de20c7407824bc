//! The place of a tenant's settings: the top of the file, or its table of `[[tenants]]`.

use std::iter;

use super::settings::{Setting, TENANTS};
use crate::tenant::TenantName;

/// The place of a tenant's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// At the top of the file, and in variables named for section and key.
    Flat,
    /// In the table of `[[tenants]]` at this index, and in variables that start with the tenant's name.
    Tenant(TenantName, usize),
}

impl Scope {
    /// The scopes of the tenants in a file that have a valid name.
    pub(super) fn named(file: &toml::Table) -> impl Iterator<Item = Self> {
        let tables = file.get(TENANTS).and_then(toml::Value::as_array).into_iter().flatten();
        tables.enumerate().filter_map(|(index, table)| Some(Self::Tenant(tenant_name(table).ok()?, index)))
    }

    /// The part of a file with the settings of this scope.
    pub(super) fn table<'a>(&self, file: &'a toml::Table) -> Option<&'a toml::Table> {
        match self {
            Self::Flat => Some(file),
            Self::Tenant(_, index) => file.get(TENANTS)?.get(index)?.as_table(),
        }
    }

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

    /// The variable of a setting, and its aliases. Those belong to the vendors, so only a single tenant has them.
    pub(super) fn variables(&self, setting: &Setting) -> Vec<String> {
        let aliases = if *self == Self::Flat { setting.aliases } else { &[] };
        iter::once(self.variable(setting)).chain(aliases.iter().map(ToString::to_string)).collect()
    }

    /// The start of a sentence about this tenant. Empty with a single tenant.
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

/// The name in a table of `[[tenants]]`.
pub(super) fn tenant_name(table: &toml::Value) -> Result<TenantName, String> {
    let name = table.get("name").ok_or("the name is missing; logs, variables and metrics need one")?;
    let name = name.as_str().ok_or("the name is not a string")?;
    TenantName::parse(name).map_err(|error| error.to_string())
}

//! Rejects what has no effect: unknown sections, keys and variables. A misspelt restriction would restrict nothing.

use std::collections::BTreeSet;

use super::{
    reader::Reader,
    scope::Scope,
    settings::{self, GRANTS, Setting, TENANT_SECTIONS, TENANTS},
    sources::FILE,
};

/// Rejects what no setting has.
pub(super) fn reject(reader: &mut Reader<'_>) {
    let file = &reader.sources.toml;
    for scope in [Scope::Flat].into_iter().chain(Scope::named(file)) {
        reader.within(scope, |reader| {
            if let Some(table) = reader.scope.table(file) {
                reject_in_file(reader, table);
            }
            let file_only = settings_in(&reader.scope).filter(|setting| setting.file_only);
            reject_variables(reader, file_only, "a variable cannot hold it; write it in the TOML file");
        });
    }
}

fn settings_in(scope: &Scope) -> impl Iterator<Item = &'static Setting> + use<> {
    let is_flat = *scope == Scope::Flat;
    settings::ALL.iter().filter(move |setting| is_flat || setting.is_of_a_tenant())
}

fn reject_variables(reader: &mut Reader<'_>, settings: impl Iterator<Item = &'static Setting>, what: &str) {
    for setting in settings {
        if reader.find_in_environment(setting).is_some() {
            reader.problem(setting, what);
        }
    }
}

fn reject_in_file(reader: &mut Reader<'_>, table: &toml::Table) {
    let other_keys = if reader.scope == Scope::Flat { [TENANTS, GRANTS] } else { ["name", GRANTS] };
    let prefix = reader.scope.prefix();
    for (section, value) in table.iter().filter(|(section, _)| !other_keys.contains(&section.as_str())) {
        let settings = settings_in(&reader.scope).filter(|setting| setting.section == section);
        let keys: Vec<_> = settings.map(|setting| setting.key).collect();
        let Some(table) = value.as_table().filter(|_| !keys.is_empty()) else {
            let mut sections: Vec<_> = settings_in(&reader.scope).map(|setting| setting.section).collect();
            sections.extend(other_keys);
            sections.dedup();
            let subject = format!("{prefix}[{section}] in the TOML file");
            reader.problem_of(&subject, format_args!("unknown section; use one of: {}", sections.join(", ")));
            continue;
        };
        for key in table.keys().filter(|key| !keys.contains(&key.as_str())) {
            let subject = format!("{prefix}[{section}] {key} in the TOML file");
            reader.problem_of(&subject, format_args!("unknown setting; use one of: {}", keys.join(", ")));
        }
    }
}

/// Rejects settings of a tenant outside `[[tenants]]`: nothing says which tenant they belong to.
pub(super) fn reject_flat_form(reader: &mut Reader<'_>) {
    let of_tenants = settings::ALL.iter().filter(|setting| setting.is_of_a_tenant());
    reject_variables(reader, of_tenants, "each of the [[tenants]] has its own; set the variable of one of them");
    let file = &reader.sources.toml;
    for section in TENANT_SECTIONS.into_iter().filter(|section| file.contains_key(*section)) {
        let what = format_args!("each of the [[tenants]] has its own; write [tenants.{section}] below one of them");
        reader.problem_of(&format!("[{section}] in the TOML file"), what);
    }
    if file.contains_key(GRANTS) {
        let what = "each of the [[tenants]] has its own; write [[tenants.grants]] below one of them";
        reader.problem_of("[[grants]]", what);
    }
    reject_tenant_variables(reader);
}

/// Rejects variables that look like a tenant's and are not.
fn reject_tenant_variables(reader: &mut Reader<'_>) {
    let sources = reader.sources;
    let prefix = format!("{}_", TENANTS.to_ascii_uppercase());
    let sections = TENANT_SECTIONS.map(|section| format!("_{}_", section.to_ascii_uppercase()));
    let known: BTreeSet<_> = Scope::named(&sources.toml)
        .flat_map(|scope| settings_in(&scope).map(move |setting| scope.variable(setting)))
        .collect();
    let names: BTreeSet<_> = sources.environment.keys().chain(sources.dot_env.keys()).collect();
    for name in names {
        let looks_like_one = name.starts_with(&prefix) && sections.iter().any(|section| name.contains(section));
        if looks_like_one && !known.contains(name.strip_suffix(FILE).unwrap_or(name)) {
            reader.problem_of(name, "unknown variable of a tenant; check the tenant's name and the setting's");
        }
    }
}

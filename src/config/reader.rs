//! Reads settings one by one: finds each in the first source that has it, and collects problems instead of stopping.

use std::{collections::BTreeMap, fmt, fs, mem};

use secrecy::SecretString;

use super::{
    dot_env::Entry,
    problem::{Problem, Problems},
    scope::Scope,
    settings::{Setting, TENANTS},
    sources::{FILE, Sources},
};
use crate::tenant::TenantName;

/// The origin of each setting that is set, by its variable.
pub type Provenance = BTreeMap<String, String>;

/// What was read for each setting, defaults included, by tenant, section and key.
pub(super) type RawValues = BTreeMap<(Option<TenantName>, &'static str, &'static str), SecretString>;

pub(super) struct Reader<'a> {
    pub(super) sources: &'a Sources,
    /// The tenant whose settings are read.
    pub(super) scope: Scope,
    pub(super) problems: Vec<Problem>,
    provenance: Provenance,
    pub(super) values: RawValues,
}

impl<'a> Reader<'a> {
    pub(super) fn new(sources: &'a Sources) -> Self {
        let (provenance, values) = (Provenance::new(), RawValues::default());
        Self { sources, scope: Scope::Flat, problems: sources.problems.clone(), provenance, values }
    }

    /// Reads with another tenant's settings.
    pub(super) fn within<T>(&mut self, scope: Scope, read: impl FnOnce(&mut Self) -> T) -> T {
        let outer = mem::replace(&mut self.scope, scope);
        let read = read(self);
        self.scope = outer;
        read
    }

    /// Returns what was read, or every problem.
    pub(super) fn finish<T>(self, read: Option<T>) -> Result<(T, Provenance), Problems> {
        match read {
            Some(read) if self.problems.is_empty() => Ok((read, self.provenance)),
            _ => Err(Problems(self.problems)),
        }
    }

    /// Adds a problem of something other than a setting.
    pub(super) fn problem_of(&mut self, subject: &str, what: impl fmt::Display) {
        self.problems.push(Problem(format!("{subject}: {what}")));
    }

    /// Adds a problem of a setting.
    pub(super) fn problem(&mut self, setting: &Setting, what: impl fmt::Display) {
        let Setting { section, key, .. } = setting;
        let key = match &self.scope {
            Scope::Tenant(..) if setting.is_of_a_tenant() => format!("[{TENANTS}.{section}] {key}"),
            _ => format!("[{section}] {key}"),
        };
        let variable = self.scope.variable(setting);
        let origin =
            self.provenance.get(&variable).filter(|origin| **origin != variable && **origin != self.sources.toml_path);
        let from = origin.map(|origin| format!(", from {origin}")).unwrap_or_default();
        self.problem_of(&format!("{variable} ({key}){from}"), what);
    }

    /// The value of a setting, or its default. None if it is unset or invalid.
    pub(super) fn value<T, E: fmt::Display>(
        &mut self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = scalar(&self.find(setting)?);
        if text.is_none() {
            self.problem(setting, "not a single value; write a string, a whole number or a boolean");
        }
        parse(&text?).map_err(|error| self.problem(setting, error)).ok()
    }

    /// The value of a setting with few valid values.
    pub(super) fn choice<T>(&mut self, setting: &Setting, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        self.value(setting, |text| {
            let known = Some(text).filter(|text| setting.choices.contains(text));
            known.and_then(parse).ok_or_else(|| format!("unknown value; use one of: {}", setting.choices.join(", ")))
        })
    }

    /// A list: comma-separated in a variable, a TOML list in the file. None if it is unset.
    pub(super) fn list<T, E: fmt::Display>(
        &mut self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let texts: Option<Vec<String>> = match self.find(setting)? {
            toml::Value::Array(items) => items.iter().map(scalar).collect(),
            value => scalar(&value).map(|text| text.split(',').map(str::to_owned).collect()),
        };
        let Some(texts) = texts else {
            self.problem(setting, "not a list of strings; write for example [\"a\", \"b\"]");
            return None;
        };
        let entries: Vec<&str> = texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).collect();
        if entries.is_empty() && !texts.is_empty() {
            // A template with empty values leaves such a list. "Any" would open what was meant to be closed.
            self.problem(setting, "a list without a single entry; add an entry, or leave it unset");
        }
        let values =
            entries.into_iter().filter_map(|text| parse(text).map_err(|error| self.problem(setting, error)).ok());
        Some(values.collect())
    }

    /// Records the text of a setting, to detect changes.
    pub(super) fn keep(&mut self, setting: &Setting, text: String) {
        let tenant = setting.is_of_a_tenant().then(|| self.scope.name());
        self.values.insert((tenant, setting.section, setting.key), text.into());
    }

    /// The value in the first source that has one which is not empty, or the default.
    fn find(&mut self, setting: &Setting) -> Option<toml::Value> {
        let problems = self.problems.len();
        let in_environment = self.find_in_environment(setting).map(|(text, origin)| (text.into(), origin));
        let in_toml = || Some((self.find_in_toml(setting)?.clone(), self.sources.toml_path.clone()));
        let value = match in_environment.or_else(in_toml) {
            Some((value, origin)) => {
                self.provenance.insert(self.scope.variable(setting), origin);
                value
            }
            None if self.problems.len() > problems => return None,
            None if !setting.cure.is_empty() => {
                self.problem(setting, format_args!("not set; {}", setting.cure));
                return None;
            }
            None => setting.default_value()?.clone(),
        };
        self.keep(setting, text_in_any_source(&value));
        Some(value)
    }

    /// The value of a setting's variable or of one of its aliases, from the first source that has one. Two names with
    /// different values are a problem, whatever their sources.
    pub(super) fn find_in_environment(&mut self, setting: &Setting) -> Option<(String, String)> {
        let mut found: Vec<(String, String, String)> = Vec::new();
        for variables in [&self.sources.environment, &self.sources.dot_env] {
            for suffix in ["", FILE] {
                for name in self.scope.variables(setting) {
                    let variable = format!("{name}{suffix}");
                    match variables.get(&variable).map(|entry| text_of(&variable, entry, suffix)) {
                        Some(Ok((text, origin))) if !text.is_empty() => found.push((name, text, origin)),
                        Some(Err(problem)) => self.problem(setting, problem),
                        _ => {}
                    }
                }
            }
        }
        let mut found = found.into_iter();
        let (name, text, origin) = found.next()?;
        for (_, _, other) in found.filter(|(alias, other, _)| *alias != name && *other != text) {
            self.problem(setting, format_args!("{origin} and {other} have different values; set one of them"));
        }
        Some((text, origin))
    }

    fn find_in_toml(&self, setting: &Setting) -> Option<&'a toml::Value> {
        let scope = if setting.is_of_a_tenant() { &self.scope } else { &Scope::Flat };
        let value = scope.table(&self.sources.toml)?.get(setting.section)?.get(setting.key)?;
        Some(value).filter(|value| value.as_str().is_none_or(|text| !text.trim().is_empty()))
    }
}

/// The text of a variable, or of the file that it names, and its origin.
fn text_of(name: &str, Entry { value, line, defect }: &Entry, suffix: &str) -> Result<(String, String), String> {
    let origin = line.map_or_else(|| name.to_owned(), |line| format!("{name} (.env, line {line})"));
    if let Some(defect) = defect {
        return Err(format!("{origin}: {defect}"));
    }
    let text = value.trim();
    let (text, origin) = if suffix == FILE && !text.is_empty() {
        let contents = fs::read_to_string(text)
            .map_err(|error| format!("the file that {origin} names cannot be read: {error}"))?;
        (contents.trim().to_owned(), format!("{origin} ({text})"))
    } else {
        (text.to_owned(), origin)
    };
    if ['"', '\''].iter().any(|quote| text.len() > 1 && text.starts_with(*quote) && text.ends_with(*quote)) {
        let cure = "remove them (docker run --env-file keeps them)";
        return Err(format!("{origin} has quotes around the value; {cure}"));
    }
    Ok((text, origin))
}

/// A value as a variable would hold it. None if it is not a single value.
/// A value as a variable would hold it, so that moving it to another source is not a change.
fn text_in_any_source(value: &toml::Value) -> String {
    match value {
        toml::Value::Array(items) => items.iter().filter_map(scalar).collect::<Vec<_>>().join(","),
        toml::Value::String(text) if text.contains(',') => text.split(',').map(str::trim).collect::<Vec<_>>().join(","),
        value => scalar(value).unwrap_or_else(|| value.to_string()),
    }
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.trim().to_owned()),
        toml::Value::Integer(_) | toml::Value::Boolean(_) => Some(value.to_string()),
        _ => None,
    }
}

//! Reading settings one by one: finds each in the first source that has it, and gathers problems instead of stopping.

use std::{collections::BTreeMap, fmt, fs, path::PathBuf};

use super::{
    Problems,
    dot_env::Entry,
    policy::GRANTS,
    settings::{self, Availability, Setting},
    sources::{Sources, position},
    tenant::{self, Scope, TENANTS},
};

/// Something wrong with one setting, and how to mend it. Never holds a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(pub(super) String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a setting's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A variable.
    Variable(String),
    /// The file that a variable names.
    File(String, PathBuf),
    /// A variable in the `.env` file, and its line there.
    DotEnv(String, usize),
    /// The TOML file.
    Toml(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => f.write_str(name),
            Self::File(name, path) => write!(f, "{name} ({})", path.display()),
            Self::DotEnv(name, line) => write!(f, "{name} (.env, line {line})"),
            Self::Toml(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Where each setting came from that was set, by its variable.
pub type Provenance = BTreeMap<String, Origin>;

/// Where variables are looked for, the first that has a value first.
#[derive(Clone, Copy)]
enum ValueSource {
    Environment,
    EnvironmentFile,
    DotEnv,
    DotEnvFile,
}

/// A value as text, or as a list of texts.
enum Raw {
    Text(String),
    List(Vec<String>),
}

pub(super) struct Reader<'a> {
    sources: &'a Sources,
    scope: Scope,
    problems: Vec<Problem>,
    provenance: Provenance,
}

impl<'a> Reader<'a> {
    pub(super) fn new(sources: &'a Sources) -> Self {
        let mut reader = Self::for_part_of_sound(sources);
        reader.refuse_what_has_no_effect();
        reader
    }

    /// A reader that looks at nothing but what it is asked for.
    pub(super) fn for_part(sources: &'a Sources) -> Self {
        Self { sources, scope: Scope::Flat, problems: Vec::new(), provenance: Provenance::new() }
    }

    /// The same, which also tells what of the sources cannot be read.
    pub(super) fn for_part_of_sound(sources: &'a Sources) -> Self {
        let mut reader = Self::for_part(sources);
        reader.problems.extend(sources.problems.iter().cloned());
        reader
    }

    /// Where a tenant's settings are looked for.
    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Reads with the settings of tenants looked for in `scope`.
    pub(super) fn within<T>(&mut self, scope: Scope, read: impl FnOnce(&mut Self) -> T) -> T {
        let outer = std::mem::replace(&mut self.scope, scope);
        let read = read(self);
        self.scope = outer;
        read
    }

    /// What was read, if nothing is wrong with it.
    pub(super) fn finish<T>(self, read: Option<T>) -> Result<(T, Provenance), Problems> {
        match read {
            Some(read) if self.problems.is_empty() => Ok((read, self.provenance)),
            _ => Err(Problems(self.problems)),
        }
    }

    /// Notes that something is wrong with `setting`.
    pub(super) fn problem(&mut self, setting: &Setting, what: impl fmt::Display) {
        let Setting { section, key, .. } = setting;
        let place = match &self.scope {
            Scope::Tenant(..) if setting.is_of_a_tenant() => format!("[{TENANTS}.{section}] {key}"),
            _ => format!("[{section}] {key}"),
        };
        let variable = self.scope.variable(setting);
        let from = match self.provenance.get(&variable) {
            None | Some(Origin::Toml(_)) => String::new(),
            Some(Origin::Variable(name)) if *name == variable => String::new(),
            Some(origin) => format!(", from {origin}"),
        };
        self.problem_of(&format!("{variable} ({place}){from}"), what);
    }

    /// Notes that something is wrong with what `subject` names.
    pub(super) fn problem_of(&mut self, subject: &str, what: impl fmt::Display) {
        self.problems.push(Problem(format!("{subject}: {what}")));
    }

    /// Notes that something is wrong at this byte of the TOML file.
    pub(super) fn problem_at(&mut self, offset: usize, what: impl fmt::Display) {
        let Sources { toml_path, toml_text, .. } = self.sources;
        let place = format!("{}, {}", toml_path.display(), position(toml_text, offset));
        let prefix = self.scope.prefix();
        self.problem_of(&place, format_args!("{prefix}{what}"));
    }

    /// The TOML file.
    pub(super) fn toml(&self) -> &'a toml::Table {
        &self.sources.toml
    }

    /// The part of the TOML file where this setting stands, or would.
    fn table(&self, setting: &Setting) -> Option<&'a toml::Table> {
        match &self.scope {
            Scope::Tenant(_, index) if setting.is_of_a_tenant() => self.toml().get(TENANTS)?.get(index)?.as_table(),
            _ => Some(self.toml()),
        }
    }

    /// The text of the TOML file.
    pub(super) fn toml_text(&self) -> &'a str {
        &self.sources.toml_text
    }

    /// A setting that may be unset.
    pub(super) fn optional<T, E: fmt::Display>(
        &mut self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = match self.find(setting)? {
            Raw::Text(text) => text,
            Raw::List(_) => {
                self.problem(setting, "a list, where one value is wanted");
                return None;
            }
        };
        parse(&text).map_err(|error| self.problem(setting, error)).ok()
    }

    /// A setting with a default, written as a user would write it.
    pub(super) fn or_default<T, E: fmt::Display>(
        &mut self,
        setting: &Setting,
        default: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let problems = self.problems.len();
        let value = self.optional(setting, &parse);
        if value.is_some() || self.problems.len() > problems {
            return value;
        }
        parse(default).map_err(|error| self.problem(setting, error)).ok()
    }

    /// A setting without which there is no configuration. `cure` says where its value is to be found.
    pub(super) fn required<T, E: fmt::Display>(
        &mut self,
        setting: &Setting,
        cure: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let problems = self.problems.len();
        let value = self.optional(setting, parse);
        if value.is_none() && self.problems.len() == problems {
            self.problem(setting, format_args!("not set; {cure}"));
        }
        value
    }

    /// A list: comma-separated in a variable, a TOML list in the file. None when unset.
    pub(super) fn list<T, E: fmt::Display>(
        &mut self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let texts = match self.find(setting)? {
            Raw::List(texts) => texts,
            Raw::Text(text) => text.split(',').map(str::to_owned).collect(),
        };
        let entries: Vec<&str> = texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).collect();
        if entries.is_empty() && !texts.is_empty() {
            // As a template with empty values leaves it. To take it for "any" would open what was meant to be closed.
            self.problem(setting, "a list without a single entry; name some, or leave it unset");
        }
        let mut values = Vec::new();
        for text in entries {
            match parse(text) {
                Ok(value) => values.push(value),
                Err(error) => self.problem(setting, error),
            }
        }
        Some(values)
    }

    /// The value in the first source that has one which is not empty.
    fn find(&mut self, setting: &Setting) -> Option<Raw> {
        let found = match self.find_in_environment(setting) {
            Some((text, origin)) => Some((Raw::Text(text), origin)),
            None => self.find_in_toml(setting).map(|raw| (raw, Origin::Toml(self.sources.toml_path.clone()))),
        };
        let (raw, origin) = found?;
        self.provenance.insert(self.scope.variable(setting), origin);
        Some(raw)
    }

    /// The value of a setting's variable or of one of its aliases, from the first source that has one. Wherever they
    /// are set, two names must not contradict each other.
    fn find_in_environment(&mut self, setting: &Setting) -> Option<(String, Origin)> {
        let mut found: Vec<(String, String, Origin)> = Vec::new();
        for source in
            [ValueSource::Environment, ValueSource::EnvironmentFile, ValueSource::DotEnv, ValueSource::DotEnvFile]
        {
            for name in self.scope.variables(setting) {
                if let Some((value, origin)) = self.look_up(setting, source, &name) {
                    found.push((name, value, origin));
                }
            }
        }
        let mut found = found.into_iter();
        let (name, value, origin) = found.next()?;
        for (_, _, other) in found.filter(|(alias, other, _)| *alias != name && *other != value) {
            self.problem(setting, format_args!("{origin} and {other} have different values; set one of them"));
        }
        Some((value, origin))
    }

    /// The value of a variable in one source, unless it is empty.
    fn look_up(&mut self, setting: &Setting, source: ValueSource, name: &str) -> Option<(String, Origin)> {
        let is_path = matches!(source, ValueSource::EnvironmentFile | ValueSource::DotEnvFile);
        let name = if is_path { format!("{name}_FILE") } else { name.to_owned() };
        let (value, origin) = match source {
            ValueSource::Environment | ValueSource::EnvironmentFile => {
                (self.sources.environment.get(&name)?.trim(), Origin::Variable(name.clone()))
            }
            ValueSource::DotEnv | ValueSource::DotEnvFile => {
                let Entry { value, line, defect } = self.sources.dot_env.get(&name)?;
                let origin = Origin::DotEnv(name.clone(), *line);
                if let Some(defect) = defect {
                    self.problem(setting, format_args!("{origin}: {defect}"));
                    return None;
                }
                (value.trim(), origin)
            }
        };
        let (value, origin) = match value {
            "" => return None,
            path if is_path => match fs::read_to_string(path) {
                Ok(text) => (text.trim().to_owned(), Origin::File(name, path.into())),
                Err(error) => {
                    self.problem(setting, format_args!("the file that {origin} names cannot be read: {error}"));
                    return None;
                }
            },
            value => (value.to_owned(), origin),
        };
        if ['"', '\''].iter().any(|quote| value.len() > 1 && value.starts_with(*quote) && value.ends_with(*quote)) {
            self.problem(
                setting,
                format_args!("{origin} has quotes around the value; remove them (docker run --env-file keeps them)"),
            );
            return None;
        }
        (!value.is_empty()).then_some((value, origin))
    }

    fn find_in_toml(&mut self, setting: &Setting) -> Option<Raw> {
        let value = self.table(setting)?.get(setting.section)?.get(setting.key)?;
        let raw = match value {
            toml::Value::Array(items) => items.iter().map(scalar).collect::<Option<_>>().map(Raw::List),
            value => scalar(value).map(Raw::Text),
        };
        match raw {
            None => {
                self.problem(setting, "the TOML value is of a type that no setting has");
                None
            }
            Some(Raw::Text(text)) if text.is_empty() => None,
            raw => raw,
        }
    }

    /// Refuses, in the file and in variables, what no setting is, and what none can be.
    fn refuse_what_has_no_effect(&mut self) {
        let sources = self.sources;
        self.refuse_what_is_unknown(&sources.toml, &[GRANTS, TENANTS]);
        self.refuse_what_no_variable_holds();
        for scope in tenant::named_scopes(&sources.toml) {
            let Scope::Tenant(_, index) = scope else { continue };
            self.within(scope, |reader| {
                if let Some(table) = sources.toml.get(TENANTS).and_then(|tenants| tenants.get(index)?.as_table()) {
                    reader.refuse_what_is_unknown(table, &["name", GRANTS]);
                }
                reader.refuse_what_no_variable_holds();
            });
        }
    }

    /// The settings that can stand in this scope.
    fn settings_here(&self) -> impl Iterator<Item = &'static Setting> + use<> {
        let of_a_tenant_only = self.scope != Scope::Flat;
        settings::ALL.iter().filter(move |setting| !of_a_tenant_only || setting.is_of_a_tenant())
    }

    /// Refuses what is in a table of the file and is neither a setting's nor one of `others`.
    fn refuse_what_is_unknown(&mut self, table: &toml::Table, others: &[&str]) {
        let prefix = self.scope.prefix();
        for (section, value) in table.iter().filter(|(section, _)| !others.contains(&section.as_str())) {
            let known: Vec<_> = self.settings_here().filter(|setting| setting.section == section).collect();
            let Some(table) = value.as_table().filter(|_| !known.is_empty()) else {
                let mut sections: Vec<_> = self.settings_here().map(|setting| setting.section).collect();
                sections.dedup();
                let sections = sections.into_iter().map(|section| format!("[{section}]"));
                let others = others.iter().map(|other| match *other {
                    GRANTS | TENANTS => format!("[[{other}]]"),
                    key => key.to_owned(),
                });
                let there = sections.chain(others).collect::<Vec<_>>().join(", ");
                let subject = format!("{prefix}[{section}] in the TOML file");
                self.problem_of(&subject, format_args!("no such section; there are: {there}"));
                continue;
            };
            for key in table.keys().filter(|key| known.iter().all(|setting| setting.key != *key)) {
                let keys: Vec<_> = known.iter().map(|setting| setting.key).collect();
                let there = keys.join(", ");
                let subject = format!("{prefix}[{section}] {key} in the TOML file");
                self.problem_of(&subject, format_args!("no such setting; the section has: {there}"));
            }
        }
    }

    fn refuse_what_no_variable_holds(&mut self) {
        for setting in self.settings_here().filter(|setting| setting.availability == Availability::TomlOnly) {
            if self.find_in_environment(setting).is_some() {
                self.problem(setting, "a variable cannot hold it; write it in the TOML file");
            }
        }
    }

    /// Where there are tenants, nothing says whose a setting of the flat form would be.
    pub(super) fn refuse_the_flat_form(&mut self) {
        for setting in settings::ALL.iter().filter(|setting| setting.is_of_a_tenant()) {
            if self.find_in_environment(setting).is_some() {
                self.problem(setting, "there are [[tenants]], and each has its own; set that of one of them");
            }
        }
        let toml = self.toml();
        for section in tenant::SECTIONS.into_iter().filter(|section| toml.contains_key(*section)) {
            let what = format_args!(
                "there are [[tenants]], and each has its own; write [tenants.{section}] below one of them"
            );
            self.problem_of(&format!("[{section}] in the TOML file"), what);
        }
        if self.toml().contains_key(GRANTS) {
            self.problem_of("[[grants]]", "there are [[tenants]]; write [[tenants.grants]] below the tenant's table");
        }
        let names = self.sources.unknown_variables_of_tenants();
        for name in names {
            self.problem_of(&name, "no tenant has such a setting; is it misspelt?");
        }
    }
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.trim().to_owned()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(value) => Some(value.to_string()),
        _ => None,
    }
}

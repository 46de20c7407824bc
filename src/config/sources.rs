//! Where settings come from: the environment, files that it names, `.env`, and a TOML file.

use std::{
    collections::{BTreeSet, HashMap},
    env, fs, io, iter,
    path::{Path, PathBuf},
};

use toml::de::DeTable;

use super::{
    dot_env::{self, Entry},
    reader::Problem,
    settings::{self, Setting},
    tenant::{self, TENANTS},
};

/// The TOML file as it was found: its text, or why there is none.
pub type TomlFile = Result<String, io::ErrorKind>;

/// The texts of all sources, not yet looked at.
#[derive(Default)]
pub struct Sources {
    pub(super) environment: HashMap<String, String>,
    /// The names, not the values, of variables that begin as those of tenants do.
    tenants_environment: Vec<String>,
    pub(super) dot_env: HashMap<String, Entry>,
    pub(super) toml: toml::Table,
    /// The text of `toml`, for what says where something stands.
    pub(super) toml_text: String,
    pub(super) toml_path: PathBuf,
    pub(super) problems: Vec<Problem>,
}

impl Sources {
    /// The file that is read when `--config` names none.
    pub const DEFAULT_PATH: &str = "ably-clerk-auth.toml";

    /// Reads the process's environment, `.env` in the working directory, and the TOML file: that of `config`, which must
    /// exist, or else [`Self::DEFAULT_PATH`], if it does. What cannot be read is a problem of the configuration, to be
    /// told with all others.
    #[must_use]
    pub fn read(config: Option<&Path>) -> Self {
        Self::with_file(config, &Self::toml_file(config))
    }

    /// Reads all but the TOML file, which was read before.
    #[must_use]
    pub fn with_file(config: Option<&Path>, file: &TomlFile) -> Self {
        let mut sources = Self { toml_path: Self::toml_path(config).to_owned(), ..Self::default() };
        sources.read_toml(file, config.is_some());
        sources.read_environment();
        sources.read_dot_env(Path::new(".env"));
        sources
    }

    /// The TOML file: what `--config` names, or the one that is read without it.
    #[must_use]
    pub fn toml_path(config: Option<&Path>) -> &Path {
        config.unwrap_or(Path::new(Self::DEFAULT_PATH))
    }

    /// Reads the TOML file.
    pub fn toml_file(config: Option<&Path>) -> TomlFile {
        fs::read_to_string(Self::toml_path(config)).map_err(|error| error.kind())
    }

    fn problem(&mut self, what: String) {
        self.problems.push(Problem(what));
    }

    /// Takes only the variables that are settings: nothing else of the environment is any of our business.
    fn read_environment(&mut self) {
        let names = settings::ALL.iter().flat_map(Setting::variables).chain(self.variables_of_tenants());
        let names: Vec<_> = names.flat_map(|name| [format!("{name}_FILE"), name]).collect();
        for name in names {
            match env::var(&name) {
                Ok(value) => _ = self.environment.insert(name, value),
                Err(env::VarError::NotPresent) => {}
                Err(env::VarError::NotUnicode(_)) => self.problem(format!("{name}: not UTF-8; set it anew")),
            }
        }
        self.tenants_environment = env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
        self.tenants_environment.retain(|name| name.starts_with(&TENANTS.to_ascii_uppercase()));
    }

    fn variables_of_tenants(&self) -> impl Iterator<Item = String> {
        tenant::named_scopes(&self.toml).flat_map(|scope| {
            let settings = settings::ALL.iter().filter(|setting| setting.is_of_a_tenant());
            settings.map(move |setting| scope.variable(setting))
        })
    }

    /// Variables that look like a tenant's and are not: a restriction that is misspelt would be none.
    pub(super) fn unknown_variables_of_tenants(&self) -> Vec<String> {
        let prefix = format!("{}_", TENANTS.to_ascii_uppercase());
        let sections = tenant::SECTIONS.map(|section| format!("_{}_", section.to_ascii_uppercase()));
        let known: BTreeSet<String> =
            self.variables_of_tenants().flat_map(|name| [format!("{name}_FILE"), name]).collect();
        let names = self.tenants_environment.iter().chain(self.dot_env.keys());
        let looks_like_one =
            |name: &str| name.starts_with(&prefix) && sections.iter().any(|section| name.contains(section));
        let unknown = names.filter(|name| looks_like_one(name) && !known.contains(*name));
        unknown.cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// What is wrong with a setting in it is told when the setting is read: other programs' lines are their own.
    fn read_dot_env(&mut self, path: &Path) {
        const UTF_16: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];
        match fs::read(path) {
            Ok(file) if UTF_16.iter().any(|mark| file.starts_with(mark)) => {
                self.problem(format!("{} is UTF-16; save it as UTF-8", path.display()));
            }
            Ok(file) => self.dot_env = dot_env::parse(&file),
            // A directory of this name belongs to another program, such as Python's venv.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => {}
            Err(error) => self.problem(format!("{} cannot be read: {error}", path.display())),
        }
    }

    /// The parser's own message would show the line, which may hold a secret.
    fn read_toml(&mut self, file: &TomlFile, must_exist: bool) {
        let path = self.toml_path.display().to_string();
        let text = match file {
            Ok(text) => text,
            Err(io::ErrorKind::NotFound) if !must_exist => return,
            Err(kind) => return self.problem(format!("{path} cannot be read: {kind}")),
        };
        match text.parse() {
            Ok(table) => (self.toml, self.toml_text) = (table, text.clone()),
            Err(error) => {
                let error: toml::de::Error = error;
                let position = position(text, offset(text, &error));
                self.problem(format!("{path}, {position}: {}", error.message()));
            }
        }
    }

    /// Sources for tests: an environment and the text of a TOML file.
    #[cfg(test)]
    pub(crate) fn for_test(environment: &[(&str, &str)], toml: &str) -> Self {
        Self {
            environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            tenants_environment: environment.iter().map(|(name, _)| (*name).to_owned()).collect(),
            toml: toml.parse().unwrap(),
            toml_text: toml.to_owned(),
            toml_path: PathBuf::from(Self::DEFAULT_PATH),
            ..Self::default()
        }
    }
}

/// Where the TOML parser found an error. Of keys with too many dots it does not say; those are on the first line with
/// which it finds the same.
pub(super) fn offset(text: &str, error: &toml::de::Error) -> usize {
    if let Some(span) = error.span() {
        return span.start;
    }
    let found_in = |text: &str| {
        let (_, errors) = DeTable::parse_recoverable(text);
        errors.iter().any(|found| found.message() == error.message())
    };
    let starts: Vec<_> = iter::once(0).chain(text.match_indices('\n').map(|(end, _)| end + 1)).collect();
    let after = starts.partition_point(|start| !found_in(text.get(..*start).unwrap_or_default()));
    after.checked_sub(1).and_then(|line| starts.get(line)).copied().unwrap_or_default()
}

/// Line and column of a byte, counted as editors do.
pub(super) fn position(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_has_a_place_even_if_the_parser_gives_none() {
        let deep = vec!["a"; 200].join(".");
        let (before, after) = ("[token]\nttl = \"\"\"\n5m\"\"\"\n\n", "\nx = \"\"\"\n\"\"\"\ny = 1");
        for (text, place) in [
            (format!("{deep} = 1"), "line 1, column 1"),
            (format!("{before}{deep} = 1{after}"), "line 5, column 1"),
            (format!("{before}[{deep}]{after}"), "line 5, column 1"),
            (format!("{before}a = [{{\nb = {{ {deep} = 1 }} }}]{after}"), "line 6, column 1"),
            ("[token]\nttl = ".to_owned(), "line 2, column 7"),
        ] {
            let error = text.parse::<toml::Table>().unwrap_err();
            assert_eq!(position(&text, offset(&text, &error)), place, "{text}: {error}");
        }
    }
}

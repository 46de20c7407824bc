//! Where settings come from: the environment, files that it names, `.env`, and a TOML file.

use std::{
    collections::HashMap,
    env, fs, io, iter,
    path::{Path, PathBuf},
};

use toml::de::DeTable;

use super::{
    reader::Problem,
    settings::{self, Setting},
    tenant::{self, Scope},
};

/// The texts of all sources, not yet looked at.
#[derive(Default)]
pub struct Sources {
    pub(super) environment: HashMap<String, String>,
    pub(super) dot_env: HashMap<String, String>,
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
        let mut sources = Self { toml_path: Self::toml_path(config).to_owned(), ..Self::default() };
        sources.read_toml(config.is_some());
        sources.read_environment();
        sources.read_dot_env(Path::new(".env"));
        sources
    }

    /// The TOML file: what `--config` names, or the one that is read without it.
    #[must_use]
    pub fn toml_path(config: Option<&Path>) -> &Path {
        config.unwrap_or(Path::new(Self::DEFAULT_PATH))
    }

    fn problem(&mut self, what: String) {
        self.problems.push(Problem(what));
    }

    /// Takes only the variables that are settings: nothing else of the environment is any of our business.
    fn read_environment(&mut self) {
        let of_tenants: Vec<Scope> = tenant::named_scopes(&self.toml).collect();
        let of_tenants = of_tenants.iter().flat_map(|scope| {
            let settings = settings::ALL.iter().filter(|setting| setting.is_of_a_tenant());
            settings.map(|setting| scope.variable(setting))
        });
        let names = settings::ALL.iter().flat_map(Setting::variables).chain(of_tenants);
        for name in names.flat_map(|name| [format!("{name}_FILE"), name]) {
            match env::var(&name) {
                Ok(value) => _ = self.environment.insert(name, value),
                Err(env::VarError::NotPresent) => {}
                Err(env::VarError::NotUnicode(_)) => self.problem(format!("{name}: not UTF-8; set it anew")),
            }
        }
    }

    /// The parser's own messages would show the line, which may hold a secret.
    fn read_dot_env(&mut self, path: &Path) {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.problem(format!("{} cannot be read: {error}", path.display())),
        };
        for entry in dotenvy::from_read_iter(text.as_bytes()) {
            match entry {
                Ok((name, value)) => _ = self.dot_env.insert(name, value),
                Err(error) => {
                    let line = match &error {
                        dotenvy::Error::LineParse(line, _) => {
                            text.lines().position(|other| other.trim() == line.trim())
                        }
                        _ => None,
                    };
                    let line = line.map(|index| format!(", line {}", index + 1)).unwrap_or_default();
                    self.problem(format!(
                        "{}{line}: not NAME=value; quote a value that has spaces, quotes or #",
                        path.display()
                    ));
                }
            }
        }
    }

    /// The parser's own message would show the line, which may hold a secret.
    fn read_toml(&mut self, must_exist: bool) {
        let path = self.toml_path.display().to_string();
        let text = match fs::read_to_string(&self.toml_path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => return,
            Err(error) => return self.problem(format!("{path} cannot be read: {error}")),
        };
        match text.parse() {
            Ok(table) => (self.toml, self.toml_text) = (table, text),
            Err(error) => {
                let error: toml::de::Error = error;
                let position = position(&text, offset(&text, &error));
                self.problem(format!("{path}, {position}: {}", error.message()));
            }
        }
    }

    /// Sources for tests: an environment and the text of a TOML file.
    #[cfg(test)]
    pub(crate) fn for_test(environment: &[(&str, &str)], toml: &str) -> Self {
        Self {
            environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
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

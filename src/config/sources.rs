//! Where settings come from: the environment, files that it names, `.env`, and a TOML file.

use std::{collections::HashMap, env, fs, io, iter, path::Path};

use toml::de::DeTable;

use super::{dot_env, dot_env::Entry, problem::Problem, scope::Scope, settings};

/// The TOML file: its text, or why it cannot be read.
pub type TomlFile = Result<String, io::ErrorKind>;

/// What a variable that holds a path ends with.
pub(super) const FILE: &str = "_FILE";

/// The contents of all sources.
#[derive(Default)]
pub struct Sources {
    /// The variables of settings, and all that start like a tenant's.
    pub(super) environment: HashMap<String, Entry>,
    pub(super) dot_env: HashMap<String, Entry>,
    pub(super) toml: toml::Table,
    /// The text of `toml`, for lines and columns.
    pub(super) toml_text: String,
    /// Its path, as problems name it.
    pub(super) toml_path: String,
    pub(super) problems: Vec<Problem>,
}

impl Sources {
    /// The file that is read without `--config`.
    pub const DEFAULT_PATH: &str = "ably-clerk-auth.toml";

    /// Reads the environment, `.env` in the working directory, and the TOML file: `config`, which must exist, or else
    /// [`Self::DEFAULT_PATH`], if it exists. An unreadable source is a problem of the configuration like any other.
    #[must_use]
    pub fn read(config: Option<&Path>) -> Self {
        Self::with_file(config, &Self::toml_file(config))
    }

    /// Reads all sources but the TOML file, which the caller has read.
    #[must_use]
    pub fn with_file(config: Option<&Path>, file: &TomlFile) -> Self {
        let mut sources = Self { toml_path: Self::toml_path(config).display().to_string(), ..Self::default() };
        sources.read_toml(file, config.is_some());
        sources.read_environment();
        sources.read_dot_env(Path::new(".env"));
        sources
    }

    /// The path of the TOML file.
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

    /// Leaves out the rest of the environment, which belongs to other programs.
    fn read_environment(&mut self) {
        let names: Vec<_> = settings::ALL.iter().flat_map(|setting| Scope::Flat.variables(setting)).collect();
        for (name, value) in env::vars_os() {
            let Ok(name) = name.into_string() else { continue };
            let is_known = names.iter().any(|known| matches!(name.strip_prefix(known.as_str()), Some("" | FILE)));
            if is_known || name.starts_with(&settings::TENANTS.to_ascii_uppercase()) {
                let defect = value.to_str().is_none().then_some("not UTF-8; set it again");
                let value = value.to_string_lossy().into_owned();
                self.environment.insert(name, Entry { value, line: None, defect });
            }
        }
    }

    /// The lines of other programs may have any form: a defect counts once a setting is read from its line.
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
        let path = self.toml_path.clone();
        let text = match file {
            Ok(text) => text,
            Err(io::ErrorKind::NotFound) if !must_exist => return,
            Err(kind) => return self.problem(format!("{path} cannot be read: {kind}")),
        };
        match text.parse::<toml::Table>() {
            Ok(table) => (self.toml, self.toml_text) = (table, text.clone()),
            Err(error) => {
                let position = position(text, offset(text, &error));
                self.problem(format!("{path}, {position}: {}", error.message()));
            }
        }
    }

    /// Sources for tests: an environment and the text of a TOML file.
    #[cfg(test)]
    pub(crate) fn for_test(environment: &[(&str, &str)], toml: &str) -> Self {
        let entry = |value: &str| Entry { value: value.to_owned(), line: None, defect: None };
        Self {
            environment: environment.iter().map(|(name, value)| ((*name).to_owned(), entry(value))).collect(),
            toml: toml.parse().unwrap(),
            toml_text: toml.to_owned(),
            toml_path: Self::DEFAULT_PATH.to_owned(),
            ..Self::default()
        }
    }
}

/// The byte at which the TOML parser found an error. For a key with too many dots the parser gives none: the key is on the
/// first line up to which the text has the same error.
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

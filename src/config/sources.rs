//! Where settings come from: the environment, files that it names, `.env`, and a TOML file.

use std::{
    collections::HashMap,
    env, fs, io,
    path::{Path, PathBuf},
};

use super::settings::{self, Setting};

/// The texts of all sources, not yet looked at.
#[derive(Default)]
pub struct Sources {
    pub(super) environment: HashMap<String, String>,
    pub(super) dot_env: HashMap<String, String>,
    pub(super) toml: toml::Table,
    pub(super) toml_path: PathBuf,
}

/// A source that cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum SourcesError {
    /// The file that `--config` names, or a file that is there, cannot be read.
    #[error("{} cannot be read: {error}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is not TOML. The message has line and column.
    #[error("{} is not TOML: {message}", path.display())]
    NotToml {
        /// Which file.
        path: PathBuf,
        /// What is wrong, without the text of the line: it may hold a secret.
        message: String,
    },
    /// A variable has bytes that are no text.
    #[error("the variable {0} is not UTF-8")]
    NotUnicode(String),
    /// The `.env` file has a line that is no assignment.
    #[error(".env cannot be read: {0}")]
    DotEnv(String),
}

impl Sources {
    /// The file that is read when `--config` names none.
    pub const DEFAULT_PATH: &str = "ably-clerk-auth.toml";

    /// Reads the process's environment, `.env` in the working directory, and the TOML file: that of `config`, which must
    /// exist, or else [`Self::DEFAULT_PATH`], if it does.
    pub fn read(config: Option<&Path>) -> Result<Self, SourcesError> {
        let environment = read_environment()?;
        let toml_path = config.unwrap_or(Path::new(Self::DEFAULT_PATH)).to_owned();
        let toml = match fs::read_to_string(&toml_path) {
            Ok(text) => parse_toml(&text, &toml_path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound && config.is_none() => toml::Table::new(),
            Err(error) => return Err(SourcesError::Unreadable { path: toml_path, error }),
        };
        Ok(Self { environment, dot_env: read_dot_env(Path::new(".env"))?, toml, toml_path })
    }

    /// Sources for tests: an environment and the text of a TOML file.
    #[cfg(test)]
    pub(crate) fn for_test(environment: &[(&str, &str)], toml: &str) -> Self {
        Self {
            environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            toml: toml.parse().unwrap(),
            toml_path: PathBuf::from(Self::DEFAULT_PATH),
            ..Self::default()
        }
    }
}

/// Takes only the variables that are settings: nothing else of the environment is any of our business.
fn read_environment() -> Result<HashMap<String, String>, SourcesError> {
    let mut values = HashMap::new();
    for name in settings::ALL.iter().flat_map(Setting::variables).flat_map(|name| [format!("{name}_FILE"), name]) {
        match env::var(&name) {
            Ok(value) => _ = values.insert(name, value),
            Err(env::VarError::NotPresent) => {}
            Err(env::VarError::NotUnicode(_)) => return Err(SourcesError::NotUnicode(name)),
        }
    }
    Ok(values)
}

/// The parser's own message would show the line, which may hold a secret.
fn parse_toml(text: &str, path: &Path) -> Result<toml::Table, SourcesError> {
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let message = format!("line {line}, column {column}: {}", error.message());
        SourcesError::NotToml { path: path.to_owned(), message }
    })
}

fn read_dot_env(path: &Path) -> Result<HashMap<String, String>, SourcesError> {
    let entries = match dotenvy::from_path_iter(path) {
        Ok(entries) => entries,
        Err(error) if error.not_found() => return Ok(HashMap::new()),
        Err(_) => return Err(SourcesError::DotEnv("it is there, but unreadable".into())),
    };
    let mut values = HashMap::new();
    for entry in entries {
        // The library's own message would repeat the line, which may hold a secret.
        let (name, value) = entry.map_err(|_| {
            let last = values.len();
            SourcesError::DotEnv(format!("after {last} good lines comes one that is not NAME=value"))
        })?;
        values.insert(name, value);
    }
    Ok(values)
}

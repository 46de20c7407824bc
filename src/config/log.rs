//! `[log]`: what the service tells its operator.

use std::io::{self, IsTerminal as _};

use tracing::Level;

use super::{
    reader::Reader,
    settings::{LOG_FORMAT, LOG_LEVEL},
};
use crate::telemetry::LogFormat;

/// The settings of logs.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// How a line looks.
    pub format: LogFormat,
    /// Which lines there are.
    pub level: Level,
}

impl LogConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let default = if io::stdout().is_terminal() { "pretty" } else { "json" };
        let format = reader.or_default(&LOG_FORMAT, default, format);
        let level = reader.or_default(&LOG_LEVEL, "info", level);
        Some(Self { format: format?, level: level? })
    }
}

fn format(text: &str) -> Result<LogFormat, &'static str> {
    match text {
        "pretty" => Ok(LogFormat::Pretty),
        "json" => Ok(LogFormat::Json),
        _ => Err("neither pretty nor json"),
    }
}

fn level(text: &str) -> Result<Level, &'static str> {
    match text {
        "error" => Ok(Level::ERROR),
        "warn" => Ok(Level::WARN),
        "info" => Ok(Level::INFO),
        "debug" => Ok(Level::DEBUG),
        "trace" => Ok(Level::TRACE),
        _ => Err("no such level; use error, warn, info, debug or trace"),
    }
}

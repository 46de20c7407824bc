//! `[log]`: how the service logs.

use std::io::{self, IsTerminal as _};

use tracing::Level;

use super::{reader::Reader, settings, value};
use crate::telemetry::LogFormat;

/// The settings of the log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// How a line looks.
    pub format: LogFormat,
    /// The lowest level that is logged.
    pub level: Level,
}

impl LogConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let unset = if io::stdout().is_terminal() { LogFormat::Pretty } else { LogFormat::Json };
        let format = reader.choice(&settings::LOG_FORMAT, value::variant);
        let level = reader.choice(&settings::LOG_LEVEL, |text| text.parse().ok());
        Some(Self { format: format.unwrap_or(unset), level: level? })
    }
}

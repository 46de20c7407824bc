//! `[cors]`: the pages that may read answers.

use super::{reader::Reader, settings, value::origin};

/// The settings of cross-origin requests.
#[derive(Clone, Debug)]
pub struct CorsConfig {
    /// The origins whose pages may read answers. If unset, the authorized parties.
    pub allowed_origins: Vec<String>,
}

impl CorsConfig {
    pub(super) fn read(reader: &mut Reader<'_>, authorized_parties: Vec<String>) -> Self {
        Self { allowed_origins: reader.list(&settings::CORS_ALLOWED_ORIGINS, origin).unwrap_or(authorized_parties) }
    }
}

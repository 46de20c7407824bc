//! `[revocation]`: denials.

use std::time::Duration;

use super::{reader::Reader, settings, value::duration};

/// The settings of denials.
#[derive(Clone, Debug)]
pub struct RevocationConfig {
    /// How long a denial lasts. A session token that is valid for longer could outlive its denial, and is rejected.
    pub denial_ttl: Duration,
}

impl RevocationConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self { denial_ttl: reader.value(&settings::REVOCATION_DENIAL_TTL, denial_ttl)? })
    }
}

fn denial_ttl(text: &str) -> Result<Duration, &'static str> {
    const SHORTEST: Duration = Duration::from_mins(2);
    let ttl = duration(text)?;
    if ttl < SHORTEST { Err("under 2m, so session tokens could outlive their denial; use 2m or more") } else { Ok(ttl) }
}

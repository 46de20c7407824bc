//! `[revocation]`: how denials work.

use std::time::Duration;

use super::{reader::Reader, settings::REVOCATION_DENIAL_TTL, value::duration};

/// The settings of denials.
#[derive(Clone, Debug)]
pub struct RevocationConfig {
    /// How long a denial lasts. No session token may live longer, or it could outlive its denial.
    pub denial_ttl: Duration,
}

impl RevocationConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self { denial_ttl: reader.or_default(&REVOCATION_DENIAL_TTL, "10m", denial_ttl)? })
    }
}

fn denial_ttl(text: &str) -> Result<Duration, &'static str> {
    const SHORTEST: Duration = Duration::from_mins(2);
    let ttl = duration(text)?;
    if ttl < SHORTEST { Err("under 2m; a denial must outlive the session tokens that it denies") } else { Ok(ttl) }
}

//! The publishable key, and the cookie suffix derived from it.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE};

/// The publishable key of a development instance whose Frontend API has this host name.
#[must_use]
pub fn publishable_key(frontend_api: &str) -> String {
    format!("pk_test_{}", STANDARD_NO_PAD.encode(format!("{frontend_api}$")))
}

/// The suffix, without `_`, that clerk-js appends to cookie names. It separates instances that share a host.
#[must_use]
pub fn cookie_suffix(publishable_key: &str) -> String {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, publishable_key.as_bytes());
    URL_SAFE.encode(hash).chars().take(8).collect()
}

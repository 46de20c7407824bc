//! How live tokens are laid out in Redis.
//!
//! A hash for each user has the user's live tokens: the field tells them apart, the value has the end, the key that signed
//! and the organization.
//! An index finds the users of an organization, and all users. It has a fixed number of sorted sets, each with users of
//! many organizations, and the second in which the user's last token of the organization ends.
//!
//! Redis keeps small collections of short elements compactly: at most 128 of at most 64 bytes. Clerk's IDs have 32.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{super::LiveToken, encoding::warn_of_foreign_data};
use crate::{ably::ClientId, clock::UnixMillis, tenant::TenantName};

/// The digits of an end.
const END_BYTES: usize = 13;

/// What tells a live token apart from others of its user. Key and organization as a digest: their length would exceed 64. A client
/// ID that is the user's ID is left out, for the same reason.
pub(super) fn field_of(live_token: &LiveToken) -> Vec<u8> {
    let LiveToken { user, session, organization, client_id, format, key, .. } = live_token;
    let client_id = if client_id == user { "" } else { client_id };
    let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(encoded(Vec::with_capacity(64), &(key, organization))).into();
    encoded(Vec::with_capacity(64), &(session, client_id, format, [a, b, c, d]))
}

/// The end in digits, so that scripts can compare it, the key, and the organization if there is one.
pub(super) fn value_of(live_token: &LiveToken) -> Vec<u8> {
    let LiveToken { key, organization, until, .. } = live_token;
    encoded(format!("{:0END_BYTES$}", until.0).into_bytes(), &(key, organization))
}

/// Appends a value. Never fails: the values are strings and numbers.
fn encoded(start: Vec<u8>, value: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(value, start).unwrap_or_default()
}

/// The live token of a field and its value.
pub(super) fn live_token_of(tenant: &TenantName, user: &str, field: &[u8], value: &[u8]) -> Option<LiveToken> {
    let parse = || {
        let (session, client_id, format, _): (_, &str, _, [u8; 4]) = postcard::from_bytes(field).ok()?;
        let client_id = if client_id.is_empty() { user } else { client_id }.to_owned();
        let (end, rest) = value.split_at_checked(END_BYTES)?;
        let until = UnixMillis(str::from_utf8(end).ok()?.parse().ok()?);
        let (key, organization) = postcard::from_bytes(rest).ok()?;
        let (tenant, user) = (tenant.clone(), user.to_owned());
        Some(LiveToken { tenant, user, session, organization, client_id, format, key, until })
    };
    let live_token = parse().filter(is_possible);
    if live_token.is_none() {
        warn_of_foreign_data();
    }
    live_token
}

/// Whether the service can have issued such a token. Its IDs are passed to Ably, to restrictions and to reports.
fn is_possible(live_token: &LiveToken) -> bool {
    let ids = [Some(&live_token.user), Some(&live_token.session), live_token.organization.as_ref()];
    ClientId::parse(live_token.client_id.as_str()).is_ok()
        && !ids.into_iter().flatten().any(|id| id.contains(char::is_control))
}

/// A place in the index: that of an organization's users, or of one user without an organization. Groups can share a place, so
/// what is found there is checked.
pub(super) struct Group(u32);

impl Group {
    /// The sorted sets of the index. With 100,000 users, most are small enough for Redis to keep them compactly.
    pub(super) const PARTS: u32 = 1024;
    const TAG_BYTES: usize = 6;

    /// The group of an organization, or of a user without one.
    pub(super) fn named(id: &str) -> Self {
        Self(id.bytes().fold(0, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into())))
    }

    /// The sorted set that has the group.
    pub(super) fn part(&self) -> u32 {
        self.0 % Self::PARTS
    }

    /// A user of the group in the sorted set.
    pub(super) fn member(&self, user: &str) -> String {
        format!("{:0digits$x}{user}", self.0 / Self::PARTS, digits = Self::TAG_BYTES)
    }

    pub(super) fn user_of(member: &[u8]) -> Option<String> {
        str::from_utf8(member).ok()?.get(Self::TAG_BYTES..).map(str::to_owned)
    }
}

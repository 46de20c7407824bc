//! How live tokens are laid out in Redis.
//!
//! A hash for each user has the user's live tokens: the field tells them apart, the value has the end, the key that signed
//! and the organization.
//! An index finds the users of an organization, and all users. It has a fixed number of sorted sets, each with users of
//! many organizations, and the second in which the user's last token of the organization ends.
//!
//! Redis keeps small collections of short elements compactly: at most 128 of at most 64 bytes. Clerk's IDs have 32.

use sha2::{Digest as _, Sha256};

use super::{
    super::LiveToken,
    encoding::{is_printable, warn_of_foreign_data},
};
use crate::{
    ably::{ClientId, KeyName, TokenFormat},
    clock::UnixMillis,
    tenant::TenantName,
};

/// The digits of an end.
const END_BYTES: usize = 13;
/// Between parts of a field or a value. No ID has one.
const SEPARATOR: char = '\n';

/// What tells a live token apart from others of its user.
pub(super) fn field_of(live_token: &LiveToken) -> String {
    let LiveToken { session, organization, client_id, format, key, .. } = live_token;
    [session, code_of(*format), &digest_of(key, organization.as_deref()), client_id].join("\n")
}

/// The end, the key, and the organization if there is one.
pub(super) fn value_of(live_token: &LiveToken) -> String {
    let LiveToken { key, organization, until, .. } = live_token;
    format!("{:0END_BYTES$}{key}{SEPARATOR}{}", until.0, organization.as_deref().unwrap_or_default())
}

/// The live token of a field and its value.
pub(super) fn live_token_of(tenant: &TenantName, user: &str, field: &[u8], value: &[u8]) -> Option<LiveToken> {
    let live_token = parse(tenant, user, field, value).filter(is_possible);
    if live_token.is_none() {
        warn_of_foreign_data();
    }
    live_token
}

fn parse(tenant: &TenantName, user: &str, field: &[u8], value: &[u8]) -> Option<LiveToken> {
    let mut parts = str::from_utf8(field).ok()?.splitn(4, SEPARATOR);
    let (session, format, _, client_id) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (end, value) = str::from_utf8(value).ok()?.split_at_checked(END_BYTES)?;
    let (key, organization) = value.split_once(SEPARATOR)?;
    Some(LiveToken {
        tenant: tenant.clone(),
        user: user.to_owned(),
        session: session.to_owned(),
        organization: (!organization.is_empty()).then(|| organization.to_owned()),
        client_id: client_id.to_owned(),
        format: FORMATS.into_iter().find(|known| code_of(*known) == format)?,
        key: KeyName::parse(key).ok()?,
        until: UnixMillis(end.parse().ok()?),
    })
}

const FORMATS: [TokenFormat; 3] = [TokenFormat::TokenRequest, TokenFormat::Jwt, TokenFormat::TokenDetails];

fn code_of(format: TokenFormat) -> &'static str {
    match format {
        TokenFormat::TokenRequest => "r",
        TokenFormat::Jwt => "j",
        TokenFormat::TokenDetails => "d",
    }
}

/// Whether the service can have issued such a token. Its IDs are passed to Ably, to restrictions and to reports.
fn is_possible(live_token: &LiveToken) -> bool {
    let ids = [Some(&live_token.user), Some(&live_token.session), live_token.organization.as_ref()];
    ClientId::parse(live_token.client_id.as_str()).is_ok() && ids.into_iter().flatten().all(|id| is_printable(id))
}

/// The first digits of a digest of what a field has no room for.
fn digest_of(key: &KeyName, organization: Option<&str>) -> String {
    let hash =
        Sha256::new().chain_update(key.as_str()).chain_update([0]).chain_update(organization.unwrap_or_default());
    let [a, b, c, d, ..]: [u8; 32] = hash.finalize().into();
    format!("{:08x}", u32::from_be_bytes([a, b, c, d]))
}

/// Users who are next to each other in the index: those with live tokens of an organization, or one user with live tokens
/// of none. Other groups can have the same place, so what is found there is checked.
pub(super) struct Group(u32);

impl Group {
    /// The sorted sets of the index: with 100,000 users, Redis keeps each compactly.
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

//! How live tokens are laid out in Redis.
//!
//! A hash for each user has the user's live tokens: the field tells them apart, the value has the end, the key that signed
//! and the organization.
//! The index finds the users by session, client ID and organization. Its sorted sets hold users of many holders, each with
//! the second in which the user's token ends.
//!
//! Redis keeps small collections of short elements compactly: at most 128 of at most 64 bytes. Clerk's IDs have 32.

use sha2::{Digest as _, Sha256};

use super::{
    super::LiveToken,
    encoding::{is_printable, warn_of_foreign_data},
    keys::Keys,
};
use crate::{
    ably::{ClientId, KeyName, TokenFormat},
    clock::UnixMillis,
    tenant::TenantName,
};

/// The digits of an end.
const END_BYTES: usize = 13;
/// The characters that tell holders in a set of the index apart.
const TAG_BYTES: usize = 4;
/// Between parts of a field or a value. No ID has one.
const SEPARATOR: char = '\n';

/// What tells a live token apart from others of its user.
pub(super) fn field_of(live_token: &LiveToken) -> String {
    let LiveToken { session, organization, client_id, format, key, .. } = live_token;
    let rest = hex(&digest(&[key.as_str(), organization.as_deref().unwrap_or_default()]), 8);
    [session, code_of(*format), &rest, client_id].join("\n")
}

/// The end, the key, and the organization if there is one.
pub(super) fn value_of(live_token: &LiveToken) -> String {
    let LiveToken { key, organization, until, .. } = live_token;
    format!("{:0END_BYTES$}{key}{SEPARATOR}{}", until.0, organization.as_deref().unwrap_or_default())
}

/// Matches the fields of a session.
pub(super) fn pattern_of(session: &str) -> String {
    let special = |c: &char| "*?[]\\".contains(*c);
    let escaped = session.chars().flat_map(|c| [Some('\\').filter(|_| special(&c)), Some(c)]).flatten();
    escaped.chain([SEPARATOR, '*']).collect()
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

/// A holder in the index.
pub(super) struct Indexed {
    digest: [u8; 32],
    spread: Spread,
}

/// Over how many sorted sets the users of a holder are spread: in the first place, and where those are full.
type Spread = [u16; 2];

impl Indexed {
    const ONE_USER: Spread = [1, 1];
    const MANY_USERS: Spread = [16, 256];

    /// The holders of a live token other than its user.
    pub(super) fn of(live_token: &LiveToken) -> impl Iterator<Item = Self> {
        let LiveToken { tenant, session, organization, client_id, .. } = live_token;
        let organization = organization.as_deref().map(|id| Self::organization(tenant, id));
        [Self::session(tenant, session), Self::client_id(tenant, client_id)].into_iter().chain(organization)
    }

    pub(super) fn session(tenant: &TenantName, id: &str) -> Self {
        Self { digest: digest(&["session", tenant.as_str(), id]), spread: Self::ONE_USER }
    }

    pub(super) fn organization(tenant: &TenantName, id: &str) -> Self {
        Self { digest: digest(&["organization", tenant.as_str(), id]), spread: Self::MANY_USERS }
    }

    pub(super) fn client_id(tenant: &TenantName, id: &str) -> Self {
        Self { digest: digest(&["client_id", tenant.as_str(), id]), spread: Self::MANY_USERS }
    }

    /// A user of this holder in a sorted set.
    pub(super) fn member(&self, user: &str) -> String {
        self.tag() + user
    }

    /// The members of this holder, and few of others.
    pub(super) fn pattern(&self) -> String {
        self.tag() + "*"
    }

    pub(super) fn user_of(&self, member: &[u8]) -> Option<String> {
        let user = member.strip_prefix(self.tag().as_bytes())?;
        String::from_utf8(user.to_vec()).ok().filter(|user| is_printable(user))
    }

    /// The sorted sets that can have this user of the holder.
    pub(super) fn keys_for(&self, keys: &Keys, user: &str) -> [String; 2] {
        let at = user.bytes().fold(0_u16, |at, byte| at.wrapping_mul(31).wrapping_add(byte.into()));
        [0, 1].map(|place| self.key(keys, place, at % self.spread[place]))
    }

    /// The sorted sets that can have users of the holder.
    pub(super) fn keys(&self, keys: &Keys) -> impl Iterator<Item = String> {
        let [first, second] = self.spread;
        let places = (0..first).map(|at| (0, at)).chain((0..second).map(|at| (1, at)));
        places.map(|(place, at)| self.key(keys, place, at))
    }

    fn key(&self, keys: &Keys, place: usize, at: u16) -> String {
        const SETS: [u16; 2] = [1024, 16_384];
        let [.., first, last] = self.digest;
        let slot = u16::from_be_bytes([first, last]).wrapping_add(at) % SETS[place];
        keys.holders(slot, [3, 4][place])
    }

    fn tag(&self) -> String {
        hex(&self.digest, TAG_BYTES)
    }
}

fn digest(parts: &[&str]) -> [u8; 32] {
    parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part).chain_update([0])).finalize().into()
}

/// The first digits of a digest.
fn hex(digest: &[u8; 32], digits: usize) -> String {
    let [a, b, c, d, ..] = digest;
    let mut text = format!("{:08x}", u32::from_be_bytes([*a, *b, *c, *d]));
    text.truncate(digits);
    text
}

//! Live tokens, in memory.
//!
//! There can be hundreds of thousands, so they are kept encoded: those of a user together, under a hash of the user.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use memchr::memmem;
use serde::{Deserialize, Serialize};

use super::{StoreError, StoreLimits, Subject};
use crate::{
    ably::{KeyName, TokenFormat},
    clock::UnixMillis,
    tenant::TenantName,
};

/// A token that was issued and has not ended, or several that differ in their end only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LiveToken {
    /// The tenant that issued it.
    pub tenant: TenantName,
    /// The Clerk user.
    pub user: String,
    /// The Clerk session.
    pub session: String,
    /// The session's active organization.
    pub organization: Option<String>,
    /// The client ID on Ably.
    pub client_id: String,
    /// The format it was issued in.
    pub format: TokenFormat,
    /// The API key that signed it.
    pub key: KeyName,
    /// When it ends; of several, the last.
    pub until: UnixMillis,
}

/// What live tokens are looked up by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TokenHolder {
    /// A user.
    User(String),
    /// A session of a user. Costs less than a session alone.
    UserSession {
        /// The user.
        user: String,
        /// The session.
        session: String,
    },
    /// A session. Without Redis, all live tokens are searched.
    Session(String),
    /// All sessions in which an organization is active. Without Redis, all live tokens are searched.
    Organization(String),
    /// A client ID. Without Redis, all live tokens are searched.
    ClientId(String),
}

/// The live tokens that were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveTokens {
    /// In no particular order.
    pub live_tokens: Vec<LiveToken>,
    /// Whose tokens were searched.
    pub coverage: Coverage,
}

impl LiveTokens {
    /// No live tokens, at any replica.
    pub const NONE: Self = Self { live_tokens: Vec::new(), coverage: Coverage::AllReplicas };
}

/// Whose live tokens a replica can find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Those of all replicas.
    AllReplicas,
    /// Its own: during an outage, other replicas may have issued more.
    ThisReplica,
}

impl TokenHolder {
    fn id(&self) -> &str {
        match self {
            Self::User(id)
            | Self::UserSession { session: id, .. }
            | Self::Session(id)
            | Self::Organization(id)
            | Self::ClientId(id) => id,
        }
    }
}

impl LiveToken {
    /// Whom restrictions can concern that end this token.
    pub(super) fn subjects(&self) -> impl Iterator<Item = Subject> {
        let of_organization = self.organization.iter().flat_map(|organization| {
            let member = Subject::Member { user: self.user.clone(), organization: organization.clone() };
            [member, Subject::Organization(organization.clone())]
        });
        [Subject::Session(self.session.clone()), Subject::User(self.user.clone())].into_iter().chain(of_organization)
    }

    /// Whether a holder has this token.
    pub(super) fn is_of(&self, holder: &TokenHolder) -> bool {
        match holder {
            TokenHolder::User(user) => self.user == *user,
            TokenHolder::UserSession { user, session } => self.user == *user && self.session == *session,
            TokenHolder::Session(session) => self.session == *session,
            TokenHolder::Organization(organization) => self.organization.as_ref() == Some(organization),
            TokenHolder::ClientId(client_id) => self.client_id == *client_id,
        }
    }
}

/// The live tokens that this replica issued. Ended ones are removed within a minute.
#[derive(Debug)]
pub(super) struct LiveTokenIndex {
    max: usize,
    count: AtomicUsize,
    hasher: RandomState,
    /// Each has the users of some hashes. Only one is locked at a time.
    shards: [Mutex<Shard>; 16],
}

#[derive(Debug, Default)]
struct Shard {
    /// By hash of tenant and user. Users with the same hash share a batch.
    batches: HashMap<u64, Box<[u8]>>,
    /// The minute in which ended records were last removed.
    swept: i64,
}

/// The encoded records of one hash.
#[derive(Serialize, Deserialize)]
struct Batch<'a> {
    /// The earliest end. It comes first, so that it can be decoded alone.
    earliest: UnixMillis,
    #[serde(borrow)]
    records: Vec<Record<'a>>,
}

/// A live token.
#[derive(Serialize, Deserialize)]
struct Record<'a> {
    tenant: &'a str,
    user: &'a str,
    session: &'a str,
    organization: Option<&'a str>,
    client_id: &'a str,
    format: TokenFormat,
    key: &'a str,
    until: UnixMillis,
}

impl<'a> Record<'a> {
    fn new(live_token: &'a LiveToken) -> Self {
        Self {
            tenant: live_token.tenant.as_str(),
            user: &live_token.user,
            session: &live_token.session,
            organization: live_token.organization.as_deref(),
            client_id: &live_token.client_id,
            format: live_token.format,
            key: live_token.key.as_str(),
            until: live_token.until,
        }
    }

    /// Whether it differs from a live token in its end only.
    fn is_for(&self, live_token: &LiveToken) -> bool {
        self.session == live_token.session
            && self.client_id == live_token.client_id
            && self.organization == live_token.organization.as_deref()
            && self.format == live_token.format
            && self.key == live_token.key.as_str()
            && self.user == live_token.user
            && self.tenant == live_token.tenant.as_str()
    }

    fn live_token(&self) -> Option<LiveToken> {
        Some(LiveToken {
            tenant: TenantName::parse(self.tenant).ok()?,
            user: self.user.to_owned(),
            session: self.session.to_owned(),
            organization: self.organization.map(str::to_owned),
            client_id: self.client_id.to_owned(),
            format: self.format,
            key: KeyName::parse(self.key).ok()?,
            until: self.until,
        })
    }
}

/// Never fails: this process wrote the bytes.
fn decoded(bytes: &[u8]) -> Vec<Record<'_>> {
    postcard::from_bytes::<Batch<'_>>(bytes).map(|batch| batch.records).unwrap_or_default()
}

/// `None` without records.
fn encoded(records: Vec<Record<'_>>) -> Option<Box<[u8]>> {
    let earliest = records.iter().map(|record| record.until).min()?;
    postcard::to_allocvec(&Batch { earliest, records }).ok().map(Vec::into_boxed_slice)
}

impl Shard {
    /// Removes ended records, once a minute. Returns how many.
    fn sweep(&mut self, now: UnixMillis) -> usize {
        const MINUTE: i64 = 60_000;
        let minute = now.0.div_euclid(MINUTE);
        if minute <= self.swept {
            return 0;
        }
        self.swept = minute;
        let mut removed = 0;
        self.batches.retain(|_, batch| {
            if postcard::take_from_bytes::<UnixMillis>(batch).is_ok_and(|(earliest, _)| earliest > now) {
                return true;
            }
            let (live, ended) = live_and_ended(decoded(batch), now);
            removed += ended;
            let rest = encoded(live);
            rest.map(|rest| *batch = rest).is_some()
        });
        removed
    }
}

/// The records that have not ended, and how many have.
fn live_and_ended(records: Vec<Record<'_>>, now: UnixMillis) -> (Vec<Record<'_>>, usize) {
    let all = records.len();
    let live: Vec<_> = records.into_iter().filter(|record| record.until > now).collect();
    let ended = all - live.len();
    (live, ended)
}

impl LiveTokenIndex {
    pub(super) fn new(limits: &StoreLimits) -> Self {
        Self {
            max: limits.live_tokens,
            count: AtomicUsize::new(0),
            hasher: RandomState::new(),
            shards: Default::default(),
        }
    }

    /// Adds or extends a live token.
    pub(super) fn put(&self, live_token: &LiveToken, now: UnixMillis) -> Result<(), StoreError> {
        if self.count.load(Ordering::Relaxed) >= self.max {
            self.sweep(now);
        }
        let hash = self.hash(&live_token.tenant, &live_token.user);
        let mut shard = self.shard(hash);
        self.subtract(shard.sweep(now));
        let known = shard.batches.get(&hash).map(|batch| decoded(batch)).unwrap_or_default();
        let (mut records, ended) = live_and_ended(known, now);
        if let Some(record) = records.iter_mut().find(|record| record.is_for(live_token)) {
            record.until = record.until.max(live_token.until);
        } else {
            self.add_one()?;
            records.push(Record::new(live_token));
        }
        if let Some(batch) = encoded(records) {
            shard.batches.insert(hash, batch);
        }
        self.subtract(ended);
        Ok(())
    }

    /// All live tokens, in parts: each part is decoded when it is asked for.
    pub(super) fn parts(&self, now: UnixMillis) -> impl Iterator<Item = Vec<LiveToken>> {
        self.shards.iter().map(move |shard| {
            let shard = lock(shard);
            let live_tokens = shard.batches.values().flat_map(|batch| decoded(batch)).filter_map(|it| it.live_token());
            live_tokens.filter(|live_token| live_token.until > now).collect()
        })
    }

    pub(super) fn find(&self, tenant: &TenantName, holder: &TokenHolder, now: UnixMillis) -> Vec<LiveToken> {
        let of_holder = |batch: &[u8]| -> Vec<LiveToken> {
            let live_tokens = decoded(batch).into_iter().filter_map(|record| record.live_token());
            live_tokens.filter(|found| found.tenant == *tenant && found.is_of(holder) && found.until > now).collect()
        };
        if let TokenHolder::User(user) | TokenHolder::UserSession { user, .. } = holder {
            let hash = self.hash(tenant, user);
            return self.shard(hash).batches.get(&hash).map(|batch| of_holder(batch)).unwrap_or_default();
        }
        let id = memmem::Finder::new(holder.id());
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            let candidates = shard.batches.values().filter(|batch| id.find(batch).is_some());
            found.extend(candidates.flat_map(|batch| of_holder(batch)));
        }
        found
    }

    pub(super) fn count(&self, now: UnixMillis) -> usize {
        self.sweep(now);
        self.count.load(Ordering::Relaxed)
    }

    fn sweep(&self, now: UnixMillis) {
        for shard in &self.shards {
            let removed = lock(shard).sweep(now);
            self.subtract(removed);
        }
    }

    /// Counts one more live token, unless there are too many.
    fn add_one(&self) -> Result<(), StoreError> {
        let one_more = |count| (count < self.max).then_some(count + 1);
        let added = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        added.map(|_| ()).map_err(|_| StoreError::Full)
    }

    fn subtract(&self, removed: usize) {
        if removed > 0 {
            self.count.fetch_sub(removed, Ordering::Relaxed);
        }
    }

    fn hash(&self, tenant: &TenantName, user: &str) -> u64 {
        self.hasher.hash_one((tenant.as_str(), user))
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        let [first, ..] = hash.to_ne_bytes();
        lock(&self.shards[usize::from(first) % self.shards.len()])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

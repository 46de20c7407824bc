//! Live tokens, in memory.
//!
//! There can be hundreds of thousands, so they are kept encoded: those of a user together.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use memchr::memmem;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use super::{StoreError, StoreLimits, Subject, restriction::SubjectKey};
use crate::{
    ably::{KeyName, TokenFormat},
    clock::UnixMillis,
    tenant::TenantName,
};

/// A token that was issued and has not ended, or several that differ in their end only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
    /// All sessions in which an organization is active. Without Redis, all live tokens are searched.
    Organization(String),
    /// A session whose user is not known. All live tokens are searched.
    Session(String),
    /// A client ID. All live tokens are searched.
    ClientId(String),
}

/// The live tokens that were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveTokens {
    /// In no particular order.
    pub live_tokens: Vec<LiveToken>,
    /// An error during an outage: other replicas may have issued more.
    pub of_others: Result<(), StoreError>,
}

impl LiveTokens {
    /// No live tokens, at any replica.
    pub const NONE: Self = Self { live_tokens: Vec::new(), of_others: Ok(()) };
}

impl LiveToken {
    /// The subjects whose restrictions can end this token.
    pub(super) fn subjects(&self) -> impl Iterator<Item = SubjectKey> {
        Subject::of_session(&self.user, &self.session, self.organization.as_deref())
            .map(|subject| SubjectKey::of(&self.tenant, &subject))
    }

    /// Whether another one differs in its end at most.
    pub(super) fn is_same_but_for_end(&self, other: &Self) -> bool {
        let Self { tenant, user, session, organization, client_id, format, key, until: _ } = self;
        (session, client_id, organization) == (&other.session, &other.client_id, &other.organization)
            && (format, key, user, tenant) == (&other.format, &other.key, &other.user, &other.tenant)
    }

    /// Whether a holder has this token.
    #[must_use]
    pub fn is_of(&self, holder: &TokenHolder) -> bool {
        match holder {
            TokenHolder::User(user) => self.user == *user,
            TokenHolder::Organization(organization) => self.organization.as_ref() == Some(organization),
            TokenHolder::Session(session) => self.session == *session,
            TokenHolder::ClientId(client_id) => self.client_id == *client_id,
        }
    }
}

/// The live tokens that this replica issued. Ended ones are removed within a minute.
#[derive(Debug)]
pub(super) struct LiveTokenIndex {
    /// Threads that add one at the same time can exceed it by one each.
    max: usize,
    count: AtomicUsize,
    /// Each has some of the users. Only one is locked at a time.
    shards: [Mutex<Shard>; 16],
}

#[derive(Debug, Default)]
struct Shard {
    /// By user.
    batches: BTreeMap<SubjectKey, Box<[u8]>>,
    /// The minute in which ended records were last removed.
    swept: i64,
}

/// Never fails: this process wrote the bytes.
fn decoded(batch: &[u8]) -> Vec<LiveToken> {
    postcard::from_bytes::<(UnixMillis, Vec<LiveToken>)>(batch).map(|(_, live_tokens)| live_tokens).unwrap_or_default()
}

impl Shard {
    fn of(&self, user: SubjectKey) -> Vec<LiveToken> {
        self.batches.get(&user).map(|batch| decoded(batch)).unwrap_or_default()
    }

    /// Replaces a batch. Its earliest end comes first, so that it can be decoded alone.
    fn set(&mut self, user: SubjectKey, live_tokens: &[LiveToken]) {
        let earliest = live_tokens.iter().map(|live_token| live_token.until).min();
        match earliest.and_then(|earliest| postcard::to_allocvec(&(earliest, live_tokens)).ok()) {
            Some(batch) => self.batches.insert(user, batch.into_boxed_slice()),
            None => self.batches.remove(&user),
        };
    }
}

impl LiveTokenIndex {
    pub(super) fn new(limits: &StoreLimits) -> Self {
        Self { max: limits.live_tokens, count: AtomicUsize::new(0), shards: Default::default() }
    }

    /// Adds or extends a live token.
    pub(super) fn put(&self, live_token: &LiveToken, now: UnixMillis) -> Result<(), StoreError> {
        let is_full = || self.count.load(Ordering::Relaxed) >= self.max;
        if is_full() {
            self.count(now);
        }
        let user = SubjectKey::of(&live_token.tenant, &Subject::User(&live_token.user));
        let mut shard = self.shard(user);
        self.sweep(&mut shard, now);
        let mut live_tokens = self.live(shard.of(user), now);
        let mut put = Ok(());
        if let Some(known) = live_tokens.iter_mut().find(|known| known.is_same_but_for_end(live_token)) {
            known.until = known.until.max(live_token.until);
        } else if is_full() {
            put = Err(StoreError::Full);
        } else {
            self.count.fetch_add(1, Ordering::Relaxed);
            live_tokens.push(live_token.clone());
        }
        shard.set(user, &live_tokens);
        put
    }

    /// All live tokens, in parts: each part is decoded when it is asked for.
    pub(super) fn parts(&self, now: UnixMillis) -> impl Iterator<Item = Vec<LiveToken>> {
        self.shards.iter().map(move |shard| {
            let shard = shard.lock();
            let live_tokens = shard.batches.values().flat_map(|batch| decoded(batch));
            live_tokens.filter(|live_token| live_token.until > now).collect()
        })
    }

    pub(super) fn find(&self, tenant: &TenantName, holder: &TokenHolder, now: UnixMillis) -> Vec<LiveToken> {
        let is_sought = |found: &LiveToken| found.tenant == *tenant && found.is_of(holder) && found.until > now;
        let id = match holder {
            TokenHolder::User(user) => {
                let user = SubjectKey::of(tenant, &Subject::User(user));
                return self.shard(user).of(user).into_iter().filter(is_sought).collect();
            }
            TokenHolder::Organization(id) | TokenHolder::Session(id) | TokenHolder::ClientId(id) => id,
        };
        let id = memmem::Finder::new(id);
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let candidates = shard.batches.values().filter(|batch| id.find(batch).is_some());
            found.extend(candidates.flat_map(|batch| decoded(batch)).filter(is_sought));
        }
        found
    }

    /// Removes ended live tokens first.
    pub(super) fn count(&self, now: UnixMillis) -> usize {
        self.shards.iter().for_each(|shard| self.sweep(&mut shard.lock(), now));
        self.count.load(Ordering::Relaxed)
    }

    /// Removes ended live tokens, once a minute.
    fn sweep(&self, shard: &mut Shard, now: UnixMillis) {
        const MINUTE: i64 = 60_000;
        let minute = now.0.div_euclid(MINUTE);
        if minute <= shard.swept {
            return;
        }
        shard.swept = minute;
        let has_ended = |batch: &[u8]| postcard::take_from_bytes(batch).is_ok_and(|(earliest, _)| now >= earliest);
        let due = shard.batches.iter().filter(|(_, batch)| has_ended(batch)).map(|(user, _)| *user);
        for user in due.collect::<Vec<_>>() {
            let live_tokens = self.live(shard.of(user), now);
            shard.set(user, &live_tokens);
        }
    }

    /// Leaves out the ones that have ended, and counts them no more.
    fn live(&self, mut live_tokens: Vec<LiveToken>, now: UnixMillis) -> Vec<LiveToken> {
        let all = live_tokens.len();
        live_tokens.retain(|live_token| live_token.until > now);
        self.count.fetch_sub(all - live_tokens.len(), Ordering::Relaxed);
        live_tokens
    }

    fn shard(&self, user: SubjectKey) -> MutexGuard<'_, Shard> {
        let [first, ..] = user.0.to_ne_bytes();
        self.shards[usize::from(first) % self.shards.len()].lock()
    }
}

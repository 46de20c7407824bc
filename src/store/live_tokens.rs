//! Live tokens, in memory.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{StoreError, StoreLimits, timed_map::TimedMap};
use crate::{ably::TokenFormat, clock::UnixMillis, tenant::TenantName};

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
    /// When it ends; of several, the last.
    pub until: UnixMillis,
}

/// What live tokens are looked up by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TokenHolder {
    /// A user.
    User(String),
    /// A session.
    Session(String),
    /// All sessions in which an organization is active.
    Organization(String),
    /// A client ID.
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

/// Whose live tokens a replica can find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Those of all replicas.
    AllReplicas,
    /// Its own: during an outage, other replicas may have issued more.
    ThisReplica,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PutOutcome {
    Added,
    /// It was known already.
    Extended,
}

/// A live token without its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct TokenKey(LiveToken);

#[derive(Debug)]
pub(super) struct LiveTokenIndex {
    max: usize,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    tokens: TimedMap<Arc<TokenKey>, ()>,
    by_holder: HashMap<(TenantName, TokenHolder), HashSet<Arc<TokenKey>>>,
}

impl LiveToken {
    pub(super) fn holders(&self) -> impl Iterator<Item = TokenHolder> {
        let Self { user, session, organization, client_id, .. } = self.clone();
        let always = [TokenHolder::User(user), TokenHolder::Session(session), TokenHolder::ClientId(client_id)];
        always.into_iter().chain(organization.map(TokenHolder::Organization))
    }

    fn key(&self) -> TokenKey {
        TokenKey(Self { until: UnixMillis(0), ..self.clone() })
    }
}

impl TokenKey {
    fn holders(&self) -> impl Iterator<Item = (TenantName, TokenHolder)> {
        self.0.holders().map(|holder| (self.0.tenant.clone(), holder))
    }

    fn ending_at(&self, until: UnixMillis) -> LiveToken {
        LiveToken { until, ..self.0.clone() }
    }
}

impl LiveTokenIndex {
    pub(super) fn new(limits: &StoreLimits) -> Self {
        Self { max: limits.live_tokens, index: Mutex::default() }
    }

    pub(super) fn put(&self, live_token: &LiveToken, now: UnixMillis) -> Result<PutOutcome, StoreError> {
        let key = Arc::new(live_token.key());
        let mut index = self.lock();
        index.remove_expired(now);
        let known = index.end_of(&key);
        if known.is_none() {
            if index.tokens.len() >= self.max {
                return Err(StoreError::Full);
            }
            for holder in key.holders() {
                index.by_holder.entry(holder).or_default().insert(Arc::clone(&key));
            }
        }
        index.tokens.insert(key, known.max(Some(live_token.until)).unwrap_or(live_token.until), ());
        Ok(if known.is_some() { PutOutcome::Extended } else { PutOutcome::Added })
    }

    pub(super) fn remove(&self, live_token: &LiveToken) {
        self.lock().remove(&Arc::new(live_token.key()));
    }

    pub(super) fn find(&self, tenant: &TenantName, holder: &TokenHolder, now: UnixMillis) -> Vec<LiveToken> {
        let index = self.lock();
        let found = index.by_holder.get(&(tenant.clone(), holder.clone())).into_iter().flatten();
        let live = found.filter_map(|key| Some(key.ending_at(index.end_of(key)?)));
        live.filter(|live_token| live_token.until > now).collect()
    }

    pub(super) fn all(&self, now: UnixMillis) -> Vec<LiveToken> {
        let mut index = self.lock();
        index.remove_expired(now);
        index.tokens.iter().map(|(key, (end, ()))| key.ending_at(*end)).collect()
    }

    pub(super) fn count(&self, now: UnixMillis) -> usize {
        let mut index = self.lock();
        index.remove_expired(now);
        index.tokens.len()
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn end_of(&self, key: &Arc<TokenKey>) -> Option<UnixMillis> {
        self.tokens.get(key).map(|(end, ())| *end)
    }

    fn remove(&mut self, key: &Arc<TokenKey>) {
        if self.tokens.remove(key).is_none() {
            return;
        }
        for holder in key.holders() {
            if let Entry::Occupied(mut keys) = self.by_holder.entry(holder) {
                keys.get_mut().remove(key);
                if keys.get().is_empty() {
                    keys.remove();
                }
            }
        }
    }

    fn remove_expired(&mut self, now: UnixMillis) {
        for key in self.tokens.keys_until(now, usize::MAX) {
            self.remove(&key);
        }
    }
}

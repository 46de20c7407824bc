//! Live tokens, in memory.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{StoreError, StoreLimits};
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
    until: HashMap<Arc<TokenKey>, UnixMillis>,
    by_end: BTreeSet<(UnixMillis, Arc<TokenKey>)>,
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
        let known = index.until.get(&key).copied();
        if known.is_none() && index.until.len() >= self.max {
            return Err(StoreError::Full);
        }
        index.put(key, known, live_token.until);
        Ok(if known.is_some() { PutOutcome::Extended } else { PutOutcome::Added })
    }

    pub(super) fn remove(&self, live_token: &LiveToken) {
        self.lock().remove(&Arc::new(live_token.key()));
    }

    pub(super) fn find(&self, tenant: &TenantName, holder: &TokenHolder, now: UnixMillis) -> Vec<LiveToken> {
        let index = self.lock();
        let found = index.by_holder.get(&(tenant.clone(), holder.clone())).into_iter().flatten();
        let live = found.filter_map(|key| Some(key.ending_at(*index.until.get(key)?)));
        live.filter(|live_token| live_token.until > now).collect()
    }

    pub(super) fn all(&self, now: UnixMillis) -> Vec<LiveToken> {
        let index = self.lock();
        index.by_end.iter().filter(|(end, _)| *end > now).map(|(end, key)| key.ending_at(*end)).collect()
    }

    pub(super) fn count(&self, now: UnixMillis) -> usize {
        let mut index = self.lock();
        index.remove_expired(now);
        index.until.len()
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn put(&mut self, key: Arc<TokenKey>, known: Option<UnixMillis>, until: UnixMillis) {
        if known.is_some_and(|known| known >= until) {
            return;
        }
        match known {
            Some(known) => _ = self.by_end.remove(&(known, Arc::clone(&key))),
            None => {
                for holder in key.0.holders() {
                    self.by_holder.entry((key.0.tenant.clone(), holder)).or_default().insert(Arc::clone(&key));
                }
            }
        }
        self.by_end.insert((until, Arc::clone(&key)));
        self.until.insert(key, until);
    }

    fn remove(&mut self, key: &Arc<TokenKey>) {
        let Some(until) = self.until.remove(key) else { return };
        self.by_end.remove(&(until, Arc::clone(key)));
        for holder in key.0.holders() {
            let holder = (key.0.tenant.clone(), holder);
            if let Some(keys) = self.by_holder.get_mut(&holder) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_holder.remove(&holder);
                }
            }
        }
    }

    fn remove_expired(&mut self, now: UnixMillis) {
        while let Some((_, key)) = self.by_end.first().filter(|(end, _)| *end <= now).cloned() {
            self.remove(&key);
        }
    }
}

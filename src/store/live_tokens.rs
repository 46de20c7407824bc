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

/// A live token without its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct TokenKey(LiveToken);

/// The live tokens that this replica issued.
#[derive(Debug)]
pub(super) struct LiveTokenIndex {
    max: usize,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    tokens: TimedMap<Arc<TokenKey>, Issue>,
    by_holder: HashMap<(TenantName, TokenHolder), HashSet<Arc<TokenKey>>>,
    /// Starts with 0, and grows with each loss of Redis.
    losses: u64,
}

/// What is known of the issue of a live token.
#[derive(Clone, Copy, Debug)]
struct Issue {
    /// When; of several live tokens that differ in their end only, the first that was never checked.
    at: UnixMillis,
    /// After how many losses of Redis it was last checked. `None`: never.
    checked_after: Option<u64>,
}

/// A live token that was not checked since Redis was lost.
pub(super) struct Unchecked {
    pub(super) live_token: LiveToken,
    pub(super) issued_at: UnixMillis,
    /// Whether it was checked before that.
    pub(super) was_checked: bool,
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

    /// Adds or extends a live token that was issued now. It is unchecked. Returns the number of losses until now.
    pub(super) fn put(&self, live_token: &LiveToken, now: UnixMillis) -> Result<u64, StoreError> {
        let key = Arc::new(live_token.key());
        let mut index = self.lock();
        index.remove_expired(now);
        let known = index.tokens.get(&key).map(|(until, issue)| (*until, *issue));
        let (until, at) = match known {
            Some((until, issue)) if issue.checked_after == Some(index.losses) => (until.max(live_token.until), now),
            Some((until, issue)) => (until.max(live_token.until), issue.at),
            None if index.tokens.len() >= self.max => return Err(StoreError::Full),
            None => {
                for holder in key.holders() {
                    index.by_holder.entry(holder).or_default().insert(Arc::clone(&key));
                }
                (live_token.until, now)
            }
        };
        index.tokens.insert(key, until, Issue { at, checked_after: None });
        Ok(index.losses)
    }

    /// Notes that Redis has a live token, and that its holder is not restricted, unless Redis was lost since.
    pub(super) fn mark_checked(&self, live_token: &LiveToken, losses: u64) {
        let mut index = self.lock();
        if losses != index.losses {
            return;
        }
        if let Some(issue) = index.tokens.get_mut(&Arc::new(live_token.key())) {
            issue.checked_after = Some(losses);
        }
    }

    /// All live tokens are unchecked from now on.
    pub(super) fn mark_all_unchecked(&self) {
        self.lock().losses += 1;
    }

    /// The unchecked live tokens, and the number of losses until now.
    pub(super) fn unchecked(&self, now: UnixMillis) -> (Vec<Unchecked>, u64) {
        let mut index = self.lock();
        index.remove_expired(now);
        let unchecked = index.tokens.iter().filter(|(_, (_, issue))| issue.checked_after != Some(index.losses));
        let unchecked = unchecked.map(|(key, (until, issue))| Unchecked {
            live_token: key.ending_at(*until),
            issued_at: issue.at,
            was_checked: issue.checked_after.is_some(),
        });
        (unchecked.collect(), index.losses)
    }

    pub(super) fn find(&self, tenant: &TenantName, holder: &TokenHolder, now: UnixMillis) -> Vec<LiveToken> {
        let index = self.lock();
        let found = index.by_holder.get(&(tenant.clone(), holder.clone())).into_iter().flatten();
        let live = found.filter_map(|key| Some(key.ending_at(index.end_of(key)?)));
        live.filter(|live_token| live_token.until > now).collect()
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
        self.tokens.get(key).map(|(until, _)| *until)
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

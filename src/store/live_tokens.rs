//! The tokens that are out, in memory: whom they were given to, and until when they live.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Bounds, StoreError};
use crate::{ably::TokenFormat, clock::UnixMillis, tenant::TenantName};

/// A token that is out, or several that went to the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LiveToken {
    /// Whose tokens they are.
    pub tenant: TenantName,
    /// The user that they were given to.
    pub user: String,
    /// In which session.
    pub session: String,
    /// The organization that the session was active in.
    pub organization: Option<String>,
    /// Who the holder is on Ably.
    pub client_id: String,
    /// What they were given as.
    pub format: TokenFormat,
    /// When the last of them ends.
    pub until: UnixMillis,
}

/// RevocationScope tokens were given to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TokenHolder {
    /// A user.
    User(String),
    /// A session.
    Session(String),
    /// Sessions that were active in an organization.
    Organization(String),
    /// A client ID.
    ClientId(String),
}

/// Tokens that are out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveTokens {
    /// In no particular order.
    pub live_tokens: Vec<LiveToken>,
    /// Whose they are.
    pub coverage: Coverage,
}

/// Of how many replicas one knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Of all.
    AllReplicas,
    /// Of itself only, since Redis cannot be used: others may have issued more.
    ThisReplica,
}

/// What was known of a live_token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    New,
    Known,
}

/// A live_token without its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TokenKey {
    tenant: TenantName,
    user: String,
    session: String,
    organization: Option<String>,
    client_id: String,
    format: TokenFormat,
}

#[derive(Debug)]
pub(super) struct LiveTokenIndex {
    most: usize,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    until: HashMap<Arc<TokenKey>, UnixMillis>,
    by_end: BTreeSet<(UnixMillis, Arc<TokenKey>)>,
    by_holder: HashMap<(TenantName, TokenHolder), HashSet<Arc<TokenKey>>>,
}

impl LiveToken {
    /// All that it can be found by.
    pub(super) fn holders(&self) -> impl Iterator<Item = TokenHolder> {
        self.tuple().into_holders()
    }

    fn tuple(&self) -> TokenKey {
        TokenKey {
            tenant: self.tenant.clone(),
            user: self.user.clone(),
            session: self.session.clone(),
            organization: self.organization.clone(),
            client_id: self.client_id.clone(),
            format: self.format,
        }
    }
}

impl TokenKey {
    fn into_holders(self) -> impl Iterator<Item = TokenHolder> {
        let fixed =
            [TokenHolder::User(self.user), TokenHolder::Session(self.session), TokenHolder::ClientId(self.client_id)];
        fixed.into_iter().chain(self.organization.map(TokenHolder::Organization))
    }

    fn until(&self, until: UnixMillis) -> LiveToken {
        let Self { tenant, user, session, organization, client_id, format } = self.clone();
        LiveToken { tenant, user, session, organization, client_id, format, until }
    }
}

impl LiveTokenIndex {
    pub(super) fn new(bounds: &Bounds) -> Self {
        Self { most: bounds.live_tokens, index: Mutex::default() }
    }

    pub(super) fn put(&self, live_token: &LiveToken, now: UnixMillis) -> Result<Put, StoreError> {
        let tuple = Arc::new(live_token.tuple());
        let mut index = self.lock();
        index.forget_until(now);
        let known = index.until.get(&tuple).copied();
        if known.is_none() && index.until.len() >= self.most {
            return Err(StoreError::Full);
        }
        index.put(tuple, known, live_token.until);
        Ok(if known.is_some() { Put::Known } else { Put::New })
    }

    pub(super) fn remove(&self, live_token: &LiveToken) {
        self.lock().remove(&Arc::new(live_token.tuple()));
    }

    pub(super) fn find(&self, tenant: &TenantName, to: &TokenHolder, now: UnixMillis) -> Vec<LiveToken> {
        let index = self.lock();
        let found = index.by_holder.get(&(tenant.clone(), to.clone())).into_iter().flatten();
        let live = found.filter_map(|tuple| Some(tuple.until(*index.until.get(tuple)?)));
        live.filter(|live_token| live_token.until > now).collect()
    }

    pub(super) fn all(&self, now: UnixMillis) -> Vec<LiveToken> {
        let index = self.lock();
        index.by_end.iter().filter(|(end, _)| *end > now).map(|(end, tuple)| tuple.until(*end)).collect()
    }

    pub(super) fn count(&self, now: UnixMillis) -> usize {
        let mut index = self.lock();
        index.forget_until(now);
        index.until.len()
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn put(&mut self, tuple: Arc<TokenKey>, known: Option<UnixMillis>, until: UnixMillis) {
        if known.is_some_and(|known| known >= until) {
            return;
        }
        match known {
            Some(known) => _ = self.by_end.remove(&(known, Arc::clone(&tuple))),
            None => {
                for holder in TokenKey::clone(&tuple).into_holders() {
                    self.by_holder.entry((tuple.tenant.clone(), holder)).or_default().insert(Arc::clone(&tuple));
                }
            }
        }
        self.by_end.insert((until, Arc::clone(&tuple)));
        self.until.insert(tuple, until);
    }

    fn remove(&mut self, tuple: &Arc<TokenKey>) {
        let Some(until) = self.until.remove(tuple) else { return };
        self.by_end.remove(&(until, Arc::clone(tuple)));
        for holder in TokenKey::clone(tuple).into_holders() {
            let key = (tuple.tenant.clone(), holder);
            if let Some(tuples) = self.by_holder.get_mut(&key) {
                tuples.remove(tuple);
                if tuples.is_empty() {
                    self.by_holder.remove(&key);
                }
            }
        }
    }

    fn forget_until(&mut self, now: UnixMillis) {
        while let Some((_, tuple)) = self.by_end.first().filter(|(end, _)| *end <= now).cloned() {
            self.remove(&tuple);
        }
    }
}

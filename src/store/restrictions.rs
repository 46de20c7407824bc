//! The restrictions that a replica knows, in memory. Issuing a token reads them without waiting.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::{
    DenialSource, RecordOutcome, Restriction, RestrictionKind, StoreLimits, Subject, Topic, live_tokens::hash_of,
    restriction::RestrictionKey,
};
use crate::{clerk::Session, clock::UnixMillis, tenant::TenantName};

/// The restrictions that a replica knows.
#[derive(Debug)]
pub struct Restrictions {
    max: usize,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    restrictions: HashMap<Arc<RestrictionKey>, Restriction>,
    by_end: BTreeSet<(UnixMillis, Arc<RestrictionKey>)>,
    /// Those that Redis may lack.
    unrecorded: BTreeSet<Arc<RestrictionKey>>,
}

/// Who says that there is a restriction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// An event, an operator, or an answer of a Redis that may not be used any more.
    Told,
    /// The Redis that this replica follows.
    Redis,
}

/// What the restrictions say of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is not restricted.
    Clear,
    /// The session or its user is denied.
    Denied,
    /// The session token has rights or a client ID from before a change: a newer one is needed.
    Outdated,
}

impl Restrictions {
    pub(super) fn new(limits: &StoreLimits) -> Self {
        Self { max: limits.restrictions, known: RwLock::default() }
    }

    /// The verdict on a tenant's session, and on the client ID that its session token gives, once that is known.
    #[must_use]
    pub fn verdict(&self, tenant: &TenantName, session: &Session, client_id: Option<&str>, now: UnixMillis) -> Verdict {
        let known = self.read();
        let active =
            |key: &RestrictionKey| known.restrictions.get(key).filter(|restriction| restriction.is_active(now));
        let outdating = |key: &RestrictionKey| active(key).filter(|latest| session.issued_at <= latest.at);
        let is_denied = |key: &mut RestrictionKey| {
            [DenialSource::Clerk, DenialSource::Operator].into_iter().any(|source| {
                key.topic = Topic::Denial(source);
                active(key).is_some()
            })
        };
        let user = Subject::User(session.user_id.clone());
        let mut key = RestrictionKey { tenant: tenant.clone(), subject: user, topic: Topic::ClientId };
        let current = outdating(&key).zip(client_id);
        let mut outdated = current.is_some_and(|(current, given)| current.kind != RestrictionKind::client_id(given));
        let is_user_denied = is_denied(&mut key);
        key.subject = Subject::Session(session.session_id.clone());
        if is_user_denied || is_denied(&mut key) {
            return Verdict::Denied;
        }
        if let Some(organization) = &session.organization {
            key.topic = Topic::Rights;
            key.subject = Subject::Member { user: session.user_id.clone(), organization: organization.id.clone() };
            outdated |= outdating(&key).is_some();
            key.subject = Subject::Organization(organization.id.clone());
            outdated |= outdating(&key).is_some();
        }
        if outdated { Verdict::Outdated } else { Verdict::Clear }
    }

    /// The restriction that counts, ended or not.
    #[must_use]
    pub fn latest(&self, tenant: &TenantName, subject: &Subject, topic: Topic) -> Option<Restriction> {
        let key = RestrictionKey { tenant: tenant.clone(), subject: subject.clone(), topic };
        self.read().restrictions.get(&key).cloned()
    }

    /// Whether a source denies a session or a user.
    #[must_use]
    pub fn denies(&self, tenant: &TenantName, subject: &Subject, source: DenialSource, now: UnixMillis) -> bool {
        self.latest(tenant, subject, Topic::Denial(source)).is_some_and(|denial| denial.is_active(now))
    }

    pub(super) fn count_active(&self, now: UnixMillis) -> usize {
        let known = self.read();
        let unended = known.by_end.iter().rev().take_while(|(end, _)| *end > now);
        unended.filter(|(_, key)| known.restrictions.get(key).is_some_and(Restriction::restricts)).count()
    }

    /// Applies a restriction, unless it yields to a known one.
    pub(super) fn apply(&self, restriction: &Restriction, source: Source, now: UnixMillis) -> RecordOutcome {
        let key = Arc::new(restriction.key());
        let known = &mut *self.write();
        let old = known.restrictions.get(&key);
        let (outcome, order) = (RecordOutcome::of(old, restriction), old.map(|old| old.compare(restriction)));
        if order.is_none_or(Ordering::is_lt) {
            if let Some(old) = known.restrictions.insert(Arc::clone(&key), restriction.clone()) {
                known.by_end.remove(&(old.until, Arc::clone(&key)));
            }
            known.by_end.insert((restriction.until, Arc::clone(&key)));
        }
        match (source, order) {
            (Source::Told, _) => {}
            (Source::Redis, Some(Ordering::Greater)) => _ = known.unrecorded.insert(key),
            (Source::Redis, _) => _ = known.unrecorded.remove(&key),
        }
        known.forget(now, self.max);
        outcome
    }

    /// Notes that Redis may lack the newest ones with the keys of these.
    pub(super) fn mark_unrecorded(&self, restrictions: &[Restriction]) {
        let Known { restrictions: known, unrecorded, .. } = &mut *self.write();
        unrecorded
            .extend(restrictions.iter().map(Restriction::key).filter(|key| known.contains_key(key)).map(Arc::new));
    }

    /// Notes that Redis may lack all of them.
    pub(super) fn mark_all_unrecorded(&self) {
        let keys: Vec<_> = self.read().restrictions.keys().cloned().collect();
        // Sorted without the lock, since there may be hundreds of thousands.
        let mut all = BTreeSet::from_iter(keys);
        let Known { restrictions, unrecorded, .. } = &mut *self.write();
        unrecorded.append(&mut all);
        // Some may have been forgotten meanwhile.
        unrecorded.retain(|key| restrictions.contains_key(key));
    }

    /// Some of those that Redis may lack.
    pub(super) fn unrecorded(&self, max: usize) -> Vec<Restriction> {
        let known = self.read();
        known.unrecorded.iter().filter_map(|key| known.restrictions.get(key)).take(max).cloned().collect()
    }

    /// Those about subjects with these hashes.
    pub(super) fn about(&self, subjects: &HashSet<u64>) -> Vec<Restriction> {
        let known = self.read();
        let about = known.by_end.iter().filter(|(_, key)| subjects.contains(&hash_of(&(&key.tenant, &key.subject))));
        about.filter_map(|(_, key)| known.restrictions.get(key).cloned()).collect()
    }

    /// How many Redis may lack.
    pub(super) fn count_unrecorded(&self) -> usize {
        self.read().unrecorded.len()
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Forgets restrictions some time after their end; beyond the limit of all, as soon as they have ended.
    fn forget(&mut self, now: UnixMillis, max: usize) {
        while let Some((end, key)) = self.by_end.first()
            && (end.after(Restriction::REMEMBERED_FOR) <= now || (*end <= now && self.restrictions.len() > max))
        {
            self.restrictions.remove(key);
            self.unrecorded.remove(key);
            self.by_end.pop_first();
        }
    }
}

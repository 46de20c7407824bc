//! The restrictions that a replica knows, in memory. Issuing a token reads them without waiting.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::{
    DenialSource, RecordOutcome, Restriction, RestrictionKind, StoreLimits, Subject, Topic,
    live_tokens::hash_of,
    restriction::{RestrictionKey, Terms},
};
use crate::{clerk::Session, clock::UnixMillis, tenant::TenantName};

/// The restrictions that a replica knows.
#[derive(Debug)]
pub struct Restrictions {
    max_ended: usize,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    terms: HashMap<Arc<RestrictionKey>, Terms>,
    /// By their expiry.
    active: BTreeSet<(UnixMillis, Arc<RestrictionKey>)>,
    /// Ended or lifted, remembered for their timestamps; by when they are forgotten.
    ended: BTreeSet<(UnixMillis, Arc<RestrictionKey>)>,
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
        Self { max_ended: limits.ended_restrictions, known: RwLock::default() }
    }

    /// The verdict on a tenant's session, and on the client ID that its session token gives, once that is known.
    #[must_use]
    pub fn verdict(&self, tenant: &TenantName, session: &Session, client_id: Option<&str>, now: UnixMillis) -> Verdict {
        let known = self.read();
        let mut key = RestrictionKey {
            tenant: tenant.clone(),
            subject: Subject::Session(session.session_id.clone()),
            topic: Topic::Denial(DenialSource::Clerk),
        };
        if known.is_denied(&mut key, now) {
            return Verdict::Denied;
        }
        key.subject = Subject::User(session.user_id.clone());
        if known.is_denied(&mut key, now) {
            return Verdict::Denied;
        }
        let outdating = |key: &RestrictionKey| {
            known.terms.get(key).filter(|latest| latest.is_active(now) && session.issued_at <= latest.at)
        };
        key.topic = Topic::ClientId;
        let current = outdating(&key).zip(client_id);
        let mut outdated = current.is_some_and(|(current, given)| current.kind != RestrictionKind::client_id(given));
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
        self.read().terms.get(&key).map(|terms| key.with(terms))
    }

    /// Whether a source denies a session or a user.
    #[must_use]
    pub fn denies(&self, tenant: &TenantName, subject: &Subject, source: DenialSource, now: UnixMillis) -> bool {
        self.latest(tenant, subject, Topic::Denial(source)).is_some_and(|denial| denial.terms().is_active(now))
    }

    pub(super) fn count_active(&self, now: UnixMillis) -> usize {
        let known = self.read();
        // Expired ones are few: the next restriction removes them.
        known.active.len() - known.active.iter().take_while(|(end, _)| *end <= now).count()
    }

    /// Applies a restriction, unless it yields to a known one.
    pub(super) fn apply(&self, restriction: &Restriction, source: Source, now: UnixMillis) -> RecordOutcome {
        let (key, new) = (Arc::new(restriction.key()), restriction.terms());
        let mut known = self.write();
        let old = known.apply(&key, &new, now, self.max_ended);
        if source == Source::Redis {
            if old.as_ref().is_none_or(|old| old.compare(&new).is_le()) {
                known.unrecorded.remove(&key);
            } else {
                known.unrecorded.insert(key);
            }
        }
        RecordOutcome::of(old.as_ref(), &new)
    }

    /// Notes that Redis may lack the newest ones with the keys of these.
    pub(super) fn mark_unrecorded(&self, restrictions: &[Restriction]) {
        let Known { terms, unrecorded, .. } = &mut *self.write();
        let keys = restrictions.iter().map(Restriction::key).filter(|key| terms.contains_key(key));
        unrecorded.extend(keys.map(Arc::new));
    }

    /// Notes that Redis may lack all of them.
    pub(super) fn mark_all_unrecorded(&self) {
        let keys: Vec<_> = self.read().terms.keys().cloned().collect();
        // Sorted without the lock, since there may be hundreds of thousands.
        let mut all = BTreeSet::from_iter(keys);
        let Known { terms, unrecorded, .. } = &mut *self.write();
        unrecorded.append(&mut all);
        // Some may have been forgotten meanwhile.
        unrecorded.retain(|key| terms.contains_key(key));
    }

    /// Some of those that Redis may lack.
    pub(super) fn unrecorded(&self, max: usize) -> Vec<Restriction> {
        let known = self.read();
        let unrecorded = known.unrecorded.iter().filter_map(|key| Some(key.with(known.terms.get(key)?)));
        unrecorded.take(max).collect()
    }

    /// Those about subjects with these hashes.
    pub(super) fn about(&self, subjects: &HashSet<u64>) -> Vec<Restriction> {
        let known = self.read();
        let about = known.terms.iter().filter(|(key, _)| subjects.contains(&hash_of(&(&key.tenant, &key.subject))));
        let mut about: Vec<_> = about.map(|(key, terms)| key.with(terms)).collect();
        about.sort_unstable_by_key(Restriction::key);
        about
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
    fn is_denied(&self, key: &mut RestrictionKey, now: UnixMillis) -> bool {
        [DenialSource::Clerk, DenialSource::Operator].into_iter().any(|source| {
            key.topic = Topic::Denial(source);
            self.terms.get(key).is_some_and(|terms| terms.is_active(now))
        })
    }

    /// Applies a restriction, unless it yields to the known one with its key. Returns the one that was known.
    fn apply(&mut self, key: &Arc<RestrictionKey>, new: &Terms, now: UnixMillis, max_ended: usize) -> Option<Terms> {
        let old = self.terms.get(key).cloned();
        if old.as_ref().is_none_or(|old| old.compare(new).is_lt()) {
            if let Some(old) = &old {
                self.active.remove(&(old.until, Arc::clone(key)));
                self.ended.remove(&(old.remembered_until(), Arc::clone(key)));
            }
            if new.is_active(now) {
                self.active.insert((new.until, Arc::clone(key)));
            } else {
                self.ended.insert((new.remembered_until(), Arc::clone(key)));
            }
            self.terms.insert(Arc::clone(key), new.clone());
        }
        self.expire(now, max_ended);
        old
    }

    /// Moves expired restrictions to the ended ones, and forgets ended ones when their time or the room for them is over.
    fn expire(&mut self, now: UnixMillis, max_ended: usize) {
        while let Some((_, key)) = self.active.first().filter(|(end, _)| *end <= now).cloned() {
            self.active.pop_first();
            if let Some(terms) = self.terms.get(&key) {
                self.ended.insert((terms.remembered_until(), key));
            }
        }
        while self.ended.first().is_some_and(|(end, _)| *end <= now) || self.ended.len() > max_ended {
            if let Some((_, key)) = self.ended.pop_first() {
                self.terms.remove(&key);
                self.unrecorded.remove(&key);
            }
        }
    }
}

//! The restrictions that a replica knows, in memory. Issuing a token reads them without waiting.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap, hash_map::Entry},
    mem,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::{
    ClientIdDigest, DenialSource, RecordOutcome, Restriction, RestrictionKind, StoreError, StoreLimits, Subject,
    restriction::{RestrictionKey, Terms, Topic},
};
use crate::{clerk::Session, clock::UnixMillis, tenant::TenantName};

/// The restrictions that a replica knows.
#[derive(Debug)]
pub struct Restrictions {
    limits: StoreLimits,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    terms: HashMap<Arc<RestrictionKey>, Terms>,
    /// By their expiry.
    active: BTreeSet<(UnixMillis, Arc<RestrictionKey>)>,
    /// Not active, remembered for their timestamps; by when they are forgotten.
    inactive: BTreeSet<(UnixMillis, Arc<RestrictionKey>)>,
    /// Not applied for lack of room, and stored nowhere else.
    waiting: HashMap<Arc<RestrictionKey>, Terms>,
    /// The latest expiry of those that could not even wait.
    dropped_until: Option<UnixMillis>,
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

/// A user's client ID by the last event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CurrentClientId {
    /// `None`: the user has none.
    pub(crate) client_id: Option<ClientIdDigest>,
    /// The event's timestamp.
    pub(crate) at: UnixMillis,
    until: UnixMillis,
}

impl CurrentClientId {
    /// Whether it is this client ID.
    pub(crate) fn is(&self, client_id: &str) -> bool {
        self.client_id == Some(ClientIdDigest::of(client_id))
    }
}

impl Restrictions {
    pub(super) fn new(limits: &StoreLimits) -> Self {
        Self { limits: *limits, known: RwLock::default() }
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
        key.topic = Topic::ClientId;
        let current = known.client_id(&key).filter(|current| current.until > now && session.issued_at <= current.at);
        let mut outdated = current.zip(client_id).is_some_and(|(current, client_id)| !current.is(client_id));
        if let Some(organization) = &session.organization {
            key.topic = Topic::Rights;
            key.subject = Subject::Member { user: session.user_id.clone(), organization: organization.id.clone() };
            outdated |= known.is_marked(&key, session.issued_at, now);
            key.subject = Subject::Organization(organization.id.clone());
            outdated |= known.is_marked(&key, session.issued_at, now);
        }
        if outdated { Verdict::Outdated } else { Verdict::Clear }
    }

    /// A user's client ID by the last event, expired or not.
    pub(crate) fn client_id(&self, tenant: &TenantName, user: &str) -> Option<CurrentClientId> {
        let subject = Subject::User(user.to_owned());
        self.read().client_id(&RestrictionKey { tenant: tenant.clone(), subject, topic: Topic::ClientId })
    }

    /// Whether a source denies a session or a user.
    #[must_use]
    pub fn denies(&self, tenant: &TenantName, subject: &Subject, source: DenialSource, now: UnixMillis) -> bool {
        self.denial(tenant, subject, source).is_some_and(|denial| denial.is_active(now))
    }

    /// Whether a source lifted its denial of a session or a user after `at`, even if the denial has expired since.
    #[must_use]
    pub fn is_lifted_since(
        &self,
        tenant: &TenantName,
        subject: &Subject,
        source: DenialSource,
        at: UnixMillis,
    ) -> bool {
        self.denial(tenant, subject, source)
            .is_some_and(|denial| denial.kind == RestrictionKind::Lifted(source) && denial.at > at)
    }

    fn denial(&self, tenant: &TenantName, subject: &Subject, source: DenialSource) -> Option<Terms> {
        let topic = Topic::Denial(source);
        let key = RestrictionKey { tenant: tenant.clone(), subject: subject.clone(), topic };
        self.read().terms.get(&key).copied()
    }

    /// Whether there is room for another denial or mark, and no denial or mark waits for room.
    #[must_use]
    pub fn has_room(&self, now: UnixMillis) -> bool {
        let known = self.read();
        (known.active.len() < self.limits.restrictions || known.active.first().is_some_and(|(end, _)| *end <= now))
            && !known.waiting.values().any(|waiting| waiting.is_active(now))
            && known.dropped_until.is_none_or(|until| until <= now)
    }

    /// How many denials and marks are active, or were until lately.
    #[must_use]
    pub fn count(&self) -> usize {
        self.read().active.len()
    }

    pub(super) fn count_active(&self, now: UnixMillis) -> usize {
        let known = self.read();
        // Expired ones are few: the next restriction removes them.
        known.active.len() - known.active.iter().take_while(|(end, _)| *end <= now).count()
    }

    /// Applies a restriction, unless it yields to a known one.
    pub(super) fn apply(&self, restriction: &Restriction, now: UnixMillis) -> Result<RecordOutcome, StoreError> {
        let (key, new) = (Arc::new(restriction.key()), restriction.terms());
        let mut known = self.write();
        known.expire(now, &self.limits);
        let outcome = known.apply(Arc::clone(&key), new, now, &self.limits)?;
        if known.waiting.get(&key).is_some_and(|waiting| waiting.compare(&new) != Ordering::Greater) {
            known.waiting.remove(&key);
        }
        known.expire(now, &self.limits);
        Ok(outcome)
    }

    /// As [`Self::apply`], for a restriction that is stored nowhere else: without room it waits, and until it is applied
    /// there is no room for others. If it cannot even wait, its expiry is kept.
    pub(super) fn apply_or_wait(
        &self,
        restriction: &Restriction,
        now: UnixMillis,
    ) -> Result<RecordOutcome, StoreError> {
        let applied = self.apply(restriction, now);
        if applied.is_err() {
            self.write().wait(Arc::new(restriction.key()), restriction.terms(), self.limits.waiting);
        }
        applied
    }

    /// Applies the waiting restrictions that there is room for now, and returns them.
    pub(super) fn apply_waiting(&self, now: UnixMillis) -> Vec<Restriction> {
        if self.read().waiting.is_empty() {
            return Vec::new();
        }
        let mut known = self.write();
        known.expire(now, &self.limits);
        let mut applied = Vec::new();
        for (key, new) in mem::take(&mut known.waiting) {
            match known.apply(Arc::clone(&key), new, now, &self.limits) {
                Ok(RecordOutcome::Outdated) => {}
                Ok(RecordOutcome::New | RecordOutcome::Repeated) => applied.push(key.with(new)),
                Err(_) => _ = known.waiting.insert(key, new),
            }
        }
        known.expire(now, &self.limits);
        applied
    }

    pub(super) fn waiting(&self) -> Vec<Restriction> {
        self.read().waiting.iter().map(|(key, terms)| key.with(*terms)).collect()
    }

    /// The known restriction that `restriction` yields to.
    pub(super) fn newer_than(&self, restriction: &Restriction) -> Option<Restriction> {
        let key = restriction.key();
        let known = *self.read().terms.get(&key)?;
        (known.compare(&restriction.terms()) == Ordering::Greater).then(|| key.with(known))
    }

    pub(super) fn active(&self, now: UnixMillis) -> Vec<Restriction> {
        let known = self.read();
        let active = known.active.iter().filter(|(end, _)| *end > now);
        active.filter_map(|(_, key)| known.terms.get(key).map(|terms| key.with(*terms))).collect()
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
            self.terms.get(&*key).is_some_and(|terms| terms.is_active(now))
        })
    }

    fn client_id(&self, key: &RestrictionKey) -> Option<CurrentClientId> {
        let Terms { kind, at, until } = *self.terms.get(key)?;
        if let RestrictionKind::ClientId(client_id) = kind {
            Some(CurrentClientId { client_id, at, until })
        } else {
            None
        }
    }

    fn is_marked(&self, key: &RestrictionKey, issued_at: UnixMillis, now: UnixMillis) -> bool {
        self.terms.get(key).is_some_and(|mark| mark.is_active(now) && issued_at <= mark.at)
    }

    /// Applies a restriction, unless it yields to the known one with its key.
    fn apply(
        &mut self,
        key: Arc<RestrictionKey>,
        new: Terms,
        now: UnixMillis,
        limits: &StoreLimits,
    ) -> Result<RecordOutcome, StoreError> {
        let old = self.terms.get(&key).copied();
        let outcome = RecordOutcome::of(old, new);
        if old.is_some_and(|old| old.compare(&new) != Ordering::Less) {
            return Ok(outcome);
        }
        let takes_room = new.is_active(now) && !old.is_some_and(|old| old.is_active(now));
        if takes_room && self.active.len() >= limits.restrictions {
            return Err(StoreError::Full);
        }
        if let Some(old) = old {
            self.active.remove(&(old.until, Arc::clone(&key)));
            self.inactive.remove(&(old.remembered_until(), Arc::clone(&key)));
        }
        if new.is_active(now) {
            self.active.insert((new.until, Arc::clone(&key)));
        } else {
            self.inactive.insert((new.remembered_until(), Arc::clone(&key)));
        }
        self.terms.insert(key, new);
        Ok(outcome)
    }

    fn wait(&mut self, key: Arc<RestrictionKey>, new: Terms, max: usize) {
        let waiting = self.waiting.len();
        match self.waiting.entry(key) {
            Entry::Occupied(mut old) if old.get().compare(&new) == Ordering::Less => _ = old.insert(new),
            Entry::Occupied(_) => {}
            Entry::Vacant(entry) if waiting < max => _ = entry.insert(new),
            Entry::Vacant(_) => self.dropped_until = self.dropped_until.max(Some(new.until)),
        }
    }

    /// Makes expired restrictions inactive, and forgets inactive ones when their time or the room for them is over.
    fn expire(&mut self, now: UnixMillis, limits: &StoreLimits) {
        while let Some((end, key)) = self.active.pop_first() {
            if end > now {
                self.active.insert((end, key));
                break;
            }
            if let Some(terms) = self.terms.get(&key) {
                self.inactive.insert((terms.remembered_until(), key));
            }
        }
        while let Some((end, key)) = self.inactive.pop_first() {
            if end > now && self.inactive.len() < limits.remembered {
                self.inactive.insert((end, key));
                break;
            }
            self.terms.remove(&key);
        }
    }
}

//! The restrictions that a replica knows, in memory. The issuing path reads them without waiting for anything.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap, hash_map::Entry},
    mem,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::{
    Bounds, ClientIdDigest, DenialSource, Recorded, Restriction, RestrictionKind, StoreError, Subject,
    restriction::{RestrictionKey, Terms, Topic},
};
use crate::{clerk::Session, clock::UnixMillis, tenant::TenantName};

/// What is known of who is refused.
#[derive(Debug)]
pub struct Restrictions {
    most: usize,
    most_remembered: usize,
    most_refused: usize,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    terms: HashMap<Arc<RestrictionKey>, Terms>,
    /// Those that hold, by their end.
    holding: BTreeSet<(UnixMillis, Arc<RestrictionKey>)>,
    /// Those that do not hold, and are remembered for their timestamps, by when they are forgotten.
    over: BTreeSet<(UnixMillis, Arc<RestrictionKey>)>,
    /// Those that there was no room for, and that are nowhere else.
    refused: HashMap<Arc<RestrictionKey>, Terms>,
    /// When the last is over of those that there was no room for even among these.
    forgotten_until: Option<UnixMillis>,
}

/// What the restrictions say of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Clear,
    /// The session or its user is refused.
    Denied,
    /// The session token tells of rights or a name that the user had before: a newer one is needed.
    Outdated,
}

/// What an event told of a user's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CurrentClientId {
    /// What the user's client ID is by it.
    pub(crate) client_id: Option<ClientIdDigest>,
    /// The event's timestamp.
    pub(crate) at: UnixMillis,
    /// When it ends to refuse anybody.
    until: UnixMillis,
}

impl CurrentClientId {
    /// Whether it is this client ID.
    pub(crate) fn is(&self, client_id: &str) -> bool {
        self.client_id == Some(ClientIdDigest::of(client_id))
    }
}

impl Restrictions {
    pub(super) fn new(bounds: &Bounds) -> Self {
        Self {
            most: bounds.restrictions,
            most_remembered: bounds.remembered,
            most_refused: bounds.refused,
            known: RwLock::default(),
        }
    }

    /// What there is against a session of a tenant, and against the client ID that its token gives, once that is known.
    #[must_use]
    pub fn verdict(&self, tenant: &TenantName, session: &Session, client_id: Option<&str>, now: UnixMillis) -> Verdict {
        let known = self.read();
        let mut key = RestrictionKey {
            tenant: tenant.clone(),
            subject: Subject::Session(session.session_id.clone()),
            topic: Topic::Denial(DenialSource::Clerk),
        };
        let user = Subject::User(session.user_id.clone());
        if known.is_denied(&mut key, now) {
            return Verdict::Denied;
        }
        key.subject = user;
        if known.is_denied(&mut key, now) {
            return Verdict::Denied;
        }
        key.topic = Topic::Name;
        let name = known.name(&key).filter(|name| name.until > now && session.issued_at <= name.at);
        let mut outdated = name.zip(client_id).is_some_and(|(name, client_id)| !name.is(client_id));
        key.topic = Topic::Rights;
        outdated |= known.is_marked(&key, session.issued_at, now);
        if let Some(organization) = &session.organization {
            key.subject = Subject::Member { user: session.user_id.clone(), organization: organization.id.clone() };
            outdated |= known.is_marked(&key, session.issued_at, now);
            key.subject = Subject::Organization(organization.id.clone());
            outdated |= known.is_marked(&key, session.issued_at, now);
        }
        if outdated { Verdict::Outdated } else { Verdict::Clear }
    }

    /// What the last event about a user's name told, however long ago.
    pub(crate) fn name(&self, tenant: &TenantName, user: &str) -> Option<CurrentClientId> {
        let subject = Subject::User(user.to_owned());
        self.read().name(&RestrictionKey { tenant: tenant.clone(), subject, topic: Topic::Name })
    }

    /// Whether a session or a user is refused, by Clerk or by an operator.
    #[must_use]
    pub fn denies(&self, tenant: &TenantName, subject: &Subject, now: UnixMillis) -> bool {
        let mut key = RestrictionKey {
            tenant: tenant.clone(),
            subject: subject.clone(),
            topic: Topic::Denial(DenialSource::Clerk),
        };
        self.read().is_denied(&mut key, now)
    }

    /// Whether a denial of a session or a user by `source` was lifted after `at`, however long ago it would have ended.
    #[must_use]
    pub fn is_lifted_since(
        &self,
        tenant: &TenantName,
        subject: &Subject,
        source: DenialSource,
        at: UnixMillis,
    ) -> bool {
        let key = RestrictionKey { tenant: tenant.clone(), subject: subject.clone(), topic: Topic::Denial(source) };
        let known = self.read();
        known.terms.get(&key).is_some_and(|known| known.kind == RestrictionKind::Lifted(source) && known.at > at)
    }

    /// Whether one more denial or mark can be stored, and none waits for room.
    #[must_use]
    pub fn has_room(&self, now: UnixMillis) -> bool {
        let known = self.read();
        (known.holding.len() < self.most || known.holding.first().is_some_and(|(end, _)| *end <= now))
            && !known.refused.values().any(|refused| refused.holds(now))
            && known.forgotten_until.is_none_or(|until| until <= now)
    }

    /// How many denials and marks hold, or did until lately.
    #[must_use]
    pub fn count(&self) -> usize {
        self.read().holding.len()
    }

    /// How many denials and marks hold.
    pub(super) fn count_holding(&self, now: UnixMillis) -> usize {
        let known = self.read();
        // Those that are over are few: the next restriction that comes clears them away.
        known.holding.len() - known.holding.iter().take_while(|(end, _)| *end <= now).count()
    }

    /// Takes a restriction, unless one is known that it yields to.
    pub(super) fn learn(&self, restriction: &Restriction, now: UnixMillis) -> Result<Recorded, StoreError> {
        let key = Arc::new(restriction.key());
        let new = restriction.terms();
        let mut known = self.write();
        known.settle(now, self.most_remembered);
        let old = known.terms.get(&key).copied();
        let recorded = outcome(old, new);
        if old.is_some_and(|old| old.order(&new) != Ordering::Less) {
            return Ok(recorded);
        }
        let takes_room = new.holds(now) && !old.is_some_and(|old| old.holds(now));
        if takes_room && known.holding.len() >= self.most {
            return Err(StoreError::Full);
        }
        if known.refused.get(&key).is_some_and(|refused| refused.order(&new) != Ordering::Greater) {
            known.refused.remove(&key);
        }
        known.put(key, old, new, now);
        known.settle(now, self.most_remembered);
        Ok(recorded)
    }

    /// As [`Self::learn`], for a restriction that is nowhere else: one that there is no room for waits until there is, and there
    /// is no room for others before. Of one that cannot even wait only the end is noted.
    pub(super) fn learn_or_queue(&self, restriction: &Restriction, now: UnixMillis) -> Result<Recorded, StoreError> {
        let learned = self.learn(restriction, now);
        if learned.is_err() {
            self.write().queue(Arc::new(restriction.key()), restriction.terms(), self.most_refused);
        }
        learned
    }

    /// Takes what waited, as far as there is room, and returns it. To be called before it is asked whether there is room.
    pub(super) fn take_queued(&self, now: UnixMillis) -> Vec<Restriction> {
        if self.read().refused.is_empty() {
            return Vec::new();
        }
        let mut known = self.write();
        known.settle(now, self.most_remembered);
        let mut taken = Vec::new();
        for (key, new) in mem::take(&mut known.refused) {
            let old = known.terms.get(&key).copied();
            let takes_room = new.holds(now) && !old.is_some_and(|old| old.holds(now));
            if old.is_some_and(|old| old.order(&new) != Ordering::Less) {
                continue;
            }
            if takes_room && known.holding.len() >= self.most {
                known.refused.insert(key, new);
            } else {
                taken.push(key.with(new));
                known.put(key, old, new, now);
            }
        }
        known.settle(now, self.most_remembered);
        taken
    }

    /// What waits for room.
    pub(super) fn waiting(&self) -> Vec<Restriction> {
        self.read().refused.iter().map(|(key, terms)| key.with(*terms)).collect()
    }

    /// What is known about the subject of `restriction`, if `restriction` yields to it.
    pub(super) fn newer_than(&self, restriction: &Restriction) -> Option<Restriction> {
        let key = restriction.key();
        let known = *self.read().terms.get(&key)?;
        (known.order(&restriction.terms()) == Ordering::Greater).then(|| key.with(known))
    }

    /// All that hold.
    pub(super) fn holding(&self, now: UnixMillis) -> Vec<Restriction> {
        let known = self.read();
        let holding = known.holding.iter().filter(|(end, _)| *end > now);
        holding.filter_map(|(_, key)| known.terms.get(key).map(|terms| key.with(*terms))).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What becomes of `new` where `old` is known.
pub(super) fn outcome(old: Option<Terms>, new: Terms) -> Recorded {
    match old {
        Some(old) if old.is_same_event(&new) => Recorded::Repeated,
        Some(old) if old.order(&new) == Ordering::Greater => Recorded::Outdated,
        _ => Recorded::New,
    }
}

impl Known {
    fn is_denied(&self, key: &mut RestrictionKey, now: UnixMillis) -> bool {
        [DenialSource::Clerk, DenialSource::Operator].into_iter().any(|source| {
            key.topic = Topic::Denial(source);
            self.terms.get(&*key).is_some_and(|terms| terms.holds(now))
        })
    }

    fn name(&self, key: &RestrictionKey) -> Option<CurrentClientId> {
        let Terms { kind, at, until } = *self.terms.get(key)?;
        if let RestrictionKind::ClientId(client_id) = kind {
            Some(CurrentClientId { client_id, at, until })
        } else {
            None
        }
    }

    fn is_marked(&self, key: &RestrictionKey, issued_at: UnixMillis, now: UnixMillis) -> bool {
        self.terms.get(key).is_some_and(|mark| mark.holds(now) && issued_at <= mark.at)
    }

    fn put(&mut self, key: Arc<RestrictionKey>, old: Option<Terms>, new: Terms, now: UnixMillis) {
        if let Some(old) = old {
            self.holding.remove(&(old.until, Arc::clone(&key)));
            self.over.remove(&(old.remembered_until(), Arc::clone(&key)));
        }
        if new.holds(now) {
            self.holding.insert((new.until, Arc::clone(&key)));
        } else {
            self.over.insert((new.remembered_until(), Arc::clone(&key)));
        }
        self.terms.insert(key, new);
    }

    fn queue(&mut self, key: Arc<RestrictionKey>, new: Terms, most: usize) {
        let waiting = self.refused.len();
        match self.refused.entry(key) {
            Entry::Occupied(mut old) if old.get().order(&new) == Ordering::Less => _ = old.insert(new),
            Entry::Occupied(_) => {}
            Entry::Vacant(place) if waiting < most => _ = place.insert(new),
            Entry::Vacant(_) => self.forgotten_until = self.forgotten_until.max(Some(new.until)),
        }
    }

    /// Lets go of what is over: first of its effect, then of its timestamp.
    fn settle(&mut self, now: UnixMillis, most_remembered: usize) {
        while let Some((end, key)) = self.holding.pop_first() {
            if end > now {
                self.holding.insert((end, key));
                break;
            }
            if let Some(terms) = self.terms.get(&key) {
                self.over.insert((terms.remembered_until(), key));
            }
        }
        while let Some((end, key)) = self.over.pop_first() {
            if end > now && self.over.len() < most_remembered {
                self.over.insert((end, key));
                break;
            }
            self.terms.remove(&key);
        }
    }
}

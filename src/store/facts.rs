//! The facts that a replica knows, in memory. The issuing path reads them without waiting for anything.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap, hash_map::Entry},
    mem,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::{
    Bounds, ClientIdDigest, Fact, Recorded, Ruling, Source, StoreError, Subject,
    fact::{Key, Statement, Topic},
};
use crate::{clerk::Session, clock::UnixMillis, tenant::TenantName};

/// What is known of who is refused.
#[derive(Debug)]
pub struct Facts {
    most: usize,
    most_remembered: usize,
    most_refused: usize,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    statements: HashMap<Arc<Key>, Statement>,
    /// Those that hold, by their end.
    holding: BTreeSet<(UnixMillis, Arc<Key>)>,
    /// Those that do not hold, and are remembered for their timestamps, by when they are forgotten.
    over: BTreeSet<(UnixMillis, Arc<Key>)>,
    /// Those that there was no room for, and that are nowhere else.
    refused: HashMap<Arc<Key>, Statement>,
    /// When the last is over of those that there was no room for even among these.
    forgotten_until: Option<UnixMillis>,
}

/// What the facts say of a session.
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
pub(crate) struct Named {
    /// What the user's client ID is by it.
    pub(crate) client_id: Option<ClientIdDigest>,
    /// The event's timestamp.
    pub(crate) at: UnixMillis,
    /// When it ends to refuse anybody.
    until: UnixMillis,
}

impl Named {
    /// Whether it is this client ID.
    pub(crate) fn is(&self, client_id: &str) -> bool {
        self.client_id == Some(ClientIdDigest::of(client_id))
    }
}

impl Facts {
    pub(super) fn new(bounds: &Bounds) -> Self {
        Self {
            most: bounds.facts,
            most_remembered: bounds.remembered,
            most_refused: bounds.refused,
            known: RwLock::default(),
        }
    }

    /// What there is against a session of a tenant, and against the client ID that its token gives, once that is known.
    #[must_use]
    pub fn verdict(&self, tenant: &TenantName, session: &Session, client_id: Option<&str>, now: UnixMillis) -> Verdict {
        let known = self.read();
        let mut key = Key {
            tenant: tenant.clone(),
            subject: Subject::Session(session.session_id.clone()),
            topic: Topic::Denial(Source::Clerk),
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
    pub(crate) fn name(&self, tenant: &TenantName, user: &str) -> Option<Named> {
        let subject = Subject::User(user.to_owned());
        self.read().name(&Key { tenant: tenant.clone(), subject, topic: Topic::Name })
    }

    /// Whether a session or a user is refused, by Clerk or by an operator.
    #[must_use]
    pub fn denies(&self, tenant: &TenantName, subject: &Subject, now: UnixMillis) -> bool {
        let mut key = Key { tenant: tenant.clone(), subject: subject.clone(), topic: Topic::Denial(Source::Clerk) };
        self.read().is_denied(&mut key, now)
    }

    /// Whether a denial of a session or a user by `source` was lifted after `at`, however long ago it would have ended.
    #[must_use]
    pub fn is_lifted_since(&self, tenant: &TenantName, subject: &Subject, source: Source, at: UnixMillis) -> bool {
        let key = Key { tenant: tenant.clone(), subject: subject.clone(), topic: Topic::Denial(source) };
        let known = self.read();
        known.statements.get(&key).is_some_and(|known| known.ruling == Ruling::Lifted(source) && known.at > at)
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
        // Those that are over are few: the next fact that comes clears them away.
        known.holding.len() - known.holding.iter().take_while(|(end, _)| *end <= now).count()
    }

    /// Takes a fact, unless one is known that it yields to.
    pub(super) fn learn(&self, fact: &Fact, now: UnixMillis) -> Result<Recorded, StoreError> {
        let key = Arc::new(fact.key());
        let new = fact.statement();
        let mut known = self.write();
        known.settle(now, self.most_remembered);
        let old = known.statements.get(&key).copied();
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

    /// As [`Self::learn`], for a fact that is nowhere else: one that there is no room for waits until there is, and there
    /// is no room for others before. Of one that cannot even wait only the end is noted.
    pub(super) fn learn_or_let_wait(&self, fact: &Fact, now: UnixMillis) -> Result<Recorded, StoreError> {
        let learned = self.learn(fact, now);
        if learned.is_err() {
            self.write().let_wait(Arc::new(fact.key()), fact.statement(), self.most_refused);
        }
        learned
    }

    /// Takes what waited, as far as there is room, and returns it. To be called before it is asked whether there is room.
    pub(super) fn take_what_waits(&self, now: UnixMillis) -> Vec<Fact> {
        if self.read().refused.is_empty() {
            return Vec::new();
        }
        let mut known = self.write();
        known.settle(now, self.most_remembered);
        let mut taken = Vec::new();
        for (key, new) in mem::take(&mut known.refused) {
            let old = known.statements.get(&key).copied();
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
    pub(super) fn waiting(&self) -> Vec<Fact> {
        self.read().refused.iter().map(|(key, statement)| key.with(*statement)).collect()
    }

    /// What is known about the subject of `fact`, if `fact` yields to it.
    pub(super) fn newer_than(&self, fact: &Fact) -> Option<Fact> {
        let key = fact.key();
        let known = *self.read().statements.get(&key)?;
        (known.order(&fact.statement()) == Ordering::Greater).then(|| key.with(known))
    }

    /// All that hold.
    pub(super) fn holding(&self, now: UnixMillis) -> Vec<Fact> {
        let known = self.read();
        let holding = known.holding.iter().filter(|(end, _)| *end > now);
        holding.filter_map(|(_, key)| known.statements.get(key).map(|statement| key.with(*statement))).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What becomes of `new` where `old` is known.
pub(super) fn outcome(old: Option<Statement>, new: Statement) -> Recorded {
    match old {
        Some(old) if old.is_same_event(&new) => Recorded::Repeated,
        Some(old) if old.order(&new) == Ordering::Greater => Recorded::Outdated,
        _ => Recorded::New,
    }
}

impl Known {
    fn is_denied(&self, key: &mut Key, now: UnixMillis) -> bool {
        [Source::Clerk, Source::Operator].into_iter().any(|source| {
            key.topic = Topic::Denial(source);
            self.statements.get(&*key).is_some_and(|statement| statement.holds(now))
        })
    }

    fn name(&self, key: &Key) -> Option<Named> {
        let Statement { ruling, at, until } = *self.statements.get(key)?;
        if let Ruling::Named(client_id) = ruling { Some(Named { client_id, at, until }) } else { None }
    }

    fn is_marked(&self, key: &Key, issued_at: UnixMillis, now: UnixMillis) -> bool {
        self.statements.get(key).is_some_and(|mark| mark.holds(now) && issued_at <= mark.at)
    }

    fn put(&mut self, key: Arc<Key>, old: Option<Statement>, new: Statement, now: UnixMillis) {
        if let Some(old) = old {
            self.holding.remove(&(old.until, Arc::clone(&key)));
            self.over.remove(&(old.remembered_until(), Arc::clone(&key)));
        }
        if new.holds(now) {
            self.holding.insert((new.until, Arc::clone(&key)));
        } else {
            self.over.insert((new.remembered_until(), Arc::clone(&key)));
        }
        self.statements.insert(key, new);
    }

    fn let_wait(&mut self, key: Arc<Key>, new: Statement, most: usize) {
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
            if let Some(statement) = self.statements.get(&key) {
                self.over.insert((statement.remembered_until(), key));
            }
        }
        while let Some((end, key)) = self.over.pop_first() {
            if end > now && self.over.len() < most_remembered {
                self.over.insert((end, key));
                break;
            }
            self.statements.remove(&key);
        }
    }
}

//! The restrictions that a replica knows, in memory. Issuing a token reads them without waiting.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use parking_lot::RwLock;

use super::{
    ClientIdDigest, DenialSource, RecordOutcome, Restriction, RestrictionKind, StoreLimits, Subject, Topic,
    restriction::{RestrictionKey, SubjectKey},
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
    restrictions: BTreeMap<RestrictionKey, Restriction>,
    /// By their end.
    unended: BTreeSet<(UnixMillis, RestrictionKey)>,
    /// By their end.
    ended: BTreeSet<(UnixMillis, RestrictionKey)>,
    /// Those that Redis may lack.
    unrecorded: BTreeSet<RestrictionKey>,
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
        let known = self.known.read();
        let organization = session.organization.as_ref().map(|organization| &*organization.id);
        let subjects = Subject::of_session(&session.user_id, &session.session_id, organization);
        let about = subjects.flat_map(|subject| known.about(SubjectKey::of(tenant, &subject)));
        let mut verdict = Verdict::Clear;
        for active in about.filter(|restriction| restriction.is_active(now)) {
            let is_older = session.issued_at <= active.at;
            let is_other = |latest| client_id.is_some_and(|id| latest != Some(ClientIdDigest::of(id)));
            match active.kind {
                RestrictionKind::Denied(_) | RestrictionKind::Deleted => return Verdict::Denied,
                RestrictionKind::NotBefore if is_older => verdict = Verdict::Outdated,
                RestrictionKind::ClientId(latest) if is_older && is_other(latest) => verdict = Verdict::Outdated,
                _ => {}
            }
        }
        verdict
    }

    /// The restriction that counts, ended or not.
    #[must_use]
    pub fn latest(&self, tenant: &TenantName, subject: &Subject, topic: Topic) -> Option<Restriction> {
        self.known.read().restrictions.get(&(SubjectKey::of(tenant, subject), topic)).cloned()
    }

    pub(super) fn count_active(&self, now: UnixMillis) -> usize {
        let known = self.known.read();
        // Those that have ended are few: the next restriction moves them.
        known.unended.len() - known.unended.iter().take_while(|(end, _)| *end <= now).count()
    }

    /// Applies a restriction, unless it yields to a known one.
    pub(super) fn apply(&self, restriction: &Restriction, source: Source, now: UnixMillis) -> RecordOutcome {
        let key = restriction.key();
        let known = &mut *self.known.write();
        let old = known.restrictions.get(&key);
        let (outcome, order) = (RecordOutcome::of(old, restriction), old.map(|old| old.compare(restriction)));
        if order.is_none_or(Ordering::is_lt) {
            if let Some(old) = known.restrictions.insert(key, restriction.clone()) {
                known.unended.remove(&(old.until, key));
                known.ended.remove(&(old.until, key));
            }
            known.unended.insert((restriction.until, key));
        }
        if source == Source::Redis && order != Some(Ordering::Greater) {
            known.unrecorded.remove(&key);
        }
        known.forget(now, self.max_ended);
        outcome
    }

    /// Notes that Redis may lack the newest ones with the keys of these.
    pub(super) fn mark_unrecorded(&self, restrictions: &[Restriction]) {
        let Known { restrictions: known, unrecorded, .. } = &mut *self.known.write();
        unrecorded.extend(restrictions.iter().map(Restriction::key).filter(|key| known.contains_key(key)));
    }

    /// Notes that Redis may lack all of them.
    pub(super) fn mark_all_unrecorded(&self) {
        let Known { restrictions, unrecorded, .. } = &mut *self.known.write();
        *unrecorded = restrictions.keys().copied().collect();
    }

    /// Some of those that Redis may lack.
    pub(super) fn unrecorded(&self, max: usize) -> Vec<Restriction> {
        let known = self.known.read();
        known.unrecorded.iter().filter_map(|key| known.restrictions.get(key)).take(max).cloned().collect()
    }

    /// Those about these subjects.
    pub(super) fn about<'a>(&self, subjects: impl IntoIterator<Item = &'a SubjectKey>) -> Vec<Restriction> {
        let known = self.known.read();
        subjects.into_iter().flat_map(|subject| known.about(*subject)).cloned().collect()
    }

    /// How many Redis may lack.
    pub(super) fn count_unrecorded(&self) -> usize {
        self.known.read().unrecorded.len()
    }
}

impl Known {
    fn about(&self, subject: SubjectKey) -> impl Iterator<Item = &Restriction> {
        let of_any_topic = (subject, Topic::Denial(DenialSource::Clerk))..=(subject, Topic::ClientId);
        self.restrictions.range(of_any_topic).map(|(_, restriction)| restriction)
    }

    /// Forgets restrictions that ended over 48 hours ago, or exceed the limit of ended ones.
    fn forget(&mut self, now: UnixMillis, max_ended: usize) {
        while let Some(ended) = self.unended.first().copied().filter(|(end, _)| *end <= now) {
            self.unended.remove(&ended);
            self.ended.insert(ended);
        }
        while let Some((end, key)) = self.ended.first().copied()
            && (end.after(Restriction::REMEMBERED_FOR) <= now || self.ended.len() > max_ended)
        {
            self.ended.remove(&(end, key));
            self.restrictions.remove(&key);
            self.unrecorded.remove(&key);
        }
    }
}

//! What a replica decides on a request for a token: whether it may issue one, and whether it may refuse.

use ably_clerk_auth::{
    clock::UnixMillis,
    store::{ClientIdDigest, RestrictionKind},
    tenant::TenantName,
};

use super::{Checker, SLACK, Said, Statement, client_id_key, denial_keys, mark_keys, rank_of};
use crate::{clerk::SessionToken, clients::NameSource, faults::FaultLog, node::RowKey};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Clear,
    Denied,
    Outdated,
    /// The user has no username.
    Nameless,
    Unavailable,
    Full,
}

/// A request for a token.
pub(crate) struct Request {
    pub(crate) tenant: TenantName,
    pub(crate) token: SessionToken,
    pub(crate) client_id: Option<String>,
    pub(crate) source: NameSource,
    pub(crate) asked_at: UnixMillis,
}

/// What may decide at a replica: one of these facts, but not which.
struct Candidates<'a> {
    is_surely_any: bool,
    facts: Vec<Said<'a>>,
}

impl Said<'_> {
    fn is_surely_active(self, now: UnixMillis) -> bool {
        self.statement.ends.is_some_and(|(first, _)| now.after(SLACK) < first)
    }

    fn is_possibly_active(self, now: UnixMillis) -> bool {
        self.statement.ends.is_some_and(|(_, last)| now < last.after(SLACK))
    }

    /// Whether it refuses a session token while it is active.
    fn refuses(self, request: &Request) -> bool {
        let minted_before = request.token.session.issued_at <= self.fact.at;
        match self.fact.kind {
            RestrictionKind::Denied(_) | RestrictionKind::Deleted => true,
            RestrictionKind::Lifted(_) => false,
            RestrictionKind::NotBefore => minted_before,
            RestrictionKind::ClientId(digest) => {
                minted_before && request.client_id.as_ref().is_some_and(|id| digest != Some(ClientIdDigest::of(id)))
            }
        }
    }
}

impl Candidates<'_> {
    fn must_refuse(&self, request: &Request, now: UnixMillis) -> bool {
        self.is_surely_any && self.facts.iter().all(|said| said.refuses(request) && said.is_surely_active(now))
    }

    fn may_refuse(&self, request: &Request, now: UnixMillis) -> bool {
        self.facts.iter().any(|said| said.refuses(request) && said.is_possibly_active(now))
    }
}

impl Checker {
    /// Checks what a replica decided.
    pub(crate) fn decided(
        &mut self,
        request: &Request,
        run: usize,
        decision: Decision,
        faults: &FaultLog,
        end: UnixMillis,
    ) {
        let Request { tenant, token, asked_at, .. } = request;
        let session = &token.session;
        let organization = session.organization.as_ref().map(|organization| &organization.id);
        let denials = denial_keys(tenant, &session.session_id, &session.user_id);
        let marks = mark_keys(tenant, &session.user_id, organization);
        let candidates = |keys: &[RowKey]| -> Vec<Candidates<'_>> {
            keys.iter().map(|key| self.candidates(key, run, *asked_at, faults)).collect()
        };
        let violation = match decision {
            Decision::Clear => {
                let all = candidates(&[denials, marks].concat());
                let former = request.source == NameSource::Users && self.uses_former_name(request, run, faults);
                if all.iter().any(|candidates| candidates.must_refuse(request, end)) {
                    Some("1: a token was issued despite a restriction")
                } else {
                    former.then_some("3: a former name is used")
                }
            }
            Decision::Denied => {
                let is_justified = candidates(&denials).iter().any(|known| known.may_refuse(request, *asked_at));
                (!is_justified && !self.is_forgetful).then_some("3: somebody is denied whom nobody denies")
            }
            Decision::Outdated => {
                let is_justified = candidates(&marks).iter().any(|known| known.may_refuse(request, *asked_at));
                (!is_justified && !self.is_forgetful).then_some("3: a session token is refused as outdated that is not")
            }
            Decision::Nameless => {
                let former = request.source == NameSource::Users && self.uses_former_name(request, run, faults);
                former.then_some("3: a user who has a name again is refused for having none")
            }
            Decision::Unavailable => {
                let is_calm = faults.is_calm(*asked_at) && faults.is_calm(end);
                is_calm.then_some("5: a replica refuses without an outage")
            }
            Decision::Full => None,
        };
        if let Some(violation) = violation {
            let (session, minted, name) = (&session.session_id, session.issued_at.0, &request.client_id);
            self.violations.push(format!(
                "{violation}: run {run}, {session} of {tenant}, token minted at {minted}, client ID {name:?}, at {}",
                asked_at.0
            ));
        }
    }

    fn uses_former_name(&self, request: &Request, run: usize, faults: &FaultLog) -> bool {
        let key = client_id_key(&request.tenant, &request.token.session.user_id);
        let candidates = self.candidates(&key, run, request.asked_at, faults);
        let used = request.client_id.as_deref().map(ClientIdDigest::of);
        let is_former = |said: &Said<'_>| matches!(said.fact.kind, RestrictionKind::ClientId(digest) if digest != used);
        // A look-up may find a name, or none, that no replica was told yet.
        let is_ahead = self
            .facts_with(&key)
            .filter(|said| said.statement.ends.is_none())
            .any(|Said { fact, .. }| matches!(fact.kind, RestrictionKind::ClientId(digest) if digest == used));
        candidates.is_surely_any && candidates.facts.iter().all(is_former) && !is_ahead
    }

    /// Which facts may decide for a run at a time. It surely knows what it was told, and what was accepted long enough ago.
    fn candidates(&self, key: &RowKey, run: usize, time: UnixMillis, faults: &FaultLog) -> Candidates<'_> {
        let said = self.said(key);
        // A run reads what was recorded before it started.
        let is_read = |statement: &Statement| {
            let is_before = statement.accepted.is_some_and(|accepted| accepted < self.started[&run]);
            let is_kept = statement.first_told_at.is_some_and(|told| self.last_loss.is_none_or(|loss| loss < told));
            statement.is_recorded && is_before && is_kept && self.splits == 0
        };
        let is_surely_known = |said: &&Said<'_>| {
            let statement = said.statement;
            let is_told = statement.told.get(&run).is_some_and(|told| *told <= time);
            let is_heard = statement.accepted.is_some_and(|accepted| faults.is_heard_by_all(accepted, time));
            is_told || (is_heard || is_read(statement)) && !statement.is_lost
        };
        let surely = said.iter().filter(is_surely_known).map(|said| rank_of(said.fact)).max();
        let facts = said.into_iter().filter(|said| surely.is_none_or(|surely| rank_of(said.fact) >= surely)).collect();
        Candidates { is_surely_any: surely.is_some(), facts }
    }
}

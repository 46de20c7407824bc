//! What has to be revoked at Ably, by when, and what must not be.

use std::time::Duration;

use ably_clerk_auth::{
    ably::{ReauthMargin, Target, TokenFormat},
    clock::UnixMillis,
    store::{ClientIdDigest, DenialSource, LiveToken, Restriction, RestrictionKind, Subject},
};

use super::{
    Checker, IssuedToken, REVOKES_AGAIN_AFTER, SLACK, Said, Statement, concerns, denial_keys, mark_keys, rank_of,
};
use crate::{ably::Revoked, faults::FaultLog, node::row_key, work};

fn is_work(revoked: &Revoked) -> bool {
    matches!(&revoked.target, Target::ClientId(id) if work::is_client_id(id.as_str()))
}

fn is_target(live_token: &LiveToken, target: &Target) -> bool {
    match target {
        Target::ClientId(client_id) => live_token.client_id == client_id.as_str(),
        Target::RevocationKey(key) => live_token.format == TokenFormat::Jwt && live_token.session == key.as_str(),
    }
}

impl IssuedToken {
    fn is_revoked(&self, ably: &[Revoked]) -> bool {
        let Some((dated, _)) = self.at_ably else { return true };
        ably.iter().any(|revoked| {
            revoked.tenant == self.live_token.tenant
                && revoked.key == self.live_token.key
                && dated < revoked.at
                && is_target(&self.live_token, &revoked.target)
        })
    }
}

impl Checker {
    /// Whether an update gives the name of the update before, by Clerk's order. It ends nothing anew.
    fn repeats_name(&self, fact: &Restriction) -> bool {
        let said = self.said(&row_key(fact));
        let before = said.iter().filter(|said| said.fact.at < fact.at).max_by_key(|said| said.fact.at);
        matches!(fact.kind, RestrictionKind::ClientId(_)) && before.is_some_and(|said| said.fact.kind == fact.kind)
    }

    /// Checks that what the first revocation can reach does not wait for the second: tokens from before their statement, and
    /// those that a replica issued long after it, during an outage.
    pub(crate) fn check_first_revocations(&mut self, ably: &[Revoked], faults_until: UnixMillis, now: UnixMillis) {
        const HEARD_WITHIN: Duration = Duration::from_secs(4);
        if self.is_forgetful {
            return;
        }
        let find = |token: &IssuedToken| {
            let (dated, _) = token.at_ably?;
            if dated >= faults_until {
                return None;
            }
            let is_reached = |statement: &Statement| {
                let is_before = statement.first_told_at.is_some_and(|told| dated < told && token.signed_at < told)
                    && !statement.facts.iter().any(|fact| self.repeats_name(fact));
                let is_long_after =
                    statement.accepted.is_some_and(|accepted| accepted.after(HEARD_WITHIN) < token.signed_at);
                // An update may repeat a name, which ends nothing anew.
                let is_update = statement.facts.len() > 1;
                // Redis gets a token that it lost when the replica that has it returns, unless it crashes before.
                let has_crashed = !statement.known_by.iter().all(|runs| runs.contains(&token.run));
                let is_told_here = statement.told.contains_key(&token.run) && !has_crashed;
                statement.accepted.is_some()
                    && (statement.told_in_confusion_at.is_none() || is_told_here)
                    && (is_before && (token.lost_by_redis_at.is_none() || is_told_here)
                        || !is_update && is_long_after && token.registered_since.is_none() && dated <= token.signed_at)
            };
            self.find_unrevoked(token, ably, now, is_reached)
        };
        let violations: Vec<_> = self.tokens.iter().filter_map(find).collect();
        self.violations.extend(violations.into_iter().map(|violation| format!("{violation}, at once")));
    }

    /// Checks that while everything works, what a statement ends is revoked when the service answers.
    pub(crate) fn check_answers(&mut self, ably: &[Revoked], faults: &FaultLog) {
        if self.is_forgetful {
            return;
        }
        let mut violations = Vec::new();
        for statement in self.statements.iter().filter(|statement| statement.facts.len() == 1) {
            let (Some(told), Some(accepted)) = (statement.first_told_at, statement.accepted) else { continue };
            let is_calm = faults.is_calm(told) && faults.is_calm(accepted) && statement.is_taken_at_once;
            if !is_calm || statement.told_in_confusion_at.is_some() {
                continue;
            }
            let revoked: Vec<_> = ably.iter().filter(|revoked| revoked.at <= accepted).cloned().collect();
            let is_reached = |token: &&IssuedToken| {
                let is_before = token.at_ably.is_some_and(|(dated, _)| dated < told) && token.signed_at < told;
                is_before && concerns(&statement.facts[0], &token.live_token)
            };
            let find = |token| self.find_unrevoked(token, &revoked, accepted, |top| std::ptr::eq(top, statement));
            violations.extend(self.tokens.iter().filter(is_reached).filter_map(find));
        }
        self.violations.extend(violations.into_iter().map(|violation| format!("{violation}, when it was answered")));
    }

    /// Checks that what was told while everything worked is revoked for good within the documented time.
    pub(crate) fn check_second_revocations(&mut self, ably: &[Revoked], faults: &FaultLog, now: UnixMillis) {
        const WITHIN: Duration = Duration::from_mins(3);
        let mut violations = Vec::new();
        for statement in self.statements.iter().filter(|_| !self.is_forgetful) {
            let (Some(told), Some(accepted)) = (statement.first_told_at, statement.accepted) else { continue };
            let end = accepted.after(WITHIN);
            if end < now && faults.is_calm(told) && !faults.is_disturbed(told, end) {
                let revoked: Vec<_> = ably.iter().filter(|revoked| revoked.at <= end).cloned().collect();
                let find = |token| self.find_unrevoked(token, &revoked, end, |top| std::ptr::eq(top, statement));
                violations.extend(self.tokens.iter().filter_map(find));
            }
        }
        self.violations.extend(violations.into_iter().map(|violation| format!("{violation}, within three minutes")));
    }

    /// Checks that a run that has had no Redis since `since` has revoked its own tokens twice despite what it was told.
    pub(crate) fn check_own_revocations(&mut self, ably: &[Revoked], run: usize, since: UnixMillis, now: UnixMillis) {
        const DONE_WITHIN: Duration = Duration::from_secs(15);
        if self.is_forgetful {
            return;
        }
        let find = |token: &IssuedToken| {
            let (dated, _) = token.at_ably?;
            let is_told = |statement: &Statement| {
                let told = statement.told.get(&run).filter(|told| since <= **told);
                let is_update = statement.facts.len() > 1;
                !is_update
                    && told.is_some_and(|told| {
                        dated < told.after(REVOKES_AGAIN_AFTER) && told.after(REVOKES_AGAIN_AFTER + DONE_WITHIN) < now
                    })
            };
            self.find_unrevoked(token, ably, now, is_told)
        };
        let violations: Vec<_> = self.tokens.iter().filter(|token| token.run == run).filter_map(find).collect();
        self.violations.extend(violations.into_iter().map(|violation| format!("{violation}, by its own replica")));
    }

    /// Why a token should have been revoked and was not.
    pub(super) fn find_unrevoked(
        &self,
        token: &IssuedToken,
        ably: &[Revoked],
        now: UnixMillis,
        is_reached_by: impl Fn(&Statement) -> bool,
    ) -> Option<String> {
        let (dated, ends) = token.at_ably?;
        if ends < now || token.is_revoked(ably) {
            return None;
        }
        let LiveToken { tenant, user, session, organization, client_id, .. } = &token.live_token;
        let mut keys = denial_keys(tenant, session, user);
        keys.extend(mark_keys(tenant, user, organization.as_ref()));
        for key in keys {
            let said = self.said(&key);
            let Some(top) = said.iter().max_by_key(|said| rank_of(said.fact)) else { continue };
            let are_tasks_lost =
                |statement: &Statement| [None, Some(token.run)].iter().any(|of| statement.lost_tasks.contains(of));
            let is_uncertain = !is_reached_by(top.statement)
                || said.iter().any(|said| said.statement.is_lost || are_tasks_lost(said.statement))
                || token.is_lost && !self.ends_unknown(top, token);
            if is_uncertain || !top.statement.is_about(client_id) {
                continue;
            }
            let is_signed_before = |end: UnixMillis| token.signed_at.after(SLACK) < end;
            let end = top.statement.ends.map_or(UnixMillis(0), |(first, _)| first);
            let is_against = match top.fact.kind {
                RestrictionKind::Lifted(_) => false,
                RestrictionKind::Denied(DenialSource::Operator) if top.statement.lasts <= REVOKES_AGAIN_AFTER => {
                    dated.after(Duration::from_millis(2100)) < top.statement.said_at
                }
                RestrictionKind::Denied(_) | RestrictionKind::Deleted => is_signed_before(end),
                RestrictionKind::NotBefore => token.minted <= top.fact.at && is_signed_before(end),
                RestrictionKind::ClientId(digest) => {
                    let others = said.iter().filter(|said| said.fact.kind != top.fact.kind);
                    let last_other = others.map(|said| rank_of(said.fact)).max();
                    // Since the last change of the name, maybe by several statements.
                    let first = said
                        .iter()
                        .filter(|said| said.fact.kind == top.fact.kind && Some(rank_of(said.fact)) > last_other)
                        .map(|said| said.statement.ends.map_or(UnixMillis(0), |(first, _)| first));
                    digest != Some(ClientIdDigest::of(client_id)) && is_signed_before(first.min().unwrap_or(end))
                }
            };
            if is_against {
                let by = self.statements.iter().position(|statement| std::ptr::eq(statement, top.statement));
                return Some(format!(
                    "2: not revoked: {:?} of run {}, signed at {}, dated {}, despite statement {by:?} {:?}",
                    token.live_token, token.run, token.signed_at.0, dated.0, top.fact
                ));
            }
        }
        None
    }

    /// Whether a statement ends even an unknown token: a request by client ID, the end of a session if it is a JWT, a ban if the
    /// user has always had this name, and tokens of one key only.
    fn ends_unknown(&self, said: &Said<'_>, token: &IssuedToken) -> bool {
        let Said { fact: Restriction { tenant, subject, kind, .. }, statement } = said;
        let ends = match subject {
            Subject::Session(_) => token.live_token.format == TokenFormat::Jwt,
            Subject::User(user) if *kind == RestrictionKind::Denied(DenialSource::Clerk) => {
                let mut of_user = self.registered.iter().filter(|known| known.tenant == *tenant && known.user == *user);
                self.names_of(tenant, user).len() == 1 && of_user.all(|known| known.key == token.live_token.key)
            }
            _ => false,
        };
        (ends || statement.client_id.is_some())
            && statement.is_taken_at_once
            && statement.told_in_confusion_at.is_none()
            && statement.first_told_at.is_some_and(|told| {
                token.signed_at < told
                    && token.at_ably.is_some_and(|(dated, _)| dated < told)
                    && self.last_loss.is_none_or(|loss| loss < told)
            })
    }

    /// Why Ably should not have revoked a target.
    pub(super) fn find_unjustified(&self, revoked: &Revoked, faults: &FaultLog) -> Option<String> {
        // A replica that learns late of a denial ends all tokens of its user.
        let is_its = |statement: &Statement| {
            matches!(&revoked.target, Target::ClientId(id) if statement.is_about(id.as_str()))
                || statement.client_id.is_none()
        };
        let is_justified = self.statements.iter().any(|statement| {
            statement.tenant == revoked.tenant
                && statement.said_at <= revoked.at
                && (is_its(statement) || faults.is_disturbed_or_recovering(statement.said_at, revoked.at))
                && statement.facts.iter().any(|fact| {
                    let may_be_undone = statement.client_id.is_none() || !statement.told.is_empty();
                    self.ends(fact, revoked) && !(may_be_undone && self.is_undone(fact, revoked, faults))
                })
        });
        (!is_justified && !is_work(revoked)).then(|| format!("3: revoked without a reason: {revoked:?}"))
    }

    /// Whether a fact ends tokens of a target, with this margin.
    fn ends(&self, fact: &Restriction, Revoked { tenant, key, target, margin, .. }: &Revoked) -> bool {
        let is_session = matches!(target, Target::RevocationKey(_));
        // JWTs of some sessions are revoked by the session.
        let has_token = |is_of: &dyn Fn(&LiveToken) -> bool| {
            let is_alone = |token: &LiveToken| token.key == *key && is_session == (token.format == TokenFormat::Jwt);
            let mut tokens = self.registered.iter().filter(|live_token| live_token.tenant == *tenant);
            tokens.any(|live_token| is_target(live_token, target) && is_alone(live_token) && is_of(live_token))
        };
        let is_name_of = |user: &String| {
            let Target::ClientId(client_id) = target else { return false };
            self.names.contains(&(tenant.clone(), user.clone(), Some(client_id.as_str().to_owned())))
        };
        let (ends, at_once) = match (&fact.subject, fact.kind) {
            (_, RestrictionKind::Lifted(_)) => (false, false),
            (Subject::User(user), RestrictionKind::ClientId(digest)) => {
                let is_other =
                    matches!(target, Target::ClientId(id) if digest != Some(ClientIdDigest::of(id.as_str())));
                (is_other && is_name_of(user), false)
            }
            (Subject::User(user), _) => (is_name_of(user), true),
            (Subject::Session(session), _) => {
                let is_it = matches!(target, Target::RevocationKey(key) if key.as_str() == session);
                (is_it || has_token(&|token| token.session == *session), is_session)
            }
            (Subject::Member { user, organization }, _) => {
                let is_of_member =
                    |token: &LiveToken| token.user == *user && token.organization.as_ref() == Some(organization);
                (has_token(&is_of_member), false)
            }
            (Subject::Organization(organization), _) => {
                (has_token(&|token| token.organization.as_ref() == Some(organization)), false)
            }
        };
        ends && at_once == (*margin == ReauthMargin::None)
    }

    /// Whether every replica knew for a while that a newer statement undoes this fact for the target.
    fn is_undone(&self, fact: &Restriction, revoked: &Revoked, faults: &FaultLog) -> bool {
        // How long a call may wait in a queue, and take.
        const CALL: i64 = 15_000;
        let time = UnixMillis(revoked.at.0 - CALL);
        self.said(&row_key(fact)).iter().any(|newer| {
            let undoes = match (newer.fact.kind, &revoked.target) {
                (RestrictionKind::Lifted(_), _) => true,
                (RestrictionKind::ClientId(digest), Target::ClientId(client_id)) => {
                    digest == Some(ClientIdDigest::of(client_id.as_str()))
                }
                _ => false,
            };
            undoes
                && rank_of(newer.fact) > rank_of(fact)
                && !newer.statement.is_lost
                && newer.statement.accepted.is_some_and(|accepted| faults.is_heard_by_all(accepted, time))
                && !self.is_denied_again(newer.fact, time, revoked.at)
        })
    }

    /// Whether a denial that followed a lift held between two times. Then tasks of a denial before the lift are performed too.
    fn is_denied_again(&self, lift: &Restriction, from: UnixMillis, until: UnixMillis) -> bool {
        let holds = |said: &Said<'_>| {
            let has_ended = said.statement.ends.is_some_and(|(_, last)| last <= from);
            said.statement.said_at <= until && !said.is_lift() && !has_ended
        };
        matches!(lift.kind, RestrictionKind::Lifted(_))
            && self.said(&row_key(lift)).iter().any(|said| holds(said) && rank_of(said.fact) > rank_of(lift))
    }
}

//! The operator's requests by client ID: who is found, and what is revoked.

use ably_clerk_auth::{
    ably::{KeyName, Target},
    clock::{self, UnixMillis},
    revocation::operator::{RevocationReport, TargetReportOutcome},
    store::{LiveToken, Restriction},
};

use super::{Checker, IssuedToken, REVOKES_AGAIN_AFTER, Revoked, SLACK, Said, Statement, concerns, rank_of, row_key};

/// A request by client ID. Its client ID has to be revoked again with these keys.
pub(super) struct Repeated {
    statement: usize,
    keys: Vec<KeyName>,
}

impl Statement {
    /// Whether each of these keys has revoked its client ID.
    fn is_revoked_since(&self, time: UnixMillis, keys: &[KeyName], ably: &[Revoked]) -> bool {
        let is_it =
            |target: &Target| matches!(target, Target::ClientId(id) if Some(id.as_str()) == self.client_id.as_deref());
        let is_revoked =
            |revoked: &Revoked| revoked.tenant == self.tenant && is_it(&revoked.target) && time <= revoked.at;
        keys.iter().all(|key| ably.iter().any(|revoked| revoked.key == *key && is_revoked(revoked)))
    }
}

impl Checker {
    /// A replica reports on a request by client ID. `None`: it could not use Redis. Returns whether it surely knows the user.
    pub(crate) fn reported(
        &mut self,
        number: usize,
        run: usize,
        report: Option<&RevocationReport>,
        keys: Vec<KeyName>,
        ably: &[Revoked],
    ) -> bool {
        let statement = &self.statements[number];
        let (fact, told_at) = (&statement.facts[0], statement.told_at);
        let is_its = |live_token: &LiveToken| concerns(fact, live_token) && statement.is_about(&live_token.client_id);
        let is_confused = self.splits > 0 || self.loses_after(told_at);
        let is_known = |token: &IssuedToken| {
            let is_in_redis = !is_confused && !token.may_be_lost() && !token.is_lost;
            is_its(&token.live_token)
                && token.signed_at < told_at
                && fact.at.after(SLACK) < token.live_token.until
                && (token.run == run || report.is_some() && is_in_redis)
        };
        let is_surely_found = self.tokens.iter().any(is_known);
        let Some(report) = report else { return is_surely_found };
        let is_found = !report.denials.is_empty();
        let mut violations = Vec::new();
        if is_surely_found && !is_found {
            violations.push(format!("1: statement {number} does not find the user of a live token"));
        }
        let has_had_it = self.registered.iter().any(is_its);
        if report.denials.iter().any(|denial| denial.subject != fact.subject || !has_had_it) {
            violations.push(format!("3: statement {number} denies who never had the client ID"));
        }
        // Absent after a lift, and if a newer request exists.
        if report.live_tokens.is_some() {
            let is_accepted = |outcome| matches!(outcome, Some(TargetReportOutcome::Accepted { .. }));
            let is_promised = report.targets.iter().all(|target| is_accepted(target.outcome));
            let is_over = is_found && self.is_over(fact, told_at);
            if is_promised && !is_over && !statement.is_revoked_since(told_at, &keys, ably) {
                violations.push(format!("2: statement {number} is answered, but its client ID is not revoked"));
            }
            let is_repeated = !is_found || statement.lasts > REVOKES_AGAIN_AFTER;
            if is_repeated && !is_confused {
                self.repeated.push(Repeated { statement: number, keys });
            }
        }
        self.violations.extend(violations);
        if !is_found {
            self.statements[number].ends = None;
        }
        is_found
    }

    /// Why a client ID should have been revoked again and was not.
    pub(super) fn find_unrepeated(
        &self,
        Repeated { statement: number, keys }: &Repeated,
        ably: &[Revoked],
    ) -> Option<String> {
        let statement = &self.statements[*number];
        let from = UnixMillis(statement.told_at.after(REVOKES_AGAIN_AFTER).0 - clock::millis(SLACK));
        let is_found = statement.ends.is_some();
        let until = UnixMillis(from.0 + 2 * clock::millis(SLACK));
        let is_excused = self.loses_after(statement.told_at) || is_found && self.is_over(&statement.facts[0], until);
        let is_missing = !is_excused && !statement.is_revoked_since(from, keys, ably);
        is_missing.then(|| format!("2: the client ID of statement {number} is not revoked again"))
    }

    /// Whether a newer statement lifts a denial, or is a denial that has ended by `time`.
    fn is_over(&self, denial: &Restriction, time: UnixMillis) -> bool {
        let is_over = |said: &Said<'_>| said.is_lift() || said.statement.ends.is_some_and(|(first, _)| first <= time);
        self.said(&row_key(denial)).iter().any(|said| is_over(said) && rank_of(said.fact) > rank_of(denial))
    }
}

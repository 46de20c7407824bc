//! Operator requests: revocations that `revoke` and `POST /revocations` ask for. `docs/revocation.md` describes them.

mod report;
mod request;

use std::collections::BTreeSet;

pub use report::{
    DenialOutcome, DenialReport, LiveTokenKnowledge, RevocationReport, TargetReport, TargetReportOutcome,
};
pub use request::{Action, InvalidRevocationRequest, RevocationRequest, RevocationRequestBody};

use tokio::time::Instant;

use super::{
    Revocation,
    task::{Performed, RevocationScope, SignedTarget, Task},
};
use crate::{
    ably::ReauthMargin,
    clock::UnixMillis,
    store::{
        DenialSource, LiveTokens, RecordOutcome, Restriction, RestrictionKind, StoreError, StoredTask, Subject,
        TokenHolder, Topic,
    },
};

/// Why an operator request has no report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_more::From)]
pub enum RequestFailed {
    /// Nothing is done.
    Invalid(InvalidRevocationRequest),
    /// It took effect at this replica only. This replica stores it when Redis can be used again.
    Store(StoreError),
}

impl Revocation {
    /// Carries out an operator request as far as possible now. During an outage of Redis, this replica acts by it and records
    /// it later, but other replicas do not know of it yet: an error.
    pub async fn execute(
        &self,
        request: &RevocationRequest,
        now: UnixMillis,
    ) -> Result<RevocationReport, RequestFailed> {
        let tenant = match &request.tenant {
            Some(name) => self.tenants.named(name).ok_or(InvalidRevocationRequest::NoSuchTenant),
            None => self.tenants.only().ok_or(InvalidRevocationRequest::WithoutTenant),
        }?;
        let searching = Instant::now();
        let found = match (request.target.holder(None), request.action) {
            // Finds the users with a client ID, or the user of a session. A session whose denial is lifted needs no user.
            (holder @ TokenHolder::ClientId(_), _) | (holder @ TokenHolder::Session(_), Action::Deny(_))
                if tenant.is_revocable() =>
            {
                self.store.live_tokens(&tenant.name, &holder, now).await
            }
            _ => LiveTokens::NONE,
        };
        // Tokens were issued meanwhile.
        let now = now.after(searching.elapsed());
        let mut result = found.of_others;
        let mut users: BTreeSet<_> = found.live_tokens.into_iter().map(|live_token| live_token.user).collect();
        let (subjects, session_user) = match &request.target {
            RevocationScope::Of(subject) => (vec![subject.clone()], users.pop_first()),
            _ => (users.into_iter().map(Subject::User).collect(), None),
        };
        let restriction = |subject| request.restriction(tenant, subject, session_user.clone(), now);
        let restrictions: Vec<_> = subjects.iter().map(restriction).collect();
        let mut report = RevocationReport {
            dry_run: request.dry_run,
            tenant: tenant.name.clone(),
            denials: restrictions.iter().map(|restriction| self.expected_report(restriction, now)).collect(),
            ..RevocationReport::default()
        };
        let task = Task {
            denials: subjects.into_iter().map(|subject| (subject, DenialSource::Operator)).collect(),
            session_user,
            ..Task::new(tenant, request.target.clone(), now, now)
        };
        let mut tasks = Vec::from(task.stored("request", now.after(StoredTask::LEASE), now));
        tasks.truncate(match request.action {
            Action::Deny(_) if !tenant.is_revocable() => 0,
            Action::Deny(duration) if duration > Self::REPEAT_AFTER || task.denials.is_empty() => 2,
            Action::Deny(_) => 1,
            Action::Lift => 0,
        });
        if !request.dry_run {
            let recorded = self.store.record(&restrictions, &tasks, now).await;
            for (denial, recorded) in report.denials.iter_mut().zip(recorded.iter().flatten()) {
                if *recorded == RecordOutcome::Outdated {
                    denial.outcome = DenialOutcome::Superseded;
                }
            }
            result = result.and(recorded.map(|_| ()));
        }
        if request.action == Action::Lift {
            report.warnings.extend(report.denials.is_empty().then(|| report::NOBODY_TO_LIFT.to_owned()));
        } else if !report.is_superseded() {
            let (outcomes, live): (Vec<_>, _) = if let Some(first) = tasks.first().filter(|_| !request.dry_run) {
                // Even if another replica has just performed it: the report says what came of it.
                let claimed = self.claim_first(first, now).await.unwrap_or_else(|| first.clone());
                let Performed { outcomes, live, .. } = self.perform(claimed, now).await;
                (outcomes.into_iter().map(|(target, outcome)| (target, Some(outcome.into()))).collect(), live)
            } else {
                let (targets, live) = self.look_up(tenant, &task, now).await;
                let not_called = (!request.dry_run).then_some(TargetReportOutcome::NotCalled);
                (targets.into_iter().map(|target| (target, not_called)).collect(), live)
            };
            let allow_reauth_margin = task.scope.margin(tenant.format()) == ReauthMargin::Reauthentication;
            let report_of = |(SignedTarget { key: key_name, target }, outcome)| {
                let target = target.to_string();
                TargetReport { target, key_name, allow_reauth_margin, outcome }
            };
            report.targets = outcomes.into_iter().map(report_of).collect();
            result = result.and(live.of_others);
            report.live_tokens = Some(match live.live_tokens[..] {
                _ if !tenant.is_revocable() => LiveTokenKnowledge::NotNoted,
                [] => LiveTokenKnowledge::NoneKnown,
                _ => LiveTokenKnowledge::Known,
            });
            report.repeated_at = tasks.get(1).filter(|_| !request.dry_run).map(|again| again.due);
            report.reminder = Some(request.reminder().to_owned());
            let lacks_key = |target: &TargetReport| tenant.revocation_queue(&target.key_name).is_none();
            let warnings = [
                (tasks.is_empty(), report::NOT_REVOCABLE),
                (!tasks.is_empty() && report.targets.iter().any(lacks_key), report::KEY_MISSING),
                (!tasks.is_empty() && report.targets.is_empty(), report::NOTHING_TO_REVOKE),
                (tasks.len() == 1, report::NOT_REPEATED),
                (report.denials.is_empty(), report::NOBODY_TO_DENY),
            ];
            report.warnings =
                warnings.into_iter().filter(|(applies, _)| *applies).map(|(_, warning)| warning.to_owned()).collect();
        }
        report.complete = report.is_complete();
        result.map(|()| report).map_err(RequestFailed::Store)
    }

    /// The report on a restriction, unless a newer request exists.
    fn expected_report(&self, restriction: &Restriction, now: UnixMillis) -> DenialReport {
        let Restriction { tenant, subject, kind, until, .. } = restriction;
        let latest = |source| self.store.restrictions().latest(tenant, subject, Topic::Denial(source));
        let denies = |source| latest(source).is_some_and(|denial| denial.is_active(now));
        let outcome = match kind {
            RestrictionKind::Lifted(_) if denies(DenialSource::Clerk) => DenialOutcome::DeniedByClerk,
            RestrictionKind::Lifted(_) if denies(DenialSource::Operator) => DenialOutcome::Lifted,
            RestrictionKind::Lifted(_) => DenialOutcome::NotDenied,
            _ => DenialOutcome::Denied { until: *until },
        };
        DenialReport { subject: subject.clone(), outcome }
    }
}

#[cfg(test)]
mod tests;

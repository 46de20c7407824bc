//! Operator requests: revocations that `revoke` and `POST /revocations` ask for. `docs/revocation.md` describes them.

mod report;
mod request;

use std::{collections::BTreeSet, iter};

pub use report::{
    DenialOutcome, DenialReport, LiveTokenKnowledge, RevocationReport, TargetReport, TargetReportOutcome,
};
pub use request::{Action, InvalidRevocationRequest, RequestedTarget, RevocationRequest, RevocationRequestBody};

use super::{Performed, Revocation, Task, require_all_replicas, scope::SignedTarget};
use crate::{
    ably::ReauthMargin,
    clock::UnixMillis,
    store::{
        DenialSource, LiveTokens, QueuedTask, RecordOutcome, Restriction, RestrictionKind, StoreError, Subject,
        TokenHolder,
    },
    tenant::Tenant,
};

/// Why an operator request has no report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFailed {
    /// Nothing is done.
    Invalid(InvalidRevocationRequest),
    /// It took effect at this replica only. This replica stores it when Redis can be used again.
    Store(StoreError),
}

impl From<InvalidRevocationRequest> for RequestFailed {
    fn from(invalid: InvalidRevocationRequest) -> Self {
        Self::Invalid(invalid)
    }
}

impl From<StoreError> for RequestFailed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Revocation {
    /// Few enough for Redis to answer within its timeout.
    const DENIALS_AT_ONCE: usize = 100;

    /// Carries out an operator request as far as possible now. During an outage of Redis, this replica acts by it and records
    /// it later, but other replicas do not know of it yet: an error.
    pub async fn execute(
        &self,
        request: &RevocationRequest,
        now: UnixMillis,
    ) -> Result<RevocationReport, RequestFailed> {
        let tenant = self.tenant_of(request)?;
        let (subjects, mut shared) = self.subjects_of(tenant, request, now).await;
        let mut report = RevocationReport {
            dry_run: request.dry_run,
            complete: !subjects.is_empty(),
            tenant: tenant.name.clone(),
            ..RevocationReport::default()
        };
        let mut task = Task { denied: subjects, ..Task::new(tenant, request.target.scope(), now, now) };
        if let RequestedTarget::User(user) = &request.target {
            task.expected = tenant.target_of_cached(user);
        }
        let mut tasks = Vec::new();
        if let (Action::Deny(duration), true) = (request.action, tenant.is_revocable()) {
            tasks.push(task.first(now));
            tasks.extend((task.denied.is_empty() || duration > Self::REPEAT_AFTER).then(|| task.again(now)));
        }
        let stored = self.record_denials(request, &task, &tasks, now, &mut report).await;
        if stored == Err(StoreError::Full) {
            report.warn_incomplete("the store is full: a revocation task is not stored. Send the request again");
        } else {
            shared = shared.and(stored);
        }
        match request.action {
            Action::Deny(_) => {
                let to_perform = tasks.first().filter(|_| !request.dry_run);
                let (targets, live): (Vec<_>, _) = if let Some(first) = to_perform {
                    let Performed { outcomes, live, .. } = self.perform(first.task.clone(), now).await;
                    let reported = |outcome| Some(TargetReportOutcome::of(outcome, stored.is_ok()));
                    (outcomes.into_iter().map(|(target, outcome)| (target, reported(outcome))).collect(), live)
                } else {
                    let (targets, live) = self.look_up(tenant, &task, now).await;
                    let not_called = (!request.dry_run).then_some(TargetReportOutcome::NotCalled);
                    (targets.into_iter().map(|target| (target, not_called)).collect(), live)
                };
                shared = shared.and(require_all_replicas(live.coverage));
                let repeat_at = tasks.get(1).map(|again| again.claimable);
                report.repeated_at = repeat_at.filter(|_| !request.dry_run && stored.is_ok());
                report.reminder = Some(request.target.reminder().to_owned());
                report_targets(tenant, &task, targets, &live, repeat_at, &mut report);
            }
            Action::Lift if task.denied.is_empty() => {
                report.warn("no live token with this client ID is known, so no user is found: lift the denial by user");
            }
            Action::Lift => {}
        }
        Ok(shared.map(|()| report)?)
    }

    fn tenant_of(&self, request: &RevocationRequest) -> Result<&Tenant, InvalidRevocationRequest> {
        match &request.tenant {
            Some(name) => self.tenants.named(name).ok_or(InvalidRevocationRequest::NoSuchTenant),
            None => self.tenants.only().ok_or(InvalidRevocationRequest::WithoutTenant),
        }
    }

    /// The sessions and users that a request denies, or whose denial it lifts.
    async fn subjects_of(
        &self,
        tenant: &Tenant,
        request: &RevocationRequest,
        now: UnixMillis,
    ) -> (Vec<Subject>, Result<(), StoreError>) {
        match &request.target {
            RequestedTarget::Session(session) => (vec![Subject::Session(session.clone())], Ok(())),
            RequestedTarget::User(user) => (vec![Subject::User(user.clone())], Ok(())),
            RequestedTarget::ClientId(client_id) => {
                let holder = TokenHolder::ClientId(client_id.as_str().to_owned());
                let found = self.store.live_tokens(&tenant.name, &holder, now).await;
                let users: BTreeSet<_> = found.live_tokens.into_iter().map(|live_token| live_token.user).collect();
                (users.into_iter().map(Subject::User).collect(), require_all_replicas(found.coverage))
            }
        }
    }

    /// Records the denials of a request or their end, together with the tasks that follow, and reports them.
    async fn record_denials(
        &self,
        request: &RevocationRequest,
        task: &Task,
        tasks: &[QueuedTask],
        now: UnixMillis,
        report: &mut RevocationReport,
    ) -> Result<(), StoreError> {
        let (kind, until) = match request.action {
            Action::Deny(duration) => (RestrictionKind::Denied(DenialSource::Operator), now.after(duration)),
            Action::Lift => (RestrictionKind::Lifted(DenialSource::Operator), now),
        };
        let of = |subject: &Subject| Restriction {
            tenant: task.tenant.clone(),
            subject: subject.clone(),
            kind,
            at: now,
            until,
        };
        let denials: Vec<_> = task.denied.iter().map(of).collect();
        let denies = |subject, source| self.store.restrictions().denies(&task.tenant, subject, source, now);
        let were_denied = task.denied.iter().map(|subject| denies(subject, DenialSource::Operator)).collect::<Vec<_>>();
        let (mut outcomes, mut stored) = (Vec::new(), Ok(()));
        let mut parts = denials.chunks(Self::DENIALS_AT_ONCE);
        let first = (parts.next().unwrap_or_default(), tasks);
        for (denials, tasks) in iter::once(first).chain(parts.map(|part| (part, &[][..]))) {
            let recorded = if request.dry_run { Ok(Vec::new()) } else { self.store.record(denials, tasks, now).await };
            stored = stored.and(recorded.as_ref().map(|_| ()).map_err(|error| *error));
            outcomes.extend(recorded.unwrap_or_else(|_| vec![RecordOutcome::New; denials.len()]));
        }
        let outcomes = outcomes.into_iter().chain(iter::repeat(RecordOutcome::New));
        for ((subject, was_denied), recorded) in task.denied.iter().zip(were_denied).zip(outcomes) {
            let outcome = match request.action {
                _ if recorded == RecordOutcome::Outdated => DenialOutcome::Superseded,
                Action::Deny(_) => DenialOutcome::Denied { until },
                Action::Lift if denies(subject, DenialSource::Clerk) => DenialOutcome::DeniedByClerk,
                Action::Lift if was_denied => DenialOutcome::Lifted,
                Action::Lift => DenialOutcome::NotDenied,
            };
            report.complete &= outcome.is_done();
            report.denials.push(DenialReport { subject: subject.clone(), outcome });
        }
        stored
    }
}

/// Reports what Ably revokes, and what the operator has to know of it.
fn report_targets(
    tenant: &Tenant,
    task: &Task,
    targets: Vec<(SignedTarget, Option<TargetReportOutcome>)>,
    live: &LiveTokens,
    repeat_at: Option<UnixMillis>,
    report: &mut RevocationReport,
) {
    report.live_tokens = Some(match (tenant.is_revocable(), live.live_tokens.is_empty()) {
        (false, _) => LiveTokenKnowledge::NotNoted,
        (true, true) => LiveTokenKnowledge::NoneKnown,
        (true, false) => LiveTokenKnowledge::Known,
    });
    let allow_reauth_margin = task.scope.margin(tenant.format()) == ReauthMargin::Reauthentication;
    for (SignedTarget { key: key_name, target }, outcome) in targets {
        if tenant.is_revocable() && tenant.revocation_queue(&key_name).is_none() {
            report.warn("this replica lacks the API key of some tokens: a replica that has it revokes them");
        }
        report.complete &= outcome.is_none_or(|outcome| outcome.is_done());
        report.targets.push(TargetReport { target: target.to_string(), key_name, allow_reauth_margin, outcome });
    }
    if tenant.is_revocable() {
        if report.targets.is_empty() {
            report.warn(
                "no live token is known, so there is nothing to revoke at Ably. Tokens from before a restart without \
                 Redis are not known: revoke them by client ID",
            );
        }
        if repeat_at.is_none() {
            report.warn(
                "the denial ends before the second revocation, which is skipped: a token request that was signed before \
                 the denial can outlast it",
            );
        }
    } else {
        report.warn(
            "revocable_tokens is not true: the service does not call Ably or record live tokens, and connections last \
             until their tokens end",
        );
    }
    if task.denied.is_empty() {
        report.warn(
            "no live token with this client ID is known, so no user is denied: the user gets a new token at once. \
             Deny the user too",
        );
    }
}

#[cfg(test)]
mod tests;

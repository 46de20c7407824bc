//! Operator requests: revocations that `revoke` and `POST /revocations` ask for. `docs/revocation.md` describes them.

mod report;
mod request;

use std::collections::BTreeSet;

pub use report::{
    DenialOutcome, DenialReport, LiveTokenKnowledge, RevocationReport, TargetReport, TargetReportOutcome,
};
pub use request::{Action, InvalidRevocationRequest, RequestedTarget, RevocationRequest, RevocationRequestBody};

use super::{Revocation, Task, require_all_replicas, retry_at};
use crate::{
    ably::{ReauthMargin, RevocationQueue, RevokeOutcome},
    clock::UnixMillis,
    store::{DenialSource, RecordOutcome, Restriction, RestrictionKind, StoreError, Subject, TokenHolder},
    tenant::{Tenant, TenantName},
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
    /// Carries out an operator request as far as possible now. During an outage of Redis, this replica acts by it and records
    /// it later, but other replicas do not know of it yet: an error.
    pub async fn execute(
        &self,
        request: &RevocationRequest,
        now: UnixMillis,
    ) -> Result<RevocationReport, RequestFailed> {
        let tenant = self.tenant_of(request)?;
        let (dry_run, tenant_name) = (request.dry_run, tenant.name.clone());
        let mut report =
            RevocationReport { dry_run, complete: true, tenant: tenant_name, ..RevocationReport::default() };
        let mut shared = Ok(());
        let subjects = match &request.target {
            RequestedTarget::Session(session) => vec![Subject::Session(session.clone())],
            RequestedTarget::User(user) => vec![Subject::User(user.clone())],
            RequestedTarget::ClientId(client_id) => {
                let holder = TokenHolder::ClientId(client_id.as_str().to_owned());
                let found = self.store.live_tokens(&tenant.name, &holder, now).await;
                shared = shared.and(require_all_replicas(found.coverage));
                let users: BTreeSet<_> = found.live_tokens.into_iter().map(|live_token| live_token.user).collect();
                users.into_iter().map(Subject::User).collect()
            }
        };
        for subject in &subjects {
            match self.record_denial(&tenant.name, subject, request, now).await {
                Ok(outcome) => {
                    report.complete &= outcome.is_done();
                    report.denials.push(DenialReport { subject: subject.clone(), outcome });
                }
                Err(error) => shared = Err(error),
            }
        }
        report.complete &= !subjects.is_empty();
        match request.action {
            Action::Deny(duration) => {
                let repeat_at = now.after(Self::REPEAT_AFTER);
                let repeat_at = (subjects.is_empty() || now.after(duration) > repeat_at).then_some(repeat_at);
                let revoked = self.revoke_target(tenant, request, subjects, repeat_at, now, &mut report).await;
                shared = shared.and(revoked);
                report.reminder = Some(request.target.reminder().to_owned());
            }
            Action::Lift if subjects.is_empty() => {
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

    async fn record_denial(
        &self,
        tenant: &TenantName,
        subject: &Subject,
        request: &RevocationRequest,
        now: UnixMillis,
    ) -> Result<DenialOutcome, StoreError> {
        let denies = |source| self.store.restrictions().denies(tenant, subject, source, now);
        let was_denied = denies(DenialSource::Operator);
        let (kind, until) = match request.action {
            Action::Deny(duration) => (RestrictionKind::Denied(DenialSource::Operator), now.after(duration)),
            Action::Lift => (RestrictionKind::Lifted(DenialSource::Operator), now),
        };
        let recorded = if request.dry_run {
            RecordOutcome::New
        } else {
            let (tenant, subject) = (tenant.clone(), subject.clone());
            self.store.record(Restriction { tenant, subject, kind, at: now, until }, now).await?
        };
        Ok(match request.action {
            _ if recorded == RecordOutcome::Outdated => DenialOutcome::Superseded,
            Action::Deny(_) => DenialOutcome::Denied { until },
            Action::Lift if denies(DenialSource::Clerk) => DenialOutcome::DeniedByClerk,
            Action::Lift if was_denied => DenialOutcome::Lifted,
            Action::Lift => DenialOutcome::NotDenied,
        })
    }

    /// Revokes the live tokens of the request's target, now and at `repeat_at`.
    async fn revoke_target(
        &self,
        tenant: &Tenant,
        request: &RevocationRequest,
        denied: Vec<Subject>,
        repeat_at: Option<UnixMillis>,
        now: UnixMillis,
        report: &mut RevocationReport,
    ) -> Result<(), StoreError> {
        let is_any_denied = !denied.is_empty();
        // After the denial is recorded: from then on no token is issued.
        let (mut task, live) = self.make_task(tenant, request.target.scope(), None, now, now).await;
        task.denied = denied;
        let mut shared = require_all_replicas(live.coverage);
        let is_by_client_id = matches!(request.target, RequestedTarget::ClientId(_));
        let is_known = !live.live_tokens.is_empty() || is_by_client_id && is_any_denied;
        report.live_tokens = Some(match (&tenant.revocation_queue, is_known) {
            (None, _) => LiveTokenKnowledge::NotNoted,
            (Some(_), true) => LiveTokenKnowledge::Known,
            (Some(_), false) => LiveTokenKnowledge::NoneKnown,
        });
        if task.targets.is_empty()
            && let RequestedTarget::User(user) = &request.target
        {
            task.targets.extend(tenant.target_of_cached(user));
        }
        let outcomes = match &tenant.revocation_queue {
            _ if request.dry_run => vec![None; task.targets.len()],
            None => vec![Some(TargetReportOutcome::NotCalled); task.targets.len()],
            Some(queue) => {
                let (outcomes, stored) = self.revoke_and_report(queue, &task, repeat_at, now, report).await;
                shared = shared.and(stored);
                outcomes
            }
        };
        report.complete &= outcomes.iter().flatten().all(TargetReportOutcome::is_done);
        let allow_reauth_margin = task.margin == ReauthMargin::Reauthentication;
        let targets = task.targets.iter().map(ToString::to_string).zip(outcomes);
        report.targets =
            targets.map(|(target, outcome)| TargetReport { target, allow_reauth_margin, outcome }).collect();
        if tenant.revocation_queue.is_none() {
            report.warn(
                "revocable_tokens is not true: the service does not call Ably or record live tokens, and connections last \
                 until their tokens end",
            );
        } else {
            if task.targets.is_empty() {
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
        }
        if !is_any_denied {
            report.warn(
                "no live token with this client ID is known, so no user is denied: the user gets a new token at once. \
                 Deny the user too",
            );
        }
        shared
    }

    /// Revokes a task's targets at Ably now, and stores tasks for the repetition and for the targets that Ably did not
    /// revoke.
    async fn revoke_and_report(
        &self,
        queue: &RevocationQueue,
        task: &Task,
        repeat_at: Option<UnixMillis>,
        now: UnixMillis,
        report: &mut RevocationReport,
    ) -> (Vec<Option<TargetReportOutcome>>, Result<(), StoreError>) {
        let mut stored = Ok(());
        if let Some(repeat_at) = repeat_at {
            stored = self.store.enqueue_task(task.stored("again", repeat_at)).await;
            report.repeated_at = stored.is_ok().then_some(repeat_at);
        }
        let outcomes = queue.revoke(&task.targets, task.margin, now).await;
        let mut is_retried = false;
        if let Some(remaining) = task.remaining(&outcomes) {
            let retry = remaining.stored("first", retry_at(&outcomes, now, now));
            let enqueued = self.store.enqueue_task(retry).await;
            is_retried = enqueued.is_ok();
            stored = stored.and(enqueued);
        }
        if stored == Err(StoreError::Full) {
            report.warn_incomplete("the store is full: a revocation task is not stored. Send the request again");
            stored = Ok(());
        }
        let reported = outcomes.into_iter().map(|outcome| match outcome {
            RevokeOutcome::Accepted { applies_at } => TargetReportOutcome::Accepted { applies_at },
            RevokeOutcome::Refused { code } => TargetReportOutcome::Refused { code },
            RevokeOutcome::Unavailable { .. } if is_retried => TargetReportOutcome::Unavailable,
            RevokeOutcome::Unavailable { .. } => TargetReportOutcome::GivenUp,
        });
        (reported.map(Some).collect(), stored)
    }
}

#[cfg(test)]
mod tests;

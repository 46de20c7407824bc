//! Operator requests: revocations that `revoke` and `POST /revocations` ask for. `docs/revocation.md` describes them.

mod report;
mod request;

use std::collections::BTreeSet;

pub use report::{
    DenialOutcome, DenialReport, LiveTokenKnowledge, RevocationReport, TargetReport, TargetReportOutcome,
};
pub use request::{Action, InvalidRevocationRequest, RequestedTarget, RevocationRequest, RevocationRequestBody};

use super::{Revocation, Task, retry_at};
use crate::{
    ably::{ReauthMargin, RevocationQueue, RevokeOutcome},
    clock::UnixMillis,
    store::{DenialSource, RecordOutcome, Restriction, RestrictionKind, StoreError, StoredTask, Subject, TokenHolder},
    tenant::{Tenant, TenantName},
};

impl Revocation {
    /// Carries out an operator request as far as possible now.
    pub async fn execute(
        &self,
        request: &RevocationRequest,
        now: UnixMillis,
    ) -> Result<RevocationReport, InvalidRevocationRequest> {
        let tenant = self.tenant_of(request)?;
        let (dry_run, tenant_name) = (request.dry_run, tenant.name.clone());
        let mut report =
            RevocationReport { dry_run, complete: true, tenant: tenant_name, ..RevocationReport::default() };
        let subjects = match &request.target {
            RequestedTarget::Session(session) => vec![Subject::Session(session.clone())],
            RequestedTarget::User(user) => vec![Subject::User(user.clone())],
            RequestedTarget::ClientId(client_id) => {
                let holder = TokenHolder::ClientId(client_id.as_str().to_owned());
                let found = self.store.live_tokens(&tenant.name, &holder, now).await;
                report.check_coverage(found.coverage);
                let users: BTreeSet<_> = found.live_tokens.into_iter().map(|live_token| live_token.user).collect();
                users.into_iter().map(Subject::User).collect()
            }
        };
        for subject in &subjects {
            let outcome = self.record_denial(&tenant.name, subject, request, now).await;
            report.complete &= outcome.is_done();
            report.denials.push(DenialReport { subject: subject.clone(), outcome });
        }
        report.complete &= !subjects.is_empty();
        match request.action {
            Action::Deny(duration) => {
                let repeat_at = now.after(Self::REPEAT_AFTER);
                let repeat_at = (subjects.is_empty() || now.after(duration) > repeat_at).then_some(repeat_at);
                self.revoke_target(tenant, request, subjects, repeat_at, now, &mut report).await;
                report.reminder = Some(request.target.reminder().to_owned());
            }
            Action::Lift if subjects.is_empty() => {
                report.warn("no live token with this client ID is known, so no user is found: lift the denial by user");
            }
            Action::Lift => {}
        }
        Ok(report)
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
    ) -> DenialOutcome {
        let denies = |source| self.store.restrictions().denies(tenant, subject, source, now);
        let was_denied = denies(DenialSource::Operator);
        let (kind, until) = match request.action {
            Action::Deny(duration) => (RestrictionKind::Denied(DenialSource::Operator), now.after(duration)),
            Action::Lift => (RestrictionKind::Lifted(DenialSource::Operator), now),
        };
        let recorded = if request.dry_run {
            Ok(RecordOutcome::New)
        } else {
            let (tenant, subject) = (tenant.clone(), subject.clone());
            self.store.record(Restriction { tenant, subject, kind, at: now, until }, now).await
        };
        match (request.action, recorded) {
            (_, Ok(RecordOutcome::Outdated)) => DenialOutcome::Superseded,
            (_, Err(StoreError::Full)) => DenialOutcome::StoreFull,
            (Action::Deny(_), Ok(_)) => DenialOutcome::Denied { until },
            (Action::Deny(_), Err(StoreError::Unavailable)) => DenialOutcome::DeniedHereOnly { until },
            (Action::Lift, Err(StoreError::Unavailable)) => DenialOutcome::LiftedHereOnly,
            (Action::Lift, Ok(_)) if denies(DenialSource::Clerk) => DenialOutcome::DeniedByClerk,
            (Action::Lift, Ok(_)) if was_denied => DenialOutcome::Lifted,
            (Action::Lift, Ok(_)) => DenialOutcome::NotDenied,
        }
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
    ) {
        let is_any_denied = !denied.is_empty();
        // After the denial is recorded: from then on no token is issued.
        let (mut task, live) = self.make_task(tenant, request.target.scope(), now, now).await;
        task.denied = denied;
        report.check_coverage(live.coverage);
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
            Some(queue) => self.revoke_and_report(queue, &task, repeat_at, now, report).await,
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
    ) -> Vec<Option<TargetReportOutcome>> {
        if let Some(repeat_at) = repeat_at
            && self.enqueue_and_report(task.stored("again", repeat_at), now, report).await
        {
            report.repeated_at = Some(repeat_at);
        }
        let outcomes = queue.revoke(&task.targets, task.margin, now).await;
        let is_retried = match task.remaining(&outcomes) {
            Some(remaining) => {
                let retry = remaining.stored("first", retry_at(&outcomes, now, now));
                self.enqueue_and_report(retry, now, report).await
            }
            None => false,
        };
        let reported = outcomes.into_iter().map(|outcome| match outcome {
            RevokeOutcome::Accepted { applies_at } => TargetReportOutcome::Accepted { applies_at },
            RevokeOutcome::Refused { code } => TargetReportOutcome::Refused { code },
            RevokeOutcome::Unavailable { .. } if is_retried => TargetReportOutcome::Unavailable,
            RevokeOutcome::Unavailable { .. } => TargetReportOutcome::GivenUp,
        });
        reported.map(Some).collect()
    }

    /// Stores a task, with a warning unless all replicas get it. Returns whether it will be performed.
    async fn enqueue_and_report(&self, task: StoredTask, now: UnixMillis, report: &mut RevocationReport) -> bool {
        let enqueued = self.store.enqueue_task(task, now).await;
        match enqueued {
            Ok(()) => {}
            Err(StoreError::Unavailable) => {
                report.warn_incomplete("Redis cannot be used now: a revocation task is known to one replica only");
            }
            Err(StoreError::Full) => {
                report.warn_incomplete("the store is full: a revocation task is not stored. Send the request again");
            }
        }
        enqueued != Err(StoreError::Full)
    }
}

#[cfg(test)]
mod tests;

//! Operator requests: what `revoke` and `POST /revocations` ask for, and the report on what was done.
//!
//! Both travel as JSON. `docs/revocation.md` describes them.

use std::{collections::BTreeSet, time::Duration};

use clap::{ArgGroup, Args};
use serde::{Deserialize, Serialize};

use super::{Revocation, RevocationScope, Task, retry_at};
use crate::{
    ably::{ClientId, ReauthMargin, RevocationQueue, RevokeOutcome},
    clock::UnixMillis,
    store::{
        Coverage, DenialSource, RecordOutcome, Restriction, RestrictionKind, StoreError, StoredTask, Subject,
        TokenHolder,
    },
    tenant::{Tenant, TenantName},
};

/// A revocation request as written: the options of `revoke`, which sends them as JSON. [`RevocationRequest::parse`] checks it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(group = ArgGroup::new("target").required(true))]
#[serde(default, deny_unknown_fields)]
pub struct RevocationRequestBody {
    /// A Clerk session. The user's other sessions are not denied
    #[arg(long, value_name = "sess_…", group = "target")]
    pub session: Option<String>,
    /// A Clerk user, in all sessions
    #[arg(long, value_name = "user_…", group = "target")]
    pub user: Option<String>,
    /// A client ID on Ably. Denies the users who are known to have it
    #[arg(long, value_name = "NAME", group = "target")]
    pub client_id: Option<String>,
    /// The tenant; required if there are several
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// How long the denial lasts, at most 30 days [24h]
    #[arg(long = "for", value_name = "TIME", conflicts_with = "lift")]
    #[serde(rename = "for")]
    pub duration: Option<String>,
    /// End the denial of an earlier request
    #[arg(long)]
    pub lift: bool,
    /// Change nothing; print what would happen
    #[arg(long)]
    pub dry_run: bool,
}

/// A valid revocation request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationRequest {
    /// The tenant, if the request names one.
    pub tenant: Option<TenantName>,
    /// Whose access ends, or returns.
    pub target: RequestedTarget,
    /// What is to be done.
    pub action: Action,
    /// Whether it only reports what would happen.
    pub dry_run: bool,
}

/// The target of a revocation request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestedTarget {
    /// A Clerk session.
    Session(String),
    /// A Clerk user.
    User(String),
    /// A client ID on Ably.
    ClientId(ClientId),
}

/// What a revocation request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Denies access for this long, and revokes tokens.
    Deny(Duration),
    /// Ends the denial of an earlier request.
    Lift,
}

/// Why a revocation request is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidRevocationRequest {
    /// It is not a JSON object, or has an unknown field or a value of the wrong type.
    Malformed,
    /// It has no target, or several.
    NotOneSubject,
    /// `session` is not a Clerk session ID.
    NotASession,
    /// `user` is not a Clerk user ID.
    NotAUser,
    /// No token can have `client_id`.
    NotAClientId,
    /// `for` is not a duration, or is out of range.
    Duration,
    /// It has both `for` and `lift`.
    LastsAndLifts,
    /// There are several tenants, and it names none.
    WithoutTenant,
    /// `tenant` is unknown.
    NoSuchTenant,
}

/// What a revocation request did; in a dry run, what it would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Whether everything is done.
    pub complete: bool,
    /// The tenant.
    pub tenant: TenantName,
    /// The sessions and users that are denied, or no longer.
    pub denials: Vec<DenialReport>,
    /// Whether live tokens of the target are known. Absent if a denial is lifted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live_tokens: Option<LiveTokenKnowledge>,
    /// What Ably revokes.
    pub targets: Vec<TargetReport>,
    /// When Ably revokes once more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeated_at: Option<UnixMillis>,
    /// One sentence each.
    pub warnings: Vec<String>,
    /// What the operator still has to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reminder: Option<String>,
}

/// A denial, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenialReport {
    /// The session or user.
    #[serde(flatten)]
    pub subject: Subject,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: DenialOutcome,
}

/// What became of a denial; in a dry run, what would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum DenialOutcome {
    /// The subject is denied.
    Denied {
        /// When the denial ends.
        until: UnixMillis,
    },
    /// As `Denied`, at this replica only: Redis gets it later.
    DeniedHereOnly {
        /// When the denial ends.
        until: UnixMillis,
    },
    /// The subject is no longer denied.
    Lifted,
    /// As `Lifted`, at this replica only: Redis gets it later.
    LiftedHereOnly,
    /// The subject was not denied.
    NotDenied,
    /// The operator's denial is lifted, but one from Clerk holds.
    DeniedByClerk,
    /// A newer request exists, by the clock of the replica that took it.
    Superseded,
    /// The store is full.
    StoreFull,
}

/// Whether live tokens of a target are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LiveTokenKnowledge {
    /// At least one.
    Known,
    /// None: the ID may be wrong.
    NoneKnown,
    /// Live tokens are not recorded: the API key has no revocable tokens, by the settings.
    NotNoted,
}

/// What Ably revokes tokens by, and what became of that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetReport {
    /// As Ably writes it: `clientId:alice`.
    pub target: String,
    /// Whether clients have 30 seconds to fetch a new token. Ably's name for it.
    pub allow_reauth_margin: bool,
    /// `None` in a dry run.
    #[serde(flatten)]
    pub outcome: Option<TargetReportOutcome>,
}

/// What became of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum TargetReportOutcome {
    /// Ably revokes its tokens.
    Accepted {
        /// From when on.
        applies_at: UnixMillis,
    },
    /// Ably refuses. A retry would not help.
    Refused {
        /// Ably's error code, if it sent one.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<u32>,
    },
    /// Ably could not be reached. The service retries.
    Unavailable,
    /// Ably could not be reached, and the store has no room for a retry.
    GivenUp,
    /// The API key has no revocable tokens, by the settings.
    NotCalled,
}

impl RevocationRequest {
    /// How long a denial lasts by default.
    pub const DEFAULT_DENIAL: Duration = Duration::from_hours(24);
    const LONGEST_DENIAL: Duration = Duration::from_hours(30 * 24);

    /// Reads a request from JSON.
    pub fn parse(json: &[u8]) -> Result<Self, InvalidRevocationRequest> {
        use InvalidRevocationRequest as Invalid;

        // Serde reads a list as an object, too.
        let object = json.trim_ascii_start().starts_with(b"{").then_some(json).ok_or(Invalid::Malformed)?;
        let body: RevocationRequestBody = serde_json::from_slice(object).map_err(|_| Invalid::Malformed)?;
        let tenant = body.tenant.map(TenantName::try_from).transpose().map_err(|_| Invalid::NoSuchTenant)?;
        let target = match (body.session, body.user, body.client_id) {
            (Some(id), None, None) if !id.is_empty() => {
                clerk_id("sess_", id).map(RequestedTarget::Session).ok_or(Invalid::NotASession)?
            }
            (None, Some(id), None) if !id.is_empty() => {
                clerk_id("user_", id).map(RequestedTarget::User).ok_or(Invalid::NotAUser)?
            }
            (None, None, Some(id)) if !id.is_empty() => {
                ClientId::parse(id).map(RequestedTarget::ClientId).map_err(|_| Invalid::NotAClientId)?
            }
            _ => return Err(Invalid::NotOneSubject),
        };
        let action = match (body.lift, body.duration) {
            (true, None) => Action::Lift,
            (true, Some(_)) => return Err(Invalid::LastsAndLifts),
            (false, None) => Action::Deny(Self::DEFAULT_DENIAL),
            (false, Some(text)) => {
                let possible = Duration::from_millis(1)..=Self::LONGEST_DENIAL;
                let duration = humantime::parse_duration(&text).ok().filter(|duration| possible.contains(duration));
                Action::Deny(duration.ok_or(Invalid::Duration)?)
            }
        };
        Ok(Self { tenant, target, action, dry_run: body.dry_run })
    }
}

/// The ID, if it has the form of Clerk's: a misspelled one would be denied as well as a real one.
fn clerk_id(prefix: &str, id: String) -> Option<String> {
    let rest = id.strip_prefix(prefix)?;
    (!rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(id)
}

impl RequestedTarget {
    /// The ID of the session or user, or the client ID.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Session(id) | Self::User(id) => id,
            Self::ClientId(client_id) => client_id.as_str(),
        }
    }

    fn scope(&self) -> RevocationScope {
        match self {
            Self::Session(session) => RevocationScope::Session(session.clone()),
            Self::User(user) => RevocationScope::User(user.clone()),
            Self::ClientId(client_id) => RevocationScope::ClientIds(BTreeSet::from([client_id.clone()])),
        }
    }

    fn reminder(&self) -> &'static str {
        match self {
            Self::Session(_) => {
                "Clerk goes on minting tokens for this session: revoke it in Clerk too, or access returns when the denial \
                 ends."
            }
            Self::User(_) | Self::ClientId(_) => {
                "Clerk goes on minting tokens for the user's sessions: ban the user or end the sessions in Clerk too, or \
                 access returns when the denial ends."
            }
        }
    }
}

impl DenialOutcome {
    /// Whether nothing is left to do.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::Lifted | Self::NotDenied | Self::DeniedByClerk)
    }
}

impl TargetReportOutcome {
    /// Whether nothing is left to do.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Accepted { .. } | Self::NotCalled)
    }
}

impl Report {
    fn warn(&mut self, warning: &str) {
        if !self.warnings.iter().any(|known| known == warning) {
            self.warnings.push(warning.to_owned());
        }
    }

    fn warn_incomplete(&mut self, warning: &str) {
        self.complete = false;
        self.warn(warning);
    }

    fn check_coverage(&mut self, coverage: Coverage) {
        if coverage == Coverage::ThisReplica {
            self.warn_incomplete("Redis cannot be used now: tokens that other replicas issued are not known");
        }
    }
}

impl Revocation {
    /// Carries out an operator request as far as possible now.
    pub async fn execute(
        &self,
        request: &RevocationRequest,
        now: UnixMillis,
    ) -> Result<Report, InvalidRevocationRequest> {
        let tenant = self.tenant_of(request)?;
        let (dry_run, tenant_name) = (request.dry_run, tenant.name.clone());
        let mut report = Report { dry_run, complete: true, tenant: tenant_name, ..Report::default() };
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
        report: &mut Report,
    ) {
        let is_any_denied = !denied.is_empty();
        // After the denial is recorded: from then on no token is issued.
        let (mut task, live) = self.make_task(tenant, request.target.scope(), now, now).await;
        task.denied = denied;
        report.check_coverage(live.coverage);
        let is_by_client_id = matches!(request.target, RequestedTarget::ClientId(_));
        let is_known = !live.live_tokens.is_empty() || is_by_client_id && is_any_denied;
        report.live_tokens = Some(match (&tenant.revocations, is_known) {
            (None, _) => LiveTokenKnowledge::NotNoted,
            (Some(_), true) => LiveTokenKnowledge::Known,
            (Some(_), false) => LiveTokenKnowledge::NoneKnown,
        });
        if task.targets.is_empty()
            && let RequestedTarget::User(user) = &request.target
        {
            task.targets.extend(tenant.target_of_cached(user));
        }
        let outcomes = match &tenant.revocations {
            _ if request.dry_run => vec![None; task.targets.len()],
            None => vec![Some(TargetReportOutcome::NotCalled); task.targets.len()],
            Some(queue) => self.revoke_and_report(queue, &task, repeat_at, now, report).await,
        };
        report.complete &= outcomes.iter().flatten().all(TargetReportOutcome::is_done);
        let allow_reauth_margin = task.margin == ReauthMargin::Reauthentication;
        let targets = task.targets.iter().map(ToString::to_string).zip(outcomes);
        report.targets =
            targets.map(|(target, outcome)| TargetReport { target, allow_reauth_margin, outcome }).collect();
        if tenant.revocations.is_none() {
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
        report: &mut Report,
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
    async fn enqueue_and_report(&self, task: StoredTask, now: UnixMillis, report: &mut Report) -> bool {
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

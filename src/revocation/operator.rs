//! Access that an operator ends: what is asked for, and the report of what came of it.
//!
//! Both travel as JSON between the `revoke` command and a running service. `docs/revocation.md` is their reference.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Revocation, RevocationScope, Task, task::retry_at};
use crate::{
    ably::{ClientId, ReauthMargin, RevokeOutcome, Target},
    clock::UnixMillis,
    store::{
        Coverage, DenialSource, LiveToken, LiveTokens, Recorded, Restriction, RestrictionKind, StoreError, Subject,
        TokenHolder,
    },
    tenant::{Tenant, TenantName},
};

/// An request as it is written. What cannot be in one together is found when it is made an [`RevocationRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevocationRequestBody {
    /// Whose session, user or client ID; may be left out where there is one tenant only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// `sess_…`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// `user_…`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Who somebody is on Ably.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// How long the denial lasts, with its unit; [`RevocationRequest::USUAL_DENIAL`] when left out.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasts: Option<String>,
    /// Whether a denial by hand is to end.
    #[serde(default)]
    pub lift: bool,
    /// Whether to tell what would be done only.
    #[serde(default)]
    pub dry_run: bool,
}

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationRequest {
    /// Whose session, user or client ID.
    pub tenant: Option<TenantName>,
    /// Whose access.
    pub target: RequestedTarget,
    /// What is to become of it.
    pub action: Action,
    /// Whether it is meant.
    pub run: Run,
}

/// RevocationScope an operator names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestedTarget {
    /// A Clerk session.
    Session(String),
    /// A Clerk user.
    User(String),
    /// Whoever has this client ID on Ably.
    ClientId(ClientId),
}

/// What is to become of somebody's access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It ends, and there is no new one for so long.
    Deny(Duration),
    /// A denial by hand ends.
    Lift,
}

/// Whether an request is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// It is carried out.
    Real,
    /// Nothing changes.
    Dry,
}

/// Why an request is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidRevocationRequest {
    /// It is no JSON object, or has a field that there is not, or a value of another type.
    Malformed,
    /// It names nobody, or several.
    NotOneSubject,
    /// What it names as a session is no session's id.
    NotASession,
    /// What it names as a user is no user's id.
    NotAUser,
    /// `client_id` is not a client ID that a token can have.
    NotAClientId,
    /// The span of time is none, or too long.
    Duration,
    /// It says both how long to deny and to lift.
    LastsAndLifts,
    /// There are several tenants, and it names none.
    WithoutTenant,
    /// There is no such tenant.
    NoSuchTenant,
}

/// What came of an request, or would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Whether all was done, or would be, that was to be done.
    pub complete: bool,
    /// Whose session, user or client ID.
    pub tenant: TenantName,
    /// Who is denied, or no more.
    pub denials: Vec<DenialReport>,
    /// Whether live tokens were known of whoever is named; left out where a denial is lifted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_tokens: Option<LiveTokenKnowledge>,
    /// What was to be revoked at Ably.
    pub targets: Vec<TargetReport>,
    /// When Ably is answers once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeated_at: Option<UnixMillis>,
    /// What may not be as the operator thinks: a sentence for each.
    pub warnings: Vec<String>,
    /// What is left for the operator to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reminder: Option<String>,
}

/// What became of a denial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenialReport {
    /// Whose.
    #[serde(flatten)]
    pub subject: Subject,
    /// What.
    #[serde(flatten)]
    pub outcome: DenialOutcome,
}

/// What became of a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum DenialOutcome {
    /// It holds.
    Denied {
        /// Its end, in milliseconds since the epoch.
        until: UnixMillis,
    },
    /// It holds at the replica that was asked; Redis could not be answers.
    DeniedHereOnly {
        /// Its end, in milliseconds since the epoch.
        until: UnixMillis,
    },
    /// In a dry run: it would hold.
    WouldBeDenied {
        /// Its end, in milliseconds since the epoch.
        until: UnixMillis,
    },
    /// It does not hold any more.
    Lifted,
    /// It does not hold any more at the replica that was asked; Redis could not be answers.
    LiftedHereOnly,
    /// In a dry run: it would not hold any more.
    WouldBeLifted,
    /// There was none.
    NotDenied,
    /// None by hand holds, but one by an event of Clerk's does.
    DeniedByClerk,
    /// Another request is newer, by the clock of the replica that took it.
    Superseded,
    /// There is no room for it.
    StoreFull,
}

/// What was known of the tokens of whoever is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LiveTokenKnowledge {
    /// Some are out.
    Known,
    /// None is known to be: nobody may have this id.
    NoneKnown,
    /// It is not noted which are out: the key has no revocable tokens, by the settings.
    NotNoted,
}

/// What became of a target at Ably.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetReport {
    /// As Ably writes it: `clientId:alice`.
    pub target: String,
    /// Whether clients have 30 seconds to fetch a new token, as Ably names it.
    pub allow_reauth_margin: bool,
    /// What Ably said.
    #[serde(flatten)]
    pub outcome: TargetReportOutcome,
}

/// What became of a target at Ably.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum TargetReportOutcome {
    /// Ably revokes its tokens.
    Accepted {
        /// From when on they are no good, in milliseconds since the epoch.
        applies_at: UnixMillis,
    },
    /// Ably does not, and will not by itself.
    Refused {
        /// Ably's code, if it gave one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<u32>,
    },
    /// Ably could not be asked; it is tried again.
    Unavailable,
    /// Ably could not be asked, and the store has no room for another attempt.
    GivenUp,
    /// Ably was not asked: the key has no revocable tokens, by the settings.
    NotCalled,
    /// In a dry run: Ably would be asked.
    WouldBeRevoked,
}

impl RevocationRequest {
    /// How long a denial lasts when the operator does not say.
    pub const USUAL_DENIAL: Duration = Duration::from_hours(24);
    const LONGEST_DENIAL: Duration = Duration::from_hours(30 * 24);

    /// Reads an request from JSON.
    pub fn parse(json: &[u8]) -> Result<Self, InvalidRevocationRequest> {
        // Serde would take a list of values for an object too.
        let object =
            json.trim_ascii_start().starts_with(b"{").then_some(json).ok_or(InvalidRevocationRequest::Malformed)?;
        let written: RevocationRequestBody =
            serde_json::from_slice(object).map_err(|_| InvalidRevocationRequest::Malformed)?;
        let tenant =
            written.tenant.map(TenantName::try_from).transpose().map_err(|_| InvalidRevocationRequest::NoSuchTenant)?;
        let target = match (written.session, written.user, written.client_id) {
            (Some(id), None, None) if !id.is_empty() => RequestedTarget::session(id)?,
            (None, Some(id), None) if !id.is_empty() => RequestedTarget::user(id)?,
            (None, None, Some(id)) if !id.is_empty() => RequestedTarget::client_id(id)?,
            _ => return Err(InvalidRevocationRequest::NotOneSubject),
        };
        let action = match (written.lift, written.lasts) {
            (true, None) => Action::Lift,
            (true, Some(_)) => return Err(InvalidRevocationRequest::LastsAndLifts),
            (false, None) => Action::Deny(Self::USUAL_DENIAL),
            (false, Some(text)) => Action::Deny(Self::duration(&text)?),
        };
        let run = if written.dry_run { Run::Dry } else { Run::Real };
        Ok(Self { tenant, target, action, run })
    }

    fn duration(text: &str) -> Result<Duration, InvalidRevocationRequest> {
        let duration = humantime::parse_duration(text).map_err(|_| InvalidRevocationRequest::Duration)?;
        let is_possible = (Duration::from_millis(1)..=Self::LONGEST_DENIAL).contains(&duration);
        if is_possible { Ok(duration) } else { Err(InvalidRevocationRequest::Duration) }
    }
}

impl RequestedTarget {
    /// The id, whatever it is one of.
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

    fn holder(&self) -> TokenHolder {
        match self {
            Self::Session(session) => TokenHolder::Session(session.clone()),
            Self::User(user) => TokenHolder::User(user.clone()),
            Self::ClientId(client_id) => TokenHolder::ClientId(client_id.as_str().to_owned()),
        }
    }

    /// Who is denied: nobody can be by a client ID, so it is the users who have it.
    fn subjects(&self, live: &[LiveToken]) -> Vec<Subject> {
        match self {
            Self::Session(session) => vec![Subject::Session(session.clone())],
            Self::User(user) => vec![Subject::User(user.clone())],
            Self::ClientId(_) => {
                let users: BTreeSet<_> = live.iter().map(|live_token| &live_token.user).collect();
                users.into_iter().map(|user| Subject::User(user.clone())).collect()
            }
        }
    }

    /// The session with this ID, if it can be one: a denial of nobody would look like one of somebody.
    fn session(id: String) -> Result<Self, InvalidRevocationRequest> {
        if is_id("sess_", &id) { Ok(Self::Session(id)) } else { Err(InvalidRevocationRequest::NotASession) }
    }

    fn user(id: String) -> Result<Self, InvalidRevocationRequest> {
        if is_id("user_", &id) { Ok(Self::User(id)) } else { Err(InvalidRevocationRequest::NotAUser) }
    }

    fn client_id(id: String) -> Result<Self, InvalidRevocationRequest> {
        ClientId::parse(id).map(Self::ClientId).map_err(|_| InvalidRevocationRequest::NotAClientId)
    }

    fn reminder(&self) -> &'static str {
        match self {
            Self::Session(_) => {
                "Clerk goes on minting tokens for this session: revoke it in Clerk too, or access is back when the denial \
                 ends."
            }
            Self::User(_) | Self::ClientId(_) => {
                "Clerk goes on minting tokens for the user's sessions: ban the user in Clerk, or end their sessions there, \
                 or access is back when the denial ends."
            }
        }
    }
}

/// Whether a text has the form of Clerk's IDs.
fn is_id(prefix: &str, text: &str) -> bool {
    let is_one = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric());
    text.strip_prefix(prefix).is_some_and(is_one)
}

impl DenialOutcome {
    fn is_as_wanted(&self) -> bool {
        match self {
            Self::Denied { .. }
            | Self::WouldBeDenied { .. }
            | Self::Lifted
            | Self::WouldBeLifted
            | Self::NotDenied
            | Self::DeniedByClerk => true,
            Self::DeniedHereOnly { .. } | Self::LiftedHereOnly | Self::Superseded | Self::StoreFull => false,
        }
    }
}

impl TargetReportOutcome {
    /// Whether nothing is left to do that could be done.
    fn is_as_wanted(&self) -> bool {
        !matches!(self, Self::Refused { .. } | Self::Unavailable | Self::GivenUp)
    }
}

impl From<RevokeOutcome> for TargetReportOutcome {
    fn from(answers: RevokeOutcome) -> Self {
        match answers {
            RevokeOutcome::Accepted { applies_at } => Self::Accepted { applies_at },
            RevokeOutcome::Refused { code } => Self::Refused { code },
            RevokeOutcome::Unavailable { .. } => Self::Unavailable,
        }
    }
}

impl Report {
    fn new(tenant: TenantName, run: Run) -> Self {
        Self {
            dry_run: run == Run::Dry,
            complete: true,
            tenant,
            denials: Vec::new(),
            live_tokens: None,
            targets: Vec::new(),
            repeated_at: None,
            warnings: Vec::new(),
            reminder: None,
        }
    }

    /// Adds a warning, unless it is there.
    fn warn(&mut self, warning: &str) {
        if !self.warnings.iter().any(|known| known == warning) {
            self.warnings.push(warning.to_owned());
        }
    }

    /// Adds a warning of what keeps the request from being complete.
    fn falls_short(&mut self, warning: &str) {
        self.complete = false;
        self.warn(warning);
    }

    fn note_coverage(&mut self, coverage: Coverage) {
        if coverage == Coverage::ThisReplica {
            self.falls_short("Redis cannot be used now: tokens that other replicas have issued are not known");
        }
    }

    /// Whether there was somebody to deny, and all is as wanted.
    fn is_as_wanted(&self) -> bool {
        !self.denials.is_empty()
            && self.denials.iter().all(|denial| denial.outcome.is_as_wanted())
            && self.targets.iter().all(|revoked| revoked.outcome.is_as_wanted())
    }
}

impl Revocation {
    /// Carries out an operator's request, as far as that is possible now, and tells what came of it.
    pub async fn operator(
        &self,
        request: &RevocationRequest,
        now: UnixMillis,
    ) -> Result<Report, InvalidRevocationRequest> {
        let tenant = self.tenant_of(request)?;
        let mut report = Report::new(tenant.name.clone(), request.run);
        let subjects = match &request.target {
            RequestedTarget::ClientId(_) => {
                let LiveTokens { live_tokens, coverage } =
                    self.store.live_tokens(&tenant.name, &request.target.holder(), now).await;
                report.note_coverage(coverage);
                request.target.subjects(&live_tokens)
            }
            target => target.subjects(&[]),
        };
        for subject in &subjects {
            let outcome = self.rule(tenant, subject, request, now).await;
            report.denials.push(DenialReport { subject: subject.clone(), outcome });
        }
        match request.action {
            Action::Deny(lasts) => {
                // What is over by then is not repeated.
                let again = now.after(Self::AGAIN_AFTER);
                let again = (subjects.is_empty() || now.after(lasts) > again).then_some(again);
                self.revoke_requested(tenant, request, subjects, again, now, &mut report).await;
                report.reminder = Some(request.target.reminder().to_owned());
            }
            Action::Lift if subjects.is_empty() => {
                report.warn("no live token with this client ID is known, so nobody is found by it: lift by user");
            }
            Action::Lift => {}
        }
        report.complete &= report.is_as_wanted();
        Ok(report)
    }

    fn tenant_of(&self, request: &RevocationRequest) -> Result<&Tenant, InvalidRevocationRequest> {
        match &request.tenant {
            Some(name) => self.tenants.named(name).ok_or(InvalidRevocationRequest::NoSuchTenant),
            None => self.tenants.only().ok_or(InvalidRevocationRequest::WithoutTenant),
        }
    }

    /// Has a denial hold, or not.
    async fn rule(
        &self,
        tenant: &Tenant,
        subject: &Subject,
        request: &RevocationRequest,
        now: UnixMillis,
    ) -> DenialOutcome {
        let is_denied = || self.store.restrictions().denies(&tenant.name, subject, now);
        let was_denied = is_denied();
        let (kind, until) = match request.action {
            Action::Deny(lasts) => (RestrictionKind::Denied(DenialSource::Operator), now.after(lasts)),
            Action::Lift => (RestrictionKind::Lifted(DenialSource::Operator), now),
        };
        let recorded = match request.run {
            Run::Real => {
                let restriction =
                    Restriction { tenant: tenant.name.clone(), subject: subject.clone(), kind, at: now, until };
                Some(self.store.record(restriction, now).await)
            }
            Run::Dry => None,
        };
        match (request.action, recorded) {
            (_, Some(Ok(Recorded::Outdated))) => DenialOutcome::Superseded,
            (_, Some(Err(StoreError::Full))) => DenialOutcome::StoreFull,
            (Action::Deny(_), Some(Ok(_))) => DenialOutcome::Denied { until },
            (Action::Deny(_), Some(Err(StoreError::Unavailable))) => DenialOutcome::DeniedHereOnly { until },
            (Action::Deny(_), None) => DenialOutcome::WouldBeDenied { until },
            (Action::Lift, Some(Err(StoreError::Unavailable))) => DenialOutcome::LiftedHereOnly,
            (Action::Lift, _) if !was_denied => DenialOutcome::NotDenied,
            (Action::Lift, Some(Ok(_))) if is_denied() => DenialOutcome::DeniedByClerk,
            (Action::Lift, Some(Ok(_))) => DenialOutcome::Lifted,
            (Action::Lift, None) => DenialOutcome::WouldBeLifted,
        }
    }

    async fn revoke_requested(
        &self,
        tenant: &Tenant,
        request: &RevocationRequest,
        denied: Vec<Subject>,
        again: Option<UnixMillis>,
        now: UnixMillis,
        report: &mut Report,
    ) {
        let nobody = denied.is_empty();
        // After the denial: a token that was issued until then is among them.
        let mut pending = self.pending(tenant, request.target.scope(), now, now).await;
        report.note_coverage(pending.coverage);
        // Whoever is denied by a client ID is so because tokens with it are known.
        let is_known = match request.target {
            RequestedTarget::ClientId(_) => !nobody,
            RequestedTarget::Session(_) | RequestedTarget::User(_) => pending.any_known,
        };
        report.live_tokens = Some(match &tenant.revocations {
            None => LiveTokenKnowledge::NotNoted,
            Some(_) if is_known => LiveTokenKnowledge::Known,
            Some(_) => LiveTokenKnowledge::NoneKnown,
        });
        if pending.targets.is_empty()
            && let RequestedTarget::User(user) = &request.target
        {
            pending.targets.extend(tenant.target_of_remembered(user));
        }
        let (targets, margin) = (pending.targets.clone(), pending.margin);
        let outcomes = match (&tenant.revocations, request.run) {
            (None, _) => vec![TargetReportOutcome::NotCalled; targets.len()],
            (Some(_), Run::Dry) => vec![TargetReportOutcome::WouldBeRevoked; targets.len()],
            (Some(queue), Run::Real) => {
                pending.denied = denied;
                let task = Task::new(tenant, pending, now);
                if let Some(again) = again {
                    report.repeated_at = match self.enqueue_requested(&task, "again", again, now, report).await {
                        Queued::Waits => Some(again),
                        Queued::NoRoom => None,
                    };
                }
                let answers = queue.revoke(&task.targets, margin, now).await;
                let mut outcomes: Vec<_> = answers.iter().copied().map(TargetReportOutcome::from).collect();
                if let Some(rest) = task.rest(&answers) {
                    let due = retry_at(&answers, now, now);
                    if self.enqueue_requested(&rest, "first", due, now, report).await == Queued::NoRoom {
                        let unavailable = |outcome: &&mut _| **outcome == TargetReportOutcome::Unavailable;
                        outcomes
                            .iter_mut()
                            .filter(unavailable)
                            .for_each(|outcome| *outcome = TargetReportOutcome::GivenUp);
                    }
                }
                outcomes
            }
        };
        let revoked = |(target, outcome): (&Target, TargetReportOutcome)| TargetReport {
            target: target.to_string(),
            allow_reauth_margin: margin == ReauthMargin::Reauthentication,
            outcome,
        };
        report.targets = targets.iter().zip(outcomes).map(revoked).collect();
        if tenant.revocations.is_none() {
            report.warn(
                "revocable_tokens is not true, so that Ably is not answers, and it is not noted which tokens are out: \
                 connections last until their tokens end",
            );
        } else if targets.is_empty() {
            report.warn(
                "no live token is known, so that there is nothing to name to Ably. Tokens from before a start of a \
                 service without Redis are not known: revoke them by client ID",
            );
        }
        if tenant.revocations.is_some() && again.is_none() {
            report.warn(
                "the denial is over before Ably would be answers once more, so that it is not: a token request that was \
                 signed before can outlast it",
            );
        }
        if nobody {
            report.warn(
                "no live token with this client ID is known, so that nobody is denied: who has it gets a new token at \
                 once. Deny by user too",
            );
        }
    }

    async fn enqueue_requested(
        &self,
        task: &Task,
        turn: &str,
        due: UnixMillis,
        now: UnixMillis,
        report: &mut Report,
    ) -> Queued {
        match self.store.enqueue(task.as_work(turn, due), now).await {
            Ok(()) => Queued::Waits,
            Err(StoreError::Unavailable) => {
                report.falls_short("Redis cannot be used now: what is left to do is known to one replica only");
                Queued::Waits
            }
            Err(StoreError::Full) => {
                report.falls_short("the store is full: not all that is left to do is stored. Give the request again");
                Queued::NoRoom
            }
        }
    }
}

/// Whether work that is to be done later will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queued {
    /// Here, at least.
    Waits,
    NoRoom,
}

#[cfg(test)]
mod tests;

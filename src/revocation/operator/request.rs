//! An operator request, as the options of `revoke` and as JSON.

use std::time::Duration;

use clap::{ArgGroup, Args};
use serde::{Deserialize, Serialize};

use crate::{
    ably::ClientId,
    clock::UnixMillis,
    revocation::RevocationScope,
    store::{DenialSource, Restriction, RestrictionKind, Subject},
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
    /// Whose access ends, or returns: a session, a user, or the users with a client ID.
    pub target: RevocationScope,
    /// What it does.
    pub action: Action,
    /// Whether it only reports what would happen.
    pub dry_run: bool,
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
    /// The target is missing, or there are several.
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
    /// There are several tenants, and `tenant` is missing.
    WithoutTenant,
    /// `tenant` is unknown.
    NoSuchTenant,
}

impl RevocationRequest {
    /// How long a denial lasts by default.
    pub const DEFAULT_DENIAL: Duration = Duration::from_hours(24);
    const LONGEST_DENIAL: Duration = Duration::from_hours(30 * 24);

    /// Reads a request from JSON.
    pub fn parse(json: &[u8]) -> Result<Self, InvalidRevocationRequest> {
        use InvalidRevocationRequest as Invalid;

        // Serde would also read a list as an object.
        let object = json.trim_ascii_start().starts_with(b"{").then_some(json).ok_or(Invalid::Malformed)?;
        let body: RevocationRequestBody = serde_json::from_slice(object).map_err(|_| Invalid::Malformed)?;
        let tenant = body.tenant.map(TenantName::try_from).transpose().map_err(|_| Invalid::NoSuchTenant)?;
        if [&body.session, &body.user, &body.client_id].into_iter().flatten().any(String::is_empty) {
            return Err(Invalid::NotOneSubject);
        }
        let target = match (body.session, body.user, body.client_id) {
            (Some(id), None, None) => clerk_scope(Subject::Session, "sess_", id).ok_or(Invalid::NotASession)?,
            (None, Some(id), None) => clerk_scope(Subject::User, "user_", id).ok_or(Invalid::NotAUser)?,
            (None, None, Some(id)) => RevocationScope::ClientId(ClientId::parse(id).or(Err(Invalid::NotAClientId))?),
            _ => return Err(Invalid::NotOneSubject),
        };
        let possible = Duration::from_millis(1)..=Self::LONGEST_DENIAL;
        let action = match (body.lift, body.duration.as_deref().map(humantime::parse_duration)) {
            (true, None) => Action::Lift,
            (true, Some(_)) => return Err(Invalid::LastsAndLifts),
            (false, None) => Action::Deny(Self::DEFAULT_DENIAL),
            (false, Some(Ok(duration))) if possible.contains(&duration) => Action::Deny(duration),
            (false, Some(_)) => return Err(Invalid::Duration),
        };
        Ok(Self { tenant, target, action, dry_run: body.dry_run })
    }

    /// What the operator still has to do in Clerk.
    pub(super) fn reminder(&self) -> &'static str {
        if matches!(self.target, RevocationScope::Of(Subject::Session(_))) {
            "Clerk goes on minting tokens for this session: revoke it in Clerk too, or access returns when the denial ends."
        } else {
            "Clerk goes on minting tokens for the user's sessions: ban the user or end the sessions in Clerk too, or \
             access returns when the denial ends."
        }
    }

    /// What it says of a session or user. `session_user` is the user of the session, if known.
    pub(super) fn restriction(
        &self,
        tenant: &Tenant,
        subject: &Subject,
        session_user: Option<String>,
        now: UnixMillis,
    ) -> Restriction {
        let (kind, until) = match self.action {
            Action::Deny(duration) => (RestrictionKind::Denied(DenialSource::Operator), now.after(duration)),
            Action::Lift => (RestrictionKind::Lifted(DenialSource::Operator), now),
        };
        let (tenant, subject) = (tenant.name.clone(), subject.clone());
        Restriction { tenant, subject, kind, at: now, until, session_user }
    }
}

/// The scope of a subject if its ID looks like Clerk's. The store would accept any text, so this finds misspelled IDs.
fn clerk_scope(subject: fn(String) -> Subject, prefix: &str, id: String) -> Option<RevocationScope> {
    let rest = id.strip_prefix(prefix)?;
    let is_valid = !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_valid.then(|| RevocationScope::Of(subject(id)))
}

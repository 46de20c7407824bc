//! A revocation task: the rest of a revocation, waiting in the store.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::effect::RevocationScope;
use crate::{
    ably::{ReauthMargin, RevokeOutcome, Target, retry_of_target},
    clock::UnixMillis,
    store::{Coverage, Restriction, StoredTask, Subject},
    tenant::{Tenant, TenantName},
};

/// Tokens to be revoked, as it waits in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) tenant: TenantName,
    pub(super) scope: RevocationScope,
    pub(super) margin: ReauthMargin,
    /// What was to be revoked when the event came.
    pub(super) targets: Vec<Target>,
    /// Whether what came after it is to be revoked too.
    pub(super) look_up: LookUp,
    /// The event's timestamp.
    pub(super) at: UnixMillis,
    /// When every token that it is about has ended by itself.
    pub(super) over: UnixMillis,
    /// Whether it is the rest of a revocation of which Ably refused some.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_rest_of_refused: bool,
    /// RevocationScope an operator denied: when none of them is any more, it is not to be revoked again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) denied: Vec<Subject>,
}

/// Whether the tokens that are out are looked up when a task is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LookUp {
    /// They are, and revoked with what was known before.
    Again,
    /// What was known before is all.
    Never,
}

/// Tokens that are to end.
#[derive(Clone, Debug)]
pub(super) struct PendingRevocation {
    pub(super) scope: RevocationScope,
    pub(super) margin: ReauthMargin,
    /// What is to be revoked of what is known to be out.
    pub(super) targets: Vec<Target>,
    /// Whether any are known to be out.
    pub(super) any_known: bool,
    /// Whose tokens that is.
    pub(super) coverage: Coverage,
    /// The timestamp of the event.
    pub(super) at: UnixMillis,
    /// RevocationScope an operator denied, if it is an operator's doing.
    pub(super) denied: Vec<Subject>,
}

impl Task {
    /// A token that can be revoked lives for an hour at most (40003 above it).
    pub(super) const LONGEST_LIFE: Duration = Duration::from_hours(1);

    pub(super) fn new(tenant: &Tenant, pending: PendingRevocation, now: UnixMillis) -> Self {
        let PendingRevocation { scope, margin, targets, at, denied, any_known: _, coverage: _ } = pending;
        // For as long as the denial lasts, a replica that has not heard of it may issue more.
        let over = now.after(tenant.tokens_end_within());
        let tenant = tenant.name.clone();
        Self { tenant, scope, margin, targets, look_up: LookUp::Again, at, over, is_rest_of_refused: false, denied }
    }

    /// What is left of it by what Ably said of its targets; none if nothing is.
    pub(super) fn rest(&self, outcomes: &[RevokeOutcome]) -> Option<Self> {
        let unavailable = self
            .targets
            .iter()
            .zip(outcomes)
            .filter(|(_, outcomes)| matches!(outcomes, RevokeOutcome::Unavailable { .. }));
        let targets: Vec<_> = unavailable.map(|(target, _)| target.clone()).collect();
        let is_rest_of_refused = self.is_rest_of_refused || outcomes.iter().any(RevokeOutcome::is_refused);
        if targets.is_empty() {
            return None;
        }
        Some(Self { targets, look_up: LookUp::Never, is_rest_of_refused, ..self.clone() })
    }

    /// Under a name of its own, by the work whose rest it is.
    pub(super) fn as_rest_of(&self, work: &StoredTask, due: UnixMillis) -> StoredTask {
        let whole = work.id.split("/rest/").next().unwrap_or_default();
        StoredTask { id: format!("{whole}/rest/{}", due.0), ..self.as_work("", due) }
    }

    pub(super) fn as_work(&self, turn: &str, due: UnixMillis) -> StoredTask {
        let payload = serde_json::to_string(self).unwrap_or_default();
        StoredTask { id: format!("{}/{turn}", self.effect()), due, payload }
    }

    /// What this revocation is called, in whatever delivery and however often its event comes.
    pub(super) fn effect(&self) -> String {
        let scope = serde_json::to_string(&self.scope).unwrap_or_default();
        format!("{}/{scope}/{}", self.tenant, self.at.0)
    }

    /// What it is called that Ably refuses to revoke the tokens under a user's former names: the same for every event that
    /// tells the name.
    pub(super) fn refused_rename(&self) -> Option<String> {
        matches!(self.scope, RevocationScope::FormerClientIds { .. }).then(|| refused_rename(&self.tenant, &self.scope))
    }

    /// Until when the service knows that this revocation is done: as long as it knows the event's timestamp.
    pub(super) fn remembered_until(&self, now: UnixMillis) -> UnixMillis {
        self.over.max(now.after(Restriction::REMEMBERED_FOR))
    }
}

/// See [`Task::refused_rename`].
pub(super) fn refused_rename(tenant: &TenantName, scope: &RevocationScope) -> String {
    format!("{tenant}/refused/{}", serde_json::to_string(scope).unwrap_or_default())
}

/// When to retry what Ably did not take, first due at `first_due`.
pub(super) fn retry_at(outcomes: &[RevokeOutcome], first_due: UnixMillis, now: UnixMillis) -> UnixMillis {
    let next_calls = outcomes.iter().filter_map(|outcomes| match outcomes {
        RevokeOutcome::Unavailable { retry_at } => *retry_at,
        RevokeOutcome::Accepted { .. } | RevokeOutcome::Refused { .. } => None,
    });
    next_calls.max().unwrap_or_else(|| retry_of_target(first_due, now))
}

//! A revocation task: a revocation at Ably that waits in the store.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::RevocationScope;
use crate::{
    ably::{ReauthMargin, RevokeOutcome, Target, retry_of_target},
    clock::UnixMillis,
    store::{Restriction, StoredTask, Subject},
    tenant::{Tenant, TenantName},
};

/// A revocation at Ably.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) tenant: TenantName,
    pub(super) scope: RevocationScope,
    /// The user of the session in the scope, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) session_user: Option<String>,
    pub(super) margin: ReauthMargin,
    pub(super) targets: Vec<Target>,
    /// Whether live tokens are looked up again when the task is performed, for further targets.
    pub(super) looks_up: bool,
    /// The event's timestamp.
    pub(super) at: UnixMillis,
    /// When the last token in the scope has expired.
    pub(super) until: UnixMillis,
    /// Whether Ably refused other targets of the same revocation.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_partly_refused: bool,
    /// The subjects that an operator denied. Once all these denials are lifted, the task is skipped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) denied: Vec<Subject>,
}

impl Task {
    /// A revocable token lives for an hour at most: Ably refuses a longer one with 40003.
    pub(super) const LONGEST_TOKEN: Duration = Duration::from_hours(1);

    pub(super) fn new(
        tenant: &Tenant,
        scope: RevocationScope,
        targets: Vec<Target>,
        at: UnixMillis,
        now: UnixMillis,
    ) -> Self {
        let margin = scope.margin(tenant.format());
        // A replica that does not know of the denial may issue tokens until the denial ends.
        let until = now.after(tenant.tokens_end_within());
        let (tenant, denied) = (tenant.name.clone(), Vec::new());
        let (session_user, looks_up, is_partly_refused) = (None, true, false);
        Self { tenant, scope, session_user, margin, targets, looks_up, at, until, is_partly_refused, denied }
    }

    /// The task without the targets that Ably has revoked or refused. `None` if no target is left.
    pub(super) fn remaining(&self, outcomes: &[RevokeOutcome]) -> Option<Self> {
        let targets = self.targets.iter().zip(outcomes);
        let unavailable = targets.filter(|(_, outcome)| matches!(outcome, RevokeOutcome::Unavailable { .. }));
        let targets: Vec<_> = unavailable.map(|(target, _)| target.clone()).collect();
        let is_partly_refused = self.is_partly_refused || is_any_refused(outcomes);
        (!targets.is_empty()).then(|| Self { targets, looks_up: false, is_partly_refused, ..self.clone() })
    }

    /// The task as it is stored. `name` tells it apart from other tasks of the same revocation.
    pub(super) fn stored(&self, name: &str, due: UnixMillis) -> StoredTask {
        let payload = serde_json::to_string(self).unwrap_or_default();
        StoredTask { id: format!("{}/{name}", self.idempotency_key()), due, payload }
    }

    /// What remains of a stored task, under its own ID.
    pub(super) fn stored_remainder(&self, of: &StoredTask, due: UnixMillis) -> StoredTask {
        let whole = of.id.split("/rest/").next().unwrap_or_default();
        StoredTask { id: format!("{whole}/rest/{}", due.0), ..self.stored("", due) }
    }

    /// The same for every delivery of the event.
    pub(super) fn idempotency_key(&self) -> String {
        format!("{}/{}/{}", self.tenant, json(&self.scope), self.at.0)
    }

    /// See [`refused_rename_key`]. `None` if the task is not for a change of client ID.
    pub(super) fn refused_rename_key(&self) -> Option<String> {
        self.scope.is_rename().then(|| refused_rename_key(&self.tenant, &self.scope))
    }

    /// How long the store remembers that the revocation is done: as long as it remembers the event.
    pub(super) fn remembered_until(&self, now: UnixMillis) -> UnixMillis {
        self.until.max(now.after(Restriction::REMEMBERED_FOR))
    }
}

/// The key that marks a change of client ID whose revocation Ably refused: the same for every event with this client ID.
pub(super) fn refused_rename_key(tenant: &TenantName, scope: &RevocationScope) -> String {
    format!("{tenant}/refused/{}", json(scope))
}

fn json(scope: &RevocationScope) -> String {
    serde_json::to_string(scope).unwrap_or_default()
}

pub(super) fn is_any_refused(outcomes: &[RevokeOutcome]) -> bool {
    outcomes.iter().any(RevokeOutcome::is_refused)
}

/// When to retry the unavailable targets of a task that was first due at `first_due`.
pub(super) fn retry_at(outcomes: &[RevokeOutcome], first_due: UnixMillis, now: UnixMillis) -> UnixMillis {
    let next_calls = outcomes.iter().filter_map(|outcome| match outcome {
        RevokeOutcome::Unavailable { retry_at } => *retry_at,
        RevokeOutcome::Accepted { .. } | RevokeOutcome::Refused { .. } => None,
    });
    next_calls.max().unwrap_or_else(|| retry_of_target(first_due, now))
}

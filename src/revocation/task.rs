//! A revocation task: a revocation at Ably that waits in the store.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use super::scope::{RevocationScope, SignedTarget};
use crate::{
    ably::{RevokeOutcome, Target},
    clock::UnixMillis,
    store::{LiveTokens, QueuedTask, StoredTask, Subject},
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
    /// What to revoke if no live token is known although there may be some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expected: Option<Target>,
    /// What Ably has not revoked yet. `None`: what a look-up finds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) left: Option<BTreeSet<SignedTarget>>,
    /// The event's timestamp.
    pub(super) at: UnixMillis,
    /// When the last token in the scope has expired.
    pub(super) until: UnixMillis,
    /// The subjects that an operator denied. Once all these denials are lifted, the task is skipped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) denied: Vec<Subject>,
}

impl Task {
    /// How long after a revocation it is repeated. A token request can be exchanged for two minutes, and clocks differ.
    pub(super) const REPEAT_AFTER: Duration = Duration::from_secs(150);
    /// A revocable token lives for an hour at most: Ably refuses a longer one with 40003.
    pub(super) const LONGEST_TOKEN: Duration = Duration::from_hours(1);

    pub(super) fn new(tenant: &Tenant, scope: RevocationScope, at: UnixMillis, now: UnixMillis) -> Self {
        // A replica that does not know of the denial may issue tokens until the denial ends.
        let until = now.after(tenant.tokens_end_within());
        let (tenant, denied) = (tenant.name.clone(), Vec::new());
        Self { tenant, scope, session_user: None, expected: None, left: None, at, until, denied }
    }

    /// The first revocation, claimed by the replica that stores it.
    pub(super) fn first(&self, now: UnixMillis) -> QueuedTask {
        self.queued("first", now, now.after(StoredTask::LEASE))
    }

    /// The second revocation.
    pub(super) fn again(&self, now: UnixMillis) -> QueuedTask {
        let due = now.after(Self::REPEAT_AFTER);
        self.queued("again", due, due)
    }

    /// The task as it waits in the store. Its ID is the same for every delivery of the event; `name` tells it apart from other
    /// tasks of the same revocation.
    pub(super) fn queued(&self, name: &str, due: UnixMillis, claimable: UnixMillis) -> QueuedTask {
        let scope = serde_json::to_string(&self.scope).unwrap_or_default();
        let id = format!("{}/{scope}/{}/{name}", self.tenant, self.at.0);
        QueuedTask { task: StoredTask { id, due, payload: self.payload() }, claimable }
    }

    pub(super) fn payload(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What came of a task.
pub(super) struct Performed {
    pub(super) outcomes: Vec<(SignedTarget, RevokeOutcome)>,
    pub(super) live: LiveTokens,
    /// What is left of it, and when to go on.
    pub(super) left: Option<(String, UnixMillis)>,
}

impl Performed {
    pub(super) fn nothing(left: Option<(String, UnixMillis)>) -> Self {
        Self { outcomes: Vec::new(), live: LiveTokens::NONE, left }
    }
}

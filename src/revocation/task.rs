//! A revocation task: a revocation at Ably that waits in the store.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use super::scope::{RevocationScope, SignedTarget};
use crate::{
    ably::{RevokeOutcome, Target},
    clock::UnixMillis,
    store::{DenialSource, LiveTokens, QueuedTask, Restriction, RestrictionKind, StoredTask, Subject},
    tenant::{Tenant, TenantName},
};

/// A revocation at Ably.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) tenant: TenantName,
    pub(super) scope: RevocationScope,
    /// The user of the session in the scope, if known.
    pub(super) session_user: Option<String>,
    /// What to revoke if no live token is known although there may be some.
    pub(super) expected: Option<Target>,
    /// What Ably has not revoked yet. `None`: what a look-up finds.
    pub(super) unrevoked: Option<BTreeSet<SignedTarget>>,
    /// The event's timestamp.
    pub(super) at: UnixMillis,
    /// When the last token in the scope has expired.
    pub(super) until: UnixMillis,
    /// The denials that it follows from. Once all of them are lifted, the task is skipped.
    pub(super) denials: Vec<(Subject, DenialSource)>,
}

impl Task {
    /// How long after a revocation it is repeated. A token request can be exchanged for two minutes, and clocks differ.
    pub(super) const REPEAT_AFTER: Duration = Duration::from_secs(150);
    /// A revocable token lives for an hour at most: Ably refuses a longer one with 40003.
    pub(super) const LONGEST_TOKEN: Duration = Duration::from_hours(1);

    /// The revocation that follows from a restriction, if it ends tokens and the tenant's can be revoked.
    pub(super) fn of(restriction: &Restriction, tenant: &Tenant, now: UnixMillis) -> Option<Self> {
        let scope = RevocationScope::of(restriction).filter(|_| tenant.is_revocable())?;
        let denials = match restriction.kind {
            RestrictionKind::Denied(source) => vec![(restriction.subject.clone(), source)],
            _ => Vec::new(),
        };
        Some(Self { denials, ..Self::new(tenant, scope, restriction.at, now) })
    }

    pub(super) fn new(tenant: &Tenant, scope: RevocationScope, at: UnixMillis, now: UnixMillis) -> Self {
        // A replica that does not know of the denial may issue tokens until the denial ends.
        let until = now.after(tenant.tokens_end_within());
        let (tenant, denials) = (tenant.name.clone(), Vec::new());
        Self { tenant, scope, session_user: None, expected: None, unrevoked: None, at, until, denials }
    }

    /// The first revocation and the second, for any replica to perform. `name` is part of their IDs.
    pub(super) fn queued(&self, name: &str, now: UnixMillis) -> [QueuedTask; 2] {
        let scope = serde_json::to_string(&self.scope).unwrap_or_default();
        [("first", now), ("again", now.after(Self::REPEAT_AFTER))].map(|(turn, due)| {
            let id = format!("{}/{scope}/{}/{name}/{turn}", self.tenant, self.at.0);
            QueuedTask { task: StoredTask { id, due, payload: self.payload() }, claimable: due }
        })
    }

    /// The same, but this replica has claimed the first. Their IDs are the same for every delivery of an event.
    pub(super) fn claimed(&self, now: UnixMillis) -> [QueuedTask; 2] {
        let [first, again] = self.queued("event", now);
        [QueuedTask { claimable: now.after(StoredTask::LEASE), ..first }, again]
    }

    pub(super) fn payload(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What came of a task.
pub(super) struct Performed {
    pub(super) outcomes: Vec<(SignedTarget, RevokeOutcome)>,
    pub(super) live: LiveTokens,
    /// When to go on. `None`: everything is done.
    pub(super) retry_at: Option<UnixMillis>,
}

impl Performed {
    pub(super) const NOTHING: Self = Self { outcomes: Vec::new(), live: LiveTokens::NONE, retry_at: None };
}

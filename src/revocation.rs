//! Revocation: access that ends at Clerk, or by an operator request, ends at Ably.
//!
//! [`Revocation::apply`] takes an event from Clerk:
//! 1. It records restrictions, so that no new tokens are issued, and with them the two tasks that follow. This comes first,
//!    because clients ask for a new token as soon as theirs is revoked, and because the process may stop at any moment.
//! 2. It performs the first task: it revokes the live tokens at Ably.
//!
//! The second task revokes again after [`Revocation::REPEAT_AFTER`]: a client can exchange a token request for two minutes
//! after it was signed, and the first revocation does not cover that token. [`Revocation::perform_tasks`] performs it, and
//! whatever Ably has not revoked.
//! [`operator`] has the same steps for operator requests.

pub mod operator;
mod perform;
mod task;

use std::{iter, slice, sync::Arc, time::Duration};

pub use task::RevocationScope;
use task::{Performed, Task};

use crate::{
    ably::{ClientId, RevokeOutcome, Target, TokenFormat},
    clerk::{Change, Event},
    clock::{self, UnixMillis},
    store::{
        ClientIdDigest, DenialSource, RecordOutcome, Restriction, RestrictionKind, Store, StoreError, StoredTask,
        Subject, TasksOf, Topic,
    },
    tenant::{Tenant, TenantName, Tenants},
};

/// Ends access of the users of all tenants.
#[derive(Debug)]
pub struct Revocation {
    store: Arc<Store>,
    tenants: Arc<Tenants>,
    started_at: UnixMillis,
}

/// The outcome of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The event took effect, or what is left of it is stored as tasks.
    InForce,
    /// A newer event came before it.
    Outdated,
}

/// Why Clerk has to deliver an event again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incomplete {
    /// A restriction or task is not stored, or other replicas may have issued tokens that this one does not know.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Ably did not revoke the tokens yet, and the retry would be lost with this process.
    #[error("Ably cannot revoke tokens now")]
    Ably,
}

impl Revocation {
    /// How long after a revocation it is repeated.
    pub const REPEAT_AFTER: Duration = Task::REPEAT_AFTER;

    /// Ends access with the restrictions and tasks of `store`. The service starts `now`.
    #[must_use]
    pub fn new(store: Arc<Store>, tenants: Arc<Tenants>, now: UnixMillis) -> Self {
        Self { store, tenants, started_at: now }
    }

    /// Applies an event. After `Ok`, Clerk need not deliver it again.
    ///
    /// If one step fails, the others are still taken.
    pub async fn apply(&self, tenant: &TenantName, event: &Event, now: UnixMillis) -> Result<Applied, Incomplete> {
        let Some(tenant) = self.tenants.named(tenant) else { return Ok(Applied::InForce) };
        // The tokens that it ends have expired, and the store may have forgotten a newer event that undid it.
        if event.at.after(tenant.tokens_end_within().max(Restriction::REMEMBERED_FOR)) < now {
            return Ok(Applied::Outdated);
        }
        let (mut result, mut is_outdated, mut tasks) = (Ok(()), false, Vec::new());
        for told in restrictions_of(event, tenant, now) {
            let mut ending = Vec::from_iter(tasks_of(event, tenant, &told, now));
            let recorded = self.store.record(slice::from_ref(&told), &ending.concat(), now).await;
            is_outdated |= recorded.as_ref().is_ok_and(|recorded| recorded.contains(&RecordOutcome::Outdated));
            result = result.and(recorded.map(drop));
            // Recording has told the newer client ID. Its event has not ended the tokens with the one of this event.
            if let Some(newer) = self.newer_client_id(&told) {
                let late = Vec::from_iter(tasks_of(event, tenant, &newer, now));
                result = result.and(self.store.record(&[], &late.concat(), now).await.map(drop));
                ending.extend(late);
            }
            tasks.extend(ending);
        }
        let mut result = result.map_err(Incomplete::from);
        for [first, _] in tasks {
            if let Some(claimed) = self.claim_first(&first, now).await {
                result = result.and(self.require_revoked(&self.perform(claimed, now).await));
            }
        }
        result.map(|()| if is_outdated { Applied::Outdated } else { Applied::InForce })
    }

    /// The user's client ID by a newer event, if it is another.
    fn newer_client_id(&self, told: &Restriction) -> Option<Restriction> {
        let latest = self.store.restrictions().latest(&told.tenant, &told.subject, Topic::ClientId)?;
        let is_other = matches!(told.kind, RestrictionKind::ClientId(_)) && latest.kind != told.kind;
        Some(latest).filter(|latest| is_other && latest.at > told.at)
    }

    /// An error if Clerk has to deliver the event again.
    fn require_revoked(&self, performed: &Performed) -> Result<(), Incomplete> {
        performed.live.of_others?;
        let is_unavailable = |(_, outcome): &(_, _)| matches!(outcome, RevokeOutcome::Unavailable { .. });
        // With a shared store, any replica can go on with the task.
        if !self.store.is_shared() && performed.outcomes.iter().any(is_unavailable) {
            return Err(Incomplete::Ably);
        }
        Ok(())
    }
}

/// The restrictions that follow from an event.
fn restrictions_of(event: &Event, tenant: &Tenant, now: UnixMillis) -> Vec<Restriction> {
    let user = |id: &str| Subject::User(id.to_owned());
    let denied = vec![RestrictionKind::Denied(DenialSource::Clerk)];
    let marked = vec![RestrictionKind::NotBefore];
    let (subject, kinds) = match &event.change {
        Change::SessionEnded { session_id, .. } => (Subject::Session(session_id.clone()), denied),
        Change::UserDeleted { user_id } => (user(user_id), vec![RestrictionKind::Deleted]),
        Change::UserUpdated(updated) if updated.banned || updated.deprovisioned => (user(&updated.id), denied),
        Change::UserUpdated(updated) => {
            let template = tenant.identity.template();
            let client_id = template.needs_only_username().then(|| {
                let client_id = template.of_user(&updated.id, updated.username.as_deref());
                RestrictionKind::ClientId(client_id.as_deref().map(ClientIdDigest::of))
            });
            let lifted = RestrictionKind::Lifted(DenialSource::Clerk);
            (user(&updated.id), iter::once(lifted).chain(client_id).collect())
        }
        Change::MembershipChanged { user_id, organization_id } => {
            (Subject::Member { user: user_id.clone(), organization: organization_id.clone() }, marked)
        }
        Change::OrganizationDeleted { organization_id } => (Subject::Organization(organization_id.clone()), marked),
    };
    let session_user = event.change.user_id().filter(|_| matches!(subject, Subject::Session(_))).map(str::to_owned);
    let of = |kind| {
        let is_lift = matches!(kind, RestrictionKind::Lifted(_));
        let until = if is_lift { event.at } else { now.after(tenant.denial) };
        let tenant = tenant.name.clone();
        Restriction { tenant, subject: subject.clone(), kind, at: event.at, until, session_user: session_user.clone() }
    };
    kinds.into_iter().map(of).collect()
}

/// The revocations that follow from a restriction of an event.
fn tasks_of(event: &Event, tenant: &Tenant, restriction: &Restriction, now: UnixMillis) -> Option<[StoredTask; 2]> {
    let username = match &event.change {
        Change::UserUpdated(user) => Some(user.username.as_deref().unwrap_or_default()),
        Change::SessionEnded { username, .. } => username.as_deref(),
        _ => None,
    };
    let expected = event.change.user_id().and_then(|user| tenant.expected_target(user, username));
    let task = Task { expected, ..Task::of(restriction, tenant, now)? };
    Some(task.stored("event", now.after(StoredTask::LEASE), now))
}

/// The revocations that follow from a restriction whose event is not at hand: Redis lost it, or a replica learned of it late. Their
/// names are unique to this process, which has a number of its own, and to each start of its store.
#[must_use]
pub fn tasks_of_restriction(tenants: Arc<Tenants>, process: u64) -> TasksOf {
    Arc::new(move |restriction, start, now| {
        let tenant = tenants.named(&restriction.tenant);
        let task = tenant.and_then(|tenant| Task::of(restriction, tenant, now));
        let name = format!("late/{process}/{start}");
        task.map(|task| task.stored(&name, now, now)).into_iter().flatten().collect()
    })
}

/// How long a denial lasts if session tokens live for at most `longest_life`, and clocks differ by `skew_ms`.
#[must_use]
pub fn denial(longest_life: Duration, skew_ms: i64) -> Duration {
    longest_life + 2 * Duration::from_millis(skew_ms.unsigned_abs())
}

/// The latest time at which a token that is issued now expires: a token request can be exchanged for two minutes, and
/// Ably's clock may differ.
#[must_use]
pub fn ends_by(format: TokenFormat, ttl: Duration, now: UnixMillis) -> UnixMillis {
    const EXCHANGE_WITHIN: Duration = Duration::from_mins(2);
    const CLOCKS_DIFFER_BY: Duration = Duration::from_secs(30);
    let exchange = if format == TokenFormat::TokenRequest { EXCHANGE_WITHIN } else { Duration::ZERO };
    UnixMillis(now.0.saturating_add(clock::millis(ttl + exchange + CLOCKS_DIFFER_BY)))
}

impl Tenant {
    /// How long after an event the tokens that it ends have expired. The last of them is issued when the denial ends, for a
    /// session token from before the event.
    fn tokens_end_within(&self) -> Duration {
        self.denial + Task::LONGEST_TOKEN + Revocation::REPEAT_AFTER
    }

    /// The client ID that a user should have, to revoke if no live token is known. `None` if it depends on a session token, or
    /// on a username that is not given and not cached.
    fn expected_target(&self, user_id: &str, username: Option<&str>) -> Option<Target> {
        let cached = self.users().and_then(|users| users.cached(user_id));
        let username = username.or(cached.as_ref().and_then(|user| user.username.as_deref()));
        ClientId::parse(self.identity.template().of_user(user_id, username)?).ok().map(Target::ClientId)
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_with_ably;

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

use std::{iter, sync::Arc, time::Duration};

pub use task::RevocationScope;
use task::{Performed, Task};

use crate::{
    ably::{ClientId, RevokeOutcome, Target, TokenFormat},
    clerk::{Change, Event},
    clock::{self, UnixMillis},
    store::{
        Claim, ClientIdDigest, DenialSource, RecordOutcome, Restriction, RestrictionKind, Store, StoreError, Subject,
        TasksOf, Topic,
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
        let restrictions = restrictions_of(event, tenant, now);
        let mut tasks = self.tasks_of(event, tenant, &restrictions, now);
        let claimed: Vec<_> = tasks.iter().flat_map(|task| task.claimed("event", now)).collect();
        let recorded = self.store.record(&restrictions, &claimed, now).await;
        let has = |outcome| recorded.as_ref().is_ok_and(|recorded| recorded.contains(&outcome));
        let (is_outdated, is_new) = (has(RecordOutcome::Outdated), recorded.is_err() || has(RecordOutcome::New));
        let mut result = recorded.map(|_| ()).map_err(Incomplete::from);
        if is_outdated {
            // Recording has told the newer client ID.
            tasks = self.tasks_of(event, tenant, &restrictions, now);
        } else if let (Change::UserUpdated(user), Some(users)) = (&event.change, tenant.users()) {
            users.update(user.clone());
        }
        for task in tasks {
            let [first, again] = task.claimed("event", now);
            if task.at > event.at {
                // The newer event has not ended the tokens with the client ID of this one.
                let recorded = self.store.record(&[], &[first.clone(), again], now).await;
                result = result.and(recorded.map(|_| ()).map_err(Incomplete::from));
            }
            let to_perform = if is_new {
                vec![first.task]
            } else {
                // What an earlier delivery has performed is gone.
                self.store.claim_tasks(Claim::Named(&first.task.id), now).await
            };
            for stored in to_perform {
                result = result.and(self.require_revoked(&self.perform(stored, now).await));
            }
        }
        result.map(|()| if is_outdated { Applied::Outdated } else { Applied::InForce })
    }

    /// The revocations that follow from an event.
    fn tasks_of(&self, event: &Event, tenant: &Tenant, restrictions: &[Restriction], now: UnixMillis) -> Vec<Task> {
        let user = event.change.user_id();
        let known = user.and_then(|user| {
            self.store.restrictions().latest(&tenant.name, &Subject::User(user.to_owned()), Topic::ClientId)
        });
        let ending = restrictions.iter().filter_map(|restriction| ending(restriction, known.as_ref()));
        let tasks = ending
            .filter_map(|restriction| Task::of(restriction, tenant, now))
            .map(|task| Task { expected: tenant.expected_target(&event.change), ..task });
        tasks.collect()
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
    let session_user = match &event.change {
        Change::SessionEnded { user_id, .. } => user_id.clone(),
        _ => None,
    };
    let of = |kind| {
        let (tenant, until) = (tenant.name.clone(), now.after(tenant.denial));
        Restriction { tenant, subject: subject.clone(), kind, at: event.at, until, session_user: session_user.clone() }
    };
    kinds.into_iter().map(of).collect()
}

/// The restriction that ends tokens after an event has made this one. `known` has the user's client ID by earlier deliveries.
///
/// A client ID that is known ends nothing: the event that first gave it has ended the tokens with others.
fn ending<'a>(restriction: &'a Restriction, known: Option<&'a Restriction>) -> Option<&'a Restriction> {
    match (restriction.kind, known) {
        (RestrictionKind::ClientId(_), Some(known)) if known.at != restriction.at && known.kind == restriction.kind => {
            None
        }
        // The event is late: the newer event has not ended the tokens with this event's client ID.
        (RestrictionKind::ClientId(_), Some(known)) if known.at > restriction.at => Some(known),
        _ => Some(restriction),
    }
}

/// The revocations that follow from a restriction whose event is not at hand: a Redis that lost it, or a replica that learned of
/// it late. The names of its tasks are unique to this process, which starts `now`, and to each time.
#[must_use]
pub fn tasks_of_restriction(tenants: Arc<Tenants>, started_at: UnixMillis) -> TasksOf {
    Arc::new(move |restriction, now| {
        let tenant = tenants.named(&restriction.tenant);
        let task = tenant.and_then(|tenant| Task::of(restriction, tenant, now));
        let name = format!("late/{}/{}", started_at.0, now.0);
        task.map(|task| task.queued(&name, now)).into_iter().flatten().collect()
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

    /// The client ID that the user of an event should have, to revoke if no live token is known.
    fn expected_target(&self, change: &Change) -> Option<Target> {
        match change {
            Change::UserUpdated(user) => self.target_of(&user.id, user.username.as_deref()),
            Change::SessionEnded { user_id: Some(id), username: Some(name), .. } => self.target_of(id, Some(name)),
            _ => self.target_of_cached(change.user_id()?),
        }
    }

    fn target_of_cached(&self, user_id: &str) -> Option<Target> {
        let user = self.users().and_then(|users| users.cached(user_id));
        self.target_of(user_id, user.as_ref().and_then(|user| user.username.as_deref()))
    }

    /// `None` if the client ID depends on a session token, or on an unknown username.
    fn target_of(&self, user_id: &str, username: Option<&str>) -> Option<Target> {
        ClientId::parse(self.identity.template().of_user(user_id, username)?).ok().map(Target::ClientId)
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_with_ably;

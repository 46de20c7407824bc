//! Revocation tasks that wait for their time, in memory.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;

use crate::clock::UnixMillis;

/// A revocation task as it waits in the store, for any replica to perform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTask {
    /// Unique among the tasks of all tenants. A task whose ID is known is not stored again.
    pub id: String,
    /// When it is to be performed.
    pub due: UnixMillis,
    /// What is to be done. The store does not read it.
    pub payload: String,
}

impl StoredTask {
    /// How long a claim lasts. A replica that takes longer risks that another performs the task too.
    pub const LEASE: Duration = Duration::from_secs(30);
    /// How long a task that this replica cannot read is left to replicas of other versions.
    pub const UNREAD_FOR: Duration = Duration::from_hours(24);
}

/// Which tasks to claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim<'a> {
    /// At most so many that can be claimed, the longest waiting first.
    Due(usize),
    /// The one with this ID, even before its time, or while another replica performs it.
    Named(&'a str),
}

/// The tasks that wait, claimed ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskBacklog {
    /// How many, due or not.
    pub count: usize,
    /// The earliest due time. Claiming a task or putting it back does not change it.
    pub oldest_due: Option<UnixMillis>,
}

/// The tasks of one replica, by ID. Each with the time from which it can be claimed: its due time, or later if it was claimed or
/// put back.
#[derive(Debug, Default)]
pub(super) struct TaskQueue(Mutex<BTreeMap<String, (StoredTask, UnixMillis)>>);

impl TaskQueue {
    /// Adds the tasks whose IDs are not known.
    pub(super) fn add(&self, tasks: &[StoredTask]) {
        let mut queue = self.0.lock();
        for task in tasks {
            queue.entry(task.id.clone()).or_insert_with(|| (task.clone(), task.due));
        }
    }

    /// Claims tasks for [`StoredTask::LEASE`].
    pub(super) fn claim(&self, claim: Claim<'_>, now: UnixMillis) -> Vec<StoredTask> {
        let mut queue = self.0.lock();
        let claimed: Vec<_> = match claim {
            Claim::Named(id) => queue.get_mut(id).into_iter().collect(),
            Claim::Due(max) => {
                let mut due: Vec<_> = queue.values_mut().filter(|(_, claimable)| *claimable <= now).collect();
                due.sort_by_key(|(_, claimable)| *claimable);
                due.truncate(max);
                due
            }
        };
        let claim = |(task, claimable): &mut (StoredTask, UnixMillis)| {
            *claimable = now.after(StoredTask::LEASE);
            task.clone()
        };
        claimed.into_iter().map(claim).collect()
    }

    /// Ends the claim of a task, as [`Store::end_claim`](super::Store::end_claim) does.
    pub(super) fn end_claim(&self, left: &StoredTask, retry_at: Option<UnixMillis>) {
        let mut queue = self.0.lock();
        let Some((task, claimable)) = queue.get_mut(&left.id).filter(|(task, _)| task.due <= left.due) else { return };
        match retry_at {
            Some(retry_at) => (task.payload, *claimable) = (left.payload.clone(), retry_at),
            None => _ = queue.remove(&left.id),
        }
    }

    pub(super) fn backlog(&self) -> TaskBacklog {
        let queue = self.0.lock();
        TaskBacklog { count: queue.len(), oldest_due: queue.values().map(|(task, _)| task.due).min() }
    }
}

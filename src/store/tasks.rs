//! Revocation tasks that wait for their time, in memory.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

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

/// A task in its queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedTask {
    /// The task.
    pub task: StoredTask,
    /// From when on it can be claimed: its due time, or later if it was claimed or put back.
    pub claimable: UnixMillis,
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

/// The tasks of one replica.
#[derive(Debug, Default)]
pub(super) struct TaskQueue(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    tasks: HashMap<String, QueuedTask>,
    by_claimable: BTreeSet<(UnixMillis, String)>,
}

impl Queue {
    /// Changes from when on a task can be claimed, if it is known.
    fn set_claimable(&mut self, id: &str, claimable: UnixMillis) -> Option<&mut StoredTask> {
        let queued = self.tasks.get_mut(id)?;
        self.by_claimable.remove(&(queued.claimable, id.to_owned()));
        self.by_claimable.insert((claimable, id.to_owned()));
        queued.claimable = claimable;
        Some(&mut queued.task)
    }
}

impl TaskQueue {
    /// Adds the tasks whose IDs are not known.
    pub(super) fn add(&self, tasks: &[QueuedTask]) {
        let mut queue = self.lock();
        for queued in tasks {
            if !queue.tasks.contains_key(&queued.task.id) {
                queue.by_claimable.insert((queued.claimable, queued.task.id.clone()));
                queue.tasks.insert(queued.task.id.clone(), queued.clone());
            }
        }
    }

    /// Claims tasks for [`StoredTask::LEASE`].
    pub(super) fn claim(&self, claim: Claim<'_>, now: UnixMillis) -> Vec<StoredTask> {
        let mut queue = self.lock();
        let ids: Vec<_> = match claim {
            Claim::Named(id) => vec![id.to_owned()],
            Claim::Due(max) => {
                let due = queue.by_claimable.iter().take_while(|(claimable, _)| *claimable <= now);
                due.take(max).map(|(_, id)| id.clone()).collect()
            }
        };
        ids.iter().filter_map(|id| queue.set_claimable(id, now.after(StoredTask::LEASE)).cloned()).collect()
    }

    /// Replaces what is left of a task, unless it was completed or has become due later meanwhile.
    pub(super) fn put_back(&self, left: &QueuedTask) {
        let mut queue = self.lock();
        let QueuedTask { task: StoredTask { id, due, payload }, claimable } = left;
        if queue.tasks.get(id).is_some_and(|known| known.task.due <= *due)
            && let Some(task) = queue.set_claimable(id, *claimable)
        {
            task.payload.clone_from(payload);
        }
    }

    /// Removes a task that was due at `due`, unless it has become due later meanwhile.
    pub(super) fn complete(&self, id: &str, due: UnixMillis) {
        let mut queue = self.lock();
        if queue.tasks.get(id).is_some_and(|queued| queued.task.due <= due)
            && let Some((id, queued)) = queue.tasks.remove_entry(id)
        {
            queue.by_claimable.remove(&(queued.claimable, id));
        }
    }

    pub(super) fn backlog(&self) -> TaskBacklog {
        let queue = self.lock();
        let oldest_due = queue.tasks.values().map(|queued| queued.task.due).min();
        TaskBacklog { count: queue.tasks.len(), oldest_due }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

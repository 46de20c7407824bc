//! Revocation tasks that wait for their time, in memory.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{StoreError, StoreLimits, timed_map::TimedMap};
use crate::clock::UnixMillis;

/// A revocation task as it waits in the store, for any replica to perform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredTask {
    /// Unique among the tasks of all tenants. A task that is stored twice is performed once.
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

/// The tasks that wait, claimed ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskBacklog {
    /// How many, due or not.
    pub count: usize,
    /// The earliest due time. Claiming or postponing a task does not change it.
    pub oldest_due: Option<UnixMillis>,
}

#[derive(Debug)]
pub(super) struct TaskQueue {
    max: usize,
    /// By the time from which on each can be claimed: its due time, or later if it was claimed or postponed.
    queue: Mutex<TimedMap<String, StoredTask>>,
}

/// A task in its queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedTask {
    /// The task.
    pub task: StoredTask,
    /// From when on it can be claimed.
    pub claimable: UnixMillis,
}

impl TaskQueue {
    pub(super) fn new(limits: &StoreLimits) -> Self {
        Self { max: limits.tasks, queue: Mutex::default() }
    }

    pub(super) fn enqueue(&self, task: &StoredTask) -> Result<(), StoreError> {
        let mut queue = self.lock();
        match queue.get(&task.id) {
            Some((claimable, known)) if known.due < task.due => {
                let (claimable, known) = (task.due.max(*claimable), StoredTask { due: task.due, ..known.clone() });
                queue.insert(known.id.clone(), claimable, known);
            }
            Some(_) => {}
            None if queue.len() >= self.max => return Err(StoreError::Full),
            None => queue.insert(task.id.clone(), task.due, task.clone()),
        }
        Ok(())
    }

    pub(super) fn claim(&self, max: usize, now: UnixMillis) -> Vec<StoredTask> {
        let mut queue = self.lock();
        let ids = queue.keys_until(now, max);
        ids.iter().filter_map(|id| postpone(&mut queue, id, now.after(StoredTask::LEASE))).collect()
    }

    /// Removes a task that was due at `due`, unless it has become due later meanwhile.
    pub(super) fn complete(&self, id: &str, due: UnixMillis) {
        let mut queue = self.lock();
        if queue.get(&id.to_owned()).is_some_and(|(_, task)| task.due <= due) {
            queue.remove(&id.to_owned());
        }
    }

    pub(super) fn postpone(&self, id: &str, due: UnixMillis) {
        postpone(&mut self.lock(), &id.to_owned(), due);
    }

    pub(super) fn all(&self) -> Vec<QueuedTask> {
        self.lock()
            .iter()
            .map(|(_, (claimable, task))| QueuedTask { task: task.clone(), claimable: *claimable })
            .collect()
    }

    pub(super) fn backlog(&self) -> TaskBacklog {
        let queue = self.lock();
        TaskBacklog { count: queue.len(), oldest_due: queue.iter().map(|(_, (_, task))| task.due).min() }
    }

    pub(super) fn remove_claimable_before(&self, time: UnixMillis) {
        self.lock().remove_until(UnixMillis(time.0.saturating_sub(1)));
    }

    fn lock(&self) -> MutexGuard<'_, TimedMap<String, StoredTask>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn postpone(queue: &mut TimedMap<String, StoredTask>, id: &String, claimable: UnixMillis) -> Option<StoredTask> {
    let (_, task) = queue.remove(id)?;
    // It may have become due later meanwhile.
    queue.insert(task.id.clone(), claimable.max(task.due), task.clone());
    Some(task)
}

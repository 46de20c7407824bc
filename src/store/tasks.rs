//! Revocation tasks that wait for their time, in memory.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{StoreError, StoreLimits};
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
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    tasks: HashMap<String, QueuedTask>,
    by_claimable: BTreeSet<(UnixMillis, String)>,
    by_due: BTreeSet<(UnixMillis, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueuedTask {
    pub(super) task: StoredTask,
    /// From when on it can be claimed: its due time, or later if it was claimed or postponed.
    pub(super) claimable: UnixMillis,
}

impl TaskQueue {
    pub(super) fn new(limits: &StoreLimits) -> Self {
        Self { max: limits.tasks, queue: Mutex::default() }
    }

    pub(super) fn enqueue(&self, task: &StoredTask) -> Result<(), StoreError> {
        let mut queue = self.lock();
        if queue.tasks.contains_key(&task.id) {
            queue.delay(&task.id, task.due);
            return Ok(());
        }
        if queue.tasks.len() >= self.max {
            return Err(StoreError::Full);
        }
        queue.by_claimable.insert((task.due, task.id.clone()));
        queue.by_due.insert((task.due, task.id.clone()));
        queue.tasks.insert(task.id.clone(), QueuedTask { task: task.clone(), claimable: task.due });
        Ok(())
    }

    pub(super) fn claim(&self, max: usize, now: UnixMillis) -> Vec<StoredTask> {
        let mut queue = self.lock();
        let claimable = queue.by_claimable.iter().take_while(|(claimable, _)| *claimable <= now);
        let ids: Vec<_> = claimable.take(max).map(|(_, id)| id.clone()).collect();
        ids.into_iter().filter_map(|id| queue.postpone(&id, now.after(StoredTask::LEASE))).collect()
    }

    pub(super) fn complete(&self, id: &str) {
        self.lock().remove(id);
    }

    pub(super) fn postpone(&self, id: &str, due: UnixMillis) {
        self.lock().postpone(id, due);
    }

    pub(super) fn all(&self) -> Vec<QueuedTask> {
        self.lock().tasks.values().cloned().collect()
    }

    pub(super) fn backlog(&self) -> TaskBacklog {
        let queue = self.lock();
        TaskBacklog { count: queue.tasks.len(), oldest_due: queue.by_due.first().map(|(due, _)| *due) }
    }

    pub(super) fn remove_claimable_before(&self, time: UnixMillis) {
        let mut queue = self.lock();
        while let Some((_, id)) = queue.by_claimable.first().filter(|(claimable, _)| *claimable < time).cloned() {
            queue.remove(&id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn postpone(&mut self, id: &str, claimable: UnixMillis) -> Option<StoredTask> {
        let queued = self.tasks.get_mut(id)?;
        self.by_claimable.remove(&(queued.claimable, id.to_owned()));
        self.by_claimable.insert((claimable, id.to_owned()));
        queued.claimable = claimable;
        Some(queued.task.clone())
    }

    /// Makes a task due at `due`, unless it is due later.
    fn delay(&mut self, id: &str, due: UnixMillis) {
        let Some(queued) = self.tasks.get_mut(id).filter(|queued| queued.task.due < due) else { return };
        self.by_due.remove(&(queued.task.due, id.to_owned()));
        self.by_due.insert((due, id.to_owned()));
        queued.task.due = due;
        let claimable = queued.claimable.max(due);
        self.postpone(id, claimable);
    }

    fn remove(&mut self, id: &str) {
        if let Some(QueuedTask { task, claimable }) = self.tasks.remove(id) {
            self.by_due.remove(&(task.due, task.id.clone()));
            self.by_claimable.remove(&(claimable, task.id));
        }
    }
}

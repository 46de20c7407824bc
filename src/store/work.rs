//! Work that is due at some time, in memory.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Bounds, StoreError};
use crate::clock::UnixMillis;

/// Something to be done at some time, by one replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DueWork {
    /// What makes it one: enqueued twice, it is done once. Not the same for two tenants.
    pub id: String,
    /// When it is to be done.
    pub due: UnixMillis,
    /// What is to be done, as whoever does it writes it.
    pub job: String,
}

impl DueWork {
    /// How long a claimant has for it. Whoever takes longer must expect somebody else to do it too.
    pub const LEASE: Duration = Duration::from_secs(30);
}

#[derive(Debug)]
pub(super) struct WorkQueue {
    most: usize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// By id; `due` is when it can be claimed.
    work: HashMap<String, DueWork>,
    by_due: BTreeSet<(UnixMillis, String)>,
}

impl WorkQueue {
    pub(super) fn new(bounds: &Bounds) -> Self {
        Self { most: bounds.work, queue: Mutex::default() }
    }

    pub(super) fn enqueue(&self, work: &DueWork) -> Result<(), StoreError> {
        let mut queue = self.lock();
        if queue.work.contains_key(&work.id) {
            return Ok(());
        }
        if queue.work.len() >= self.most {
            return Err(StoreError::Full);
        }
        queue.by_due.insert((work.due, work.id.clone()));
        queue.work.insert(work.id.clone(), work.clone());
        Ok(())
    }

    pub(super) fn claim(&self, most: usize, now: UnixMillis) -> Vec<DueWork> {
        let mut queue = self.lock();
        let due: Vec<_> =
            queue.by_due.iter().take_while(|(due, _)| *due <= now).take(most).map(|(_, id)| id.clone()).collect();
        due.into_iter().filter_map(|id| queue.put_off(&id, now.after(DueWork::LEASE))).collect()
    }

    pub(super) fn complete(&self, id: &str) {
        let mut queue = self.lock();
        if let Some(work) = queue.work.remove(id) {
            queue.by_due.remove(&(work.due, work.id));
        }
    }

    pub(super) fn postpone(&self, id: &str, due: UnixMillis) {
        self.lock().put_off(id, due);
    }

    pub(super) fn all(&self) -> Vec<DueWork> {
        self.lock().work.values().cloned().collect()
    }

    /// Forgets what was due before `time`.
    pub(super) fn forget_due_before(&self, time: UnixMillis) {
        let mut queue = self.lock();
        while let Some((_, id)) = queue.by_due.first().filter(|(due, _)| *due < time).cloned() {
            queue.by_due.pop_first();
            queue.work.remove(&id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Has a piece of work wait until `due`, and returns it as it was.
    fn put_off(&mut self, id: &str, due: UnixMillis) -> Option<DueWork> {
        let work = self.work.get_mut(id)?;
        let before = work.clone();
        work.due = due;
        self.by_due.remove(&(before.due, before.id.clone()));
        self.by_due.insert((due, before.id.clone()));
        Some(before)
    }
}

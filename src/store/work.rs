//! Work that is due at some time, in memory.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Backlog, Bounds, StoreError};
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
    /// For how long work that cannot be read is left to others that may: other versions of this service.
    pub(super) const UNREAD_FOR: Duration = Duration::from_hours(24);
}

#[derive(Debug)]
pub(super) struct WorkQueue {
    most: usize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    work: HashMap<String, Waiting>,
    /// The ids, by when the work can be claimed.
    by_turn: BTreeSet<(UnixMillis, String)>,
    /// The ids, by when the work was to be done first.
    by_due: BTreeSet<(UnixMillis, String)>,
}

/// Work, and when it can be claimed: when it is due, and later once it was claimed or postponed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) work: DueWork,
    pub(super) turn: UnixMillis,
}

impl WorkQueue {
    pub(super) fn new(bounds: &Bounds) -> Self {
        Self { most: bounds.work, queue: Mutex::default() }
    }

    pub(super) fn enqueue(&self, work: &DueWork) -> Result<(), StoreError> {
        let mut queue = self.lock();
        if queue.work.contains_key(&work.id) {
            queue.move_to(&work.id, work.due);
            return Ok(());
        }
        if queue.work.len() >= self.most {
            return Err(StoreError::Full);
        }
        queue.by_turn.insert((work.due, work.id.clone()));
        queue.by_due.insert((work.due, work.id.clone()));
        queue.work.insert(work.id.clone(), Waiting { work: work.clone(), turn: work.due });
        Ok(())
    }

    pub(super) fn claim(&self, most: usize, now: UnixMillis) -> Vec<DueWork> {
        let mut queue = self.lock();
        let due: Vec<_> =
            queue.by_turn.iter().take_while(|(turn, _)| *turn <= now).take(most).map(|(_, id)| id.clone()).collect();
        due.into_iter().filter_map(|id| queue.put_off(&id, now.after(DueWork::LEASE))).collect()
    }

    pub(super) fn complete(&self, id: &str) {
        self.lock().remove(id);
    }

    pub(super) fn postpone(&self, id: &str, due: UnixMillis) {
        self.lock().put_off(id, due);
    }

    pub(super) fn all(&self) -> Vec<Waiting> {
        self.lock().work.values().cloned().collect()
    }

    pub(super) fn backlog(&self) -> Backlog {
        let queue = self.lock();
        Backlog { pieces: queue.work.len(), oldest_due: queue.by_due.first().map(|(due, _)| *due) }
    }

    /// Forgets what could have been claimed before `time`.
    pub(super) fn forget_turns_before(&self, time: UnixMillis) {
        let mut queue = self.lock();
        while let Some((_, id)) = queue.by_turn.first().filter(|(turn, _)| *turn < time).cloned() {
            queue.remove(&id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Has a piece of work wait until `turn`, and returns it.
    fn put_off(&mut self, id: &str, turn: UnixMillis) -> Option<DueWork> {
        let waiting = self.work.get_mut(id)?;
        self.by_turn.remove(&(waiting.turn, id.to_owned()));
        self.by_turn.insert((turn, id.to_owned()));
        waiting.turn = turn;
        Some(waiting.work.clone())
    }

    /// Has a piece of work be due at `due`, if that is later than before.
    fn move_to(&mut self, id: &str, due: UnixMillis) {
        let Some(waiting) = self.work.get_mut(id).filter(|waiting| waiting.work.due < due) else { return };
        self.by_due.remove(&(waiting.work.due, id.to_owned()));
        self.by_due.insert((due, id.to_owned()));
        waiting.work.due = due;
        let turn = waiting.turn.max(due);
        self.put_off(id, turn);
    }

    fn remove(&mut self, id: &str) {
        if let Some(Waiting { work, turn }) = self.work.remove(id) {
            self.by_due.remove(&(work.due, work.id.clone()));
            self.by_turn.remove(&(turn, work.id));
        }
    }
}

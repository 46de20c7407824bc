//! Effects of events that are claimed or done, in memory.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Begun, Bounds};
use crate::clock::UnixMillis;

#[derive(Debug)]
pub(super) struct Effects {
    most: usize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// What is known of each effect, and until when.
    effects: HashMap<String, (Begun, UnixMillis)>,
    by_end: BTreeSet<(UnixMillis, String)>,
}

impl Effects {
    pub(super) fn new(bounds: &Bounds) -> Self {
        Self { most: bounds.remembered, known: Mutex::default() }
    }

    pub(super) fn begin(&self, effect: &str, now: UnixMillis) -> Begun {
        let mut known = self.lock();
        known.forget_before(now);
        if let Some((begun, _)) = known.effects.get(effect) {
            return *begun;
        }
        known.put(effect, Begun::Elsewhere, now.after(Begun::LEASE), self.most);
        Begun::Now
    }

    pub(super) fn finish(&self, effect: &str, until: UnixMillis) {
        self.lock().put(effect, Begun::Done, until, self.most);
    }

    pub(super) fn is_done(&self, effect: &str, now: UnixMillis) -> bool {
        self.lock().effects.get(effect).is_some_and(|(begun, until)| *begun == Begun::Done && now < *until)
    }

    pub(super) fn forget(&self, effect: &str) {
        self.lock().remove(effect);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Notes an effect. Beyond `most`, those that end first are forgotten.
    fn put(&mut self, effect: &str, begun: Begun, until: UnixMillis, most: usize) {
        self.remove(effect);
        self.effects.insert(effect.to_owned(), (begun, until));
        self.by_end.insert((until, effect.to_owned()));
        while self.effects.len() > most
            && let Some((_, first)) = self.by_end.pop_first()
        {
            self.effects.remove(&first);
        }
    }

    fn remove(&mut self, effect: &str) {
        if let Some((_, until)) = self.effects.remove(effect) {
            self.by_end.remove(&(until, effect.to_owned()));
        }
    }

    fn forget_before(&mut self, now: UnixMillis) {
        while let Some((_, effect)) = self.by_end.first().filter(|(until, _)| *until <= now).cloned() {
            self.remove(&effect);
        }
    }
}

//! A map whose entries are also sorted by a time.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

use crate::clock::UnixMillis;

/// Entries by key, each with a time.
#[derive(Debug)]
pub(super) struct TimedMap<K, V> {
    entries: HashMap<K, (UnixMillis, V)>,
    by_time: BTreeSet<(UnixMillis, K)>,
}

impl<K, V> Default for TimedMap<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), by_time: BTreeSet::new() }
    }
}

impl<K: Clone + Eq + Hash + Ord, V> TimedMap<K, V> {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, key: &K) -> Option<&(UnixMillis, V)> {
        self.entries.get(key)
    }

    /// By time, then by key.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &(UnixMillis, V))> {
        self.by_time.iter().filter_map(|(_, key)| self.entries.get_key_value(key))
    }

    /// At most `max` keys up to a time, the earliest first.
    pub(super) fn keys_until(&self, time: UnixMillis, max: usize) -> Vec<K> {
        self.by_time.iter().take_while(|(at, _)| *at <= time).take(max).map(|(_, key)| key.clone()).collect()
    }

    /// Adds an entry, or replaces the one with this key.
    pub(super) fn insert(&mut self, key: K, time: UnixMillis, value: V) {
        self.remove(&key);
        self.by_time.insert((time, key.clone()));
        self.entries.insert(key, (time, value));
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<(UnixMillis, V)> {
        let (time, value) = self.entries.remove(key)?;
        self.by_time.remove(&(time, key.clone()));
        Some((time, value))
    }

    pub(super) fn remove_until(&mut self, time: UnixMillis) {
        while self.by_time.first().is_some_and(|(at, _)| *at <= time) {
            self.pop_first();
        }
    }

    pub(super) fn pop_first(&mut self) {
        if let Some((_, key)) = self.by_time.pop_first() {
            self.entries.remove(&key);
        }
    }
}

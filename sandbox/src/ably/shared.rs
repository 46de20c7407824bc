//! The realm behind its lock, and the clock: what every request and every socket shares.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{
    realm::Realm,
    revocation::{Revocable, RevocableTokens},
};
use crate::clock::Clock;

/// The stand-in's state and clock.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    realm: Mutex<Realm>,
}

impl Shared {
    pub(crate) fn new(realm: Realm, clock: Clock) -> Self {
        Self { clock, realm: Mutex::new(realm) }
    }

    pub(crate) fn realm(&self) -> MutexGuard<'_, Realm> {
        self.realm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    pub(crate) fn set_revocable_tokens(&self, setting: RevocableTokens) {
        let revocable = match setting {
            RevocableTokens::On => Revocable::Since(self.now_ms()),
            RevocableTokens::Off => Revocable::None,
        };
        self.realm().set_revocable(revocable);
    }
}

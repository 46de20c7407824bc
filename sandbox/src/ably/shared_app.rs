//! The app and the clock that all requests and sockets share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{
    app::AblyApp,
    revocation::{Revocable, RevocableTokens},
};
use crate::clock::Clock;

/// The stand-in's app, behind a lock, and its clock.
pub(crate) struct SharedApp {
    pub(crate) clock: Clock,
    app: Mutex<AblyApp>,
}

impl SharedApp {
    pub(crate) fn new(app: AblyApp, clock: Clock) -> Self {
        Self { clock, app: Mutex::new(app) }
    }

    pub(crate) fn app(&self) -> MutexGuard<'_, AblyApp> {
        self.app.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    pub(crate) fn set_revocable_tokens(&self, setting: RevocableTokens) {
        let revocable = match setting {
            RevocableTokens::On => Revocable::Since(self.now_ms()),
            RevocableTokens::Off => Revocable::None,
        };
        self.app().set_revocable(revocable);
    }
}

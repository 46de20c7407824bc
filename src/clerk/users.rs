//! Users, looked up when a session token does not say enough, and remembered for a while.
//!
//! Look-ups of one user at one time share one call. Of two facts about a user the one with the later `updated_at` stays,
//! whichever arrived later. What a call says that began before its user was forgotten is not believed: it may be what was
//! to be forgotten.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use moka::{ops::compute::Op, sync::Cache};
use prometheus_client::metrics::counter::Counter;
use tokio::{runtime::Handle, sync::OnceCell, time::Instant};

use super::{BackendApi, BackendApiError, User};

/// The users of one instance.
#[derive(Clone, Debug)]
pub struct Users(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    api: BackendApi,
    /// The runtime that look-ups run on, so that a request that goes away does not take a look-up with it.
    runtime: Handle,
    known: Cache<String, Existence>,
    /// The calls under way that are to be believed. To forget takes them out, and so do they themselves when they end.
    calls: Mutex<HashMap<String, Call>>,
    rate_limited_until: Mutex<Option<Instant>>,
    counts: LookupCounts,
}

/// A call under way, and then its outcome, for all who wait for it.
type Call = Arc<OnceCell<Outcome>>;

/// What became of a call.
#[derive(Clone, Debug)]
enum Outcome {
    Answered(Result<Existence, LookupError>),
    /// The user was forgotten meanwhile.
    Overtaken,
}

/// How users were found since the start, once for each time that one was wanted. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct LookupCounts {
    /// Clerk was not asked.
    pub remembered: Counter,
    /// Clerk was asked and answered, be it that there is no such user.
    pub asked: Counter,
    /// Clerk did not say, or was not to be asked.
    pub failed: Counter,
}

/// What is known of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Existence {
    Exists(Arc<User>),
    /// For good: Clerk does not use an id again.
    Deleted,
}

/// Why there is no user to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// Clerk knows no such user.
    #[error("the user does not exist")]
    Deleted,
    /// Clerk did not say; it may after so long.
    #[error("Clerk cannot be asked about the user now")]
    Unavailable(Duration),
}

impl Users {
    const MOST_KNOWN: u64 = 100_000;
    /// What a caller is told to wait when Clerk says nothing of it.
    const RETRY_AFTER: Duration = Duration::from_secs(5);
    const LONGEST_PAUSE: Duration = Duration::from_mins(1);
    /// How many calls one look-up waits for, while the user is forgotten during each.
    const MOST_CALLS: usize = 3;

    /// Users of `api`, each remembered for `ttl`. Look-ups run on `runtime` and are counted by `counts`.
    #[must_use]
    pub fn new(api: BackendApi, ttl: Duration, runtime: Handle, counts: LookupCounts) -> Self {
        Self(Arc::new(Shared {
            api,
            runtime,
            known: Cache::builder().max_capacity(Self::MOST_KNOWN).time_to_live(ttl).build(),
            calls: Mutex::default(),
            rate_limited_until: Mutex::new(None),
            counts,
        }))
    }

    /// The API that they are looked up with.
    #[must_use]
    pub fn api(&self) -> &BackendApi {
        &self.0.api
    }

    /// The user of that id, remembered or looked up.
    pub async fn get(&self, id: &str) -> Result<Arc<User>, LookupError> {
        let counts = &self.0.counts;
        let fact = if let Some(fact) = self.0.known.get(id) {
            counts.remembered.inc();
            fact
        } else {
            let answer = self.look_up(id).await;
            if answer.is_ok() { &counts.asked } else { &counts.failed }.inc();
            answer?
        };
        match fact {
            Existence::Exists(user) => Ok(user),
            Existence::Deleted => Err(LookupError::Deleted),
        }
    }

    /// What is remembered of a user. Clerk is not asked.
    #[must_use]
    pub fn remembered(&self, id: &str) -> Option<Arc<User>> {
        match self.0.known.get(id)? {
            Existence::Exists(user) => Some(user),
            Existence::Deleted => None,
        }
    }

    /// Takes what someone else learned of a user. It replaces only what is older.
    pub fn learn(&self, user: User) {
        self.0.remember(user.id.clone(), Existence::Exists(Arc::new(user)));
    }

    /// Forgets what is known of a user, and what a call under way is about to say.
    pub fn forget(&self, id: &str) {
        let mut calls = self.0.calls();
        calls.remove(id);
        self.0.known.invalidate(id);
    }

    /// Forgets what is known of everyone, and what calls under way are about to say.
    pub fn forget_all(&self) {
        let mut calls = self.0.calls();
        calls.clear();
        self.0.known.invalidate_all();
    }

    async fn look_up(&self, id: &str) -> Result<Existence, LookupError> {
        let shared = Arc::clone(&self.0);
        let id = id.to_owned();
        let answer = self.0.runtime.spawn(async move {
            for _ in 0..Self::MOST_CALLS {
                let call = shared.join(&id);
                if let Outcome::Answered(answer) = call.get_or_init(|| shared.ask(&id, &call)).await {
                    return answer.clone();
                }
            }
            tracing::warn!(user_id = id, "a user is forgotten as often as looked up");
            Err(LookupError::Unavailable(Self::RETRY_AFTER))
        });
        answer.await.unwrap_or(Err(LookupError::Unavailable(Self::RETRY_AFTER)))
    }
}

impl Shared {
    fn calls(&self) -> MutexGuard<'_, HashMap<String, Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The call about a user that is under way, or a new one.
    fn join(&self, id: &str) -> Call {
        Arc::clone(self.calls().entry(id.to_owned()).or_default())
    }

    async fn ask(&self, id: &str, call: &Call) -> Outcome {
        let answer = self.ask_clerk(id).await;
        // Held until the answer is remembered, so that nobody forgets in between.
        let mut calls = self.calls();
        let is_current = calls.get(id).is_some_and(|current| Arc::ptr_eq(current, call));
        if is_current {
            calls.remove(id);
        }
        match answer {
            Ok(fact) if is_current => Outcome::Answered(Ok(self.remember(id.to_owned(), fact))),
            Ok(_) => Outcome::Overtaken,
            Err(error) => Outcome::Answered(Err(error)),
        }
    }

    async fn ask_clerk(&self, id: &str) -> Result<Existence, LookupError> {
        // Someone else's call may have ended between the first look and this one's turn.
        if let Some(fact) = self.known.get(id) {
            return Ok(fact);
        }
        if let Some(pause) = self.pause() {
            return Err(LookupError::Unavailable(pause));
        }
        match self.api.user(id).await {
            Ok(user) => Ok(Existence::Exists(Arc::new(user))),
            Err(BackendApiError::NotFound) => Ok(Existence::Deleted),
            Err(error) => {
                tracing::warn!(user_id = id, %error, "a user could not be looked up");
                let pause = match error {
                    BackendApiError::RateLimited(after) => self.pause_for(after),
                    _ => Users::RETRY_AFTER,
                };
                Err(LookupError::Unavailable(pause))
            }
        }
    }

    /// Keeps the newer of what is known and `fact`, and returns it.
    fn remember(&self, id: String, fact: Existence) -> Existence {
        let newest = self.known.entry(id).and_compute_with(|known| match known.map(moka::Entry::into_value) {
            Some(known) if known.outdates(&fact) => Op::Nop,
            _ => Op::Put(fact.clone()),
        });
        newest.into_entry().map_or(fact, moka::Entry::into_value)
    }

    /// How long Clerk is still not to be asked.
    fn pause(&self) -> Option<Duration> {
        let until = *self.rate_limited_until.lock().unwrap_or_else(PoisonError::into_inner);
        until?.checked_duration_since(Instant::now()).filter(|pause| !pause.is_zero())
    }

    fn pause_for(&self, after: Option<Duration>) -> Duration {
        let pause = after.unwrap_or(Users::RETRY_AFTER).clamp(Duration::from_secs(1), Users::LONGEST_PAUSE);
        *self.rate_limited_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + pause);
        pause
    }
}

impl Existence {
    fn outdates(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Deleted, _) => true,
            (Self::Exists(_), Self::Deleted) => false,
            (Self::Exists(user), Self::Exists(other)) => user.updated_at > other.updated_at,
        }
    }
}

#[cfg(test)]
mod tests;

//! What replicas share: who is refused and until when, which tokens are out, and what is still to be done.
//!
//! Each replica keeps in memory what it knows, and decides by that alone: [`Restrictions`] is read without waiting. With the
//! [`MemoryStore`] that is all there is. With the [`RedisStore`] replicas also exchange what they know, and it outlives
//! them. Neither identities nor keys are ever in a store, so that who can write to it can refuse people, disconnect them
//! by work that revokes their tokens, and lift refusals, but forge nobody.
//!
//! A [`Restriction`] yields only to a newer one, wherever and in whatever order both arrive, so replicas that have heard the same
//! restrictions agree.

mod effects;
mod live_tokens;
mod memory;
mod redis;
mod restriction;
mod restrictions;
mod work;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

pub use live_tokens::{Coverage, LiveToken, LiveTokens, TokenHolder};
pub use memory::MemoryStore;
pub use redis::{InvalidRedisAddress, InvalidRedisAuthorities, OnFailure, RedisAddress, RedisKeyPrefix, RedisStore};
pub use restriction::{ClientIdDigest, DenialSource, Restriction, RestrictionKind, Subject};
pub(crate) use restrictions::CurrentClientId;
pub use restrictions::{Restrictions, Verdict};
pub use work::DueWork;

use crate::{clock::UnixMillis, tenant::TenantName};

/// What replicas share. Every method may be called from any runtime, and takes the current time as `now`.
///
/// With [`StoreError::Unavailable`] the other replicas have not heard of what was to be stored. This one has, and acts by
/// it; it passes it on when it can, but its own end would be the end of it.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// Who is refused, as this replica knows.
    fn restrictions(&self) -> &Restrictions;

    /// Whether others do what this replica leaves to be done.
    fn is_shared(&self) -> bool;

    /// How it is with this store.
    fn health(&self, now: UnixMillis) -> Health;

    /// What is in it, and what it lacks. Without waiting: of what replicas share, as this one last heard.
    fn census(&self, now: UnixMillis) -> Census;

    /// Whether tokens may be issued: not while a denial or mark cannot be stored, nor before those that are stored are
    /// known, nor without Redis where the operator said to refuse then.
    fn may_issue(&self, now: UnixMillis) -> Result<(), StoreError>;

    /// Stores a restriction, unless one is known that it yields to.
    async fn record(&self, restriction: Restriction, now: UnixMillis) -> Result<Recorded, StoreError>;

    /// The denials and marks that this replica heard of only when it was back from being without Redis, each once: tokens
    /// that it issued meanwhile may be against them. Also those that are over by now, if it was away for that long; those
    /// that another replica, back later, passed on only then; and it may be one that this replica was told itself.
    fn take_learned_late(&self) -> Vec<Restriction>;

    /// Notes that a token is out that lives until `live_token.until`. To be called before it is handed out.
    ///
    /// A live_token that is known is refreshed, even when there is no room for new ones.
    async fn put_live_token(&self, live_token: LiveToken, now: UnixMillis) -> Result<(), StoreError>;

    /// The tokens that are out, of a user, a session, an organization or a client ID.
    async fn live_tokens(&self, tenant: &TenantName, to: &TokenHolder, now: UnixMillis) -> LiveTokens;

    /// Has some work done when it is due, by whichever replica claims it first. Of work whose id is there already only the
    /// time changes, and only to a later one.
    async fn enqueue(&self, work: DueWork, now: UnixMillis) -> Result<(), StoreError>;

    /// Takes up to `most` pieces of work that are due. Nobody else gets them for [`DueWork::LEASE`]; then, unless they
    /// are completed or postponed, somebody does.
    ///
    /// While Redis cannot be used, a replica gets the work that it enqueued itself, though another may have it too: what
    /// is done must bear being done twice.
    async fn claim(&self, most: usize, now: UnixMillis) -> Vec<DueWork>;

    /// Says that a piece of work is done.
    async fn complete(&self, id: &str) -> Result<(), StoreError>;

    /// Gives a piece of claimed work back, to be done at `due`. Without effect if it is done.
    async fn postpone(&self, id: &str, due: UnixMillis) -> Result<(), StoreError>;

    /// Claims the handling of an effect, which is the same for every delivery of an event, so that it is handled once.
    /// The claim lapses after [`Begun::LEASE`]: whoever dies meanwhile, or takes longer, must expect it to be handled twice.
    async fn begin(&self, effect: &str, now: UnixMillis) -> Begun;

    /// Remembers until some time that an effect is done. Where that fails, it is handled again.
    async fn finish(&self, effect: &str, until: UnixMillis, now: UnixMillis);

    /// Whether an effect is remembered as done. While Redis cannot be used it is not.
    async fn is_done(&self, effect: &str, now: UnixMillis) -> bool;

    /// Forgets that an effect is claimed or done.
    async fn forget(&self, effect: &str);

    /// Has every replica forget what it remembers of a user.
    async fn forget_user(&self, tenant: &TenantName, user: &str) -> Result<(), StoreError>;
}

/// How a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// What is stored is not all known yet.
    Starting,
    /// All is well.
    Ready,
    /// Redis cannot be used: this replica goes on with what it knows.
    Degraded,
    /// A denial or mark cannot be stored for lack of room.
    Full,
}

impl Health {
    /// All that there are.
    pub const ALL: [Self; 4] = [Self::Starting, Self::Ready, Self::Degraded, Self::Full];

    /// What readiness and metrics call it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Full => "full",
        }
    }
}

/// What is in a store, and what it lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// How it is with the store.
    pub health: Health,
    /// How many denials and marks hold, as this replica knows.
    pub restrictions: usize,
    /// How many tokens are out that this replica has issued, one for each user, session, organization and client ID.
    pub live_tokens: usize,
    /// Work to be done: what Redis had at the last heartbeat; without Redis, what this replica would do.
    pub backlog: Backlog,
    /// How many restrictions this replica knows that Redis lacks.
    pub unwritten: usize,
    /// How many pieces of work this replica has that Redis may lack.
    pub unwritten_work: usize,
    /// How many times Redis was lost since the start.
    pub outages: u64,
}

/// Work that waits to be done, that which somebody is doing included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How many pieces, due or not.
    pub pieces: usize,
    /// When the first of them was to be done, or is: put off, it is still due since then.
    pub oldest_due: Option<UnixMillis>,
}

/// Who handles an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Whoever asked.
    Now,
    /// Somebody else, at this moment.
    Elsewhere,
    /// Nobody any more.
    Done,
}

impl Begun {
    /// How long somebody has to handle an effect alone. Shorter than the 5 seconds before Clerk's first retry, so that the
    /// retry does not wait for a replica that died.
    pub const LEASE: Duration = Duration::from_secs(4);
}

/// What became of a restriction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It is the newest.
    New,
    /// It was known: the same event, come again.
    Repeated,
    /// It yields to another that is newer, or to a deletion.
    Outdated,
}

/// Why something is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no room for it.
    #[error("the store is full")]
    Full,
    /// Redis cannot be used now.
    #[error("the store cannot be reached")]
    Unavailable,
}

/// Which users are to be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten<'a> {
    /// One user of a tenant.
    User(&'a TenantName, &'a str),
    /// All of all tenants: drops may have been missed.
    Everyone,
}

/// What is called when users are to be forgotten. It must not block.
pub type OnForget = Arc<dyn Fn(Forgotten<'_>) + Send + Sync>;

/// Where the time comes from for what a store does by itself.
pub type Clock = Arc<dyn Fn() -> UnixMillis + Send + Sync>;

/// How much a replica keeps in memory at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Denials and marks in force. At some 300 bytes each.
    pub restrictions: usize,
    /// Restrictions that are over and remembered for their timestamps only. Beyond that the oldest are forgotten, which can
    /// only have somebody refused for a while who need not be. Also effects that are done: those beyond are handled again
    /// if their event comes again.
    pub remembered: usize,
    /// Denials and marks that there was no room for and that nobody else has: they wait for room, and until it is found no
    /// tokens are issued. Of more than that only the end of the last is kept, and no tokens are issued until then.
    pub refused: usize,
    /// Tokens that are out, one for each user, session, organization and client ID. At some 1,000 bytes each.
    pub live_tokens: usize,
    /// Pieces of work to be done.
    pub work: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { restrictions: 200_000, remembered: 200_000, refused: 1_000, live_tokens: 500_000, work: 100_000 }
    }
}

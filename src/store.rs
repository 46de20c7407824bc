//! What replicas share: restrictions, live tokens and revocation tasks.
//!
//! Each replica decides by its own memory: it reads [`Restrictions`] without waiting. [`MemoryStore`] is that memory and
//! nothing else. With [`RedisStore`], replicas also exchange what they know, and it outlives them. A store holds neither
//! identities nor keys: whoever can write to it can deny users, lift denials and disconnect clients, but cannot
//! impersonate anyone.
//!
//! To add a store, implement [`Store`]; `tests/store/operations.rs` tests what all of them do.

mod collector;
mod connection;
mod idempotency;
mod interface;
mod limits;
mod live_tokens;
mod log;
mod memory;
mod redis;
mod restriction;
mod restrictions;
mod tasks;
mod timed_map;

pub use collector::StoreCollector;
pub use connection::{Commands, Connect, Connected, ConnectionLost, ReadLog, SharedState, Wait};
pub use idempotency::IdempotencyClaim;
pub use interface::{Forgotten, Health, OnForget, Store, StoreStats};
pub use limits::{StoreError, StoreLimits};
pub use live_tokens::{Coverage, LiveToken, LiveTokens, TokenHolder};
pub use log::{InvalidLogPosition, LogEntry, LogPage, LogPosition};
pub use memory::MemoryStore;
pub use redis::{
    InvalidRedisAddress, InvalidRedisAuthorities, OnFailure, RedisAddress, RedisConnector, RedisKeyPrefix, RedisStore,
};
pub use restriction::{ClientIdDigest, DenialSource, RecordOutcome, Restriction, RestrictionKind, Subject};
pub(crate) use restrictions::CurrentClientId;
pub use restrictions::{Restrictions, Verdict};
pub use tasks::{QueuedTask, StoredTask, TaskBacklog};

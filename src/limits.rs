//! Limits of a replica: [tokens of a user](TokenLimit), [concurrent requests](InFlightLimit) and [open
//! connections](ConnectionTable).

mod connections;
mod in_flight;
mod open_files;
mod tokens;

pub use connections::{ConnectionSlot, ConnectionTable};
pub use in_flight::{InFlightLimit, NoPermit, Permit};
pub use open_files::{Room, make_room};
pub use tokens::{Allowance, LimitExceeded, TokenLimit, TokenQuota};

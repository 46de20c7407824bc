//! What a replica gives at most: [tokens to one user](TokenLimit), [requests at once](InFlightLimit), and [open
//! connections](ConnectionTable).

mod connections;
mod in_flight;
mod open_files;
mod tokens;

pub use connections::{ConnectionSlot, ConnectionTable};
pub use in_flight::{InFlightLimit, NoPermit, Permit};
pub use open_files::{Room, make_room};
pub use tokens::{Allowance, LimitExceeded, TokenLimit, TokenQuota};

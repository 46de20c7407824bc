//! What a replica gives at most: [tokens to one user](TokenLimit), and [requests at once](InFlightLimit).

mod in_flight;
mod tokens;

pub use in_flight::{InFlightLimit, NoPlace, Place};
pub use tokens::{Allowance, TokenLimit, TokenQuota, UsedUp};

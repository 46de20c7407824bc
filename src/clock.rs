//! Time: points in time, and how far this machine's clock is off.

mod offset;
mod unix_millis;

pub use offset::{ClockOffset, ClockWatch};
pub use unix_millis::{Clock, UnixMillis, millis};

//! Ably's stand-in.

//! Clerk's stand-in.

//! Turns a Clerk session into an Ably token request.

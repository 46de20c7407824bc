//! Ids in Clerk's form: a prefix for the kind, and 27 letters and digits.

use rand::distr::{Alphanumeric, SampleString};

/// A new id of this kind, such as `sess_…`.
pub(super) fn new(kind: &str) -> String {
    format!("{kind}_{}", random(27))
}

/// `length` random letters and digits.
pub(super) fn random(length: usize) -> String {
    Alphanumeric.sample_string(&mut rand::rng(), length)
}

//! What a condition finds in a session.

use crate::policy::truth::Truth;

/// The result of one condition, with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) truth: Truth,
    pub(super) reason: &'static str,
}

impl Finding {
    pub(super) const HOLDS: Self = Self::new(Truth::True, "it is so");
    pub(super) const DIFFERS: Self = Self::new(Truth::False, "it is not so");
    pub(super) const NO_ORGANIZATION: Self = Self::new(Truth::False, "no organization is active");
    pub(super) const CLAIM_MISSING: Self = Self::new(Truth::Unknown, "the session token has no such claim");
    pub(super) const AGE_MISSING: Self = Self::new(Truth::Unknown, "the session token has no fva claim");
    pub(super) const NEVER_VERIFIED: Self = Self::new(Truth::False, "the factor was never verified");
    pub(super) const TOO_LONG_AGO: Self = Self::new(Truth::False, "the factor was verified too long ago");

    const fn new(truth: Truth, reason: &'static str) -> Self {
        Self { truth, reason }
    }

    pub(super) fn of(holds: bool) -> Self {
        if holds { Self::HOLDS } else { Self::DIFFERS }
    }
}

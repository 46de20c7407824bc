//! What a condition finds in a session.

use crate::policy::truth::Truth;

/// The result of one condition, with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Holds,
    Differs,
    NoOrganization,
    ClaimMissing,
    AgeMissing,
    NeverVerified,
    TooLongAgo,
}

impl Finding {
    pub(super) fn of(holds: bool) -> Self {
        if holds { Self::Holds } else { Self::Differs }
    }

    pub(super) fn truth(self) -> Truth {
        match self {
            Self::Holds => Truth::True,
            Self::ClaimMissing | Self::AgeMissing => Truth::Unknown,
            Self::Differs | Self::NoOrganization | Self::NeverVerified | Self::TooLongAgo => Truth::False,
        }
    }

    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Holds => "it is so",
            Self::Differs => "it is not so",
            Self::NoOrganization => "no organization is active",
            Self::ClaimMissing => "the session token has no such claim",
            Self::AgeMissing => "the session token has no fva claim",
            Self::NeverVerified => "the factor was never verified",
            Self::TooLongAgo => "the factor was verified too long ago",
        }
    }
}

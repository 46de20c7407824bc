//! Three-valued logic for conditions on claims that a session may not have.

use std::{fmt, ops::Not};

use serde::Serialize;

/// Kleene's three truth values. A conjunction is the least of its parts, a disjunction the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truth {
    /// The condition does not hold.
    #[serde(rename = "not matched")]
    False,
    /// The session lacks the claim.
    Unknown,
    /// The condition holds.
    #[serde(rename = "matched")]
    True,
}

impl Truth {
    /// The conjunction. Stops at the first part that is false.
    pub fn all(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut truth = Self::True;
        for part in parts {
            truth = truth.min(part);
            if truth == Self::False {
                break;
            }
        }
        truth
    }

    /// The disjunction. Stops at the first part that is true.
    pub fn any(parts: impl IntoIterator<Item = Self>) -> Self {
        !Self::all(parts.into_iter().map(Not::not))
    }
}

impl Not for Truth {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::Unknown => Self::Unknown,
            Self::False => Self::True,
        }
    }
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::True => "matched",
            Self::Unknown => "unknown",
            Self::False => "not matched",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truths_combine_as_kleene_says() {
        use Truth::{False, True, Unknown};
        for (a, b, both, either) in [
            (False, False, False, False),
            (False, Unknown, False, Unknown),
            (False, True, False, True),
            (Unknown, Unknown, Unknown, Unknown),
            (Unknown, True, Unknown, True),
            (True, True, True, True),
        ] {
            for pair in [[a, b], [b, a]] {
                assert_eq!(Truth::all(pair), both, "{pair:?}");
                assert_eq!(Truth::any(pair), either, "{pair:?}");
            }
        }
        assert_eq!([False, Unknown, True].map(|truth| !truth), [True, Unknown, False]);
        assert_eq!((Truth::all([]), Truth::any([])), (True, False));
    }
}

//! Problems of the configuration. They never hold a value, which may be a secret.

use std::fmt;

/// What is wrong with one setting, then what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Problem(pub(super) String);

/// Every problem of the configuration.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {}\n", Listed(.0))]
pub struct Problems(pub Vec<Problem>);

/// Every problem of a file of policy tests.
#[derive(Debug, thiserror::Error)]
#[error("the policy tests have {}", Listed(.0))]
pub struct InvalidPolicyTests(pub(super) Vec<Problem>);

/// The number of problems, then a line each.
struct Listed<'a>(&'a [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} problem{}:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

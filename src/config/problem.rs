//! Problems of the configuration. They never hold a value, which may be a secret.

/// What is wrong with one setting, then what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Problem(pub(super) String);

/// Every problem of the configuration.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {}\n", listed(.0))]
pub struct Problems(pub Vec<Problem>);

/// Every problem of a file of policy tests.
#[derive(Debug, thiserror::Error)]
#[error("the policy tests have {}", listed(.0))]
pub struct InvalidPolicyTests(pub(super) Vec<Problem>);

/// The number of problems, then a line each.
fn listed(problems: &[Problem]) -> String {
    let count = problems.len();
    let lines = problems.iter().map(|problem| problem.0.as_str()).collect::<Vec<_>>().join("\n  - ");
    format!("{count} problem{}:\n  - {lines}", if count == 1 { "" } else { "s" })
}

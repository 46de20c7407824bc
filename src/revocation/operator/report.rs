//! The report on an operator request, as JSON.

use serde::{Deserialize, Serialize};

use crate::{
    ably::{KeyName, RevokeOutcome},
    clock::UnixMillis,
    store::Subject,
    tenant::TenantName,
};

/// What a revocation request did. In a dry run, what it would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationReport {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Whether everything is done.
    pub complete: bool,
    /// The tenant.
    pub tenant: TenantName,
    /// The denials that were made or lifted.
    pub denials: Vec<DenialReport>,
    /// Whether live tokens of the target are known. Absent if a denial is lifted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live_tokens: Option<LiveTokenKnowledge>,
    /// What Ably revokes.
    pub targets: Vec<TargetReport>,
    /// When Ably revokes once more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeated_at: Option<UnixMillis>,
    /// One sentence each.
    pub warnings: Vec<String>,
    /// What the operator still has to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reminder: Option<String>,
}

/// A denial and its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenialReport {
    /// The session or user.
    #[serde(flatten)]
    pub subject: Subject,
    /// The outcome.
    #[serde(flatten)]
    pub outcome: DenialOutcome,
}

/// The outcome of a denial. In a dry run, the outcome it would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum DenialOutcome {
    /// The subject is denied.
    Denied {
        /// When the denial ends.
        until: UnixMillis,
    },
    /// The subject is no longer denied.
    Lifted,
    /// The subject was not denied.
    NotDenied,
    /// The operator's denial is lifted, but one from Clerk holds.
    DeniedByClerk,
    /// A newer request exists, by the clock of the replica that took it.
    Superseded,
}

/// Whether live tokens of a target are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LiveTokenKnowledge {
    /// At least one.
    Known,
    /// No live token is known: the ID may be wrong.
    NoneKnown,
    /// Live tokens are not recorded: the API key has no revocable tokens, by the settings.
    NotNoted,
}

/// A target of the revocation at Ably, and its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetReport {
    /// As Ably writes it: `clientId:alice`.
    pub target: String,
    /// The API key that revokes: Ably revokes the tokens that it signed.
    pub key_name: KeyName,
    /// Whether clients have 30 seconds to fetch a new token. Ably's name for it.
    pub allow_reauth_margin: bool,
    /// `None` in a dry run.
    #[serde(flatten)]
    pub outcome: Option<TargetReportOutcome>,
}

/// The outcome of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum TargetReportOutcome {
    /// Ably revokes its tokens.
    Accepted {
        /// From when on.
        applies_at: UnixMillis,
    },
    /// Ably refuses. A retry helps only once the cause is fixed.
    Refused {
        /// Ably's error code, if it sent one.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<u32>,
    },
    /// Ably could not be reached, or only other replicas have the API key. The service retries.
    Unavailable,
    /// The API key has no revocable tokens, by the settings.
    NotCalled,
}

pub(super) const NOBODY_TO_DENY: &str = "no live token with this client ID is known, so no user is denied: the user gets a \
    new token at once. Deny the user too";
pub(super) const NOBODY_TO_LIFT: &str =
    "no live token with this client ID is known, so no user is found: lift the denial by user";
pub(super) const KEY_MISSING: &str =
    "this replica lacks the API key of some tokens: a replica that has it revokes them";
pub(super) const NOTHING_TO_REVOKE: &str = "no live token is known, so there is nothing to revoke at Ably. Tokens from \
    before a restart without Redis are not known: revoke them by client ID";
pub(super) const NOT_REPEATED: &str = "the denial ends before the second revocation, which is skipped: a token request that \
    was signed before the denial can outlast it";
pub(super) const NOT_REVOCABLE: &str = "revocable_tokens is not true: the service does not call Ably or record live tokens, \
    and connections last until their tokens end";

impl From<RevokeOutcome> for TargetReportOutcome {
    fn from(outcome: RevokeOutcome) -> Self {
        match outcome {
            RevokeOutcome::Accepted { applies_at } => Self::Accepted { applies_at },
            RevokeOutcome::Refused { code } => Self::Refused { code },
            RevokeOutcome::Unavailable { .. } => Self::Unavailable,
        }
    }
}

impl TargetReportOutcome {
    /// Whether nothing is left to do.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Accepted { .. } | Self::NotCalled)
    }
}

impl RevocationReport {
    /// Whether newer requests exist for all subjects.
    pub(super) fn is_superseded(&self) -> bool {
        !self.denials.is_empty() && self.denials.iter().all(|denial| denial.outcome == DenialOutcome::Superseded)
    }

    pub(super) fn is_complete(&self) -> bool {
        !self.denials.is_empty()
            && self.denials.iter().all(|denial| denial.outcome != DenialOutcome::Superseded)
            && self.targets.iter().all(|target| target.outcome.is_none_or(|outcome| outcome.is_done()))
    }
}

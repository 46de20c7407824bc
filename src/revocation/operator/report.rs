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
    /// Ably refuses. A retry helps only once the cause is mended.
    Refused {
        /// Ably's error code, if it sent one.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<u32>,
    },
    /// Ably could not be reached, or only other replicas have the API key. The service retries.
    Unavailable,
    /// Ably could not be reached, and the store has no room for a retry.
    GivenUp,
    /// The API key has no revocable tokens, by the settings.
    NotCalled,
}

impl DenialOutcome {
    /// Whether nothing is left to do.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::Lifted | Self::NotDenied | Self::DeniedByClerk)
    }
}

impl TargetReportOutcome {
    /// `is_stored` says whether a retry is stored.
    pub(super) fn of(outcome: RevokeOutcome, is_stored: bool) -> Self {
        match outcome {
            RevokeOutcome::Accepted { applies_at } => Self::Accepted { applies_at },
            RevokeOutcome::Refused { code } => Self::Refused { code },
            RevokeOutcome::Unavailable { .. } if is_stored => Self::Unavailable,
            RevokeOutcome::Unavailable { .. } => Self::GivenUp,
        }
    }

    /// Whether nothing is left to do.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Accepted { .. } | Self::NotCalled)
    }
}

impl RevocationReport {
    pub(super) fn warn(&mut self, warning: &str) {
        if !self.warnings.iter().any(|known| known == warning) {
            self.warnings.push(warning.to_owned());
        }
    }

    pub(super) fn warn_incomplete(&mut self, warning: &str) {
        self.complete = false;
        self.warn(warning);
    }
}

//! Revocation of tokens: Ably's `revokeTokens`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{checked_text::checked_text, client_id::ClientId};
use crate::clock::UnixMillis;

/// The tokens to revoke.
///
/// Prints the API's form: `clientId:alice`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, derive_more::Display)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// All tokens of a client ID, in every format.
    #[display("clientId:{_0}")]
    ClientId(ClientId),
    /// The JWTs of a Clerk session.
    #[display("revocationKey:{_0}")]
    RevocationKey(RevocationKey),
}

/// The ID of the Clerk session that JWTs were issued to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, derive_more::Display)]
#[serde(try_from = "String")]
pub struct RevocationKey(String);

checked_text!(RevocationKey, InvalidRevocationKey);

/// A revocation key is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the revocation key is empty or has a control character")]
pub struct InvalidRevocationKey;

impl RevocationKey {
    /// Checks a revocation key.
    pub fn parse(text: impl Into<String>) -> Result<Self, InvalidRevocationKey> {
        let text = text.into();
        let is_valid = !text.is_empty() && !text.contains(char::is_control);
        is_valid.then_some(Self(text)).ok_or(InvalidRevocationKey)
    }
}

/// When a connection ends after its token is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReauthMargin {
    /// Immediately.
    None,
    /// After 30 seconds, unless the client has a new token by then.
    Reauthentication,
}

/// The outcome for one target: when its tokens stop working.
pub type TargetOutcome = Result<UnixMillis, TargetError>;

/// Why a target was not revoked, or may not have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Ably refused.
    #[error("Ably answered for this target with code {code}")]
    Refused {
        /// Ably's code.
        code: u32,
        /// The HTTP status for this target. It does not follow from a code of six digits.
        status: u16,
    },
    /// The result for this target is missing or malformed.
    #[error("Ably's answer has no readable result for this target")]
    NoResult,
}

impl TargetError {
    /// Whether a later retry may succeed.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status >= 500 || [408, 429].contains(status),
            Self::NoResult => true,
        }
    }

    /// Whether Ably's rate limit was exceeded.
    #[must_use]
    pub fn is_rate_limit(&self) -> bool {
        matches!(self, Self::Refused { status: 429, .. })
    }

    /// Ably's code, if it gave one.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::NoResult => None,
        }
    }
}

/// The cause of a permanent refusal, by Ably's code, and what the operator can do.
#[must_use]
pub fn diagnosis(code: Option<u32>) -> (&'static str, &'static str) {
    match code {
        Some(40121) => (
            "token revocation is not enabled for the Ably app",
            "enable token revocation for the app in Ably's dashboard, or ask Ably's support to",
        ),
        Some(40133) => (
            "another API key issued these tokens, and only that key can revoke them",
            "list the key that issued the tokens second in ABLY_API_KEY, or let the tokens expire",
        ),
        Some(40163 | 40164) => (
            "the API key does not have revocable tokens on",
            "turn on revocable tokens for the key of ABLY_API_KEY in Ably's dashboard: the tokens that it issues afterwards \
             can be revoked",
        ),
        Some(40100..=40132) => ("Ably does not accept the API key", "set ABLY_API_KEY to a key that is in force"),
        _ => ("see the error", "look up the code at https://help.ably.io/error/ followed by it"),
    }
}

/// The body of `POST /keys/{keyName}/revokeTokens`. Without a time in it, Ably uses its own clock, which a wrong clock
/// here cannot affect.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    targets: Vec<String>,
    allow_reauth_margin: bool,
}

/// The response, in version 3 of the protocol.
#[derive(Deserialize)]
pub(super) struct RevocationResponse {
    results: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TargetResult {
    target: String,
    issued_before: Option<i64>,
    applies_at: Option<i64>,
    error: Option<Error>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Error {
    code: u32,
    status_code: Option<u16>,
}

impl From<&Error> for TargetError {
    fn from(error: &Error) -> Self {
        // The first three digits of a five-digit code are a status.
        let from_code = || u16::try_from(error.code / 100).ok().filter(|status| *status < 1000).unwrap_or(400);
        Self::Refused { code: error.code, status: error.status_code.unwrap_or_else(from_code) }
    }
}

impl Request {
    pub(super) fn new(targets: &[Target], margin: ReauthMargin) -> Self {
        let targets = targets.iter().map(ToString::to_string).collect();
        Self { targets, allow_reauth_margin: margin == ReauthMargin::Reauthentication }
    }
}

impl RevocationResponse {
    /// The outcome for each target, in the order of the targets.
    pub(super) fn outcomes(&self, targets: &[Target]) -> Vec<TargetOutcome> {
        // A malformed entry does not affect the others.
        let results: Vec<_> = self.results.iter().filter_map(|entry| TargetResult::deserialize(entry).ok()).collect();
        let outcome_of = |target: &Target| {
            let name = target.to_string();
            results
                .iter()
                .find(|result| result.target == name)
                .map_or(Err(TargetError::NoResult), TargetResult::outcome)
        };
        targets.iter().map(outcome_of).collect()
    }
}

impl TargetResult {
    fn outcome(&self) -> TargetOutcome {
        match (&self.error, self.issued_before, self.applies_at) {
            (Some(error), ..) => Err(error.into()),
            (None, Some(_), Some(applies_at)) => Ok(UnixMillis(applies_at)),
            _ => Err(TargetError::NoResult),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn client_id(text: &str) -> Target {
        Target::ClientId(ClientId::parse(text).unwrap())
    }

    #[test]
    fn a_target_has_no_control_characters_even_if_it_was_stored() {
        for target in [client_id("alice"), Target::RevocationKey(RevocationKey::parse("sess_1").unwrap())] {
            let stored = serde_json::to_string(&target).unwrap();
            assert_eq!(serde_json::from_str::<Target>(&stored).unwrap(), target);
        }
        for text in ["", "a\nb", "a\u{1b}[2J", "a\u{9b}31m", "a\u{85}b", "a\u{7f}"] {
            assert!(RevocationKey::parse(text).is_err(), "{text:?}");
            for kind in ["client_id", "revocation_key"] {
                let stored = json!({ kind: text }).to_string();
                assert!(serde_json::from_str::<Target>(&stored).is_err(), "{stored}");
            }
        }
    }

    #[test]
    fn a_call_names_its_targets_as_ably_does() {
        let targets = [client_id("al:ice"), Target::RevocationKey(RevocationKey::parse("sess_1").unwrap())];
        let request = serde_json::to_value(Request::new(&targets, ReauthMargin::Reauthentication)).unwrap();
        let expected = json!({ "targets": ["clientId:al:ice", "revocationKey:sess_1"], "allowReauthMargin": true });
        assert_eq!(request, expected);
        let request = serde_json::to_value(Request::new(&targets[..1], ReauthMargin::None)).unwrap();
        assert_eq!(request["allowReauthMargin"], false);
    }

    fn outcomes(results: &Value) -> Vec<TargetOutcome> {
        let targets = ["a", "b"].map(client_id);
        let response: RevocationResponse = serde_json::from_value(json!({ "results": results })).unwrap();
        response.outcomes(&targets)
    }

    #[test]
    fn each_target_has_an_outcome_of_its_own() {
        let good = |target: &str| json!({ "target": target, "issuedBefore": 1, "appliesAt": 2 });
        let bad = json!({ "target": "clientId:b", "error": { "code": 40000, "statusCode": 400, "message": "m" } });
        let applied = Ok(UnixMillis(2));
        assert_eq!(
            outcomes(&json!([bad, good("clientId:a")])),
            [applied, Err(TargetError::Refused { code: 40000, status: 400 })]
        );
        let no_result = Err(TargetError::NoResult);
        assert_eq!(outcomes(&json!([])), [no_result, no_result]);
        for other in [json!({ "target": "clientId:b" }), json!({ "target": 1 }), json!(null), good("clientId:B")] {
            assert_eq!(outcomes(&json!([other, good("clientId:a")])), [applied, no_result], "{other}");
        }
    }

    #[test]
    fn the_status_or_else_the_code_decides_whether_to_retry_a_target() {
        let refused = |code, status: Option<u16>| -> TargetError {
            let results =
                json!({ "results": [{ "target": "clientId:a", "error": { "code": code, "statusCode": status } }] });
            let response: RevocationResponse = serde_json::from_value(results).unwrap();
            response.outcomes(&[client_id("a")]).remove(0).unwrap_err()
        };
        for (code, status, passes, is_rate_limit) in [
            (40000, Some(400), false, false),
            (40163, None, false, false),
            (42910, None, true, true),
            (42910, Some(429), true, true),
            (50003, None, true, false),
            (103_009, Some(400), false, false),
            (103_009, Some(503), true, false),
            (103_009, Some(429), true, true),
        ] {
            let error = refused(code, status);
            assert_eq!(error.code(), Some(code));
            let found = (error.is_temporary(), error.is_rate_limit());
            assert_eq!(found, (passes, is_rate_limit), "{code} {status:?}");
        }
    }
}

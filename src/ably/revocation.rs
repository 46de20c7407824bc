//! Revocation: what takes tokens back that Ably has given, or would go on to take.

use std::fmt;

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::ClientId;
use crate::clock::UnixMillis;

/// Which tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Those of a client ID, of whatever format.
    ClientId(ClientId),
    /// The JWTs of a revocation key, which is the Clerk session that they were issued to.
    RevocationKey(RevocationKey),
}

/// What JWTs are revoked by: the ID of the Clerk session that they were issued to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RevocationKey(String);

/// Why a text cannot be a revocation key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRevocationKey {
    /// No session has an empty ID.
    #[error("the revocation key is empty")]
    Empty,
    /// A line break or another control character.
    #[error("the revocation key has a control character")]
    ControlCharacter,
}

impl RevocationKey {
    /// Checks a revocation key.
    pub fn parse(text: impl Into<String>) -> Result<Self, InvalidRevocationKey> {
        let text = text.into();
        match text.as_str() {
            "" => Err(InvalidRevocationKey::Empty),
            odd if odd.contains(char::is_control) => Err(InvalidRevocationKey::ControlCharacter),
            _ => Ok(Self(text)),
        }
    }
}

impl TryFrom<String> for RevocationKey {
    type Error = InvalidRevocationKey;

    fn try_from(text: String) -> Result<Self, InvalidRevocationKey> {
        Self::parse(text)
    }
}

impl From<RevocationKey> for String {
    fn from(key: RevocationKey) -> Self {
        key.0
    }
}

impl fmt::Display for RevocationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As the API writes it: `clientId:alice`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientId(client_id) => write!(f, "clientId:{client_id}"),
            Self::RevocationKey(key) => write!(f, "revocationKey:{key}"),
        }
    }
}

/// How soon a connection ends whose token is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReauthMargin {
    /// At once.
    None,
    /// After 30 seconds, unless its client has a new token by then: one that may have it does not notice.
    Reauthentication,
}

/// What Ably says of one target.
pub type TargetOutcome = Result<Applied, TargetError>;

/// A revocation that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Tokens issued before this are revoked.
    pub issued_before: UnixMillis,
    /// From then on they are no good.
    pub applies_at: UnixMillis,
}

/// Why a target is not revoked, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Ably says no.
    #[error("Ably answered for this target with code {code}")]
    Refused {
        /// Ably's code.
        code: u32,
        /// The HTTP status that goes with it. A code of six digits does not tell it.
        status: u16,
    },
    /// Ably's answer has no result for this target, or an unreadable one.
    #[error("Ably's answer has no readable result for this target")]
    NoResult,
}

impl TargetError {
    /// Whether trying again later can help.
    #[must_use]
    pub fn passes_by_itself(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status >= 500 || [408, 429].contains(status),
            Self::NoResult => true,
        }
    }

    /// Whether Ably was asked too often.
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

/// Why Ably refuses to revoke tokens for good, by its code, and what the operator can do.
#[must_use]
pub fn diagnosis(code: Option<u32>) -> (&'static str, &'static str) {
    match code {
        Some(40121) => (
            "token revocation is not enabled for the Ably app",
            "enable token revocation for the app in Ably's dashboard, or ask Ably's support to",
        ),
        Some(40133) => (
            "another API key issued these tokens, and only that key can revoke them",
            "set ABLY_API_KEY to the key that issues the tokens, or let tokens of a former key expire",
        ),
        Some(40163 | 40164) => (
            "the API key does not have revocable tokens on",
            "turn on revocable tokens for the key of ABLY_API_KEY in Ably's dashboard: then tokens issued from then on can \
             be revoked",
        ),
        Some(40100..=40132) => ("Ably does not accept the API key", "set ABLY_API_KEY to a key that is in force"),
        _ => ("see the error", "look up the code at https://help.ably.io/error/ followed by it"),
    }
}

/// The body of `POST /keys/{keyName}/revokeTokens`. It names no time: Ably then takes its own, which no clock of ours can
/// be ahead of.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    targets: Vec<String>,
    allow_reauth_margin: bool,
}

/// The answer, by version 3 of the protocol.
#[derive(Deserialize)]
pub(super) struct Response {
    results: Vec<Entry>,
}

/// What is unreadable says nothing of any target, and spoils no other result.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Result(TargetResult),
    Unreadable(IgnoredAny),
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
        // The first three of five digits are a status; of six they are not.
        let of_code = || u16::try_from(error.code / 100).ok().filter(|status| *status < 1000).unwrap_or(400);
        Self::Refused { code: error.code, status: error.status_code.unwrap_or_else(of_code) }
    }
}

impl Request {
    pub(super) fn new(targets: &[Target], margin: ReauthMargin) -> Self {
        let targets = targets.iter().map(ToString::to_string).collect();
        Self { targets, allow_reauth_margin: margin == ReauthMargin::Reauthentication }
    }
}

impl Response {
    /// What is said of each of the targets, in their order.
    pub(super) fn outcomes(&self, targets: &[Target]) -> Vec<TargetOutcome> {
        targets.iter().map(|target| self.outcome(&target.to_string()).unwrap_or(Err(TargetError::NoResult))).collect()
    }

    fn outcome(&self, target: &str) -> Option<TargetOutcome> {
        let result = self.results.iter().find_map(|entry| match entry {
            Entry::Result(result) if result.target == target => Some(result),
            Entry::Result(_) | Entry::Unreadable(_) => None,
        })?;
        match (&result.error, result.issued_before, result.applies_at) {
            (Some(error), ..) => Some(Err(error.into())),
            (None, Some(issued_before), Some(applies_at)) => {
                Some(Ok(Applied { issued_before: UnixMillis(issued_before), applies_at: UnixMillis(applies_at) }))
            }
            _ => None,
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
    fn a_target_has_no_control_characters_not_even_one_that_was_stored() {
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
        let response: Response = serde_json::from_value(json!({ "results": results })).unwrap();
        response.outcomes(&targets)
    }

    #[test]
    fn each_target_has_an_outcome_of_its_own() {
        let good = |target: &str| json!({ "target": target, "issuedBefore": 1, "appliesAt": 2 });
        let bad = json!({ "target": "clientId:b", "error": { "code": 40000, "statusCode": 400, "message": "m" } });
        let applied = Ok(Applied { issued_before: UnixMillis(1), applies_at: UnixMillis(2) });
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
    fn whether_a_target_is_worth_a_retry_is_told_by_its_status_or_else_by_its_code() {
        let refused = |code, status: Option<u16>| -> TargetError {
            let results =
                json!({ "results": [{ "target": "clientId:a", "error": { "code": code, "statusCode": status } }] });
            let response: Response = serde_json::from_value(results).unwrap();
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
            let found = (error.passes_by_itself(), error.is_rate_limit());
            assert_eq!(found, (passes, is_rate_limit), "{code} {status:?}");
        }
    }
}

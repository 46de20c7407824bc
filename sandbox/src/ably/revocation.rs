//! Token revocation: the request to `revokeTokens`, and the tokens that it reaches. A revocation reaches tokens
//! issued before it, by client ID, revocation key or channel.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{access::Access, error::ErrorInfo, token_request::longest_ttl_ms};

const LONGEST_PAST_MS: i64 = 60 * 60 * 1000;
const MOST_TARGETS: usize = 100;
const MOST_REVOCATIONS: usize = 20_000;

/// The token was revoked; an SDK fetches a new one (`RSA4b`).
pub(crate) const REVOKED: ErrorInfo = ErrorInfo::new(401, 40141, "the token was revoked");

/// A target of a revocation.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    ClientId(String),
    RevocationKey(String),
    Channel(String),
}

impl Target {
    fn parse(text: &str) -> Result<Self, ErrorInfo> {
        let (kind, value) = text.split_once(':').unwrap_or((text, ""));
        if value.is_empty() {
            return Err(ErrorInfo::bad_request("a target must be of the form type:value"));
        }
        let value = value.to_owned();
        match kind {
            "clientId" => Ok(Self::ClientId(value)),
            "revocationKey" => Ok(Self::RevocationKey(value)),
            "channel" => Ok(Self::Channel(value)),
            _ => Err(ErrorInfo::bad_request("the type of a target must be clientId, revocationKey or channel")),
        }
    }

    /// A channel matches only a resource of exactly this name, not a wildcard.
    fn matches(&self, access: &Access) -> bool {
        match self {
            Self::ClientId(client_id) => access.client_id.as_ref() == Some(client_id),
            Self::RevocationKey(key) => access.revocation_key.as_ref() == Some(key),
            Self::Channel(channel) => access.capability.names(channel),
        }
    }
}

/// A request to `revokeTokens`.
#[derive(Debug)]
pub(crate) struct RevocationRequest {
    targets: Vec<String>,
    issued_before_ms: Option<i64>,
    applies_after_ms: i64,
}

impl RevocationRequest {
    /// `margin_ms` is the time that `allowReauthMargin` gives clients to fetch a new token.
    pub(crate) fn read(body: &Value, margin_ms: i64, now_ms: i64) -> Result<Self, ErrorInfo> {
        let targets = body
            .get("targets")
            .and_then(Value::as_array)
            .ok_or(ErrorInfo::bad_request("targets must be a list"))?
            .iter()
            .map(|target| target.as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .ok_or(ErrorInfo::bad_request("a target must be a string"))?;
        if targets.is_empty() || targets.len() > MOST_TARGETS {
            return Err(ErrorInfo::bad_request("targets must have 1 to 100 entries"));
        }
        let issued_before_ms = match body.get("issuedBefore") {
            None | Some(Value::Null) => None,
            Some(value) => Some(value.as_i64().ok_or(ErrorInfo::bad_request("issuedBefore must be an integer"))?),
        };
        if issued_before_ms.is_some_and(|before| before > now_ms || before < now_ms.saturating_sub(LONGEST_PAST_MS)) {
            return Err(ErrorInfo::bad_request("issuedBefore must be within the last hour"));
        }
        let applies_after_ms = match body.get("allowReauthMargin") {
            None | Some(Value::Null | Value::Bool(false)) => 0,
            Some(Value::Bool(true)) => margin_ms,
            Some(_) => {
                return Err(ErrorInfo::bad_request("allowReauthMargin must be a boolean"));
            }
        };
        Ok(Self { targets, issued_before_ms, applies_after_ms })
    }
}

/// Whether a token is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RevocationStatus {
    NotRevoked,
    /// Revoked at this time, in milliseconds since the epoch.
    RevokedFrom(i64),
    Revoked,
}

#[derive(Debug)]
struct Revocation {
    key_name: String,
    target: Target,
    issued_before_ms: i64,
    applies_at_ms: i64,
}

impl Revocation {
    fn matches(&self, access: &Access) -> bool {
        self.key_name == access.key_name && self.target.matches(access)
    }
}

/// The active revocations. Each is kept while a token that it reaches may be valid.
#[derive(Debug, Default)]
pub(crate) struct Revocations {
    in_force: Vec<Revocation>,
    latest_ms: i64,
    revocable: Revocable,
    /// Targets that fail, each with its error code.
    failures: HashMap<String, u32>,
    /// Targets that affect more than their own result.
    poisoned: HashMap<String, Poison>,
}

/// How a target spoils a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poison {
    /// 400 and 40000 for every call that names it.
    CallRefused,
    /// The answer omits its result.
    NoResult,
}

/// Whether the key has revocable tokens on, in Ably's dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocableTokens {
    /// Tokens issued from now on can be revoked.
    On,
    /// Calls of `revokeTokens` are refused with 40163.
    Off,
}

/// The tokens that can be revoked: those issued while revocable tokens were on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Revocable {
    #[default]
    None,
    /// Tokens issued since then, in milliseconds since the epoch. Precise to the second, like the `iat` of a JWT.
    Since(i64),
}

impl Revocable {
    fn includes(self, issued_ms: i64) -> bool {
        match self {
            Self::None => false,
            Self::Since(since_ms) => issued_ms.div_euclid(1000) >= since_ms.div_euclid(1000),
        }
    }
}

impl Revocations {
    pub(crate) fn set_revocable(&mut self, revocable: Revocable) {
        self.revocable = revocable;
    }

    pub(crate) fn revocable(&self) -> Revocable {
        self.revocable
    }

    pub(crate) fn set_failure(&mut self, target: &str, code: Option<u32>) {
        match code {
            Some(code) => _ = self.failures.insert(target.to_owned(), code),
            None => _ = self.failures.remove(target),
        }
    }

    pub(crate) fn set_poison(&mut self, target: &str, poison: Option<Poison>) {
        match poison {
            Some(poison) => _ = self.poisoned.insert(target.to_owned(), poison),
            None => _ = self.poisoned.remove(target),
        }
    }

    /// Whether a target makes the whole call fail.
    pub(crate) fn refuses(&self, request: &RevocationRequest) -> bool {
        request.targets.iter().any(|target| self.poisoned.get(target) == Some(&Poison::CallRefused))
    }

    /// Records the revocations and returns a result per target, in order. Without `issuedBefore`, they reach every
    /// token that the key issued so far, the last one at `last_issued_ms`, even in this millisecond.
    pub(crate) fn revoke(
        &mut self,
        key_name: &str,
        request: &RevocationRequest,
        last_issued_ms: i64,
        now_ms: i64,
    ) -> Vec<Result<Value, (String, ErrorInfo)>> {
        let issued_before_ms = request.issued_before_ms.unwrap_or_else(|| now_ms.max(last_issued_ms.saturating_add(1)));
        let applies_at_ms = now_ms.saturating_add(request.applies_after_ms);
        request
            .targets
            .iter()
            .filter(|text| !self.poisoned.contains_key(*text))
            .map(|text| {
                let target = Target::parse(text).map_err(|error| (text.clone(), error))?;
                if let Some(code) = self.failures.get(text) {
                    // A six-digit code does not start with an HTTP status.
                    let status = if *code < 100_000 { u16::try_from(code / 100).unwrap_or(400) } else { 400 };
                    return Err((text.clone(), ErrorInfo::new(status, *code, "this target fails, as requested")));
                }
                if self.in_force.len() >= MOST_REVOCATIONS {
                    let full = ErrorInfo::new(503, 50003, "too many revocations in an hour");
                    return Err((text.clone(), full));
                }
                self.latest_ms = self.latest_ms.max(issued_before_ms);
                let key_name = key_name.to_owned();
                self.in_force.push(Revocation { key_name, target, issued_before_ms, applies_at_ms });
                Ok(json!({ "target": text, "issuedBefore": issued_before_ms, "appliesAt": applies_at_ms }))
            })
            .collect()
    }

    /// An issue time after every revocation so far, in milliseconds.
    pub(crate) fn issue_time_ms(&self, now_ms: i64) -> i64 {
        now_ms.max(self.latest_ms)
    }

    pub(crate) fn status_of(&self, access: &Access, now_ms: i64) -> RevocationStatus {
        let Some(lifetime) = access.lifetime else {
            return RevocationStatus::NotRevoked;
        };
        if !self.revocable.includes(lifetime.issued_ms) {
            return RevocationStatus::NotRevoked;
        }
        let applies_at_ms = self
            .in_force
            .iter()
            .filter(|revocation| lifetime.issued_ms < revocation.issued_before_ms && revocation.matches(access))
            .map(|revocation| revocation.applies_at_ms)
            .min();
        match applies_at_ms {
            None => RevocationStatus::NotRevoked,
            Some(at_ms) if now_ms < at_ms => RevocationStatus::RevokedFrom(at_ms),
            Some(_) => RevocationStatus::Revoked,
        }
    }

    /// Forgets revocations whose tokens have all expired.
    pub(crate) fn forget(&mut self, now_ms: i64) {
        let longest_ms = longest_ttl_ms(true);
        self.in_force.retain(|revocation| revocation.issued_before_ms.saturating_add(longest_ms) >= now_ms);
    }
}

/// The shape of the answer, by the protocol version of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerShape {
    /// `X-Ably-Version` 3 or later: counts and results.
    Counted,
    /// Earlier versions: a bare list, or 40020 if a target failed.
    List,
}

impl AnswerShape {
    pub(crate) fn of_version(version: Option<&str>) -> Self {
        let major = version.and_then(|version| version.split('.').next()?.parse::<u32>().ok());
        match major {
            Some(3..) => Self::Counted,
            _ => Self::List,
        }
    }

    /// The HTTP status and the body.
    pub(crate) fn answer(self, results: Vec<Result<Value, (String, ErrorInfo)>>) -> (u16, Value) {
        let failures = results.iter().filter(|result| result.is_err()).count();
        let successes = results.len() - failures;
        let list: Vec<Value> = results
            .into_iter()
            .map(|result| {
                result.unwrap_or_else(|(target, error)| json!({ "target": target, "error": error.to_json() }))
            })
            .collect();
        match self {
            Self::Counted => (200, json!({ "successCount": successes, "failureCount": failures, "results": list })),
            Self::List if failures == 0 => (200, json!(list)),
            Self::List => {
                let error = ErrorInfo::new(400, 40020, "some of the targets failed");
                (error.status, json!({ "error": error.to_json(), "batchResponse": list }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{AnswerShape, Revocable, RevocationRequest, RevocationStatus, Revocations};
    use crate::ably::{
        access::{Access, Lifetime},
        api_key::ApiKey,
        capability::Capability,
    };

    const NOW_MS: i64 = 1_795_289_000_000;
    const MARGIN_MS: i64 = 30_000;

    fn revocations() -> Revocations {
        Revocations { revocable: Revocable::Since(0), ..Revocations::default() }
    }

    fn access(issued_ms: i64) -> Access {
        let mut access = Access::of_token(
            "token",
            &ApiKey::parse("app.key:secret").unwrap(),
            Some("alice".to_owned()),
            Capability::parse(r#"{"chat:a":["*"],"room:*":["*"]}"#).unwrap(),
            Lifetime { issued_ms, expires_ms: issued_ms + 3_600_000 },
        );
        access.revocation_key = Some("sess_1".to_owned());
        access
    }

    fn revoke(revocations: &mut Revocations, body: &Value) -> (u16, Value) {
        let request = RevocationRequest::read(body, MARGIN_MS, NOW_MS).unwrap();
        AnswerShape::Counted.answer(revocations.revoke("app.key", &request, 0, NOW_MS))
    }

    #[test]
    fn a_target_reaches_the_tokens_that_it_names() {
        for (target, status) in [
            ("clientId:alice", RevocationStatus::Revoked),
            ("clientId:bob", RevocationStatus::NotRevoked),
            ("clientId:*", RevocationStatus::NotRevoked),
            ("revocationKey:sess_1", RevocationStatus::Revoked),
            ("revocationKey:sess_2", RevocationStatus::NotRevoked),
            ("channel:chat:a", RevocationStatus::Revoked),
            ("channel:chat:b", RevocationStatus::NotRevoked),
            ("channel:room:1", RevocationStatus::NotRevoked),
            ("channel:room:*", RevocationStatus::Revoked),
        ] {
            let mut revocations = revocations();
            revoke(&mut revocations, &json!({ "targets": [target] }));
            assert_eq!(revocations.status_of(&access(NOW_MS - 1), NOW_MS), status, "{target}");
            assert_eq!(revocations.status_of(&access(NOW_MS), NOW_MS), RevocationStatus::NotRevoked, "{target}");
        }
    }

    #[test]
    fn tokens_issued_in_the_millisecond_of_a_revocation_are_told_apart() {
        let mut revocations = revocations();
        let request = RevocationRequest::read(&json!({ "targets": ["clientId:alice"] }), MARGIN_MS, NOW_MS).unwrap();
        let before = revocations.issue_time_ms(NOW_MS);
        let _ = revocations.revoke("app.key", &request, before, NOW_MS);
        let after = revocations.issue_time_ms(NOW_MS);
        assert_eq!(revocations.status_of(&access(before), NOW_MS), RevocationStatus::Revoked);
        assert_eq!(revocations.status_of(&access(after), NOW_MS), RevocationStatus::NotRevoked);
    }

    #[test]
    fn a_margin_lasts_thirty_seconds() {
        let mut revocations = revocations();
        let (_, answer) =
            revoke(&mut revocations, &json!({ "targets": ["clientId:alice"], "allowReauthMargin": true }));
        assert_eq!(answer["results"][0]["appliesAt"], NOW_MS + 30_000);
        let token = access(NOW_MS - 1);
        assert_eq!(revocations.status_of(&token, NOW_MS + 29_999), RevocationStatus::RevokedFrom(NOW_MS + 30_000));
        assert_eq!(revocations.status_of(&token, NOW_MS + 30_000), RevocationStatus::Revoked);
        revoke(&mut revocations, &json!({ "targets": ["clientId:alice"] }));
        assert_eq!(revocations.status_of(&token, NOW_MS), RevocationStatus::Revoked);
    }

    #[test]
    fn only_tokens_issued_while_the_key_had_revocable_tokens_are_reached() {
        for (since_ms, issued_ms, status) in [
            (NOW_MS - 5000, NOW_MS - 5001, RevocationStatus::NotRevoked),
            (NOW_MS - 5000, NOW_MS - 5000, RevocationStatus::Revoked),
            (NOW_MS - 4001, NOW_MS - 5000, RevocationStatus::Revoked),
        ] {
            let mut revocations = revocations();
            revocations.set_revocable(Revocable::Since(since_ms));
            revoke(&mut revocations, &json!({ "targets": ["clientId:alice"] }));
            assert_eq!(revocations.status_of(&access(issued_ms), NOW_MS), status, "{since_ms} {issued_ms}");
            revocations.set_revocable(Revocable::None);
            assert_eq!(revocations.status_of(&access(issued_ms), NOW_MS), RevocationStatus::NotRevoked);
        }
    }

    #[test]
    fn issued_before_spares_later_tokens() {
        let mut revocations = revocations();
        let before = NOW_MS - 1000;
        revoke(&mut revocations, &json!({ "targets": ["clientId:alice"], "issuedBefore": before }));
        assert_eq!(revocations.status_of(&access(before - 1), NOW_MS), RevocationStatus::Revoked);
        assert_eq!(revocations.status_of(&access(before), NOW_MS), RevocationStatus::NotRevoked);
    }

    #[test]
    fn a_malformed_call_is_refused() {
        let many: Vec<_> = (0..=100).map(|n| format!("clientId:{n}")).collect();
        for body in [
            json!({}),
            json!([]),
            json!({ "targets": [] }),
            json!({ "targets": many }),
            json!({ "targets": "clientId:alice" }),
            json!({ "targets": [1] }),
            json!({ "targets": ["clientId:a"], "issuedBefore": NOW_MS + 1 }),
            json!({ "targets": ["clientId:a"], "issuedBefore": NOW_MS - 3_600_001 }),
            json!({ "targets": ["clientId:a"], "issuedBefore": "yesterday" }),
            json!({ "targets": ["clientId:a"], "allowReauthMargin": 1 }),
        ] {
            let error = RevocationRequest::read(&body, MARGIN_MS, NOW_MS).unwrap_err();
            assert_eq!((error.status, error.code), (400, 40000), "{body}");
        }
    }

    #[test]
    fn the_answer_follows_the_protocol_version() {
        let body = json!({ "targets": ["clientId:alice", "user:alice", "clientId:"] });
        let request = RevocationRequest::read(&body, MARGIN_MS, NOW_MS).unwrap();
        let mut revocations = revocations();
        let results = revocations.revoke("app.key", &request, 0, NOW_MS);
        let (status, answer) = AnswerShape::of_version(Some("3")).answer(results.clone());
        assert_eq!(status, 200);
        assert_eq!((&answer["successCount"], &answer["failureCount"]), (&json!(1), &json!(2)));
        assert_eq!(answer["results"][0]["target"], "clientId:alice");
        assert_eq!(answer["results"][0]["issuedBefore"], NOW_MS);
        assert_eq!(answer["results"][1]["error"]["code"], 40000);
        for version in [None, Some("1.2"), Some("2"), Some("x")] {
            let (status, answer) = AnswerShape::of_version(version).answer(results.clone());
            assert_eq!(status, 400);
            assert_eq!(answer["error"]["code"], 40020);
            assert_eq!(answer["batchResponse"][0]["target"], "clientId:alice");
        }
        let (status, answer) = AnswerShape::List.answer(results[..1].to_vec());
        assert_eq!((status, answer.as_array().unwrap().len()), (200, 1));
    }

    #[test]
    fn a_revocation_is_kept_while_a_token_that_it_reaches_may_be_valid() {
        let mut revocations = revocations();
        revoke(&mut revocations, &json!({ "targets": ["clientId:alice"] }));
        revocations.forget(NOW_MS + 3_600_000);
        assert_eq!(revocations.in_force.len(), 1);
        revocations.forget(NOW_MS + 3_600_001);
        assert!(revocations.in_force.is_empty());
    }
}

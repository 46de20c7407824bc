//! Policy tests: a TOML file of cases, each with claims and the expected outcome.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};
use toml::de::{DeTable, DeValue};

use super::{
    policy::{Node, Parser, integer},
    problem::{InvalidPolicyTests, Problem},
    sources::{offset, position},
    token::TokenConfig,
};
use crate::{
    ably::{Capability, TokenFormat, Ttl, code},
    policy::{Policy, reject_what_grants_nothing},
    tenant::TenantName,
};

/// The codes of the refusals that a test can expect.
const REFUSALS: [u32; 6] = [
    code::BAD_REQUEST,
    code::INVALID_PARAMETER,
    code::INVALID_CLIENT_ID,
    code::INVALID_CREDENTIALS,
    code::NOT_PERMITTED,
    code::FORBIDDEN,
];

/// The settings of a tenant that policy tests use. They have no keys, so the tests run anywhere.
#[derive(Clone, Debug)]
pub struct PolicyUnderTest {
    /// The tenant.
    pub tenant: TenantName,
    /// Its policy.
    pub policy: Policy,
    /// Its tokens.
    pub token: TokenConfig,
}

/// One `[[cases]]` table.
#[derive(Clone, Debug)]
pub struct Case<'p> {
    /// Its unique name.
    pub name: String,
    /// The policy that it tests.
    pub policy: &'p PolicyUnderTest,
    /// The claims of the session token.
    pub claims: Map<String, Value>,
    /// The token params, as a client would send them.
    pub params: Vec<(String, String)>,
    /// The expected outcome.
    pub expected: Expected,
}

/// The expected outcome of a case.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// A refusal with this code.
    Refused(u32),
    /// A token.
    Granted(ExpectedGrant),
}

/// The parts of a token that a case names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExpectedGrant {
    /// Its capability. None: the API key's.
    pub capability: Option<Capability>,
    /// Its ttl.
    pub ttl: Option<Ttl>,
    /// Its client ID.
    pub client_id: Option<String>,
    /// All its channel claims.
    pub channel_claims: Option<BTreeMap<String, String>>,
    /// All its publish rates.
    pub publish_rate: Option<BTreeMap<String, Number>>,
}

impl<'p> Case<'p> {
    /// Reads the cases of a file for these policies, or returns all its problems.
    pub fn parse_all(text: &str, path: &str, policies: &'p [PolicyUnderTest]) -> Result<Vec<Self>, InvalidPolicyTests> {
        let document = DeTable::parse(text).map_err(|error| {
            let position = position(text, offset(text, &error));
            InvalidPolicyTests(vec![Problem(format!("{path}, {position}: {}", error.message()))])
        })?;
        let mut parser = Parser::new(path, text, false);
        "the file".clone_into(&mut parser.subject);
        parser.reject_unknown(document.get_ref(), "cases", "key");
        let cases = parser.required(&document, document.get_ref(), "cases");
        let read = |parser: &mut Parser<'_>, case: &Node<'_>| parser.case(case, policies);
        let cases = cases.map(|cases| parser.tables(cases, "[[cases]]", read)).unwrap_or_default();
        let problems: Vec<_> = parser.finish().collect();
        if problems.is_empty() { Ok(cases) } else { Err(InvalidPolicyTests(problems)) }
    }
}

impl Parser<'_> {
    fn case<'p>(&mut self, value: &Node<'_>, policies: &'p [PolicyUnderTest]) -> Option<Case<'p>> {
        let keys = self.table(value)?;
        let name = self.name(value, keys, "[[cases]]");
        self.reject_unknown(keys, "name, tenant, claims, params, expect", "key");
        let policy = self.policy_under_test(value, keys, policies);
        let claims = self.required(value, keys, "claims").and_then(|claims| self.object(claims));
        let params = keys.get("params").and_then(|params| self.params(params));
        let expected = self.required(value, keys, "expect").and_then(|expected| self.expectation(expected));
        let jwt_only = std::mem::take(&mut self.jwt_only);
        if policy.is_some_and(|policy| policy.token.format != TokenFormat::Jwt) {
            self.problems.extend(jwt_only);
        }
        Some(Case {
            name: name?,
            policy: policy?,
            claims: claims?,
            params: params.unwrap_or_default(),
            expected: expected?,
        })
    }

    /// The policy of the tenant that a case names. With several tenants, each case names one.
    fn policy_under_test<'p>(
        &mut self,
        case: &Node<'_>,
        keys: &DeTable<'_>,
        policies: &'p [PolicyUnderTest],
    ) -> Option<&'p PolicyUnderTest> {
        let names = || policies.iter().map(|policy| policy.tenant.as_str()).collect::<Vec<_>>().join(", ");
        match (keys.get("tenant"), policies) {
            (Some(tenant), _) => self.parsed(tenant, "the name of a tenant", |name| {
                let named = policies.iter().find(|policy| policy.tenant.as_str() == name);
                named.ok_or_else(|| format!("unknown tenant {name:?}; use one of: {}", names()))
            }),
            (None, [only]) => Some(only),
            (None, _) => {
                self.problem(case, format_args!("tenant is missing; add one of: {}", names()));
                None
            }
        }
    }

    /// A table stands for its JSON, and a number for its digits, as a client would send them.
    fn params(&mut self, value: &Node<'_>) -> Option<Vec<(String, String)>> {
        let keys = self.table(value)?;
        self.reject_unknown(keys, "capability, ttl, clientId, organization", "token param");
        let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some(self.object(value)?.into_iter().map(|(name, value)| (name, text(value))).collect())
    }

    fn expectation(&mut self, value: &Node<'_>) -> Option<Expected> {
        const KEYS: &str = "capability, ttl, client_id, channel_claims, publish_rate, refused";
        let keys = self.table(value)?;
        self.reject_unknown(keys, KEYS, "expectation");
        match (keys.get("capability"), keys.get("refused")) {
            (None, Some(refused)) if keys.len() == 1 => {
                let code = refused.get_ref().as_integer().and_then(integer).and_then(|code| u32::try_from(code).ok());
                let code = code.filter(|code| REFUSALS.contains(code));
                if code.is_none() {
                    let codes = REFUSALS.map(|code| code.to_string()).join(", ");
                    self.problem(refused, format_args!("not the code of a refusal; use one of: {codes}"));
                }
                code.map(Expected::Refused)
            }
            (Some(capability), None) => {
                let is_key = capability.get_ref().as_str() == Some("key");
                let channel_claims = self.jwt_only(keys, "channel_claims", |parser, table| {
                    parser.resources(table, resource, Self::channel_claim)
                });
                let publish_rate =
                    self.jwt_only(keys, "publish_rate", |parser, table| parser.resources(table, resource, Self::rate));
                Some(Expected::Granted(ExpectedGrant {
                    capability: if is_key { None } else { self.expected_capability(capability) },
                    ttl: keys.get("ttl").and_then(|ttl| self.expected_ttl(ttl)),
                    client_id: keys.get("client_id").and_then(|id| Some(self.text(id, "a client ID")?.to_owned())),
                    channel_claims: channel_claims.map(BTreeMap::from_iter),
                    publish_rate: publish_rate.map(BTreeMap::from_iter),
                }))
            }
            _ => {
                let cure = "write either a capability, with ttl, client_id, channel_claims and publish_rate if they \
                            matter, or refused = 40160";
                self.problem(value, cure);
                None
            }
        }
    }

    fn expected_ttl(&mut self, value: &Node<'_>) -> Option<Ttl> {
        let ttl = Ttl::try_from(self.duration(value)?);
        self.checked(value, ttl.map_err(|()| "zero, or a fraction of a millisecond; write for example 30m"))
    }

    fn expected_capability(&mut self, value: &Node<'_>) -> Option<Capability> {
        let capability = Capability::union(self.resources(value, resource, Self::operations)?);
        if capability.is_none() {
            self.problem(value, "an empty capability; if nothing is granted, write refused = 40160");
        }
        capability
    }

    fn object(&mut self, value: &Node<'_>) -> Option<Map<String, Value>> {
        let table = self.table(value)?;
        let pairs = self.each(table, |parser, (key, value)| Some((key.get_ref().to_string(), parser.json(value)?)))?;
        Some(pairs.into_iter().collect())
    }

    /// The value in JSON, which has no dates and only finite numbers.
    fn json(&mut self, value: &Node<'_>) -> Option<Value> {
        let number = match value.get_ref() {
            DeValue::String(text) => return Some(text.to_string().into()),
            DeValue::Boolean(value) => return Some((*value).into()),
            DeValue::Array(values) => return self.each(values, Self::json).map(Into::into),
            DeValue::Table(_) => return self.object(value).map(Into::into),
            DeValue::Integer(number) => integer(number).map(Number::from),
            DeValue::Float(number) => number.as_str().replace('_', "").parse().ok().and_then(Number::from_f64),
            DeValue::Datetime(_) => None,
        };
        self.expected(value, number.map(Into::into), "a value that JSON has")
    }
}

/// A resource as a token names it.
fn resource(name: &str) -> Result<String, String> {
    reject_what_grants_nothing(name).map(|()| name.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::SignedOut;

    fn policy(format: TokenFormat) -> PolicyUnderTest {
        let (client_id, signed_out) = ("{username}".parse().unwrap(), SignedOut::Retry);
        let token = TokenConfig { format, ttl: None, client_id, confirms_whole_capability: false, signed_out };
        PolicyUnderTest { tenant: TenantName::default(), policy: Policy::default(), token }
    }

    fn problems(text: &str, format: TokenFormat) -> String {
        Case::parse_all(text, "FILE", &[policy(format)]).unwrap_err().to_string()
    }

    #[test]
    fn cases_are_read_as_a_client_and_clerk_would_say_them() {
        let text = r#"
            [[cases]]
            name = "a"
            claims = { o = { id = "org_1" }, n = 5, f = 0.5, list = [true] }
            params = { capability = { a = ["*"] }, ttl = 60_000 }
            expect = { capability = { b = ["publish"] }, ttl = "10m", client_id = "alice" }
            [[cases]]
            name = "b"
            claims = {}
            expect = { refused = 40160 }
            [[cases]]
            name = "c"
            claims = {}
            expect = { capability = "key", channel_claims = { "chat:*" = "owner" }, publish_rate = {} }
        "#;
        let policies = [policy(TokenFormat::Jwt)];
        let cases = Case::parse_all(text, "FILE", &policies).unwrap();
        let claims = r#"{"f":0.5,"list":[true],"n":5,"o":{"id":"org_1"}}"#;
        assert_eq!(serde_json::to_string(&cases[0].claims).unwrap(), claims);
        let params = [("capability", r#"{"a":["*"]}"#), ("ttl", "60000")];
        assert_eq!(cases[0].params, params.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let capability = r#"{"b":["publish"]}"#.parse().ok();
        let (ttl, client_id) = (Ttl::from_millis(600_000), Some("alice".to_owned()));
        let granted = ExpectedGrant { capability, ttl, client_id, ..ExpectedGrant::default() };
        assert_eq!(cases[0].expected, Expected::Granted(granted));
        assert_eq!(cases[1].expected, Expected::Refused(40160));
        let channel_claims = Some([("chat:*".to_owned(), "owner".to_owned())].into());
        let publish_rate = Some(BTreeMap::new());
        let granted = ExpectedGrant { channel_claims, publish_rate, ..ExpectedGrant::default() };
        assert_eq!(cases[2].expected, Expected::Granted(granted));
    }

    #[test]
    fn what_only_a_jwt_can_carry_cannot_be_expected_of_another_format() {
        let text = r#"
[[cases]]
name = "a"
claims = {}
expect = { capability = "key", publish_rate = { "chat:*" = 5 }, channel_claims = {} }
[[cases]]
name = "b"
claims = {}
expect = { capability = "key" }
"#;
        assert!(Case::parse_all(text, "FILE", &[policy(TokenFormat::Jwt)]).is_ok());
        let without = &text[text.rfind("[[cases]]").unwrap()..];
        assert!(Case::parse_all(without, "FILE", &[policy(TokenFormat::TokenRequest)]).is_ok());
        for format in [TokenFormat::TokenRequest, TokenFormat::TokenDetails] {
            insta::allow_duplicates! {
                insta::assert_snapshot!(problems(text, format), @r##"
                the policy tests have 2 problems:
                  - FILE, line 5, column 32: [[cases]] "a": publish_rate: only JWTs can carry it; set [token] format to jwt, or remove it
                  - FILE, line 5, column 65: [[cases]] "a": channel_claims: only JWTs can carry it; set [token] format to jwt, or remove it
                "##);
            }
        }
    }

    #[test]
    fn every_mistake_in_a_file_is_reported_with_its_position() {
        let text = r#"extra = 1
[[cases]]
name = "a"
claim = {}
params = { clientid = "alice" }
expect = { refused = 40171 }
[[cases]]
name = "a"
claims = { when = 2026-01-01 }
expect = { capability = { a = ["fly"] }, refused = 40160 }
[[cases]]
claims = []
expect = { capability = { a = ["fly"] }, ttl = "10" }
[[cases]]
name = "c"
claims = {}
expect = { capability = "key", channel_claims = { a = 1 }, publish_rate = { a = 0, b = "5" } }
[[cases]]
name = "d"
claims = {}
expect = { capability = "key", channel_claims = "owner" }
[[cases]]
name = "e"
claims = {}
expect = { capability = { "[chat]lobby" = ["publish"] }, publish_rate = { "[chat]*" = 5 } }
"#;
        insta::assert_snapshot!(problems(text, TokenFormat::Jwt), @r##"
        the policy tests have 18 problems:
          - FILE, line 1, column 1: the file: unknown key "extra"; use one of: cases
          - FILE, line 2, column 1: [[cases]] "a": claims is missing; add it
          - FILE, line 4, column 1: [[cases]] "a": unknown key "claim"; use one of: name, tenant, claims, params, expect
          - FILE, line 5, column 12: [[cases]] "a": unknown token param "clientid"; use one of: capability, ttl, clientId, organization
          - FILE, line 6, column 22: [[cases]] "a": not the code of a refusal; use one of: 40000, 40003, 40012, 40101, 40160, 40300
          - FILE, line 8, column 8: [[cases]] "a": another table has this name; write another
          - FILE, line 9, column 19: [[cases]] "a": expected a value that JSON has; found a date
          - FILE, line 10, column 10: [[cases]] "a": write either a capability, with ttl, client_id, channel_claims and publish_rate if they matter, or refused = 40160
          - FILE, line 11, column 1: [[cases]] number 3: name is missing; add it
          - FILE, line 12, column 10: [[cases]] number 3: expected a table; found a list
          - FILE, line 13, column 31: [[cases]] number 3: "fly" is not an operation of Ably's
          - FILE, line 13, column 48: [[cases]] number 3: not a duration; write a number with a unit, like 30m
          - FILE, line 17, column 55: [[cases]] "c": expected a string, the claim's value; found a number
          - FILE, line 17, column 81: [[cases]] "c": not a number of messages a second above zero; write for example 5
          - FILE, line 17, column 88: [[cases]] "c": not a number of messages a second above zero; write for example 5
          - FILE, line 21, column 49: [[cases]] "d": expected a table; found a string
          - FILE, line 25, column 27: [[cases]] "e": the resource "[chat]lobby": [chat] is obsolete: a Chat room is covered by its name, without a qualifier; write "lobby"
          - FILE, line 25, column 75: [[cases]] "e": the resource "[chat]*": [chat] is obsolete: a Chat room is covered by its name, without a qualifier; write "*"
        "##);
        assert!(problems("", TokenFormat::Jwt).contains("FILE, line 1, column 1: the file: cases is missing"));
        assert!(problems("[[cases]]\nname = ", TokenFormat::Jwt).contains("FILE, line 2, column 8"));
    }
}

//! Tests of a policy: a TOML file of its own, with claims and what they are expected to get.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Map, Number};
use toml::de::{DeTable, DeValue};

use super::{
    policy::{Node, Parser, integer},
    problem::{InvalidPolicyTests, Problem},
    sources::{offset, position},
};
use crate::{
    ably::{Capability, TokenFormat, Ttl, code},
    policy::reject_what_grants_nothing,
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

/// The cases of a file, in its order.
#[derive(Clone, Debug)]
pub struct PolicyTests(pub Vec<Case>);

/// One `[[cases]]` table.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its unique name.
    pub name: String,
    /// The tenant whose policy it tests, if it names one.
    pub tenant: Option<TenantName>,
    /// The claims of the session token.
    pub claims: Map<String, serde_json::Value>,
    /// The token params, as a client would send them.
    pub params: Vec<(String, String)>,
    /// The expected outcome.
    pub expected: Expected,
    /// The problems there are unless tokens are JWTs.
    jwt_only: Vec<Problem>,
}

/// What a case is expected to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A refusal with this code.
    Refused(u32),
    /// A token.
    Granted {
        /// Its capability. None: the API key's.
        capability: Option<Capability>,
        /// Its ttl, if the case names one.
        ttl: Option<Ttl>,
        /// Its client ID, if the case names one.
        client_id: Option<String>,
        /// Its channel claims, if the case names them.
        channel_claims: Option<BTreeMap<String, String>>,
        /// Its publish rates, if the case names them.
        publish_rate: Option<BTreeMap<String, Number>>,
    },
}

impl PolicyTests {
    /// Reads a file, or returns all its problems.
    pub fn read(path: &Path) -> Result<Self, InvalidPolicyTests> {
        let name = path.display().to_string();
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, &name),
            Err(error) => Err(InvalidPolicyTests(vec![Problem(format!("{name} cannot be read: {error}"))])),
        }
    }

    /// Whether tokens of each case's format can carry what it expects.
    pub fn fit<'a>(cases: impl IntoIterator<Item = (&'a Case, TokenFormat)>) -> Result<(), InvalidPolicyTests> {
        let others = cases.into_iter().filter(|(_, format)| *format != TokenFormat::Jwt);
        let problems: Vec<_> = others.flat_map(|(case, _)| &case.jwt_only).cloned().collect();
        if problems.is_empty() { Ok(()) } else { Err(InvalidPolicyTests(problems)) }
    }

    fn parse(text: &str, path: &str) -> Result<Self, InvalidPolicyTests> {
        let document = DeTable::parse(text).map_err(|error| {
            let position = position(text, offset(text, &error));
            InvalidPolicyTests(vec![Problem(format!("{path}, {position}: {}", error.message()))])
        })?;
        let mut parser = Parser::new(path, text, false);
        "the file".clone_into(&mut parser.subject);
        parser.reject_unknown(document.get_ref(), "cases", "key");
        let cases = parser.required(&document, document.get_ref(), "cases");
        let cases = cases.map(|cases| parser.tables(cases, "[[cases]]", Parser::case)).unwrap_or_default();
        let problems: Vec<_> = parser.finish().collect();
        if problems.is_empty() { Ok(Self(cases)) } else { Err(InvalidPolicyTests(problems)) }
    }
}

impl Parser<'_> {
    fn case(&mut self, value: &Node<'_>) -> Option<Case> {
        let keys = self.table(value)?;
        let name = self.name(value, keys, "[[cases]]");
        self.reject_unknown(keys, "name, tenant, claims, params, expect", "key");
        let tenant = keys.get("tenant");
        let tenant = tenant.and_then(|tenant| self.parsed(tenant, "the name of a tenant", TenantName::parse));
        let claims = self.required(value, keys, "claims").and_then(|claims| {
            self.table(claims)?;
            self.json(claims)
        });
        let params = keys.get("params").and_then(|params| self.params(params));
        let expected = self.required(value, keys, "expect").and_then(|expected| self.expectation(expected));
        let mut jwt_only = std::mem::take(&mut self.jwt_only);
        jwt_only.sort_by_key(|(offset, _)| *offset);
        Some(Case {
            name: name?,
            tenant,
            claims: claims?.as_object()?.clone(),
            params: params.unwrap_or_default(),
            expected: expected?,
            jwt_only: jwt_only.into_iter().map(|(_, problem)| problem).collect(),
        })
    }

    /// A table stands for its JSON, and a number for its digits, as a client would send them.
    fn params(&mut self, value: &Node<'_>) -> Option<Vec<(String, String)>> {
        let keys = self.table(value)?;
        self.reject_unknown(keys, "capability, ttl, clientId, organization", "token param");
        self.each(keys, |parser, (key, value)| {
            let text = match parser.json(value)? {
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            };
            Some((key.get_ref().to_string(), text))
        })
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
                Some(Expected::Granted {
                    capability: if is_key { None } else { self.expected_capability(capability) },
                    ttl: keys.get("ttl").and_then(|ttl| self.expected_ttl(ttl)),
                    client_id: keys.get("client_id").and_then(|id| Some(self.text(id, "a client ID")?.to_owned())),
                    channel_claims: self.jwt_only(keys, "channel_claims", |parser, claims| {
                        Some(parser.resources(claims, resource, Self::channel_claim)?.into_iter().collect())
                    }),
                    publish_rate: self.jwt_only(keys, "publish_rate", |parser, rates| {
                        Some(parser.resources(rates, resource, Self::rate)?.into_iter().collect())
                    }),
                })
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

    /// The value in JSON, which has no dates and only finite numbers.
    fn json(&mut self, value: &Node<'_>) -> Option<serde_json::Value> {
        let number = match value.get_ref() {
            DeValue::String(text) => return Some(text.to_string().into()),
            DeValue::Boolean(value) => return Some((*value).into()),
            DeValue::Array(values) => return self.each(values, Self::json).map(Into::into),
            DeValue::Table(table) => {
                let pairs =
                    self.each(table, |parser, (key, value)| Some((key.get_ref().to_string(), parser.json(value)?)));
                return Some(pairs?.into_iter().collect());
            }
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

    fn problems(text: &str) -> String {
        PolicyTests::parse(text, "FILE").unwrap_err().to_string()
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
        let PolicyTests(cases) = PolicyTests::parse(text, "FILE").unwrap();
        let claims = r#"{"f":0.5,"list":[true],"n":5,"o":{"id":"org_1"}}"#;
        assert_eq!(serde_json::to_string(&cases[0].claims).unwrap(), claims);
        let params = [("capability", r#"{"a":["*"]}"#), ("ttl", "60000")];
        assert_eq!(cases[0].params, params.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let capability = r#"{"b":["publish"]}"#.parse().ok();
        let (ttl, client_id) = (Ttl::from_millis(600_000), Some("alice".to_owned()));
        let granted = Expected::Granted { capability, ttl, client_id, channel_claims: None, publish_rate: None };
        assert_eq!(cases[0].expected, granted);
        assert_eq!(cases[1].expected, Expected::Refused(40160));
        let channel_claims = Some([("chat:*".to_owned(), "owner".to_owned())].into());
        let publish_rate = Some(BTreeMap::new());
        let granted = Expected::Granted { capability: None, ttl: None, client_id: None, channel_claims, publish_rate };
        assert_eq!(cases[2].expected, granted);
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
        let PolicyTests(cases) = PolicyTests::parse(text, "FILE").unwrap();
        let fit = |cases: &[Case], format| PolicyTests::fit(cases.iter().map(|case| (case, format)));
        assert!(fit(&cases, TokenFormat::Jwt).is_ok());
        assert!(fit(&cases[1..], TokenFormat::TokenRequest).is_ok());
        for format in [TokenFormat::TokenRequest, TokenFormat::TokenDetails] {
            insta::allow_duplicates! {
                insta::assert_snapshot!(fit(&cases, format).unwrap_err(), @r##"
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
        insta::assert_snapshot!(problems(text), @r##"
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
        assert!(problems("").contains("FILE, line 1, column 1: the file: cases is missing"));
        assert!(problems("[[cases]]\nname = ").contains("FILE, line 2, column 8"));
    }
}

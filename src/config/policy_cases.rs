//! Tests of a policy: a TOML file of its own, with claims and what they are expected to get.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::Path,
};

use serde_json::{Map, Number};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Config, Problem, Problems, Sources, TokenConfig,
    policy::{self, Parser, Value, integer, kind},
    reader::Reader,
    settings::ABLY_REVOCABLE_TOKENS,
    sources::{offset, position},
    tenant,
    value::{boolean, duration},
};
use crate::{
    ably::{Capability, Operations, TokenFormat, Ttl, code},
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

/// What tests of a policy need of the configuration: no keys, so that they run wherever the file is.
#[derive(Clone, Debug)]
pub struct PolicyUnderTest {
    /// Whose it is.
    pub tenant: TenantName,
    /// The policy.
    pub policy: Policy,
    /// What tokens are like.
    pub token: TokenConfig,
}

/// The cases of a file, in its order.
#[derive(Clone, Debug)]
pub struct PolicyTests(pub Vec<Case>);

/// One `[[cases]]` table.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it shows; no two have the same.
    pub name: String,
    /// Whose policy it is for; the only tenant's if there is one.
    pub tenant: Option<TenantName>,
    /// What the session token says.
    pub claims: Map<String, serde_json::Value>,
    /// What the client asks for, as it would send it.
    pub params: Vec<(String, String)>,
    /// What is to come of it.
    pub expected: Expected,
    /// What is wrong with it where tokens are no JWTs.
    jwt_only: Vec<Problem>,
}

/// What a case is expected to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// No token, for the reason that has this code.
    Refused(u32),
    /// A token.
    Granted {
        /// Its rights; none for the key's own.
        capability: Option<Capability>,
        /// How long it lives, if that is part of the case.
        ttl: Option<Ttl>,
        /// Whose it is, if that is part of the case.
        client_id: Option<String>,
        /// Trusted claims by channel, if they are part of the case.
        channel_claims: Option<BTreeMap<String, String>>,
        /// Publish rates by resource, if they are part of the case.
        publish_rate: Option<BTreeMap<String, Number>>,
    },
}

/// Everything that is wrong with a file of tests.
#[derive(Debug)]
pub struct InvalidPolicyTests(Vec<Problem>);

impl std::error::Error for InvalidPolicyTests {}

impl fmt::Display for InvalidPolicyTests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the policy tests have {count} problem{}:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl Config {
    /// The policies of all tenants, whatever else is not set: for tests of them. What is set must be right.
    pub fn policies_only(sources: &Sources) -> Result<Vec<PolicyUnderTest>, Problems> {
        let mut reader = Reader::new(sources);
        let policies = tenant::each(&mut reader, |reader| {
            let revocable = reader.or_default(&ABLY_REVOCABLE_TOKENS, "false", boolean).unwrap_or_default();
            let token = TokenConfig::read(reader, revocable);
            let policy = policy::read(reader, token.as_ref(), revocable);
            Some(PolicyUnderTest { tenant: reader.scope().name(), policy, token: token? })
        });
        reader.finish(Some(policies)).map(|(read, _)| read)
    }
}

impl PolicyTests {
    /// Reads a file, or says everything that is wrong with it.
    pub fn read(path: &Path) -> Result<Self, InvalidPolicyTests> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) => Err(InvalidPolicyTests(vec![Problem(format!("{} cannot be read: {error}", path.display()))])),
        }
    }

    /// Whether tokens of each case's format can be what it expects.
    pub fn fit<'a>(cases: impl IntoIterator<Item = (&'a Case, TokenFormat)>) -> Result<(), InvalidPolicyTests> {
        let misfits = cases.into_iter().filter(|(_, format)| *format != TokenFormat::Jwt);
        let problems: Vec<_> = misfits.flat_map(|(case, _)| &case.jwt_only).cloned().collect();
        if problems.is_empty() { Ok(()) } else { Err(InvalidPolicyTests(problems)) }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, InvalidPolicyTests> {
        let mut parser = Parser::new(false);
        let cases = match DeTable::parse(text) {
            Ok(document) => parser.cases(document.get_ref()),
            Err(error) => {
                parser.problems.push((offset(text, &error), error.message().to_owned()));
                Vec::new()
            }
        };
        parser.problems.sort_by_key(|(offset, _)| *offset);
        let problem = |offset, what| Problem(format!("{}, {}: {what}", path.display(), position(text, offset)));
        if parser.problems.is_empty() {
            let cases = cases.into_iter().map(|(mut case, jwt_only)| {
                let of_place = |(offset, key)| {
                    let what = "only tokens of the format jwt carry it; [token] format is another";
                    problem(offset, format!("[[cases]] {:?}: {key}: {what}", case.name))
                };
                case.jwt_only = jwt_only.into_iter().map(of_place).collect();
                case
            });
            return Ok(Self(cases.collect()));
        }
        let problems = parser.problems.into_iter().map(|(offset, what)| problem(offset, what));
        Err(InvalidPolicyTests(problems.collect()))
    }
}

/// Where a case expects what only a JWT carries, and by which key.
type JwtOnly = Vec<(usize, &'static str)>;

impl Parser {
    fn cases(&mut self, root: &DeTable<'_>) -> Vec<(Case, JwtOnly)> {
        "the file".clone_into(&mut self.subject);
        self.refuse_unknown(root, &["cases"], "key");
        let Some(value) = root.get("cases") else {
            self.problem(0..0, "no [[cases]]: nothing would be tested");
            return Vec::new();
        };
        "[[cases]]".clone_into(&mut self.subject);
        let Some(tables) = self.list(value, "tables, written [[cases]],") else { return Vec::new() };
        let mut names = BTreeSet::new();
        let mut cases = Vec::new();
        for (index, table) in tables.iter().enumerate() {
            self.subject = format!("[[cases]] number {}", index + 1);
            cases.extend(self.case(table, &mut names));
        }
        cases
    }

    fn case(&mut self, value: &Value<'_>, names: &mut BTreeSet<String>) -> Option<(Case, JwtOnly)> {
        let keys = self.table(value)?;
        let name = self.required(keys, value, "name").and_then(|name| {
            let text = self.text(name, "a name")?;
            self.subject = format!("[[cases]] {text:?}");
            if text.trim().is_empty() || !names.insert(text.to_owned()) {
                self.problem(name.span(), "the name is empty, or that of another case");
            }
            Some(text.to_owned())
        });
        self.refuse_unknown(keys, &["name", "tenant", "claims", "params", "expect"], "key");
        let tenant = keys.get("tenant").map_or(Some(None), |tenant| {
            let name = TenantName::parse(self.text(tenant, "the name of a tenant")?);
            self.checked(tenant.span(), name).map(Some)
        });
        let claims = self.required(keys, value, "claims").and_then(|claims| {
            self.table(claims)?;
            self.json(claims)
        });
        let params = keys.get("params").map_or(Some(Vec::new()), |params| self.params(params));
        let expected = self.required(keys, value, "expect").and_then(|expected| self.expected(expected));
        let jwt_only = std::mem::take(&mut self.jwt_only);
        let mut jwt_only: JwtOnly = jwt_only.into_iter().map(|(place, _, key)| (place.start, key)).collect();
        jwt_only.sort_unstable();
        let claims = claims?.as_object()?.clone();
        let case =
            Case { name: name?, tenant: tenant?, claims, params: params?, expected: expected?, jwt_only: Vec::new() };
        Some((case, jwt_only))
    }

    fn required<'v, 'a>(&mut self, keys: &'v DeTable<'a>, within: &Value<'_>, key: &str) -> Option<&'v Value<'a>> {
        let value = keys.get(key);
        if value.is_none() {
            self.problem(within.span(), format_args!("no {key}"));
        }
        value
    }

    /// A table stands for its JSON, and a number for its digits, as a client would send them.
    fn params(&mut self, value: &Value<'_>) -> Option<Vec<(String, String)>> {
        let keys = self.table(value)?;
        self.refuse_unknown(keys, &["capability", "ttl", "clientId", "organization"], "token param");
        let mut params = Vec::new();
        for (key, value) in keys {
            let text = match self.json(value)? {
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            };
            params.push((key.get_ref().to_string(), text));
        }
        Some(params)
    }

    fn expected(&mut self, value: &Value<'_>) -> Option<Expected> {
        let keys = self.table(value)?;
        let known = ["capability", "ttl", "client_id", "channel_claims", "publish_rate", "refused"];
        self.refuse_unknown(keys, &known, "expectation");
        match (keys.get("capability"), keys.get("refused")) {
            (None, Some(refused)) if keys.len() == 1 => {
                let code = refused.get_ref().as_integer().and_then(integer).and_then(|code| u32::try_from(code).ok());
                let code = code.filter(|code| REFUSALS.contains(code));
                if code.is_none() {
                    let codes = REFUSALS.map(|code| code.to_string()).join(", ");
                    self.problem(refused.span(), format_args!("no refusal has this code; there are: {codes}"));
                }
                code.map(Expected::Refused)
            }
            (Some(capability), None) => {
                let capability = match capability.get_ref().as_str() {
                    Some("key") => Some(None),
                    _ => self.expected_capability(capability).map(Some),
                };
                let ttl = keys.get("ttl").map_or(Some(None), |ttl| self.expected_ttl(ttl).map(Some));
                let client_id = keys.get("client_id").map_or(Some(None), |client_id| {
                    self.text(client_id, "a client ID").map(|text| Some(text.to_owned()))
                });
                let channel_claims = keys.get_key_value("channel_claims").map_or(Some(None), |(key, value)| {
                    self.jwt_only.push((key.span(), self.subject.clone(), "channel_claims"));
                    let text = |parser: &mut Self, value: &Value<'_>| {
                        Some(parser.text(value, "a text, the claim's value")?.to_owned())
                    };
                    self.by_resource(value, text).map(Some)
                });
                let publish_rate = keys.get_key_value("publish_rate").map_or(Some(None), |(key, value)| {
                    self.jwt_only.push((key.span(), self.subject.clone(), "publish_rate"));
                    self.by_resource(value, Self::rate).map(Some)
                });
                Some(Expected::Granted {
                    capability: capability?,
                    ttl: ttl?,
                    client_id: client_id?,
                    channel_claims: channel_claims?,
                    publish_rate: publish_rate?,
                })
            }
            _ => {
                self.problem(
                    value.span(),
                    "write either a capability, with ttl, client_id, channel_claims and publish_rate if they matter, or \
                     refused = 40160",
                );
                None
            }
        }
    }

    fn expected_capability(&mut self, value: &Value<'_>) -> Option<Capability> {
        let keys = self.table(value)?;
        let mut resources = Vec::new();
        for (resource, value) in keys {
            let operations = self.list(value, "a list of operations, like [\"subscribe\"]")?;
            let names: Option<Vec<_>> =
                operations.iter().map(|operation| self.text(operation, "the name of an operation")).collect();
            let operations = Operations::parse(names?);
            resources.push((self.resource(resource)?, self.checked(value.span(), operations)?));
        }
        let capability = Capability::union(resources);
        if capability.is_none() {
            self.problem(value.span(), "capability names no resource; expect refused = 40160 if nothing is granted");
        }
        capability
    }

    /// A table of resources as the token names them. An empty one says that the token has none.
    fn by_resource<T>(
        &mut self,
        value: &Value<'_>,
        read: impl Fn(&mut Self, &Value<'_>) -> Option<T>,
    ) -> Option<BTreeMap<String, T>> {
        let resources = self.table(value)?.iter();
        let read: Vec<_> =
            resources.map(|(resource, value)| Some((self.resource(resource)?, read(self, value)?))).collect();
        read.into_iter().collect()
    }

    /// The name of a resource that a token can have.
    fn resource(&mut self, name: &Spanned<Cow<'_, str>>) -> Option<String> {
        let checked = reject_what_grants_nothing(name.get_ref());
        let checked = checked.map_err(|error| format!("the resource {:?}: {error}", name.get_ref()));
        self.checked(name.span(), checked).map(|()| name.get_ref().to_string())
    }

    fn expected_ttl(&mut self, value: &Value<'_>) -> Option<Ttl> {
        let duration = duration(self.text(value, "a span of time, like \"10m\"")?);
        let duration = self.checked(value.span(), duration)?;
        let ttl = Ttl::try_from(duration).map_err(|()| "not a whole number of milliseconds above zero");
        self.checked(value.span(), ttl)
    }

    /// The value in JSON, which has no dates and only finite numbers.
    fn json(&mut self, value: &Value<'_>) -> Option<serde_json::Value> {
        let number = match value.get_ref() {
            DeValue::String(text) => return Some(text.to_string().into()),
            DeValue::Boolean(value) => return Some((*value).into()),
            DeValue::Array(values) => return values.iter().map(|value| self.json(value)).collect(),
            DeValue::Table(table) => {
                let mut object = Map::new();
                for (key, value) in table {
                    object.insert(key.get_ref().to_string(), self.json(value)?);
                }
                return Some(object.into());
            }
            DeValue::Integer(number) => integer(number).map(Number::from),
            DeValue::Float(number) => number.as_str().replace('_', "").parse().ok().and_then(Number::from_f64),
            DeValue::Datetime(_) => None,
        };
        if number.is_none() {
            self.problem(value.span(), format_args!("{} that JSON does not have", kind(value)));
        }
        number.map(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> String {
        PolicyTests::parse(text, Path::new("FILE")).unwrap_err().to_string()
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
        let PolicyTests(cases) = PolicyTests::parse(text, Path::new("FILE")).unwrap();
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
    fn what_only_a_jwt_carries_is_expected_of_no_other_format() {
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
        let PolicyTests(cases) = PolicyTests::parse(text, Path::new("FILE")).unwrap();
        let fit = |cases: &[Case], format| PolicyTests::fit(cases.iter().map(|case| (case, format)));
        assert!(fit(&cases, TokenFormat::Jwt).is_ok());
        assert!(fit(&cases[1..], TokenFormat::TokenRequest).is_ok());
        for format in [TokenFormat::TokenRequest, TokenFormat::TokenDetails] {
            insta::allow_duplicates! {
                insta::assert_snapshot!(fit(&cases, format).unwrap_err(), @r##"
                the policy tests have 2 problems:
                  - FILE, line 5, column 32: [[cases]] "a": publish_rate: only tokens of the format jwt carry it; [token] format is another
                  - FILE, line 5, column 65: [[cases]] "a": channel_claims: only tokens of the format jwt carry it; [token] format is another
                "##);
            }
        }
    }

    #[test]
    fn every_mistake_in_a_file_is_told_with_its_place() {
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
          - FILE, line 1, column 1: the file: no such key: "extra"; there are: cases
          - FILE, line 2, column 1: [[cases]] "a": no claims
          - FILE, line 4, column 1: [[cases]] "a": no such key: "claim"; there are: name, tenant, claims, params, expect
          - FILE, line 5, column 12: [[cases]] "a": no such token param: "clientid"; there are: capability, ttl, clientId, organization
          - FILE, line 6, column 22: [[cases]] "a": no refusal has this code; there are: 40000, 40003, 40012, 40101, 40160, 40300
          - FILE, line 8, column 8: [[cases]] "a": the name is empty, or that of another case
          - FILE, line 9, column 19: [[cases]] "a": a date that JSON does not have
          - FILE, line 10, column 10: [[cases]] "a": write either a capability, with ttl, client_id, channel_claims and publish_rate if they matter, or refused = 40160
          - FILE, line 11, column 1: [[cases]] number 3: no name
          - FILE, line 12, column 10: [[cases]] number 3: a list, where a table is wanted
          - FILE, line 13, column 31: [[cases]] number 3: "fly" is not an operation of Ably's
          - FILE, line 13, column 48: [[cases]] number 3: not a span of time; write it with a unit, like 30m
          - FILE, line 17, column 55: [[cases]] "c": a number, where a text, the claim's value is wanted
          - FILE, line 17, column 81: [[cases]] "c": a publish rate is a number of messages a second, above zero
          - FILE, line 17, column 88: [[cases]] "c": a publish rate is a number of messages a second, above zero
          - FILE, line 21, column 49: [[cases]] "d": a text, where a table is wanted
          - FILE, line 25, column 27: [[cases]] "e": the resource "[chat]lobby": [chat] is obsolete: a Chat room is covered by its name, without a qualifier; write "lobby"
          - FILE, line 25, column 75: [[cases]] "e": the resource "[chat]*": [chat] is obsolete: a Chat room is covered by its name, without a qualifier; write "*"
        "##);
        assert!(problems("").contains("FILE, line 1, column 1: the file: no [[cases]]"));
        assert!(problems("[[cases]]\nname = ").contains("FILE, line 2, column 8"));
    }
}

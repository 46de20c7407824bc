//! `[[grants]]` and `[token] require`: the policy. It stands in the TOML file only, and each of its problems has a line
//! and a column.

use std::{collections::BTreeSet, fmt, ops::Range, path::Path, slice, time::Duration};

use serde_json::Number;
use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue},
};

use super::{
    problem::Problem,
    reader::Reader,
    scope::Scope,
    settings::{GRANTS, TENANTS, TOKEN_CAPABILITY, TOKEN_REQUIRE},
    sources::{Sources, position},
    token::{self, TokenConfig},
    value::duration,
};
use crate::{
    ably::{Operations, TokenFormat, Ttl},
    policy::{
        ClaimValue, Condition, Level, OrganizationName, Permission, Policy, ResourceTemplate, Reverification, Role,
        Rule, RuleName, ScopedName,
    },
};

/// The keys of a rule.
pub(super) const RULE_KEYS: [&str; 6] = ["name", "when", "capability", "ttl", "channel_claims", "publish_rate"];

/// The conditions, by their keys.
pub(super) const CONDITIONS: [&str; 12] = [
    "role",
    "permission",
    "plan",
    "feature",
    "organization",
    "claim",
    "reverified",
    "impersonated",
    "agent",
    "any",
    "all",
    "not",
];

/// A value in the file, with its position.
pub(super) type Value<'a> = Spanned<DeValue<'a>>;

/// Reads the policy.
pub(super) fn read(reader: &mut Reader<'_>, token: Option<&TokenConfig>, revocable: bool) -> Policy {
    let Sources { toml_text, toml_path, .. } = reader.sources();
    // A text that is not TOML is a problem already.
    let Ok(document) = DeTable::parse(toml_text) else { return Policy::default() };
    let Some(table) = table_of(reader.scope(), document.get_ref()) else { return Policy::default() };
    let mut parser = Parser::new(toml_path, toml_text, revocable);
    parser.prefix = reader.scope().prefix();
    let require = table.get(TOKEN_REQUIRE.section).and_then(|section| section.get_ref().get(TOKEN_REQUIRE.key));
    let require = require.and_then(|require| parser.require(require));
    let rules = table.get(GRANTS).map(|grants| parser.rules(grants, require.as_ref()));
    if rules.is_some() && token.is_some_and(|token| token.capability.is_some()) {
        reader.problem(
            &TOKEN_CAPABILITY,
            "gives every token the API key's whole capability, and [[grants]] restrict it; remove one of the two",
        );
    }
    if token.is_some_and(|token| token.format != TokenFormat::Jwt) {
        parser.problems.append(&mut parser.jwt_only);
    }
    reader.problems(parser.finish());
    Policy { require, rules: rules.unwrap_or_default(), ttl: token.and_then(|token| token.ttl) }
}

/// The table with the settings of a tenant.
fn table_of<'d, 'a>(scope: &Scope, root: &'d DeTable<'a>) -> Option<&'d DeTable<'a>> {
    match scope {
        Scope::Flat => Some(root),
        Scope::Tenant(_, index) => root.get(TENANTS)?.get_ref().as_array()?.get(*index)?.get_ref().as_table(),
    }
}

/// Reads tables of a TOML file, and collects problems instead of stopping. None in place of a value: it is invalid.
pub(super) struct Parser<'a> {
    path: &'a Path,
    text: &'a str,
    prefix: String,
    /// The table that problems are of.
    pub(super) subject: String,
    revocable: bool,
    pub(super) problems: Vec<(usize, Problem)>,
    /// The problems there are unless tokens are JWTs.
    pub(super) jwt_only: Vec<(usize, Problem)>,
}

impl<'a> Parser<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str, revocable: bool) -> Self {
        let (prefix, subject, problems, jwt_only) = (String::new(), String::new(), Vec::new(), Vec::new());
        Self { path, text, prefix, subject, revocable, problems, jwt_only }
    }

    /// The problems, in the order of the file.
    pub(super) fn finish(mut self) -> impl Iterator<Item = Problem> {
        self.problems.sort_by_key(|(offset, _)| *offset);
        self.problems.into_iter().map(|(_, problem)| problem)
    }

    fn problem_at(&self, span: &Range<usize>, what: impl fmt::Display) -> (usize, Problem) {
        let Self { path, text, prefix, subject, .. } = self;
        let position = position(text, span.start);
        (span.start, Problem(format!("{}, {position}: {prefix}{subject}: {what}", path.display())))
    }

    /// Adds a problem.
    pub(super) fn problem(&mut self, span: &Range<usize>, what: impl fmt::Display) {
        self.problems.push(self.problem_at(span, what));
    }

    /// The value, or its error as a problem.
    pub(super) fn checked<T, E: fmt::Display>(&mut self, span: &Range<usize>, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.problem(span, error)).ok()
    }

    fn require(&mut self, value: &Value<'_>) -> Option<Condition> {
        "[token] require".clone_into(&mut self.subject);
        let condition = self.condition(value)?;
        if condition.is_impossible() {
            self.problem(&value.span(), "contradicts itself, so no session would get a token; correct it");
        }
        Some(condition)
    }

    fn rules(&mut self, value: &Value<'_>, require: Option<&Condition>) -> Vec<Rule> {
        "[[grants]]".clone_into(&mut self.subject);
        let tables = value.get_ref().as_array();
        let Some(tables) = self.expected(value, tables, "tables, each below [[grants]]") else { return Vec::new() };
        if tables.is_empty() {
            self.problem(&value.span(), "an empty list; write a rule, or set [token] capability = \"key\"");
        }
        let mut names = BTreeSet::new();
        let mut rules = Vec::new();
        for (index, table) in tables.iter().enumerate() {
            self.subject = format!("[[grants]] number {}", index + 1);
            let keys = self.table(table);
            rules.extend(keys.and_then(|keys| self.rule(&table.span(), keys, require, &mut names)));
        }
        rules
    }

    fn rule(
        &mut self,
        span: &Range<usize>,
        keys: &DeTable<'_>,
        require: Option<&Condition>,
        names: &mut BTreeSet<String>,
    ) -> Option<Rule> {
        let name = self.name(span, keys, "[[grants]]", names);
        self.reject_unknown(keys, &RULE_KEYS, "key");
        let when = self.optional(keys, "when", |parser, value| parser.when(value, require));
        let ttl = self.optional(keys, "ttl", Self::ttl);
        let capability = if let Some(value) = keys.get("capability") {
            self.templates(value, Self::operations)
        } else {
            self.problem(span, "capability is missing; write capability = { \"chat:*\" = [\"subscribe\"] }");
            None
        };
        let channel_claims =
            self.jwt_only(keys, "channel_claims", |parser, value| parser.templates(value, Self::channel_claim));
        let publish_rate = self.jwt_only(keys, "publish_rate", |parser, value| parser.templates(value, Self::rate));
        Some(Rule {
            name: RuleName::new(&name?),
            when: when?,
            capability: capability?,
            ttl: ttl?,
            channel_claims: channel_claims?.unwrap_or_default(),
            publish_rate: publish_rate?.unwrap_or_default(),
        })
    }

    /// The name of a table, which is unique and from here on part of the subject of its problems.
    pub(super) fn name(
        &mut self,
        span: &Range<usize>,
        keys: &DeTable<'_>,
        tables: &str,
        names: &mut BTreeSet<String>,
    ) -> Option<String> {
        let value = self.required(span, keys, "name")?;
        let name = self.text(value, "a name")?;
        if name.trim().is_empty() || name.chars().any(char::is_control) {
            self.problem(&value.span(), "the name is empty or has control characters; write another");
            return None;
        }
        self.subject = format!("{tables} {name:?}");
        if !names.insert(name.to_owned()) {
            self.problem(&value.span(), "another table has this name; write another");
        }
        Some(name.to_owned())
    }

    fn when(&mut self, value: &Value<'_>, require: Option<&Condition>) -> Option<Condition> {
        let condition = self.condition(value)?;
        let with_require = require.map(|require| Condition::All(vec![require.clone(), condition.clone()]));
        if condition.is_impossible() {
            self.problem(&value.span(), "when contradicts itself, so the rule never matches; correct it");
        } else if with_require.is_some_and(|both| both.is_impossible()) {
            self.problem(&value.span(), "when contradicts [token] require, so the rule never matches; correct it");
        }
        Some(condition)
    }

    /// A table of resources, with what `read` makes of their values.
    pub(super) fn resources<K, E: fmt::Display, T>(
        &mut self,
        value: &Value<'_>,
        parse_name: impl Fn(&str) -> Result<K, E>,
        read: impl Fn(&mut Self, &Value<'_>) -> Option<T>,
    ) -> Option<Vec<(K, T)>> {
        let table = self.table(value)?;
        self.each(table, |parser, (key, value)| {
            let name = parse_name(key.get_ref()).map_err(|error| format!("the resource {:?}: {error}", key.get_ref()));
            let name = parser.checked(&key.span(), name);
            name.zip(read(parser, value))
        })
    }

    /// The same for a rule, where resources have placeholders and there is at least one.
    fn templates<T>(
        &mut self,
        value: &Value<'_>,
        read: impl Fn(&mut Self, &Value<'_>) -> Option<T>,
    ) -> Option<Vec<(ResourceTemplate, T)>> {
        let resources = self.resources(value, str::parse, read)?;
        if resources.is_empty() {
            self.problem(&value.span(), "an empty table; write a resource, like \"chat:*\"");
        }
        Some(resources).filter(|resources| !resources.is_empty())
    }

    pub(super) fn operations(&mut self, value: &Value<'_>) -> Option<Operations> {
        let operations = self.list(value, "a list of operations, like [\"subscribe\"]")?;
        let names = self.each(operations, |parser, operation| parser.text(operation, "the name of an operation"))?;
        self.checked(&value.span(), Operations::parse(names))
    }

    pub(super) fn channel_claim(&mut self, value: &Value<'_>) -> Option<String> {
        Some(self.text(value, "a string, the claim's value")?.to_owned())
    }

    pub(super) fn rate(&mut self, value: &Value<'_>) -> Option<Number> {
        let rate = match value.get_ref() {
            DeValue::Integer(number) => integer(number).filter(|number| *number > 0).map(Number::from),
            DeValue::Float(number) => {
                number.as_str().parse().ok().filter(|number| *number > 0.0).and_then(Number::from_f64)
            }
            _ => None,
        };
        self.checked(&value.span(), rate.ok_or("not a number of messages a second above zero; write for example 5"))
    }

    fn ttl(&mut self, value: &Value<'_>) -> Option<Ttl> {
        let ttl = token::ttl(self.text(value, "a duration, like \"10m\"")?, self.revocable);
        self.checked(&value.span(), ttl.map_err(|error| format!("ttl: {error}")))
    }

    fn condition(&mut self, value: &Value<'_>) -> Option<Condition> {
        let table = self.table(value)?;
        if table.is_empty() {
            self.problem(&value.span(), "an empty condition; leave it out if it always holds");
            return None;
        }
        self.reject_unknown(table, &CONDITIONS, "condition");
        let mut parts = Vec::new();
        for (key, value) in table {
            parts.push(match key.get_ref().as_ref() {
                "role" => self.names(value, Role::parse).map(Condition::Role),
                "permission" => self.names(value, Permission::parse).map(Condition::Permission),
                "plan" => self.names(value, ScopedName::parse).map(Condition::Plan),
                "feature" => self.names(value, ScopedName::parse).map(Condition::Feature),
                "organization" => self.names(value, OrganizationName::parse).map(Condition::Organization),
                "claim" => {
                    self.claims(value, "", &mut parts);
                    continue;
                }
                "reverified" => self.reverified(value).map(Condition::Reverified),
                "impersonated" => self.boolean(value).map(Condition::Impersonated),
                "agent" => self.boolean(value).map(Condition::Agent),
                "any" => self.conditions(value).map(Condition::Any),
                "all" => self.conditions(value).map(Condition::All),
                "not" => self.condition(value).map(|part| Condition::Not(Box::new(part))),
                _ => None,
            });
        }
        let mut parts: Vec<_> = parts.into_iter().collect::<Option<_>>()?;
        if parts.len() == 1 { parts.pop() } else { Some(Condition::All(parts)) }
    }

    fn conditions(&mut self, value: &Value<'_>) -> Option<Vec<Condition>> {
        let list = self.list(value, "a list of conditions")?;
        self.each(list, Self::condition)
    }

    /// A name, or a list of alternatives.
    fn names<T, E: fmt::Display>(&mut self, value: &Value<'_>, parse: impl Fn(&str) -> Result<T, E>) -> Option<Vec<T>> {
        self.alternatives(value, |parser, name| {
            let text = parser.text(name, "a name or a list of names")?;
            parser.checked(&name.span(), parse(text))
        })
    }

    /// The elements of a list, or a single value.
    fn alternatives<T>(
        &mut self,
        value: &Value<'_>,
        read: impl FnMut(&mut Self, &Value<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let values =
            if value.get_ref().is_array() { self.list(value, "at least one value")? } else { slice::from_ref(value) };
        self.each(values, read)
    }

    /// Claims by dotted path. TOML reads a path without quotes as nested tables, which mean the same.
    fn claims(&mut self, value: &Value<'_>, path: &str, parts: &mut Vec<Option<Condition>>) {
        let Some(table) = self.table(value) else { return parts.push(None) };
        if table.is_empty() {
            self.problem(&value.span(), "claim is empty; write for example claim = { \"metadata.tier\" = \"pro\" }");
            parts.push(None);
        }
        for (key, value) in table {
            let path = if path.is_empty() { key.get_ref().to_string() } else { format!("{path}.{}", key.get_ref()) };
            if key.get_ref().split('.').any(str::is_empty) {
                let what = format!("the claim {:?} has an empty name; remove the extra dot", key.get_ref());
                self.problem(&key.span(), what);
                parts.push(None);
            } else if value.get_ref().is_table() {
                self.claims(value, &path, parts);
            } else {
                let alternatives = self.alternatives(value, Self::claim_value);
                parts.push(alternatives.map(|alternatives| Condition::Claim { path: path.into(), alternatives }));
            }
        }
    }

    fn claim_value(&mut self, value: &Value<'_>) -> Option<ClaimValue> {
        let claim = match value.get_ref() {
            DeValue::String(text) => Some(ClaimValue::Text(text.to_string())),
            DeValue::Integer(number) => integer(number).map(ClaimValue::Integer),
            DeValue::Boolean(value) => Some(ClaimValue::Boolean(*value)),
            _ => None,
        };
        self.expected(value, claim, "a string, a whole number, true or false to compare the claim with")
    }

    fn reverified(&mut self, value: &Value<'_>) -> Option<Reverification> {
        let table = self.table(value)?;
        self.reject_unknown(table, &["level", "within"], "key");
        let (Some(level), Some(within)) = (table.get("level"), table.get("within")) else {
            self.problem(
                &value.span(),
                "reverified needs level and within, like { level = \"second_factor\", within = \"10m\" }",
            );
            return None;
        };
        let level_text = self.text(level, "a level")?;
        let level = self.checked(&level.span(), Level::parse(level_text));
        let duration = self.duration(within);
        let reverification = Reverification::new(level?, duration?);
        self.checked(&within.span(), reverification)
    }

    pub(super) fn duration(&mut self, value: &Value<'_>) -> Option<Duration> {
        let text = self.text(value, "a duration, like \"10m\"")?;
        self.checked(&value.span(), duration(text))
    }

    fn boolean(&mut self, value: &Value<'_>) -> Option<bool> {
        self.expected(value, value.get_ref().as_bool(), "true or false")
    }

    pub(super) fn text<'v>(&mut self, value: &'v Value<'_>, expected: &str) -> Option<&'v str> {
        self.expected(value, value.get_ref().as_str(), expected)
    }

    /// A list that is not empty.
    pub(super) fn list<'v, 'd>(&mut self, value: &'v Value<'d>, expected: &str) -> Option<&'v [Value<'d>]> {
        let list = self.expected(value, value.get_ref().as_array(), expected)?;
        if list.is_empty() {
            self.problem(&value.span(), format_args!("an empty list; write {expected}"));
        }
        Some(&list[..]).filter(|list| !list.is_empty())
    }

    pub(super) fn table<'v, 'd>(&mut self, value: &'v Value<'d>) -> Option<&'v DeTable<'d>> {
        self.expected(value, value.get_ref().as_table(), "a table")
    }

    /// A value of the right kind. Any other is a problem.
    pub(super) fn expected<T>(&mut self, value: &Value<'_>, found: Option<T>, expected: &str) -> Option<T> {
        if found.is_none() {
            let kind = match value.get_ref() {
                DeValue::String(_) => "a string",
                DeValue::Integer(_) => "a number",
                DeValue::Float(_) => "a fraction",
                DeValue::Boolean(_) => "true or false",
                DeValue::Datetime(_) => "a date",
                DeValue::Array(_) => "a list",
                DeValue::Table(_) => "a table",
            };
            self.problem(&value.span(), format_args!("expected {expected}; found {kind}"));
        }
        found
    }

    /// The value of a key that may be missing: then `Some(None)`.
    pub(super) fn optional<T>(
        &mut self,
        keys: &DeTable<'_>,
        key: &str,
        read: impl FnOnce(&mut Self, &Value<'_>) -> Option<T>,
    ) -> Option<Option<T>> {
        keys.get(key).map_or(Some(None), |value| read(self, value).map(Some))
    }

    /// The value of a key that only a JWT can carry, and that may be missing.
    pub(super) fn jwt_only<T>(
        &mut self,
        keys: &DeTable<'_>,
        name: &str,
        read: impl FnOnce(&mut Self, &Value<'_>) -> Option<T>,
    ) -> Option<Option<T>> {
        if let Some((key, _)) = keys.get_key_value(name) {
            let what = "only JWTs can carry it; set [token] format to jwt, or remove it";
            self.jwt_only.push(self.problem_at(&key.span(), format_args!("{name}: {what}")));
        }
        self.optional(keys, name, read)
    }

    pub(super) fn required<'v, 'd>(
        &mut self,
        span: &Range<usize>,
        keys: &'v DeTable<'d>,
        key: &str,
    ) -> Option<&'v Value<'d>> {
        let value = keys.get(key);
        if value.is_none() {
            self.problem(span, format_args!("{key} is missing; add it"));
        }
        value
    }

    /// What `read` makes of every item. Reads all of them even if one is invalid, to find every problem.
    pub(super) fn each<I, T>(
        &mut self,
        items: impl IntoIterator<Item = I>,
        mut read: impl FnMut(&mut Self, I) -> Option<T>,
    ) -> Option<Vec<T>> {
        let read: Vec<_> = items.into_iter().map(|item| read(self, item)).collect();
        read.into_iter().collect()
    }

    pub(super) fn reject_unknown(&mut self, table: &DeTable<'_>, known: &[&str], what: &str) {
        for key in table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let known = known.join(", ");
            self.problem(&key.span(), format_args!("unknown {what} {:?}; use one of: {known}", key.get_ref()));
        }
    }
}

pub(super) fn integer(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

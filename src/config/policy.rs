//! `[[grants]]` and `[token] require`: the policy. Only the TOML file can hold it. Each of its problems has a line and a
//! column.

use std::{collections::BTreeSet, fmt, slice, time::Duration};

use serde_json::Number;
use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue},
};

use super::{problem::Problem, reader::Reader, scope::Scope, settings, sources, token, value};
use crate::{
    ably::{Operations, TokenFormat, Ttl},
    policy::{
        ClaimValue, Condition, Level, OrganizationName, Permission, Policy, ResourceTemplate, Reverification, Role,
        Rule, RuleName, ScopedName,
    },
};

/// The keys of a rule.
pub(super) const RULE_KEYS: &str = "name, when, capability, ttl, channel_claims, publish_rate";

/// The conditions, by their keys.
pub(super) const CONDITIONS: &str =
    "role, permission, plan, feature, organization, claim, reverified, impersonated, agent, any, all, not";

/// A value in the TOML file, with its position.
pub(super) type Node<'a> = Spanned<DeValue<'a>>;

/// Reads the policy.
pub(super) fn read(reader: &mut Reader<'_>, token: Option<&token::TokenConfig>, revocable: bool) -> Policy {
    let sources::Sources { toml_text, toml_path, .. } = reader.sources;
    // A text that is not TOML is a problem already.
    let Ok(document) = DeTable::parse(toml_text) else { return Policy::default() };
    let Some(table) = table_of(&reader.scope, document.get_ref()) else { return Policy::default() };
    let mut parser = Parser::new(toml_path, toml_text, revocable);
    parser.prefix = reader.scope.prefix();
    let settings::Setting { section, key, .. } = settings::TOKEN_REQUIRE;
    let require = table.get(section).and_then(|section| section.get_ref().get(key));
    parser.require = require.and_then(|require| parser.require(require));
    let rules = table.get(settings::GRANTS).map(|grants| parser.tables(grants, "[[grants]]", Parser::rule));
    if rules.is_some() && token.is_some_and(|token| token.confirms_whole_capability) {
        reader.problem(
            &settings::TOKEN_CAPABILITY,
            "gives every token the API key's whole capability, and [[grants]] restrict it; remove one of the two",
        );
    }
    if token.is_some_and(|token| token.format != TokenFormat::Jwt) {
        parser.problems.append(&mut parser.jwt_only);
    }
    let require = parser.require.take();
    reader.problems.extend(parser.finish());
    Policy { require, rules: rules.unwrap_or_default(), ttl: token.and_then(|token| token.ttl) }
}

/// The table with the settings of a tenant.
fn table_of<'d, 'a>(scope: &Scope, root: &'d DeTable<'a>) -> Option<&'d DeTable<'a>> {
    match scope {
        Scope::Flat => Some(root),
        Scope::Tenant(_, index) => root.get(settings::TENANTS)?.get_ref().as_array()?.get(*index)?.get_ref().as_table(),
    }
}

/// Reads a value.
type Read<'a, T> = fn(&mut Parser<'a>, &Node<'_>) -> Option<T>;

/// Reads tables of a TOML file, and collects problems instead of stopping. A problem makes the whole file invalid, so the
/// parser may skip an invalid value or replace it.
#[derive(Default)]
pub(super) struct Parser<'a> {
    path: &'a str,
    text: &'a str,
    prefix: String,
    /// The table that problems are of.
    pub(super) subject: String,
    /// The names of the tables so far.
    names: BTreeSet<String>,
    revocable: bool,
    require: Option<Condition>,
    pub(super) problems: Vec<(usize, Problem)>,
    /// Problems unless tokens are JWTs.
    pub(super) jwt_only: Vec<(usize, Problem)>,
}

impl<'a> Parser<'a> {
    pub(super) fn new(path: &'a str, text: &'a str, revocable: bool) -> Self {
        Self { path, text, revocable, ..Self::default() }
    }

    /// The problems, in the order of the file.
    pub(super) fn finish(mut self) -> impl Iterator<Item = Problem> {
        self.problems.sort_by_key(|(offset, _)| *offset);
        self.problems.into_iter().map(|(_, problem)| problem)
    }

    fn problem_at(&self, offset: usize, what: impl fmt::Display) -> (usize, Problem) {
        let Self { path, text, prefix, subject, .. } = self;
        let position = sources::position(text, offset);
        (offset, Problem(format!("{path}, {position}: {prefix}{subject}: {what}")))
    }

    /// Adds a problem.
    pub(super) fn problem<T>(&mut self, at: &Spanned<T>, what: impl fmt::Display) {
        self.problems.push(self.problem_at(at.span().start, what));
    }

    /// The value, or its error as a problem.
    pub(super) fn checked<S, T, E: fmt::Display>(&mut self, at: &Spanned<S>, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.problem(at, error)).ok()
    }

    fn require(&mut self, value: &Node<'_>) -> Option<Condition> {
        "[token] require".clone_into(&mut self.subject);
        let condition = self.condition(value)?;
        if condition.is_impossible() {
            self.problem(value, "contradicts itself, so no session would get a token; correct it");
        }
        Some(condition)
    }

    /// Reads each table of a list, without those that are invalid.
    pub(super) fn tables<T>(
        &mut self,
        value: &Node<'_>,
        list: &str,
        read: impl Fn(&mut Self, &Node<'_>) -> Option<T>,
    ) -> Vec<T> {
        list.clone_into(&mut self.subject);
        let tables = self.list(value, &format!("tables, each below {list}")).unwrap_or_default();
        let read_at = |(index, table)| {
            self.subject = format!("{list} number {}", index + 1);
            read(self, table)
        };
        tables.iter().enumerate().filter_map(read_at).collect()
    }

    fn rule(&mut self, value: &Node<'_>) -> Option<Rule> {
        let keys = self.table(value)?;
        let name = self.name(value, keys, "[[grants]]");
        self.reject_unknown(keys, RULE_KEYS, "key");
        let when = keys.get("when").map(|value| self.when(value));
        let capability = self.required(value, keys, "capability");
        let channel_claims: Read<'a, _> = |parser, value| parser.templates(value, Self::channel_claim);
        let publish_rate: Read<'a, _> = |parser, value| parser.templates(value, Self::rate);
        Some(Rule {
            name: RuleName::new(&name.unwrap_or_default()),
            capability: capability.and_then(|value| self.templates(value, Self::operations)).unwrap_or_default(),
            ttl: keys.get("ttl").and_then(|value| self.ttl(value)),
            channel_claims: self.jwt_only(keys, "channel_claims", channel_claims).unwrap_or_default(),
            publish_rate: self.jwt_only(keys, "publish_rate", publish_rate).unwrap_or_default(),
            // A rule without its condition would match every session.
            when: if let Some(when) = when { Some(when?) } else { None },
        })
    }

    /// The name of a table, which is unique, and part of the subject of the table's problems.
    pub(super) fn name(&mut self, table: &Node<'_>, keys: &DeTable<'_>, list: &str) -> Option<String> {
        let value = self.required(table, keys, "name")?;
        let name = self.text(value, "a name")?;
        if name.trim().is_empty() || name.chars().any(char::is_control) {
            self.problem(value, "the name is empty or has control characters; write another");
            return None;
        }
        self.subject = format!("{list} {name:?}");
        if !self.names.insert(name.to_owned()) {
            self.problem(value, "another table has this name; write another");
        }
        Some(name.to_owned())
    }

    fn when(&mut self, value: &Node<'_>) -> Option<Condition> {
        let condition = self.condition(value)?;
        let with_require = self.require.clone().map(|require| Condition::All(vec![require, condition.clone()]));
        if condition.is_impossible() {
            self.problem(value, "when contradicts itself, so the rule never matches; correct it");
        } else if with_require.is_some_and(|both| both.is_impossible()) {
            self.problem(value, "when contradicts [token] require, so the rule never matches; correct it");
        }
        Some(condition)
    }

    /// A table of resources and their values.
    pub(super) fn resources<K, E: fmt::Display, T>(
        &mut self,
        value: &Node<'_>,
        parse_name: fn(&str) -> Result<K, E>,
        read: Read<'a, T>,
    ) -> Option<Vec<(K, T)>> {
        let table = self.table(value)?;
        self.each(table, |parser, (key, value)| {
            let name = parse_name(key.get_ref()).map_err(|error| format!("the resource {:?}: {error}", key.get_ref()));
            parser.checked(key, name).zip(read(parser, value))
        })
    }

    /// The resources of a rule: their names have placeholders, and the table is not empty.
    fn templates<T>(&mut self, value: &Node<'_>, read: Read<'a, T>) -> Option<Vec<(ResourceTemplate, T)>> {
        let resources = self.resources(value, str::parse, read)?;
        if resources.is_empty() {
            self.problem(value, "an empty table; write a resource, like \"chat:*\"");
        }
        Some(resources)
    }

    pub(super) fn operations(&mut self, value: &Node<'_>) -> Option<Operations> {
        let operations = self.list(value, "a list of operations, like [\"subscribe\"]")?;
        let names = self.each(operations, |parser, operation| parser.text(operation, "the name of an operation"))?;
        self.checked(value, Operations::parse(names))
    }

    pub(super) fn channel_claim(&mut self, value: &Node<'_>) -> Option<String> {
        Some(self.text(value, "a string, the claim's value")?.to_owned())
    }

    pub(super) fn rate(&mut self, value: &Node<'_>) -> Option<Number> {
        let rate = match value.get_ref() {
            DeValue::Integer(number) => integer(number).map(Number::from),
            DeValue::Float(number) => number.as_str().parse().ok().and_then(Number::from_f64),
            _ => None,
        };
        let rate = rate.filter(|rate| rate.as_f64() > Some(0.0));
        self.checked(value, rate.ok_or("not a number of messages a second above zero; write for example 5"))
    }

    fn ttl(&mut self, value: &Node<'_>) -> Option<Ttl> {
        let revocable = self.revocable;
        let ttl = |text: &str| token::ttl(text, revocable).map_err(|error| format!("ttl: {error}"));
        self.parsed(value, "a duration, like \"10m\"", ttl)
    }

    fn condition(&mut self, value: &Node<'_>) -> Option<Condition> {
        let problems = self.problems.len();
        let table = self.table(value)?;
        if table.is_empty() {
            self.problem(value, "an empty condition; leave it out if it always holds");
            return None;
        }
        self.reject_unknown(table, CONDITIONS, "condition");
        let mut parts = Vec::new();
        for (key, value) in table {
            let part = match key.get_ref().as_ref() {
                "role" => self.names(value, Role::parse).map(Condition::Role),
                "permission" => self.names(value, Permission::parse).map(Condition::Permission),
                "plan" => self.names(value, ScopedName::parse).map(Condition::Plan),
                "feature" => self.names(value, ScopedName::parse).map(Condition::Feature),
                "organization" => self.names(value, OrganizationName::parse).map(Condition::Organization),
                "claim" => {
                    self.claims(value, "", &mut parts);
                    None
                }
                "reverified" => self.reverified(value).map(Condition::Reverified),
                "impersonated" => self.boolean(value).map(Condition::Impersonated),
                "agent" => self.boolean(value).map(Condition::Agent),
                "any" => self.conditions(value).map(Condition::Any),
                "all" => self.conditions(value).map(Condition::All),
                "not" => self.condition(value).map(|part| Condition::Not(Box::new(part))),
                _ => None,
            };
            parts.extend(part);
        }
        if self.problems.len() > problems {
            return None;
        }
        if parts.len() == 1 { parts.pop() } else { Some(Condition::All(parts)) }
    }

    fn conditions(&mut self, value: &Node<'_>) -> Option<Vec<Condition>> {
        let list = self.list(value, "a list of conditions")?;
        self.each(list, Self::condition)
    }

    /// A name, or a list of alternatives.
    fn names<T, E: fmt::Display>(&mut self, value: &Node<'_>, parse: impl Fn(&str) -> Result<T, E>) -> Option<Vec<T>> {
        let names = self.alternatives(value)?;
        self.each(names, |parser, name| parser.parsed(name, "a name or a list of names", &parse))
    }

    /// The elements of a list, or a single value.
    fn alternatives<'v, 'd>(&mut self, value: &'v Node<'d>) -> Option<&'v [Node<'d>]> {
        if value.get_ref().is_array() { self.list(value, "at least one value") } else { Some(slice::from_ref(value)) }
    }

    /// Claims by dotted path. TOML reads a path without quotes as nested tables, which mean the same.
    fn claims(&mut self, value: &Node<'_>, path: &str, parts: &mut Vec<Condition>) {
        let Some(table) = self.table(value) else { return };
        if table.is_empty() {
            self.problem(value, "claim is empty; write for example claim = { \"metadata.tier\" = \"pro\" }");
        }
        for (key, value) in table {
            let path = if path.is_empty() { key.get_ref().to_string() } else { format!("{path}.{}", key.get_ref()) };
            if key.get_ref().split('.').any(str::is_empty) {
                let what = format_args!("the claim {:?} has an empty name; remove the extra dot", key.get_ref());
                self.problem(key, what);
            } else if value.get_ref().is_table() {
                self.claims(value, &path, parts);
            } else {
                let values = self.alternatives(value).unwrap_or_default();
                let alternatives = self.each(values, Self::claim_value);
                parts.extend(alternatives.map(|alternatives| Condition::Claim { path: path.into(), alternatives }));
            }
        }
    }

    fn claim_value(&mut self, value: &Node<'_>) -> Option<ClaimValue> {
        let claim = match value.get_ref() {
            DeValue::String(text) => Some(ClaimValue::Text(text.to_string())),
            DeValue::Integer(number) => integer(number).map(ClaimValue::Integer),
            DeValue::Boolean(value) => Some(ClaimValue::Boolean(*value)),
            _ => None,
        };
        self.expected(value, claim, "a string, a whole number, true or false to compare the claim with")
    }

    fn reverified(&mut self, value: &Node<'_>) -> Option<Reverification> {
        let table = self.table(value)?;
        self.reject_unknown(table, "level, within", "key");
        let level = self.required(value, table, "level");
        let level = level.and_then(|level| self.parsed(level, "a level", Level::parse));
        let within = self.required(value, table, "within")?;
        let reverification = Reverification::new(level?, self.duration(within)?);
        self.checked(within, reverification)
    }

    pub(super) fn duration(&mut self, value: &Node<'_>) -> Option<Duration> {
        self.parsed(value, "a duration, like \"10m\"", value::duration)
    }

    fn boolean(&mut self, value: &Node<'_>) -> Option<bool> {
        self.expected(value, value.get_ref().as_bool(), "true or false")
    }

    pub(super) fn text<'v>(&mut self, value: &'v Node<'_>, expected: &str) -> Option<&'v str> {
        self.expected(value, value.get_ref().as_str(), expected)
    }

    /// A string, parsed.
    pub(super) fn parsed<T, E: fmt::Display>(
        &mut self,
        value: &Node<'_>,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(value, expected)?;
        self.checked(value, parse(text))
    }

    /// A list that is not empty.
    pub(super) fn list<'v, 'd>(&mut self, value: &'v Node<'d>, expected: &str) -> Option<&'v [Node<'d>]> {
        let list = self.expected(value, value.get_ref().as_array(), expected)?;
        if list.is_empty() {
            self.problem(value, format_args!("an empty list; write {expected}"));
        }
        Some(&list[..]).filter(|list| !list.is_empty())
    }

    pub(super) fn table<'v, 'd>(&mut self, value: &'v Node<'d>) -> Option<&'v DeTable<'d>> {
        self.expected(value, value.get_ref().as_table(), "a table")
    }

    /// The value, if it has the expected kind. Otherwise adds a problem.
    pub(super) fn expected<T>(&mut self, value: &Node<'_>, found: Option<T>, expected: &str) -> Option<T> {
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
            self.problem(value, format_args!("expected {expected}; found {kind}"));
        }
        found
    }

    /// The value of a key that only a JWT can carry, if it is there.
    pub(super) fn jwt_only<T>(&mut self, keys: &DeTable<'_>, key: &str, read: Read<'a, T>) -> Option<T> {
        let (name, value) = keys.get_key_value(key)?;
        let what = format_args!("{key}: only JWTs can carry it; set [token] format to jwt, or remove it");
        self.jwt_only.push(self.problem_at(name.span().start, what));
        read(self, value)
    }

    /// The value of a key that a table must have.
    pub(super) fn required<'v, 'd, T>(
        &mut self,
        table: &Spanned<T>,
        keys: &'v DeTable<'d>,
        key: &str,
    ) -> Option<&'v Node<'d>> {
        let value = keys.get(key);
        if value.is_none() {
            self.problem(table, format_args!("{key} is missing; add it"));
        }
        value
    }

    /// Reads every item, even if one is invalid, to find every problem.
    pub(super) fn each<I, T>(
        &mut self,
        items: impl IntoIterator<Item = I>,
        mut read: impl FnMut(&mut Self, I) -> Option<T>,
    ) -> Option<Vec<T>> {
        let read: Vec<_> = items.into_iter().map(|item| read(self, item)).collect();
        read.into_iter().collect()
    }

    /// Rejects keys that are not in a comma-separated list.
    pub(super) fn reject_unknown(&mut self, keys: &DeTable<'_>, known: &str, what: &str) {
        for key in keys.keys().filter(|key| known.split(", ").all(|known| known != key.get_ref())) {
            self.problem(key, format_args!("unknown {what} {:?}; use one of: {known}", key.get_ref()));
        }
    }
}

pub(super) fn integer(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

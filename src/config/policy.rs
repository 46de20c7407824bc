//! `[[grants]]` and `[token] require`: the policy. It has a structure, so it stands in the TOML file only, and a problem
//! says where: file, line and column.

use std::{collections::BTreeSet, fmt, ops::Range, time::Duration};

use serde_json::Number;
use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue},
};

use super::{
    reader::Reader,
    settings::{TOKEN_CAPABILITY, TOKEN_REQUIRE},
    tenant::{Scope, TENANTS},
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

/// The key of the rules.
pub(super) const GRANTS: &str = "grants";

pub(super) type Value<'a> = Spanned<DeValue<'a>>;
type TomlPlace = Range<usize>;

/// Reads the policy. What is wrong with it, the reader is told.
pub(super) fn read(reader: &mut Reader<'_>, token: Option<&TokenConfig>, revocable: bool) -> Policy {
    let text = reader.toml_text();
    // A file that is no TOML never came so far.
    let Ok(document) = DeTable::parse(text) else { return Policy::default() };
    let Some(table) = scoped(document.get_ref(), reader.scope()) else { return Policy::default() };
    let mut parser = Parser::new(revocable);
    let require = table.get(TOKEN_REQUIRE.section).and_then(|section| section.get_ref().get(TOKEN_REQUIRE.key));
    let require = require.and_then(|require| parser.require(require));
    let rules = table.get(GRANTS).map(|grants| parser.rules(grants, require.as_ref()));
    if rules.is_some() && token.is_some_and(|token| token.capability.is_some()) {
        reader.problem(
            &TOKEN_CAPABILITY,
            "says that every token has the key's own capability, and [[grants]] say otherwise; remove one of the two",
        );
    }
    if let Some(format) = token.map(|token| token.format).filter(|format| *format != TokenFormat::Jwt) {
        for (place, subject, key) in std::mem::take(&mut parser.jwt_only) {
            parser.subject = subject;
            parser.problem(
                place,
                format_args!("{key}: only tokens of the format jwt carry it; [token] format is {format}"),
            );
        }
    }
    parser.problems.sort_by_key(|(offset, _)| *offset);
    for (offset, problem) in parser.problems {
        reader.problem_at(offset, problem);
    }
    Policy { require, rules: rules.unwrap_or_default(), ttl: token.and_then(|token| token.ttl) }
}

/// The table that has the settings of a tenant.
fn scoped<'d, 'a>(root: &'d DeTable<'a>, scope: &Scope) -> Option<&'d DeTable<'a>> {
    match scope {
        Scope::Flat => Some(root),
        Scope::Tenant(_, index) => root.get(TENANTS)?.get_ref().as_array()?.get(*index)?.get_ref().as_table(),
    }
}

pub(super) struct Parser {
    /// What problems are said to be of.
    pub(super) subject: String,
    revocable: bool,
    /// What other formats than a JWT cannot carry, by the key.
    pub(super) jwt_only: Vec<(TomlPlace, String, &'static str)>,
    pub(super) problems: Vec<(usize, String)>,
}

impl Parser {
    pub(super) fn new(revocable: bool) -> Self {
        Self { subject: String::new(), revocable, jwt_only: Vec::new(), problems: Vec::new() }
    }

    pub(super) fn problem(&mut self, place: TomlPlace, what: impl fmt::Display) {
        self.problems.push((place.start, format!("{}: {what}", self.subject)));
    }

    /// Notes an error as a problem.
    pub(super) fn checked<T, E: fmt::Display>(&mut self, place: TomlPlace, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.problem(place, error)).ok()
    }

    fn require(&mut self, value: &Value<'_>) -> Option<Condition> {
        "[token] require".clone_into(&mut self.subject);
        let condition = self.condition(value)?;
        if condition.is_impossible() {
            self.problem(value.span(), "contradicts itself: no session meets it, and nobody would get a token");
        }
        Some(condition)
    }

    fn rules(&mut self, value: &Value<'_>, require: Option<&Condition>) -> Vec<Rule> {
        "[[grants]]".clone_into(&mut self.subject);
        let Some(tables) = value.get_ref().as_array() else {
            let what = format_args!("{}, where tables are wanted: write [[grants]]", kind(value));
            self.problem(value.span(), what);
            return Vec::new();
        };
        if tables.is_empty() {
            self.problem(
                value.span(),
                "an empty list; write a rule, or say [token] capability = \"key\" if none is meant",
            );
        }
        let mut rules = Vec::new();
        let mut names: BTreeSet<String> = BTreeSet::new();
        for (position, table) in tables.iter().enumerate() {
            self.subject = format!("[[grants]] number {}", position + 1);
            let Some(rule) = self.table(table).and_then(|keys| self.rule(table.span(), keys, require, &mut names))
            else {
                continue;
            };
            rules.push(rule);
        }
        rules
    }

    fn rule(
        &mut self,
        place: TomlPlace,
        keys: &DeTable<'_>,
        require: Option<&Condition>,
        names: &mut BTreeSet<String>,
    ) -> Option<Rule> {
        const KEYS: [&str; 6] = ["name", "when", "capability", "ttl", "channel_claims", "publish_rate"];
        let name = self.name(&place, keys, names);
        self.refuse_unknown(keys, &KEYS, "key");
        // Of what may be left out: Some(None) when it is, None when it cannot be read.
        let when = keys.get("when").map_or(Some(None), |value| self.when(value, require).map(Some));
        let ttl = keys.get("ttl").map_or(Some(None), |value| self.ttl(value).map(Some));
        let capability = if let Some(value) = keys.get("capability") {
            self.capability(value)
        } else {
            self.problem(place, "no capability; write capability = { \"chat:*\" = [\"subscribe\"] }");
            None
        };
        let channel_claims = self.jwt_only(keys, "channel_claims", |parser, value| {
            Some(parser.text(value, "a text, the claim's value")?.to_owned())
        });
        let publish_rate = self.jwt_only(keys, "publish_rate", Self::rate);
        Some(Rule {
            name: name?,
            when: when?,
            capability: capability?,
            ttl: ttl?,
            channel_claims: channel_claims?,
            publish_rate: publish_rate?,
        })
    }

    fn name(&mut self, place: &TomlPlace, keys: &DeTable<'_>, names: &mut BTreeSet<String>) -> Option<RuleName> {
        let Some(value) = keys.get("name") else {
            self.problem(place.clone(), "no name; logs and explanations need one");
            return None;
        };
        let name = self.text(value, "a name")?;
        if name.trim().is_empty() || name.chars().any(char::is_control) {
            self.problem(value.span(), "the name is empty or has control characters");
            return None;
        }
        self.subject = format!("[[grants]] {name:?}");
        if !names.insert(name.to_owned()) {
            self.problem(value.span(), "another rule has this name already");
        }
        Some(RuleName::new(name))
    }

    fn when(&mut self, value: &Value<'_>, require: Option<&Condition>) -> Option<Condition> {
        let condition = self.condition(value)?;
        let with_require = require.map(|require| Condition::All(vec![require.clone(), condition.clone()]));
        if condition.is_impossible() {
            self.problem(value.span(), "when contradicts itself: the rule would never match");
        } else if with_require.is_some_and(|both| both.is_impossible()) {
            self.problem(value.span(), "when contradicts [token] require: the rule would never match");
        }
        Some(condition)
    }

    fn capability(&mut self, value: &Value<'_>) -> Option<Vec<(ResourceTemplate, Operations)>> {
        self.resources(value, "capability", |parser, value| {
            let operations = parser.list(value, "a list of operations, like [\"subscribe\"]")?;
            let names: Option<Vec<_>> =
                operations.iter().map(|operation| parser.text(operation, "the name of an operation")).collect();
            let operations = Operations::parse(names?);
            parser.checked(value.span(), operations)
        })
    }

    /// A table of resources, each with something that `read` takes.
    fn resources<T>(
        &mut self,
        value: &Value<'_>,
        name: &str,
        read: impl Fn(&mut Self, &Value<'_>) -> Option<T>,
    ) -> Option<Vec<(ResourceTemplate, T)>> {
        let table = self.table(value)?;
        if table.is_empty() {
            self.problem(value.span(), format_args!("{name} names no resource"));
            return None;
        }
        let mut resources = Vec::new();
        for (key, value) in table {
            let resource = key.get_ref().parse::<ResourceTemplate>();
            let resource = resource.map_err(|error| format!("the resource {:?}: {error}", key.get_ref()));
            let resource = self.checked(key.span(), resource);
            resources.push(resource.zip(read(self, value)));
        }
        resources.into_iter().collect()
    }

    /// What only a JWT carries; nothing when it is not there.
    fn jwt_only<T>(
        &mut self,
        keys: &DeTable<'_>,
        name: &'static str,
        read: impl Fn(&mut Self, &Value<'_>) -> Option<T>,
    ) -> Option<Vec<(ResourceTemplate, T)>> {
        let Some((key, value)) = keys.get_key_value(name) else { return Some(Vec::new()) };
        self.jwt_only.push((key.span(), self.subject.clone(), name));
        self.resources(value, name, read)
    }

    pub(super) fn rate(&mut self, value: &Value<'_>) -> Option<Number> {
        let rate = match value.get_ref() {
            DeValue::Integer(number) => integer(number).filter(|number| *number > 0).map(Number::from),
            DeValue::Float(number) => {
                number.as_str().parse().ok().filter(|number| *number > 0.0).and_then(Number::from_f64)
            }
            _ => None,
        };
        if rate.is_none() {
            self.problem(value.span(), "a publish rate is a number of messages a second, above zero");
        }
        rate
    }

    fn ttl(&mut self, value: &Value<'_>) -> Option<Ttl> {
        let ttl = token::ttl(self.text(value, "a span of time, like \"10m\"")?, self.revocable);
        self.checked(value.span(), ttl.map_err(|error| format!("ttl: {error}")))
    }

    fn condition(&mut self, value: &Value<'_>) -> Option<Condition> {
        const NAMES: [&str; 11] = [
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
        ];
        let table = self.table(value)?;
        if table.is_empty() {
            self.problem(value.span(), "a condition is empty; leave it out if it is always to hold");
            return None;
        }
        self.refuse_unknown(table, &[&NAMES[..], &["not"]].concat(), "condition");
        let mut parts = Vec::new();
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "role" => parts.push(self.names(value, Role::parse).map(Condition::Role)),
                "permission" => parts.push(self.names(value, Permission::parse).map(Condition::Permission)),
                "plan" => parts.push(self.names(value, ScopedName::parse).map(Condition::Plan)),
                "feature" => parts.push(self.names(value, ScopedName::parse).map(Condition::Feature)),
                "organization" => parts.push(self.names(value, OrganizationName::parse).map(Condition::Organization)),
                "claim" => self.claims(value, "", &mut parts),
                "reverified" => parts.push(self.reverified(value).map(Condition::Reverified)),
                "impersonated" => parts.push(self.boolean(value).map(Condition::Impersonated)),
                "agent" => parts.push(self.boolean(value).map(Condition::Agent)),
                "any" => parts.push(self.conditions(value).map(Condition::Any)),
                "all" => parts.push(self.conditions(value).map(Condition::All)),
                "not" => parts.push(self.condition(value).map(|part| Condition::Not(Box::new(part)))),
                _ => parts.push(None),
            }
        }
        let mut parts: Vec<_> = parts.into_iter().collect::<Option<_>>()?;
        // Several in one table are all required.
        if parts.len() == 1 { parts.pop() } else { Some(Condition::All(parts)) }
    }

    fn conditions(&mut self, value: &Value<'_>) -> Option<Vec<Condition>> {
        let list = self.list(value, "a list of conditions")?;
        let parts: Vec<_> = list.iter().map(|part| self.condition(part)).collect();
        parts.into_iter().collect()
    }

    /// A name, or a list of alternatives.
    fn names<T, E: fmt::Display>(&mut self, value: &Value<'_>, parse: impl Fn(&str) -> Result<T, E>) -> Option<Vec<T>> {
        let names = self.alternatives(value)?;
        let names: Vec<_> = names
            .iter()
            .map(|name| {
                let text = self.text(name, "a name or a list of names")?;
                self.checked(name.span(), parse(text))
            })
            .collect();
        names.into_iter().collect()
    }

    /// The elements of a list, or the one value that stands for it.
    fn alternatives<'v, 'a>(&mut self, value: &'v Value<'a>) -> Option<&'v [Value<'a>]> {
        match value.get_ref() {
            DeValue::Array(_) => self.list(value, "a list"),
            _ => Some(std::slice::from_ref(value)),
        }
    }

    /// Claims by dotted path. TOML reads a path without quotes as tables in tables, which mean the same.
    fn claims(&mut self, value: &Value<'_>, path: &str, parts: &mut Vec<Option<Condition>>) {
        let Some(table) = self.table(value) else { return parts.push(None) };
        if table.is_empty() {
            self.problem(value.span(), "claim names no claim; write claim = { \"metadata.tier\" = \"pro\" }");
            parts.push(None);
        }
        for (key, value) in table {
            let path = if path.is_empty() { key.get_ref().to_string() } else { format!("{path}.{}", key.get_ref()) };
            if key.get_ref().split('.').any(str::is_empty) {
                self.problem(
                    key.span(),
                    format_args!("the claim {:?}: a name is empty, at an end or between two dots", key.get_ref()),
                );
                parts.push(None);
            } else if value.get_ref().is_table() {
                self.claims(value, &path, parts);
            } else {
                let values = self.alternatives(value).map(|values| values.iter().map(|value| self.claim_value(value)));
                let alternatives: Option<Vec<Option<_>>> = values.map(Iterator::collect);
                let alternatives = alternatives.and_then(|values| values.into_iter().collect());
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
        if claim.is_none() {
            let what =
                format_args!("{}, where a claim is compared with a text, a whole number, true or false", kind(value));
            self.problem(value.span(), what);
        }
        claim
    }

    fn reverified(&mut self, value: &Value<'_>) -> Option<Reverification> {
        let table = self.table(value)?;
        self.refuse_unknown(table, &["level", "within"], "key");
        let (Some(level), Some(within)) = (table.get("level"), table.get("within")) else {
            self.problem(
                value.span(),
                "reverified wants level and within, like { level = \"second_factor\", within = \"10m\" }",
            );
            return None;
        };
        let level_text = self.text(level, "a level")?;
        let level = self.checked(level.span(), Level::parse(level_text));
        let within_text = self.text(within, "a span of time, like \"10m\"")?;
        let duration: Option<Duration> = self.checked(within.span(), duration(within_text));
        let reverification = Reverification::new(level?, duration?);
        self.checked(within.span(), reverification)
    }

    fn boolean(&mut self, value: &Value<'_>) -> Option<bool> {
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            self.problem(value.span(), format_args!("{}, where true or false is wanted", kind(value)));
        }
        boolean
    }

    pub(super) fn text<'v>(&mut self, value: &'v Value<'_>, wanted: &str) -> Option<&'v str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.problem(value.span(), format_args!("{}, where {wanted} is wanted", kind(value)));
        }
        text
    }

    /// A list that is not empty.
    pub(super) fn list<'v, 'a>(&mut self, value: &'v Value<'a>, wanted: &str) -> Option<&'v [Value<'a>]> {
        let list = value.get_ref().as_array().map(|list| &list[..]);
        match list {
            None => self.problem(value.span(), format_args!("{}, where {wanted} is wanted", kind(value))),
            Some([]) => self.problem(value.span(), format_args!("an empty list, where {wanted} is wanted")),
            Some(_) => return list,
        }
        None
    }

    pub(super) fn table<'v, 'a>(&mut self, value: &'v Value<'a>) -> Option<&'v DeTable<'a>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.problem(value.span(), format_args!("{}, where a table is wanted", kind(value)));
        }
        table
    }

    pub(super) fn refuse_unknown(&mut self, table: &DeTable<'_>, known: &[&str], what: &str) {
        for key in table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let known = known.join(", ");
            self.problem(key.span(), format_args!("no such {what}: {:?}; there are: {known}", key.get_ref()));
        }
    }
}

pub(super) fn integer(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

pub(super) fn kind(value: &Value<'_>) -> &'static str {
    match value.get_ref() {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

//! The files that are generated from the list of settings: the tables of docs/configuration.md and the JSON schema.
//! `UPDATE=1 cargo test --lib generated` writes them anew.

use std::{env, fmt::Write as _, fs};

use serde_json::{Value, json};

use super::{super::settings::Setting, *};
use crate::{ably::OPERATIONS, config::policy};

const SCHEMA: &str = "ably-clerk-auth.schema.json";

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_default()
}

/// Compares a file with what it should hold, or writes it.
fn assert_file(path: &str, expected: &str) {
    if env::var_os("UPDATE").is_some() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(path), expected).unwrap();
    }
    assert!(read(path) == expected, "{path} is out of date; run: UPDATE=1 cargo test --lib generated");
}

/// A text without Markdown. A sentence that is only a link is left out.
fn plain(markdown: &str) -> String {
    let mut plain = markdown.replace('`', "");
    while let Some((link, rest)) = plain.split_once("](") {
        let (before, text) = link.rsplit_once('[').unwrap();
        let (_, after) = rest.split_once(')').unwrap();
        let is_sentence = before.ends_with(". ") && after.starts_with('.');
        plain = if is_sentence {
            format!("{}{after}", before.trim_end_matches(". "))
        } else {
            format!("{before}{text}{after}")
        };
    }
    plain
}

fn meaning(setting: &Setting) -> String {
    setting.meaning.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

fn tables() -> String {
    let mut tables = String::new();
    let mut section = "";
    for setting in settings::ALL {
        if setting.section != section {
            section = setting.section;
            let gap = if tables.is_empty() { "" } else { "\n" };
            let head = "| variable | TOML key | default | meaning |\n|---|---|---|---|";
            writeln!(tables, "{gap}### `[{section}]`\n\n{head}").unwrap();
        }
        let variable =
            if setting.file_only { "TOML file only".to_owned() } else { format!("`{}`", setting.variable()) };
        let default = match setting.default_text() {
            Some(default) => format!("`{default}`"),
            None if setting.if_unset.is_empty() => "unset".to_owned(),
            None => setting.if_unset.to_owned(),
        };
        let aliases = setting.aliases.iter().map(|alias| format!("`{alias}`")).collect::<Vec<_>>().join(", ");
        let also = if aliases.is_empty() { aliases } else { format!(" Also {aliases}.") };
        writeln!(tables, "| {variable} | `{}` | {default} | {}{also} |", setting.key, meaning(setting)).unwrap();
    }
    tables
}

#[test]
fn the_tables_of_the_documentation_are_those_of_the_settings() {
    const PATH: &str = "docs/configuration.md";
    let (start, end) = ("<!-- settings: generated -->\n", "<!-- /settings -->");
    let document = read(PATH);
    let (before, rest) = document.split_once(start).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    assert_file(PATH, &format!("{before}{start}{}{end}{after}", tables()));
}

/// The settings of the example file, with the lines that are commented out.
fn whole_example() -> toml::Table {
    let example = read("ably-clerk-auth.example.toml");
    let (settings, _) = example.split_once("# [[grants]]\n").unwrap();
    let is_setting = |line: &str| {
        let key = line.split_once(" = ").map(|(key, _)| key.trim_start_matches("# "));
        settings::ALL.iter().any(|setting| key == Some(setting.key)) && !line.ends_with('.')
    };
    let lines = settings.lines().map(|line| if is_setting(line) { line.trim_start_matches("# ") } else { line });
    lines.collect::<Vec<_>>().join("\n").parse().unwrap()
}

fn list_of(items: &Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// A single value, or a list of them.
fn alternatives(items: &Value) -> Value {
    json!({ "anyOf": [items, { "type": "array", "items": items, "minItems": 1 }] })
}

fn table_of(properties: &Value, required: &[&str]) -> Value {
    json!({ "type": "object", "additionalProperties": false, "required": required, "properties": properties })
}

fn described(mut schema: Value, description: &str) -> Value {
    schema["description"] = description.into();
    schema
}

fn setting(setting: &Setting, example: &toml::Table) -> Value {
    let string = json!({ "type": "string" });
    let mut schema = match &example[setting.section][setting.key] {
        _ if !setting.choices.is_empty() => json!({ "enum": setting.choices }),
        toml::Value::String(_) => string,
        toml::Value::Integer(_) => json!({ "type": "integer", "minimum": 0 }),
        toml::Value::Boolean(_) => json!({ "type": "boolean" }),
        toml::Value::Array(_) => json!({ "anyOf": [list_of(&string), string] }),
        toml::Value::Table(_) => json!({ "$ref": "#/definitions/condition" }),
        other => panic!("{other:?}"),
    };
    if let Some(default) = setting.default_value() {
        schema["default"] = serde_json::to_value(default).unwrap();
    }
    // Draft 7 ignores keywords beside a `$ref`.
    if setting.file_only { schema } else { described(schema, &plain(&meaning(setting))) }
}

fn condition() -> Value {
    let (name, condition) = (json!({ "type": "string" }), json!({ "$ref": "#/definitions/condition" }));
    let conditions = json!({ "type": "array", "items": condition, "minItems": 1 });
    let boolean = json!({ "type": "boolean" });
    let level = json!({ "enum": ["first_factor", "second_factor", "multi_factor"] });
    let mut schema = table_of(
        &json!({
            "role": described(alternatives(&name), "The user's role in the active organization, such as org:admin."),
            "permission": described(alternatives(&name), "A permission in the active organization, such as org:rooms:read."),
            "plan": described(alternatives(&name), "A plan of the organization or the user; o: or u: before it names one of them."),
            "feature": described(alternatives(&name), "A feature of the organization or the user; o: or u: before it names one of them."),
            "organization": described(alternatives(&name), "The active organization: its ID or its slug."),
            "claim": {
                "description": "Claims of the session token by dotted path, each with the value that it must have or contain.",
                "type": "object",
                "minProperties": 1,
            },
            "reverified": described(
                table_of(&json!({ "level": level, "within": name }), &["level", "within"]),
                "How, and how recently, the user verified who they are.",
            ),
            "impersonated": described(boolean.clone(), "Whether somebody else acts as the user."),
            "agent": described(boolean, "Whether an agent acts for the user."),
            "any": described(conditions.clone(), "At least one of these holds."),
            "all": described(conditions, "All of these hold."),
            "not": condition,
        }),
        &[],
    );
    schema["minProperties"] = 1.into();
    schema
}

fn rule() -> Value {
    let by_resource = |value: Value| json!({ "type": "object", "minProperties": 1, "additionalProperties": value });
    let operations = [&["*"][..], &OPERATIONS[..]].concat();
    let operations = json!({ "type": "array", "minItems": 1, "items": { "enum": operations } });
    table_of(
        &json!({
            "name": { "type": "string", "description": "The rule's name in logs and explanations." },
            "when": { "$ref": "#/definitions/condition" },
            "capability": described(by_resource(operations), "The resources, and the operations on each."),
            "ttl": { "type": "string", "description": "How long a token is valid at most if this rule matches." },
            "channel_claims": described(
                by_resource(json!({ "type": "string" })),
                "The user's claim in each channel; only with the token format jwt.",
            ),
            "publish_rate": described(
                by_resource(json!({ "type": "number", "exclusiveMinimum": 0 })),
                "Messages per second and connection; only with the token format jwt.",
            ),
        }),
        &["name", "capability"],
    )
}

fn schema() -> Value {
    let example = whole_example();
    let sections = |is_included: fn(&Setting) -> bool| {
        let mut sections = json!({});
        for one in settings::ALL.iter().filter(|setting| is_included(setting)) {
            if sections[one.section].is_null() {
                sections[one.section] = table_of(&json!({}), &[]);
            }
            sections[one.section]["properties"][one.key] = setting(one, &example);
        }
        sections["grants"] =
            described(list_of(&json!({ "$ref": "#/definitions/rule" })), "The rules: what a session gets.");
        sections
    };
    let mut tenant = sections(Setting::is_of_a_tenant);
    tenant["name"] = json!({
        "type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$",
        "description": "The tenant's name in variables, logs and metrics.",
    });
    let mut all = sections(|_| true);
    all["tenants"] = json!({
        "description": "Several Clerk instances, each with an Ably app of its own.",
        "type": "array", "minItems": 1, "items": table_of(&tenant, &["name"]),
    });
    let mut schema = table_of(&all, &[]);
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    schema["title"] = "Settings of ably-clerk-auth".into();
    schema["definitions"] = json!({ "condition": condition(), "rule": rule() });
    schema
}

#[test]
fn the_schema_of_the_file_is_that_of_the_code() {
    assert_file(SCHEMA, &format!("{}\n", serde_json::to_string_pretty(&schema()).unwrap()));
    let keys = |table: &Value| table["properties"].as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let names = |names: &str| names.split(", ").map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(keys(&rule()), names(policy::RULE_KEYS));
    assert_eq!(keys(&condition()), names(policy::CONDITIONS));
}

/// Validates a file against the schema.
fn validate(toml: &str) -> Result<(), String> {
    let mut compiler = boon::Compiler::new();
    compiler.add_resource("schema.json", schema()).unwrap();
    let mut schemas = boon::Schemas::new();
    let schema = compiler.compile("schema.json", &mut schemas).unwrap();
    schemas.validate(&toml::from_str::<Value>(toml).unwrap(), schema).map_err(|error| error.to_string())
}

#[test]
fn every_example_is_valid_by_the_schema() {
    let example = read("ably-clerk-auth.example.toml");
    let (_, grants) = example.split_once("# [[grants]]\n").unwrap();
    let grants = grants.lines().map(|line| line.trim_start_matches(['#', ' '])).collect::<Vec<_>>().join("\n");
    let whole = format!("{}\n[[grants]]\n{grants}", toml::to_string(&whole_example()).unwrap());
    let (policy, tenants) = (read("docs/policy.md"), read("docs/tenants.md"));
    let blocks = [toml_blocks(&policy), toml_blocks(&tenants)].concat();
    let files = [&example, &whole, &read("sandbox/policy.toml"), TWO_TENANTS];
    for toml in files.into_iter().chain(blocks) {
        validate(toml).unwrap_or_else(|problem| panic!("{problem}\n{toml}"));
    }
}

#[test]
fn the_schema_rejects_a_misspelt_key_and_a_value_of_the_wrong_kind() {
    let rule = |keys: &str| format!("[[grants]]\nname = \"a\"\n{keys}");
    for toml in [
        "[clerck]\naudience = []",
        "[clerk]\naudiences = []",
        "grant = []",
        "[clerk]\nauthorized_parties = [5]",
        "[server]\nport = -1",
        "[ably]\nrevocable_tokens = \"yes\"",
        "[token]\nformat = \"jwe\"",
        "[token]\nrequire = { rol = \"admin\" }",
        "[[tenants]]\nname = \"a\"\nserver.port = 1",
        "[[tenants]]\nname = \"A\"",
        "[[tenants]]\nname = \"a\"\ntoken.tll = \"5m\"",
        &rule("capability = { a = [\"subscribe\"] }\npriority = 1"),
        &rule("capability = { a = [\"subscibe\"] }"),
        &rule("capability = { a = [\"*\"] }\nwhen = { any = [{ roles = \"admin\" }] }"),
        &rule("capability = {}"),
        &rule(""),
    ] {
        assert!(validate(toml).is_err(), "{toml}");
        assert!(load(&[], toml).is_err(), "{toml}");
    }
}

#[test]
fn every_choice_of_a_setting_is_valid_and_nothing_else() {
    for setting in settings::ALL.iter().filter(|setting| !setting.choices.is_empty()) {
        let variable = setting.variable();
        let redis = ("REDIS_URL", "rediss://redis.example.com");
        for choice in setting.choices {
            assert!(load(&[redis, (&variable, choice)], "").is_ok(), "{variable}={choice}");
        }
        assert!(problem(&[redis, (&variable, "other")], "").contains("unknown value; use "), "{variable}");
    }
}

#[test]
fn help_has_every_setting_that_a_variable_can_hold_on_lines_that_fit() {
    let help = settings::help();
    for setting in settings::ALL {
        assert_eq!(help.contains(&format!("  {} ", setting.variable())), !setting.file_only, "{}", setting.variable());
        assert!(setting.aliases.iter().all(|alias| help.contains(alias)));
    }
    assert!(help.contains("[127.0.0.1]") && help.contains("[required]"), "{help}");
    assert!(help.lines().all(|line| line.chars().count() <= 120), "{help}");
}

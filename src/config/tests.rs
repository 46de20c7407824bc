mod generated;

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::*;
use crate::{
    ably::{TokenFormat, TokenParams},
    clerk::{PublishableKey, Session},
    clock::UnixMillis,
};

const REQUIRED: [(&str, &str); 2] =
    [("ABLY_API_KEY", "app.key:secretsecret"), ("CLERK_PUBLISHABLE_KEY", "pk_test_Y2xlcmsuZXhhbXBsZS5jb20k")];

fn load(environment: &[(&str, &str)], toml: &str) -> Result<Config, String> {
    let environment = [&REQUIRED, environment].concat();
    Config::load(&Sources::for_test(&environment, toml))
        .map(|(config, _)| config)
        .map_err(|problems| problems.to_string())
}

impl Config {
    /// The tenant of the flat form.
    fn only(self) -> TenantConfig {
        let [tenant] = self.tenants.try_into().unwrap();
        tenant
    }
}

fn problem(environment: &[(&str, &str)], toml: &str) -> String {
    load(environment, toml).expect_err("a problem")
}

#[test]
fn the_example_file_holds_the_defaults_and_names_every_setting() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ably-clerk-auth.example.toml");
    let example = fs::read_to_string(path).unwrap();
    let (with, without) = (load(&[], &example).unwrap(), load(&[], "").unwrap());
    assert_eq!(format!("{with:?}"), format!("{without:?}"));
    assert!(without.differences_beyond_policy(&with).is_empty());

    let (settings, grants) = example.split_once("# [[grants]]\n").unwrap();
    let mut section = "";
    let mut named = BTreeSet::new();
    for line in settings.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        } else if let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ") {
            named.insert(format!("{section}.{key}"));
        }
    }
    let there = settings::ALL.iter().map(|setting| format!("{}.{}", setting.section, setting.key)).collect();
    assert_eq!(named, there);

    let grants: String = grants.lines().map(|line| line.trim_start_matches(['#', ' ']).to_owned() + "\n").collect();
    assert!(load(&[], &format!("[[grants]]\n{grants}")).unwrap().only().policy.has_rules());
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let whole = load(&[], "").unwrap();
    let config = whole.clone().only();
    assert_eq!(config.ably.rest_url.as_str(), "https://main.realtime.ably.net/");
    assert_eq!(config.clerk.api_url.as_str(), "https://api.clerk.com/");
    assert_eq!(config.clerk.clock_skew_ms, 5000);
    assert_eq!(config.clerk.user_cache_ttl.as_secs(), 300);
    assert_eq!(whole.denial_ttl.as_secs(), 600);
    assert_eq!(config.token.client_id.to_string(), "{username}");
    assert_eq!(config.token.format, TokenFormat::TokenRequest);
    assert_eq!(config.token.ttl, None);
    assert_eq!(whole.server.address.to_string(), "127.0.0.1:8080");
    let quota = whole.limits.tokens.unwrap();
    assert_eq!((quota.per_minute.get(), quota.burst.get(), whole.limits.max_in_flight.get()), (60, 20, 1024));
    assert_eq!(whole.admin.address.map(|address| address.to_string()).as_deref(), Some("127.0.0.1:9464"));
}

#[test]
fn trusted_proxies_are_networks_or_addresses_and_never_all() {
    let trusting = |proxies| load(&[("SERVER_TRUSTED_PROXIES", proxies)], "");
    assert!(trusting("10.0.0.0/8, 192.0.2.7,2001:db8::/32").is_ok());
    assert!(load(&[], "[server]\ntrusted_proxies = [\"10.0.0.0/8\", \"::1\"]").is_ok());
    let problem = trusting("10.0.0.0/8, 0.0.0.0/0, proxy.internal, 10.1.2.3/8").unwrap_err();
    assert!(problem.starts_with("the configuration has 3 problems"), "{problem}");
    let halves = trusting("0.0.0.0/1,128.0.0.0/1").unwrap_err();
    assert_eq!(halves.matches("a network larger than a /8 of IPv4 or a /7 of IPv6").count(), 2, "{halves}");
    assert!(problem.contains("SERVER_TRUSTED_PROXIES ([server] trusted_proxies): not a network"), "{problem}");
    assert!(!problem.contains("proxy.internal"), "{problem}");
}

#[test]
fn the_admin_listener_has_an_address_of_its_own_or_is_off() {
    let admin = |environment: &[(&str, &str)]| load(environment, "").map(|config| config.admin.address);
    assert_eq!(admin(&[("ADMIN_PORT", "0")]), Ok(None));
    let everywhere = "0.0.0.0:1".parse().unwrap();
    assert_eq!(admin(&[("ADMIN_HOST", "0.0.0.0"), ("ADMIN_PORT", "1")]), Ok(Some(everywhere)));
    for host in ["127.0.0.1", "0.0.0.0", "::"] {
        for server_host in ["127.0.0.1", "0.0.0.0"] {
            let same = [("SERVER_PORT", "9464"), ("SERVER_HOST", server_host), ("ADMIN_HOST", host)];
            assert!(admin(&same).unwrap_err().contains("ADMIN_PORT ([admin] port): the public listener has"));
        }
    }
    assert!(admin(&[("SERVER_PORT", "9464"), ("SERVER_HOST", "127.0.0.2")]).is_ok());
    assert!(admin(&[("ADMIN_PORT", "65536")]).unwrap_err().contains("or 0 for no admin listener"));
    assert!(admin(&[("ADMIN_HOST", "metrics.internal")]).unwrap_err().contains("not an IP address"));
}

#[test]
fn the_admin_token_is_a_secret_that_can_travel_in_a_header() {
    let load = |token: &str| load(&[("ADMIN_TOKEN", token)], "");
    let [one, other] = ["hush-1", "hush-2"].map(|token| load(token).unwrap());
    assert!(!format!("{one:?}").contains("hush"));
    assert_eq!(one.differences_beyond_policy(&other), ["admin"]);
    assert!(one.differences_beyond_policy(&load("hush-1").unwrap()).is_empty());
    for bad in ["hush hush", "h\u{fc}sh", "hu\nsh"] {
        let problem = load(bad).unwrap_err();
        assert!(problem.contains("ADMIN_TOKEN ([admin] token): has spaces") && !problem.contains("hush"), "{problem}");
    }
    assert!(load("").unwrap().admin.token.is_none());
}

#[test]
fn an_admin_token_that_can_be_guessed_is_warned_of_and_refused_beyond_loopback() {
    let (short, long) = ("only-15-letters", "just-16-letters!");
    let load = |token: &str, host: &str, port: &str| {
        load(&[("ADMIN_TOKEN", token), ("ADMIN_HOST", host), ("ADMIN_PORT", port)], "")
    };
    let warned = |config: Config| config.warnings().iter().any(|warning| warning.starts_with("a short ADMIN_TOKEN"));
    for (host, port) in [("127.0.0.1", "9464"), ("::1", "9464"), ("0.0.0.0", "0")] {
        assert!(warned(load(short, host, port).unwrap()), "{host} {port}");
        assert!(!warned(load(long, host, port).unwrap()), "{host} {port}");
        assert!(!warned(load("", host, port).unwrap()), "{host} {port}");
    }
    for host in ["0.0.0.0", "::", "10.0.0.1"] {
        let problem = load(short, host, "9464").unwrap_err();
        assert!(problem.contains("ADMIN_TOKEN ([admin] token): shorter than 16 characters"), "{problem}");
        assert!(!problem.contains(short), "{problem}");
        assert!(load(long, host, "9464").is_ok(), "{host}");
        assert!(load("", host, "9464").is_ok(), "{host}");
    }
}

#[test]
fn a_webhook_signing_secret_that_can_be_guessed_is_refused() {
    let problem = load(&[("CLERK_WEBHOOK_SIGNING_SECRET", "whsec_c2VjcmV0")], "").unwrap_err();
    let expected =
        "CLERK_WEBHOOK_SIGNING_SECRET ([clerk] webhook_signing_secret): the key of a signing secret has fewer";
    assert!(problem.contains(expected) && !problem.contains("c2VjcmV0"), "{problem}");
}

#[test]
fn the_revoke_command_needs_the_admin_listener_only_and_a_file_that_can_be_read() {
    let sources = Sources::for_test(&[("ADMIN_TOKEN", "hush")], "[admin]\nport = 1\n[clerk]\nno = \"such\"");
    let admin = Config::admin_only(&sources).unwrap();
    assert_eq!(admin.address.unwrap().port(), 1);
    assert!(admin.token.is_some());
    let missing = Sources::read(Some(Path::new("nowhere.toml")));
    assert!(Config::admin_only(&missing).unwrap_err().to_string().contains("nowhere.toml cannot be read"));
}

#[test]
fn a_variable_beats_its_file_which_beats_dot_env_which_beats_toml() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "2s\n").unwrap();
    let path = file.path().to_str().unwrap();
    let toml = "[token]\nttl = \"4s\"";
    let ttl = |environment: &[(&str, &str)], dot_env: &str| {
        let mut sources = Sources::for_test(&[&REQUIRED, environment].concat(), toml);
        sources.dot_env = dot_env::parse(dot_env.as_bytes());
        Config::load(&sources).unwrap().0.only().token.ttl.unwrap().as_millis()
    };
    let dot_env = "TOKEN_TTL=3s";
    assert_eq!(ttl(&[("TOKEN_TTL", "1s"), ("TOKEN_TTL_FILE", path)], dot_env), 1000);
    assert_eq!(ttl(&[("TOKEN_TTL", ""), ("TOKEN_TTL_FILE", path)], dot_env), 2000);
    assert_eq!(ttl(&[], dot_env), 3000);
    assert_eq!(ttl(&[], ""), 4000);
}

#[test]
fn the_vendors_own_names_work_and_must_not_contradict_each_other() {
    let names = ["NEXT_PUBLIC_CLERK_PUBLISHABLE_KEY", "VITE_CLERK_PUBLISHABLE_KEY"];
    for name in names {
        assert!(load(&[(name, REQUIRED[1].1)], "").is_ok());
        let message = problem(&[(name, "pk_test_Y2xlcmsub3RoZXIuY29tJA")], "");
        assert!(message.contains(&format!("CLERK_PUBLISHABLE_KEY and {name} have different values")), "{message}");
    }
    assert!(load(&[("NEXT_ABLY_API_KEY", "app.key:other")], "").is_err());
    assert_eq!(load(&[("PORT", "1")], "").unwrap().server.address.port(), 1);
    assert_eq!(load(&[("HOST", "0.0.0.0")], "").unwrap().server.address.ip().to_string(), "0.0.0.0");
}

#[test]
fn names_must_agree_across_sources_but_one_name_may_be_overridden() {
    let load = |environment: &[(&str, &str)], dot_env: &str| {
        let mut sources = Sources::for_test(&[&REQUIRED, environment].concat(), "");
        sources.dot_env = dot_env::parse(dot_env.as_bytes());
        Config::load(&sources).map(|(config, _)| config.server.address.port()).map_err(|problems| problems.to_string())
    };
    assert_eq!(load(&[("SERVER_PORT", "1")], "SERVER_PORT=2"), Ok(1));
    assert_eq!(load(&[("SERVER_PORT", "1")], "PORT=1"), Ok(1));
    let message = load(&[("SERVER_PORT", "1")], "PORT=2").unwrap_err();
    assert!(message.contains("SERVER_PORT and PORT (.env, line 1) have different values"), "{message}");
    let missing = load(&[], "CLERK_SECRET_KEY_FILE=/nonexistent").unwrap_err();
    assert!(missing.contains("the file that CLERK_SECRET_KEY_FILE (.env, line 1) names cannot be read"), "{missing}");
}

#[test]
fn a_list_without_entries_does_not_mean_any() {
    for name in ["CLERK_AUTHORIZED_PARTIES", "CLERK_AUDIENCE", "CORS_ALLOWED_ORIGINS"] {
        assert!(problem(&[(name, " , ,")], "").contains("a list without a single entry"), "{name}");
        assert!(load(&[(name, "")], "").is_ok());
    }
    assert!(problem(&[], "[clerk]\nauthorized_parties = [\"\"]").contains("a list without a single entry"));
    assert!(load(&[], "[clerk]\nauthorized_parties = []").is_ok());
}

#[test]
fn on_a_satellite_the_frontend_api_is_the_satellites() {
    let live = ("CLERK_PUBLISHABLE_KEY", "pk_live_Y2xlcmsuZXhhbXBsZS5jb20k");
    let satellite = |environment: &[(&str, &str)]| {
        let environment = [&[REQUIRED[0]], environment].concat();
        Config::load(&Sources::for_test(&environment, "")).unwrap().0.only().clerk
    };
    let clerk = satellite(&[live, ("CLERK_DOMAIN", "satellite.com")]);
    assert!(clerk.publishable_key.has_frontend_api_at("clerk.satellite.com"));
    assert!(!clerk.publishable_key.has_frontend_api_at("clerk.example.com"));
    assert_eq!(clerk.publishable_key.cookie_suffix(), PublishableKey::parse(live.1).unwrap().cookie_suffix());
    assert_eq!(clerk.issuers(), ["https://clerk.example.com", "https://clerk.satellite.com"]);
    assert_eq!(clerk.frontend_api_jwks().as_str(), "https://clerk.satellite.com/.well-known/jwks.json");
    let development = satellite(&[REQUIRED[1], ("CLERK_DOMAIN", "satellite.com")]);
    assert!(development.publishable_key.has_frontend_api_at("clerk.example.com"));
    assert_eq!(development.issuers(), ["https://clerk.example.com"]);
}

#[test]
fn each_of_several_satellites_is_an_issuer_and_keys_come_from_the_first() {
    let toml = "[clerk]\npublishable_key = \"pk_live_Y2xlcmsuZXhhbXBsZS5jb20k\"\ndomain = [\"one.com\", \"two.com\"]";
    for environment in [&[][..], &[("CLERK_DOMAIN", "one.com, two.com")]] {
        let environment = [&[REQUIRED[0]], environment].concat();
        let clerk = Config::load(&Sources::for_test(&environment, toml)).unwrap().0.only().clerk;
        assert_eq!(clerk.issuers(), ["https://clerk.example.com", "https://clerk.one.com", "https://clerk.two.com"]);
        assert_eq!(clerk.frontend_api_jwks().as_str(), "https://clerk.one.com/.well-known/jwks.json");
        for (host, is_here) in [("clerk.one.com", true), ("clerk.two.com", true), ("clerk.example.com", false)] {
            assert_eq!(clerk.publishable_key.has_frontend_api_at(host), is_here, "{host}");
        }
    }
}

#[test]
fn a_satellite_domain_that_never_matches_is_rejected_with_its_cure() {
    for good in ["satellite.example", "app.satellite.example", "clerk.io", "clerk.dev", "clerks.example.com"] {
        assert!(load(&[("CLERK_DOMAIN", good)], "").is_ok(), "{good}");
    }
    for (bad, cure) in [
        ("clerk.satellite.example", "begins with clerk., which the service adds itself; leave it out"),
        ("*.satellite.example", "list the satellite domains"),
        ("https://satellite.example", "without scheme, port, path"),
        ("satellite.example/", "without scheme, port, path"),
        ("satellite.example:443", "without scheme, port, path"),
        ("Satellite.example", "in lower case"),
        ("satellite.example.", "dot at the end"),
        ("satellite", "write it in lower case, like satellite.example.com"),
        (".satellite.example", "write it in lower case, like satellite.example.com"),
        ("m\u{fc}nchen.example", "xn--"),
    ] {
        let problem = problem(&[("CLERK_DOMAIN", bad)], "");
        assert!(problem.contains("CLERK_DOMAIN ([clerk] domain): ") && problem.contains(cure), "{bad}: {problem}");
    }
}

#[test]
fn an_origin_or_an_audience_that_never_matches_is_rejected() {
    for name in ["CLERK_AUTHORIZED_PARTIES", "CORS_ALLOWED_ORIGINS"] {
        let problem = problem(&[(name, "https://app.example.com, https://*.vercel.app")], "");
        assert!(
            problem.starts_with("the configuration has 1 problem") && problem.contains("development instance"),
            "{problem}"
        );
    }
    assert!(problem(&[("CLERK_AUDIENCE", "https://*.example.com")], "").contains("a wildcard, which never matches"));
    assert!(problem(&[("CLERK_PROXY_URL", "https://*.example.com/__clerk")], "").contains("a URL with a wildcard"));
}

#[test]
fn a_port_that_kubernetes_set_for_a_service_is_explained() {
    for name in ["SERVER_PORT", "ADMIN_PORT"] {
        let problem = problem(&[(name, "tcp://10.0.0.1:80")], "");
        assert!(problem.contains("Kubernetes") && problem.contains("enableServiceLinks: false"), "{problem}");
    }
}

#[test]
fn quotes_around_a_value_are_rejected_in_every_source() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "'sk_test_abc'\n").unwrap();
    let path = file.path().to_str().unwrap();
    for (name, value) in [
        ("CLERK_AUTHORIZED_PARTIES", "\"https://app.example.com\""),
        ("TOKEN_CLIENT_ID", "'{user_id}'"),
        ("CLERK_SECRET_KEY_FILE", path),
    ] {
        let problem = problem(&[(name, value)], "");
        assert!(problem.contains(name) && problem.contains("has quotes around the value"), "{problem}");
    }
}

#[test]
fn a_mistake_in_dot_env_is_reported_with_its_line_and_other_programs_lines_are_ignored() {
    let load = |dot_env: &str| {
        let mut sources = Sources::for_test(&REQUIRED, "");
        sources.dot_env = dot_env::parse(dot_env.as_bytes());
        Config::load(&sources).map(|(config, _)| config.only()).map_err(|problems| problems.to_string())
    };
    let foreign = "NEXT_PUBLIC_APP_NAME=My App\nnot an assignment\nOPEN=\"quote\nMESSAGE=it's \"fine\" # really\n";
    let config =
        load(&format!("\u{feff}{foreign}CLERK_AUTHORIZED_PARTIES=https://a.example, https://b.example")).unwrap();
    assert_eq!(config.clerk.authorized_parties, ["https://a.example", "https://b.example"]);
    for (line, expected) in [
        (
            "CLERK_DOMAIN=clerk.a.example",
            "CLERK_DOMAIN ([clerk] domain), from CLERK_DOMAIN (.env, line 5): a domain begins",
        ),
        ("HOST=my-laptop", "SERVER_HOST ([server] host), from HOST (.env, line 5): not an IP address"),
        ("TOKEN_TTL=\"5m", "TOKEN_TTL ([token] ttl): TOKEN_TTL (.env, line 5): the quote is not closed"),
        ("CLERK_AUDIENCE=\"a\", \"b\"", "CLERK_AUDIENCE (.env, line 5): text follows the closing quote"),
    ] {
        let problem = load(&format!("{}{line}", foreign.replace("OPEN=\"quote", "OPEN=quote"))).unwrap_err();
        assert!(problem.starts_with("the configuration has 1 problem") && problem.contains(expected), "{problem}");
    }
}

#[test]
fn every_problem_is_reported_at_once_with_its_variable_and_its_key() {
    let environment = [
        ("ABLY_API_KEY", "no-key-at-all"),
        ("CLERK_AUTHORIZED_PARTIES", "https://a.example.com/,https://b.example.com"),
        ("TOKEN_TTL", "25h"),
        ("REVOCATION_DENIAL_TTL", "1m"),
        ("ADMIN_TOKEN", "two words"),
        ("TOKEN_FORMAT", "json"),
    ];
    let sources = Sources::for_test(
        &environment,
        "[clerk]\nclock_skew_ms = -1\nclock_skew = 5\n[cors]\nallowed_origins = [\"*\"]\n[grant]\n",
    );
    let message = Config::load(&sources).unwrap_err().to_string();
    for expected in [
        "the configuration has 11 problems:",
        "ABLY_API_KEY ([ably] api_key): an Ably API key has the form appId.keyId:secret",
        "CLERK_PUBLISHABLE_KEY ([clerk] publishable_key): not set",
        "CLERK_AUTHORIZED_PARTIES ([clerk] authorized_parties): an origin has a path, a slash at the end, a query or a fragment",
        "TOKEN_TTL ([token] ttl): longer than the 24 hours",
        "TOKEN_FORMAT ([token] format): unknown value; use one of: token_request, jwt, token_details",
        "REVOCATION_DENIAL_TTL ([revocation] denial_ttl): under 2m",
        "ADMIN_TOKEN ([admin] token): has spaces",
        "CLERK_CLOCK_SKEW_MS ([clerk] clock_skew_ms): not a whole number of milliseconds",
        "[clerk] clock_skew in the TOML file: unknown setting",
        "CORS_ALLOWED_ORIGINS ([cors] allowed_origins): * is not an origin",
        "[grant] in the TOML file: unknown section",
    ] {
        assert!(message.contains(expected), "{expected}\nis not in\n{message}");
    }
    assert!(!message.contains("no-key-at-all"));
}

#[test]
fn revocable_tokens_lower_the_maximum_ttl() {
    assert!(load(&[("TOKEN_TTL", "2h")], "").is_ok());
    assert!(problem(&[("TOKEN_TTL", "2h"), ("ABLY_REVOCABLE_TOKENS", "true")], "").contains("revocable"));
    for ttl in ["0s", "500us", "-1m", "60"] {
        assert!(load(&[("TOKEN_TTL", ttl)], "").is_err(), "{ttl}");
    }
}

#[test]
fn a_token_format_that_costs_a_call_is_warned_of() {
    for (format, warned) in [("token_request", false), ("jwt", false), ("token_details", true)] {
        let warnings = load(&[("TOKEN_FORMAT", format)], "").unwrap().warnings();
        assert_eq!(warnings.iter().any(|warning| warning.contains("costs a call to Ably")), warned, "{format}");
    }
}

#[test]
fn keys_of_two_kinds_of_instance_are_rejected() {
    assert!(load(&[("CLERK_SECRET_KEY", "sk_test_abc")], "").is_ok());
    assert!(problem(&[("CLERK_SECRET_KEY", "sk_live_abc")], "").contains("another kind of instance"));
}

#[test]
fn the_key_source_is_the_pem_then_the_backend_api_then_the_frontend_api() {
    let source = |environment: &[(&str, &str)]| load(environment, "").unwrap().only().clerk.key_source();
    let vectors: Value = serde_json::from_str(include_str!("../../tests/vectors/clerk_session.json")).unwrap();
    let pem = vectors["jwt_key"].as_str().unwrap().replace('\n', "\\n");
    let secret_key = ("CLERK_SECRET_KEY", "sk_test_abc");
    assert_eq!(source(&[("CLERK_JWT_KEY", &pem), secret_key]), KeySource::Pem);
    assert_eq!(source(&[secret_key]), KeySource::BackendApi("https://api.clerk.com/v1/jwks".parse().unwrap()));
    let frontend = |url: &str| KeySource::FrontendApi(url.parse().unwrap());
    assert_eq!(source(&[]), frontend("https://clerk.example.com/.well-known/jwks.json"));
    let proxy = ("CLERK_PROXY_URL", "https://app.example.com/__clerk/");
    assert_eq!(source(&[proxy]), frontend("https://app.example.com/__clerk/.well-known/jwks.json"));
    assert_eq!(
        load(&[proxy], "").unwrap().only().clerk.issuers(),
        ["https://clerk.example.com", "https://app.example.com/__clerk"]
    );
}

#[test]
fn the_cors_origins_are_the_authorized_parties_unless_they_are_named() {
    let parties = ("CLERK_AUTHORIZED_PARTIES", "https://a.example.com, https://b.example.com");
    assert_eq!(
        load(&[parties], "").unwrap().only().allowed_origins,
        ["https://a.example.com", "https://b.example.com"]
    );
    let toml = "[cors]\nallowed_origins = [\"http://localhost:3000\"]";
    assert_eq!(load(&[parties], toml).unwrap().only().allowed_origins, ["http://localhost:3000"]);
}

#[test]
fn no_secret_is_printed() {
    let config = load(&[("CLERK_SECRET_KEY", "sk_test_verysecret")], "").unwrap();
    let printed = format!("{config:?}");
    assert!(!printed.contains("verysecret") && !printed.contains("secretsecret"), "{printed}");
}

fn broken(toml: &str) -> String {
    problem(&[], toml).replace(Sources::DEFAULT_PATH, "FILE")
}

#[test]
fn a_policy_is_read_whole() {
    let toml = r#"
        [token]
        require = { impersonated = false }

        [[grants]]
        name = "own channels"
        capability = { "private:{user_id}:*" = ["*"], "chat:*" = ["subscribe", "publish"] }

        [[grants]]
        name = "admins"
        when = { role = ["org:admin", "owner"], plan = "pro", not = { feature = "u:beta" }, claim.metadata.tier = "gold" }
        capability = { "org:{org_id}:*" = ["*"] }
        ttl = "10m"

        [[grants]]
        name = "the rest"
        [grants.when]
        any = [
            { permission = "rooms:read" },
            { all = [{ organization = ["acme", "org_1"] }, { claim = { "a.b" = ["x", 5, true] } }] },
            { reverified = { level = "multi_factor", within = "1h" } },
        ]
        [grants.capability]
        "[meta]log" = ["subscribe"]
    "#;
    let config = load(&[], toml).unwrap().only();
    let rules: Vec<_> = config.policy.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(rules, ["own channels", "admins", "the rest"]);
    assert!(config.policy.require.is_some());
    assert_eq!(config.policy.rules[1].ttl.unwrap().as_millis(), 600_000);
    let Some(crate::policy::Condition::All(parts)) = &config.policy.rules[1].when else { panic!("several conditions") };
    let parts: Vec<_> = parts.iter().map(ToString::to_string).collect();
    assert_eq!(parts, ["claim metadata.tier is or has \"gold\"", "not", "plan pro", "role is org:admin or org:owner"]);
}

#[test]
fn every_problem_of_a_policy_is_reported_with_its_position() {
    let toml = r#"[token]
require = { impersonated = "no" }

[[grants]]
name = "a"
when = { roles = "admin", plan = [], feature = "team:x", claim = {}, any = [], not = {}, organization = "" }
capability = { "chat*" = ["subscribe"], "a::b" = ["publish"], "{username}:x" = ["*"], "c:{email}" = ["*"], "d" = ["*", "publish"], "e" = [], "f" = ["fly"], "g" = "*" }

[[grants]]
name = "a"
when = { all = [{ impersonated = true }, { impersonated = false }] }
capability = {}
ttl = "25h"
priority = 1

[[grants]]
when = { reverified = { level = "third", within = "30s" } }
publish_rate = { "chat:*" = 0 }
channel_claims = { "chat:*" = "x" }

[[grants]]
name = "né"
when = { claim = { "tier" = 1.5, "when" = 1979-05-27, "é" = "x" }, reverified = { within = "10m" }, role = 5 }
capability = { "a" = ["*"] }

[[grants]]
name = "never"
when = { any = [{ permission = ["read", "org:sys_memberships:read"] }, { claim = { "a..b" = 1, ".a" = 1, c."" = 1 } }] }
capability = { "*:{username}" = ["*"] }
"#;
    insta::assert_snapshot!(broken(toml), @r##"
    the configuration has 37 problems:
      - FILE, line 2, column 28: [token] require: expected true or false; found a string
      - FILE, line 6, column 10: [[grants]] "a": unknown condition "roles"; use one of: role, permission, plan, feature, organization, claim, reverified, impersonated, agent, any, all, not
      - FILE, line 6, column 34: [[grants]] "a": an empty list; write at least one value
      - FILE, line 6, column 48: [[grants]] "a": "team" is not a scope: write o: or org: for the organization, u: or user: for the user, or no prefix
      - FILE, line 6, column 66: [[grants]] "a": claim is empty; write for example claim = { "metadata.tier" = "pro" }
      - FILE, line 6, column 76: [[grants]] "a": an empty list; write a list of conditions
      - FILE, line 6, column 86: [[grants]] "a": an empty condition; leave it out if it always holds
      - FILE, line 6, column 105: [[grants]] "a": a name is empty
      - FILE, line 7, column 16: [[grants]] "a": the resource "chat*": Ably takes "chat*" for a literal name, not a pattern: * stands for a whole segment, as in "chat:*"
      - FILE, line 7, column 41: [[grants]] "a": the resource "a::b": an empty segment: channel names cannot have one; write a name between two colons
      - FILE, line 7, column 63: [[grants]] "a": the resource "{username}:x": {username} needs a literal segment before it, or {user_id}, {session_id} or {org_id}: a user or an organization chooses its value, which could be the name of any namespace or channel
      - FILE, line 7, column 87: [[grants]] "a": the resource "c:{email}": {email} is unknown: use {user_id}, {username}, {session_id}, {org_id}, {org_slug}, {org_role} or {claim.PATH}
      - FILE, line 7, column 114: [[grants]] "a": "*" stands beside other operations
      - FILE, line 7, column 138: [[grants]] "a": an empty list; write a list of operations, like ["subscribe"]
      - FILE, line 7, column 148: [[grants]] "a": "fly" is not an operation of Ably's
      - FILE, line 7, column 163: [[grants]] "a": expected a list of operations, like ["subscribe"]; found a string
      - FILE, line 10, column 8: [[grants]] "a": another table has this name; write another
      - FILE, line 11, column 8: [[grants]] "a": when contradicts itself, so the rule never matches; correct it
      - FILE, line 12, column 14: [[grants]] "a": an empty table; write a resource, like "chat:*"
      - FILE, line 13, column 7: [[grants]] "a": ttl: longer than the 24 hours that Ably allows; use 24h or less
      - FILE, line 14, column 1: [[grants]] "a": unknown key "priority"; use one of: name, when, capability, ttl, channel_claims, publish_rate
      - FILE, line 16, column 1: [[grants]] number 3: name is missing; add it
      - FILE, line 16, column 1: [[grants]] number 3: capability is missing; add it
      - FILE, line 17, column 33: [[grants]] number 3: "third" is not a level: use first_factor, second_factor or multi_factor
      - FILE, line 18, column 1: [[grants]] number 3: publish_rate: only JWTs can carry it; set [token] format to jwt, or remove it
      - FILE, line 18, column 29: [[grants]] number 3: not a number of messages a second above zero; write for example 5
      - FILE, line 19, column 1: [[grants]] number 3: channel_claims: only JWTs can carry it; set [token] format to jwt, or remove it
      - FILE, line 23, column 29: [[grants]] "né": expected a string, a whole number, true or false to compare the claim with; found a fraction
      - FILE, line 23, column 43: [[grants]] "né": expected a string, a whole number, true or false to compare the claim with; found a date
      - FILE, line 23, column 81: [[grants]] "né": level is missing; add it
      - FILE, line 23, column 108: [[grants]] "né": expected a name or a list of names; found a number
      - FILE, line 28, column 33: [[grants]] "never": "read" is not a permission: write the feature before it, as in org:rooms:read
      - FILE, line 28, column 41: [[grants]] "never": "org:sys_memberships:read" is a system permission, and Clerk leaves those out of session tokens; use a role instead
      - FILE, line 28, column 84: [[grants]] "never": the claim "a..b" has an empty name; remove the extra dot
      - FILE, line 28, column 96: [[grants]] "never": the claim ".a" has an empty name; remove the extra dot
      - FILE, line 28, column 108: [[grants]] "never": the claim "" has an empty name; remove the extra dot
      - FILE, line 29, column 16: [[grants]] "never": the resource "*:{username}": {username} needs a literal segment before it, or {user_id}, {session_id} or {org_id}: a user or an organization chooses its value, which could be the name of any namespace or channel
    "##);
}

#[test]
fn what_only_a_jwt_can_carry_needs_that_format() {
    let toml = r#"
        [[grants]]
        name = "a"
        capability = { "chat:*" = ["publish"] }
        channel_claims = { "chat:{org_id}" = "member" }
        publish_rate = { "chat:*" = 5, "chat:a" = 0.5 }
    "#;
    for format in ["token_request", "token_details"] {
        assert!(problem(&[("TOKEN_FORMAT", format)], toml).contains("only JWTs can carry it"), "{format}");
    }
    let config = load(&[("TOKEN_FORMAT", "jwt")], toml).unwrap().only();
    let rule = &config.policy.rules[0];
    assert_eq!((rule.channel_claims.len(), rule.publish_rate.len()), (1, 2));
}

#[test]
fn a_rule_that_contradicts_the_requirement_never_matches() {
    let toml = "[token]\nrequire = { impersonated = false }\n[[grants]]\nname = \"a\"\nwhen = { impersonated = true }\n\
                capability = { a = [\"*\"] }";
    assert!(broken(toml).contains("FILE, line 5, column 8: [[grants]] \"a\": when contradicts [token] require"));
    let toml = "[token]\nrequire = { all = [{ role = \"a\" }, { role = \"b\" }] }";
    assert!(broken(toml).contains("FILE, line 2, column 11: [token] require: contradicts itself"));
}

#[test]
fn the_keys_own_capability_is_confirmed_or_warned_of_and_excludes_rules() {
    let warned = |config: Config| config.warnings().iter().any(|warning| warning.starts_with("no policy"));
    let rule = "[[grants]]\nname = \"a\"\ncapability = { a = [\"*\"] }\n";
    assert!(warned(load(&[], "").unwrap()));
    assert!(!warned(load(&[], "[token]\ncapability = \"key\"").unwrap()));
    assert!(!warned(load(&[("TOKEN_CAPABILITY", "key")], "").unwrap()));
    assert!(!warned(load(&[], rule).unwrap()));
    assert!(
        problem(&[("TOKEN_CAPABILITY", "key")], rule)
            .contains("TOKEN_CAPABILITY ([token] capability): gives every token")
    );
    assert!(problem(&[("TOKEN_CAPABILITY", "all")], "").contains("unknown value; use one of: key"));
    assert!(
        problem(&[("TOKEN_REQUIRE", "{}")], "").contains("TOKEN_REQUIRE ([token] require): a variable cannot hold it")
    );
    assert!(broken("grants = []").contains("line 1, column 10: [[grants]]: an empty list"));
    assert!(
        broken("[grants]\nname = \"a\"").contains("[[grants]]: expected tables, each below [[grants]]; found a table")
    );
    assert!(
        broken("[[grants]]\nname = \"a\"\nttl = \"2h\"\n[ably]\nrevocable_tokens = true")
            .contains("ttl: longer than the hour")
    );
}

/// The blocks of TOML in a document.
fn toml_blocks(document: &str) -> Vec<&str> {
    document.split("```toml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect()
}

#[test]
fn every_example_in_the_documentation_of_policies_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/policy.md");
    let document = fs::read_to_string(path).unwrap();
    let blocks = toml_blocks(&document);
    assert!(blocks.len() > 10);
    for block in blocks {
        let config = load(&[], block).unwrap_or_else(|problems| panic!("{problems}\n{block}"));
        assert!(config.warnings().iter().all(|warning| !warning.starts_with("no policy")), "{block}");
    }
}

/// The capability that an example in the documentation of policies, known by its heading, grants to these claims.
fn granted_by_example(heading: &str, claims: &Value) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/policy.md");
    let document = fs::read_to_string(path).unwrap();
    let (_, example) = document.split_once(heading).unwrap();
    let policy = load(&[], toml_blocks(example)[0]).unwrap().only().policy;
    let claims = claims.as_object().unwrap().clone();
    let (since, until) = (UnixMillis(0), UnixMillis(60_000));
    let session = Session::from_claims("user_1".into(), "sess_1".into(), since, until, claims.into()).ok().unwrap();
    policy.decide(&session, &TokenParams::default()).outcome.unwrap().capability.unwrap().to_string()
}

#[test]
fn in_the_documentation_payments_need_a_recent_second_factor() {
    for (fva, may_pay) in [
        (json!([1, 1]), true),
        (json!([60, 9]), true),
        (json!([1, 10]), false),
        (json!([1, -1]), false),
        (json!([-1, 1]), false),
        (json!([-1, -1]), false),
        (json!(null), false),
    ] {
        let capability = granted_by_example("### 6. Payments only after a second factor", &json!({ "fva": fva }));
        assert_eq!(capability.contains("payments:user_1"), may_pay, "{fva}");
    }
}

/// `[meta]occupancy` is an event of the channel itself, for which Ably asks for `channel-metadata` there.
#[test]
fn in_the_documentation_dispatchers_see_how_many_follow_their_fleet() {
    let organization = json!({ "id": "org_1", "rol": "dispatcher" });
    let granted = granted_by_example("### 10. Deliveries", &json!({ "v": 2, "o": organization }));
    assert_eq!(granted, r#"{"fleet:org_1:*":["channel-metadata","history","presence","subscribe"]}"#);
}

#[test]
fn in_the_documentation_only_editors_of_documents_write_and_enter() {
    let granted = |bits| {
        let organization = json!({ "id": "org_1", "per": "read,write", "fpm": bits });
        granted_by_example("### 7. Documents edited together", &json!({ "v": 2, "fea": "o:docs", "o": organization }))
    };
    assert_eq!(granted("1"), r#"{"docs:org_1:*":["object-subscribe","subscribe"]}"#);
    let all = r#"{"docs:org_1:*":["object-publish","object-subscribe","presence","publish","subscribe"]}"#;
    assert_eq!(granted("2"), all);
}

#[test]
fn the_example_in_the_documentation_of_tenants_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tenants.md");
    let document = fs::read_to_string(path).unwrap();
    let [example] = toml_blocks(&document)[..] else { panic!("one example") };
    let keys = [
        ("TENANTS_SHOP_ABLY_API_KEY", "shop.key:secret"),
        ("TENANTS_SHOP_CLERK_SECRET_KEY", "sk_live_x"),
        ("TENANTS_BACK_OFFICE_ABLY_API_KEY", "staff.key:secret"),
    ];
    let (config, _) = Config::load(&Sources::for_test(&keys, example)).unwrap_or_else(|problems| panic!("{problems}"));
    let hosts: Vec<_> = config.tenants.iter().map(|tenant| tenant.clerk.publishable_key.frontend_api_host()).collect();
    assert_eq!(hosts, ["clerk.shop.example.com", "clerk.staff.example.com"]);
}

const TWO_TENANTS: &str = r#"
[[tenants]]
name = "acme"
[tenants.ably]
api_key = "acme.key:secret"
[tenants.clerk]
publishable_key = "pk_test_Y2xlcmsuZXhhbXBsZS5jb20k"
[tenants.token]
require = { role = "admin" }

[[tenants]]
name = "beta-2"
clerk.publishable_key = "pk_test_Y2xlcmsub3RoZXIuY29tJA"
clerk.authorized_parties = ["https://beta.example"]
token.format = "jwt"
[[tenants.grants]]
name = "all"
capability = { "chat" = ["*"] }
"#;

const BETAS_KEY: (&str, &str) = ("TENANTS_BETA_2_ABLY_API_KEY", "beta.key:secret");

fn tenants_problem(environment: &[(&str, &str)], toml: &str) -> String {
    Config::load(&Sources::for_test(environment, toml)).expect_err("a problem").to_string()
}

#[test]
fn each_tenant_has_sections_of_its_own_in_the_file_and_in_variables() {
    let sources = Sources::for_test(&[BETAS_KEY, ("TENANTS_ACME_TOKEN_TTL", "5m"), ("SERVER_PORT", "1")], TWO_TENANTS);
    let (config, provenance) = Config::load(&sources).unwrap();
    let [acme, beta] = &config.tenants[..] else { panic!("two tenants") };
    assert_eq!([acme.name().as_str(), beta.name().as_str()], ["acme", "beta-2"]);
    assert_eq!(acme.ably.api_key.name().as_str(), "acme.key");
    assert_eq!(beta.ably.api_key.name().as_str(), "beta.key");
    assert_eq!((acme.token.format, beta.token.format), (TokenFormat::TokenRequest, TokenFormat::Jwt));
    assert_eq!((acme.token.ttl.map(crate::ably::Ttl::as_millis), beta.token.ttl), (Some(300_000), None));
    assert!(acme.policy.require.is_some() && !acme.policy.has_rules());
    assert!(beta.policy.require.is_none() && beta.policy.has_rules());
    assert_eq!(beta.allowed_origins, ["https://beta.example"]);
    assert_eq!(config.server.address.port(), 1);
    assert_eq!(provenance["TENANTS_BETA_2_ABLY_API_KEY"], "TENANTS_BETA_2_ABLY_API_KEY");
    assert!(!provenance.contains_key("TENANTS_ACME_TOKEN_FORMAT"), "a default does not count as set");
    assert!(config.warnings().iter().any(|warning| warning.starts_with("tenant acme: no authorized parties")));
    assert!(config.warnings().iter().any(|warning| warning.contains("TENANTS_BETA_2_CLERK_SECRET_KEY")));
}

#[test]
fn two_api_keys_of_one_app_are_listed_in_a_variable_or_in_the_file() {
    let names = |sources: &Sources| -> Vec<Vec<String>> {
        let (config, _) = Config::load(sources).unwrap_or_else(|problems| panic!("{problems}"));
        config.tenants.iter().map(|tenant| tenant.ably.api_keys().map(|key| key.name().to_string()).collect()).collect()
    };
    let clerk = "[clerk]\npublishable_key = \"pk_test_Y2xlcmsuZXhhbXBsZS5jb20k\"\n";
    let in_file = |keys: &str| Sources::for_test(&[], &format!("{clerk}[ably]\napi_key = {keys}"));
    let both = [vec!["app.new".to_owned(), "app.old".to_owned()]];
    for sources in [
        Sources::for_test(&[("ABLY_API_KEY", "app.new:secret, app.old:other,")], clerk),
        Sources::for_test(&[("NEXT_ABLY_API_KEY", "app.new:secret,app.old:other")], clerk),
        in_file("[\"app.new:secret\", \"app.old:other\"]"),
        in_file("\"app.new:secret,app.old:other\""),
    ] {
        assert_eq!(names(&sources), both);
    }
    assert_eq!(names(&in_file("[\"app.new:secret\"]")), [vec!["app.new".to_owned()]]);
    for (revocable, is_warned_of) in [("true", false), ("false", true)] {
        let environment = [("ABLY_API_KEY", "app.new:secret,app.old:other"), ("ABLY_REVOCABLE_TOKENS", revocable)];
        let config = load(&environment, "").unwrap();
        let warnings = config.warnings();
        assert_eq!(warnings.iter().any(|warning| warning.starts_with("two API keys without")), is_warned_of);
    }
    let keys = ("TENANTS_BETA_2_ABLY_API_KEY", "beta.new:secret,beta.old:secret");
    assert_eq!(names(&Sources::for_test(&[keys], TWO_TENANTS)), [vec!["acme.key"], vec!["beta.new", "beta.old"]]);
}

#[test]
fn api_keys_that_cannot_replace_one_another_are_rejected_without_their_secrets() {
    for (keys, expected) in [
        (",", "a list without a single entry"),
        ("app.new:hush,app.new:hush", "the same key twice; list the new key, then the key that it replaces"),
        ("app.new:hush,app.new:other", "the same key twice"),
        ("app.new:hush,other.old:hush", "keys of two Ably apps; list two keys of the same app"),
        ("app.new:hush,app.old:hush,app.older:hush", "more than two keys; list the new key, then the key that it"),
        ("app.new:hush,app.old", "an Ably API key has the form appId.keyId:secret, but the colon is missing"),
    ] {
        let problem = problem(&[("ABLY_API_KEY", keys)], "");
        assert!(problem.starts_with("the configuration has 1 problem"), "{problem}");
        assert!(problem.contains(&format!("ABLY_API_KEY ([ably] api_key): {expected}")), "{problem}");
        assert!(!problem.contains("hush"), "{problem}");
    }
    let none =
        tenants_problem(&[("CLERK_PUBLISHABLE_KEY", "pk_test_Y2xlcmsuZXhhbXBsZS5jb20k")], "[ably]\napi_key = []");
    assert!(none.contains("ABLY_API_KEY ([ably] api_key): not set; copy the API key"), "{none}");
}

#[test]
fn tenants_that_could_be_confused_are_rejected() {
    let problem = tenants_problem(&[("TENANTS_BETA_2_ABLY_API_KEY", "acme.other:secret")], TWO_TENANTS);
    insta::assert_snapshot!(problem, @"
    the configuration has 1 problem:
      - TENANTS_BETA_2_ABLY_API_KEY ([tenants.ably] api_key): tenant acme has a key of the same Ably app, where both tenants' client IDs would mix; create an Ably app for each
    ");
    let same_instance = TWO_TENANTS.replace("pk_test_Y2xlcmsub3RoZXIuY29tJA", "pk_test_Y2xlcmsuZXhhbXBsZS5jb20k");
    insta::assert_snapshot!(tenants_problem(&[BETAS_KEY], &same_instance), @"
    the configuration has 1 problem:
      - TENANTS_BETA_2_CLERK_PUBLISHABLE_KEY ([tenants.clerk] publishable_key): tenant acme has the same issuer, so a session token could be for either; use a Clerk instance for each
    ");
    let behind_a_proxy =
        TWO_TENANTS.replace("[tenants.clerk]\n", "[tenants.clerk]\nproxy_url = \"https://clerk.other.com\"\n");
    assert!(tenants_problem(&[BETAS_KEY], &behind_a_proxy).contains("tenant acme has the same issuer"));
}

#[test]
fn every_problem_of_tenants_is_reported_with_the_tenants_name() {
    let toml = r#"
grants = []
[token]
ttl = "5m"
[[tenants]]
name = "acme"
server = { port = 1 }
extra = 1
ably.key = "x"
clerk.webhook_signing_secret = "whsec_x"
token = { ttl = "5", require = { role = [] } }
[[tenants.grants]]
name = "all"
capability = {}
[[tenants]]
name = "Beta"
[[tenants]]
ably.api_key = "acme.key:secret"
[[tenants]]
name = "acme"
"#;
    insta::assert_snapshot!(tenants_problem(&[("CLERK_SECRET_KEY", "sk_test_x"), ("TENANTS_ACME_TOKEN_REQUIRE", "x")], toml), @r#"
    the configuration has 17 problems:
      - tenant acme: [ably] key in the TOML file: unknown setting; use one of: api_key, rest_url, revocable_tokens
      - tenant acme: [extra] in the TOML file: unknown section; use one of: ably, clerk, token, cors, name, grants
      - tenant acme: [server] in the TOML file: unknown section; use one of: ably, clerk, token, cors, name, grants
      - TENANTS_ACME_TOKEN_REQUIRE ([tenants.token] require): a variable cannot hold it; write it in the TOML file
      - TENANTS_ACME_TOKEN_REQUIRE ([tenants.token] require): a variable cannot hold it; write it in the TOML file
      - CLERK_SECRET_KEY ([clerk] secret_key): each of the [[tenants]] has its own; set the variable of one of them
      - [token] in the TOML file: each of the [[tenants]] has its own; write [tenants.token] below one of them
      - [[grants]]: each of the [[tenants]] has its own; write [[tenants.grants]] below one of them
      - [[tenants]] number 2: a tenant's name is 1 to 40 of a-z, 0-9 and -, with a letter or a digit at both ends
      - [[tenants]] number 3: the name is missing; logs, variables and metrics need one
      - [[tenants]] number 4: another tenant has this name; use another
      - TENANTS_ACME_ABLY_API_KEY ([tenants.ably] api_key): not set; copy the API key from your app's page in Ably's dashboard: appId.keyId:secret
      - TENANTS_ACME_CLERK_PUBLISHABLE_KEY ([tenants.clerk] publishable_key): not set; copy it from API keys in Clerk's dashboard: pk_test_… or pk_live_…
      - TENANTS_ACME_CLERK_WEBHOOK_SIGNING_SECRET ([tenants.clerk] webhook_signing_secret): a signing secret is whsec_ and base64; copy it from the endpoint's page in Clerk's dashboard
      - TENANTS_ACME_TOKEN_TTL ([tenants.token] ttl): not a duration; write a number with a unit, like 30m
      - ably-clerk-auth.toml, line 11, column 41: tenant acme: [token] require: an empty list; write at least one value
      - ably-clerk-auth.toml, line 14, column 14: tenant acme: [[grants]] "all": an empty table; write a resource, like "chat:*"
    "#);
    for (section, setting) in [("token", "require = { role = \"admin\" }"), ("cors", "allowed_origins = []")] {
        let problem = tenants_problem(&[BETAS_KEY], &format!("[{section}]\n{setting}\n{TWO_TENANTS}"));
        assert!(problem.contains(&format!("[{section}] in the TOML file: each of the [[tenants]]")), "{problem}");
    }
    for variable in ["TENANTS_BETA_CLERK_AUDIENCE", "TENANTS_ACME_CLERK_AUDIENCES", "TENANTS_ACME_TOKEN_TTL_FILES"] {
        let problem = tenants_problem(&[BETAS_KEY, (variable, "x")], TWO_TENANTS);
        assert!(problem.contains(&format!("{variable}: unknown variable of a tenant")), "{problem}");
    }
    // As a cluster gives every container that has a service called tenants-acme beside it.
    let others = [BETAS_KEY, ("TENANTS_ACME_SERVICE_HOST", "10.0.0.1"), ("TENANTS_ACME_PORT", "tcp://10.0.0.1:80")];
    assert!(Config::load(&Sources::for_test(&others, TWO_TENANTS)).is_ok());
    for tenants in ["tenants = []", "tenants = 5", "[tenants]\nname = \"acme\"", "tenants = [5]"] {
        let problem = tenants_problem(&[], tenants);
        assert!(problem.contains("tenants: not a list of tables; write [[tenants]] above each"), "{problem}");
    }
}

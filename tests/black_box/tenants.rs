//! Two tenants in one service: a Clerk instance and an Ably app each, and nothing of one for the other. The two instances
//! name their signing keys alike, and have a user of the same id.

use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use sandbox::clerk::{self, Outage};
use serde_json::{Value, json};

use crate::{
    limits::in_flight,
    service::{Service, Vendors, json, refusal, request_id, run_with_file},
};

const ACME_ORIGIN: &str = "https://app.acme.example";
const BETA_ORIGIN: &str = "https://app.beta.example";

pub(crate) struct Tenants {
    pub(crate) acme: Vendors,
    pub(crate) beta: Vendors,
}

async fn vendors(frontend_api: &str, origin: &str) -> Vendors {
    Vendors::start_with(clerk::Options {
        frontend_api: frontend_api.into(),
        kid: "ins_same".into(),
        authorized_party: origin.into(),
        ..clerk::Options::default()
    })
    .await
}

impl Tenants {
    pub(crate) async fn start() -> Self {
        let acme = vendors("clerk.acme.example", ACME_ORIGIN).await;
        let beta = vendors("clerk.beta.example", BETA_ORIGIN).await;
        let mut namesake =
            beta.clerk.users().into_iter().find(|user| user.username.as_deref() == Some("alice")).unwrap();
        beta.clerk.delete_user(&namesake.id);
        namesake.id = acme.user("alice");
        namesake.username = Some("alice-of-beta".into());
        beta.clerk.set_user(namesake);
        Self { acme, beta }
    }

    /// Keys stand in variables, all else in the file.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        [
            ("TENANTS_ACME_ABLY_API_KEY", self.acme.ably.api_key()),
            ("TENANTS_ACME_CLERK_SECRET_KEY", self.acme.clerk.secret_key()),
            ("TENANTS_BETA_2_ABLY_API_KEY", self.beta.ably.api_key()),
            ("TENANTS_BETA_2_CLERK_SECRET_KEY", self.beta.clerk.secret_key()),
            ("SERVER_PORT", "0"),
            ("ADMIN_PORT", "0"),
            ("LOG_FORMAT", "json"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    pub(crate) fn toml(&self, acme_channel: &str, beta_channel: &str) -> String {
        let table = |name: &str, vendors: &Vendors, origin: &str, channel: &str| {
            let (ably, clerk) = (vendors.ably.url(), vendors.clerk.url());
            let key = vendors.clerk.publishable_key();
            format!(
                "[[tenants]]\nname = \"{name}\"\n\
                 [tenants.ably]\nrest_url = \"{ably}\"\n\
                 [tenants.clerk]\npublishable_key = \"{key}\"\napi_url = \"{clerk}\"\nauthorized_parties = [\"{origin}\"]\n\
                 [[tenants.grants]]\nname = \"rule\"\ncapability = {{ \"{channel}\" = [\"subscribe\"] }}\n"
            )
        };
        table("acme", &self.acme, ACME_ORIGIN, acme_channel) + &table("beta-2", &self.beta, BETA_ORIGIN, beta_channel)
    }

    fn service_that_may_not_be_ready(&self) -> Service {
        self.service_that_may_not_be_ready_with(&[])
    }

    fn service_that_may_not_be_ready_with(&self, more: &[(&str, &str)]) -> Service {
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings: Vec<_> = self.settings().into_iter().chain(more).collect();
        Service::start(&settings, &self.toml("of-acme", "of-beta"))
    }

    async fn service(&self) -> Service {
        self.service_with(&[]).await
    }

    pub(crate) async fn service_with(&self, more: &[(&str, &str)]) -> Service {
        let service = self.service_that_may_not_be_ready_with(more);
        // The service is ready with the first tenant that is.
        for _ in 0..3000 {
            if service.get("/readyz").send().await.unwrap().json::<Value>().await.unwrap()["status"] == "ready" {
                return service;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not ready: {:?}", service.log());
    }

    pub(crate) fn beta_token(&self) -> String {
        self.beta.clerk.session_token(&self.acme.user("alice"))
    }
}

async fn reason(service: &Service, response: Response) -> ((u16, u64), Value) {
    let id = request_id(&response);
    (refusal(response).await, service.logged_of(&id).await["reason"].take())
}

/// The cookies of a session as the instance sets them, under their suffixed names.
fn suffixed(vendors: &Vendors, token: &str) -> String {
    let suffix = vendors.clerk.cookie_suffix();
    format!("__session_{suffix}={token}; __client_uat_{suffix}=1; __clerk_db_jwt_{suffix}=d")
}

#[tokio::test]
async fn a_session_token_chooses_its_tenant_by_its_issuer() {
    let tenants = Tenants::start().await;
    let service = tenants.service().await;
    for (vendors, token, tenant, client_id, channel) in [
        (&tenants.acme, tenants.acme.token("alice"), "acme", "alice", "of-acme"),
        (&tenants.beta, tenants.beta_token(), "beta-2", "alice-of-beta", "of-beta"),
        (&tenants.acme, tenants.acme.token("alice"), "acme", "alice", "of-acme"),
    ] {
        let response = service.token(&token).await;
        let id = request_id(&response);
        let token_request = json(response, 200).await;
        assert_eq!(token_request["keyName"], vendors.ably.key_name());
        assert_eq!(token_request["clientId"], client_id);
        assert_eq!(token_request["capability"], format!(r#"{{"{channel}":["subscribe"]}}"#));
        let logged = service.logged_of(&id).await;
        assert_eq!((&logged["tenant"], &logged["key_name"]), (&json!(tenant), &json!(vendors.ably.key_name())));
    }
}

#[tokio::test]
async fn a_token_of_one_tenant_yields_nothing_of_another_even_with_the_same_kid_and_user() {
    let tenants = Tenants::start().await;
    let service = tenants.service().await;
    let user = tenants.acme.user("alice");
    for (signer, named) in [(&tenants.beta, &tenants.acme), (&tenants.acme, &tenants.beta)] {
        assert_eq!(signer.clerk.kid(), named.clerk.kid());
        let mut claims = signer.clerk.session_claims(&user);
        claims["iss"] = named.clerk.session_claims(&user)["iss"].clone();
        claims["azp"] = named.clerk.session_claims(&user)["azp"].clone();
        let forged = signer.clerk.mint(claims);
        let expected = ((401, 40101), json!("token-invalid-signature"));
        assert_eq!(reason(&service, service.token(&forged).await).await, expected);
        for holder in [signer, named] {
            let answer = reason(&service, service.token_by_cookies(&suffixed(holder, &forged)).await).await;
            assert_eq!(answer.0, (401, 40101), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn users_of_the_same_id_have_an_allowance_of_tokens_each() {
    let tenants = Tenants::start().await;
    let service = tenants.service_with(&[("LIMITS_TOKENS_PER_MINUTE", "1"), ("LIMITS_TOKENS_BURST", "1")]).await;
    for token in [tenants.acme.token("alice"), tenants.beta_token()] {
        json(service.token(&token).await, 200).await;
        assert_eq!(refusal(service.token(&token).await).await, (429, 42910));
    }
}

#[tokio::test]
async fn an_unknown_issuer_is_refused_and_nobodys_keys_are_asked_for() {
    let tenants = Tenants::start().await;
    let service = tenants.service().await;
    let asked = || [&tenants.acme, &tenants.beta].map(|vendors| vendors.clerk.calls().backend_jwks);
    let before = asked();
    for issuer in [json!("https://clerk.other.example"), json!("https://clerk.acme.example/"), json!(5), Value::Null] {
        let mut claims = tenants.acme.clerk.session_claims(&tenants.acme.user("alice"));
        claims["iss"] = issuer;
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": "ins_unknown" });
        let token = tenants.acme.clerk.mint_with_header(header, claims);
        let expected = ((401, 40101), json!("token-invalid-issuer"));
        assert_eq!(reason(&service, service.token(&token).await).await, expected);
        let cookies = suffixed(&tenants.acme, &token);
        assert_eq!(reason(&service, service.token_by_cookies(&cookies).await).await, expected);
    }
    for nonsense in ["nonsense", "a.b.c"] {
        let expected = ((401, 40101), json!("token-malformed"));
        assert_eq!(reason(&service, service.token(nonsense).await).await, expected);
    }
    assert_eq!(asked(), before);
}

#[tokio::test]
async fn each_tenant_judges_its_own_cookies_and_two_that_accept_are_none() {
    let tenants = Tenants::start().await;
    let service = tenants.service().await;
    let (acme, beta) = (tenants.acme.token("alice"), tenants.beta_token());
    let mut ended = tenants.beta.clerk.session_claims(&tenants.acme.user("alice"));
    for name in ["iat", "nbf", "exp"] {
        ended[name] = json!(ended[name].as_i64().unwrap() - 600);
    }
    let ended = tenants.beta.clerk.mint(ended);
    let plain = format!("__session={acme}; __client_uat=1; __clerk_db_jwt=d");
    let of_acme = suffixed(&tenants.acme, &acme);
    let of_beta = suffixed(&tenants.beta, &beta);
    for (cookies, vendors) in [
        (of_acme.clone(), &tenants.acme),
        (of_beta.clone(), &tenants.beta),
        (plain.clone(), &tenants.acme),
        (format!("{of_acme}; {}", suffixed(&tenants.beta, &ended)), &tenants.acme),
        // A key in the wrong place belongs to no tenant.
        (format!("{}; {of_beta}", suffixed(&tenants.acme, &beta)), &tenants.beta),
    ] {
        let token_request = json(service.token_by_cookies(&cookies).await, 200).await;
        assert_eq!(token_request["keyName"], vendors.ably.key_name(), "{cookies}");
    }
    for (cookies, why) in [
        (format!("{of_acme}; {of_beta}"), "tenant-ambiguous"),
        (format!("{plain}; {of_beta}"), "tenant-ambiguous"),
        (suffixed(&tenants.acme, &beta), "token-invalid-issuer"),
        (suffixed(&tenants.beta, &ended), "token-expired"),
        (plain.replace("__client_uat=1", "__client_uat=0"), "client-uat-signed-out"),
        ("other=1".to_owned(), "session-token-missing"),
    ] {
        let expected = ((401, 40101), json!(why));
        assert_eq!(reason(&service, service.token_by_cookies(&cookies).await).await, expected, "{cookies}");
    }
    // A session token in the header settles it.
    let request = service.get("/api/ably").header("Cookie", format!("{of_acme}; {of_beta}")).bearer_auth(&beta);
    let token_request = json(request.send().await.unwrap(), 200).await;
    assert_eq!(token_request["keyName"], tenants.beta.ably.key_name());
}

#[tokio::test]
async fn a_tenant_whose_keys_cannot_be_had_takes_no_other_with_it() {
    let tenants = Tenants::start().await;
    tenants.beta.clerk.set_outage(Some(Outage::Status(500)));
    let service = tenants.service_that_may_not_be_ready();
    service.wait_until_ready().await;
    let ready = json(service.get("/readyz").send().await.unwrap(), 200).await;
    assert_eq!(ready["status"], "degraded");
    assert_eq!(ready["signing_keys"]["status"], "missing");
    assert_eq!(ready["tenants"], json!({ "total": 2, "without_signing_keys": 1 }));

    json(service.token(&tenants.acme.token("alice")).await, 200).await;
    let of_acme = suffixed(&tenants.acme, &tenants.acme.token("alice"));
    let of_beta = suffixed(&tenants.beta, &tenants.beta_token());
    json(service.token_by_cookies(&of_acme).await, 200).await;
    assert_eq!(refusal(service.token(&tenants.beta_token()).await).await, (503, 50003));
    // Without its keys, the other tenant could accept too.
    assert_eq!(refusal(service.token_by_cookies(&format!("{of_acme}; {of_beta}")).await).await, (503, 50003));
}

fn allowed_origin(response: &Response) -> Option<String> {
    let header = response.headers().get("access-control-allow-origin")?;
    assert_eq!(response.headers()["access-control-allow-credentials"], "true");
    Some(header.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_preflight_is_for_pages_of_any_tenant_and_an_answer_for_those_of_its_own() {
    let tenants = Tenants::start().await;
    let service = tenants.service().await;
    for (origin, allowed) in [(ACME_ORIGIN, true), (BETA_ORIGIN, true), ("https://app.other.example", false)] {
        let preflight = service.request(Method::OPTIONS, "/api/ably").header("Origin", origin);
        let preflight = preflight.header("Access-Control-Request-Method", "GET").send().await.unwrap();
        assert_eq!(allowed_origin(&preflight).is_some(), allowed, "{origin}");
        assert_eq!(preflight.headers().contains_key("access-control-allow-methods"), allowed);
        let nobody = service.get("/api/ably").header("Origin", origin).send().await.unwrap();
        assert_eq!((nobody.status(), allowed_origin(&nobody).is_some()), (StatusCode::UNAUTHORIZED, allowed));
    }
    let own = [(tenants.acme.token("alice"), ACME_ORIGIN), (tenants.beta_token(), BETA_ORIGIN)];
    for (token, own_origin) in own {
        for origin in [ACME_ORIGIN, BETA_ORIGIN] {
            for (query, status) in [("", 200), ("clientId=somebody", 403)] {
                let request = service.get(&format!("/api/ably?{query}")).header("Origin", origin).bearer_auth(&token);
                let response = request.send().await.unwrap();
                assert_eq!(response.status(), status);
                let expected = (origin == own_origin).then(|| origin.to_owned());
                assert_eq!(allowed_origin(&response), expected);
                assert_eq!(response.headers()["vary"], "Origin");
            }
        }
    }
}

#[tokio::test]
async fn a_policy_is_reloaded_tenant_by_tenant_and_none_is_lost() {
    let tenants = Tenants::start().await;
    let service = tenants.service().await;
    let capabilities = async || {
        let acme = json(service.token(&tenants.acme.token("alice")).await, 200).await["capability"].take();
        let beta = json(service.token(&tenants.beta_token()).await, 200).await["capability"].take();
        [acme, beta].map(|capability| capability.as_str().unwrap().to_owned())
    };
    let capability = |channel: &str| format!(r#"{{"{channel}":["subscribe"]}}"#);
    service.replace_toml(&tenants.toml("of-acme", "new"));
    service.logged_where("message", "the policy is reloaded").await;
    service.logged_where("tenant", "beta-2").await;
    assert_eq!(capabilities().await, [capability("of-acme"), capability("new")]);

    // Beta's rules are gone, and acme's are new: nothing is taken.
    let toml = tenants.toml("other", "other");
    let (without_rules, _) = toml.rsplit_once("[[tenants.grants]]").unwrap();
    service.replace_toml(without_rules);
    let message = "the new configuration takes the policy away; the old one stays in force. Restart if that is meant";
    assert_eq!(service.logged(message).await["tenant"], "beta-2");
    assert_eq!(capabilities().await, [capability("of-acme"), capability("new")]);

    // A tenant that is new waits for a restart; the others' policies are taken.
    let gamma = "[[tenants]]\nname = \"gamma\"\nably.api_key = \"gamma.key:secret\"\n\
                 clerk.publishable_key = \"pk_test_Y2xlcmsuZ2FtbWEuZXhhbXBsZSQ\"\n";
    service.replace_toml(&(tenants.toml("other", "new") + gamma));
    assert_eq!(
        service.logged("changed settings of this section take effect with a restart").await["section"],
        "tenants"
    );
    for _ in 0..3000 {
        if capabilities().await == [capability("other"), capability("new")] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the policy is not taken: {:?}", service.log());
}

fn output(tenants: &Tenants, arguments: &[&str]) -> (String, Option<i32>) {
    let output = run_with_file(&tenants.settings(), &tenants.toml("of-acme", "of-beta"), arguments);
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (text, output.status.code())
}

#[tokio::test]
async fn the_commands_tell_tenants_apart() {
    let tenants = Tenants::start().await;
    let (report, code) = output(&tenants, &["check"]);
    assert_eq!(code, Some(0), "{report}");
    for line in [
        "tenant              acme",
        "Clerk instance      clerk.acme.example",
        "set, from TENANTS_ACME_CLERK_SECRET_KEY",
        "tenant              beta-2",
        "Clerk instance      clerk.beta.example",
        "from TENANTS_BETA_2_ABLY_API_KEY",
    ] {
        assert!(report.contains(line), "{line}: {report}");
    }

    let (report, code) = output(&tenants, &["explain", "--session-token", &tenants.beta_token()]);
    assert_eq!(code, Some(0), "{report}");
    assert!(report.contains("tenant         beta-2") && report.contains("of-beta"), "{report}");
    let mut claims = tenants.acme.clerk.session_claims(&tenants.acme.user("alice"));
    claims["iss"] = json!("https://clerk.other.example");
    let (report, code) = output(&tenants, &["explain", "--json", "--session-token", &tenants.acme.clerk.mint(claims)]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(
        (code, &report["tenant"], &report["refusal"]["reason"]),
        (Some(1), &Value::Null, &json!("token-invalid-issuer"))
    );

    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    for (claims, arguments, expected) in [
        (json!({}), &["--tenant", "beta-2"][..], Ok("of-beta")),
        (json!({ "iss": "https://clerk.acme.example" }), &[], Ok("of-acme")),
        (json!({}), &[], Err("add --tenant with one of: acme, beta-2")),
        (json!({}), &["--tenant", "gamma"], Err("unknown tenant; use one of: acme, beta-2")),
    ] {
        std::fs::write(path, claims.to_string()).unwrap();
        let (report, code) = output(&tenants, &[&["explain", "--claims", path], arguments].concat());
        assert_eq!(code, Some(i32::from(expected.is_err())), "{report}");
        assert!(report.contains(expected.unwrap_or_else(|message| message)), "{report}");
    }

    for (tenant, expected) in [
        ("tenant = \"beta-2\"\n", "1 passed, 0 failed"),
        ("tenant = \"acme\"\n", "0 passed, 1 failed"),
        ("", "tenant is missing; add one of: acme, beta-2"),
        ("tenant = \"gamma\"\n", "unknown tenant \"gamma\"; use one of: acme, beta-2"),
    ] {
        let case = "claims = {}\nexpect = { capability = { of-beta = [\"subscribe\"] } }\n";
        std::fs::write(path, format!("[[cases]]\nname = \"a\"\n{tenant}{case}")).unwrap();
        let (report, _) = output(&tenants, &["check", "--policy-tests", path]);
        assert!(report.contains(expected), "{tenant}: {report}");
    }
}

/// The first fetch of a tenant's keys is a wait that anyone can cause, too.
#[tokio::test]
async fn who_waits_for_the_keys_of_one_tenant_takes_no_place_of_another_tenants_user() {
    let tenants = Tenants::start().await;
    tenants.acme.clerk.set_outage(Some(Outage::Hang));
    let mut settings = tenants.settings();
    settings.push(("LIMITS_MAX_IN_FLIGHT".to_owned(), "4".to_owned()));
    let service = Service::start_with_admin(&settings, &tenants.toml("of-acme", "of-beta"));
    service.wait_until_ready().await;
    let token = tenants.acme.token("alice");
    let by_header = (0..2).map(|_| service.get("/api/ably").bearer_auth(&token));
    let by_cookies = (0..2).map(|_| service.get("/api/ably").header("Cookie", suffixed(&tenants.acme, &token)));
    for stranger in by_header.chain(by_cookies) {
        // Without keys Clerk is asked once a second at most: until then there is nothing to wait for.
        tokio::spawn(async move {
            while let Some(request) = stranger.try_clone() {
                let _ = request.send().await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    in_flight(&service, 4).await;
    json(service.token(&tenants.beta_token()).await, 200).await;
}

/// The allowed origins are those of the tenant whose cookie it is.
#[tokio::test]
async fn cookies_from_another_site_count_only_for_the_tenant_that_allows_the_pages_origin() {
    let tenants = Tenants::start().await;
    let service = tenants.service().await;
    let of_acme = suffixed(&tenants.acme, &tenants.acme.token("alice"));
    let of_beta = suffixed(&tenants.beta, &tenants.beta_token());
    let both = format!("{of_acme}; {of_beta}");
    let ask = async |cookies: &str, origin: Option<&str>, site: &str| {
        let request = service.get("/api/ably").header("Cookie", cookies).header("Sec-Fetch-Site", site);
        origin.into_iter().fold(request, |request, origin| request.header("Origin", origin)).send().await.unwrap()
    };
    for (cookies, origin, client_id) in [
        (&of_acme, ACME_ORIGIN, "alice"),
        (&of_beta, BETA_ORIGIN, "alice-of-beta"),
        // A page of one tenant says nothing of the other, so there is nothing to choose.
        (&both, ACME_ORIGIN, "alice"),
        (&both, BETA_ORIGIN, "alice-of-beta"),
    ] {
        let issued = json(ask(cookies, Some(origin), "cross-site").await, 200).await;
        assert_eq!(issued["clientId"], client_id, "{origin}");
    }
    for (cookies, origin) in [(&of_acme, Some(BETA_ORIGIN)), (&of_beta, Some(ACME_ORIGIN)), (&both, None)] {
        let refused = reason(&service, ask(cookies, origin, "same-site").await).await;
        assert_eq!(refused, ((401, 40101), json!("request-from-another-site")), "{origin:?}");
    }
    assert_eq!(json(ask(&of_acme, None, "same-origin").await, 200).await["clientId"], "alice");
    assert_eq!(reason(&service, ask(&both, None, "none").await).await.1, "tenant-ambiguous");
}

//! The Frontend API, as clerk-js and the server of an app ask it.

use reqwest::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, ORIGIN};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, Url};
use sandbox::clerk::{Clerk, Options};
use serde_json::{Value, json};

use super::{FORM, claims, client, get, post, start};

const APP: &str = "http://localhost:5173";

/// A page of the app, with its own dev browser.
struct Page<'a> {
    clerk: &'a Clerk,
    dev_browser: String,
}

impl<'a> Page<'a> {
    async fn open(clerk: &'a Clerk) -> Self {
        let made = post(clerk, "/__clerk/v1/dev_browser", json!({})).await;
        let made: Value = made.json().await.unwrap();
        Self { clerk, dev_browser: made["id"].as_str().unwrap().to_owned() }
    }

    async fn send(&self, method: Method, path: &str, form: &str) -> Response {
        let query = if path.contains('?') { '&' } else { '?' };
        let url = format!("{}/__clerk/v1{path}{query}__clerk_db_jwt={}", self.clerk.url(), self.dev_browser);
        let request = client().request(method, url).header(ORIGIN, APP).header(CONTENT_TYPE, FORM);
        request.body(form.to_owned()).send().await.unwrap()
    }

    async fn post(&self, path: &str, form: &str) -> Value {
        let answer = self.send(Method::POST, path, form).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.headers()["access-control-allow-origin"], APP);
        assert_eq!(answer.headers()[CACHE_CONTROL], "no-store");
        answer.json().await.unwrap()
    }

    /// The client as a page loads it.
    async fn client(&self) -> Value {
        let mut answer: Value = self.send(Method::GET, "/client", "").await.json().await.unwrap();
        answer["response"].take()
    }

    /// Signs in, and returns the id of the session.
    async fn sign_in(&self, identifier: &str) -> String {
        let begun = self.post("/client/sign_ins", &format!("identifier={identifier}")).await;
        assert_eq!(begun["response"]["status"], "needs_first_factor");
        assert_eq!(begun["response"]["supported_first_factors"], json!([{"strategy": "password"}]));
        let id = begun["response"]["id"].as_str().unwrap();
        let path = format!("/client/sign_ins/{id}/attempt_first_factor");
        let done = self.post(&path, "strategy=password&password=any").await;
        assert_eq!(done["response"]["status"], "complete");
        let session = done["response"]["created_session_id"].clone();
        assert_eq!(done["client"]["last_active_session_id"], session);
        assert_eq!(self.send(Method::POST, &path, "strategy=password&password=any").await.status(), 404);
        session.as_str().unwrap().to_owned()
    }

    async fn token(&self, session: &str, form: &str) -> Value {
        let answer = self.post(&format!("/client/sessions/{session}/tokens"), form).await;
        claims(answer["jwt"].as_str().unwrap())
    }

    /// Asks for a handshake, and returns where the browser goes then.
    async fn handshake(&self, more: &str) -> Url {
        let http = Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
        let url = format!(
            "{}/__clerk/v1/client/handshake?redirect_url={APP}/&__clerk_db_jwt={}{more}",
            self.clerk.url(),
            self.dev_browser
        );
        let answer = http.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 307);
        Url::parse(answer.headers()[LOCATION].to_str().unwrap()).unwrap()
    }

    /// The cookies that a handshake sets for the app.
    async fn cookies(&self, more: &str) -> Vec<String> {
        let target = self.handshake(&format!("&format=nonce{more}")).await;
        let (name, nonce) = target.query_pairs().next().unwrap();
        assert_eq!(name, "__clerk_handshake_nonce");
        let payload = get(self.clerk, &format!("/v1/clients/handshake_payload?nonce={nonce}")).await;
        let payload: Value = payload.json().await.unwrap();
        serde_json::from_value(payload["directives"].clone()).unwrap()
    }
}

fn cookie<'a>(directives: &'a [String], name: &str) -> &'a str {
    let value = directives.iter().find_map(|directive| directive.strip_prefix(&format!("{name}=")));
    value.unwrap().split(';').next().unwrap()
}

#[tokio::test]
async fn a_sign_in_takes_an_identifier_and_any_password() {
    let clerk = start().await;
    let page = Page::open(&clerk).await;
    let before = page.client().await;
    assert_eq!((&before["sessions"], &before["last_active_session_id"]), (&json!([]), &Value::Null));
    let sid = page.sign_in("alice").await;
    let client = page.client().await;
    let [session] = client["sessions"].as_array().unwrap().as_slice() else { panic!("{client}") };
    assert_eq!((&session["id"], &session["user"]["username"]), (&json!(sid), &json!("alice")));
    assert_eq!(session["user"].get("private_metadata"), None);
    assert_eq!(claims(session["last_active_token"]["jwt"].as_str().unwrap())["azp"], APP);
    assert_eq!(client["sign_in"], Value::Null);

    page.sign_in("noor@sandbox.example").await;
    assert_eq!(page.client().await["sessions"].as_array().unwrap().len(), 2);
    for (form, status, code) in [
        ("identifier=unknown", 422, "form_identifier_not_found"),
        ("identifier=mallory", 403, "user_banned"),
        ("", 422, "form_param_value_invalid"),
    ] {
        let refused = page.send(Method::POST, "/client/sign_ins", form).await;
        assert_eq!(refused.status(), status, "{form}");
        let refused: Value = refused.json().await.unwrap();
        assert_eq!(refused["errors"][0]["code"], code);
    }
}

#[tokio::test]
async fn a_client_is_known_by_its_dev_browser_alone() {
    let clerk = start().await;
    let (page, other) = (Page::open(&clerk).await, Page::open(&clerk).await);
    page.sign_in("alice").await;
    assert_eq!(other.client().await["sessions"], json!([]));
    // One of an earlier run of the stand-in.
    let earlier = Page { clerk: &clerk, dev_browser: "dvb_earlier".to_owned() };
    assert_eq!(earlier.client().await["sessions"], json!([]));
    earlier.sign_in("bob").await;
    assert_eq!(earlier.client().await["sessions"][0]["user"]["username"], "bob");
    let strange = Page { clerk: &clerk, dev_browser: "a%0d%0ab".to_owned() };
    assert!(cookie(&strange.cookies("").await, "__clerk_db_jwt").starts_with("dvb_"));
}

#[tokio::test]
async fn only_a_sign_in_or_a_sign_out_updates_the_client() {
    let clerk = start().await;
    let page = Page::open(&clerk).await;
    let updated_at = async || page.client().await["updated_at"].as_i64().unwrap();
    let at_first = updated_at().await;
    let sid = page.sign_in("carol").await;
    let signed_in = updated_at().await;
    assert!(signed_in >= at_first);
    page.post(&format!("/client/sessions/{sid}/touch"), "active_organization_id=").await;
    page.token(&sid, "").await;
    page.post("/client/sign_ins", "identifier=bob").await;
    page.cookies("").await;
    assert_eq!(updated_at().await, signed_in);
    let events = clerk.events().len();
    page.post("/client/sessions?_method=DELETE", "").await;
    assert!(updated_at().await >= signed_in);
    assert_eq!(
        clerk.events()[events..].iter().map(|event| &*event.event_type).collect::<Vec<_>>(),
        ["session.removed"]
    );
    assert_eq!(page.client().await["sessions"], json!([]));
}

#[tokio::test]
async fn a_session_has_the_organization_that_its_page_chose() {
    let clerk = start().await;
    let page = Page::open(&clerk).await;
    let sid = page.sign_in("carol").await;
    let touch = format!("/client/sessions/{sid}/touch");
    let slug = async |form: &str| page.token(&sid, form).await["o"]["slg"].clone();
    assert_eq!(slug("").await, "acme");
    for (chosen, expected) in
        [("org_2sandbox00000000000000Globex", json!("globex")), ("", Value::Null), ("acme", json!("acme"))]
    {
        let touched = page.post(&touch, &format!("active_organization_id={chosen}")).await;
        assert_eq!(slug("").await, expected, "{chosen}");
        let active = &touched["client"]["sessions"][0]["last_active_organization_id"];
        assert_eq!(active.is_null(), expected.is_null(), "{touched}");
    }
    assert_eq!(slug("organization_id=globex").await, "globex");
    assert_eq!(slug("organization_id=").await, Value::Null);
    assert_eq!(slug("").await, "acme", "a token for another organization changes nothing");
    for path in [&touch, &format!("/client/sessions/{sid}/tokens")] {
        let refused = page.send(Method::POST, path, "active_organization_id=org_x&organization_id=org_x").await;
        assert_eq!(refused.status(), 404, "{path}");
    }
    let path = format!("/me/organization_memberships?_clerk_session_id={sid}");
    let memberships: Value = page.send(Method::GET, &path, "").await.json().await.unwrap();
    assert_eq!(memberships["response"]["total_count"], 2);
    assert_eq!(memberships["response"]["data"][0]["permissions"][0], "org:rooms:read");
}

#[tokio::test]
async fn a_member_who_leaves_an_organization_has_it_no_longer() {
    let clerk = start().await;
    let page = Page::open(&clerk).await;
    let sid = page.sign_in("carol").await;
    page.post(&format!("/client/sessions/{sid}/touch"), "active_organization_id=globex").await;
    let carol = clerk.users().into_iter().find(|user| user.username.as_deref() == Some("carol")).unwrap();
    clerk.change_user(&carol.id, |user| user.other_organizations.clear());
    assert_eq!(page.token(&sid, "").await.get("o"), None);
    assert_eq!(clerk.events().pop().unwrap().event_type, "organizationMembership.deleted");
}

#[tokio::test]
async fn two_sessions_of_a_client_take_turns() {
    let clerk = start().await;
    let page = Page::open(&clerk).await;
    let (alice, bob) = (page.sign_in("alice").await, page.sign_in("bob").await);
    for sid in [&alice, &bob, &alice] {
        page.post(&format!("/client/sessions/{sid}/touch"), "").await;
        assert_eq!(page.client().await["last_active_session_id"], *sid);
    }
    let left = page.post(&format!("/client/sessions/{alice}/remove"), "").await;
    assert_eq!(left["response"]["status"], "removed");
    assert_eq!(left["client"]["last_active_session_id"], bob);
}

#[tokio::test]
async fn a_handshake_brings_the_cookies_of_the_client() {
    let clerk = start().await;
    let page = Page::open(&clerk).await;
    let suffixed = |name: &str| format!("{name}_{}", clerk.cookie_suffix());
    let signed_out = page.cookies("").await;
    for name in ["__client_uat".to_owned(), suffixed("__client_uat")] {
        assert_eq!(cookie(&signed_out, &name), "0");
    }
    assert_eq!(cookie(&signed_out, "__session"), "");

    let sid = page.sign_in("carol").await;
    let signed_in = page.cookies("").await;
    for name in ["__session".to_owned(), suffixed("__session")] {
        let token = claims(cookie(&signed_in, &name));
        assert_eq!((&token["sid"], token.get("azp")), (&json!(sid), None));
        assert!(token["iat"].as_i64().unwrap() >= cookie(&signed_in, "__client_uat").parse().unwrap());
    }
    assert_eq!(cookie(&signed_in, &suffixed("__clerk_db_jwt")), page.dev_browser);
    let other = page.cookies("&organization_id=globex").await;
    assert_eq!(claims(cookie(&other, "__session"))["o"]["slg"], "globex");

    let target = page.handshake("").await;
    let (name, token) = target.query_pairs().next().unwrap();
    assert_eq!((&*name, claims(&token)["handshake"].as_array().unwrap().len()), ("__clerk_handshake", 6));
    let unknown = get(&clerk, "/v1/clients/handshake_payload?nonce=unknown").await;
    assert_eq!(unknown.status(), 404);
    let without_key = format!("{}/v1/clients/handshake_payload?nonce=unknown", clerk.url());
    assert_eq!(client().get(without_key).send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn browsers_are_sent_to_allowed_origins_only() {
    const ELSEWHERE: &str = "https://app.example";
    let allowing = Options { allowed_origins: vec![ELSEWHERE.to_owned()], ..Options::default() };
    let (strict, allowing) = (start().await, Clerk::start(allowing).await.unwrap());
    let http = Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
    for (clerk, target, is_allowed) in [
        (&strict, APP, true),
        (&strict, ELSEWHERE, false),
        (&strict, "https://app.example.localhost.evil.example", false),
        (&strict, "javascript:alert(1)", false),
        (&allowing, ELSEWHERE, true),
        (&allowing, "https://app.example:444", false),
    ] {
        let url = format!("{}/v1/client/handshake?redirect_url={target}", clerk.url());
        let status = http.get(url).send().await.unwrap().status();
        assert_eq!(status, if is_allowed { 307 } else { 422 }, "{target}");
    }
    for (clerk, is_allowed) in [(&strict, false), (&allowing, true)] {
        let url = format!("{}/v1/environment", clerk.url());
        let answer = client().get(url).header(ORIGIN, ELSEWHERE).send().await.unwrap();
        assert_eq!(answer.headers().contains_key("access-control-allow-origin"), is_allowed);
    }
}

#[tokio::test]
async fn clerk_js_sends_other_methods_as_post() {
    let clerk = start().await;
    let page = Page::open(&clerk).await;
    let environment = page.post("/environment?_method=PATCH", "").await;
    assert_eq!(environment["organization_settings"]["enabled"], true);
    assert_eq!(environment["display_config"]["sign_in_url"], format!("http://localhost:{}/sign-in", clerk.port()));
    page.sign_in("alice").await;
    page.post("/client?_method=PUT", "").await;
    page.post("/client?_method=DELETE", "").await;
    assert_eq!(page.client().await["sessions"], json!([]));
    for path in ["/client", "/client/sessions"] {
        assert_eq!(page.send(Method::POST, path, "").await.status(), 404, "{path}");
    }
}

#[tokio::test]
async fn any_page_may_load_the_bundles_and_nothing_else_beside_them() {
    let clerk = start().await;
    let at = |path: &str| client().get(format!("{}{path}", clerk.url())).send();
    for path in ["/npm/@clerk/clerk-js@6/dist/clerk.browser.js", "/__clerk/npm/@clerk/ui@1.34.0/dist/ui.browser.js"] {
        let answer = at(path).await.unwrap();
        // `make clerk-js` need not have fetched them.
        assert!([200, 404].contains(&answer.status().as_u16()), "{path}");
        assert_eq!(answer.headers()[CONTENT_TYPE], "text/javascript; charset=utf-8");
        assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    }
    for path in [
        "/npm/@clerk/clerk-js@6/integrity",
        "/npm/@clerk/clerk-js@6/dist/..%2fintegrity",
        "/npm/@clerk/other@6/dist/index.js",
    ] {
        let answer = at(path).await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/json", "{path}");
    }
}

#[tokio::test]
async fn a_server_starts_a_session_without_a_browser() {
    let clerk = start().await;
    let alice = &clerk.users()[0].id;
    let send = async |path: &str, body: Value| {
        let request = client().post(format!("{}{path}", clerk.url())).bearer_auth(clerk.secret_key()).json(&body);
        request.send().await.unwrap()
    };
    let session: Value = send("/v1/sessions", json!({"user_id": alice})).await.json().await.unwrap();
    let path = format!("/v1/sessions/{}", session["id"].as_str().unwrap());
    let token: Value = send(&format!("{path}/tokens"), json!({})).await.json().await.unwrap();
    let token = claims(token["jwt"].as_str().unwrap());
    assert_eq!((&token["sub"], token.get("azp")), (&json!(alice), None));
    assert_eq!(get(&clerk, &path).await.status(), 200);
    send(&format!("{path}/revoke"), json!({})).await;
    assert_eq!(send(&format!("{path}/tokens"), json!({})).await.status(), 404);
    assert_eq!(send("/v1/sessions", json!({"user_id": "user_nobody"})).await.status(), 404);
    assert_eq!(post(&clerk, "/v1/sessions", json!({"user_id": alice})).await.status(), 401);
}

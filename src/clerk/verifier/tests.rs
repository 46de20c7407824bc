use std::{sync::LazyLock, time::Duration};

use futures_util::FutureExt as _;
use proptest::{prelude::*, sample::Index};
use sandbox::clerk::{Clerk, Options, Outage};
use serde_json::json;
use url::Url;

use super::*;
use crate::{
    clerk::{Jwks, JwksSource, PublishableKey, RefreshCounts},
    detached::Detached,
};

const NOW: UnixMillis = UnixMillis(1_795_290_000_000);

fn rules() -> SessionRules {
    SessionRules {
        issuers: vec!["https://clerk.example.com".into()],
        authorized_parties: vec![],
        native_apps: false,
        audience: vec![],
        clock_skew_ms: 5000,
        longest_life_ms: 600_000,
    }
}

fn judged(change: impl FnOnce(&mut Value)) -> Result<Session, Invalid> {
    let now = NOW.0 / 1000;
    let mut claims = json!({
        "sub": "user_1", "sid": "sess_1", "iss": "https://clerk.example.com", "iat": now - 5, "nbf": now - 15, "exp": now + 55,
    });
    change(&mut claims);
    let Value::Object(claims) = claims else { panic!("claims are an object") };
    let claims = claims.into();
    let (issued_at, expires_at) = rules().check(&claims, CredentialSource::Cookie, NOW)?;
    read(claims, issued_at, expires_at)
}

#[test]
fn each_claim_is_needed_for_its_own_reason() {
    for (name, value, reason) in [
        ("sub", json!(""), Invalid::Subject),
        ("sid", json!(""), Invalid::SessionIdMissing),
        ("iss", json!("https://clerk.example.com/"), Invalid::Issuer),
        ("iss", json!("http://clerk.example.com"), Invalid::Issuer),
        ("exp", json!("soon"), Invalid::ExpirationMissing),
        ("exp", json!(-1e300), Invalid::Expired),
        ("nbf", json!(null), Invalid::NotYetValid),
        ("nbf", json!(1e300), Invalid::NotYetValid),
        ("iat", json!(1e300), Invalid::IssuedInTheFuture),
        ("iat", json!(null), Invalid::IssuedInTheFuture),
        ("act", json!({}), Invalid::Actor),
        ("act", json!({ "sub": "" }), Invalid::Actor),
        ("act", json!("user_support"), Invalid::Actor),
        ("sts", json!("pending"), Invalid::Pending),
    ] {
        assert_eq!(judged(|claims| claims[name] = value.clone()).err(), Some(reason), "{name} = {value}");
    }
    assert!(judged(|_| ()).is_ok());
}

#[test]
fn no_session_token_lives_longer_than_its_denial_would() {
    let now = NOW.0 / 1000;
    let life = |seconds: i64| judged(|claims| (claims["iat"], claims["exp"]) = (json!(now), json!(now + seconds)));
    assert!(life(600).is_ok());
    assert_eq!(life(601).err(), Some(Invalid::LivesTooLong));
    assert_eq!(judged(|claims| claims["exp"] = json!(1e300)).err(), Some(Invalid::LivesTooLong));
    let without_iat = judged(|claims| _ = claims.as_object_mut().unwrap().remove("iat"));
    assert_eq!(without_iat.err(), Some(Invalid::IssuedAtMissing));
}

#[test]
fn an_audience_of_the_wrong_type_is_refused_where_one_is_configured() {
    let rules = SessionRules { audience: vec!["ably".into()], ..rules() };
    for (aud, accepted) in [
        (json!(null), true),
        (json!(""), true),
        (json!([]), true),
        (json!([""]), true),
        (json!("ably"), true),
        (json!(["other", "ably"]), true),
        (json!("other"), false),
        (json!(["other"]), false),
        (json!(["ably", 5]), false),
        (json!(5), false),
        (json!({}), false),
    ] {
        assert_eq!(rules.check_audience(Some(&aud)).is_ok(), accepted, "{aud}");
    }
    assert!(rules.check_audience(None).is_ok());
}

#[test]
fn a_missing_authorized_party_and_a_wrong_one_have_different_reasons() {
    let rules = SessionRules { authorized_parties: vec!["https://app.example.com".into()], ..rules() };
    assert_eq!(rules.check_authorized_party(None, CredentialSource::Bearer), Err(Invalid::AuthorizedPartyMissing));
    assert_eq!(
        rules.check_authorized_party(Some(&json!("https://APP.example.com")), CredentialSource::Bearer),
        Err(Invalid::AuthorizedParty)
    );
    assert_eq!(rules.check_authorized_party(Some(&json!("https://app.example.com")), CredentialSource::Bearer), Ok(()));
    let native = SessionRules { native_apps: true, ..rules };
    assert_eq!(native.check_authorized_party(None, CredentialSource::Bearer), Ok(()));
    assert_eq!(native.check_authorized_party(None, CredentialSource::Cookie), Err(Invalid::AuthorizedPartyMissing));
    assert_eq!(
        native.check_authorized_party(Some(&json!(null)), CredentialSource::Bearer),
        Err(Invalid::AuthorizedParty)
    );
}

/// A Clerk instance, and the claims of one of its session tokens.
async fn instance() -> (Clerk, Value) {
    let clerk = Clerk::start(Options::default()).await.unwrap();
    let claims = clerk.session_claims(&clerk.users()[0].id);
    (clerk, claims)
}

fn rules_of(clerk: &Clerk) -> SessionRules {
    SessionRules { issuers: vec![clerk.issuer()], ..rules() }
}

fn pem_verifier(clerk: &Clerk, rules: SessionRules) -> Verifier {
    Verifier::new(SigningKeys::from_pem(clerk.jwt_key()).unwrap(), rules)
}

/// Verifies a token so often that it is remembered.
async fn remember(verifier: &Verifier, token: &str, verified: &VerifiedTokens, now: UnixMillis) {
    for _ in 0..3 {
        verifier.verify(Credential::new(token, verified), verified, now).await.unwrap();
    }
}

#[tokio::test]
async fn each_verifier_applies_its_own_keys_and_rules_to_a_token_that_is_remembered() {
    let ((clerk, mut claims), (other, _)) = (instance().await, instance().await);
    claims["aud"] = json!("ably");
    let (token, rules) = (clerk.mint(claims.clone()), rules_of(&clerk));
    claims.as_object_mut().unwrap().remove("azp");
    let native = clerk.mint(claims);
    let (now, verified) = (UnixMillis::now(), VerifiedTokens::default());
    for token in [&token, &native] {
        remember(&pem_verifier(&clerk, rules.clone()), token, &verified, now).await;
    }
    let strict = SessionRules { authorized_parties: vec!["https://app.example.com".into()], ..rules.clone() };
    let later = |seconds: i64| UnixMillis(now.0 + seconds * 1000);
    for (token, keys, rules, now, expected) in [
        (&token, &clerk, rules.clone(), now, None),
        (&token, &other, rules.clone(), now, Some(Invalid::Signature)),
        (
            &token,
            &clerk,
            SessionRules { issuers: vec!["https://other.example.com".into()], ..rules.clone() },
            now,
            Some(Invalid::Issuer),
        ),
        (&token, &clerk, strict.clone(), now, Some(Invalid::AuthorizedParty)),
        (&native, &clerk, strict.clone(), now, Some(Invalid::AuthorizedPartyMissing)),
        (&native, &clerk, SessionRules { native_apps: true, ..strict }, now, None),
        (&token, &clerk, SessionRules { audience: vec!["ably".into()], ..rules.clone() }, now, None),
        (
            &token,
            &clerk,
            SessionRules { audience: vec!["other".into()], ..rules.clone() },
            now,
            Some(Invalid::Audience),
        ),
        (&token, &clerk, SessionRules { longest_life_ms: 59_000, ..rules.clone() }, now, Some(Invalid::LivesTooLong)),
        (&token, &clerk, rules.clone(), later(70), Some(Invalid::Expired)),
        (&token, &clerk, SessionRules { clock_skew_ms: 20_000, ..rules.clone() }, later(70), None),
        (&token, &clerk, rules.clone(), later(-10), Some(Invalid::IssuedInTheFuture)),
        (&token, &clerk, rules, later(-20), Some(Invalid::NotYetValid)),
    ] {
        let verifier = pem_verifier(keys, rules);
        for verified in [&verified, &VerifiedTokens::default()] {
            let result = verifier.verify(Credential::new(token, verified), verified, now).await;
            assert_eq!(result.err(), expected.map(Unverified::Invalid), "{verifier:?} {now:?}");
        }
    }
}

#[tokio::test]
async fn a_token_that_is_remembered_is_refused_without_keys_that_clerk_has_confirmed_within_the_hour() {
    let (clerk, claims) = instance().await;
    let url = Url::parse(&format!("{}/.well-known/jwks.json", clerk.url())).unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let source = JwksSource { url, secret_key: None };
    let jwks = Jwks::new(source, http, Detached::on_current_runtime(), RefreshCounts::default());
    let verifier = Verifier::new(SigningKeys::Jwks(jwks), rules_of(&clerk));
    let (token, now, verified) = (clerk.mint(claims), UnixMillis::now(), VerifiedTokens::default());
    remember(&verifier, &token, &verified, now).await;
    clerk.set_outage(Some(Outage::Status(500)));
    for (minutes, expected) in [(59, None), (1, Some(Unverified::KeysUnavailable))] {
        tokio::time::pause();
        tokio::time::advance(Duration::from_mins(minutes)).await;
        tokio::time::resume();
        let result = verifier.verify(Credential::new(&token, &verified), &verified, now).await;
        assert_eq!(result.err(), expected, "{minutes}");
    }
}

/// A change of a token.
#[derive(Clone, Debug)]
enum Mutation {
    Replace(Index, char),
    Insert(Index, char),
    Remove(Index),
    Truncate(Index),
    Append(String),
    /// Another of the texts in the place of a part.
    Part(Index, Index),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let character =
        || proptest::char::ranges(vec!['A'..='Z', 'a'..='z', '0'..='9', '-'..='.', '_'..='_', '='..='='].into());
    let mutation = prop_oneof![
        (any::<Index>(), character()).prop_map(|(at, to)| Mutation::Replace(at, to)),
        (any::<Index>(), character()).prop_map(|(at, new)| Mutation::Insert(at, new)),
        any::<Index>().prop_map(Mutation::Remove),
        any::<Index>().prop_map(Mutation::Truncate),
        "[A-Za-z0-9_=.-]{0,4}".prop_map(Mutation::Append),
        (any::<Index>(), any::<Index>()).prop_map(|(at, with)| Mutation::Part(at, with)),
    ];
    proptest::collection::vec(mutation, 0..3)
}

impl Mutation {
    /// Changes a token, with the parts of `tokens` to choose from.
    fn apply(self, token: &mut String, tokens: &[String]) {
        let length = token.len();
        match self {
            Self::Replace(..) | Self::Remove(_) if length == 0 => {}
            Self::Replace(at, to) => {
                let at = at.index(length);
                token.replace_range(at..=at, &to.to_string());
            }
            Self::Insert(at, new) => token.insert(at.index(length + 1), new),
            Self::Remove(at) => _ = token.remove(at.index(length)),
            Self::Truncate(at) => token.truncate(at.index(length + 1)),
            Self::Append(text) => token.push_str(&text),
            Self::Part(at, with) => {
                let others: Vec<_> = tokens.iter().flat_map(|token| token.split('.')).collect();
                let mut parts: Vec<_> = token.split('.').collect();
                let at = at.index(parts.len());
                parts[at] = others[with.index(others.len())];
                *token = parts.join(".");
            }
        }
    }
}

/// Tokens of three instances, of which the verifier is for the first, and a memory that has all that it accepts.
struct Remembered {
    verifier: Verifier,
    publishable_key: PublishableKey,
    tokens: Vec<String>,
    verified: VerifiedTokens,
    now: UnixMillis,
}

static REMEMBERED: LazyLock<Remembered> = LazyLock::new(|| {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let ((clerk, claims), (other, foreign)) = (instance().await, instance().await);
        let (now, verified, verifier) =
            (UnixMillis::now(), VerifiedTokens::default(), pem_verifier(&clerk, rules_of(&clerk)));
        let second = clerk.session_claims(&clerk.users()[1].id);
        let mut expired = claims.clone();
        (expired["iat"], expired["nbf"], expired["exp"]) = (json!(0), json!(0), json!(60));
        let accepted = [clerk.mint(claims.clone()), clerk.mint(second)];
        for token in &accepted {
            remember(&verifier, token, &verified, now).await;
        }
        let refused = [clerk.mint(expired), other.mint(claims), other.mint(foreign)];
        let publishable_key = PublishableKey::parse(clerk.publishable_key()).unwrap();
        Remembered { verifier, publishable_key, tokens: accepted.into_iter().chain(refused).collect(), verified, now }
    })
});

proptest! {
    #[test]
    fn a_changed_token_is_judged_alike_with_and_without_remembered_tokens(
        start in any::<Index>(), mutations in mutations(), client_uat in 0..2,
    ) {
        let Remembered { verifier, publishable_key, tokens, verified, now } = &*REMEMBERED;
        let mut token = start.get(tokens).clone();
        for mutation in mutations {
            mutation.apply(&mut token, tokens);
        }
        let in_header = |verified: &VerifiedTokens| {
            verifier.verify(Credential::new(&token, verified), verified, *now).now_or_never().unwrap()
        };
        let cookies = format!("__session={token}; __client_uat={client_uat}; __clerk_db_jwt=d");
        let in_cookies = |verified: &VerifiedTokens| {
            let credential = Credential::in_cookies(&cookies, publishable_key, verified, *now)?;
            Ok::<_, crate::clerk::NoCredential>(verifier.verify(credential, verified, *now).now_or_never().unwrap())
        };
        let expected = in_header(&VerifiedTokens::default());
        prop_assert_eq!(expected.is_ok(), tokens[..2].contains(&token));
        for _ in 0..2 {
            prop_assert_eq!(&in_header(verified), &expected);
            prop_assert_eq!(in_cookies(verified), in_cookies(&VerifiedTokens::default()));
        }
    }

    #[test]
    fn numbers_of_any_size_are_judged_without_overflow(exp in any::<f64>(), iat in any::<f64>(), nbf in any::<i64>()) {
        let _ = judged(|claims| (claims["exp"], claims["iat"], claims["nbf"]) = (json!(exp), json!(iat), json!(nbf)));
    }

    #[test]
    fn no_token_makes_the_verifier_panic(token in "[A-Za-z0-9_.-]{0,200}") {
        let _ = Decoded::new(&token, None).map(|token| check_header(token.header, &token.payload).is_ok());
    }
}

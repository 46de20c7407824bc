use proptest::prelude::*;
use serde_json::json;

use super::*;

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

proptest! {
    #[test]
    fn numbers_of_any_size_are_judged_without_overflow(exp in any::<f64>(), iat in any::<f64>(), nbf in any::<i64>()) {
        let _ = judged(|claims| (claims["exp"], claims["iat"], claims["nbf"]) = (json!(exp), json!(iat), json!(nbf)));
    }

    #[test]
    fn no_token_makes_the_verifier_panic(token in "[A-Za-z0-9_.-]{0,200}") {
        let _ = Decoded::new(&token, &VerifiedTokens::default()).map(|token| check_header(token.header, &token.payload).is_ok());
    }
}

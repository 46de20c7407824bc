//! Verifies session tokens, in the order of `@clerk/backend`.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{
    claims::Claims,
    credential::{Credential, CredentialSource},
    invalid::{Invalid, Unverified},
    javascript::is_truthy,
    jwt::{Decoded, Header},
    session::{Session, non_empty},
    session_token::{Digests, SessionToken},
    signing_key::SigningKey,
    signing_keys::SigningKeys,
    verified_tokens::{ValidHeader, VerifiedToken, VerifiedTokens},
};
use crate::clock::UnixMillis;

/// The rules of an instance for the claims of a session token.
#[derive(Clone, Debug)]
pub struct SessionRules {
    /// The accepted values of `iss`; at least one.
    pub issuers: Vec<String>,
    /// The accepted values of `azp`. Empty: `azp` is not checked.
    pub authorized_parties: Vec<String>,
    /// Whether a Bearer token may lack `azp` despite authorized parties, as those of native apps do.
    pub native_apps: bool,
    /// The accepted values of `aud`. Empty: `aud` is not checked.
    pub audience: Vec<String>,
    /// The tolerated difference between Clerk's clock and ours, in milliseconds.
    pub clock_skew_ms: i64,
    /// The maximum of `exp - iat`, in milliseconds: as long as denials last.
    pub longest_life_ms: i64,
}

/// Verifies the session tokens of one Clerk instance.
#[derive(Debug)]
pub struct Verifier {
    keys: SigningKeys,
    rules: SessionRules,
}

impl Verifier {
    /// A verifier with these keys and rules.
    #[must_use]
    pub fn new(keys: SigningKeys, rules: SessionRules) -> Self {
        Self { keys, rules }
    }

    /// The signing keys.
    #[must_use]
    pub fn keys(&self) -> &SigningKeys {
        &self.keys
    }

    /// Whether this verifier is for session tokens of `issuer`.
    #[must_use]
    pub fn is_for(&self, issuer: &str) -> bool {
        self.rules.is_for_issuer(issuer)
    }

    /// Verifies a session token: header, key, signature, then claims. A token in `verified` needs no second check of its
    /// signature if the key that made it still counts.
    pub async fn verify(
        &self,
        credential: Credential,
        verified: &VerifiedTokens,
        now: UnixMillis,
    ) -> Result<Arc<Session>, Unverified> {
        let Credential { token, source } = credential;
        if let Some(VerifiedToken { header, key, session: Some(session) }) = &token.remembered
            && self.keys.find(header.kid.as_deref()).await? == *key
        {
            self.rules.check(&session.claims, source, now)?;
            return Ok(Arc::clone(session));
        }
        let is_used_again = token.remembered.is_some();
        let SignedClaims { header, claims, key, digest } = self.signed_claims(token).await?;
        let (issued_at, expires_at) = self.rules.check(&claims, source, now)?;
        let session = Arc::new(read(claims, issued_at, expires_at)?);
        let kept = is_used_again.then(|| Arc::clone(&session));
        verified.insert(digest, VerifiedToken { header, key, session: kept });
        Ok(session)
    }

    /// Verifies a session token as [`Verifier::verify`] does, and returns its session even if its claims are invalid. An
    /// error means that the signature is invalid, or cannot be verified.
    pub async fn examine(&self, credential: Credential, now: UnixMillis) -> Result<Examined, Unverified> {
        let Credential { token, source } = credential;
        let SignedClaims { claims, .. } = self.signed_claims(token).await?;
        let checked = self.rules.check(&claims, source, now);
        let read = checked.and_then(|(issued_at, expires_at)| read(claims.clone(), issued_at, expires_at));
        Ok(match read {
            Ok(session) => Examined { session: Some(session), refused: None, filled_in: Vec::new() },
            Err(refused) => Examined { refused: Some(refused), ..Examined::from_claims(claims.into(), now) },
        })
    }

    async fn signed_claims(&self, mut token: SessionToken) -> Result<SignedClaims, Unverified> {
        let Decoded { header, payload: claims, signature } = token.take_decoded()?;
        let header = check_header(header, &claims)?;
        let key = self.keys.find(header.kid.as_deref()).await?;
        let Digests { signed, whole } = token.digests();
        let is_remembered = token.remembered.is_some_and(|token| token.key == key);
        if is_remembered || key.signed(&signed, &signature) {
            Ok(SignedClaims { header, claims, key, digest: whole })
        } else {
            Err(Invalid::Signature.into())
        }
    }
}

/// The claims of a token with a valid signature.
struct SignedClaims {
    header: Arc<ValidHeader>,
    claims: Claims,
    key: Arc<SigningKey>,
    /// Of the whole token.
    digest: [u8; 32],
}

/// A session for an explanation or a policy test; it never gets a token.
#[derive(Clone, Debug)]
pub struct Examined {
    /// The session. `None` if its claims are malformed.
    pub session: Option<Session>,
    /// Why the session token is invalid.
    pub refused: Option<Invalid>,
    /// The missing claims that got an example value.
    pub filled_in: Vec<&'static str>,
}

impl Examined {
    /// Takes claims as verified, without a check of times, issuer, audience and authorized party. Fills in missing claims
    /// that every session token has: `sub`, `sid`, `iat`, `exp`, and `v`, which is 2 unless there is an `org_id`.
    #[must_use]
    pub fn from_claims(mut claims: Map<String, Value>, now: UnixMillis) -> Self {
        const LIFE_MS: i64 = 60_000;
        let issued_at = millis(claims.get("iat")).unwrap_or(now);
        let expires_at = millis(claims.get("exp")).unwrap_or(UnixMillis(issued_at.0.saturating_add(LIFE_MS)));
        let version = if claims.contains_key("org_id") { 1 } else { 2 };
        let mut filled_in = Vec::new();
        for (name, value) in [
            ("sub", Value::from("user_example")),
            ("sid", Value::from("sess_example")),
            ("iat", Value::from(issued_at.0.div_euclid(1000))),
            ("exp", Value::from(expires_at.0.div_euclid(1000))),
            ("v", Value::from(version)),
        ] {
            if !claims.contains_key(name) {
                claims.insert(name.to_owned(), value);
                filled_in.push(name);
            }
        }
        let claims = Claims::from(claims);
        let refused = check_state(&claims).err();
        match read(claims, issued_at, expires_at) {
            Ok(session) => Self { session: Some(session), refused, filled_in },
            Err(unreadable) => Self { session: None, refused: Some(unreadable), filled_in },
        }
    }
}

/// Checks the header of a session token.
fn check_header(header: Header, claims: &Claims) -> Result<Arc<ValidHeader>, Invalid> {
    const SESSION_CATEGORIES: [&str; 2] = ["cl_B7d4PD111AAA", "cl_I7d4PD111III"];
    let is_machine = claims.get("sub").and_then(Value::as_str).is_some_and(|sub| sub.starts_with("mch_"));
    let (text, fields) = match header {
        _ if is_machine => return Err(Invalid::NotASession),
        Header::Valid(header) => return Ok(header),
        Header::Unchecked { text, fields } => (text, fields),
    };
    let field = |name: &str| fields.get(name);
    let is_oauth = field("typ").is_some_and(|typ| typ == "at+jwt" || typ == "application/at+jwt");
    let is_session = field("cat").is_none_or(|cat| SESSION_CATEGORIES.iter().any(|category| cat == category));
    if is_oauth || !is_session {
        return Err(Invalid::NotASession);
    }
    if field("typ").is_some_and(|typ| typ != "JWT") {
        return Err(Invalid::Type);
    }
    if field("alg").is_none_or(|alg| alg != "RS256") {
        return Err(Invalid::Algorithm);
    }
    if field("crit").is_some() {
        return Err(Invalid::CriticalExtension);
    }
    let kid = field("kid").map(|kid| kid.as_str().map(str::to_owned).ok_or(Invalid::KeyId)).transpose()?;
    Ok(Arc::new(ValidHeader { text, kid }))
}

impl SessionRules {
    /// Checks the claims of a token from this source. Returns its `iat` and `exp`.
    fn check(
        &self,
        claims: &Claims,
        source: CredentialSource,
        now: UnixMillis,
    ) -> Result<(UnixMillis, UnixMillis), Invalid> {
        non_empty(claims.get("sub")).ok_or(Invalid::Subject)?;
        self.check_audience(claims.get("aud"))?;
        self.check_authorized_party(claims.get("azp"), source)?;
        if !non_empty(claims.get("iss")).is_some_and(|iss| self.is_for_issuer(iss)) {
            return Err(Invalid::Issuer);
        }
        let expires_at = millis(claims.get("exp")).ok_or(Invalid::ExpirationMissing)?;
        if expires_at.0 <= now.0 - self.clock_skew_ms {
            return Err(Invalid::Expired);
        }
        let is_past = |time: UnixMillis| time.0 <= now.0 + self.clock_skew_ms;
        let not_before = claims.get("nbf");
        if not_before.is_some() && !millis(not_before).is_some_and(is_past) {
            return Err(Invalid::NotYetValid);
        }
        let issued_at = Some(claims.get("iat").ok_or(Invalid::IssuedAtMissing)?);
        let issued_at = millis(issued_at).filter(|time| is_past(*time)).ok_or(Invalid::IssuedInTheFuture)?;
        if expires_at.0.saturating_sub(issued_at.0) > self.longest_life_ms {
            return Err(Invalid::LivesTooLong);
        }
        non_empty(claims.get("sid")).ok_or(Invalid::SessionIdMissing)?;
        check_state(claims)?;
        Ok((issued_at, expires_at))
    }

    fn is_for_issuer(&self, issuer: &str) -> bool {
        self.issuers.iter().any(|own| own == issuer)
    }

    /// Checks an audience only if there is one: session tokens have none by default.
    fn check_audience(&self, claim: Option<&Value>) -> Result<(), Invalid> {
        if self.audience.is_empty() {
            return Ok(());
        }
        let is_configured = |value: &str| self.audience.iter().any(|audience| audience == value);
        let matches = match claim {
            None | Some(Value::Null) => true,
            Some(Value::String(value)) => value.is_empty() || is_configured(value),
            Some(Value::Array(list)) => {
                let values: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
                values.is_some_and(|values| {
                    values.iter().all(|value| value.is_empty()) || values.iter().any(|value| is_configured(value))
                })
            }
            Some(_) => false,
        };
        if matches { Ok(()) } else { Err(Invalid::Audience) }
    }

    fn check_authorized_party(&self, claim: Option<&Value>, source: CredentialSource) -> Result<(), Invalid> {
        if self.authorized_parties.is_empty() {
            return Ok(());
        }
        match claim {
            None if self.native_apps && source == CredentialSource::Bearer => Ok(()),
            None => Err(Invalid::AuthorizedPartyMissing),
            Some(Value::String(azp)) if self.authorized_parties.contains(azp) => Ok(()),
            Some(_) => Err(Invalid::AuthorizedParty),
        }
    }
}

/// Checks what does not depend on the time and the place of the request.
fn check_state(claims: &Claims) -> Result<(), Invalid> {
    if claims.get("act").is_some_and(|act| is_truthy(act) && non_empty(act.get("sub")).is_none()) {
        return Err(Invalid::Actor);
    }
    if claims.get("sts").is_some_and(|status| status == "pending") {
        return Err(Invalid::Pending);
    }
    Ok(())
}

fn read(claims: Claims, issued_at: UnixMillis, expires_at: UnixMillis) -> Result<Session, Invalid> {
    let user_id = non_empty(claims.get("sub")).ok_or(Invalid::Subject)?.to_owned();
    let session_id = non_empty(claims.get("sid")).ok_or(Invalid::SessionIdMissing)?.to_owned();
    Session::from_claims(user_id, session_id, issued_at, expires_at, claims)
}

/// A claim in seconds as milliseconds, rounded down to whole seconds. Huge times are capped so that sums do not overflow.
fn millis(claim: Option<&Value>) -> Option<UnixMillis> {
    const MAX: f64 = 9e15;
    let millis = (claim?.as_number()?.as_f64()?.floor() * 1000.0).clamp(-MAX, MAX);
    #[expect(clippy::cast_possible_truncation, reason = "clamped to what an i64 holds")]
    let millis = millis as i64;
    Some(UnixMillis(millis))
}

#[cfg(test)]
mod tests;

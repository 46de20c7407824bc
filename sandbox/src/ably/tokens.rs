//! Tokens: checked, issued, revoked.

use serde_json::{Value, json};

use super::{
    error::ErrorInfo,
    realm::Realm,
    revocation::{AnswerShape, REVOKED, Revocable, RevocationRequest, Standing},
    token::{Credential, Grant, Life},
    token_request::{TokenRequest, Voucher, longest_ttl_ms},
};

impl Realm {
    /// Judges a credential: believed, alive and not revoked, or why not.
    pub(crate) fn authenticate(&self, credential: &Credential, now_ms: i64) -> Result<Grant, ErrorInfo> {
        let grant = match credential {
            Credential::Nothing => {
                return Err(ErrorInfo::invalid_credentials("no credentials were presented"));
            }
            Credential::Key(key) if self.key.is(key) => {
                return Ok(Grant::of_key(self.key_capability.clone()));
            }
            Credential::Key(_) => {
                return Err(ErrorInfo::invalid_credentials("the API key is not valid"));
            }
            Credential::Token(token) => match self.issued.find(token) {
                Some(grant) => grant.clone(),
                None if token.split('.').count() == 3 => Grant::of_jwt(
                    token,
                    &self.key,
                    &self.key_capability,
                    longest_ttl_ms(self.revocable() != Revocable::None),
                    now_ms,
                )?,
                None if token.split('.').count() == 2 => {
                    return Err(ErrorInfo::new(401, 40143, "the token is not known"));
                }
                None => return Err(ErrorInfo::new(401, 40145, "the token is malformed")),
            },
        };
        if self.revocations.standing(&grant, now_ms) == Standing::Revoked {
            return Err(REVOKED);
        }
        grant.check_life(now_ms)?;
        Ok(grant)
    }

    /// `POST /keys/{keyName}/requestToken`: a token request becomes token details (`RSA8`, `TD*`).
    pub(crate) fn request_token(
        &mut self,
        key_name: &str,
        credential: &Credential,
        body: &Value,
        now_ms: i64,
    ) -> Result<Value, ErrorInfo> {
        if key_name != self.key.name() {
            return Err(ErrorInfo::invalid_credentials("the key is not known"));
        }
        let voucher = match credential {
            Credential::Key(_) => {
                self.authenticate(credential, now_ms)?;
                Voucher::Key
            }
            // The `mac` vouches for the token request. Ably refuses an invalid token beside it all the same.
            Credential::Token(_) => {
                self.authenticate(credential, now_ms)?;
                Voucher::Signature
            }
            Credential::Nothing => Voucher::Signature,
        };
        let terms = TokenRequest::read(body)?.check(
            voucher,
            &self.key,
            &self.key_capability,
            longest_ttl_ms(self.revocable() != Revocable::None),
            &mut self.nonces,
            now_ms,
        )?;
        let issued_ms = self.revocations.issue_time_ms(now_ms);
        let life = Life { issued_ms, expires_ms: issued_ms.saturating_add(terms.ttl_ms) };
        let secret = self.fresh_id();
        let token = format!("{}.{secret}", self.key.app_id());
        let grant = Grant::of_token(&token, terms.client_id, terms.capability, life);
        let mut details = json!({
            "token": token, "keyName": self.key.name(), "issued": life.issued_ms, "expires": life.expires_ms,
            "capability": grant.capability.to_string()
        });
        if let Some(client_id) = &grant.client_id {
            details["clientId"] = json!(client_id);
        }
        self.issued.add(token, grant, life);
        Ok(details)
    }

    /// `POST /keys/{keyName}/revokeTokens`: the HTTP status and the answer. Live connections are told at once.
    pub(crate) fn revoke_tokens(
        &mut self,
        key_name: &str,
        credential: &Credential,
        body: &Value,
        shape: AnswerShape,
        now_ms: i64,
    ) -> Result<(u16, Value), ErrorInfo> {
        if matches!(credential, Credential::Token(_)) {
            return Err(ErrorInfo::new(401, 40162, "tokens are revoked with the API key, not with a token"));
        }
        self.authenticate(credential, now_ms)?;
        if key_name != self.key.name() {
            return Err(ErrorInfo::invalid_credentials("the key is not known"));
        }
        if self.revocable() == Revocable::None {
            return Err(ErrorInfo::new(401, 40163, "token revocation is not enabled for the key"));
        }
        let request = RevocationRequest::read(body, self.reauth_margin_ms, now_ms)?;
        if self.revocations.refuses(&request) {
            return Err(ErrorInfo::bad_request("a target is set to have its calls refused"));
        }
        let before = self.standings(now_ms);
        let results = self.revocations.revoke(&request, self.issued.last_issued_ms(), now_ms);
        self.enforce_revocations(&before, now_ms);
        Ok(shape.answer(results))
    }
}

//! Authentication, and the routes that issue and revoke tokens.

use serde_json::{Value, json};

use super::{
    access::{Access, Credential, Lifetime},
    app::AblyApp,
    error::ErrorInfo,
    revocation::{AnswerShape, REVOKED, Revocable, RevocationRequest, RevocationStatus},
    token_request::{Proof, TokenRequest, longest_ttl_ms},
};

impl AblyApp {
    /// Returns the access of a valid, current and unrevoked credential.
    pub(crate) fn authenticate(&self, credential: &Credential, now_ms: i64) -> Result<Access, ErrorInfo> {
        let access = match credential {
            Credential::Missing => {
                return Err(ErrorInfo::invalid_credentials("the credentials are missing"));
            }
            Credential::Key(presented) => {
                let key = self.keys.iter().find(|key| key.equals(presented));
                let key = key.ok_or(ErrorInfo::invalid_credentials("the API key is invalid"))?;
                return Ok(Access::of_key(key, self.key_capability.clone()));
            }
            Credential::Token(token) => match self.issued.find(token) {
                Some(access) => access.clone(),
                None if token.split('.').count() == 3 => Access::of_jwt(
                    token,
                    &self.keys,
                    &self.key_capability,
                    longest_ttl_ms(self.revocable() != Revocable::None),
                    now_ms,
                )?,
                None if token.split('.').count() == 2 => {
                    return Err(ErrorInfo::new(401, 40143, "the token is unknown"));
                }
                None => return Err(ErrorInfo::new(401, 40145, "the token is malformed")),
            },
        };
        if self.revocations.status_of(&access, now_ms) == RevocationStatus::Revoked {
            return Err(REVOKED);
        }
        access.check_not_expired(now_ms)?;
        Ok(access)
    }

    /// `POST /keys/{keyName}/requestToken`: exchanges a token request for token details (`RSA8`, `TD*`).
    pub(crate) fn request_token(
        &mut self,
        key_name: &str,
        credential: &Credential,
        body: &Value,
        now_ms: i64,
    ) -> Result<Value, ErrorInfo> {
        let key = self.key(key_name)?.clone();
        let proof = match credential {
            Credential::Key(_) => {
                self.authenticate(credential, now_ms)?;
                Proof::ApiKey
            }
            // The `mac` authenticates the token request, but Ably refuses an invalid token beside it.
            Credential::Token(_) => {
                self.authenticate(credential, now_ms)?;
                Proof::Mac
            }
            Credential::Missing => Proof::Mac,
        };
        let checked = TokenRequest::read(body)?.check(
            proof,
            &key,
            &self.key_capability,
            longest_ttl_ms(self.revocable() != Revocable::None),
            &mut self.nonces,
            now_ms,
        )?;
        let issued_ms = self.revocations.issue_time_ms(now_ms);
        let lifetime = Lifetime { issued_ms, expires_ms: issued_ms.saturating_add(checked.ttl_ms) };
        let secret = self.fresh_id();
        let token = format!("{}.{secret}", key.app_id());
        let access = Access::of_token(&token, &key, checked.client_id, checked.capability, lifetime);
        let mut details = json!({
            "token": token, "keyName": key.name(), "issued": lifetime.issued_ms, "expires": lifetime.expires_ms,
            "capability": access.capability.to_string()
        });
        if let Some(client_id) = &access.client_id {
            details["clientId"] = json!(client_id);
        }
        self.issued.add(token, access, lifetime);
        Ok(details)
    }

    /// `POST /keys/{keyName}/revokeTokens`: the HTTP status and the answer. Acts on live connections at once.
    pub(crate) fn revoke_tokens(
        &mut self,
        key_name: &str,
        credential: &Credential,
        body: &Value,
        shape: AnswerShape,
        now_ms: i64,
    ) -> Result<(u16, Value), ErrorInfo> {
        if matches!(credential, Credential::Token(_)) {
            return Err(ErrorInfo::new(401, 40162, "revokeTokens requires the API key, not a token"));
        }
        let access = self.authenticate(credential, now_ms)?;
        if self.key(key_name)?.name() != access.key_name {
            return Err(ErrorInfo::new(401, 40133, "a key can revoke only the tokens that it issued"));
        }
        if self.revocable() == Revocable::None {
            return Err(ErrorInfo::new(401, 40163, "token revocation is not enabled for the key"));
        }
        let request = RevocationRequest::read(body, self.reauth_margin_ms, now_ms)?;
        if self.revocations.refuses(&request) {
            return Err(ErrorInfo::bad_request("a target makes the call fail, as requested"));
        }
        let before = self.revocation_statuses(now_ms);
        let results = self.revocations.revoke(key_name, &request, self.issued.last_issued_ms(), now_ms);
        self.enforce_revocations(&before, now_ms);
        Ok(shape.answer(results))
    }
}

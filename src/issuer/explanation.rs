//! Explains the decisions about a session, up to the signature.

use super::{decide, sign_jwt};
use crate::{
    ably::{ApiKey, ClientId, TokenParams},
    clerk::Examined,
    clock::UnixMillis,
    identity::{Identity, IdentityError},
    policy::{Explanation, Policy},
    refusal::Refusal,
};

/// What decides about a session.
#[derive(Clone, Copy, Debug)]
pub struct Explainer<'a> {
    /// Makes client IDs.
    pub identity: &'a Identity,
    /// Decides rights.
    pub policy: &'a Policy,
    /// Signs JWTs to measure them. None: the size of JWTs is not checked.
    pub jwt_key: Option<&'a ApiKey>,
}

/// The origin of a session's claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimsOrigin {
    /// A session token, which has all claims.
    SessionToken,
    /// A file, which may leave out the username.
    File,
}

/// The decisions about a session, with their reasons.
#[derive(Debug)]
pub struct TokenExplanation {
    /// The client ID.
    pub client_id: Result<ClientId, IdentityError>,
    /// The policy's decision.
    pub policy: Explanation,
    /// The refusal that the client would read. None: there would be a token.
    pub refusal: Option<Refusal>,
}

impl Explainer<'_> {
    /// Explains the decisions about a session and these token params. None if the session's claims are malformed.
    pub async fn explain(
        &self,
        examined: &Examined,
        claims: ClaimsOrigin,
        params: &[(String, String)],
        now: UnixMillis,
    ) -> Option<TokenExplanation> {
        let session = examined.session.as_ref()?;
        let parsed = TokenParams::parse(params.iter().map(|(name, value)| (name, value)));
        let client_id = self.identity.client_id(session).await;
        let policy = self.policy.explain(session, parsed.as_ref().unwrap_or(&TokenParams::default()));
        let decided = async {
            if let Some(invalid) = examined.refused {
                return Err(Refusal::from(invalid));
            }
            let params = parsed?;
            let is_unknown = claims == ClaimsOrigin::File && client_id == Err(IdentityError::UsernameUnavailable);
            let assumed = match &params.client_id {
                _ if !is_unknown => client_id.clone(),
                Some(asked) => Ok(asked.clone()),
                None => ClientId::parse("unknown").map_err(IdentityError::InvalidClientId),
            };
            let (client_id, grant) = decide(session, &params, async { assumed }, || policy.outcome.clone()).await?;
            if let Some(api_key) = self.jwt_key.filter(|_| !is_unknown) {
                sign_jwt(api_key, &client_id, &grant, session, self.policy, &params, now)?;
            }
            Ok(())
        };
        let refusal = decided.await.err();
        Some(TokenExplanation { client_id, policy, refusal })
    }
}

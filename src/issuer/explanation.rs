//! Explains the decisions about a session, up to the signature.

use super::{decide, sign_jwt};
use crate::{
    ably::{ApiKey, ClientId, TokenFormat, TokenParams},
    clerk::{Examined, Session},
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
    /// The format of tokens.
    pub format: TokenFormat,
    /// Signs JWTs to measure them. None: the size of JWTs is not checked.
    pub api_key: Option<&'a ApiKey>,
}

/// Where the claims of a session come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claims {
    /// A session token: they are complete.
    All,
    /// A file: a missing username means nothing.
    Some,
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
    /// Explains the decisions about an examined session and these token params.
    pub async fn explain(
        &self,
        examined: &Examined,
        session: &Session,
        claims: Claims,
        params: &[(String, String)],
        now: UnixMillis,
    ) -> TokenExplanation {
        let parsed = TokenParams::parse(params.iter().map(|(name, value)| (name, value)));
        let client_id = self.identity.client_id(session).await;
        let policy = self.policy.explain(session, parsed.as_ref().unwrap_or(&TokenParams::default()));
        let decided = async {
            if let Some(invalid) = examined.refused {
                return Err(invalid.into());
            }
            let params = parsed?;
            let is_unknown = claims == Claims::Some && client_id == Err(IdentityError::UsernameUnavailable);
            let assumed = match &params.client_id {
                _ if !is_unknown => client_id.clone(),
                Some(asked) => Ok(asked.clone()),
                None => ClientId::parse("unknown").map_err(IdentityError::InvalidClientId),
            };
            let grant = || policy.outcome.clone();
            let (client_id, grant) = decide(session, &params, async { assumed }, grant).await?;
            if let Some(api_key) = self.api_key.filter(|_| self.format == TokenFormat::Jwt && !is_unknown) {
                sign_jwt(api_key, &client_id, &grant, session, self.policy, &params, now)?;
            }
            Ok(())
        };
        let refusal: Option<Refusal> = decided.await.err();
        TokenExplanation { client_id, policy, refusal }
    }
}

//! The issuer's line as a rehearsal: every step up to the signature, with reasons, and nobody is served.

use super::{Cause, check_organization, jwt, too_large};
use crate::{
    ably::{ApiKey, ClientId, InvalidTokenParams, TokenFormat, TokenParams},
    clerk::{Examined, Session, Unverified},
    clock::UnixMillis,
    identity::{Identity, IdentityError},
    policy::{Explanation, Grant, Policy},
};

/// What a rehearsal goes by.
#[derive(Clone, Copy, Debug)]
pub struct Rehearsal<'a> {
    /// Makes client IDs.
    pub identity: &'a Identity,
    /// Decides.
    pub policy: &'a Policy,
    /// What tokens are given as.
    pub format: TokenFormat,
    /// Would sign. Without it nobody can tell whether a JWT is too large.
    pub api_key: Option<&'a ApiKey>,
}

/// How much of its session a rehearsal knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claims {
    /// All of it: there is a session token.
    All,
    /// As much as somebody thought worth writing down. That there is no username then says nothing.
    Some,
}

/// How a rehearsal went.
#[derive(Debug)]
pub struct Rehearsed {
    /// Who the user would be on Ably.
    pub client_id: Result<ClientId, IdentityError>,
    /// What the policy says.
    pub explanation: Explanation,
    /// Why there would be no token: the first reason on the line, if there is one.
    pub refusal: Option<Cause>,
}

impl Rehearsal<'_> {
    /// Goes through it for a session that was examined, and for these token params.
    pub async fn run(
        &self,
        examined: &Examined,
        session: &Session,
        claims: Claims,
        params: &[(String, String)],
        now: UnixMillis,
    ) -> Rehearsed {
        let asked = TokenParams::parse(params.iter().map(|(name, value)| (name, value)));
        let client_id = self.identity.client_id(session).await;
        let explanation = self.policy.explain(session, asked.as_ref().unwrap_or(&TokenParams::default()));
        let named = match &client_id {
            Ok(client_id) => Ok(Some(client_id)),
            Err(IdentityError::UsernameOutOfReach) if claims == Claims::Some => Ok(None),
            Err(error) => Err(*error),
        };
        let refusal = self.verdict(examined, session, asked, named, &explanation, now).err();
        Rehearsed { client_id, explanation, refusal }
    }

    /// The order is the issuer's: of several reasons a client reads the first.
    fn verdict(
        &self,
        examined: &Examined,
        session: &Session,
        asked: Result<TokenParams, InvalidTokenParams>,
        client_id: Result<Option<&ClientId>, IdentityError>,
        explanation: &Explanation,
        now: UnixMillis,
    ) -> Result<(), Cause> {
        if let Some(invalid) = examined.refused {
            return Err(Unverified::Invalid(invalid).into());
        }
        let asked = asked?;
        check_organization(session, &asked)?;
        let client_id = client_id?;
        if asked.client_id.as_ref().zip(client_id).is_some_and(|(asked, client_id)| asked != client_id) {
            return Err(Cause::OtherClientId);
        }
        let grant = explanation.outcome.as_ref().map_err(|refusal| *refusal)?;
        if self.format == TokenFormat::Jwt
            && let Some((client_id, api_key)) = client_id.zip(self.api_key)
        {
            let sign = |grant: &Grant| jwt(api_key, client_id, grant, session, now);
            sign(grant).map_err(|error| too_large(error, self.policy, session, &asked, sign))?;
        }
        Ok(())
    }
}

//! The Ably client ID of a session's user, made from a template.

use std::str::FromStr;

use crate::{
    ably::{ClientId, InvalidClientId},
    clerk::{LookupError, Session, Users},
    placeholder::{InvalidPlaceholder, Part, Placeholder},
};

/// A client ID with the placeholders `{username}`, `{user_id}` and `{claim.NAME}`, and literal text around them.
#[derive(Clone, Debug, PartialEq, Eq, derive_more::Display)]
#[display("{text}")]
pub struct ClientIdTemplate {
    text: String,
    parts: Vec<Part>,
}

/// Why a template is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// `{` and `}` do not pair up.
    #[error("a brace has no partner")]
    Braces,
    /// An unknown placeholder.
    #[error("{{{0}}} is unknown: use {{username}}, {{user_id}} or {{claim.NAME}}")]
    Unknown(String),
    /// The client ID would not differ between users.
    #[error("without a placeholder every user would have the same client ID")]
    Constant,
}

impl FromStr for ClientIdTemplate {
    type Err = InvalidTemplate;

    fn from_str(text: &str) -> Result<Self, InvalidTemplate> {
        let parts = Part::parse_all(text).map_err(|error| match error {
            InvalidPlaceholder::Brace => InvalidTemplate::Braces,
            InvalidPlaceholder::Unknown(name) => InvalidTemplate::Unknown(name),
        })?;
        let mut is_constant = true;
        for part in &parts {
            match part {
                Part::Literal(_) => {}
                Part::Placeholder(Placeholder::UserId | Placeholder::Username | Placeholder::Claim(_)) => {
                    is_constant = false;
                }
                Part::Placeholder(other) => return Err(InvalidTemplate::Unknown(other.to_string())),
            }
        }
        if is_constant { Err(InvalidTemplate::Constant) } else { Ok(Self { text: text.to_owned(), parts }) }
    }
}

impl ClientIdTemplate {
    /// Whether the username is part of the client ID.
    #[must_use]
    pub fn needs_username(&self) -> bool {
        self.parts.contains(&Part::Placeholder(Placeholder::Username))
    }

    /// Whether a username, with the user's id, is enough to make the client ID.
    #[must_use]
    pub fn needs_only_username(&self) -> bool {
        let is_claim = |part: &Part| matches!(part, Part::Placeholder(Placeholder::Claim(_)));
        self.needs_username() && !self.parts.iter().any(is_claim)
    }

    /// The client ID of a user in any session. `None` if it depends on a claim, or on a username that is unknown.
    #[must_use]
    pub fn of_user(&self, user_id: &str, username: Option<&str>) -> Option<String> {
        let text_of = |part: &Part| match part {
            Part::Literal(literal) => Some(literal.clone()),
            Part::Placeholder(Placeholder::UserId) => Some(user_id.to_owned()),
            Part::Placeholder(Placeholder::Username) => {
                username.filter(|username| !username.is_empty()).map(str::to_owned)
            }
            Part::Placeholder(_) => None,
        };
        self.parts.iter().map(text_of).collect()
    }
}

/// Why a user gets no client ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says it")]
pub enum IdentityError {
    #[error("the session token has no username claim, and without a secret key the username cannot be looked up")]
    UsernameUnavailable,
    #[error("the user has no username")]
    NoUsername,
    #[error("the user is banned")]
    Banned,
    #[error("the session token lacks a claim of the client ID template")]
    ClaimMissing,
    #[error("the client ID is invalid: {0}")]
    InvalidClientId(#[from] InvalidClientId),
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

/// Makes client IDs.
#[derive(Debug)]
pub struct Identity {
    template: ClientIdTemplate,
    users: Option<Users>,
}

impl Identity {
    /// Makes client IDs from `template`. Without `users`, a username comes only from the session token.
    #[must_use]
    pub fn new(template: ClientIdTemplate, users: Option<Users>) -> Self {
        Self { template, users }
    }

    /// What client IDs are made from.
    #[must_use]
    pub fn template(&self) -> &ClientIdTemplate {
        &self.template
    }

    /// The users, for look-ups.
    #[must_use]
    pub fn users(&self) -> Option<&Users> {
        self.users.as_ref()
    }

    /// The client ID of the session's user. Calls Clerk only for a username that is neither in the session token nor
    /// cached.
    pub async fn client_id(&self, session: &Session) -> Result<ClientId, IdentityError> {
        let mut client_id = String::new();
        for part in &self.template.parts {
            match part {
                Part::Literal(literal) => client_id.push_str(literal),
                Part::Placeholder(placeholder) => match placeholder.value(session).filter(|value| !value.is_empty()) {
                    Some(value) => client_id.push_str(&value),
                    None if *placeholder == Placeholder::Username => {
                        client_id.push_str(&self.look_up_username(session).await?);
                    }
                    None => return Err(IdentityError::ClaimMissing),
                },
            }
        }
        Ok(ClientId::parse(client_id)?)
    }

    async fn look_up_username(&self, session: &Session) -> Result<String, IdentityError> {
        let users = self.users.as_ref().ok_or(IdentityError::UsernameUnavailable)?;
        let user = users.get(&session.user_id).await?;
        if user.banned || user.deprovisioned {
            return Err(IdentityError::Banned);
        }
        user.username.clone().filter(|username| !username.is_empty()).ok_or(IdentityError::NoUsername)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{clerk::Scoped, clock::UnixMillis};

    fn session(claims: &Value) -> Session {
        Session {
            user_id: "user_1".into(),
            session_id: "sess_1".into(),
            issued_at: UnixMillis(0),
            expires_at: UnixMillis(60_000),
            organization: None,
            plans: Scoped::default(),
            features: Scoped::default(),
            factor_age: None,
            actor: None,
            claims: claims.as_object().unwrap().clone().into(),
        }
    }

    #[tokio::test]
    async fn a_template_is_filled_from_the_session() {
        let claims = json!({ "username": "alice", "metadata": { "handle": "al" }, "number": 7, "fraction": 0.5 });
        for (template, result) in [
            ("{username}", Ok("alice")),
            ("{user_id}", Ok("user_1")),
            ("u:{user_id}:{claim.metadata.handle}!", Ok("u:user_1:al!")),
            ("{claim.number}", Ok("7")),
            ("{claim.fraction}", Err(IdentityError::ClaimMissing)),
            ("{claim.missing}", Err(IdentityError::ClaimMissing)),
            ("{claim.metadata}", Err(IdentityError::ClaimMissing)),
        ] {
            let identity = Identity::new(template.parse().unwrap(), None);
            let client_id = identity.client_id(&session(&claims)).await;
            assert_eq!(client_id.as_ref().map(ClientId::as_str), result.as_ref().map(|text| *text), "{template}");
        }
    }

    #[tokio::test]
    async fn a_username_claim_counts_only_as_a_text_that_is_not_empty() {
        let identity = Identity::new("{username}".parse().unwrap(), None);
        for username in [json!(null), json!(""), json!(5), json!(["alice"])] {
            let client_id = identity.client_id(&session(&json!({ "username": username }))).await;
            assert_eq!(client_id, Err(IdentityError::UsernameUnavailable), "{username}");
        }
        for (username, error) in [
            ("*".to_owned(), InvalidClientId::Wildcard),
            ("x".repeat(257), InvalidClientId::TooLong),
            ("alice\n".to_owned(), InvalidClientId::ControlCharacter),
        ] {
            let client_id = identity.client_id(&session(&json!({ "username": username }))).await;
            assert_eq!(client_id, Err(IdentityError::InvalidClientId(error)));
        }
    }

    #[test]
    fn an_invalid_template_is_rejected() {
        for (text, error) in [
            ("", InvalidTemplate::Constant),
            ("everyone", InvalidTemplate::Constant),
            ("{username", InvalidTemplate::Braces),
            ("{user_id}}", InvalidTemplate::Braces),
            ("{email}", InvalidTemplate::Unknown("email".into())),
            ("{claim.}", InvalidTemplate::Unknown("claim.".into())),
            ("{claim.a..b}", InvalidTemplate::Unknown("claim.a..b".into())),
            ("{org_id}", InvalidTemplate::Unknown("org_id".into())),
        ] {
            assert_eq!(text.parse::<ClientIdTemplate>(), Err(error), "{text}");
        }
    }
}

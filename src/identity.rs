//! Who a session's user is on Ably: the client ID, made from a template.

use std::{fmt, str::FromStr, time::Duration};

use serde_json::Value;

use crate::{
    ably::{ClientId, InvalidClientId},
    clerk::{ClaimPath, LookupError, Session, Users},
};

/// A client ID with placeholders: `{username}`, `{user_id}`, `{claim.NAME}`, and literal text around them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdTemplate {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Username,
    UserId,
    Claim(ClaimPath),
}

/// Why a text is not a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// `{` and `}` do not pair up.
    #[error("a brace has no partner")]
    Braces,
    /// A placeholder that is not known.
    #[error("{{{0}}} is not known: use {{username}}, {{user_id}} or {{claim.NAME}}")]
    Unknown(String),
    /// Nothing in it differs from user to user.
    #[error("it has no placeholder, so every user would have the same client ID")]
    Constant,
}

impl FromStr for ClientIdTemplate {
    type Err = InvalidTemplate;

    fn from_str(text: &str) -> Result<Self, InvalidTemplate> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, from_placeholder)) = rest.split_once('{') {
            let (name, after) = from_placeholder.split_once('}').ok_or(InvalidTemplate::Braces)?;
            parts.push(Part::Literal(literal.to_owned()));
            parts.push(Part::placeholder(name)?);
            rest = after;
        }
        parts.push(Part::Literal(rest.to_owned()));
        parts.retain(|part| *part != Part::Literal(String::new()));
        let is_literal = |part: &Part| matches!(part, Part::Literal(_));
        if parts.iter().any(|part| matches!(part, Part::Literal(literal) if literal.contains('}'))) {
            return Err(InvalidTemplate::Braces);
        }
        if parts.iter().all(is_literal) {
            return Err(InvalidTemplate::Constant);
        }
        Ok(Self { text: text.to_owned(), parts })
    }
}

impl Part {
    fn placeholder(name: &str) -> Result<Self, InvalidTemplate> {
        match name.strip_prefix("claim.") {
            Some(path) if !path.is_empty() => Ok(Self::Claim(path.into())),
            None if name == "username" => Ok(Self::Username),
            None if name == "user_id" => Ok(Self::UserId),
            _ => Err(InvalidTemplate::Unknown(name.to_owned())),
        }
    }
}

impl ClientIdTemplate {
    /// Whether the username is part of it.
    #[must_use]
    pub fn needs_username(&self) -> bool {
        self.parts.contains(&Part::Username)
    }

    /// Whether the user's id and username tell the client ID, and no other claim of a session token has a part in it.
    #[must_use]
    pub fn is_told_by_username(&self) -> bool {
        self.needs_username() && !self.parts.iter().any(|part| matches!(part, Part::Claim(_)))
    }

    /// The client ID of a user in whatever session; none if it takes more than the user's id and username, or a username
    /// that there is not.
    #[must_use]
    pub fn of_user(&self, user_id: &str, username: Option<&str>) -> Option<String> {
        let text_of = |part: &Part| match part {
            Part::Literal(literal) => Some(literal.clone()),
            Part::UserId => Some(user_id.to_owned()),
            Part::Username => username.filter(|username| !username.is_empty()).map(str::to_owned),
            Part::Claim(_) => None,
        };
        self.parts.iter().map(text_of).collect()
    }
}

impl fmt::Display for ClientIdTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a user gets no client ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says it")]
pub enum IdentityError {
    #[error("the session token has no username claim and no secret key is configured to look it up")]
    UsernameOutOfReach,
    #[error("the user has no username")]
    NoUsername,
    #[error("the user is banned")]
    Banned,
    #[error("the user does not exist any more")]
    Deleted,
    #[error("the session token lacks a claim of the client ID template")]
    ClaimMissing,
    #[error("the client ID cannot be one: {0}")]
    NotAClientId(InvalidClientId),
    #[error("Clerk cannot be asked about the user now")]
    Unavailable(Duration),
}

/// Makes client IDs.
#[derive(Debug)]
pub struct Identity {
    template: ClientIdTemplate,
    users: Option<Users>,
}

impl Identity {
    /// Client IDs by `template`. Without `users` a username can only come from the session token.
    #[must_use]
    pub fn new(template: ClientIdTemplate, users: Option<Users>) -> Self {
        Self { template, users }
    }

    /// What client IDs are made from.
    #[must_use]
    pub fn template(&self) -> &ClientIdTemplate {
        &self.template
    }

    /// The users that it looks up, if it does.
    #[must_use]
    pub fn users(&self) -> Option<&Users> {
        self.users.as_ref()
    }

    /// The client ID of the session's user. Asks Clerk only for a username that is neither in the session token nor
    /// remembered.
    pub async fn client_id(&self, session: &Session) -> Result<ClientId, IdentityError> {
        let mut client_id = String::new();
        for part in &self.template.parts {
            match part {
                Part::Literal(literal) => client_id.push_str(literal),
                Part::UserId => client_id.push_str(&session.user_id),
                Part::Username => client_id.push_str(&self.username(session).await?),
                Part::Claim(path) => {
                    client_id.push_str(&claim_text(session, path).ok_or(IdentityError::ClaimMissing)?);
                }
            }
        }
        ClientId::parse(client_id).map_err(IdentityError::NotAClientId)
    }

    async fn username(&self, session: &Session) -> Result<String, IdentityError> {
        if let Some(Value::String(username)) = session.claims.get("username")
            && !username.is_empty()
        {
            return Ok(username.clone());
        }
        let users = self.users.as_ref().ok_or(IdentityError::UsernameOutOfReach)?;
        let user = users.get(&session.user_id).await.map_err(|error| match error {
            LookupError::Deleted => IdentityError::Deleted,
            LookupError::Unavailable(retry_after) => IdentityError::Unavailable(retry_after),
        })?;
        if user.banned || user.deprovisioned {
            return Err(IdentityError::Banned);
        }
        user.username.clone().filter(|username| !username.is_empty()).ok_or(IdentityError::NoUsername)
    }
}

/// A claim that names someone: a text that is not empty, or a whole number.
fn claim_text(session: &Session, path: &ClaimPath) -> Option<String> {
    match session.claim(path)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
            claims: claims.as_object().unwrap().clone(),
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
            assert_eq!(client_id, Err(IdentityError::UsernameOutOfReach), "{username}");
        }
        for (username, error) in [
            ("*".to_owned(), InvalidClientId::Wildcard),
            ("x".repeat(257), InvalidClientId::TooLong),
            ("alice\n".to_owned(), InvalidClientId::ControlCharacter),
        ] {
            let client_id = identity.client_id(&session(&json!({ "username": username }))).await;
            assert_eq!(client_id, Err(IdentityError::NotAClientId(error)));
        }
    }

    #[test]
    fn a_text_that_is_no_template_is_refused() {
        for (text, error) in [
            ("", InvalidTemplate::Constant),
            ("everyone", InvalidTemplate::Constant),
            ("{username", InvalidTemplate::Braces),
            ("{user_id}}", InvalidTemplate::Braces),
            ("{email}", InvalidTemplate::Unknown("email".into())),
            ("{claim.}", InvalidTemplate::Unknown("claim.".into())),
        ] {
            assert_eq!(text.parse::<ClientIdTemplate>(), Err(error), "{text}");
        }
    }
}

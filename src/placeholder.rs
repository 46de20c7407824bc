//! Placeholders in configured texts, like `{user_id}`. Client IDs and the resources of a policy share them.

use std::{borrow::Cow, str::FromStr};

use serde_json::Value;

use crate::clerk::{ClaimPath, Session};

/// A part of a text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Literal(String),
    Placeholder(Placeholder),
}

/// A value of a session.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, derive_more::Display)]
#[display(rename_all = "snake_case")]
pub(crate) enum Placeholder {
    UserId,
    Username,
    SessionId,
    OrgId,
    OrgSlug,
    OrgRole,
    #[display("claim.{_0}")]
    Claim(ClaimPath),
}

/// Why a text with placeholders is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InvalidPlaceholder {
    /// A `{` or `}` without its partner.
    Brace,
    /// An unknown name between braces.
    Unknown(String),
}

impl Part {
    /// Splits a text into its parts. No literal is empty.
    pub(crate) fn parse_all(text: &str) -> Result<Vec<Self>, InvalidPlaceholder> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, from_name)) = rest.split_once('{') {
            let (name, after) = from_name.split_once('}').ok_or(InvalidPlaceholder::Brace)?;
            if literal.contains('}') || name.contains('{') {
                return Err(InvalidPlaceholder::Brace);
            }
            let placeholder = name.parse().map_err(|()| InvalidPlaceholder::Unknown(name.to_owned()))?;
            parts.extend([Self::Literal(literal.to_owned()), Self::Placeholder(placeholder)]);
            rest = after;
        }
        if rest.contains('}') {
            return Err(InvalidPlaceholder::Brace);
        }
        parts.push(Self::Literal(rest.to_owned()));
        parts.retain(|part| !matches!(part, Self::Literal(literal) if literal.is_empty()));
        Ok(parts)
    }
}

impl FromStr for Placeholder {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        const NAMED: [Placeholder; 6] = [
            Placeholder::UserId,
            Placeholder::Username,
            Placeholder::SessionId,
            Placeholder::OrgId,
            Placeholder::OrgSlug,
            Placeholder::OrgRole,
        ];
        let path = name.strip_prefix("claim.").filter(|path| path.split('.').all(|step| !step.is_empty()));
        let named = || NAMED.into_iter().find(|placeholder| placeholder.to_string() == name);
        path.map(|path| Self::Claim(path.into())).or_else(named).ok_or(())
    }
}

impl Placeholder {
    /// The session's value: a text, which may be empty, or a whole number.
    pub(crate) fn value<'a>(&self, session: &'a Session) -> Option<Cow<'a, str>> {
        let organization = session.organization.as_ref();
        let text: &str = match self {
            Self::UserId => &session.user_id,
            Self::SessionId => &session.session_id,
            Self::OrgId => &organization?.id,
            Self::OrgSlug => organization?.slug.as_deref()?,
            // The colon of the prefix would end a segment.
            Self::OrgRole => organization?.role_name()?,
            Self::Username => session.claims.get("username")?.as_str()?,
            Self::Claim(path) => match session.claim(path)? {
                Value::String(text) => text,
                Value::Number(number) if number.is_i64() || number.is_u64() => return Some(number.to_string().into()),
                _ => return None,
            },
        };
        Some(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_split_at_its_placeholders() {
        let literal = |text: &str| Part::Literal(text.into());
        let claim = |path: &str| Part::Placeholder(Placeholder::Claim(path.into()));
        for (text, parts) in [
            ("", vec![]),
            ("a:b", vec![literal("a:b")]),
            ("{username}", vec![Part::Placeholder(Placeholder::Username)]),
            ("a{claim.b.c}{claim.d:e}!", vec![literal("a"), claim("b.c"), claim("d:e"), literal("!")]),
        ] {
            assert_eq!(Part::parse_all(text), Ok(parts), "{text}");
        }
    }

    #[test]
    fn a_brace_without_a_partner_and_an_unknown_name_are_invalid() {
        for text in ["{", "}", "{user_id", "user_id}", "{user_id}}", "{{user_id}", "{{user_id}}", "}{user_id}"] {
            assert_eq!(Part::parse_all(text), Err(InvalidPlaceholder::Brace), "{text}");
        }
        for name in ["", "email", "claim", "claim.", "claim.a..b", "claim..a", "claim.a.", "USER_ID"] {
            let invalid = Err(InvalidPlaceholder::Unknown(name.into()));
            assert_eq!(Part::parse_all(&format!("a{{{name}}}")), invalid, "{name}");
        }
    }
}

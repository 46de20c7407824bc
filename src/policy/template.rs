//! Resources with placeholders. A value of a session becomes exactly one literal segment, or the resource drops out, so
//! that a user's name never reaches other users' channels.

use std::str::FromStr;

use serde::Serialize;

use crate::{
    clerk::Session,
    placeholder::{InvalidPlaceholder, Part, Placeholder},
};

/// A resource with placeholders, like `org:{org_id}:*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, derive_more::Display)]
#[display("{text}")]
pub struct ResourceTemplate {
    text: String,
    parts: Vec<Part>,
}

/// Why a resource is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidResource {
    /// An empty name.
    #[error("the name is empty")]
    Empty,
    /// Two colons in a row, or one at an end.
    #[error("an empty segment: channel names cannot have one; write a name between two colons")]
    EmptySegment,
    /// `[` without `]`, or without a name after it.
    #[error("a qualifier is a word in brackets before the name, like [meta]log")]
    Qualifier,
    /// An unknown qualifier.
    #[error("[{0}] is not a qualifier of Ably's: use [meta], [queue] or [*]")]
    UnknownQualifier(String),
    /// The obsolete qualifier `[chat]`, with the name of the room.
    #[error("[chat] is obsolete: a Chat room is covered by its name, without a qualifier; write {0:?}")]
    ObsoleteChat(String),
    /// The channel of a Chat room, with the name of the room.
    #[error("the channel of a Chat room is covered by the name of the room; write {0:?}")]
    ChatChannel(String),
    /// Occupancy is an event of the channel itself.
    #[error(
        "[meta]occupancy grants nothing: occupancy events arrive on the channel itself; add the operation \
         \"channel-metadata\" to the channel's own resource"
    )]
    Occupancy,
    /// A `*` within a segment.
    #[error("Ably takes {0:?} for a literal name, not a pattern: * stands for a whole segment, as in {1:?}")]
    PartialWildcard(String, String),
    /// A placeholder within a segment, or a lone brace.
    #[error("{0:?}: a placeholder fills a whole segment, from colon to colon, as in \"chat:{{user_id}}\"")]
    PartialPlaceholder(String),
    /// An unknown placeholder.
    #[error(
        "{{{0}}} is unknown: use {{user_id}}, {{username}}, {{session_id}}, {{org_id}}, {{org_slug}}, \
         {{org_role}} or {{claim.PATH}}"
    )]
    UnknownPlaceholder(String),
    /// A value that a user or an organization chooses comes first, or only after wildcards.
    #[error(
        "{{{0}}} needs a literal segment before it, or {{user_id}}, {{session_id}} or {{org_id}}: a user or an \
         organization chooses its value, which could be the name of any namespace or channel"
    )]
    ChosenFirst(String),
    /// A line break or the like.
    #[error("a control character, which channel names cannot have")]
    ControlCharacter,
}

/// Why a resource drops out of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Unfit {
    /// Missing, or neither a text nor a whole number.
    #[error("the session has no such value")]
    Missing,
    /// Empty.
    #[error("the value is empty")]
    Empty,
    /// It would be more than one segment, or a pattern.
    #[error("the value has a character that is not allowed: one of : * [ ] , or a control character")]
    Forbidden,
}

impl FromStr for ResourceTemplate {
    type Err = InvalidResource;

    fn from_str(text: &str) -> Result<Self, InvalidResource> {
        if text.is_empty() {
            return Err(InvalidResource::Empty);
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidResource::ControlCharacter);
        }
        reject_what_grants_nothing(text)?;
        // Whether an earlier segment is fixed: neither a wildcard nor chosen by a user or an organization.
        let mut is_anchored = false;
        for segment in without_qualifier(text)?.split(':') {
            is_anchored |= match placeholder(segment)? {
                Some(chosen) if !is_anchored && !is_generated(&chosen) => {
                    return Err(InvalidResource::ChosenFirst(chosen.to_string()));
                }
                Some(_) => true,
                None => segment != "*",
            };
        }
        let parts = Part::parse_all(text).map_err(|_| InvalidResource::PartialPlaceholder(text.to_owned()))?;
        Ok(Self { text: text.to_owned(), parts })
    }
}

/// Rejects names that look valid, but grant nothing at Ably.
pub fn reject_what_grants_nothing(name: &str) -> Result<(), InvalidResource> {
    let (is_obsolete, path) = name.strip_prefix("[chat]").map_or((false, name), |path| (true, path));
    let room = path.strip_suffix("::$chat");
    match name.strip_prefix("[meta]").and_then(|path| path.split(':').next()) {
        Some("occupancy") => Err(InvalidResource::Occupancy),
        _ if is_obsolete => {
            let room = room.unwrap_or(path);
            Err(InvalidResource::ObsoleteChat(if room.is_empty() { "*" } else { room }.to_owned()))
        }
        _ => room.map_or(Ok(()), |room| Err(InvalidResource::ChatChannel(room.to_owned()))),
    }
}

fn without_qualifier(text: &str) -> Result<&str, InvalidResource> {
    let Some(rest) = text.strip_prefix('[') else { return Ok(text) };
    match rest.split_once(']').ok_or(InvalidResource::Qualifier)? {
        ("", _) | ("meta" | "queue" | "*", "") => Err(InvalidResource::Qualifier),
        ("meta" | "queue" | "*", path) => Ok(path),
        (other, _) => Err(InvalidResource::UnknownQualifier(other.to_owned())),
    }
}

/// The placeholder that fills a segment, or `None` for a literal or `*`.
fn placeholder(segment: &str) -> Result<Option<Placeholder>, InvalidResource> {
    if segment.is_empty() {
        return Err(InvalidResource::EmptySegment);
    }
    match Part::parse_all(segment) {
        Ok(parts) => match <[Part; 1]>::try_from(parts) {
            Ok([Part::Placeholder(placeholder)]) => Ok(Some(placeholder)),
            Ok([Part::Literal(literal)]) if literal != "*" && literal.contains('*') => {
                let names = literal.split('*').filter(|name| !name.is_empty());
                let meant = names.chain(["*"]).collect::<Vec<_>>().join(":");
                Err(InvalidResource::PartialWildcard(literal, meant))
            }
            Ok([Part::Literal(_)]) => Ok(None),
            Err(_) => Err(InvalidResource::PartialPlaceholder(segment.to_owned())),
        },
        Err(InvalidPlaceholder::Unknown(name)) if segment.len() == name.len() + 2 => {
            Err(InvalidResource::UnknownPlaceholder(name))
        }
        Err(_) => Err(InvalidResource::PartialPlaceholder(segment.to_owned())),
    }
}

/// Whether Clerk generates the value, so that users cannot choose it.
fn is_generated(placeholder: &Placeholder) -> bool {
    matches!(placeholder, Placeholder::UserId | Placeholder::SessionId | Placeholder::OrgId)
}

impl ResourceTemplate {
    /// Fills in the session's values. The error names the first placeholder without a usable value, and why.
    pub fn fill(&self, session: &Session) -> Result<String, (String, Unfit)> {
        let mut name = String::with_capacity(self.text.len() + 32);
        for part in &self.parts {
            match part {
                Part::Literal(literal) => name.push_str(literal),
                Part::Placeholder(placeholder) => {
                    let unfit = |why| (format!("{{{placeholder}}}"), why);
                    let value = placeholder.value(session).ok_or_else(|| unfit(Unfit::Missing))?;
                    name.push_str(check_segment(&value).map_err(unfit)?);
                }
            }
        }
        Ok(name)
    }

    /// The text of the template.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Checks that a value is one literal segment.
fn check_segment(value: &str) -> Result<&str, Unfit> {
    const FORBIDDEN: [char; 5] = [':', '*', '[', ']', ','];
    if value.is_empty() {
        return Err(Unfit::Empty);
    }
    // The fast path for nearly every value: without a branch, it checks several bytes at a time.
    let is_plain = |byte: u8| matches!(byte, b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'_' | b'-');
    let is_all_plain = value.bytes().fold(true, |plain, byte| plain & is_plain(byte));
    if !is_all_plain && value.contains(|c: char| FORBIDDEN.contains(&c) || c.is_control()) {
        return Err(Unfit::Forbidden);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{clerk::Organization, policy::tests::session};

    const PLACEHOLDERS: [&str; 7] =
        ["user_id", "username", "session_id", "org_id", "org_slug", "org_role", "claim.metadata.handle"];

    /// A session with this value for every placeholder.
    fn session_of(value: &str) -> Session {
        let mut session = session(&json!({ "username": value, "metadata": { "handle": value } }));
        session.user_id = value.into();
        session.session_id = value.into();
        session.organization = Some(Organization {
            id: value.into(),
            slug: Some(value.into()),
            role: Some(value.into()),
            permissions: None,
        });
        session
    }

    fn fill(template: &str, session: &Session) -> Result<String, (String, Unfit)> {
        template.parse::<ResourceTemplate>().unwrap().fill(session)
    }

    #[test]
    fn placeholders_are_filled_from_the_session() {
        let session = session(&json!({
            "v": 2, "username": "alice", "metadata": { "team": 7, "tags": ["a"], "ratio": 0.5 },
            "o": { "id": "org_1", "slg": "acme", "rol": "admin" },
        }));
        for (template, filled) in [
            ("chat:*", "chat:*"),
            ("*", "*"),
            ("[*]*", "[*]*"),
            ("[meta]log:{user_id}", "[meta]log:user_1"),
            ("{user_id}", "user_1"),
            ("{user_id}:{session_id}", "user_1:sess_1"),
            ("{org_id}:*:{username}", "org_1:*:alice"),
            ("o:{org_slug}:{org_role}", "o:acme:admin"),
            ("team:{claim.metadata.team}:*", "team:7:*"),
            ("*:team:{username}", "*:team:alice"),
            ("*:{user_id}:{username}", "*:user_1:alice"),
        ] {
            assert_eq!(fill(template, &session).as_deref(), Ok(filled), "{template}");
        }
        for path in ["metadata.tags", "metadata.ratio", "metadata", "missing", "username.deeper"] {
            let placeholder = format!("{{claim.{path}}}");
            assert_eq!(fill(&format!("a:{placeholder}"), &session), Err((placeholder, Unfit::Missing)));
        }
    }

    #[test]
    fn a_value_that_is_not_one_literal_segment_makes_the_resource_drop_out() {
        for placeholder in PLACEHOLDERS {
            for (value, why) in [
                ("", Unfit::Empty),
                ("a:b", Unfit::Forbidden),
                (":", Unfit::Forbidden),
                ("*", Unfit::Forbidden),
                ("a*", Unfit::Forbidden),
                ("[meta]a", Unfit::Forbidden),
                ("a]", Unfit::Forbidden),
                ("a,b", Unfit::Forbidden),
                ("a\n", Unfit::Forbidden),
                ("a\u{0}", Unfit::Forbidden),
                ("a\u{85}", Unfit::Forbidden),
            ] {
                let template = format!("a:{{{placeholder}}}:*");
                assert_eq!(fill(&template, &session_of(value)), Err((format!("{{{placeholder}}}"), why)), "{value:?}");
            }
        }
        let without_claims = session(&json!({}));
        for placeholder in ["username", "org_id", "org_slug", "org_role", "claim.metadata.handle"] {
            assert_eq!(fill(&format!("a:{{{placeholder}}}"), &without_claims).unwrap_err().1, Unfit::Missing);
        }
    }

    #[test]
    fn an_invalid_template_is_rejected_with_its_reason() {
        use InvalidResource as Invalid;
        for (text, error) in [
            ("", Invalid::Empty),
            ("a::b", Invalid::EmptySegment),
            (":a", Invalid::EmptySegment),
            ("a:", Invalid::EmptySegment),
            ("[meta", Invalid::Qualifier),
            ("[meta]", Invalid::Qualifier),
            ("[]a", Invalid::Qualifier),
            ("[mta]a", Invalid::UnknownQualifier("mta".into())),
            ("[{user_id}]a", Invalid::UnknownQualifier("{user_id}".into())),
            ("[chat]lobby", Invalid::ObsoleteChat("lobby".into())),
            ("[chat]rooms:{user_id}", Invalid::ObsoleteChat("rooms:{user_id}".into())),
            ("[chat]*", Invalid::ObsoleteChat("*".into())),
            ("[chat]", Invalid::ObsoleteChat("*".into())),
            ("[chat]lobby::$chat", Invalid::ObsoleteChat("lobby".into())),
            ("lobby::$chat", Invalid::ChatChannel("lobby".into())),
            ("rooms:*::$chat", Invalid::ChatChannel("rooms:*".into())),
            ("[meta]occupancy", Invalid::Occupancy),
            ("[meta]occupancy:fleet:{org_id}", Invalid::Occupancy),
            ("foo*", Invalid::PartialWildcard("foo*".into(), "foo:*".into())),
            ("a:**", Invalid::PartialWildcard("**".into(), "*".into())),
            ("a:b-{user_id}", Invalid::PartialPlaceholder("b-{user_id}".into())),
            ("a:{user_id}{org_id}", Invalid::PartialPlaceholder("{user_id}{org_id}".into())),
            ("a:{user_id", Invalid::PartialPlaceholder("{user_id".into())),
            ("a:user_id}", Invalid::PartialPlaceholder("user_id}".into())),
            ("a:{email}", Invalid::UnknownPlaceholder("email".into())),
            ("a:{}", Invalid::UnknownPlaceholder(String::new())),
            ("a:{claim.}", Invalid::UnknownPlaceholder("claim.".into())),
            ("a:{claim.a..b}", Invalid::UnknownPlaceholder("claim.a..b".into())),
            ("{username}", Invalid::ChosenFirst("username".into())),
            ("{org_slug}:*", Invalid::ChosenFirst("org_slug".into())),
            ("{org_role}:*", Invalid::ChosenFirst("org_role".into())),
            ("[meta]{claim.x}:*", Invalid::ChosenFirst("claim.x".into())),
            ("*:{username}", Invalid::ChosenFirst("username".into())),
            ("*:*:{org_slug}:a", Invalid::ChosenFirst("org_slug".into())),
            ("[*]*:{claim.x}", Invalid::ChosenFirst("claim.x".into())),
            ("a:\nb", Invalid::ControlCharacter),
        ] {
            assert_eq!(text.parse::<ResourceTemplate>(), Err(error), "{text}");
        }
    }

    /// Strings of all kinds, many with characters that have a meaning in a resource.
    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "\\PC{0,12}",
            prop::collection::vec(
                prop::sample::select(&[":", "*", "[", "]", ",", "{", "}", "a", "meta", "\n", "é"]),
                0..6
            )
            .prop_map(|parts| parts.concat()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn no_value_adds_a_segment_a_wildcard_or_a_qualifier(value in value()) {
            let session = session_of(&value);
            for placeholder in PLACEHOLDERS {
                let Ok(filled) = fill(&format!("a:{{{placeholder}}}:b:*"), &session) else { continue };
                let segments: Vec<_> = filled.split(':').collect();
                let expected = if placeholder == "org_role" { value.trim_start_matches("org:") } else { &value };
                prop_assert_eq!(&segments, &["a", expected, "b", "*"]);
                prop_assert!(!segments[1].is_empty() && !segments[1].contains(['*', '[', ']', ',']));
            }
            for generated in ["user_id", "session_id", "org_id"] {
                if let Ok(filled) = fill(&format!("{{{generated}}}:b"), &session) {
                    prop_assert_eq!(filled.split(':').collect::<Vec<_>>(), [value.as_str(), "b"]);
                    prop_assert!(!filled.starts_with('['));
                }
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic_and_what_it_takes_has_no_empty_segment(text in value()) {
            if let Ok(template) = text.parse::<ResourceTemplate>() {
                prop_assert!(template.as_str().split(':').all(|segment| !segment.is_empty()));
            }
        }

        #[test]
        fn no_value_reaches_the_channel_of_another(value in value(), other in value()) {
            prop_assume!(!other.is_empty() && value != other);
            let session = session_of(&value);
            for placeholder in PLACEHOLDERS.into_iter().filter(|placeholder| *placeholder != "org_role") {
                let Ok(filled) = fill(&format!("private:{{{placeholder}}}:*"), &session) else { continue };
                let capability = json!({ filled: ["*"] }).to_string();
                let mine = format!("private:{value}:inbox");
                prop_assert!(sandbox::ably::allows(&capability, &mine, "publish"));
                let other = other.split(':').next().filter(|segment| *segment != value).unwrap_or("other");
                for theirs in [format!("private:{other}:inbox"), format!("private:{other}"), "public".into(), "[meta]log".into()] {
                    prop_assert!(!sandbox::ably::allows(&capability, &theirs, "publish"), "{} on {}", capability, theirs);
                }
            }
        }
    }
}

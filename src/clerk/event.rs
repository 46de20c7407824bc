//! Clerk's webhook events that end or change a user's access.

use std::time::Duration;

use serde_json::Value;

use super::backend_api::User;
use crate::clock::UnixMillis;

/// An event at Clerk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The time by Clerk's clock. It orders events, as deliveries arrive in any order, and some twice.
    pub at: UnixMillis,
    /// The change.
    pub change: Change,
}

/// The change that an event reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A session ended: `session.ended`, `session.removed`, `session.revoked`.
    SessionEnded {
        /// `sess_…`
        session_id: String,
        /// `user_…`, if the event contains it.
        user_id: Option<String>,
        /// The user's username, if the event contains it.
        username: Option<String>,
    },
    /// A user changed: `user.updated`.
    UserUpdated(User),
    /// A user was deleted: `user.deleted`.
    UserDeleted {
        /// `user_…`
        user_id: String,
    },
    /// A user's role in an organization changed, or they left it: `organizationMembership.updated`,
    /// `organizationMembership.deleted`.
    MembershipChanged {
        /// `user_…`
        user_id: String,
        /// `org_…`
        organization_id: String,
    },
    /// An organization was deleted: `organization.deleted`.
    OrganizationDeleted {
        /// `org_…`
        organization_id: String,
    },
}

/// Why an event is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedEvent {
    /// The body is not JSON.
    #[error("the body is not JSON")]
    NotJson,
    /// A required field is missing or of the wrong type.
    #[error("`{0}` is missing or of the wrong type")]
    Field(&'static str),
    /// In the future: it would override every later event.
    #[error("the timestamp {0} is more than 5 minutes ahead")]
    Ahead(i64),
    /// Before Clerk existed.
    #[error("the timestamp {0} is before 2020")]
    TooOld(i64),
}

impl Change {
    /// The user that changed.
    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        match self {
            Self::SessionEnded { user_id, .. } => user_id.as_deref(),
            Self::UserDeleted { user_id } | Self::MembershipChanged { user_id, .. } => Some(user_id),
            Self::UserUpdated(user) => Some(&user.id),
            Self::OrganizationDeleted { .. } => None,
        }
    }

    /// The change in words, for the log.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::SessionEnded { .. } => "session ended",
            Self::UserUpdated(user) if user.banned || user.deprovisioned => "user banned",
            Self::UserUpdated(_) => "user updated",
            Self::UserDeleted { .. } => "user deleted",
            Self::MembershipChanged { .. } => "membership changed",
            Self::OrganizationDeleted { .. } => "organization deleted",
        }
    }
}

impl Event {
    /// The tolerance for Clerk's clock, the same as for a delivery's timestamp.
    const TOLERANCE: Duration = Duration::from_mins(5);
    /// 2020-01-01T00:00:00Z.
    const EARLIEST: UnixMillis = UnixMillis(1_577_836_800_000);
    /// A timestamp below this is in seconds, as in Clerk's published examples. In milliseconds it would be in 1973.
    const MIN_MILLIS: i64 = 100_000_000_000;

    /// Parses the body of a verified delivery. `None` for an event without effect here.
    pub fn parse(body: &[u8], now: UnixMillis) -> Result<Option<Self>, MalformedEvent> {
        let body = EventBody(serde_json::from_slice(body).map_err(|_| MalformedEvent::NotJson)?);
        let change = match body.text("type")?.as_str() {
            "session.ended" | "session.removed" | "session.revoked" => Change::SessionEnded {
                session_id: body.text("data.id")?,
                user_id: body.text("data.user_id").ok(),
                username: body.text("data.user.username").ok(),
            },
            "user.updated" => Change::UserUpdated(body.user()?),
            // Clerk may leave out the id of an unknown user.
            "user.deleted" if body.find("data.id").is_none() => return Ok(None),
            "user.deleted" => Change::UserDeleted { user_id: body.text("data.id")? },
            "organizationMembership.updated" | "organizationMembership.deleted" => Change::MembershipChanged {
                user_id: body.text("data.public_user_data.user_id")?,
                organization_id: body.text("data.organization.id")?,
            },
            "organization.deleted" => Change::OrganizationDeleted { organization_id: body.text("data.id")? },
            _ => return Ok(None),
        };
        let timestamp = body.integer("timestamp")?;
        let at = Self::at(timestamp, body.integer("data.updated_at").ok());
        if at > now.after(Self::TOLERANCE) {
            return Err(MalformedEvent::Ahead(timestamp));
        }
        if at < Self::EARLIEST {
            return Err(MalformedEvent::TooOld(timestamp));
        }
        Ok(Some(Self { at, change }))
    }

    /// The time of an event. For a timestamp in whole seconds, `updated_at` is more precise, if it lies in that second.
    fn at(timestamp: i64, updated_at: Option<i64>) -> UnixMillis {
        let at = if timestamp < Self::MIN_MILLIS { timestamp.saturating_mul(1000) } else { timestamp };
        let is_whole_second = at % 1000 == 0;
        UnixMillis(
            updated_at.filter(|updated_at| is_whole_second && updated_at.div_euclid(1000) == at / 1000).unwrap_or(at),
        )
    }
}

/// The body of a delivery. A field that is null counts as missing.
struct EventBody(Value);

impl EventBody {
    fn find(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(&self.0, |value, name| value.get(name)).filter(|value| !value.is_null())
    }

    fn text(&self, path: &'static str) -> Result<String, MalformedEvent> {
        self.find(path).and_then(Value::as_str).map(str::to_owned).ok_or(MalformedEvent::Field(path))
    }

    fn integer(&self, path: &'static str) -> Result<i64, MalformedEvent> {
        self.find(path).and_then(Value::as_i64).ok_or(MalformedEvent::Field(path))
    }

    /// False if missing.
    fn flag(&self, path: &'static str) -> Result<bool, MalformedEvent> {
        self.find(path).map_or(Ok(false), |value| value.as_bool().ok_or(MalformedEvent::Field(path)))
    }

    fn user(&self) -> Result<User, MalformedEvent> {
        let (banned, deprovisioned) = (self.flag("data.banned")?, self.flag("data.deprovisioned")?);
        // With null the user has no username; without the field it is unknown.
        let username = match self.0.pointer("/data/username") {
            Some(Value::Null) => None,
            // A ban takes effect without it.
            _ if banned || deprovisioned => self.text("data.username").ok(),
            _ => Some(self.text("data.username")?),
        };
        Ok(User { id: self.text("data.id")?, username, banned, deprovisioned })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_795_290_000_000);

    fn parse(r#type: &str, data: &Value) -> Result<Option<Change>, MalformedEvent> {
        let event = parse_at(r#type, NOW.0 - 5, data)?;
        assert!(event.iter().all(|event| event.at == UnixMillis(NOW.0 - 5)));
        Ok(event.map(|event| event.change))
    }

    fn parse_at(r#type: &str, at: i64, data: &Value) -> Result<Option<Event>, MalformedEvent> {
        let body = json!({ "type": r#type, "object": "event", "timestamp": at, "instance_id": "ins_1", "data": data });
        Event::parse(body.to_string().as_bytes(), NOW)
    }

    #[test]
    fn each_relevant_event_is_parsed() {
        let session =
            json!({ "id": "sess_1", "user_id": "user_1", "user": { "username": "alice" }, "status": "ended" });
        let ended = Change::SessionEnded {
            session_id: "sess_1".into(),
            user_id: Some("user_1".into()),
            username: Some("alice".into()),
        };
        for name in ["session.ended", "session.removed", "session.revoked"] {
            assert_eq!(parse(name, &session), Ok(Some(ended.clone())));
        }
        let user = json!({ "id": "user_1", "username": null, "banned": true, "updated_at": 7, "deprovisioned": false });
        let known = User { id: "user_1".into(), username: None, banned: true, deprovisioned: false };
        assert_eq!(parse("user.updated", &user), Ok(Some(Change::UserUpdated(known))));
        let deleted = Change::UserDeleted { user_id: "user_1".into() };
        assert_eq!(
            parse("user.deleted", &json!({ "object": "user", "deleted": true, "id": "user_1" })),
            Ok(Some(deleted))
        );
        assert_eq!(parse("user.deleted", &json!({ "object": "user", "deleted": true })), Ok(None));
        let membership = json!({
            "organization": { "id": "org_1" }, "public_user_data": { "user_id": "user_1" }, "role": "org:member",
        });
        let changed = Change::MembershipChanged { user_id: "user_1".into(), organization_id: "org_1".into() };
        for name in ["organizationMembership.updated", "organizationMembership.deleted"] {
            assert_eq!(parse(name, &membership), Ok(Some(changed.clone())));
        }
        let deleted = Change::OrganizationDeleted { organization_id: "org_1".into() };
        assert_eq!(parse("organization.deleted", &json!({ "id": "org_1", "deleted": true })), Ok(Some(deleted)));
    }

    #[test]
    fn an_event_takes_effect_without_the_fields_that_it_does_not_need() {
        let ended = Change::SessionEnded { session_id: "sess_1".into(), user_id: None, username: None };
        assert_eq!(parse("session.ended", &json!({ "id": "sess_1" })), Ok(Some(ended.clone())));
        let data = json!({ "id": "sess_1", "user_id": null, "user": null });
        assert_eq!(parse("session.ended", &data), Ok(Some(ended)));
        for (flag, banned) in [("banned", true), ("deprovisioned", false)] {
            let banned_user = User { id: "user_1".into(), username: None, banned, deprovisioned: !banned };
            let data = json!({ "id": "user_1", flag: true });
            assert_eq!(parse("user.updated", &data), Ok(Some(Change::UserUpdated(banned_user))), "{flag}");
        }
        for timestamp in [json!(1.5), json!("2026"), Value::Null] {
            let body = json!({ "type": "email.created", "timestamp": timestamp, "data": {} });
            assert_eq!(Event::parse(body.to_string().as_bytes(), NOW), Ok(None));
        }
    }

    #[test]
    fn an_optional_field_that_is_missing_or_null_has_its_default() {
        let user = User { id: "user_1".into(), username: Some("alice".into()), banned: false, deprovisioned: false };
        for data in [
            json!({ "id": "user_1", "username": "alice" }),
            json!({ "id": "user_1", "username": "alice", "banned": null, "deprovisioned": null, "updated_at": null }),
        ] {
            assert_eq!(parse("user.updated", &data), Ok(Some(Change::UserUpdated(user.clone()))));
        }
    }

    #[test]
    fn events_without_effect_are_ignored() {
        for name in ["session.created", "user.created", "email.created", "organization.created", ""] {
            assert_eq!(parse(name, &json!({})), Ok(None));
        }
    }

    #[test]
    fn a_required_field_that_is_missing_or_of_another_type_is_named() {
        for (name, data, field) in [
            ("session.ended", json!({ "user_id": "user_1" }), "data.id"),
            ("session.ended", Value::Null, "data.id"),
            ("user.updated", json!({ "username": "alice" }), "data.id"),
            // Unlike null, which means a user without a username.
            ("user.updated", json!({ "id": "user_1", "banned": false }), "data.username"),
            ("user.updated", json!({ "id": "user_1", "username": 5 }), "data.username"),
            ("user.updated", json!({ "id": "user_1", "username": "alice", "banned": "yes" }), "data.banned"),
            ("user.deleted", json!({ "id": 5 }), "data.id"),
            ("organization.deleted", json!({}), "data.id"),
            ("organizationMembership.deleted", json!({ "organization": "org_1" }), "data.public_user_data.user_id"),
            (
                "organizationMembership.updated",
                json!({ "organization": {}, "public_user_data": { "user_id": "user_1" } }),
                "data.organization.id",
            ),
        ] {
            assert_eq!(parse(name, &data), Err(MalformedEvent::Field(field)), "{name} {data}");
        }
        for (body, malformed) in [
            ("", MalformedEvent::NotJson),
            ("null", MalformedEvent::Field("type")),
            ("[]", MalformedEvent::Field("type")),
            ("{\"type\": 5}", MalformedEvent::Field("type")),
            ("{\"type\": \"user.deleted\", \"data\": {\"id\": \"user_1\"}}", MalformedEvent::Field("timestamp")),
        ] {
            assert_eq!(Event::parse(body.as_bytes(), NOW), Err(malformed), "{body}");
        }
        assert_eq!(MalformedEvent::Field("data.id").to_string(), "`data.id` is missing or of the wrong type");
    }

    #[test]
    fn a_timestamp_in_seconds_is_a_timestamp() {
        let at = |timestamp: i64, updated_at: Value| {
            let event =
                parse_at("organization.deleted", timestamp, &json!({ "id": "org_1", "updated_at": updated_at }));
            event.unwrap().unwrap().at.0
        };
        let second = NOW.0 / 1000;
        for (timestamp, updated_at, expected) in [
            (second, Value::Null, second * 1000),
            // The change orders two events of one second.
            (second, json!(second * 1000 + 7), second * 1000 + 7),
            (second, json!(second * 1000 + 999), second * 1000 + 999),
            (second * 1000, json!(second * 1000 + 7), second * 1000 + 7),
            // A change in another second is a different one.
            (second, json!(second * 1000 + 1000), second * 1000),
            (second, json!(second * 1000 - 1), second * 1000),
            (second, json!("now"), second * 1000),
            // A timestamp in milliseconds is exact.
            (second * 1000 + 5, json!(second * 1000 + 7), second * 1000 + 5),
        ] {
            assert_eq!(at(timestamp, updated_at.clone()), expected, "{timestamp} {updated_at}");
        }
    }

    #[test]
    fn an_event_is_neither_of_the_future_nor_of_before_2020() {
        let data = json!({ "id": "org_1" });
        let five_minutes = 5 * 60 * 1000;
        let read = |at| parse_at("organization.deleted", at, &data).map(|event| event.unwrap().at.0);
        // Clerk tries again for more than a day; a clock may be off.
        for at in [NOW.0, NOW.0 - 30 * 24 * 3_600_000, NOW.0 + five_minutes, 1_577_836_800_000] {
            assert_eq!(read(at), Ok(at));
        }
        for at in [NOW.0 + five_minutes + 1, NOW.0 * 1000, i64::MAX] {
            assert_eq!(read(at), Err(MalformedEvent::Ahead(at)));
        }
        assert_eq!(read(1_577_836_800), Ok(1_577_836_800_000));
        assert_eq!(read(99_999_999_999), Err(MalformedEvent::Ahead(99_999_999_999)));
        for at in [1_577_836_799_999, 100_000_000_000, 1_577_836_799, 1, 0, -1, i64::MIN] {
            assert_eq!(read(at), Err(MalformedEvent::TooOld(at)));
        }
        assert_eq!(parse_at("email.created", 0, &data), Ok(None));
    }
}

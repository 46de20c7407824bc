//! What Clerk's webhooks tell, as far as it ends or changes someone's access.

use std::time::Duration;

use serde::Deserialize;

use super::User;
use crate::clock::UnixMillis;

/// Something that happened at Clerk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, by Clerk's clock. Deliveries come in any order, and some twice: this says which of two came first.
    pub at: UnixMillis,
    /// What.
    pub change: Change,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A session is over: `session.ended`, `session.removed`, `session.revoked`.
    SessionEnded {
        /// `sess_…`
        session_id: String,
        /// `user_…`, if it says so.
        user_id: Option<String>,
    },
    /// A user's record is now this: `user.updated`.
    UserUpdated(User),
    /// A user is no more: `user.deleted`.
    UserDeleted {
        /// `user_…`
        user_id: String,
    },
    /// A user's role in an organization is another, or they left it: `organizationMembership.updated`,
    /// `organizationMembership.deleted`.
    MembershipChanged {
        /// `user_…`
        user_id: String,
        /// `org_…`
        organization_id: String,
    },
    /// An organization is no more: `organization.deleted`.
    OrganizationDeleted {
        /// `org_…`
        organization_id: String,
    },
}

/// Why a delivery is no event as Clerk documents them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedEvent {
    /// It is no JSON object with a type, or does not have what its type says.
    #[error("the body is not the event that its type says")]
    Body,
    /// It is of a time to come: believed, it would outdate everything that comes after it.
    #[error("the timestamp {0} is more than 5 minutes ahead")]
    Ahead(i64),
    /// It is of long ago, as a time in seconds is: everything would outdate it.
    #[error("the timestamp {0} is not in milliseconds, or before 2020")]
    TooOld(i64),
}

#[derive(Deserialize)]
struct Body {
    r#type: String,
    #[serde(default)]
    timestamp: serde_json::Value,
    #[serde(default)]
    data: serde_json::Value,
}

#[derive(Deserialize)]
struct SessionData {
    id: String,
    user_id: Option<String>,
}

/// Of a user who is barred nothing else need be there: what an event ends, is not to hang on what it does not need.
#[derive(Deserialize)]
struct UserStanding {
    id: String,
    #[serde(default)]
    banned: bool,
    #[serde(default)]
    deprovisioned: bool,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

#[derive(Deserialize)]
struct MembershipData {
    organization: Named,
    public_user_data: PublicUserData,
}

#[derive(Deserialize)]
struct PublicUserData {
    user_id: String,
}

impl Change {
    /// The user whom it is about, if it is about one.
    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        match self {
            Self::SessionEnded { user_id, .. } => user_id.as_deref(),
            Self::UserDeleted { user_id } | Self::MembershipChanged { user_id, .. } => Some(user_id),
            Self::UserUpdated(user) => Some(&user.id),
            Self::OrganizationDeleted { .. } => None,
        }
    }

    /// What Clerk calls such an event, for the log.
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
    /// How far ahead Clerk's clock may be: as far as that of a delivery's sender.
    const TOLERANCE: Duration = Duration::from_mins(5);
    /// 2020-01-01T00:00:00Z: no event is sent for so long, and a time in seconds is always before it.
    const EARLIEST: UnixMillis = UnixMillis(1_577_836_800_000);

    /// Reads the body of a verified delivery. None for an event that ends and changes nothing here.
    pub fn parse(body: &[u8], now: UnixMillis) -> Result<Option<Self>, MalformedEvent> {
        let Body { r#type, timestamp, data } = serde_json::from_slice(body).map_err(|_| MalformedEvent::Body)?;
        let change = match r#type.as_str() {
            "session.ended" | "session.removed" | "session.revoked" => {
                let SessionData { id, user_id } = read(data)?;
                Change::SessionEnded { session_id: id, user_id }
            }
            "user.updated" => Change::UserUpdated(user(data)?),
            // Clerk may leave the id out, of a user that it never had.
            "user.deleted" if data.get("id").is_none_or(serde_json::Value::is_null) => return Ok(None),
            "user.deleted" => Change::UserDeleted { user_id: read::<Named>(data)?.id },
            "organizationMembership.updated" | "organizationMembership.deleted" => {
                let MembershipData { organization, public_user_data } = read(data)?;
                Change::MembershipChanged { user_id: public_user_data.user_id, organization_id: organization.id }
            }
            "organization.deleted" => Change::OrganizationDeleted { organization_id: read::<Named>(data)?.id },
            _ => return Ok(None),
        };
        let at = UnixMillis(timestamp.as_i64().ok_or(MalformedEvent::Body)?);
        if at > now.after(Self::TOLERANCE) {
            return Err(MalformedEvent::Ahead(at.0));
        }
        if at < Self::EARLIEST {
            return Err(MalformedEvent::TooOld(at.0));
        }
        Ok(Some(Self { at, change }))
    }
}

fn user(data: serde_json::Value) -> Result<User, MalformedEvent> {
    let UserStanding { id, banned, deprovisioned } = read(data.clone())?;
    // A name that is not told is not the same as none.
    let whole = if data.get("username").is_some() { read(data) } else { Err(MalformedEvent::Body) };
    match whole {
        Err(_) if banned || deprovisioned => Ok(User { id, username: None, banned, deprovisioned, updated_at: 0 }),
        whole => whole,
    }
}

fn read<T: serde::de::DeserializeOwned>(data: serde_json::Value) -> Result<T, MalformedEvent> {
    serde_json::from_value(data).map_err(|_| MalformedEvent::Body)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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
    fn each_event_that_matters_is_read() {
        let session = json!({ "id": "sess_1", "user_id": "user_1", "status": "ended" });
        let ended = Change::SessionEnded { session_id: "sess_1".into(), user_id: Some("user_1".into()) };
        for name in ["session.ended", "session.removed", "session.revoked"] {
            assert_eq!(parse(name, &session), Ok(Some(ended.clone())));
        }
        let user = json!({ "id": "user_1", "username": null, "banned": true, "updated_at": 7, "deprovisioned": false });
        let known = User { id: "user_1".into(), username: None, banned: true, deprovisioned: false, updated_at: 7 };
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
    fn what_an_event_ends_does_not_hang_on_what_it_does_not_need() {
        let ended = Change::SessionEnded { session_id: "sess_1".into(), user_id: None };
        assert_eq!(parse("session.ended", &json!({ "id": "sess_1" })), Ok(Some(ended)));
        for (flag, banned) in [("banned", true), ("deprovisioned", false)] {
            let barred = User { id: "user_1".into(), username: None, banned, deprovisioned: !banned, updated_at: 0 };
            let data = json!({ "id": "user_1", flag: true });
            assert_eq!(parse("user.updated", &data), Ok(Some(Change::UserUpdated(barred))), "{flag}");
        }
        // Who is not barred is named, or said to have no name.
        let unnamed = json!({ "id": "user_1", "banned": false, "updated_at": 7 });
        assert_eq!(parse("user.updated", &unnamed), Err(MalformedEvent::Body));
        for timestamp in [json!(1.5), json!("2026"), Value::Null] {
            let body = json!({ "type": "email.created", "timestamp": timestamp, "data": {} });
            assert_eq!(Event::parse(body.to_string().as_bytes(), NOW), Ok(None));
        }
    }

    #[test]
    fn other_events_are_nothing_to_us_and_malformed_ones_are_told_apart() {
        for name in ["session.created", "user.created", "email.created", "organization.created", ""] {
            assert_eq!(parse(name, &json!({})), Ok(None));
        }
        for (name, data) in [
            ("session.ended", json!({ "user_id": "user_1" })),
            ("session.ended", Value::Null),
            ("user.updated", json!({ "id": "user_1" })),
            ("user.deleted", json!({ "id": 5 })),
            ("organizationMembership.deleted", json!({ "organization": "org_1" })),
        ] {
            assert_eq!(parse(name, &data), Err(MalformedEvent::Body), "{name}");
        }
        for body in ["", "null", "[]", "{\"type\": \"user.deleted\", \"data\": {\"id\": \"user_1\"}}", "{\"type\": 5}"]
        {
            assert_eq!(Event::parse(body.as_bytes(), NOW), Err(MalformedEvent::Body), "{body}");
        }
    }

    #[test]
    fn an_event_is_of_a_time_that_was_and_in_milliseconds() {
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
        for at in [1_577_836_799_999, NOW.0 / 1000, 1, 0, -1, i64::MIN] {
            assert_eq!(read(at), Err(MalformedEvent::TooOld(at)));
        }
        assert_eq!(parse_at("email.created", 0, &data), Ok(None));
    }
}

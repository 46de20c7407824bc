//! The objects that webhooks and the Backend API show, and the events of a changed user.

use serde_json::{Value, json};

use super::session::{ActiveOrganization, Session};
use super::user::{Organization, User};

const WEEK_MS: i64 = 7 * 86_400_000;

/// A session in the Backend API.
pub(super) fn session(session: &Session) -> Value {
    let created_at = session.signed_in_at.saturating_mul(1000);
    json!({
        "object": "session",
        "id": session.id,
        "client_id": session.client_id,
        "user_id": session.user_id,
        "actor": null,
        "status": session.status.name(),
        "last_active_organization_id": match &session.organization {
            ActiveOrganization::Chosen(id) => Some(id),
            ActiveOrganization::Default | ActiveOrganization::Personal => None,
        },
        "last_active_at": created_at,
        "created_at": created_at,
        "updated_at": session.updated_at,
        "expire_at": created_at.saturating_add(WEEK_MS),
        "abandon_at": created_at.saturating_add(4 * WEEK_MS),
    })
}

/// A session and its user in `session.*` events.
pub(super) fn session_with_user(user: Option<&User>, session: &Session) -> Value {
    let mut shown = self::session(session);
    shown["user"] = user.map_or(Value::Null, User::backend_json);
    shown
}

/// A deleted object.
pub(super) fn deleted(object: &str, id: &str) -> Value {
    json!({"object": object, "id": id, "deleted": true})
}

/// A membership in the Backend API and in `organizationMembership.*` events.
pub(super) fn membership(user: &User, organization: &Organization) -> Value {
    let tail = user.id.trim_start_matches("user_");
    json!({
        "object": "organization_membership",
        "id": format!("orgmem_{tail}{}", organization.id.trim_start_matches("org_")),
        "role": format!("org:{}", organization.role),
        "public_metadata": {},
        "organization": {
            "object": "organization",
            "id": organization.id,
            "name": organization.slug,
            "slug": organization.slug,
            "image_url": "https://img.sandbox.example/organization",
            "has_image": false,
            "created_by": user.id,
            "max_allowed_memberships": 100,
            "admin_delete_enabled": true,
            "public_metadata": {},
            "created_at": user.created_at,
            "updated_at": user.created_at,
        },
        "public_user_data": {
            "user_id": user.id,
            "identifier": user.email_address.as_ref().or(user.username.as_ref()),
            "first_name": user.first_name,
            "last_name": user.last_name,
            "image_url": format!("https://img.sandbox.example/{tail}"),
            "profile_image_url": format!("https://img.sandbox.example/{tail}"),
            "has_image": false,
        },
        "created_at": user.created_at,
        "updated_at": user.updated_at,
    })
}

/// The events for a user that was created (`before` is `None`) or changed.
pub(super) fn of_change(before: Option<&User>, after: &User) -> Vec<(&'static str, Value)> {
    let mut events = Vec::new();
    match before {
        None => events.push(("user.created", after.backend_json())),
        Some(before) if user_changed(before, after) => events.push(("user.updated", after.backend_json())),
        Some(_) => {}
    }
    for (before, old) in before.into_iter().flat_map(|user| user.organizations().map(move |old| (user, old))) {
        if after.member_of(&old.id).is_none() {
            events.push(("organizationMembership.deleted", membership(before, old)));
        }
    }
    for new in after.organizations() {
        match before.and_then(|before| before.member_of(&new.id)) {
            None => events.push(("organizationMembership.created", membership(after, new))),
            Some(old) if old.role != new.role => {
                events.push(("organizationMembership.updated", membership(after, new)));
            }
            Some(_) => {}
        }
    }
    events
}

/// Whether the user object itself changed. Organizations have their own events, and plans have no event here.
fn user_changed(before: &User, after: &User) -> bool {
    let own = |user: &User| {
        let mut shown = user.backend_json();
        shown["updated_at"] = Value::Null;
        shown
    };
    own(before) != own(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clerk::user::demo_users;

    #[test]
    fn a_change_sends_its_events() {
        let users = demo_users(0);
        let carol = users.iter().find(|user| user.organization.is_some()).unwrap();
        let changed = |change: fn(&mut User)| {
            let mut user = carol.clone();
            user.updated_at += 1;
            change(&mut user);
            user
        };
        let types = |before: Option<&User>, after: &User| -> Vec<_> {
            of_change(before, after).into_iter().map(|(event_type, _)| event_type).collect()
        };
        for (after, expected) in [
            (changed(|_| {}), &[][..]),
            (changed(|user| user.banned = true), &["user.updated"]),
            (changed(|user| user.username = None), &["user.updated"]),
            (changed(|user| user.plan = None), &[]),
            (changed(|user| user.organization = None), &["organizationMembership.deleted"]),
            (changed(|user| user.other_organizations.clear()), &["organizationMembership.deleted"]),
            (
                changed(|user| user.organization.as_mut().unwrap().role = "member".to_owned()),
                &["organizationMembership.updated"],
            ),
            (
                changed(|user| user.organization.as_mut().unwrap().id = "org_other".to_owned()),
                &["organizationMembership.deleted", "organizationMembership.created"],
            ),
        ] {
            assert_eq!(types(Some(carol), &after), expected, "{after:?}");
        }
        let created = "organizationMembership.created";
        assert_eq!(types(None, carol), ["user.created", created, created]);
    }

    #[test]
    fn a_membership_has_user_organization_and_full_role() {
        let users = demo_users(0);
        let carol = users.iter().find(|user| user.organization.is_some()).unwrap();
        let shown = membership(carol, carol.organization.as_ref().unwrap());
        assert_eq!(shown["public_user_data"]["user_id"], carol.id);
        assert_eq!(shown["organization"]["id"], "org_2sandbox000000000000000Acme");
        assert_eq!(shown["role"], "org:admin");
    }
}

//! The objects of the Frontend API, as clerk-js reads them.

use serde_json::{Value, json};

use super::client::{ClientState, SignIn};
use super::events;
use super::instance::Instance;
use super::session::Session;
use super::user::{Organization, User};

/// A client. Its sessions have their current token only for a page whose origin is known: without `azp` the token would
/// be of no use, and clerk-js then asks for one by POST.
pub(super) fn client(instance: &Instance, state: &ClientState, origin: Option<&str>) -> Value {
    let sessions: Vec<_> =
        state.sessions.iter().map(|(session, user)| self::session(instance, session, user, origin)).collect();
    json!({
        "object": "client",
        "id": state.client.id,
        "sessions": sessions,
        "sign_in": state.client.sign_in.as_ref().filter(|sign_in| sign_in.created_session_id.is_none()).map(sign_in),
        "sign_up": null,
        "last_active_session_id": state.active().map(|(session, _)| &session.id),
        "last_authentication_strategy": null,
        "cookie_expires_at": null,
        "captcha_bypass": true,
        "created_at": state.client.created_at,
        "updated_at": state.updated_at,
    })
}

/// A session and its user.
pub(super) fn session(instance: &Instance, session: &Session, user: &User, origin: Option<&str>) -> Value {
    let token = origin.map(|origin| {
        let claims = instance.session_claims(session, Some(origin.to_owned()));
        json!({"object": "token", "jwt": instance.mint(&claims)})
    });
    let minutes = (instance.now_ms().div_euclid(1000) - session.signed_in_at).max(0) / 60;
    let mut shown = events::session(session);
    shown["last_active_organization_id"] = json!(session.active_organization(user).map(|active| &active.id));
    shown["last_active_token"] = json!(token);
    shown["factor_verification_age"] = json!([minutes, -1]);
    shown["tasks"] = Value::Null;
    shown["user"] = self::user(user);
    shown["public_user_data"] = public_user_data(user);
    shown
}

/// The user, as the user's own browser sees it.
pub(super) fn user(user: &User) -> Value {
    let mut shown = user.backend_json();
    if let Value::Object(fields) = &mut shown {
        fields.remove("private_metadata");
    }
    // The page shows initials instead of loading an image from elsewhere.
    shown["image_url"] = json!("");
    shown["profile_image_id"] = json!("");
    // What the stand-in cannot do has no button.
    shown["create_organization_enabled"] = json!(false);
    shown["delete_self_enabled"] = json!(false);
    shown["organization_memberships"] = json!(memberships(user));
    shown
}

/// The user's memberships, the default organization first.
pub(super) fn memberships(user: &User) -> Vec<Value> {
    user.organizations().map(|organization| membership(user, organization)).collect()
}

fn membership(user: &User, organization: &Organization) -> Value {
    let permissions = organization.features.iter().flat_map(|feature| {
        feature.permissions.iter().map(move |permission| format!("org:{}:{permission}", feature.name))
    });
    let mut shown = events::membership(user, organization);
    shown["permissions"] = json!(permissions.collect::<Vec<_>>());
    shown["role_name"] = json!(organization.role);
    shown["public_user_data"] = public_user_data(user);
    shown["organization"]["image_url"] = json!("");
    shown["organization"]["members_count"] = json!(1);
    shown["organization"]["pending_invitations_count"] = json!(0);
    shown
}

fn public_user_data(user: &User) -> Value {
    json!({
        "user_id": user.id,
        "identifier": user.email_address.as_ref().or(user.username.as_ref()),
        "username": user.username,
        "first_name": user.first_name,
        "last_name": user.last_name,
        "image_url": "",
        "has_image": false,
    })
}

/// A sign-in that waits for the password, or is complete.
pub(super) fn sign_in(sign_in: &SignIn) -> Value {
    let is_complete = sign_in.created_session_id.is_some();
    let verification = json!({
        "status": "verified", "strategy": "password", "attempts": 1, "expire_at": null, "error": null,
    });
    json!({
        "object": "sign_in",
        "id": sign_in.id,
        "status": if is_complete { "complete" } else { "needs_first_factor" },
        "supported_identifiers": ["username", "email_address"],
        "supported_first_factors": [{"strategy": "password"}],
        "supported_second_factors": null,
        "first_factor_verification": is_complete.then_some(verification),
        "second_factor_verification": null,
        "identifier": sign_in.identifier,
        "user_data": public_user_data(&sign_in.user),
        "created_session_id": sign_in.created_session_id,
    })
}

//! The claims of a session token, version 2.

use serde_json::{Value, json};

use super::session::Session;
use super::user::{Organization, User};

/// What varies between two tokens of a session.
pub(super) struct MintParams {
    pub(super) now: i64,
    pub(super) ttl_s: i64,
    pub(super) issuer: String,
    pub(super) jti: String,
    /// `None` if the request for the token had no `Origin`.
    pub(super) authorized_party: Option<String>,
}

/// The claims of one token of a session. A deleted `user` is `None`.
pub(super) fn of(session: &Session, user: Option<&User>, params: MintParams) -> Value {
    let MintParams { now, ttl_s, issuer, jti, authorized_party } = params;
    let minutes_since_first_factor = (now - session.signed_in_at).max(0) / 60;
    let mut claims = json!({
        "exp": now + ttl_s,
        "fva": [minutes_since_first_factor, -1],
        "iat": now,
        "iss": issuer,
        "jti": jti,
        // Backdated, as Clerk does, for clocks that lag.
        "nbf": now - 10,
        "sid": session.id,
        "sts": "active",
        "sub": session.user_id,
        "v": 2,
    });
    if let Some(origin) = authorized_party {
        claims["azp"] = json!(origin);
    }
    let Some(user) = user else { return claims };
    let organization = session.active_organization(user);
    let features = features(user, organization);
    if !features.is_empty() {
        claims["fea"] = json!(features);
    }
    let plans = plans(user, organization);
    if !plans.is_empty() {
        claims["pla"] = json!(plans);
    }
    if let Some(organization) = organization {
        claims["o"] = organization_claim(organization);
    }
    claims
}

/// The features: `o:` of the organization's plan, `u:` of the user's plan, `ou:` of both.
fn features(user: &User, organization: Option<&Organization>) -> String {
    let of_organization = || organization.into_iter().flat_map(|organization| &organization.features);
    let mut entries: Vec<String> = of_organization()
        .map(|feature| {
            let scope = if user.features.contains(&feature.name) { "ou" } else { "o" };
            format!("{scope}:{}", feature.name)
        })
        .collect();
    let own_only = user.features.iter().filter(|name| !of_organization().any(|feature| feature.name == **name));
    entries.extend(own_only.map(|name| format!("u:{name}")));
    entries.join(",")
}

fn plans(user: &User, organization: Option<&Organization>) -> String {
    let organization = organization.and_then(|organization| organization.plan.as_ref());
    let mut entries: Vec<String> = organization.iter().map(|plan| format!("o:{plan}")).collect();
    entries.extend(user.plan.iter().map(|plan| format!("u:{plan}")));
    entries.join(",")
}

/// `per` lists each permission once. The i-th number of `fpm` is a bitmap of the permissions of the i-th feature.
fn organization_claim(organization: &Organization) -> Value {
    let mut names: Vec<&str> = Vec::new();
    let mut maps = Vec::new();
    for feature in &organization.features {
        let mut map = 0_u128;
        for permission in &feature.permissions {
            let bit = names.iter().position(|name| name == permission).unwrap_or_else(|| {
                names.push(permission);
                names.len() - 1
            });
            map |= u32::try_from(bit).ok().and_then(|bit| 1_u128.checked_shl(bit)).unwrap_or(0);
        }
        maps.push(map.to_string());
    }
    let mut claim = json!({"id": organization.id, "slg": organization.slug, "rol": organization.role});
    if !names.is_empty() {
        claim["per"] = json!(names.join(","));
        claim["fpm"] = json!(maps.join(","));
    }
    claim
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clerk::session::{ActiveOrganization, SessionStatus};
    use crate::clerk::user::demo_users;

    fn claims_of(user: &User, authorized_party: Option<&str>) -> Value {
        let session = Session {
            id: "sess_1".to_owned(),
            client_id: "client_1".to_owned(),
            user_id: user.id.clone(),
            signed_in_at: 1_000,
            updated_at: 1_000_000,
            status: SessionStatus::Active,
            organization: ActiveOrganization::Default,
        };
        let params = MintParams {
            now: 1_125,
            ttl_s: 60,
            issuer: "https://clerk.sandbox.example".to_owned(),
            jti: "j".to_owned(),
            authorized_party: authorized_party.map(str::to_owned),
        };
        of(&session, Some(user), params)
    }

    #[test]
    fn a_member_of_an_organization_carries_role_features_plans_and_permission_bits() {
        let users = demo_users(0);
        let carol = users.iter().find(|user| user.organization.is_some()).unwrap();
        let claims = claims_of(carol, Some("http://localhost:3000"));
        assert_eq!(
            claims["o"],
            json!({
                "id": "org_2sandbox000000000000000Acme",
                "slg": "acme",
                "rol": "admin",
                "per": "read,write,manage",
                "fpm": "7,1",
            })
        );
        assert_eq!(claims["fea"], "ou:rooms,o:reports,u:beta");
        assert_eq!(claims["pla"], "o:pro,u:personal");
    }

    #[test]
    fn a_user_without_an_organization_has_no_organization_claims() {
        assert_eq!(
            claims_of(&User::new("user_1"), None),
            json!({
                "exp": 1_185, "fva": [2, -1], "iat": 1_125, "iss": "https://clerk.sandbox.example", "jti": "j",
                "nbf": 1_115, "sid": "sess_1", "sts": "active", "sub": "user_1", "v": 2,
            })
        );
    }
}

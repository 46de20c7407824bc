//! Users: the demo users, and the user object of the Backend API.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A user. Times are milliseconds since the epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct User {
    /// `user_…`.
    pub id: String,
    /// `None` if the instance or the user has no username.
    pub username: Option<String>,
    /// Given name.
    pub first_name: Option<String>,
    /// Family name.
    pub last_name: Option<String>,
    /// The primary address.
    pub email_address: Option<String>,
    /// The user's id in the application's own database.
    pub external_id: Option<String>,
    /// Banned by an administrator.
    pub banned: bool,
    /// Locked after failed sign-ins.
    pub locked: bool,
    /// Disabled by the enterprise directory of the user.
    pub deprovisioned: bool,
    /// Readable by the front end.
    pub public_metadata: Value,
    /// Readable by the back end only.
    pub private_metadata: Value,
    /// Writable by the user.
    pub unsafe_metadata: Value,
    /// The organization that is active in the user's sessions until a page chooses another.
    pub organization: Option<Organization>,
    /// The other organizations of the user.
    #[serde(default)]
    pub other_organizations: Vec<Organization>,
    /// The user's own billing plan.
    pub plan: Option<String>,
    /// Features of the user's own plan.
    pub features: Vec<String>,
    /// The time of creation.
    pub created_at: i64,
    /// The time of the last change.
    pub updated_at: i64,
    /// The time of the last sign-in.
    pub last_sign_in_at: Option<i64>,
}

/// An organization, and the role of the user there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Organization {
    /// `org_…`.
    pub id: String,
    /// The slug.
    pub slug: String,
    /// The role, without `org:`.
    pub role: String,
    /// The organization's billing plan.
    pub plan: Option<String>,
    /// The features of the plan, and the permissions of the role.
    pub features: Vec<Feature>,
}

/// A feature of an organization's plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Feature {
    /// The name, as in `org:<name>:<permission>`.
    pub name: String,
    /// The last parts of the permissions of the role.
    pub permissions: Vec<String>,
}

impl User {
    /// A user with this id and no other data, created at the epoch.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            username: None,
            first_name: None,
            last_name: None,
            email_address: None,
            external_id: None,
            banned: false,
            locked: false,
            deprovisioned: false,
            public_metadata: json!({}),
            private_metadata: json!({}),
            unsafe_metadata: json!({}),
            organization: None,
            other_organizations: Vec::new(),
            plan: None,
            features: Vec::new(),
            created_at: 0,
            updated_at: 0,
            last_sign_in_at: None,
        }
    }

    /// All organizations, the default one first.
    pub(super) fn organizations(&self) -> impl Iterator<Item = &Organization> {
        self.organization.iter().chain(&self.other_organizations)
    }

    /// The organization with this id, if the user is a member.
    pub(super) fn member_of(&self, id: &str) -> Option<&Organization> {
        self.organizations().find(|organization| organization.id == id)
    }

    /// The same, to change it.
    pub(super) fn member_of_mut(&mut self, id: &str) -> Option<&mut Organization> {
        self.organization.iter_mut().chain(&mut self.other_organizations).find(|organization| organization.id == id)
    }

    /// Removes the user from an organization. Returns whether the user was a member.
    pub(super) fn leave(&mut self, id: &str) -> bool {
        let was_member = self.member_of(id).is_some();
        self.organization.take_if(|organization| organization.id == id);
        self.other_organizations.retain(|organization| organization.id != id);
        was_member
    }

    /// Whether the user may not have sessions.
    pub(super) fn is_blocked(&self) -> bool {
        self.banned || self.deprovisioned
    }

    /// The user object of the Backend API (version 2026-05-12).
    pub(super) fn backend_json(&self) -> Value {
        let tail = self.id.trim_start_matches("user_");
        let email_id = self.email_address.as_ref().map(|_| format!("idn_{tail}"));
        let emails: Vec<_> = self
            .email_address
            .iter()
            .map(|address| {
                json!({
                    "id": email_id,
                    "object": "email_address",
                    "email_address": address,
                    "reserved": false,
                    "verification": {
                        "object": "verification_email_code",
                        "status": "verified",
                        "strategy": "email_code",
                        "attempts": 1,
                        "expire_at": self.created_at + 600_000,
                    },
                    "linked_to": [],
                    "matches_sso_connection": false,
                    "created_at": self.created_at,
                    "updated_at": self.created_at,
                })
            })
            .collect();
        let mut user = json!({
            "id": self.id,
            "object": "user",
            "username": self.username,
            "first_name": self.first_name,
            "last_name": self.last_name,
            "locale": null,
            "timezone": null,
            "image_url": format!("https://img.sandbox.example/{tail}"),
            "has_image": false,
            "primary_email_address_id": email_id,
            "primary_phone_number_id": null,
            "primary_web3_wallet_id": null,
            "password_enabled": true,
            "two_factor_enabled": false,
            "totp_enabled": false,
            "backup_code_enabled": false,
            "email_addresses": emails,
            "phone_numbers": [],
            "web3_wallets": [],
            "passkeys": [],
            "external_accounts": [],
            "enterprise_accounts": [],
            "saml_accounts": [],
        });
        let rest = json!({
            "password_last_updated_at": self.created_at,
            "public_metadata": self.public_metadata,
            "private_metadata": self.private_metadata,
            "unsafe_metadata": self.unsafe_metadata,
            "external_id": self.external_id,
            "last_sign_in_at": self.last_sign_in_at,
            "banned": self.banned,
            "locked": self.locked,
            "deprovisioned": self.deprovisioned,
            "lockout_expires_in_seconds": self.locked.then_some(3600),
            "verification_attempts_remaining": if self.locked { 0 } else { 100 },
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "last_active_at": self.last_sign_in_at,
            "delete_self_enabled": true,
            "create_organization_enabled": true,
            "create_organizations_limit": null,
            "mfa_enabled_at": null,
            "mfa_disabled_at": null,
            "legal_accepted_at": null,
            "requires_password_reset": false,
        });
        // One literal with all fields exceeds the recursion limit of `json!`.
        if let (Value::Object(user), Value::Object(rest)) = (&mut user, rest) {
            user.extend(rest);
        }
        user
    }
}

/// The initial users, one for each case that a service must distinguish.
pub(super) fn demo_users(now_ms: i64) -> Vec<User> {
    const DAY_MS: i64 = 86_400_000;
    let person = |id: &str, username: Option<&str>, first: &str, last: &str, age_days: i64| User {
        username: username.map(str::to_owned),
        first_name: Some(first.to_owned()),
        last_name: Some(last.to_owned()),
        email_address: Some(format!("{}@sandbox.example", first.to_lowercase())),
        created_at: now_ms - age_days * DAY_MS,
        updated_at: now_ms - DAY_MS,
        last_sign_in_at: Some(now_ms - DAY_MS),
        ..User::new(id)
    };
    vec![
        person("user_2sandbox00000000000000Alice", Some("alice"), "Alice", "Moreau", 400),
        person("user_2sandbox0000000000000000Bob", Some("bob"), "Bob", "Okafor", 300),
        User {
            public_metadata: json!({"team": "operations"}),
            organization: Some(Organization {
                id: "org_2sandbox000000000000000Acme".to_owned(),
                slug: "acme".to_owned(),
                role: "admin".to_owned(),
                plan: Some("pro".to_owned()),
                features: vec![
                    Feature {
                        name: "rooms".to_owned(),
                        permissions: vec!["read".to_owned(), "write".to_owned(), "manage".to_owned()],
                    },
                    Feature { name: "reports".to_owned(), permissions: vec!["read".to_owned()] },
                ],
            }),
            other_organizations: vec![Organization {
                id: "org_2sandbox00000000000000Globex".to_owned(),
                slug: "globex".to_owned(),
                role: "member".to_owned(),
                plan: None,
                features: Vec::new(),
            }],
            plan: Some("personal".to_owned()),
            features: vec!["rooms".to_owned(), "beta".to_owned()],
            ..person("user_2sandbox00000000000000Carol", Some("carol"), "Carol", "Lindqvist", 200)
        },
        person("user_2sandbox000000000000000Noor", None, "Noor", "Haddad", 100),
        User { banned: true, ..person("user_2sandbox000000000000Mallory", Some("mallory"), "Mallory", "Voss", 50) },
    ]
}

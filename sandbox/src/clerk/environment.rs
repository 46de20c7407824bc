//! The settings of an instance, as clerk-js reads them: sign-in by username or email address and password, several
//! sessions for each client, and organizations.

use serde_json::{Map, Value, json};

/// The environment. `home` is the address of the stand-in, for the links to its pages.
pub(super) fn environment(home: &str) -> Value {
    let sign_in_url = format!("{home}/sign-in");
    json!({
        "object": "environment",
        "id": "env_sandbox",
        "auth_config": {"object": "auth_config", "id": "aconf_sandbox", "single_session_mode": false, "claimed_at": null,
            "reverification": false},
        "display_config": display_config(&sign_in_url),
        "user_settings": user_settings(),
        "organization_settings": {
            "enabled": true,
            "max_allowed_memberships": 100,
            "force_organization_selection": false,
            "actions": {"admin_delete": true},
            "domains": {"enabled": false, "enrollment_modes": [], "default_role": null},
            "slug": {"disabled": false},
            "organization_creation_defaults": {"enabled": false},
        },
        "commerce_settings": {"billing": {
            "stripe_publishable_key": null,
            "organization": {"enabled": false, "has_paid_plans": false},
            "user": {"enabled": false, "has_paid_plans": false},
        }},
        "api_keys_settings": {"user_api_keys_enabled": false, "orgs_api_keys_enabled": false},
        "protect_config": {"object": "protect_config", "id": "protect_sandbox"},
        "maintenance_mode": false,
    })
}

fn display_config(sign_in_url: &str) -> Value {
    let mut shown = json!({
        "object": "display_config",
        "id": "display_sandbox",
        "application_name": "Sandbox",
        "instance_environment_type": "development",
        "preferred_sign_in_strategy": "password",
        "show_devmode_warning": false,
        "branded": false,
        "sign_in_url": sign_in_url,
        "sign_up_url": sign_in_url,
        "captcha_public_key": null,
        "captcha_public_key_invisible": null,
        "captcha_widget_type": null,
        "captcha_provider": "turnstile",
        "captcha_oauth_bypass": [],
        "theme": {
            "general": {"color": "#6c47ff", "background_color": "#ffffff", "font_family": "", "font_color": "#000000",
                "label_font_weight": "600", "padding": "1em", "border_radius": "0.5em", "box_shadow": "none"},
            "buttons": {"font_color": "#ffffff", "font_family": "", "font_weight": "600"},
            "accounts": {"background_color": "#ffffff"},
        },
    });
    for name in [
        "home_url",
        "after_sign_in_url",
        "after_sign_up_url",
        "after_sign_out_all_url",
        "after_sign_out_one_url",
        "after_switch_session_url",
        "after_leave_organization_url",
        "after_create_organization_url",
        "after_join_waitlist_url",
        "user_profile_url",
        "organization_profile_url",
        "create_organization_url",
        "waitlist_url",
        "logo_image_url",
        "favicon_image_url",
        "support_email",
        "terms_url",
        "privacy_policy_url",
    ] {
        shown[name] = json!("");
    }
    shown
}

fn user_settings() -> Value {
    json!({
        "attributes": attributes(),
        "actions": {"delete_self": false, "create_organization": false},
        "social": {},
        "enterprise_sso": {"enabled": false, "self_serve_sso": false, "self_serve_directory_sync": false},
        "sign_in": {"second_factor": {"required": false, "enabled": false}},
        "sign_up": {"allowlist_only": false, "progressive": true, "captcha_enabled": false, "mode": "restricted",
            "legal_consent_enabled": false},
        "password_settings": {"allowed_special_characters": "", "disable_hibp": true, "min_length": 0, "max_length": 72,
            "require_special_char": false, "require_numbers": false, "require_uppercase": false,
            "require_lowercase": false, "show_zxcvbn": false, "min_zxcvbn_strength": 0},
        "passkey_settings": {"allow_autofill": false, "show_sign_in_button": false},
        "username_settings": {"min_length": 1, "max_length": 64},
    })
}

fn attributes() -> Map<String, Value> {
    let attribute = |name: &str| {
        let is_identifier = matches!(name, "username" | "email_address");
        let is_enabled = is_identifier || matches!(name, "password" | "first_name" | "last_name");
        let shown = json!({
            "enabled": is_enabled,
            "required": name == "password",
            "used_for_first_factor": is_identifier,
            "first_factors": [],
            "used_for_second_factor": false,
            "second_factors": [],
            "verifications": [],
            "verify_at_sign_up": false,
        });
        (name.to_owned(), shown)
    };
    [
        "email_address",
        "phone_number",
        "username",
        "first_name",
        "last_name",
        "password",
        "web3_wallet",
        "authenticator_app",
        "backup_code",
        "passkey",
    ]
    .map(attribute)
    .into_iter()
    .collect()
}

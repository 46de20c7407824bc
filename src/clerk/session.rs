//! Sessions: the content of verified session tokens.

use serde::Serialize;
use serde_json::Value;

use super::{claims::Claims, invalid::Invalid, javascript};
use crate::clock::UnixMillis;

/// A verified Clerk session, the same for every version of claims.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// `sub`, e.g. `user_…`. Never empty.
    pub user_id: String,
    /// `sid`, e.g. `sess_…`. Never empty.
    pub session_id: String,
    /// When the token was issued (`iat`).
    pub issued_at: UnixMillis,
    /// When the token expires (`exp`), without tolerance for clock skew.
    pub expires_at: UnixMillis,
    /// The active organization.
    pub organization: Option<Organization>,
    /// The plans (`pla`).
    pub plans: Scoped,
    /// The features (`fea`).
    pub features: Scoped,
    /// When the user last verified each factor (`fva`).
    pub factor_age: Option<FactorAge>,
    /// The impersonator (`act`).
    pub actor: Option<Actor>,
    /// All claims, including custom ones.
    pub claims: Claims,
}

/// The dotted path of a claim, like `metadata.tier`. Split once, because every decision uses it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, derive_more::Display)]
#[display("{text}")]
pub struct ClaimPath {
    text: String,
    /// Empty if the path has no dot.
    steps: Vec<String>,
}

impl<T: Into<String>> From<T> for ClaimPath {
    fn from(text: T) -> Self {
        let text = text.into();
        let steps = if text.contains('.') { text.split('.').map(str::to_owned).collect() } else { Vec::new() };
        Self { text, steps }
    }
}

/// An active organization, with the user's role and permissions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Organization {
    /// `org_…`
    pub id: String,
    /// The name in URLs.
    pub slug: Option<String>,
    /// With its prefix: `org:admin`.
    pub role: Option<String>,
    /// With prefix and feature: `org:<feature>:<permission>`. `None` if the token does not list any.
    pub permissions: Option<Vec<String>>,
}

/// Plans or features, by owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scoped {
    /// The organization's.
    pub organization: Vec<String>,
    /// The user's.
    pub user: Vec<String>,
}

/// Minutes since each factor was verified. `None`: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FactorAge {
    /// The first factor.
    pub first_minutes: Option<u64>,
    /// The second factor.
    pub second_minutes: Option<u64>,
}

/// An impersonator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The impersonator's own `sub`.
    pub subject: String,
    /// Whether it is an agent (`act.type` is `agent`), not a person.
    pub is_agent: bool,
}

impl Session {
    /// Parses verified claims. The verifier provides `issued_at` and `expires_at`.
    pub(crate) fn from_claims(
        user_id: String,
        session_id: String,
        issued_at: UnixMillis,
        expires_at: UnixMillis,
        claims: Claims,
    ) -> Result<Self, Invalid> {
        let features = Scoped::parse(claims.get("fea"));
        let plans = Scoped::parse(claims.get("pla"));
        let is_v2 = claims.get("v").and_then(Value::as_f64) == Some(2.0);
        let organization = match claims.get("o") {
            Some(claim) if is_v2 && is_truthy(claim) => {
                let features = features.as_ref().map_err(|invalid| *invalid)?;
                Organization::from_v2(claim, permissions(&features.organization, claim)?)
            }
            _ if is_v2 => None,
            _ => Organization::from_v1(&claims),
        };
        Ok(Self {
            user_id,
            session_id,
            issued_at,
            expires_at,
            organization,
            plans: plans.unwrap_or_default(),
            features: features.unwrap_or_default(),
            factor_age: claims.get("fva").and_then(FactorAge::parse),
            actor: claims.get("act").and_then(Actor::parse),
            claims,
        })
    }

    /// The `sub` of the impersonator.
    #[must_use]
    pub fn impersonator(&self) -> Option<&str> {
        self.actor.as_ref().map(|actor| actor.subject.as_str())
    }

    /// Whether an agent acts in the user's name.
    #[must_use]
    pub fn is_of_an_agent(&self) -> bool {
        self.actor.as_ref().is_some_and(|actor| actor.is_agent)
    }

    /// The value of a claim. A claim whose own name contains the dots takes precedence.
    #[must_use]
    pub fn claim(&self, path: &ClaimPath) -> Option<&Value> {
        self.claims.get(&path.text).or_else(|| {
            let (first, deeper) = path.steps.split_first()?;
            deeper.iter().try_fold(self.claims.get(first)?, |value, step| value.get(step))
        })
    }
}

impl Organization {
    /// The role without its prefix `org:`, even a repeated one.
    #[must_use]
    pub fn role_name(&self) -> Option<&str> {
        let mut name = self.role.as_deref()?;
        while let Some(rest) = name.strip_prefix("org:") {
            name = rest;
        }
        Some(name)
    }

    fn from_v1(claims: &Claims) -> Option<Self> {
        let permissions = claims.get("org_permissions").and_then(Value::as_array);
        Some(Self {
            id: owned(claims.get("org_id"))?,
            slug: owned(claims.get("org_slug")),
            role: owned(claims.get("org_role")),
            permissions: permissions.map(|list| list.iter().filter_map(|item| owned(Some(item))).collect()),
        })
    }

    fn from_v2(claim: &Value, permissions: Vec<String>) -> Option<Self> {
        Some(Self {
            id: owned(claim.get("id"))?,
            slug: owned(claim.get("slg")),
            role: owned(claim.get("rol")).map(|role| format!("org:{role}")),
            permissions: Some(permissions),
        })
    }
}

/// Decodes the permissions in `fpm`: its i-th integer belongs to the i-th feature of the organization, and that integer's
/// j-th bit to the j-th name of `per`.
fn permissions(features: &[String], organization: &Value) -> Result<Vec<String>, Invalid> {
    let claim = |name: &str| organization.get(name).filter(|claim| is_truthy(claim));
    let (Some(names), Some(masks)) = (claim("per"), claim("fpm")) else { return Ok(Vec::new()) };
    let (names, masks) = (names.as_str().ok_or(Invalid::Features)?, masks.as_str().ok_or(Invalid::Features)?);
    let names: Vec<&str> = names.split(',').map(trimmed).collect();
    let granted = features.iter().zip(masks.split(',')).flat_map(|(feature, mask)| {
        let bits = binary_digits(trimmed(mask), names.len()).into_iter().zip(&names);
        bits.filter(|(granted, _)| *granted).map(move |(_, name)| format!("org:{feature}:{name}"))
    });
    Ok(granted.collect())
}

/// The lowest `count` bits of a decimal of any length, least significant first. Empty for other texts.
fn binary_digits(decimal: &str, count: usize) -> Vec<bool> {
    if !decimal.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    let mut digits: Vec<u8> = decimal.bytes().map(|b| b - b'0').collect();
    let halve = |_| {
        let mut rest = 0;
        for digit in &mut digits {
            let value = rest * 10 + *digit;
            (*digit, rest) = (value / 2, value % 2);
        }
        rest == 1
    };
    (0..count).map(halve).collect()
}

impl Scoped {
    /// Parses `o:dashboard,u:beta,ou:both`. Skips other scopes.
    fn parse(claim: Option<&Value>) -> Result<Self, Invalid> {
        let mut scoped = Self::default();
        let list = match claim {
            Some(Value::String(list)) if !list.is_empty() => list,
            Some(claim) if is_truthy(claim) => return Err(Invalid::Features),
            _ => return Ok(scoped),
        };
        for element in list.split(',') {
            let (scope, name) = trimmed(element).split_once(':').ok_or(Invalid::Features)?;
            if matches!(scope, "o" | "ou" | "uo") {
                scoped.organization.push(name.to_owned());
            }
            if matches!(scope, "u" | "ou" | "uo") {
                scoped.user.push(name.to_owned());
            }
        }
        Ok(scoped)
    }
}

impl FactorAge {
    fn parse(claim: &Value) -> Option<Self> {
        let [first, second] = claim.as_array()?.as_slice() else { return None };
        let minutes = |age: &Value| match age.as_i64()? {
            -1 => Some(None),
            minutes => u64::try_from(minutes).ok().map(Some),
        };
        Some(Self { first_minutes: minutes(first)?, second_minutes: minutes(second)? })
    }
}

impl Actor {
    fn parse(claim: &Value) -> Option<Self> {
        let is_agent = claim.get("type").is_some_and(|kind| kind == "agent");
        Some(Self { subject: owned(claim.get("sub"))?, is_agent })
    }
}

/// The text of a claim, unless it is empty or of another type.
pub(super) fn non_empty(claim: Option<&Value>) -> Option<&str> {
    claim?.as_str().filter(|text| !text.is_empty())
}

fn owned(claim: Option<&Value>) -> Option<String> {
    non_empty(claim).map(str::to_owned)
}

fn trimmed(text: &str) -> &str {
    text.trim_matches(javascript::is_space)
}

/// Whether JavaScript treats a value as true.
pub(super) fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn session(claims: Value) -> Result<Session, Invalid> {
        let Value::Object(claims) = claims else { panic!("claims are an object") };
        Session::from_claims("user_1".into(), "sess_1".into(), UnixMillis(0), UnixMillis(60_000), claims.into())
    }

    #[test]
    fn permissions_are_decoded_from_the_bits_of_each_organization_feature() {
        let session = session(json!({
            "v": 2,
            "fea": "o:dashboard,u:beta,ou:both, uo:last,x:skipped",
            "pla": "o:pro,u:plus",
            "o": { "id": "org_1", "slg": "acme", "rol": "admin", "per": "manage, read", "fpm": "3, 2 ,x" },
        }))
        .unwrap();
        let organization = session.organization.unwrap();
        assert_eq!(organization.role.as_deref(), Some("org:admin"));
        assert_eq!(organization.permissions.unwrap(), ["org:dashboard:manage", "org:dashboard:read", "org:both:read"]);
        assert_eq!(session.features.organization, ["dashboard", "both", "last"]);
        assert_eq!(session.features.user, ["beta", "both", "last"]);
        assert_eq!(session.plans, Scoped { organization: vec!["pro".into()], user: vec!["plus".into()] });
    }

    #[test]
    fn a_permission_map_may_have_more_bits_than_any_machine_integer() {
        let names: Vec<String> = (0..=70).map(|bit| format!("p{bit}")).collect();
        let session = session(json!({
            "v": 2, "fea": "o:f", "o": { "id": "org_1", "per": names.join(","), "fpm": "1180591620717411303424" },
        }));
        assert_eq!(session.unwrap().organization.unwrap().permissions.unwrap(), ["org:f:p70"]);
    }

    #[test]
    fn permissions_of_another_type_make_the_token_invalid() {
        for (per, fpm, valid) in [
            (json!("a"), json!("1"), true),
            (json!(""), json!(5), true),
            (json!(0), json!("1"), true),
            (json!(5), json!("1"), false),
            (json!("a"), json!([1]), false),
            (json!({}), json!("1"), false),
        ] {
            let claims = json!({ "v": 2, "fea": "o:f", "o": { "id": "org_1", "per": per, "fpm": fpm } });
            assert_eq!(session(claims).is_ok(), valid, "{per} {fpm}");
        }
    }

    #[test]
    fn white_space_around_features_and_permissions_is_that_of_javascript() {
        for (fea, per, fpm, granted) in [
            ("\u{feff}o:f\u{a0}", "\u{feff}p ", "\u{2003}1", vec!["org:f:p"]),
            ("\u{85}o:f", "p", "1", vec![]),
            ("o:f", "\u{85}p", "1", vec!["org:f:\u{85}p"]),
            ("o:f", "p", "\u{85}1", vec![]),
        ] {
            let claims = json!({ "v": 2, "fea": fea, "o": { "id": "org_1", "per": per, "fpm": fpm } });
            assert_eq!(session(claims).unwrap().organization.unwrap().permissions.unwrap(), granted, "{fea:?} {per:?}");
        }
    }

    #[test]
    fn the_version_decides_which_claims_name_the_organization() {
        let v1 =
            json!({ "org_id": "org_1", "org_slug": "acme", "org_role": "org:member", "org_permissions": ["org:a:b"] });
        let organization = session(v1.clone()).unwrap().organization.unwrap();
        assert_eq!(organization.permissions.unwrap(), ["org:a:b"]);
        for (version, has_organization) in [(json!(2), false), (json!("2"), true), (json!(1), true)] {
            let mut claims = v1.clone();
            claims["v"] = version.clone();
            assert_eq!(session(claims).unwrap().organization.is_some(), has_organization, "{version}");
        }
    }

    #[test]
    fn a_feature_without_a_scope_makes_an_organization_token_invalid() {
        assert!(session(json!({ "v": 2, "fea": "dashboard", "o": { "id": "org_1" } })).is_err());
        assert!(session(json!({ "v": 2, "fea": 5, "o": { "id": "org_1" } })).is_err());
        assert!(session(json!({ "v": 2, "fea": "dashboard" })).is_ok());
    }

    #[test]
    fn factor_ages_and_actors_are_parsed() {
        let session = session(json!({ "fva": [5, -1], "act": { "sub": "user_support" } })).unwrap();
        assert_eq!(session.factor_age, Some(FactorAge { first_minutes: Some(5), second_minutes: None }));
        assert_eq!(session.actor.unwrap().subject, "user_support");
    }

    #[test]
    fn claims_are_found_by_dotted_path() {
        let session = session(json!({ "metadata": { "tier": "pro" }, "a.b": 1, "a": { "b": 2 } })).unwrap();
        assert_eq!(session.claim(&"metadata.tier".into()), Some(&json!("pro")));
        assert_eq!(session.claim(&"a.b".into()), Some(&json!(1)));
        assert_eq!(session.claim(&"metadata.missing".into()), None);
    }
}

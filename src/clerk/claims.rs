//! The claims of a token.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Map, Value};

/// The claims of a token, as a list: a token has few, which a search finds faster than a map is made. Of several claims with
/// one name the last counts, as in JavaScript.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims(Vec<(String, Value)>);

impl Claims {
    /// The claim of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().rev().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &(String, Value)> {
        self.0.iter()
    }

    /// For how many there is room.
    pub(super) fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl From<Map<String, Value>> for Claims {
    fn from(claims: Map<String, Value>) -> Self {
        Self(claims.into_iter().collect())
    }
}

impl From<Claims> for Map<String, Value> {
    fn from(claims: Claims) -> Self {
        claims.0.into_iter().collect()
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Claims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Claims, A::Error> {
                // Enough for Clerk's own claims.
                let mut claims = Vec::with_capacity(20);
                while let Some(claim) = object.next_entry()? {
                    claims.push(claim);
                }
                Ok(Claims(claims))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_claims_with_one_name_the_last_counts() {
        let claims: Claims = serde_json::from_str(r#"{ "sub": "a", "sid": "s", "sub": "b" }"#).unwrap();
        assert_eq!(claims.get("sub"), Some(&"b".into()));
        assert_eq!(claims.get("iss"), None);
        assert_eq!(Map::from(claims).get("sub"), Some(&"b".into()));
    }

    #[test]
    fn only_an_object_has_claims() {
        for text in ["[]", "null", "1", "\"sub\"", "", "{", "{}x", r#"{"a":1e999}"#] {
            assert!(serde_json::from_str::<Claims>(text).is_err(), "{text}");
        }
    }
}

//! Capabilities: which operations a token allows on which resources.
//!
//! A [`Capability`] is valid by construction and prints as the canonical text that is signed (RSA9f, TK2b).

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt, iter,
    str::FromStr,
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, Visitor},
};

/// Stands for every operation. It stands alone (TK2b).
const WILDCARD: &str = "*";

/// Every operation that Ably knows, apart from the wildcard `*`.
pub const OPERATIONS: [&str; 17] = [
    "annotation-publish",
    "annotation-subscribe",
    "channel-metadata",
    "history",
    "message-delete-any",
    "message-delete-own",
    "message-update-any",
    "message-update-own",
    "object-publish",
    "object-subscribe",
    "presence",
    "privileged-headers",
    "publish",
    "push-admin",
    "push-subscribe",
    "stats",
    "subscribe",
];

/// A resource name in the order in which ably-js writes them: integer-like names first and by value, as in any
/// JavaScript object, then by UTF-16 code unit.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Resource(String);

impl Resource {
    /// The value of a JavaScript array index: a canonical decimal below 2^32 - 1.
    fn array_index(&self) -> Option<u32> {
        let index: u32 = self.0.parse().ok().filter(|index| *index < u32::MAX)?;
        (index.to_string() == self.0).then_some(index)
    }
}

impl Ord for Resource {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.array_index(), other.array_index()) {
            (Some(a), Some(b)) => a.cmp(&b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => self.0.encode_utf16().cmp(other.0.encode_utf16()),
        }
    }
}

impl PartialOrd for Resource {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Resources and, for each, the operations allowed on it. Never empty, and no list of operations is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability(BTreeMap<Resource, BTreeSet<&'static str>>);

/// Why a text is not a capability.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidCapability(String);

impl fmt::Display for Capability {
    /// The canonical JSON text: sorted, without spaces.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = '{';
        for (resource, operations) in &self.0 {
            let resource = serde_json::to_string(&resource.0).map_err(|_| fmt::Error)?;
            let operations = serde_json::to_string(operations).map_err(|_| fmt::Error)?;
            write!(f, "{separator}{resource}:{operations}")?;
            separator = ',';
        }
        f.write_str("}")
    }
}

impl FromStr for Capability {
    type Err = InvalidCapability;

    fn from_str(json: &str) -> Result<Self, InvalidCapability> {
        serde_json::from_str(json).map_err(|error| InvalidCapability(error.to_string()))
    }
}

impl Serialize for Capability {
    /// As in a token request: a string that holds the canonical JSON text (TE5).
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Capability {
    /// From the JSON object itself. A resource named twice is an error: which of the two was meant is anyone's guess.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Resources;

        impl<'de> Visitor<'de> for Resources {
            type Value = Capability;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of resource names, each with a list of operations")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Capability, A::Error> {
                let mut resources = BTreeMap::new();
                while let Some((resource, operations)) = map.next_entry::<String, Vec<String>>()? {
                    if resource.is_empty() {
                        return Err(de::Error::custom("a resource name is empty"));
                    }
                    let operations = known_operations(&resource, &operations).map_err(de::Error::custom)?;
                    if resources.insert(Resource(resource.clone()), operations).is_some() {
                        return Err(de::Error::custom(format_args!("the resource {resource:?} is named twice")));
                    }
                }
                if resources.is_empty() {
                    return Err(de::Error::custom("a capability names at least one resource"));
                }
                Ok(Capability(resources))
            }
        }

        deserializer.deserialize_map(Resources)
    }
}

fn known_operations(resource: &str, operations: &[String]) -> Result<BTreeSet<&'static str>, InvalidCapability> {
    let mut known = BTreeSet::new();
    for operation in operations {
        let operation = iter::once(WILDCARD)
            .chain(OPERATIONS)
            .find(|name| name == operation)
            .ok_or_else(|| InvalidCapability(format!("{operation:?} on {resource:?} is not an operation of Ably's")))?;
        known.insert(operation);
    }
    if known.is_empty() {
        return Err(InvalidCapability(format!("the list of operations on {resource:?} is empty")));
    }
    if known.contains(WILDCARD) && known.len() > 1 {
        return Err(InvalidCapability(format!("\"*\" on {resource:?} stands beside other operations")));
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_canonical_text_is_sorted_and_without_spaces() {
        let capability: Capability =
            r#"{ "z": ["publish", "history"], "é": ["*"], "10": ["stats"], "9": ["subscribe"], "Z": ["presence"] }"#
                .parse()
                .unwrap();
        assert_eq!(
            capability.to_string(),
            r#"{"9":["subscribe"],"10":["stats"],"Z":["presence"],"z":["history","publish"],"é":["*"]}"#
        );
    }

    #[test]
    fn what_is_not_a_capability_is_refused_with_what_is_wrong() {
        for (json, error) in [
            ("", "EOF while parsing"),
            ("null", "invalid type: null"),
            ("[]", "invalid type: sequence"),
            (r#""{}""#, "invalid type: string"),
            ("{}", "names at least one resource"),
            (r#"{"":["*"]}"#, "resource name is empty"),
            (r#"{"a":[]}"#, "is empty"),
            (r#"{"a":"*"}"#, "invalid type: string"),
            (r#"{"a":["*","publish"]}"#, "beside other operations"),
            (r#"{"a":["Publish"]}"#, "not an operation"),
            (r#"{"a":["*"],"a":["publish"]}"#, "named twice"),
            (r#"{"a":["*"]} x"#, "trailing characters"),
        ] {
            let message = json.parse::<Capability>().unwrap_err().to_string();
            assert!(message.contains(error), "{json}: {message}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_text_is_a_fixed_point(
            resources in prop::collection::btree_map(".{1,12}", prop::collection::btree_set(prop::sample::select(&OPERATIONS), 1..4), 1..6)
        ) {
            let json = serde_json::to_string(&resources).unwrap();
            let capability: Capability = json.parse().unwrap();
            let canonical = capability.to_string();
            let again: Capability = canonical.parse().unwrap();
            prop_assert_eq!(&again, &capability);
            prop_assert_eq!(again.to_string(), canonical);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _ = text.parse::<Capability>();
        }
    }
}

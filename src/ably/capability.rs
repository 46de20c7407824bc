//! Capabilities: the operations that a token allows on each resource.
//!
//! A [`Capability`] is valid by construction and prints as the canonical text that is signed (RSA9f, TK2b).

use std::{cmp::Ordering, fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, Visitor},
};

use super::resource::{Intersection, Pattern};

/// Every operation. Cannot be combined with others (TK2b).
const WILDCARD: &str = "*";

/// Ably's operations, without the wildcard `*`.
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

/// The operations allowed on one resource: at least one of [`OPERATIONS`], or `*` alone.
///
/// A bit for each of [`OPERATIONS`], in their order. `*` has all bits, also for future operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operations(u32);

/// Why a list of operations is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOperations {
    /// An unknown operation.
    #[error("{0:?} is not an operation of Ably's")]
    Unknown(String),
    /// An empty list.
    #[error("the list of operations is empty")]
    Empty,
    /// `*` beside other operations.
    #[error("\"*\" stands beside other operations")]
    WildcardBesideOthers,
}

impl Operations {
    const ALL: Self = Self(u32::MAX);

    /// Parses a list of names.
    pub fn parse<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Result<Self, InvalidOperations> {
        let (mut all, mut bits) = (false, 0);
        for name in names {
            let name = name.as_ref();
            match OPERATIONS.iter().position(|known| *known == name) {
                Some(position) => bits |= 1 << position,
                None if name == WILDCARD => all = true,
                None => return Err(InvalidOperations::Unknown(name.to_owned())),
            }
        }
        match (all, bits) {
            (true, 0) => Ok(Self::ALL),
            (true, _) => Err(InvalidOperations::WildcardBesideOthers),
            (false, 0) => Err(InvalidOperations::Empty),
            (false, bits) => Ok(Self(bits)),
        }
    }

    /// The names, sorted.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let is_all = self == Self::ALL;
        let is_listed = move |(position, _): &(usize, _)| !is_all && self.0 & (1 << position) != 0;
        let listed = OPERATIONS.into_iter().enumerate().filter(is_listed);
        is_all.then_some(WILDCARD).into_iter().chain(listed.map(|(_, name)| name))
    }

    /// The operations that either allows. `*` absorbs the others.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The operations that both allow. `*` is the identity.
    #[must_use]
    pub fn intersect(self, other: Self) -> Option<Self> {
        let both = self.0 & other.0;
        (both != 0).then_some(Self(both))
    }
}

impl Serialize for Operations {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

/// A resource name, sorted as ably-js sorts: integer-like names first and by value, as in any JavaScript object, then by
/// UTF-16 code unit.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Resource(String);

impl Resource {
    /// The value of a JavaScript array index: a canonical decimal below 2^32 - 1.
    fn array_index(&self) -> Option<u32> {
        self.0.bytes().next().filter(u8::is_ascii_digit)?;
        let index: u32 = self.0.parse().ok().filter(|index| *index < u32::MAX)?;
        (index.to_string() == self.0).then_some(index)
    }

    /// Whether byte order is the right order: for ASCII, bytes are code units.
    fn is_plain(&self) -> bool {
        self.0.is_ascii() && !self.0.starts_with(|first: char| first.is_ascii_digit())
    }
}

impl Ord for Resource {
    fn cmp(&self, other: &Self) -> Ordering {
        let index = |name: &Self| name.array_index().map_or((true, 0), |index| (false, index));
        index(self).cmp(&index(other)).then_with(|| self.0.encode_utf16().cmp(other.0.encode_utf16()))
    }
}

impl PartialOrd for Resource {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Resources with the operations allowed on each. Never empty; in canonical order, each resource once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability(Vec<(Resource, Operations)>);

/// Why a capability is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidCapability(String);

/// Why two capabilities have no intersection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoIntersection {
    /// They have nothing in common.
    #[error("the two have nothing in common")]
    Nothing,
    /// The intersection has too many resources that neither names.
    #[error("the two have too much in common")]
    TooLarge,
}

impl Capability {
    /// The maximum size of resources in an intersection that neither side names, in bytes of names and operations. ably-js
    /// reads no larger response. The other resources are never more than both sides have together.
    pub const MAX_UNNAMED_BYTES: usize = 128 * 1024;

    /// The union of these resources. The operations of a repeated resource add up. Ignores empty names. `None` if nothing
    /// is left.
    #[must_use]
    pub fn union(resources: impl IntoIterator<Item = (String, Operations)>) -> Option<Self> {
        let named = resources.into_iter().filter(|(resource, _)| !resource.is_empty());
        let mut union: Vec<_> = named.map(|(resource, operations)| (Resource(resource), operations)).collect();
        sort(&mut union);
        union.dedup_by(|(other, more), (resource, all)| {
            let is_same = other == resource;
            if is_same {
                *all = all.union(*more);
            }
            is_same
        });
        (!union.is_empty()).then_some(Self(union))
    }

    /// The rights that both allow (RSA9f): for each pair of resources the narrower one, with the operations of both. A
    /// malformed resource, like `[meta`, matches nothing.
    ///
    /// The narrower one may be a resource that neither names: `b:a` for `*:a` and `b:*`. These may take at most
    /// [`Self::MAX_UNNAMED_BYTES`].
    pub fn intersect(&self, other: &Self) -> Result<Self, NoIntersection> {
        let ours: Vec<_> = self.patterns().collect();
        let mut theirs: Vec<_> = other.patterns().map(|pattern| (pattern, None)).collect();
        let mut both = Vec::new();
        let mut bytes_left = Self::MAX_UNNAMED_BYTES;
        for (our_name, our_pattern, our_operations) in ours {
            let mut our_common = None;
            for ((_, their_pattern, their_operations), their_common) in &mut theirs {
                let Some(operations) = our_operations.intersect(*their_operations) else { continue };
                match our_pattern.intersect(their_pattern) {
                    Some(Intersection::Ours) => add(&mut our_common, operations),
                    Some(Intersection::Theirs) => add(their_common, operations),
                    Some(Intersection::Narrower(name)) => {
                        let bytes = name.len() + operations.names().map(str::len).sum::<usize>();
                        bytes_left = bytes_left.checked_sub(bytes).ok_or(NoIntersection::TooLarge)?;
                        both.push((name, operations));
                    }
                    None => {}
                }
            }
            both.extend(our_common.map(|operations| (our_name.to_owned(), operations)));
        }
        let theirs = theirs.into_iter().filter_map(|((name, ..), common)| Some((name.to_owned(), common?)));
        Self::union(both.into_iter().chain(theirs)).ok_or(NoIntersection::Nothing)
    }

    /// The well-formed resources, with their patterns.
    fn patterns(&self) -> impl Iterator<Item = (&str, Pattern<'_>, Operations)> {
        self.resources().filter_map(|(resource, operations)| Some((resource, Pattern::parse(resource)?, operations)))
    }

    /// The number of resources.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The resources in canonical order, each with its operations.
    pub fn resources(&self) -> impl Iterator<Item = (&str, Operations)> {
        self.0.iter().map(|(resource, operations)| (resource.0.as_str(), *operations))
    }
}

fn add(all: &mut Option<Operations>, more: Operations) {
    *all = Some(all.map_or(more, |all| all.union(more)));
}

/// Sorts resources. Byte order is the fast path.
fn sort(resources: &mut [(Resource, Operations)]) {
    if resources.iter().all(|(resource, _)| resource.is_plain()) {
        resources.sort_by(|(Resource(a), _), (Resource(b), _)| a.cmp(b));
    } else {
        resources.sort_by(|(a, _), (b, _)| a.cmp(b));
    }
}

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
    /// As a string with the canonical JSON text, as in a token request (TE5).
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Capability {
    /// From the JSON object itself. A repeated resource is an error.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Resources;

        impl<'de> Visitor<'de> for Resources {
            type Value = Capability;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of resource names, each with a list of operations")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Capability, A::Error> {
                let mut resources = Vec::new();
                while let Some((resource, operations)) = map.next_entry::<String, Vec<String>>()? {
                    if resource.is_empty() {
                        return Err(de::Error::custom("a resource name is empty"));
                    }
                    let operations = Operations::parse(operations)
                        .map_err(|error| de::Error::custom(format_args!("{resource:?}: {error}")))?;
                    resources.push((Resource(resource), operations));
                }
                sort(&mut resources);
                if let Some([(Resource(twice), _), _]) = resources.array_windows().find(|[(a, _), (b, _)]| a == b) {
                    return Err(de::Error::custom(format_args!("the resource {twice:?} is named twice")));
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// Few words, so that resources often intersect.
    fn resource() -> impl Strategy<Value = String> {
        let qualifier = prop_oneof![4 => Just(""), 1 => Just("[meta]"), 1 => Just("[queue]"), 1 => Just("[*]")];
        let segment = prop::sample::select(&["a", "b", "*", "c*", "\u{10400}"]);
        (qualifier, prop::collection::vec(segment, 1..5))
            .prop_map(|(qualifier, segments)| qualifier.to_owned() + &segments.join(":"))
    }

    fn operations() -> impl Strategy<Value = Vec<&'static str>> {
        prop_oneof![
            1 => Just(vec!["*"]),
            3 => prop::sample::subsequence(&["history", "presence", "publish", "subscribe"], 1..=4),
        ]
    }

    /// Names for the fast path of sorting.
    fn plain_name() -> impl Strategy<Value = String> {
        prop_oneof!["[a-c]{1,2}", "[!-/:-~][ -~]{0,5}", "[*a]:[0-9]{1,3}"]
    }

    /// Names of all kinds: integers about the largest index, and letters whose bytes and code units differ in order.
    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            plain_name(),
            "[0-9]{1,3}",
            (4_294_967_290_u64..4_294_967_300).prop_map(|number| number.to_string()),
            "[a\u{e9}\u{ffff}\u{10400}\u{e000}]{1,3}",
            any::<String>(),
        ]
    }

    /// A slow reference for [`Capability::union`]: resources in the order of ECMAScript's OrdinaryOwnPropertyKeys and then
    /// of code units, as ably-js sorts.
    fn reference_union(resources: &[(String, Vec<&'static str>)]) -> Vec<(String, Vec<&'static str>)> {
        type Key = (bool, u64, Vec<u16>);
        let key = |name: &str| -> Key {
            let is_decimal = name == "0" || (!name.starts_with('0') && name.chars().all(|c| c.is_ascii_digit()));
            match name.parse::<u64>().ok().filter(|number| is_decimal && *number < 0xffff_ffff) {
                Some(index) => (false, index, Vec::new()),
                None => (true, 0, name.encode_utf16().collect()),
            }
        };
        let mut union: BTreeMap<Key, (String, BTreeSet<&str>)> = BTreeMap::new();
        for (name, operations) in resources.iter().filter(|(name, _)| !name.is_empty()) {
            let (_, all) = union.entry(key(name)).or_insert_with(|| (name.clone(), BTreeSet::new()));
            all.extend(operations);
        }
        let absorbed = |all: BTreeSet<_>| if all.contains("*") { vec!["*"] } else { all.into_iter().collect() };
        union.into_values().map(|(name, all)| (name, absorbed(all))).collect()
    }

    fn capability() -> impl Strategy<Value = String> {
        prop::collection::btree_map(resource(), operations(), 1..5)
            .prop_map(|resources| serde_json::to_string(&resources).unwrap())
    }

    fn channel() -> impl Strategy<Value = String> {
        let qualifier = prop_oneof![4 => Just(""), 1 => Just("[meta]"), 1 => Just("[queue]")];
        let segment = prop::sample::select(&["a", "b", "c*", "\u{10400}"]);
        (qualifier, prop::collection::vec(segment, 1..6))
            .prop_map(|(qualifier, segments)| qualifier.to_owned() + &segments.join(":"))
    }

    fn intersection(left: &str, right: &str) -> Option<Capability> {
        left.parse::<Capability>().unwrap().intersect(&right.parse().unwrap()).ok()
    }

    #[test]
    fn capabilities_intersect_pair_by_pair() {
        for (requested, granted, both) in [
            (r#"{"a":["publish","subscribe"]}"#, r#"{"a":["subscribe"]}"#, r#"{"a":["subscribe"]}"#),
            (r#"{"a":["publish"]}"#, r#"{"*":["*"]}"#, r#"{"a":["publish"]}"#),
            (r#"{"a":["*"]}"#, r#"{"a":["*"]}"#, r#"{"a":["*"]}"#),
            (r#"{"foo":["publish"]}"#, r#"{"foo:*":["*"]}"#, r#"{"foo":["publish"]}"#),
            (r#"{"[*]*":["*"]}"#, r#"{"a:*":["presence"],"[meta]b":["*"]}"#, r#"{"[meta]b":["*"],"a:*":["presence"]}"#),
            (r#"{"a:*":["publish"],"a:b":["history"]}"#, r#"{"a:b":["*"]}"#, r#"{"a:b":["history","publish"]}"#),
            (r#"{"a:*":["*"],"a:b":["history"]}"#, r#"{"a:b":["*"]}"#, r#"{"a:b":["*"]}"#),
            (r#"{"a":["publish"],"b":["stats"]}"#, r#"{"b":["*"]}"#, r#"{"b":["stats"]}"#),
        ] {
            assert_eq!(intersection(requested, granted).unwrap().to_string(), both, "{requested} and {granted}");
        }
        for (requested, granted) in [
            (r#"{"a":["publish"]}"#, r#"{"a":["subscribe"]}"#),
            (r#"{"a":["publish"]}"#, r#"{"b":["publish"]}"#),
            (r#"{"[meta":["publish"]}"#, r#"{"[*]*":["*"]}"#),
            (r#"{"[meta]a":["publish"]}"#, r#"{"*":["*"]}"#),
        ] {
            assert_eq!(intersection(requested, granted), None, "{requested} and {granted}");
        }
    }

    #[test]
    fn a_union_names_each_resource_once_and_the_wildcard_absorbs() {
        let operations = |names: &[&str]| Operations::parse(names).unwrap();
        let union = Capability::union([
            ("b".to_owned(), operations(&["publish"])),
            ("a".to_owned(), operations(&["publish"])),
            ("b".to_owned(), operations(&["history", "publish"])),
            ("a".to_owned(), operations(&["*"])),
            ("a".to_owned(), operations(&["stats"])),
        ]);
        assert_eq!(union.unwrap().to_string(), r#"{"a":["*"],"b":["history","publish"]}"#);
        assert_eq!(Capability::union([(String::new(), Operations::ALL)]), None);
    }

    #[test]
    fn an_intersection_that_neither_side_names_has_at_most_128_kib() {
        // The intersection of each pair has a name of 12 bytes and an operation of 5.
        let half = |count: usize, name: fn(usize) -> String, operation: &'static str| {
            let operations = Operations::parse([operation]).unwrap();
            Capability::union((0..count).map(|position| (name(position), operations))).unwrap()
        };
        let requested = |count| half(count, |position| format!("*:{position:06}"), "*");
        let granted = half(64, |position| format!("g{position:04}:*"), "stats");
        let max_requested = Capability::MAX_UNNAMED_BYTES / (17 * 64);
        assert_eq!(requested(max_requested).intersect(&granted).unwrap().len(), max_requested * 64);
        assert_eq!(requested(max_requested + 1).intersect(&granted), Err(NoIntersection::TooLarge));
        assert_eq!(granted.intersect(&requested(max_requested + 1)), Err(NoIntersection::TooLarge));
        let named = half(20_000, |position| format!("a-name-that-is-long:{position}"), "stats");
        let everything = half(1, |_| "*".to_owned(), "*");
        assert_eq!(everything.intersect(&named).as_ref(), Ok(&named), "the size of what a side names does not count");
    }

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
    fn an_invalid_capability_is_rejected_with_its_reason() {
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
        #![proptest_config(ProptestConfig::with_cases(2048))]

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
        fn a_union_equals_the_reference(
            resources in prop_oneof![
                prop::collection::vec((plain_name(), operations()), 0..12),
                prop::collection::vec((name(), operations()), 0..12),
            ]
        ) {
            let parsed = resources.iter().map(|(name, names)| (name.clone(), Operations::parse(names).unwrap()));
            let union = Capability::union(parsed);
            let found: Option<Vec<_>> = union.as_ref().map(|union| {
                union.resources().map(|(name, operations)| (name.to_owned(), operations.names().collect())).collect()
            });
            let expected = reference_union(&resources);
            prop_assert_eq!(found.unwrap_or_default(), expected);
            if let Some(union) = union {
                prop_assert_eq!(union.to_string().parse(), Ok(union));
            }
        }

        #[test]
        fn an_intersection_equals_that_of_the_sandbox(left in capability(), right in capability()) {
            let ours = intersection(&left, &right).map_or("{}".into(), |both| both.to_string());
            let theirs = sandbox::ably::intersection(&left, &right).unwrap();
            let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
            prop_assert_eq!(json(&ours), json(&theirs));
        }

        #[test]
        fn an_intersection_allows_what_both_allow(left in capability(), right in capability(), channel in channel()) {
            let both = intersection(&left, &right).map(|both| both.to_string());
            for operation in OPERATIONS {
                let allows = |capability: &str| sandbox::ably::allows(capability, &channel, operation);
                let in_both = both.as_deref().is_some_and(&allows);
                prop_assert_eq!(in_both, allows(&left) && allows(&right), "{} on {}: {:?}", operation, channel, both);
            }
        }

        #[test]
        fn the_order_of_an_intersection_does_not_matter(left in capability(), right in capability()) {
            prop_assert_eq!(intersection(&left, &right), intersection(&right, &left));
        }

        #[test]
        fn a_capability_intersected_with_itself_allows_the_same(text in capability(), channel in channel()) {
            let once = intersection(&text, &text).unwrap();
            let twice = once.intersect(&once).unwrap();
            prop_assert_eq!(twice.intersect(&twice), Ok(twice), "not a fixed point");
            for operation in OPERATIONS {
                let allows = |capability: &str| sandbox::ably::allows(capability, &channel, operation);
                prop_assert_eq!(allows(&once.to_string()), allows(&text));
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _ = text.parse::<Capability>();
        }
    }
}

//! Capabilities: operations by resource (`TK2b`, `RSA9f`). Parsed, intersected, and asked whether they allow an
//! operation on a channel.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde_json::Value;

use super::error::ErrorInfo;

/// All operations.
const ALL: &str = "*";

/// The operations of Ably.
const OPERATIONS: [&str; 17] = [
    "subscribe",
    "publish",
    "presence",
    "history",
    "object-subscribe",
    "object-publish",
    "annotation-subscribe",
    "annotation-publish",
    "message-update-own",
    "message-update-any",
    "message-delete-own",
    "message-delete-any",
    "stats",
    "push-subscribe",
    "push-admin",
    "channel-metadata",
    "privileged-headers",
];

/// Operations by resource. An empty capability allows nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Capability(BTreeMap<Resource, BTreeSet<&'static str>>);

impl Capability {
    /// Parses the JSON text of a token request or a JWT.
    pub(crate) fn parse(text: &str) -> Result<Self, ErrorInfo> {
        let value: Value =
            serde_json::from_str(text).map_err(|_| ErrorInfo::bad_request("the capability is not valid JSON"))?;
        Self::from_json(&value)
    }

    /// Parses an object of resource to list of operations.
    pub(crate) fn from_json(value: &Value) -> Result<Self, ErrorInfo> {
        let resources = value.as_object().ok_or(ErrorInfo::bad_request("the capability must be an object"))?;
        let mut parsed = BTreeMap::new();
        for (resource, operations) in resources {
            let operations =
                operations.as_array().ok_or(ErrorInfo::bad_request("the operations of a resource must be a list"))?;
            parsed.insert(Resource::parse(resource)?, read_operations(operations)?);
        }
        Ok(Self(parsed))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the capability allows `operation` on this channel.
    pub(crate) fn allows(&self, channel: &str, operation: &str) -> bool {
        Resource::of_channel(channel).is_some_and(|channel| {
            self.0.iter().any(|(resource, operations)| {
                (operations.contains(ALL) || operations.contains(operation)) && resource.covers(&channel)
            })
        })
    }

    /// Whether the capability has exactly this resource, as revocation by channel requires.
    pub(crate) fn names(&self, resource: &str) -> bool {
        Resource::parse(resource).is_ok_and(|resource| self.0.contains_key(&resource))
    }

    /// The intersection: for each pair of resources the narrower one, with the common operations (`RSA9f`).
    pub(crate) fn intersect(&self, other: &Self) -> Self {
        let mut common: BTreeMap<Resource, BTreeSet<&'static str>> = BTreeMap::new();
        for (left, left_operations) in &self.0 {
            for (right, right_operations) in &other.0 {
                let operations = common_operations(left_operations, right_operations);
                if operations.is_empty() {
                    continue;
                }
                if let Some(resource) = left.intersect(right) {
                    common.entry(resource).or_default().extend(operations);
                }
            }
        }
        for operations in common.values_mut() {
            if operations.contains(ALL) {
                operations.retain(|operation| *operation == ALL);
            }
        }
        Self(common)
    }
}

/// Canonical JSON: resources and operations sorted, no spaces.
impl fmt::Display for Capability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resources: BTreeMap<String, &BTreeSet<&str>> =
            self.0.iter().map(|(resource, operations)| (resource.to_string(), operations)).collect();
        formatter.write_str(&serde_json::to_string(&resources).map_err(|_| fmt::Error)?)
    }
}

fn read_operations(list: &[Value]) -> Result<BTreeSet<&'static str>, ErrorInfo> {
    let mut operations = BTreeSet::new();
    for operation in list {
        let operation =
            operation.as_str().ok_or(ErrorInfo::bad_request("an operation of the capability must be a string"))?;
        let known = OPERATIONS.into_iter().chain([ALL]).find(|known| *known == operation);
        operations.insert(known.ok_or(ErrorInfo::bad_request("the capability has an unknown operation"))?);
    }
    if operations.is_empty() {
        return Err(ErrorInfo::bad_request("a resource of the capability has no operations"));
    }
    if operations.contains(ALL) && operations.len() > 1 {
        return Err(ErrorInfo::bad_request("the capability mixes * with other operations"));
    }
    Ok(operations)
}

fn common_operations(left: &BTreeSet<&'static str>, right: &BTreeSet<&'static str>) -> BTreeSet<&'static str> {
    match (left.contains(ALL), right.contains(ALL)) {
        (true, _) => right.clone(),
        (_, true) => left.clone(),
        _ => left.intersection(right).copied().collect(),
    }
}

/// A resource: `:`-separated segments, with optional wildcards and qualifier: `[meta]log`, `[*]*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Resource {
    qualifier: Option<String>,
    segments: Vec<String>,
}

impl Resource {
    pub(crate) fn parse(text: &str) -> Result<Self, ErrorInfo> {
        Self::read(text).ok_or(ErrorInfo::bad_request("the capability has an empty or malformed resource"))
    }

    /// The resource of a channel name. Channel parameters (`[?rewind=1]name`) are ignored.
    pub(crate) fn of_channel(name: &str) -> Option<Self> {
        let mut channel = Self::read(name)?;
        channel.qualifier = channel
            .qualifier
            .map(|qualifier| qualifier.split('?').next().unwrap_or_default().to_owned())
            .filter(|qualifier| !qualifier.is_empty());
        Some(channel)
    }

    fn read(text: &str) -> Option<Self> {
        let (qualifier, path) = match text.strip_prefix('[') {
            Some(rest) => {
                let (qualifier, path) = rest.split_once(']')?;
                (Some(qualifier.to_owned()), path)
            }
            None => (None, text),
        };
        if path.is_empty() || qualifier.as_deref() == Some("") {
            return None;
        }
        Some(Self { qualifier, segments: path.split(':').map(str::to_owned).collect() })
    }

    /// Whether a pattern covers a channel. `*` matches one whole segment, or at the end any number of segments,
    /// including zero.
    pub(crate) fn covers(&self, channel: &Self) -> bool {
        let qualifier_covers = self.qualifier.as_deref() == Some(ALL) || self.qualifier == channel.qualifier;
        if !qualifier_covers {
            return false;
        }
        let last = self.segments.len() - 1;
        for (index, segment) in self.segments.iter().enumerate() {
            if segment == ALL && index == last {
                return true;
            }
            match channel.segments.get(index) {
                Some(name) if segment == ALL || segment == name => {}
                _ => return false,
            }
        }
        self.segments.len() == channel.segments.len()
    }

    /// The narrower of two overlapping patterns.
    fn intersect(&self, other: &Self) -> Option<Self> {
        let qualifier = match (self.qualifier.as_deref(), other.qualifier.as_deref()) {
            (left, right) if left == right => left,
            (Some(ALL), right) => right,
            (left, Some(ALL)) => left,
            _ => return None,
        };
        let (short, long) = if self.segments.len() <= other.segments.len() {
            (&self.segments[..], &other.segments[..])
        } else {
            (&other.segments[..], &self.segments[..])
        };
        let open_ended = short.last().is_some_and(|segment| segment == ALL);
        // The longer one may end in a `*` that matches zero segments: `foo:*` covers `foo`.
        let long = match long.split_last() {
            Some((last, rest)) if !open_ended && last == ALL && rest.len() == short.len() => rest,
            _ => long,
        };
        if short.len() < long.len() && !open_ended {
            return None;
        }
        let mut segments = Vec::with_capacity(long.len());
        for (index, (left, right)) in short.iter().zip(long).enumerate() {
            if left == ALL && index == short.len() - 1 {
                segments.extend(long[index..].iter().cloned());
            } else if left == ALL || left == right {
                segments.push(right.clone());
            } else if right == ALL {
                segments.push(left.clone());
            } else {
                return None;
            }
        }
        Some(Self { qualifier: qualifier.map(str::to_owned), segments })
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(qualifier) = &self.qualifier {
            write!(formatter, "[{qualifier}]")?;
        }
        formatter.write_str(&self.segments.join(":"))
    }
}

#[cfg(test)]
mod tests {
    use super::{Capability, Resource};

    fn capability(text: &str) -> Capability {
        Capability::parse(text).unwrap()
    }

    #[test]
    fn a_pattern_covers_the_channels_that_ably_documents() {
        for (pattern, channel, covered) in [
            ("foo", "foo", true),
            ("foo", "foo:a", false),
            ("foo:*", "foo", true),
            ("foo:*", "foo:a", true),
            ("foo:*", "foo:a:b", true),
            ("foo:*", "food", false),
            ("foo:*:baz", "foo:a:baz", true),
            ("foo:*:baz", "foo:a:b:baz", false),
            ("foo:*:baz", "foo:a", false),
            ("foo*", "foo", false),
            ("foo*", "foo*", true),
            ("*", "anything:at:all", true),
            ("*", "[meta]log", false),
            ("[*]*", "[meta]log", true),
            ("[*]*", "chat", true),
            ("[meta]*", "[meta]log", true),
            ("[meta]*", "chat", false),
            ("[meta]*", "[queue]log", false),
            ("chat", "[?rewind=1]chat", true),
            ("[meta]log", "[meta?rewind=1]log", true),
        ] {
            let capability = capability(&format!(r#"{{"{pattern}":["publish"]}}"#));
            assert_eq!(capability.allows(channel, "publish"), covered, "{pattern} on {channel}");
            assert!(!capability.allows(channel, "subscribe"));
        }
    }

    #[test]
    fn two_resources_intersect_in_the_narrower_one() {
        for (left, right, common) in [
            ("foo", "foo", Some("foo")),
            ("foo", "bar", None),
            ("foo:*", "foo:a:b", Some("foo:a:b")),
            ("foo:*", "foo:*", Some("foo:*")),
            ("foo:*", "foo", Some("foo")),
            ("foo:*:*", "foo:a", Some("foo:a")),
            ("foo:*:*", "foo", None),
            ("foo:*", "bar:*", None),
            ("foo:*:baz", "foo:a:baz", Some("foo:a:baz")),
            ("foo:*:baz", "foo:*", Some("foo:*:baz")),
            ("*:a", "foo:*", Some("foo:a")),
            ("*", "foo:*", Some("foo:*")),
            ("*", "[meta]log", None),
            ("[*]*", "[meta]log", Some("[meta]log")),
            ("[*]*", "*", Some("*")),
            ("[*]foo:*", "[meta]foo:a", Some("[meta]foo:a")),
            ("[meta]*", "[queue]*", None),
            ("foo*", "foo", None),
        ] {
            for (left, right) in [(left, right), (right, left)] {
                let met = Resource::parse(left).unwrap().intersect(&Resource::parse(right).unwrap());
                assert_eq!(met.map(|resource| resource.to_string()).as_deref(), common, "{left} and {right}");
            }
        }
    }

    #[test]
    fn capabilities_intersect_pair_by_pair() {
        for (asked, key, granted) in [
            (r#"{"a":["publish","subscribe"]}"#, r#"{"a":["subscribe"]}"#, r#"{"a":["subscribe"]}"#),
            (r#"{"a":["publish","subscribe"]}"#, r#"{"*":["*"]}"#, r#"{"a":["publish","subscribe"]}"#),
            (r#"{"[*]*":["*"]}"#, r#"{"chat:*":["presence"],"z":["*"]}"#, r#"{"chat:*":["presence"],"z":["*"]}"#),
            (r#"{"chat:a":["publish"],"other":["publish"]}"#, r#"{"chat:*":["*"]}"#, r#"{"chat:a":["publish"]}"#),
            (r#"{"a":["publish"]}"#, r#"{"a":["subscribe"]}"#, r"{}"),
            (r#"{"a:*":["publish"],"a:b":["subscribe"]}"#, r#"{"a:b":["*"]}"#, r#"{"a:b":["publish","subscribe"]}"#),
            (r#"{"a:*":["*"],"a:b":["subscribe"]}"#, r#"{"a:b":["*"]}"#, r#"{"a:b":["*"]}"#),
            (r"{}", r#"{"*":["*"]}"#, r"{}"),
        ] {
            assert_eq!(capability(asked).intersect(&capability(key)).to_string(), granted, "{asked} under {key}");
        }
    }

    #[test]
    fn a_malformed_capability_is_refused_with_40000() {
        for text in [
            "",
            "null",
            "[]",
            r#""*""#,
            "{",
            r#"{"a":"publish"}"#,
            r#"{"a":[]}"#,
            r#"{"a":[1]}"#,
            r#"{"a":["shout"]}"#,
            r#"{"a":["PUBLISH"]}"#,
            r#"{"a":["*","publish"]}"#,
            r#"{"":["publish"]}"#,
            r#"{"[meta":["publish"]}"#,
            r#"{"[]a":["publish"]}"#,
        ] {
            assert_eq!(Capability::parse(text).unwrap_err().code, 40000, "{text}");
        }
    }
}

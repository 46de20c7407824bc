//! The names of resources as patterns: `:`-separated segments with wildcards, and a qualifier.

use std::fmt;

const WILDCARD: &str = "*";

/// A resource of a capability. `*` stands for one segment; at the end, for any number, none included. A qualifier
/// (`[meta]`, `[queue]`) is met by itself and by `[*]` only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern<'a> {
    qualifier: Option<&'a str>,
    segments: Vec<&'a str>,
    ending: Ending,
}

/// How a pattern goes on after its segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Not at all.
    Closed,
    /// With any number of segments: the pattern ends in `*`.
    Open,
}

impl<'a> Pattern<'a> {
    /// Takes a name apart. None when its qualifier is not closed or empty, or nothing follows it.
    pub(super) fn parse(name: &'a str) -> Option<Self> {
        let (qualifier, path) = match name.strip_prefix('[') {
            Some(rest) => {
                let (qualifier, path) = rest.split_once(']')?;
                (Some(qualifier), path)
            }
            None => (None, name),
        };
        if path.is_empty() || qualifier == Some("") {
            return None;
        }
        let mut segments: Vec<_> = path.split(':').collect();
        let ending = match segments.pop_if(|last| *last == WILDCARD) {
            Some(_) => Ending::Open,
            None => Ending::Closed,
        };
        Some(Self { qualifier, segments, ending })
    }

    /// The pattern of the names that both match, if there are any.
    pub(super) fn intersect(&self, other: &Self) -> Option<Self> {
        let qualifier = match (self.qualifier, other.qualifier) {
            (ours, theirs) if ours == theirs => ours,
            (Some(WILDCARD), narrower) | (narrower, Some(WILDCARD)) => narrower,
            _ => return None,
        };
        let (short, long) = if self.segments.len() <= other.segments.len() { (self, other) } else { (other, self) };
        if short.ending == Ending::Closed && short.segments.len() < long.segments.len() {
            return None;
        }
        let (beside, beyond) = long.segments.split_at(short.segments.len());
        let mut segments = Vec::with_capacity(long.segments.len() + 1);
        for (ours, theirs) in short.segments.iter().zip(beside) {
            segments.push(match (*ours, *theirs) {
                (ours, theirs) if ours == theirs => ours,
                (WILDCARD, narrower) | (narrower, WILDCARD) => narrower,
                _ => return None,
            });
        }
        segments.extend(beyond);
        let ending = match (short.ending, long.ending) {
            (Ending::Open, Ending::Open) => Ending::Open,
            _ => Ending::Closed,
        };
        Some(Self { qualifier, segments, ending })
    }
}

impl fmt::Display for Pattern<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(qualifier) = self.qualifier {
            write!(f, "[{qualifier}]")?;
        }
        f.write_str(&self.segments.join(":"))?;
        match self.ending {
            Ending::Closed => Ok(()),
            Ending::Open if self.segments.is_empty() => f.write_str(WILDCARD),
            Ending::Open => write!(f, ":{WILDCARD}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_meet_in_the_narrower_one() {
        for (left, right, both) in [
            ("foo", "foo", Some("foo")),
            ("foo", "bar", None),
            ("foo:*", "foo", Some("foo")),
            ("foo:*", "foo:a:b", Some("foo:a:b")),
            ("foo:*", "foo:*", Some("foo:*")),
            ("foo:*", "bar:*", None),
            ("foo:*", "food", None),
            ("foo:*:*", "foo", None),
            ("foo:*:*", "foo:a", Some("foo:a")),
            ("foo:*:*", "foo:*", Some("foo:*:*")),
            ("foo:*:baz", "foo:a:baz", Some("foo:a:baz")),
            ("foo:*:baz", "foo:*", Some("foo:*:baz")),
            ("foo:*:baz", "foo:a:b:baz", None),
            ("foo:*:baz", "*:a:*", Some("foo:a:baz")),
            ("*:a", "foo:*", Some("foo:a")),
            ("*", "foo:*", Some("foo:*")),
            ("*", "*", Some("*")),
            ("*", "[meta]log", None),
            ("[*]*", "[meta]log", Some("[meta]log")),
            ("[*]*", "*", Some("*")),
            ("[*]foo:*", "[meta]foo:a", Some("[meta]foo:a")),
            ("[meta]*", "[queue]*", None),
            ("foo*", "foo", None),
            ("foo*", "foo*", Some("foo*")),
        ] {
            for (left, right) in [(left, right), (right, left)] {
                let met = Pattern::parse(left).unwrap().intersect(&Pattern::parse(right).unwrap());
                assert_eq!(met.map(|pattern| pattern.to_string()).as_deref(), both, "{left} and {right}");
            }
        }
        for malformed in ["", "[meta", "[]a", "[meta]"] {
            assert_eq!(Pattern::parse(malformed), None);
        }
    }
}

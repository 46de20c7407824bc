//! Resource names as patterns: `:`-separated segments with wildcards, and a qualifier.

use std::{cmp::Ordering, fmt};

const WILDCARD: &str = "*";

/// A resource of a capability. `*` stands for one segment; at the end, for any number, including zero. A qualifier
/// (`[meta]`, `[queue]`) matches only itself and `[*]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern<'a> {
    qualifier: Option<&'a str>,
    segments: Vec<&'a str>,
    /// The pattern ends in `*`: any number of segments follows.
    is_open: bool,
}

/// The intersection of two patterns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Intersection {
    /// Our pattern, as theirs covers it.
    Ours,
    /// Their pattern, as ours covers it.
    Theirs,
    /// A narrower pattern: `b:a` for `*:a` and `b:*`.
    Narrower(String),
}

/// Which of two patterns is narrower, in the parts compared so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Narrower {
    /// Both are equal.
    Equal,
    Ours,
    Theirs,
    /// Each is narrower in one part.
    Both,
}

impl Narrower {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Equal, narrower) | (narrower, Self::Equal) => narrower,
            (one, other) if one == other => one,
            _ => Self::Both,
        }
    }
}

/// Compares two segments, or two qualifiers. `None` if they exclude each other.
fn compare(ours: Option<&str>, theirs: Option<&str>) -> Option<Narrower> {
    match (ours, theirs) {
        (ours, theirs) if ours == theirs => Some(Narrower::Equal),
        (Some(WILDCARD), _) => Some(Narrower::Theirs),
        (_, Some(WILDCARD)) => Some(Narrower::Ours),
        _ => None,
    }
}

impl<'a> Pattern<'a> {
    /// Parses a name. `None` if its qualifier is empty or not closed, or nothing follows it.
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
        let is_open = segments.pop_if(|last| *last == WILDCARD).is_some();
        Some(Self { qualifier, segments, is_open })
    }

    /// The pattern of the names that both match, or `None` if they exclude each other.
    pub(super) fn intersect(&self, other: &Self) -> Option<Intersection> {
        let suffix = match (self.segments.len().cmp(&other.segments.len()), self.is_open, other.is_open) {
            (Ordering::Less, true, _) | (Ordering::Equal, true, false) => Narrower::Theirs,
            (Ordering::Greater, _, true) | (Ordering::Equal, false, true) => Narrower::Ours,
            (Ordering::Equal, ..) => Narrower::Equal,
            (Ordering::Less | Ordering::Greater, ..) => return None,
        };
        let mut narrower = suffix.and(compare(self.qualifier, other.qualifier)?);
        for (ours, theirs) in self.segments.iter().zip(&other.segments) {
            narrower = narrower.and(compare(Some(ours), Some(theirs))?);
        }
        Some(match narrower {
            Narrower::Equal | Narrower::Ours => Intersection::Ours,
            Narrower::Theirs => Intersection::Theirs,
            Narrower::Both => Intersection::Narrower(self.narrowest(other)),
        })
    }

    /// The name of the intersection, for patterns that do not exclude each other.
    fn narrowest(&self, other: &Self) -> String {
        let (short, long) = if self.segments.len() <= other.segments.len() { (self, other) } else { (other, self) };
        let segments = long.segments.iter().enumerate().map(|(position, segment)| match *segment {
            WILDCARD => short.segments.get(position).copied().unwrap_or(WILDCARD),
            literal => literal,
        });
        let qualifier = match (short.qualifier, long.qualifier) {
            (Some(WILDCARD), narrower) | (narrower, _) => narrower,
        };
        Pattern { qualifier, segments: segments.collect(), is_open: short.is_open && long.is_open }.to_string()
    }
}

impl fmt::Display for Pattern<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(qualifier) = self.qualifier {
            write!(f, "[{qualifier}]")?;
        }
        let segments: Vec<_> = self.segments.iter().copied().chain(self.is_open.then_some(WILDCARD)).collect();
        f.write_str(&segments.join(":"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_intersect_in_the_narrower_one() {
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
            ("[*]foo:*", "[meta]*:a", Some("[meta]foo:a")),
            ("[*]foo:a", "*", Some("foo:a")),
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
                let found = Pattern::parse(left).unwrap().intersect(&Pattern::parse(right).unwrap());
                let found = found.map(|intersection| match intersection {
                    Intersection::Ours => left.to_owned(),
                    Intersection::Theirs => right.to_owned(),
                    Intersection::Narrower(name) => name,
                });
                assert_eq!(found.as_deref(), both, "{left} and {right}");
            }
        }
        for malformed in ["", "[meta", "[]a", "[meta]"] {
            assert_eq!(Pattern::parse(malformed), None);
        }
    }
}

//! The names of resources as patterns: `:`-separated segments with wildcards, and a qualifier.

use std::{cmp::Ordering, fmt};

const WILDCARD: &str = "*";

/// A resource of a capability. `*` stands for one segment; at the end, for any number, none included. A qualifier
/// (`[meta]`, `[queue]`) is met by itself and by `[*]` only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern<'a> {
    qualifier: Option<&'a str>,
    segments: Vec<&'a str>,
    suffix: Suffix,
}

/// In what two patterns meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meeting {
    /// In ours: theirs covers it.
    Ours,
    /// In theirs.
    Theirs,
    /// In one that is narrower than both, by name: `*:a` and `b:*` meet in `b:a`.
    Between(String),
}

/// Which of two patterns is the narrower, as far as they have been compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Narrower {
    /// They are equal.
    Either,
    Ours,
    Theirs,
    /// Each is at some place.
    Neither,
}

impl Narrower {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Either, narrower) | (narrower, Self::Either) => narrower,
            (one, other) if one == other => one,
            _ => Self::Neither,
        }
    }
}

/// Compares two segments, or two qualifiers. None when they differ and neither is `*`.
fn compare(ours: Option<&str>, theirs: Option<&str>) -> Option<Narrower> {
    match (ours, theirs) {
        (ours, theirs) if ours == theirs => Some(Narrower::Either),
        (Some(WILDCARD), _) => Some(Narrower::Theirs),
        (_, Some(WILDCARD)) => Some(Narrower::Ours),
        _ => None,
    }
}

/// How a pattern goes on after its segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suffix {
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
        let suffix = match segments.pop_if(|last| *last == WILDCARD) {
            Some(_) => Suffix::Open,
            None => Suffix::Closed,
        };
        Some(Self { qualifier, segments, suffix })
    }

    /// The pattern of the names that both match, if there are any.
    pub(super) fn meet(&self, other: &Self) -> Option<Meeting> {
        let beyond = match (self.segments.len().cmp(&other.segments.len()), self.suffix, other.suffix) {
            (Ordering::Less, Suffix::Open, _) | (Ordering::Equal, Suffix::Open, Suffix::Closed) => Narrower::Theirs,
            (Ordering::Greater, _, Suffix::Open) | (Ordering::Equal, Suffix::Closed, Suffix::Open) => Narrower::Ours,
            (Ordering::Equal, ..) => Narrower::Either,
            (Ordering::Less | Ordering::Greater, ..) => return None,
        };
        let mut narrower = beyond.and(compare(self.qualifier, other.qualifier)?);
        for (ours, theirs) in self.segments.iter().zip(&other.segments) {
            narrower = narrower.and(compare(Some(ours), Some(theirs))?);
        }
        Some(match narrower {
            Narrower::Either | Narrower::Ours => Meeting::Ours,
            Narrower::Theirs => Meeting::Theirs,
            Narrower::Neither => Meeting::Between(self.between(other)),
        })
    }

    /// The name of what two patterns meet in that do meet.
    fn between(&self, other: &Self) -> String {
        let (short, long) = if self.segments.len() <= other.segments.len() { (self, other) } else { (other, self) };
        let suffix = match (short.suffix, long.suffix) {
            (Suffix::Open, Suffix::Open) => Suffix::Open,
            _ => Suffix::Closed,
        };
        let segments = long.segments.iter().enumerate().map(|(position, segment)| match *segment {
            WILDCARD => short.segments.get(position).copied().unwrap_or(WILDCARD),
            literal => literal,
        });
        let qualifier = match (short.qualifier, long.qualifier) {
            (Some(WILDCARD), narrower) | (narrower, _) => narrower,
        };
        Pattern { qualifier, segments: segments.collect(), suffix }.to_string()
    }
}

impl fmt::Display for Pattern<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(qualifier) = self.qualifier {
            write!(f, "[{qualifier}]")?;
        }
        f.write_str(&self.segments.join(":"))?;
        match self.suffix {
            Suffix::Closed => Ok(()),
            Suffix::Open if self.segments.is_empty() => f.write_str(WILDCARD),
            Suffix::Open => write!(f, ":{WILDCARD}"),
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
                let met = Pattern::parse(left).unwrap().meet(&Pattern::parse(right).unwrap());
                let met = met.map(|meeting| match meeting {
                    Meeting::Ours => left.to_owned(),
                    Meeting::Theirs => right.to_owned(),
                    Meeting::Between(name) => name,
                });
                assert_eq!(met.as_deref(), both, "{left} and {right}");
            }
        }
        for malformed in ["", "[meta", "[]a", "[meta]"] {
            assert_eq!(Pattern::parse(malformed), None);
        }
    }
}

//! The committed counts, and how new ones compare with them.

use std::{collections::BTreeMap, env::consts::ARCH, fmt, fs, io, path::Path};

use serde::{Deserialize, Serialize};

/// Instructions for one token, by case.
pub(crate) type Counts = BTreeMap<String, u64>;

/// The counts of each processor architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Figures(BTreeMap<String, Counts>);

/// Why the committed counts cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FiguresError {
    #[error("{file}: {0}", file = Figures::FILE)]
    Io(#[from] io::Error),
    #[error("{file}: {0}", file = Figures::FILE)]
    Malformed(#[from] toml::de::Error),
    #[error("{file}: {0}", file = Figures::FILE)]
    Unwritable(#[from] toml::ser::Error),
}

/// New counts beside the committed ones of this architecture.
#[derive(Debug)]
pub(crate) struct Comparison<'a> {
    committed: Option<&'a Counts>,
    counts: &'a Counts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    New,
    Above,
    Within,
    Below,
}

impl Figures {
    pub(crate) const FILE: &str = "benches/instructions/figures.toml";
    const HEADING: &str = "# Instructions for one token, without HTTP and without what depends on the processor.\n\
                           # `UPDATE=1 make instructions` writes this file.\n\n";

    pub(crate) fn read() -> Result<Self, FiguresError> {
        match fs::read_to_string(path()) {
            Ok(text) => Ok(toml::from_str(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn write(&self) -> Result<(), FiguresError> {
        Ok(fs::write(path(), format!("{}{}", Self::HEADING, toml::to_string(self)?))?)
    }

    /// These counts in place of the committed ones of this architecture.
    pub(crate) fn with(mut self, counts: Counts) -> Self {
        self.0.insert(ARCH.to_owned(), counts);
        self
    }

    pub(crate) fn compare<'a>(&'a self, counts: &'a Counts) -> Comparison<'a> {
        Comparison { committed: self.0.get(ARCH), counts }
    }
}

fn path() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/figures.toml"))
}

impl Comparison<'_> {
    /// A count may exceed the committed one by this many percent.
    const TOLERANCE: u64 = 10;
    /// A count that is lower by this many percent is worth a commit.
    const GAIN: u64 = 2;

    /// Whether no count is too high. Without committed counts of this architecture, every count passes.
    pub(crate) fn passes(&self) -> bool {
        self.committed.is_none()
            || self.changes().all(|(_, _, change)| matches!(change, Change::Within | Change::Below))
    }

    fn changes(&self) -> impl Iterator<Item = (&str, u64, Change)> {
        self.counts.iter().map(|(case, count)| (case.as_str(), *count, self.change(case, *count)))
    }

    fn committed(&self, case: &str) -> Option<u64> {
        self.committed?.get(case).copied()
    }

    fn change(&self, case: &str, count: u64) -> Change {
        match self.committed(case) {
            None => Change::New,
            Some(committed) if count * 100 > committed * (100 + Self::TOLERANCE) => Change::Above,
            Some(committed) if count * 100 < committed * (100 - Self::GAIN) => Change::Below,
            Some(_) => Change::Within,
        }
    }
}

impl fmt::Display for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UPDATE: &str = "run `UPDATE=1 make instructions` and commit";
        let file = Figures::FILE;
        writeln!(f, "Instructions for one token:")?;
        for (case, count, _) in self.changes() {
            write!(f, "  {case:<24}{count:>8}")?;
            match self.committed(case) {
                Some(committed) => writeln!(f, "   committed {committed:>8}")?,
                None => writeln!(f, "   not committed")?,
            }
        }
        if self.committed.is_none() {
            return writeln!(f, "{file} has no counts for {ARCH}. To add them, {UPDATE} that file.");
        }
        for (case, count, change) in self.changes() {
            let committed = self.committed(case).unwrap_or_default();
            match change {
                Change::Within => {}
                Change::New => writeln!(f, "{case}: no count is committed. To add it, {UPDATE} {file}.")?,
                Change::Above => writeln!(
                    f,
                    "{case}: {count} instructions, more than {} % above the committed {committed}. Find what the change \
                     adds to the path, and remove it. If its cost is intended, {UPDATE} {file} with the reason.",
                    Self::TOLERANCE
                )?,
                Change::Below => writeln!(
                    f,
                    "{case}: {count} instructions, fewer than the committed {committed}. To keep the gain, {UPDATE} {file}."
                )?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(count: u64) -> Counts {
        Counts::from([("case".to_owned(), count)])
    }

    fn compared(committed: &Figures, count: u64) -> (bool, String) {
        let counts = counts(count);
        let comparison = committed.compare(&counts);
        (comparison.passes(), comparison.to_string())
    }

    #[test]
    fn a_count_that_is_more_than_ten_percent_too_high_fails_and_says_what_to_do() {
        let committed = Figures::default().with(counts(1000));
        let (passes, said) = compared(&committed, 1101);
        assert!(!passes);
        assert!(said.contains("case: 1101 instructions, more than 10 % above the committed 1000"), "{said}");
        assert!(said.contains("`UPDATE=1 make instructions`"), "{said}");
    }

    #[test]
    fn a_count_close_to_the_committed_one_passes_without_advice() {
        let committed = Figures::default().with(counts(1000));
        for count in [980, 1000, 1100] {
            let (passes, said) = compared(&committed, count);
            assert!(passes && !said.contains("UPDATE"), "{said}");
        }
    }

    #[test]
    fn a_lower_count_passes_and_says_how_to_commit_it() {
        let committed = Figures::default().with(counts(1000));
        let (passes, said) = compared(&committed, 979);
        assert!(passes);
        assert!(said.contains("case: 979 instructions, fewer than the committed 1000"), "{said}");
        assert!(said.contains("`UPDATE=1 make instructions`"), "{said}");
    }

    #[test]
    fn a_case_without_a_committed_count_fails() {
        let committed = Figures::default().with(Counts::new());
        let (passes, said) = compared(&committed, 1);
        assert!(!passes);
        assert!(said.contains("case: no count is committed"), "{said}");
    }

    #[test]
    fn an_architecture_without_committed_counts_passes() {
        let (passes, said) = compared(&Figures::default(), 1);
        assert!(passes);
        assert!(said.contains(&format!("no counts for {ARCH}")), "{said}");
    }

    #[test]
    fn an_update_keeps_the_counts_of_other_architectures() {
        let other = Figures(BTreeMap::from([("other".to_owned(), counts(5))]));
        let updated = other.with(counts(7)).with(counts(8));
        assert_eq!(updated.0["other"], counts(5));
        assert_eq!(updated.0[ARCH], counts(8));
    }
}

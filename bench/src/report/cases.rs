//! The report of the cold and hostile cases.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use anyhow::Result;
use serde::Serialize;

use super::table::Table;
use crate::{machine::Machine, summary::Summary};

/// One case, with what it measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) label: String,
    pub(crate) figures: Vec<Figure>,
}

/// One figure of a case.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) label: String,
    pub(crate) unit: &'static str,
    pub(crate) value: Summary,
}

/// All cases of a run.
#[derive(Debug, Serialize)]
pub(crate) struct CasesReport {
    pub(crate) date: String,
    pub(crate) machine: Machine,
    pub(crate) cases: Vec<Case>,
}

impl CasesReport {
    pub(crate) fn print(&self) -> Result<()> {
        Ok(writeln!(io::stdout(), "{}", self.table().as_text())?)
    }

    /// Writes `cases.json` and `cases.md`.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory)?;
        fs::write(directory.join("cases.json"), serde_json::to_string_pretty(self)? + "\n")?;
        let Machine { processor, cores, memory_gib, kernel } = &self.machine;
        let setting = format!("{}, {processor}, {cores} cores, {memory_gib} GiB, {kernel}.", self.date);
        fs::write(directory.join("cases.md"), format!("{setting}\n\n{}", self.table().as_markdown()))?;
        writeln!(io::stdout(), "The results are in {}: cases.json, cases.md.", directory.display())?;
        Ok(())
    }

    fn table(&self) -> Table {
        let mut table = Table::new(2, &["case", "figure", "median", "min-max", "unit"]);
        for case in &self.cases {
            for (position, figure) in case.figures.iter().enumerate() {
                let digits = if figure.value.median.abs() < 100.0 { 2 } else { 0 };
                let Summary { median, min, max } = figure.value;
                table.push(vec![
                    if position == 0 { case.label.clone() } else { String::new() },
                    figure.label.clone(),
                    format!("{median:.digits$}"),
                    format!("{min:.digits$}-{max:.digits$}"),
                    figure.unit.to_owned(),
                ]);
            }
        }
        table
    }
}

//! The tables as Markdown, for pages that show the results.

use super::Report;

pub(super) fn of(report: &Report) -> String {
    format!("{}\n\n{}\n{}", report.setting(), report.target_table().as_markdown(), report.start_table().as_markdown())
}

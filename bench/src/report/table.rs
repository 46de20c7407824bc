//! A table, as text for a terminal or as Markdown.

/// Rows of cells under headings.
pub(super) struct Table {
    headings: Vec<String>,
    /// So many columns hold words. The others hold numbers, aligned on the right.
    columns_of_words: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns_of_words: usize, headings: &[&str]) -> Self {
        Self {
            columns_of_words,
            headings: headings.iter().map(|&heading| heading.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Aligned columns.
    pub(super) fn as_text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&self.headings]).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                if column < self.columns_of_words { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        [&self.headings].into_iter().chain(&self.rows).map(line).collect()
    }

    pub(super) fn as_markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = |column: usize| if column < self.columns_of_words { "---".to_owned() } else { "--:".to_owned() };
        let rules: Vec<String> = (0..self.headings.len()).map(rule).collect();
        let rows = self.rows.iter().map(|row| line(row)).collect::<String>();
        line(&self.headings) + &line(&rules).replace(' ', "") + &rows
    }
}

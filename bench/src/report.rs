//! The report of a run: a table on the terminal, and JSON, a Markdown table and a chart in a directory.

mod cases;
mod chart;
mod markdown;
mod table;

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use anyhow::Result;
use serde::Serialize;

use crate::{
    machine::Machine,
    measure::{CONNECTIONS, Round, Sample, Start},
    summary::Summary,
    targets::{self, Group, Starting, Target},
};

pub(crate) use cases::{Case, CasesReport, Figure};
use table::Table;

/// What a run measured.
pub(crate) struct Measured<'a> {
    pub(crate) machine: Machine,
    pub(crate) are_cores_separate: bool,
    pub(crate) date: String,
    pub(crate) seconds: f64,
    pub(crate) targets: &'a [Target],
    pub(crate) rounds: &'a [Round],
    pub(crate) starting: &'a [Starting],
    pub(crate) starts: &'a [Vec<Start>],
}

/// The report of a run over all targets.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    date: String,
    machine: Machine,
    /// Whether the server and the load had a core each.
    cores_are_separate: bool,
    rounds: usize,
    seconds: f64,
    connections: usize,
    /// CPU time of one RS256 verification.
    #[serde(skip_serializing_if = "Option::is_none")]
    verification_us: Option<Summary>,
    /// A verification and what bare costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    floor_us: Option<Summary>,
    targets: Vec<Row>,
    starts: Vec<StartRow>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    label: String,
    group: Group,
    requests_per_second: Summary,
    /// The part of the time in which the server used its core, at saturation.
    busy: Summary,
    cpu_us: Summary,
    /// CPU time in relation to bare, in the same round.
    #[serde(skip_serializing_if = "Option::is_none")]
    to_bare: Option<Summary>,
    /// CPU time in relation to the floor, in the same round.
    #[serde(skip_serializing_if = "Option::is_none")]
    to_floor: Option<Summary>,
    at_saturation: LatencyRow,
    /// p99 at half load in relation to that of bare, in the same round.
    #[serde(skip_serializing_if = "Option::is_none")]
    half_load_p99_to_bare: Option<Summary>,
    at_half_load: LatencyRow,
    resident_bytes: Summary,
}

#[expect(clippy::struct_field_names, reason = "the unit is part of the name in JSON")]
#[derive(Debug, Serialize)]
struct LatencyRow {
    p50_us: Summary,
    p99_us: Summary,
    p999_us: Summary,
}

#[derive(Debug, Serialize)]
struct StartRow {
    name: String,
    label: String,
    first_token_ms: Summary,
    idle_bytes: Summary,
    /// Missing for a script.
    #[serde(skip_serializing_if = "Option::is_none")]
    binary_bytes: Option<u64>,
}

impl Report {
    pub(crate) fn new(measured: &Measured<'_>) -> Self {
        let Measured { targets, rounds, .. } = measured;
        let bare = targets.iter().position(|target| target.name == "bare");
        let verifications: Vec<Option<f64>> = rounds
            .iter()
            .map(|round| Summary::of(round.verification_us.iter().copied()).map(|summary| summary.median))
            .collect();
        let bares: Vec<Option<&Sample>> =
            rounds.iter().map(|round| bare.and_then(|bare| round.samples.get(bare))).collect();
        let floors: Vec<Option<f64>> = verifications
            .iter()
            .zip(&bares)
            .map(|(verification, bare)| Some((*verification)? + (*bare)?.cpu_us))
            .collect();
        let rows = targets.iter().enumerate().filter_map(|(position, target)| {
            let samples: Vec<&Sample> = rounds.iter().filter_map(|round| round.samples.get(position)).collect();
            row(target, &samples, &bares, &floors)
        });
        let starts =
            measured.starting.iter().zip(measured.starts).filter_map(|(program, starts)| start_row(program, starts));
        Self {
            date: measured.date.clone(),
            machine: measured.machine.clone(),
            cores_are_separate: measured.are_cores_separate,
            rounds: rounds.len(),
            seconds: measured.seconds,
            connections: CONNECTIONS,
            verification_us: Summary::of(verifications.iter().flatten().copied()),
            floor_us: Summary::of(floors.iter().flatten().copied()),
            targets: rows.collect(),
            starts: starts.collect(),
        }
    }

    /// Prints the tables.
    pub(crate) fn print(&self) -> Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{}\n", self.setting())?;
        writeln!(out, "{}", self.target_table().as_text())?;
        if !self.starts.is_empty() {
            writeln!(out, "{}", self.start_table().as_text())?;
        }
        Ok(())
    }

    /// Writes `bench.json`, `bench.md` and `bench.svg`.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory)?;
        fs::write(directory.join("bench.json"), serde_json::to_string_pretty(self)? + "\n")?;
        fs::write(directory.join("bench.md"), markdown::of(self))?;
        fs::write(directory.join("bench.svg"), chart::of(self))?;
        writeln!(io::stdout(), "The results are in {}: bench.json, bench.md, bench.svg.", directory.display())?;
        Ok(())
    }

    /// The machine, the date and how long was measured, in a sentence or two.
    fn setting(&self) -> String {
        let Machine { processor, cores, memory_gib, kernel } = &self.machine;
        let separate = if self.cores_are_separate { "; the server on one core, the load on another" } else { "" };
        format!(
            "{}, {processor}, {cores} cores, {memory_gib} GiB, {kernel}{separate}. Medians of {} rounds of {} s; {} connections if the row does not say otherwise.",
            self.date, self.rounds, self.seconds, self.connections
        )
    }

    fn target_table(&self) -> Table {
        let mut table = Table::new(
            1,
            &[
                "target",
                "requests/s",
                "busy %",
                "CPU us",
                "min-max",
                "x bare",
                "x floor",
                "p50 us",
                "p99 us",
                "p99.9 us",
                "half: p50 us",
                "half: p99 us",
                "half: p99.9 us",
                "half: p99 x bare",
                "MB",
            ],
        );
        if let (Some(verification), Some(floor)) = (&self.verification_us, &self.floor_us) {
            for (label, summary) in
                [("one RS256 verification", verification), ("floor: bare and a verification", floor)]
            {
                let none = String::new();
                let mut cells =
                    vec![label.to_owned(), none.clone(), none, format!("{:.1}", summary.median), range(summary)];
                cells.resize(15, String::new());
                table.push(cells);
            }
        }
        for row in &self.targets {
            let ratio =
                |summary: &Option<Summary>| summary.map_or(String::new(), |ratio| format!("{:.2}", ratio.median));
            let mut cells = vec![
                row.label.clone(),
                format!("{:.0}", row.requests_per_second.median),
                format!("{:.0}", 100.0 * row.busy.median),
                format!("{:.1}", row.cpu_us.median),
                range(&row.cpu_us),
                ratio(&row.to_bare),
                ratio(&row.to_floor),
            ];
            for LatencyRow { p50_us, p99_us, p999_us } in [&row.at_saturation, &row.at_half_load] {
                cells.extend([p50_us, p99_us, p999_us].map(|summary| format!("{:.0}", summary.median)));
            }
            cells.push(ratio(&row.half_load_p99_to_bare));
            cells.push(megabytes(row.resident_bytes.median));
            table.push(cells);
        }
        table
    }

    fn start_table(&self) -> Table {
        let mut table = Table::new(1, &["program", "first token ms", "min-max", "idle MB", "binary MB"]);
        for row in &self.starts {
            #[expect(clippy::cast_precision_loss, reason = "a size of some megabytes")]
            let binary = row.binary_bytes.map_or(String::new(), |bytes| megabytes(bytes as f64));
            table.push(vec![
                row.label.clone(),
                format!("{:.1}", row.first_token_ms.median),
                range(&row.first_token_ms),
                megabytes(row.idle_bytes.median),
                binary,
            ]);
        }
        table
    }
}

fn range(summary: &Summary) -> String {
    format!("{:.1}-{:.1}", summary.min, summary.max)
}

/// Millions of bytes, with one digit after the point.
fn megabytes(bytes: f64) -> String {
    format!("{:.1}", bytes / 1e6)
}

fn row(target: &Target, samples: &[&Sample], bares: &[Option<&Sample>], floors: &[Option<f64>]) -> Option<Row> {
    let summary = |value: fn(&Sample) -> f64| Summary::of(samples.iter().map(|sample| value(sample)));
    let to_bare = |value: fn(&Sample) -> f64| {
        Summary::of(samples.iter().zip(bares).filter_map(|(sample, bare)| Some(value(sample) / value((*bare)?))))
    };
    let to_floor = samples.iter().zip(floors).filter_map(|(sample, floor)| Some(sample.cpu_us / (*floor)?));
    #[expect(clippy::cast_precision_loss, reason = "a size of some megabytes")]
    let resident_bytes = summary(|sample| sample.resident_bytes as f64)?;
    Some(Row {
        name: target.name.clone(),
        label: target.label.clone(),
        group: target.group,
        requests_per_second: summary(|sample| sample.requests_per_second)?,
        busy: summary(|sample| sample.busy)?,
        cpu_us: summary(|sample| sample.cpu_us)?,
        to_bare: to_bare(|sample| sample.cpu_us),
        half_load_p99_to_bare: to_bare(|sample| sample.at_half_load.p99_us),
        to_floor: Summary::of(to_floor),
        at_saturation: LatencyRow {
            p50_us: summary(|sample| sample.at_saturation.p50_us)?,
            p99_us: summary(|sample| sample.at_saturation.p99_us)?,
            p999_us: summary(|sample| sample.at_saturation.p999_us)?,
        },
        at_half_load: LatencyRow {
            p50_us: summary(|sample| sample.at_half_load.p50_us)?,
            p99_us: summary(|sample| sample.at_half_load.p99_us)?,
            p999_us: summary(|sample| sample.at_half_load.p999_us)?,
        },
        resident_bytes,
    })
}

fn start_row(program: &Starting, starts: &[Start]) -> Option<StartRow> {
    let is_binary = program.program.arguments.is_empty();
    #[expect(clippy::cast_precision_loss, reason = "a size of some megabytes")]
    let idle_bytes = Summary::of(starts.iter().map(|start| start.idle_bytes as f64))?;
    Some(StartRow {
        name: program.name.clone(),
        label: program.label.clone(),
        first_token_ms: Summary::of(starts.iter().map(|start| start.first_token_ms))?,
        idle_bytes,
        binary_bytes: fs::metadata(&program.program.path).ok().filter(|_| is_binary).map(|file| file.len()),
    })
}

/// Prints the names of targets and cases.
pub(crate) fn list() -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "targets: {}", targets::names().collect::<Vec<_>>().join(", "))?;
    writeln!(out, "cases: {}", crate::cases::names().collect::<Vec<_>>().join(", "))?;
    Ok(())
}

//! The chart: CPU time for each request, a bar for each target, with the floor as a line.

use std::fmt::Write as _;

use super::{Report, Row};
use crate::targets::Group;

const WIDTH: f64 = 820.0;
const BARS_FROM: f64 = 290.0;
const BARS_TO: f64 = 740.0;
const ROW: f64 = 24.0;
const TOP: f64 = 64.0;

/// Bars beyond this part of the chart are cut, so that Node does not make all others look alike.
const LONGEST_IN_FLOORS: f64 = 4.0;

/// An SVG that is legible on a light and on a dark page.
pub(super) fn of(report: &Report) -> String {
    let mut rows: Vec<&Row> = report.targets.iter().filter(|row| row.group != Group::Refusal).collect();
    rows.sort_by(|a, b| a.cpu_us.median.total_cmp(&b.cpu_us.median));
    let largest = rows.last().map_or(1.0, |row| row.cpu_us.median);
    let floor = report.floor_us.map(|floor| floor.median);
    let scale_to = floor.map_or(largest, |floor| largest.min(floor * LONGEST_IN_FLOORS));
    let x = |cpu_us: f64| BARS_FROM + (BARS_TO - BARS_FROM) * cpu_us.min(scale_to) / scale_to;
    let bottom = rows.iter().fold(TOP, |bottom, _| bottom + ROW);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"13\" role=\"img\">\n<title>CPU time for each request</title>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" rx=\"6\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"600\" fill=\"#1f2328\">CPU time for each request, in microseconds</text>\n\
         <text x=\"16\" y=\"46\" fill=\"#59636e\">{}</text>\n",
        escaped(&format!(
            "Blue: this service. {}, {}, {} cores",
            report.date, report.machine.processor, report.machine.cores
        )),
        height = bottom + 40.0,
    );
    let mut y = TOP;
    for row in rows {
        let end = x(row.cpu_us.median);
        let (color, weight) = match row.group {
            Group::Service => ("#0969da", 600),
            Group::Reference => ("#8c959f", 400),
            Group::Refusal | Group::Peer => ("#bf8700", 400),
        };
        let middle = y + ROW / 2.0 + 4.5;
        let label = escaped(&row.label);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{middle:.1}\" text-anchor=\"end\" font-weight=\"{weight}\" fill=\"#1f2328\">{label}</text>\
             <rect x=\"{BARS_FROM}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{color}\"/>",
            BARS_FROM - 8.0,
            y + 3.0,
            end - BARS_FROM,
            ROW - 6.0,
        );
        if row.cpu_us.median > scale_to {
            // Two white strokes: the bar goes on.
            let _ = writeln!(
                svg,
                "<path d=\"M{:.1} {:.1}l6 -24m4 24l6 -24\" stroke=\"#ffffff\" stroke-width=\"3\"/>",
                end - 40.0,
                y + ROW
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{middle:.1}\" fill=\"#1f2328\">{:.1}</text>",
            end + 6.0,
            row.cpu_us.median
        );
        y += ROW;
    }
    if let Some(floor) = floor {
        let at = x(floor);
        let _ = writeln!(
            svg,
            "<path d=\"M{at:.1} {TOP}V{bottom:.1}\" stroke=\"#cf222e\" stroke-width=\"1.5\" stroke-dasharray=\"4 3\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#cf222e\">floor: HTTP and one RS256 verification, {floor:.1}</text>",
            bottom + 18.0,
        );
    }
    svg + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

//! Chart of the errors that each rule lets through.

use std::fmt::Write as _;

use crate::report::{BenchmarkReport, TableCell};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// The axis of errors, in powers of ten.
const DECADES: f64 = 4.0;
/// Color and dash pattern of each line, distinguishable without color. Colors of Okabe and Ito.
const STROKES: [(&str, &str); 6] = [
    ("#0072b2", ""),
    ("#56b4e9", "6 3"),
    ("#d55e00", "2 3"),
    ("#e69f00", "8 3 2 3"),
    ("#cc79a7", "4 4"),
    ("#009e73", "1 4"),
];

fn y(errors: f64) -> f64 {
    let decades = errors.max(1.0).log10().min(DECADES);
    HEIGHT - BOTTOM - decades / DECADES * (HEIGHT - TOP - BOTTOM)
}

/// Writes the chart of the errors served within the hour, by release and rule, as SVG.
pub fn chart(report: &BenchmarkReport) -> String {
    let bad: Vec<&TableCell> = report
        .rules
        .iter()
        .filter(|cell| cell.row != "A/A")
        .collect();
    let mut rows: Vec<&str> = bad.iter().map(|cell| cell.row.as_str()).collect();
    rows.dedup();
    #[expect(clippy::cast_precision_loss, reason = "a handful of releases")]
    let x = |index: usize| {
        LEFT + index as f64 / (rows.len().max(2) - 1) as f64 * (WIDTH - LEFT - RIGHT)
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n\
         <title>Errors that a bad release serves within an hour, by rule</title>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">Errors that a bad release serves within an hour, at 100 requests/s</text>\n"
    );
    for errors in [1.0, 10.0, 100.0, 1000.0, 10_000.0] {
        let at = y(errors);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{errors}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0,
        );
    }
    for (index, row) in rows.iter().enumerate() {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{row}</text>",
            x(index),
            HEIGHT - 20.0
        );
    }
    let columns: Vec<&str> = bad
        .iter()
        .take_while(|cell| Some(cell.row.as_str()) == rows.first().copied())
        .map(|cell| cell.column.as_str())
        .collect();
    for (column, (colour, dashes)) in columns.iter().zip(STROKES) {
        let cells = bad.iter().filter(|cell| cell.column == *column).enumerate();
        let points: Vec<String> = cells
            .map(|(index, cell)| format!("{:.1},{:.1}", x(index), y(cell.summary.excess_errors)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"/>",
            points.join(" "),
        );
    }
    // The legend is a separate list, because labels at the line ends could overlap.
    #[expect(clippy::cast_precision_loss, reason = "a handful of rules")]
    for (index, (column, (colour, dashes))) in columns.iter().zip(STROKES).enumerate() {
        let (left, at) = (WIDTH - RIGHT + 20.0, TOP + 12.0 + index as f64 * 20.0);
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {at}h26\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"/><text x=\"{:.1}\" y=\"{:.1}\">{column}</text>",
            left + 32.0,
            at + 4.0,
        );
    }
    svg.push_str("</svg>\n");
    svg
}

//! Writes the tables as Markdown.

use std::fmt::Write as _;

use crate::goals::goals;
use crate::outcome::OutcomeSummary;
use crate::report::{BenchmarkReport, TableCell};

/// Formats a percentage with the precision that the number of runs allows.
fn percent(value: f64) -> String {
    if value == 0.0 || value >= 99.95 {
        format!("{value:.0}")
    } else if value < 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.1}")
    }
}

fn seconds(value: f64) -> String {
    if value.is_finite() {
        format!("{value:.0}")
    } else {
        "-".to_owned()
    }
}

/// Writes a table. The cells are ordered by row.
fn table(
    out: &mut String,
    corner: &str,
    cells: &[TableCell],
    format_cell: impl Fn(&OutcomeSummary) -> String,
) {
    let Some(first) = cells.first() else { return };
    let columns: Vec<_> = cells
        .iter()
        .take_while(|cell| cell.row == first.row)
        .map(|cell| cell.column.as_str())
        .collect();
    let _ = writeln!(out, "| {corner} | {} |", columns.join(" | "));
    let _ = writeln!(out, "|{}", "---|".repeat(columns.len() + 1));
    for row in cells.chunks(columns.len()) {
        let values: Vec<_> = row.iter().map(|cell| format_cell(&cell.summary)).collect();
        let _ = writeln!(
            out,
            "| {} | {} |",
            row.first().map_or("", |cell| cell.row.as_str()),
            values.join(" | ")
        );
    }
    out.push('\n');
}

/// Shows rollbacks by evidence and by the budget rule separately, because they have different
/// bounds.
fn rollback_and_promotion(cell: &OutcomeSummary) -> String {
    let OutcomeSummary {
        rolled_back,
        rolled_back_by_budget,
        promoted,
        median_seconds,
        ..
    } = cell;
    let by_budget = if *rolled_back_by_budget > 0.0 {
        format!(" + {}", percent(*rolled_back_by_budget))
    } else {
        String::new()
    };
    format!(
        "{}{by_budget} / {}, {}",
        percent(*rolled_back),
        percent(*promoted),
        seconds(*median_seconds)
    )
}

/// Writes all tables of a report.
pub fn markdown(report: &BenchmarkReport) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} simulated rollouts for each cell: an objective of 99.9 %, stable fails 0.05 %, a \
         scrape every 15 s, at most 60 min.\n",
        serin_analysis::explain::thousands(report.options.runs.into())
    );
    out.push_str("### Goals\n\n| what | goal | worst observed | |\n|---|---|---|---|\n");
    for goal in goals(report) {
        let met = if goal.met { "met" } else { "**not met**" };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {met} |",
            goal.what, goal.goal, goal.observed
        );
    }
    out.push('\n');
    out.push_str(
        "### Good releases\n\nRolled back by evidence % + by the budget % / promoted %, \
         median seconds to promotion.\n\n",
    );
    table(
        &mut out,
        "good releases",
        &report.good,
        rollback_and_promotion,
    );
    out.push_str(
        "### Releases at the edge of the tolerance\n\nThe same. Their excess is within \
         the tolerances, so every rollback is false.\n\n",
    );
    table(
        &mut out,
        "the canary fails",
        &report.edge,
        rollback_and_promotion,
    );
    rules_and_budget(&mut out, report);
    efficiency(&mut out, report);
    out
}

fn rules_and_budget(out: &mut String, report: &BenchmarkReport) {
    out.push_str(
        "### Compared with other rules\n\nAt 100 requests/s: rolled back % / promoted %, \
         median seconds [errors served in 60 min beyond those of stable].\n\n",
    );
    table(out, "release", &report.rules, |cell| {
        let rolled_back = cell.rolled_back + cell.rolled_back_by_budget;
        format!(
            "{} / {}, {} [{:.1}]",
            percent(rolled_back),
            percent(cell.promoted),
            seconds(cell.median_seconds),
            cell.excess_errors
        )
    });
    out.push_str(
        "### Releases at exactly the margin\n\nPromoted %, of at most 5 %; rolled back %.\n\n",
    );
    table(out, "traffic", &report.margin, |cell| {
        format!(
            "{}; {}",
            percent(cell.promoted),
            percent(cell.rolled_back + cell.rolled_back_by_budget)
        )
    });
    out.push_str(
        "### The budget\n\nRollouts at 100 requests/s that spent more than their \
         allotment of A errors, %; median seconds to rollback.\n\n",
    );
    table(out, "release", &report.budget, |cell| {
        format!(
            "{}; {}",
            percent(cell.overspent),
            seconds(cell.median_seconds)
        )
    });
}

fn efficiency(out: &mut String, report: &BenchmarkReport) {
    out.push_str(
        "### Requests to detect a regression\n\nMean number of requests to both variants at a \
         constant weight that the router keeps exactly, on ticks of 1 s.\n\n",
    );
    out.push_str(
        "| regression | weight | this rule | relative to the bound ln(1/alpha)/I | \
         without tolerance, relative to the bound | relative to a sequential likelihood-ratio test \
         with the known effect | without tolerance, relative to the same \
         |\n|---|---|---|---|---|---|---|\n",
    );
    for cell in &report.detection {
        let _ = writeln!(
            out,
            "| {}x | {} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} |",
            cell.times,
            cell.weight,
            cell.requests,
            cell.requests / cell.bound,
            cell.requests_without_tolerance / cell.bound,
            cell.requests / cell.oracle,
            cell.requests_without_tolerance / cell.oracle,
        );
    }
    out.push_str(
        "\n### Requests to promote\n\nMean number of requests to both variants at a weight of 50 \
         %.\n\n",
    );
    out.push_str(
        "| error rate | margin | requests | relative to the bound ln(1/beta)/I \
         |\n|---|---|---|---|\n",
    );
    for cell in &report.promotion {
        let _ = writeln!(
            out,
            "| {}b | {}b | {:.0} | {:.2} |",
            cell.rate_of_budget,
            cell.margin_of_budget,
            cell.requests,
            cell.requests / cell.bound
        );
    }
}

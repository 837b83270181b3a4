//! The audit as a table for a terminal.

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::report::{AuditReport, Outcome, Row, Share};
use crate::display_text::printable_lines;

/// The shares, then the workloads that do not pass, each with what was found.
pub fn render(report: &AuditReport) -> String {
    let mut text = String::new();
    let count = report.workloads.len();
    if report.shares.is_empty() {
        return format!("{count} workloads; no guardrail is on.\n");
    }
    let mut shares = table(&["GUARDRAIL", "PASS", "WARN", "FAIL", "UNKNOWN", "SHARE"]);
    for share in &report.shares {
        let numbers = [share.pass, share.warn, share.fail, share.unknown];
        let mut cells = vec![Cell::new(share.guardrail)];
        cells.extend(numbers.map(|number| right(number.to_string())));
        cells.push(right(percent(share)));
        shares.add_row(cells);
    }
    text.push_str(&format!("{}\n\n", shares.trim_fmt()));
    let mut rows = table(&["NAMESPACE", "KIND", "NAME", "PASS", "NOT PASSED"]);
    for row in &report.workloads {
        let (passed, on) = passed(row);
        rows.add_row([
            row.namespace.clone(),
            row.kind.to_owned(),
            row.name.clone(),
            format!("{passed}/{on}"),
            not_passed(row),
        ]);
    }
    text.push_str(&format!("{}\n", rows.trim_fmt()));
    for row in report.workloads.iter().filter(|row| has_details(row)) {
        text.push_str(&format!("\n{} {}/{}\n", row.kind, row.namespace, row.name));
        if let Some(problem) = &row.problem {
            text.push_str(&format!("  {problem}\n"));
        }
        for finding in &row.findings {
            text.push_str(&format!("  {}: {finding}\n", finding.guardrail_name()));
        }
    }
    for problem in &report.problems {
        text.push_str(&format!("\n{problem}\n"));
    }
    printable_lines(&text).into_owned()
}

fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head);
    table
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// The share as a percentage.
pub fn percent(share: &Share) -> String {
    match share.percent {
        Some(percent) => format!("{percent:.0} %"),
        None => "-".to_owned(),
    }
}

/// The number of guardrails that a workload passes, and of those that are on.
pub fn passed(row: &Row) -> (usize, usize) {
    let count = |wanted: fn(Outcome) -> bool| {
        let outcomes = row.outcomes.iter();
        outcomes.filter(|outcome| wanted(outcome.outcome)).count()
    };
    (
        count(|outcome| outcome == Outcome::Pass),
        count(|outcome| outcome != Outcome::Off),
    )
}

/// The guardrails that a workload does not pass.
fn not_passed(row: &Row) -> String {
    let named = row.outcomes.iter().filter_map(|one| match one.outcome {
        Outcome::Off | Outcome::Pass => None,
        Outcome::Fail => Some(one.guardrail.as_str().to_owned()),
        other => Some(format!("{} ({})", one.guardrail, other.as_str())),
    });
    named.collect::<Vec<_>>().join(", ")
}

fn has_details(row: &Row) -> bool {
    !row.findings.is_empty() || row.problem.is_some()
}

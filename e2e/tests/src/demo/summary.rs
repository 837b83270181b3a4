//! The summary of the demo: a table, totals and unmet expectations.

use comfy_table::{ContentArrangement, Table, presets};
use serin_load::LoadReport;

use super::scenes::ReleaseOutcome;
use super::view::{budget_text, count};

/// Maximum width of the table. Reasons are wrapped.
const WIDEST: u16 = 120;

/// One row for each release.
pub(super) fn table(
    outcomes: &[ReleaseOutcome],
    report: &LoadReport,
    terminal_columns: Option<u16>,
) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(terminal_columns.map_or(WIDEST, |columns| columns.min(WIDEST)));
    table.set_header([
        "RELEASE",
        "OUTCOME",
        "WHY",
        "TIME",
        "REQUESTS",
        "FAILED",
        "LOST",
        "BUDGET USED",
    ]);
    for outcome in outcomes {
        let counts = report.all().of_version(outcome.version).counts();
        // A lost request has no version. It is counted for the release in progress.
        let lost = report
            .between(outcome.span.clone())
            .counts()
            .routing_failures();
        let budget = outcome.evidence.iter().find_map(budget_text);
        let budget = budget.map_or_else(
            || "-".to_owned(),
            |text| text.trim_start_matches("budget ").to_owned(),
        );
        table.add_row([
            outcome.version.to_owned(),
            outcome.ended.clone(),
            outcome.reason.clone(),
            format!("{:.0} s", outcome.took.as_secs_f64()),
            count(counts.ok + counts.service_errors),
            count(counts.service_errors),
            count(lost),
            budget,
        ]);
    }
    table
}

/// The totals of the load in one sentence.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a demo are far below 2^53"
)]
pub(super) fn totals(report: &LoadReport) -> String {
    let counts = report.all().counts();
    let seconds = report.elapsed.as_secs_f64();
    format!(
        "{} requests in {seconds:.0} s ({:.0} per second): {} failed in the service, {} lost in routing.",
        count(report.sent),
        report.sent as f64 / seconds,
        count(counts.service_errors),
        count(counts.routing_failures()),
    )
}

/// All expectations that were not met.
pub(super) fn unmet_expectations(outcomes: &[ReleaseOutcome], report: &LoadReport) -> Vec<String> {
    let mut unmet: Vec<String> = outcomes
        .iter()
        .flat_map(|outcome| outcome.unmet.clone())
        .collect();
    if report.all().counts().routing_failures() > 0 {
        unmet.push(describe_lost_requests(report));
    }
    if report.overruns > 0 {
        unmet.push(format!(
            "this machine was too slow to send {} of the requests that were due",
            report.overruns
        ));
    }
    unmet
}

/// The lost requests by kind, and their times in seconds since the start of the load.
fn describe_lost_requests(report: &LoadReport) -> String {
    let counts = report.all().counts();
    let kinds: Vec<_> = counts
        .routing()
        .map(|(kind, number)| format!("{kind} {number}"))
        .collect();
    let mut seconds: Vec<_> = report
        .all()
        .routing_failures()
        .map(|(answer, _)| answer.at.as_secs())
        .collect();
    seconds.dedup();
    let seconds: Vec<_> = seconds.iter().map(u64::to_string).collect();
    let first = report
        .details
        .first()
        .map_or("", |first| first.detail.as_str());
    let number = count(counts.routing_failures());
    let (kinds, seconds) = (kinds.join(", "), seconds.join(", "));
    let lost = format!(
        "{number} requests were lost in routing ({kinds}), at {seconds} s after the start; the first one: {first}"
    );
    if report.late == 0 {
        return lost;
    }
    let longest = report.max_lateness.as_secs_f64();
    format!(
        "{lost}; this machine was too busy: {} were sent late, by up to {longest:.1} s",
        count(report.late)
    )
}

//! What came of it, in a table and a verdict.

use comfy_table::{ContentArrangement, Table, presets};
use serin_load::Report;

use super::scenes::Outcome;
use super::view::{budget_text, count};

/// The widest that the table gets; the reasons are wrapped.
const WIDEST: u16 = 120;

/// One row for each release.
pub(super) fn table(outcomes: &[Outcome], report: &Report, terminal_columns: Option<u16>) -> Table {
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
        // A request that is lost carries no version: it is told with the release that was under
        // way.
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
            outcome.why.clone(),
            format!("{:.0} s", outcome.took.as_secs_f64()),
            count(counts.ok + counts.service_errors),
            count(counts.service_errors),
            count(lost),
            budget,
        ]);
    }
    table
}

/// The whole load in a sentence.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a demo are far below 2^53"
)]
pub(super) fn closing(report: &Report) -> String {
    let counts = report.all().counts();
    let seconds = report.elapsed.as_secs_f64();
    format!(
        "{} requests in {seconds:.0} s ({:.0} a second): {} failed by the service itself, {} lost to routing.",
        count(report.sent),
        report.sent as f64 / seconds,
        count(counts.service_errors),
        count(counts.routing_failures()),
    )
}

/// Everything that did not come as promised.
pub(super) fn broken_promises(outcomes: &[Outcome], report: &Report) -> Vec<String> {
    let mut broken: Vec<String> = outcomes
        .iter()
        .flat_map(|outcome| outcome.broken.clone())
        .collect();
    if report.all().counts().routing_failures() > 0 {
        broken.push(lost(report));
    }
    if report.overruns > 0 {
        broken.push(format!(
            "this machine was too slow to send {} of the requests that were due",
            report.overruns
        ));
    }
    broken
}

/// The requests that were lost: how, and when, in seconds since the load began.
fn lost(report: &Report) -> String {
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
        "{number} requests were lost to routing ({kinds}), in the seconds {seconds}; the first: {first}"
    );
    if report.late == 0 {
        return lost;
    }
    let longest = report.max_lateness.as_secs_f64();
    format!(
        "{lost}; this machine was so busy that {} were sent late, by up to {longest:.1} s",
        count(report.late)
    )
}

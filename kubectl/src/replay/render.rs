//! Renders a replay as text and tables.

use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use jiff::Timestamp;
use serin_analysis::explain::thousands;
use serin_metrics_analysis::replay::{
    ReplayEnd, ReplayOutcome, ReplayedRelease, ReportChange, WeightSource,
};

use super::comparison::{ReleaseComparison, RuleOutcome, Ruling, errors_by, report_text};
use super::summary::{ReplaySummary, RuleSummary};
use super::{RecordedRelease, ReplayOptions, ReplayRecord, ReplayWindow};
use crate::display::{DisplayContext, human_duration};
use crate::manifest::Manifest;
use crate::page::{Page, Style};
use crate::style;

/// Maximum number of analysis changes shown per release: the first ones and the last.
const MAX_CHANGES_SHOWN: usize = 20;

/// Renders the releases of the windows; `in_full` shows the details of each.
pub(super) fn render(
    manifest: &Manifest,
    options: &ReplayOptions,
    windows: &[ReplayWindow],
    ReplayRecord {
        releases: all,
        without_requests,
    }: &ReplayRecord,
    in_full: bool,
    display: &DisplayContext,
) -> String {
    let mut page = Page::new(display.width);
    page.field("Rollout", &manifest.name, style::bold);
    let from = windows.iter().map(|window| window.from).min();
    let to = windows.iter().map(|window| window.to).max();
    let span = from.zip(to).map_or_else(String::new, |(from, to)| {
        format!(
            ", from {} to {}",
            display.format_time(from),
            display.format_time(to)
        )
    });
    page.field(
        "Record",
        &format!("{}{span}", options.server.url),
        style::plain,
    );
    let weights = match options.weights {
        WeightSource::Observed => "measured from the recorded requests",
        WeightSource::Set(_) => "set by --step-weights",
    };
    page.field("Weights", weights, style::plain);
    if all.is_empty() {
        let hint = "No request to the canary was recorded in that time. Check that the objective's counters select the canary's series and that Prometheus retains them that long.";
        page.gap();
        page.wrapped(("", "", 0), hint, style::warning);
    } else if !without_requests.is_empty() {
        page.gap();
        let empty = format!(
            "No request to the canary was recorded for: {}.",
            without_requests.join(", ")
        );
        page.wrapped(("", "", 0), &empty, style::warning);
    }
    for (index, recorded) in all.iter().enumerate().filter(|_| in_full) {
        let name = recorded
            .comparison
            .name
            .as_ref()
            .map_or_else(String::new, |name| format!(" {name}"));
        let position = if all.len() > 1 {
            format!(" {} of {}", index + 1, all.len())
        } else {
            String::new()
        };
        write_release(
            &mut page,
            &format!("Release{name}{position}"),
            recorded,
            display,
        );
    }
    if all.len() > 1 {
        if !in_full {
            page.gap();
            lines(&mut page, &releases_table(all, display));
        }
        page.gap();
        page.line(
            render_summary(&ReplaySummary::new(
                all.iter().map(|recorded| &recorded.comparison),
            ))
            .trim_end(),
        );
        if !in_full {
            page.gap();
            page.wrapped(
                ("", "", 0),
                "Use --all for details and charts of each release, or -o json for machine-readable output.",
                style::dimmed,
            );
        }
    }
    page.finish()
}

fn lines(page: &mut Page, table: &str) {
    for line in table.lines() {
        page.line(line.trim_end());
    }
}

fn write_release(
    page: &mut Page,
    heading: &str,
    RecordedRelease {
        release,
        comparison,
    }: &RecordedRelease,
    display: &DisplayContext,
) {
    page.heading(&format!(
        "{heading}: first request to the canary at {}",
        display.format_time(comparison.began_at)
    ));
    lines(page, &changes_table(release, display));
    if release.lacks_baseline {
        page.wrapped(("", "", 0), NO_BASELINE, style::warning);
    }
    write_decision(page, release, display);
    page.gap();
    page.line("Comparison with the fixed rules of other controllers on the same requests:");
    lines(page, &comparison_table(&comparison.rules));
    let errors = "Errors: excess over stable on the same requests, until the rollback or the end of the record.";
    page.wrapped(("", "", 0), errors, style::dimmed);
    if comparison.is_projected() {
        page.wrapped(("", "", 0), PROJECTED, style::dimmed);
    }
    write_gaps(page, comparison, display);
}

/// Note on a Rollout with baseline pods whose recorded release had none.
const NO_BASELINE: &str = "No stable pod started together with the canary's in this record, so the canary is compared with all \
     stable pods instead of spec.analysis.baseline.";

/// Explanation of the projection.
const PROJECTED: &str = "Projected: one hour from the first request, if the canary had kept its recorded error rate and its last traffic \
     share. A rule that promotes would have given it more traffic.";

fn table(header: &[&str], numbers_from: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(header.to_vec());
    for column in table.column_iter_mut().skip(numbers_from) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

const fn ruling_text(ruling: Ruling) -> &'static str {
    match ruling {
        Ruling::RollBack => "rolls back",
        Ruling::Promote => "promotes",
        Ruling::AskPerson => "pauses",
    }
}

fn seconds_text(seconds: f64) -> String {
    human_duration(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default())
}

fn count_text(errors: f64) -> String {
    thousands(errors.max(0.0).round())
}

/// Table of the rules for one release.
fn comparison_table(rules: &[RuleOutcome]) -> String {
    let is_projected = rules.iter().any(|rule| rule.projected.is_some());
    let columns = [
        "rule",
        "recorded",
        "after",
        "errors",
        "projected",
        "after",
        "errors",
    ];
    let mut table = table(
        if is_projected {
            &columns
        } else {
            &columns[..4]
        },
        2,
    );
    for rule in rules {
        let mut row = vec![rule.rule.clone()];
        row.extend(match &rule.decided {
            Some(decided) => [
                ruling_text(decided.ruling).to_owned(),
                seconds_text(decided.after_seconds),
            ],
            None => ["undecided".to_owned(), "-".to_owned()],
        });
        row.push(count_text(rule.errors));
        if is_projected {
            row.extend(match &rule.projected {
                Some(projected) => [
                    ruling_text(projected.ruling).to_owned(),
                    seconds_text(projected.after_seconds),
                    count_text(projected.errors),
                ],
                None => ["", "", ""].map(ToOwned::to_owned),
            });
        }
        table.add_row(row);
    }
    if let Some(column) = table.column_mut(4) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    table.to_string()
}

/// Table with one line per release.
fn releases_table(all: &[RecordedRelease], display: &DisplayContext) -> String {
    let mut table = table(
        &[
            "release",
            "first request",
            "requests",
            "errors",
            "Serin",
            "after",
            "excess errors",
        ],
        2,
    );
    for (index, RecordedRelease { comparison, .. }) in all.iter().enumerate() {
        let name = comparison
            .name
            .clone()
            .unwrap_or_else(|| (index + 1).to_string());
        let (requests, errors) = comparison.counted.first().map_or((0.0, 0.0), |counted| {
            (counted.canary_requests, counted.canary_errors)
        });
        let own = comparison.rules.first();
        let decided = own.and_then(|rule| rule.decided);
        table.add_row([
            name,
            display.format_time(comparison.began_at),
            thousands(requests),
            thousands(errors),
            decided
                .map_or("undecided", |decided| ruling_text(decided.ruling))
                .to_owned(),
            decided.map_or_else(
                || "-".to_owned(),
                |decided| seconds_text(decided.after_seconds),
            ),
            own.map_or_else(String::new, |rule| count_text(rule.errors)),
        ]);
    }
    if let Some(column) = table.column_mut(4) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    table.to_string()
}

/// Renders the summary of all releases as tables.
pub fn render_summary(summary: &ReplaySummary) -> String {
    let mut text = format!("{} releases, as recorded:\n", summary.releases);
    text.push_str(&rules_table(&summary.on_record));
    if !summary.projected.is_empty() {
        text.push_str(
            "\nProjected: one hour from the first request, if each canary that Serin rolls back had kept its recorded\n",
        );
        text.push_str("error rate and its last traffic share:\n");
        text.push_str(&rules_table(&summary.projected));
    }
    text.push_str(
        "\nErrors: excess over stable on the same requests, until the rollback or the end of the record.\n",
    );
    text
}

fn rules_table(rules: &[RuleSummary]) -> String {
    let mut table = table(
        &[
            "rule",
            "rolled back",
            "promoted",
            "undecided",
            "median time",
            "mean errors",
            "most errors",
        ],
        1,
    );
    for rule in rules {
        table.add_row([
            rule.rule.clone(),
            rule.rolled_back.to_string(),
            rule.promoted.to_string(),
            rule.undecided.to_string(),
            rule.median_seconds_to_roll_back
                .map_or_else(|| "-".to_owned(), seconds_text),
            thousands((rule.mean_errors * 10.0).round() / 10.0),
            count_text(rule.most_errors),
        ]);
    }
    let lines: Vec<String> = table
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect();
    lines.concat()
}

fn time_since_start(release: &ReplayedRelease, at_ms: i64) -> String {
    let milliseconds = at_ms.saturating_sub(release.began_ms).max(0).unsigned_abs();
    human_duration(Duration::from_millis(milliseconds))
}

fn changes_table(release: &ReplayedRelease, display: &DisplayContext) -> String {
    let mut table = table(&["time", "after", "weight", "errors", "analysis"], 1);
    table.set_width(u16::try_from(display.width).unwrap_or(u16::MAX));
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(column) = table.column_mut(4) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    let all = &release.changes;
    let hidden = all.len().saturating_sub(MAX_CHANGES_SHOWN);
    for (index, change) in all.iter().enumerate() {
        let is_shown = index + 1 < MAX_CHANGES_SHOWN || index + 1 == all.len();
        if hidden > 0 && index + 1 == MAX_CHANGES_SHOWN {
            table.add_row([
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                format!("... {hidden} more changes ..."),
            ]);
        }
        if is_shown {
            table.add_row([
                Timestamp::from_millisecond(change.at_ms)
                    .map(|at| display.format_time(at))
                    .unwrap_or_default(),
                time_since_start(release, change.at_ms),
                format!("{} %", change.weight.as_percent()),
                thousands(errors_by(release, change.at_ms).round()),
                report_text(&change.report),
            ]);
        }
    }
    table.to_string()
}

fn write_decision(page: &mut Page, release: &ReplayedRelease, display: &DisplayContext) {
    let counts = |change: &ReportChange| {
        let requests: Vec<String> = change
            .evidence
            .iter()
            .map(|evidence| {
                format!(
                    "{} of {} requests failed",
                    thousands(evidence.canary.errors),
                    thousands(evidence.canary.requests)
                )
            })
            .collect();
        requests.join("; ")
    };
    let (text, style): (String, Style) = match &release.decision {
        Some((ReplayOutcome::RolledBack, change)) => (
            format!(
                "Serin would have rolled back this release {} after its first request, at {} excess errors ({}).",
                time_since_start(release, change.at_ms),
                thousands(errors_by(release, change.at_ms).round()),
                counts(change)
            ),
            style::error,
        ),
        Some((ReplayOutcome::Sufficient, change)) => (
            format!(
                "Serin would have had the evidence to promote this release {} after its first request ({}).",
                time_since_start(release, change.at_ms),
                counts(change)
            ),
            style::success,
        ),
        Some((ReplayOutcome::Inconclusive, change)) => (
            format!(
                "Serin would have paused for a manual decision after {}: the evidence was inconclusive.",
                time_since_start(release, change.at_ms)
            ),
            style::warning,
        ),
        None => (
            format!(
                "Serin would not have decided by the end of the record, {} after the first request.",
                time_since_start(release, release.ended_ms)
            ),
            style::warning,
        ),
    };
    page.gap();
    page.wrapped(("", "", 0), &text, style);
    let end = match release.ending {
        ReplayEnd::Record => return,
        ReplayEnd::CanaryStopped => "when the canary stopped receiving requests",
        ReplayEnd::StableStopped => "when stable stopped receiving requests",
    };
    let at = Timestamp::from_millisecond(release.ended_ms)
        .map(|at| display.format_time(at))
        .unwrap_or_default();
    page.wrapped(
        ("", "", 0),
        &format!("The record ends at {at}, {end}."),
        style::dimmed,
    );
}

fn write_gaps(page: &mut Page, comparison: &ReleaseComparison, display: &DisplayContext) {
    if comparison.gaps.is_empty() {
        return;
    }
    page.gap();
    page.line("Gaps in the record (missing data never counts as success):");
    for gap in &comparison.gaps {
        let lasted =
            human_duration(Duration::try_from(gap.to.duration_since(gap.from)).unwrap_or_default());
        let (from, to) = (display.format_time(gap.from), display.format_time(gap.to));
        page.line(&format!(
            "  {}: {lasted} without data, from {from} to {to}",
            gap.objective
        ));
    }
}

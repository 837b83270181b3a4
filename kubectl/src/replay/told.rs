//! A replay in words and tables.

use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use jiff::Timestamp;
use serin_analysis::explain::thousands;
use serin_metrics_analysis::replay::{Ending, Moment, Outcome, Replayed, Weights};

use super::compared::{Compared, Ruled, Ruling, errors_by, said};
use super::summary::{Fared, Summary};
use super::{Asked, Record, Recorded, Window};
use crate::look::{Look, duration};
use crate::manifest::Manifest;
use crate::page::{Page, Paint};
use crate::paint;

/// As many moments of one release are told; of more the first ones, and the decision.
const MOMENTS_TOLD: usize = 20;

/// What is on record in these windows; each release with its moments where all is told `in_full`.
pub(super) fn told(
    manifest: &Manifest,
    asked: &Asked,
    windows: &[Window],
    Record {
        releases: all,
        without_requests,
    }: &Record,
    in_full: bool,
    look: &Look,
) -> String {
    let mut page = Page::new(look.width);
    page.field("Rollout", &manifest.name, paint::strong);
    let from = windows.iter().map(|window| window.from).min();
    let to = windows.iter().map(|window| window.to).max();
    let span = from.zip(to).map_or_else(String::new, |(from, to)| {
        format!(", from {} to {}", look.clock(from), look.clock(to))
    });
    page.field(
        "Record",
        &format!("{}{span}", asked.server.url),
        paint::plain,
    );
    let weights = match asked.weights {
        Weights::Observed => "as the recorded requests show them",
        Weights::Set(_) => "as given by --step-weights",
    };
    page.field("Weights", weights, paint::plain);
    if all.is_empty() {
        let nothing = "No request to the canary is on record in that time, so there is nothing to judge. See whether the objective's counters select the canary's series, and whether Prometheus keeps them that long.";
        page.gap();
        page.wrapped(("", "", 0), nothing, paint::warn);
    } else if !without_requests.is_empty() {
        page.gap();
        let empty = format!(
            "No request to the canary is on record for: {}.",
            without_requests.join(", ")
        );
        page.wrapped(("", "", 0), &empty, paint::warn);
    }
    for (index, recorded) in all.iter().enumerate().filter(|_| in_full) {
        let name = recorded
            .compared
            .name
            .as_ref()
            .map_or_else(String::new, |name| format!(" {name}"));
        let of = if all.len() > 1 {
            format!(" {} of {}", index + 1, all.len())
        } else {
            String::new()
        };
        in_detail(&mut page, &format!("Release{name}{of}"), recorded, look);
    }
    if all.len() > 1 {
        if !in_full {
            page.gap();
            lines(&mut page, &each(all, look));
        }
        page.gap();
        page.line(
            summary_told(&Summary::of(all.iter().map(|recorded| &recorded.compared))).trim_end(),
        );
        if !in_full {
            page.gap();
            page.wrapped(
                ("", "", 0),
                "How each release went, with its charts: --all. For programs: -o json.",
                paint::dim,
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

fn in_detail(
    page: &mut Page,
    heading: &str,
    Recorded { release, compared }: &Recorded,
    look: &Look,
) {
    page.heading(&format!(
        "{heading}: first request to the canary at {}",
        look.clock(compared.began_at)
    ));
    lines(page, &moments(release, look));
    decision(page, release, look);
    page.gap();
    page.line("Beside it, on the same requests, fixed rules as other controllers have them:");
    lines(page, &comparison(&compared.rules));
    let errors = "Errors: those beyond stable's on the same requests, until the rule rolls back, else until the record ends.";
    page.wrapped(("", "", 0), errors, paint::dim);
    if compared.is_projected() {
        page.wrapped(("", "", 0), PROJECTED, paint::dim);
    }
    missing(page, compared, look);
}

/// What a projection stands on.
const PROJECTED: &str = "Projected: had the canary gone on failing as often as on record, with the share of the requests that it had last, \
     for an hour. A rule that promotes would have given it more than that share.";

fn table(header: &[&str], numbers_from: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(header.to_vec());
    for column in table.column_iter_mut().skip(numbers_from) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

const fn word(ruling: Ruling) -> &'static str {
    match ruling {
        Ruling::RollBack => "rolls back",
        Ruling::Promote => "promotes",
        Ruling::AskPerson => "asks a person",
    }
}

fn lasting(seconds: f64) -> String {
    duration(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default())
}

fn count(errors: f64) -> String {
    thousands(errors.max(0.0).round())
}

/// The rules beside each other.
fn comparison(rules: &[Ruled]) -> String {
    let is_projected = rules.iter().any(|rule| rule.projected.is_some());
    let columns = [
        "rule",
        "on record",
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
                word(decided.ruling).to_owned(),
                lasting(decided.after_seconds),
            ],
            None => ["undecided".to_owned(), "-".to_owned()],
        });
        row.push(count(rule.errors));
        if is_projected {
            row.extend(match &rule.projected {
                Some(projected) => [
                    word(projected.ruling).to_owned(),
                    lasting(projected.after_seconds),
                    count(projected.errors),
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

/// A line for each release.
fn each(all: &[Recorded], look: &Look) -> String {
    let mut table = table(
        &[
            "release",
            "first request",
            "requests",
            "errors",
            "Serin",
            "after",
            "beyond stable's",
        ],
        2,
    );
    for (index, Recorded { compared, .. }) in all.iter().enumerate() {
        let name = compared
            .name
            .clone()
            .unwrap_or_else(|| (index + 1).to_string());
        let (requests, errors) = compared.counted.first().map_or((0.0, 0.0), |counted| {
            (counted.canary_requests, counted.canary_errors)
        });
        let own = compared.rules.first();
        let decided = own.and_then(|rule| rule.decided);
        table.add_row([
            name,
            look.clock(compared.began_at),
            thousands(requests),
            thousands(errors),
            decided
                .map_or("undecided", |decided| word(decided.ruling))
                .to_owned(),
            decided.map_or_else(|| "-".to_owned(), |decided| lasting(decided.after_seconds)),
            own.map_or_else(String::new, |rule| count(rule.errors)),
        ]);
    }
    if let Some(column) = table.column_mut(4) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    table.to_string()
}

/// All releases together, as tables.
pub fn summary_told(summary: &Summary) -> String {
    let mut text = format!("{} releases, by what is on record:\n", summary.releases);
    text.push_str(&fared(&summary.on_record));
    if !summary.projected.is_empty() {
        text.push_str(
            "\nProjected: had each canary that Serin rolls back gone on failing as often as on record, with the\n",
        );
        text.push_str("share of the requests that it had last, for an hour:\n");
        text.push_str(&fared(&summary.projected));
    }
    text.push_str(
        "\nErrors are those beyond stable's on the same requests: until the rule rolls back, else until the end.\n",
    );
    text
}

fn fared(rules: &[Fared]) -> String {
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
    for of in rules {
        table.add_row([
            of.rule.clone(),
            of.rolled_back.to_string(),
            of.promoted.to_string(),
            of.undecided.to_string(),
            of.median_seconds_to_roll_back
                .map_or_else(|| "-".to_owned(), lasting),
            thousands((of.mean_errors * 10.0).round() / 10.0),
            count(of.most_errors),
        ]);
    }
    let lines: Vec<String> = table
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect();
    lines.concat()
}

fn since(release: &Replayed, at_ms: i64) -> String {
    let milliseconds = at_ms.saturating_sub(release.began_ms).max(0).unsigned_abs();
    duration(Duration::from_millis(milliseconds))
}

fn moments(release: &Replayed, look: &Look) -> String {
    let mut table = table(&["time", "after", "weight", "errors", "judgement"], 1);
    table.set_width(u16::try_from(look.width).unwrap_or(u16::MAX));
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(column) = table.column_mut(4) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    let all = &release.moments;
    let hidden = all.len().saturating_sub(MOMENTS_TOLD);
    for (index, moment) in all.iter().enumerate() {
        let is_told = index + 1 < MOMENTS_TOLD || index + 1 == all.len();
        if hidden > 0 && index + 1 == MOMENTS_TOLD {
            table.add_row([
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                format!("... {hidden} more changes ..."),
            ]);
        }
        if is_told {
            table.add_row([
                Timestamp::from_millisecond(moment.at_ms)
                    .map(|at| look.clock(at))
                    .unwrap_or_default(),
                since(release, moment.at_ms),
                format!("{} %", moment.weight.as_percent()),
                thousands(errors_by(release, moment.at_ms).round()),
                said(&moment.judgement),
            ]);
        }
    }
    table.to_string()
}

fn decision(page: &mut Page, release: &Replayed, look: &Look) {
    let counts = |moment: &Moment| {
        let requests: Vec<String> = moment
            .evidence
            .iter()
            .map(|of| {
                format!(
                    "{} failed of {}",
                    thousands(of.canary.errors),
                    thousands(of.canary.requests)
                )
            })
            .collect();
        requests.join("; ")
    };
    let (text, paint): (String, Paint) = match &release.decision {
        Some((Outcome::RolledBack, moment)) => (
            format!(
                "Serin would have rolled this release back {} after its first request, when it had cost {} errors beyond stable's ({}).",
                since(release, moment.at_ms),
                thousands(errors_by(release, moment.at_ms).round()),
                counts(moment)
            ),
            paint::bad,
        ),
        Some((Outcome::Proven, moment)) => (
            format!(
                "Serin would have had the evidence to promote this release {} after its first request ({}).",
                since(release, moment.at_ms),
                counts(moment)
            ),
            paint::good,
        ),
        Some((Outcome::Inconclusive, moment)) => (
            format!(
                "Serin would have asked a person after {}: the evidence had not decided.",
                since(release, moment.at_ms)
            ),
            paint::warn,
        ),
        None => (
            format!(
                "Serin would not have decided by the end of the record, {} after the first request.",
                since(release, release.ended_ms)
            ),
            paint::warn,
        ),
    };
    page.gap();
    page.wrapped(("", "", 0), &text, paint);
    let end = match release.ending {
        Ending::Record => return,
        Ending::CanaryStopped => "Its record ends when the canary got no more requests",
        Ending::StableStopped => {
            "Its record ends when stable got no more requests, so that there is nothing to compare with"
        }
    };
    let at = Timestamp::from_millisecond(release.ended_ms)
        .map(|at| look.clock(at))
        .unwrap_or_default();
    page.wrapped(("", "", 0), &format!("{end}: at {at}."), paint::dim);
}

fn missing(page: &mut Page, compared: &Compared, look: &Look) {
    if compared.gaps.is_empty() {
        return;
    }
    page.gap();
    page.line("What is missing on record (nothing missing was taken for a success):");
    for gap in &compared.gaps {
        let lasted =
            duration(Duration::try_from(gap.to.duration_since(gap.from)).unwrap_or_default());
        let (from, to) = (look.clock(gap.from), look.clock(gap.to));
        page.line(&format!(
            "  {}: {lasted} without data, from {from} to {to}",
            gap.objective
        ));
    }
}

//! `kubectl serin explain`: why a release is where it is.
//!
//! Counts first, comparison second, the guarantee last. Whoever knows no statistics understands
//! what stands above `--all`; whoever does finds the numbers, the tolerances and the assumptions
//! below it.

use serin_analysis::explain::{duration, e_value, percent, thousands};
use serin_crds::analysis::AnalysisSpec;
use serin_crds::status::EvidenceStatus;

use crate::look::Look;
use crate::page::{Page, Paint};
use crate::paint;
use crate::report::Report;
use crate::view::evidence::guarded;
pub use numbers::{Numbers, numbers};
use standing::{Kind, Standing, standing};

mod fetch;
mod holds;
mod numbers;
mod standing;

pub use fetch::explain;

/// What is explained.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// The Rollout as it was read.
    pub report: &'a Report,
    /// How it is judged, where it is.
    pub analysis: Option<&'a AnalysisSpec>,
    /// The evidence in numbers, or why it cannot be told.
    pub numbers: Result<Vec<Numbers>, String>,
}

/// The explanation as text; `all`: with the numbers and the assumptions.
pub fn render(case: &Case<'_>, look: &Look, all: bool) -> String {
    let mut page = Page::new(look.width);
    let report = case.report;
    let standing = standing(report, case.analysis.is_some(), look);
    page.field(
        "Rollout",
        &format!("{} in namespace {}", report.name, report.namespace),
        paint::strong,
    );
    page.field("", &standing.headline, of_kind(standing.kind));
    for why in &standing.why {
        page.field("", why, paint::plain);
    }
    let shows_evidence = standing.kind != Kind::Unjudged && !report.evidence.is_empty();
    if shows_evidence {
        for evidence in &report.evidence {
            objective(&mut page, evidence, case);
        }
    } else if standing.kind == Kind::UnderWay || standing.kind == Kind::Held {
        page.heading("Evidence");
        line(
            &mut page,
            "There is none yet: no request to the canary has been counted. This is not success.",
        );
    }
    next(&mut page, &standing, case);
    if shows_evidence {
        certain(&mut page, &standing, case);
    }
    if let Err(why) = &case.numbers {
        page.heading("Could not be read");
        page.wrapped(("  ", "  ", 2), why, paint::warn);
    }
    if all && shows_evidence {
        for numbers in case.numbers.iter().flatten() {
            in_numbers(&mut page, numbers, report, look);
        }
        assumptions(&mut page);
    }
    page.finish()
}

/// The least difference that matters, as a part of the error budget: what promotion must rule out.
const MARGIN_OF_BUDGET: f64 = 0.5;

fn of_kind(kind: Kind) -> Paint {
    match kind {
        Kind::RolledBack { .. } => paint::bad,
        Kind::Held => paint::warn,
        Kind::Unjudged | Kind::UnderWay | Kind::Over => paint::strong,
    }
}

fn line(page: &mut Page, text: &str) {
    page.wrapped(("  ", "  ", 2), text, paint::plain);
}

/// Counts, comparison and budget of one objective.
fn objective(page: &mut Page, evidence: &EvidenceStatus, case: &Case<'_>) {
    let of = case.analysis.and_then(|analysis| {
        analysis
            .objectives
            .iter()
            .find(|of| of.name == evidence.objective)
    });
    let promise = of.map_or_else(String::new, |of| format!(" (objective {} %)", of.objective));
    page.heading(&format!("{}{promise}", evidence.objective));
    line(page, &counts(evidence));
    let margin = MARGIN_OF_BUDGET * (1.0 - of.map_or(99.9, |of| of.objective) / 100.0);
    if let Some(compared) = compared(evidence, margin) {
        line(page, &compared);
    }
    if let (Some(spent), Some(allotment)) = (evidence.budget_spent, evidence.budget_allotment) {
        let spent = thousands(spent.max(0.0).round());
        let text = if allotment > 0.0 {
            let part = evidence.budget_spent.unwrap_or(0.0).max(0.0) / allotment;
            let allotment = thousands(allotment.floor());
            format!(
                "This release has cost {spent} of the {allotment} errors that it may cost ({}).",
                percent(part)
            )
        } else {
            format!(
                "This release has cost {spent} errors, and nothing is left of the service's error budget."
            )
        };
        line(page, &text);
    }
    if let Some(guard) = &evidence.latency_guard {
        line(page, &guarded(guard));
    }
    if let Some(reading) = &evidence.note {
        line(page, reading);
    }
}

fn counts(evidence: &EvidenceStatus) -> String {
    let EvidenceStatus { canary, stable, .. } = evidence;
    if canary.requests <= 0.0 {
        return "No request to the canary has been counted. This is not success.".to_owned();
    }
    let text = format!(
        "The canary failed {} of {} requests.",
        thousands(canary.errors),
        thousands(canary.requests)
    );
    if stable.requests <= 0.0 {
        return format!(
            "{text} No request to stable has been counted, so there is nothing to compare with."
        );
    }
    let expected = canary.requests * stable.errors / stable.requests;
    format!(
        "{text} Stable failed {} of {}; failing as often, the canary would have failed about {}.",
        thousands(stable.errors),
        thousands(stable.requests),
        thousands((expected * 10.0).round() / 10.0)
    )
}

/// Of how many requests a difference is told: so many that the least one that matters is a whole
/// request.
fn told_of(margin: f64) -> f64 {
    [100.0, 1e3, 1e4, 1e5]
        .into_iter()
        .find(|of| margin * of > 1.0 - 1e-9)
        .unwrap_or(1e6)
}

/// How many more or fewer requests fail, of so many.
fn difference(fraction: f64, of: f64) -> String {
    let count = (fraction * of).abs();
    let count = thousands(if count < 10.0 {
        (count * 10.0).round() / 10.0
    } else {
        count.round()
    });
    format!("{count} {}", if fraction < 0.0 { "fewer" } else { "more" })
}

/// By how much more or less the canary fails, and between which bounds.
fn compared(evidence: &EvidenceStatus, margin: f64) -> Option<String> {
    let excess = evidence.excess?;
    let of = told_of(margin);
    // A bound of a whole is no knowledge at all.
    let lower = evidence
        .lower
        .filter(|lower| *lower > -1.0)
        .map(|lower| difference(lower, of));
    let upper = evidence
        .upper
        .filter(|upper| *upper < 1.0)
        .map(|upper| difference(upper, of));
    let known = match (lower, upper) {
        (Some(lower), Some(upper)) => {
            format!("By these counts the true difference is between {lower} and {upper}.")
        }
        (Some(lower), None) => format!("By these counts the true difference is at least {lower}."),
        (None, Some(upper)) => format!("By these counts the true difference is at most {upper}."),
        (None, None) => "It is too early to say how near the truth that is.".to_owned(),
    };
    let all = thousands(of);
    let seen = if excess == 0.0 {
        "So far the canary fails as often as stable.".to_owned()
    } else {
        format!(
            "So far, of {all} requests the canary fails {} than stable.",
            difference(excess, of)
        )
    };
    Some(format!("{seen} {known}"))
}

/// What is still needed, and what happens next.
fn next(page: &mut Page, standing: &Standing, case: &Case<'_>) {
    let is_open = matches!(standing.kind, Kind::UnderWay | Kind::Held);
    let needed: Vec<String> = match &case.numbers {
        Ok(numbers) if is_open => numbers.iter().filter_map(needed).collect(),
        _ => Vec::new(),
    };
    if needed.is_empty() && standing.next.is_empty() {
        return;
    }
    page.heading("What happens next");
    for text in needed.iter().chain(&standing.next) {
        let is_command = text.starts_with("kubectl ");
        page.wrapped(
            ("  ", "  ", 2),
            text,
            if is_command { paint::dim } else { paint::plain },
        );
    }
}

fn needed(numbers: &Numbers) -> Option<String> {
    let Numbers {
        told,
        requests_per_second,
        ..
    } = numbers;
    let of = told_of(told.margin);
    let margin = difference(told.margin, of);
    let of = thousands(of);
    let needed = told.needed_requests?;
    if told.counts.canary_requests <= 0.0
        || told.counts.stable_requests <= 0.0
        || !needed.is_finite()
    {
        return None;
    }
    if needed <= 0.0 {
        return Some(format!(
            "{}: it is shown that of {of} requests the canary fails less than {margin} than stable, which is what promotion asks for.",
            told.name
        ));
    }
    let rounded = if needed < 100.0 {
        needed.ceil()
    } else {
        two_digits(needed)
    };
    let time = if *requests_per_second > 0.0 {
        format!(
            " (about {} at {} requests/s and this share of them; sooner with a larger one)",
            duration(needed / requests_per_second),
            thousands(if *requests_per_second < 10.0 {
                *requests_per_second
            } else {
                requests_per_second.round()
            })
        )
    } else {
        String::new()
    };
    Some(format!(
        "{}: about {} more requests{time} are needed to show that of {of} requests the canary fails less than {margin} than stable, if it fails like stable.",
        told.name,
        thousands(rounded)
    ))
}

/// Two significant digits: more would claim what an estimate cannot know.
fn two_digits(value: f64) -> f64 {
    let unit = 10_f64.powf(value.log10().floor() - 1.0);
    (value / unit).round() * unit
}

/// The guarantee, last.
fn certain(page: &mut Page, standing: &Standing, case: &Case<'_>) {
    let report = case.report;
    let threshold = report
        .evidence
        .iter()
        .filter_map(|evidence| evidence.threshold)
        .fold(0.0, f64::max);
    let text = match standing.kind {
        Kind::RolledBack { one_in } => format!(
            "Evidence this strong turns up at most 1 time in {} where a release is as good as stable, however long one looks.",
            thousands(f64::from(one_in))
        ),
        Kind::Held => {
            "While data is missing or the service is in trouble, nothing is taken for a success."
                .to_owned()
        }
        _ if threshold > 1.0 => format!(
            "A release that is as good as stable is rolled back by evidence at most 1 time in {}, however long and however often one looks.",
            thousands(threshold.round())
        ),
        _ => return,
    };
    page.heading("What is certain");
    line(page, &text);
    let has_bounds = report
        .evidence
        .iter()
        .any(|evidence| evidence.excess.is_some());
    if let (true, Some(miss)) = (has_bounds, bounds_miss(case)) {
        line(page, &miss);
    }
}

/// How often the bounds are wrong: the lower one at most with chance alpha, the upper one with
/// beta.
fn bounds_miss(case: &Case<'_>) -> Option<String> {
    let judge = case.numbers.as_ref().ok()?.first()?.judge;
    let in_hundred = thousands((100.0 * (judge.alpha + judge.beta) * 10.0).round() / 10.0);
    Some(format!(
        "The bounds of an objective miss the true difference in at most {in_hundred} of 100 releases, however often one looks."
    ))
}

/// One objective for whoever knows statistics.
fn in_numbers(page: &mut Page, numbers: &Numbers, report: &Report, look: &Look) {
    let Numbers {
        told,
        config,
        judge,
        phi,
        scrapes,
        last_scrape_ms,
        requests_per_second,
    } = numbers;
    page.heading(&format!("{} in numbers", told.name));
    let mut row = |label: &str, text: String| {
        page.wrapped(
            (&paint::dim(&format!("  {label:<12}")), &" ".repeat(14), 14),
            &text,
            paint::plain,
        );
    };
    row(
        "E",
        format!(
            "E = {} (rolls back at {})",
            e_value(told.ln_e),
            thousands((1.0 / judge.alpha).round())
        ),
    );
    row(
        "M",
        format!(
            "M = {} (promotes at {})",
            e_value(told.ln_m_good),
            thousands((1.0 / judge.beta).round())
        ),
    );
    let bound = |bound: f64| {
        if bound.abs() >= 1.0 {
            "unknown".to_owned()
        } else {
            percent(bound)
        }
    };
    row(
        "excess",
        format!(
            "{}, L = {} (alpha = {}), U = {} (beta = {})",
            told.excess.map_or_else(|| "unknown".to_owned(), percent),
            bound(told.lower),
            judge.alpha,
            bound(told.upper),
            judge.beta
        ),
    );
    row(
        "tolerance",
        format!(
            "rho0 = {}, delta0 = {}",
            config.rho0,
            percent(config.delta0)
        ),
    );
    row("margin", format!("delta1 = {}", percent(config.delta1)));
    row(
        "temper",
        phi.map_or_else(
            || {
                format!(
                    "k = {} (phi is not measured: one gateway counts for all pods)",
                    thousands(told.k)
                )
            },
            |phi| {
                format!(
                    "k = {} (phi = {})",
                    thousands((told.k * 100.0).round() / 100.0),
                    (phi * 100.0).round() / 100.0
                )
            },
        ),
    );
    let status = report
        .evidence
        .iter()
        .find(|evidence| evidence.objective == told.name);
    let allotment = status.and_then(|status| status.budget_allotment);
    row(
        "budget",
        allotment.map_or_else(
            || "the allotment is not known".to_owned(),
            |allotment| {
                let part = if allotment > 0.0 {
                    percent(told.spent / allotment)
                } else {
                    "all of it".to_owned()
                };
                format!(
                    "A = {} errors, X = {:.1} ({part})",
                    thousands(allotment.floor()),
                    told.spent
                )
            },
        ),
    );
    let last = jiff::Timestamp::from_millisecond(*last_scrape_ms)
        .map(|at| look.clock(at))
        .unwrap_or_default();
    row(
        "data",
        format!(
            "{scrapes} scrapes, the last at {last}; {} requests/s",
            thousands((requests_per_second * 10.0).round() / 10.0)
        ),
    );
}

fn assumptions(page: &mut Page) {
    page.heading("What the guarantee stands on");
    let theorem = "theorem: while the canary fails at most rho0 times as often as stable plus delta0, and errors are independent given the \
        past, E passes 1/alpha with probability alpha at most, whenever one looks (Ville's inequality). L and U hold in the same way, \
        at alpha and beta; a release at the margin delta1 is promoted with probability beta at most.";
    let heuristic = "heuristic: where errors cluster, the logarithm of every bet is divided by k, which is estimated from stable's pods.";
    let weaker = "weaker: a rollback by a spent budget or a burning service needs E >= 10 only, so that the theorem bounds it by 1 time in 10.";
    let simulated = "simulated only: how soon a bad release is found, how long a good one takes, and that the allotment is kept \
        (docs/benchmarks.md).";
    for text in [theorem, weaker, heuristic, simulated] {
        page.wrapped(("  ", "  ", 2), text, paint::plain);
    }
}

#[cfg(test)]
mod tests;

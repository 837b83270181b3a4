//! `kubectl serin explain`: explains the state of a release.
//!
//! Counts first, then the comparison, then the guarantees. The default output requires no knowledge
//! of statistics. `--all` adds the statistics and the assumptions.

use serin_analysis::budget::used_fraction;
use serin_analysis::explain::{duration, e_value, percent, thousands};
use serin_crds::analysis::AnalysisSpec;
use serin_crds::status::EvidenceStatus;

use crate::display::DisplayContext;
use crate::page::{Page, Style};
use crate::report::Report;
use crate::style;
use crate::view::evidence::latency_guard_text;
use diagnosis::{Diagnosis, DiagnosisKind, diagnose};
use numbers::temper_text;
pub use numbers::{ObjectiveNumbers, objective_numbers};

mod diagnosis;
mod fetch;
mod numbers;

pub use fetch::explain;

/// Input of the explanation.
#[derive(Clone, Debug)]
pub struct ExplainInput<'a> {
    /// The report on the Rollout.
    pub report: &'a Report,
    /// The analysis in the spec, if any.
    pub analysis: Option<&'a AnalysisSpec>,
    /// The statistics of each objective, or why they are not available.
    pub numbers: Result<Vec<ObjectiveNumbers>, String>,
}

/// Renders the explanation. `all` adds the statistics and the assumptions.
pub fn render(input: &ExplainInput<'_>, display: &DisplayContext, all: bool) -> String {
    let mut page = Page::new(display.width);
    let report = input.report;
    let diagnosis = diagnose(report, input.analysis.is_some(), display);
    page.field(
        "Rollout",
        &format!("{} in namespace {}", report.name, report.namespace),
        style::bold,
    );
    page.field("", &diagnosis.headline, kind_style(diagnosis.kind));
    for why in &diagnosis.reasons {
        page.field("", why, style::plain);
    }
    let shows_evidence =
        diagnosis.kind != DiagnosisKind::NotAnalyzed && !report.evidence.is_empty();
    if shows_evidence {
        for evidence in &report.evidence {
            write_objective(&mut page, evidence, input);
        }
    } else if diagnosis.kind == DiagnosisKind::InProgress || diagnosis.kind == DiagnosisKind::Held {
        page.heading("Evidence");
        let text = if report.is_blue_green {
            "The new revision gets no requests before the switch, so there is no evidence about it yet."
        } else {
            "No request to the canary has been counted yet. This is not success."
        };
        line(&mut page, text);
    }
    write_assignment_unit(&mut page, report);
    write_next_steps(&mut page, &diagnosis, input);
    if shows_evidence {
        write_guarantees(&mut page, &diagnosis, input);
    }
    if let Err(why) = &input.numbers {
        page.heading("Read errors");
        page.wrapped(("  ", "  ", 2), why, style::warning);
    }
    if all && shows_evidence {
        for numbers in input.numbers.iter().flatten() {
            write_numbers(&mut page, numbers, report, display);
        }
        write_assumptions(&mut page);
    }
    page.finish()
}

/// The margin that promotion must rule out, as a fraction of the error budget.
const MARGIN_OF_BUDGET: f64 = 0.5;

fn kind_style(kind: DiagnosisKind) -> Style {
    match kind {
        DiagnosisKind::RolledBack { .. } => style::error,
        DiagnosisKind::Held => style::warning,
        DiagnosisKind::NotAnalyzed | DiagnosisKind::InProgress | DiagnosisKind::Ended => {
            style::bold
        }
    }
}

fn line(page: &mut Page, text: &str) {
    page.wrapped(("  ", "  ", 2), text, style::plain);
}

/// Writes which unit is assigned to a side, unless it is the request.
fn write_assignment_unit(page: &mut Page, report: &Report) {
    let mut conditions = report.unhealthy_conditions.iter();
    if let Some(note) = conditions.find(|condition| condition.condition == "RoutedPerRequest") {
        page.heading("Unit of assignment");
        page.wrapped(("  ", "  ", 2), &note.message, style::warning);
    }
}

/// Writes counts, comparison and budget of one objective.
fn write_objective(page: &mut Page, evidence: &EvidenceStatus, input: &ExplainInput<'_>) {
    let spec = input.analysis.and_then(|analysis| {
        analysis
            .objectives
            .iter()
            .find(|objective| objective.name == evidence.objective)
    });
    let target = spec.map_or_else(String::new, |of| format!(" (objective {} %)", of.objective));
    page.heading(&format!("{}{target}", evidence.objective));
    line(page, &counts_text(evidence, input.report));
    let margin =
        MARGIN_OF_BUDGET * (1.0 - spec.map_or(99.9, |objective| objective.objective) / 100.0);
    let has_comparison = !input.report.is_blue_green;
    if let Some(comparison) = comparison_text(evidence, margin).filter(|_| has_comparison) {
        line(page, &comparison);
    }
    if let (Some(spent), Some(allotment)) = (evidence.budget_spent, evidence.budget_allotment) {
        let spent = thousands(spent.max(0.0).round());
        let text = if allotment > 0.0 {
            let part = evidence.budget_spent.unwrap_or(0.0).max(0.0) / allotment;
            let allotment = thousands(allotment.floor());
            format!(
                "This release has used {spent} of its allotment of {allotment} errors ({}).",
                percent(part)
            )
        } else {
            format!(
                "This release has caused {spent} excess errors, and the service's error budget is exhausted."
            )
        };
        line(page, &text);
    }
    if let Some(guard) = &evidence.latency_guard {
        line(page, &latency_guard_text(guard));
    }
    if let Some(note) = &evidence.note {
        line(page, note);
    }
}

fn counts_text(evidence: &EvidenceStatus, report: &Report) -> String {
    let EvidenceStatus { canary, stable, .. } = evidence;
    let side = report.released_side();
    if canary.requests <= 0.0 {
        return format!("No request to the {side} has been counted. This is not success.");
    }
    let text = format!(
        "The {side} failed {} of {} requests.",
        thousands(canary.errors),
        thousands(canary.requests)
    );
    if report.is_blue_green {
        return format!("{text} {COMPARED_WITH_PAST}");
    }
    if stable.requests <= 0.0 {
        return format!(
            "{text} No request to stable has been counted, so there is nothing to compare with."
        );
    }
    let expected = canary.requests * stable.errors / stable.requests;
    format!(
        "{text} Stable failed {} of {}; at that rate the canary would have failed about {}.",
        thousands(stable.errors),
        thousands(stable.requests),
        thousands((expected * 10.0).round() / 10.0)
    )
}

/// The number of requests per which differences are stated: the smallest power of ten for which the
/// margin is at least one request.
fn comparison_base(margin: f64) -> f64 {
    [100.0, 1e3, 1e4, 1e5]
        .into_iter()
        .find(|per| margin * per > 1.0 - 1e-9)
        .unwrap_or(1e6)
}

/// The difference in failed requests per `per` requests, for example `5 more`.
fn difference(fraction: f64, per: f64) -> String {
    let count = (fraction * per).abs();
    let count = thousands(if count < 10.0 {
        (count * 10.0).round() / 10.0
    } else {
        count.round()
    });
    format!("{count} {}", if fraction < 0.0 { "fewer" } else { "more" })
}

/// The difference between canary and stable, with its bounds.
fn comparison_text(evidence: &EvidenceStatus, margin: f64) -> Option<String> {
    let excess = evidence.excess?;
    let per = comparison_base(margin);
    // A bound of 1 means that nothing is known yet.
    let lower = evidence
        .lower
        .filter(|lower| *lower > -1.0)
        .map(|lower| difference(lower, per));
    let upper = evidence
        .upper
        .filter(|upper| *upper < 1.0)
        .map(|upper| difference(upper, per));
    let bounds = match (lower, upper) {
        (Some(lower), Some(upper)) => {
            format!("The true difference is between {lower} and {upper}.")
        }
        (Some(lower), None) => format!("The true difference is at least {lower}."),
        (None, Some(upper)) => format!("The true difference is at most {upper}."),
        (None, None) => "It is too early for bounds.".to_owned(),
    };
    let all = thousands(per);
    let observed = if excess == 0.0 {
        "The canary fails as often as stable.".to_owned()
    } else {
        format!(
            "Per {all} requests the canary fails {} than stable.",
            difference(excess, per)
        )
    };
    Some(format!("{observed} {bounds}"))
}

/// Writes the missing evidence and the next steps.
fn write_next_steps(page: &mut Page, diagnosis: &Diagnosis, input: &ExplainInput<'_>) {
    let is_open = matches!(
        diagnosis.kind,
        DiagnosisKind::InProgress | DiagnosisKind::Held
    );
    let needed: Vec<String> = match &input.numbers {
        Ok(numbers) if is_open && !input.report.is_blue_green => {
            numbers.iter().filter_map(remaining_evidence).collect()
        }
        _ => Vec::new(),
    };
    if needed.is_empty() && diagnosis.next_steps.is_empty() {
        return;
    }
    page.heading("What happens next");
    for text in needed.iter().chain(&diagnosis.next_steps) {
        let is_command = text.starts_with("kubectl ");
        page.wrapped(
            ("  ", "  ", 2),
            text,
            if is_command {
                style::dimmed
            } else {
                style::plain
            },
        );
    }
}

fn remaining_evidence(numbers: &ObjectiveNumbers) -> Option<String> {
    let ObjectiveNumbers {
        evidence: statistics,
        requests_per_second,
        ..
    } = numbers;
    let per = comparison_base(statistics.margin);
    let margin = difference(statistics.margin, per);
    let per = thousands(per);
    let needed = statistics.needed_requests?;
    if statistics.counts.canary_requests <= 0.0
        || statistics.counts.stable_requests <= 0.0
        || !needed.is_finite()
    {
        return None;
    }
    if needed <= 0.0 {
        return Some(format!(
            "{}: the evidence shows that per {per} requests the canary fails less than {margin} than stable, as promotion requires.",
            statistics.name
        ));
    }
    let rounded = if needed < 100.0 {
        needed.ceil()
    } else {
        two_digits(needed)
    };
    let time = if *requests_per_second > 0.0 {
        format!(
            " (about {} at {} requests/s and the current weight)",
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
        "{}: about {} more requests{time} are needed to show that per {per} requests the canary fails less than {margin} than stable. The estimate assumes that it fails as often as stable.",
        statistics.name,
        thousands(rounded)
    ))
}

/// Rounds to two significant digits, the precision of the estimate.
fn two_digits(value: f64) -> f64 {
    let unit = 10_f64.powf(value.log10().floor() - 1.0);
    (value / unit).round() * unit
}

/// Writes the guarantees.
fn write_guarantees(page: &mut Page, diagnosis: &Diagnosis, input: &ExplainInput<'_>) {
    let report = input.report;
    let threshold = report
        .evidence
        .iter()
        .filter_map(|evidence| evidence.threshold)
        .fold(0.0, f64::max);
    let text = match diagnosis.kind {
        DiagnosisKind::RolledBack { one_in } => format!(
            "A release as good as stable produces evidence this strong at most 1 time in {}, no matter how often it is checked.",
            thousands(f64::from(one_in))
        ),
        DiagnosisKind::Held => {
            "A held release is not promoted. Missing data never counts as success.".to_owned()
        }
        _ if threshold > 1.0 => format!(
            "Evidence rolls back a release as good as stable at most 1 time in {}, no matter how often it is checked.",
            thousands(threshold.round())
        ),
        _ => return,
    };
    page.heading("Guarantees");
    if report.is_blue_green && !matches!(diagnosis.kind, DiagnosisKind::Held) {
        return line(page, HEURISTIC);
    }
    let assumptions = assumptions(report, diagnosis.kind, threshold);
    match assumptions.as_slice() {
        [] => {
            line(page, &text);
            if !matches!(diagnosis.kind, DiagnosisKind::Held) {
                line(page, INDEPENDENT);
            }
        }
        sentences => sentences.iter().for_each(|sentence| line(page, sentence)),
    }
    let has_bounds = report
        .evidence
        .iter()
        .any(|evidence| evidence.excess.is_some());
    if let (true, Some(miss)) = (has_bounds, bounds_miss(input)) {
        line(page, &miss);
    }
}

/// What a release is compared with if all of the traffic moves at once.
const COMPARED_WITH_PAST: &str = "It is compared with the error rates of the service before the \
    switch.";
/// What that comparison can promise.
const HEURISTIC: &str = "The comparison with the past is a heuristic, and no bound on false \
    rollbacks is claimed: what affects the whole service counts against the release.";
/// The condition of the bound if the status does not report that of this release.
const INDEPENDENT: &str = "This requires that requests fail independently of each other.";

/// The bounds with their conditions, as far as the status reports those of this release. Empty if
/// it was rolled back by a rule with another bound.
fn assumptions(report: &Report, kind: DiagnosisKind, threshold: f64) -> Vec<String> {
    let has_bound = match kind {
        DiagnosisKind::RolledBack { one_in } => (f64::from(one_in) - threshold).abs() < 0.5,
        DiagnosisKind::Held => false,
        _ => true,
    };
    let mut sentences: Vec<String> = Vec::new();
    for evidence in report.evidence.iter().filter(|_| has_bound) {
        let sentence = evidence
            .assumption
            .as_ref()
            .map(|text| text.as_str().to_owned());
        sentences.extend(sentence.filter(|sentence| !sentences.contains(sentence)));
    }
    sentences
}

/// How often the bounds are wrong: the lower one with probability alpha, the upper one with beta.
fn bounds_miss(input: &ExplainInput<'_>) -> Option<String> {
    let judge = input.numbers.as_ref().ok()?.first()?.judge;
    let in_hundred = thousands((100.0 * (judge.alpha + judge.beta) * 10.0).round() / 10.0);
    Some(format!(
        "The bounds of an objective miss the true difference in at most {in_hundred} of 100 releases."
    ))
}

/// Writes the statistics of one objective.
#[expect(
    clippy::too_many_lines,
    reason = "one line per figure, in the order of the page"
)]
fn write_numbers(
    page: &mut Page,
    numbers: &ObjectiveNumbers,
    report: &Report,
    display: &DisplayContext,
) {
    let ObjectiveNumbers {
        evidence: statistics,
        config,
        judge,
        phi,
        scrapes,
        last_scrape_ms,
        requests_per_second,
    } = numbers;
    page.heading(&format!("{}: statistics", statistics.name));
    let mut row = |label: &str, text: String| {
        page.wrapped(
            (
                &style::dimmed(&format!("  {label:<12}")),
                &" ".repeat(14),
                14,
            ),
            &text,
            style::plain,
        );
    };
    row(
        "E",
        format!(
            "E = {} (rolls back at {})",
            e_value(statistics.ln_e),
            thousands((1.0 / judge.alpha).round())
        ),
    );
    row(
        "M",
        format!(
            "M = {} (promotes at {})",
            e_value(statistics.ln_m_good),
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
            statistics
                .excess
                .map_or_else(|| "unknown".to_owned(), percent),
            bound(statistics.lower),
            judge.alpha,
            bound(statistics.upper),
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
    row("temper", temper_text(config, statistics.k, *phi));
    let status = report
        .evidence
        .iter()
        .find(|evidence| evidence.objective == statistics.name);
    let allotment = status.and_then(|status| status.budget_allotment);
    row(
        "budget",
        allotment.map_or_else(
            || "allotment unknown".to_owned(),
            |allotment| {
                let part = used_fraction(statistics.spent, allotment)
                    .map_or_else(|| "all of it".to_owned(), percent);
                format!(
                    "A = {} errors, X = {:.1} ({part})",
                    thousands(allotment.floor()),
                    statistics.spent
                )
            },
        ),
    );
    let last = jiff::Timestamp::from_millisecond(*last_scrape_ms)
        .map(|at| display.format_time(at))
        .unwrap_or_default();
    row(
        "data",
        format!(
            "{scrapes} scrapes, the last at {last}; {} requests/s",
            thousands((requests_per_second * 10.0).round() / 10.0)
        ),
    );
}

fn write_assumptions(page: &mut Page) {
    page.heading("Assumptions");
    let theorem = "theorem: if the canary fails at most rho0 times as often as stable plus delta0, and errors are independent given the \
        past, E ever reaches 1/alpha with probability at most alpha (Ville's inequality). The same holds for L and U at alpha \
        and beta. A release at the margin delta1 is promoted with probability at most beta.";
    let heuristic = "heuristic: if errors cluster, the logarithm of every bet is divided by k, which is estimated from stable's pods.";
    let weaker = "weaker: a rollback by a spent budget or a burning service requires only E >= 10, so the theorem bounds it by 1 time in 10.";
    let simulated = "simulation only: the detection time of a bad release, the duration of a good one, and compliance with the allotment \
        (docs/benchmarks.md).";
    for text in [theorem, weaker, heuristic, simulated] {
        page.wrapped(("  ", "  ", 2), text, style::plain);
    }
}

#[cfg(test)]
mod tests;

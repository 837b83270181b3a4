//! Comparison of a recorded release under Serin's rule and the fixed rules of other controllers.
//!
//! All rules see the same requests at the recorded weights. A record often ends before a rule has
//! decided, because the controller at the time decided earlier. The later outcome of such a rule is
//! a projection and reported separately: it assumes that the canary keeps its recorded error rate
//! and its last traffic share. Only canaries that Serin rolls back are projected; for others the
//! projection would be dominated by chance.

use jiff::Timestamp;
use serde::Serialize;
use serin_analysis::Counts;
use serin_core::observed::{AnalysisReport, ReportKind};
use serin_metrics_analysis::replay::{ObjectiveRecord, ReplayEnd, ReplayOutcome, ReplayedRelease};
use serin_simulation::FinalDecision;
use serin_simulation::competing_rules::{CompetingRule, RuleRunner};

/// Length of a projection, from the first request.
const PROJECTED_MS: i64 = 3_600_000;
/// Scrape interval of a projection.
const PROJECTED_STEP_MS: i64 = 5_000;
/// Time at the end of the record over which the last traffic share is measured.
const LAST_MS: i64 = 60_000;

/// Decision of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Ruling {
    /// Roll back.
    RollBack,
    /// Promote.
    Promote,
    /// Pause for a manual decision.
    AskPerson,
}

/// A decision within the record.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedDecision {
    /// The decision.
    pub ruling: Ruling,
    /// Time of the decision.
    pub at: Timestamp,
    /// Seconds since the canary's first request.
    pub after_seconds: f64,
}

/// A projected outcome after the end of the record.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Projection {
    /// The decision.
    pub ruling: Ruling,
    /// Seconds since the canary's first request.
    pub after_seconds: f64,
    /// Excess errors over stable, until the rollback or within the hour.
    pub errors: f64,
}

/// Outcome of one rule for one release.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleOutcome {
    /// The rule's name.
    pub rule: String,
    /// Its decision within the record. `None` if the record ends earlier.
    pub decided: Option<RecordedDecision>,
    /// Excess errors over stable, until the rollback or the end of the record.
    pub errors: f64,
    /// The projected outcome within an hour, if the record is shorter and the rule has not rolled
    /// back.
    pub projected: Option<Projection>,
}

/// Recorded requests and errors of one objective.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectiveCounts {
    /// The objective's name.
    pub objective: String,
    /// The canary's requests.
    pub canary_requests: f64,
    /// Its errors.
    pub canary_errors: f64,
    /// Stable's requests.
    pub stable_requests: f64,
    /// Its errors.
    pub stable_errors: f64,
}

/// A period without data.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DataGap {
    /// The objective's name.
    pub objective: String,
    /// Start.
    pub from: Timestamp,
    /// End.
    pub to: Timestamp,
}

/// Outcomes of all rules for one release.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseComparison {
    /// Name of the release, if given.
    pub name: Option<String>,
    /// Its namespace.
    pub namespace: String,
    /// Time of the scrape with the canary's first request.
    pub began_at: Timestamp,
    /// End of the record.
    pub ended_at: Timestamp,
    /// Why it ends there: `record`, `canaryStopped` or `stableStopped`.
    pub ending: &'static str,
    /// Counts until the end, for each objective.
    pub counted: Vec<ObjectiveCounts>,
    /// Outcomes of the rules, Serin first.
    pub rules: Vec<RuleOutcome>,
    /// Serin's message with its decision, if it decides.
    pub why: Option<String>,
    /// Periods without data.
    pub gaps: Vec<DataGap>,
}

impl ReleaseComparison {
    /// Compares the rules. `objectives` are the targets of the objectives in percent, in their
    /// order.
    ///
    /// With several objectives, each fixed rule checks every one: the first failure rolls back, and
    /// all must pass.
    pub fn new(
        name: Option<String>,
        namespace: String,
        release: &ReplayedRelease,
        objectives: &[f64],
    ) -> Self {
        let budget_fraction = 1.0 - objectives.first().copied().unwrap_or(99.9) / 100.0;
        let mut rules = vec![serin_outcome(release)];
        for (pick, rival) in CompetingRule::shipped(budget_fraction)
            .into_iter()
            .enumerate()
        {
            // A threshold derived from the objective may equal a fixed one.
            if rules.iter().all(|known| known.rule != rival.name()) {
                rules.push(fixed_rule_outcome(release, objectives, pick, rival.name()));
            }
        }
        let gaps = release
            .gaps
            .iter()
            .map(|(objective, from_ms, to_ms)| DataGap {
                objective: objective.clone(),
                from: timestamp(*from_ms),
                to: timestamp(*to_ms),
            });
        Self {
            name,
            namespace,
            began_at: timestamp(release.began_ms),
            ended_at: timestamp(release.ended_ms),
            ending: match release.ending {
                ReplayEnd::Record => "record",
                ReplayEnd::CanaryStopped => "canaryStopped",
                ReplayEnd::StableStopped => "stableStopped",
            },
            counted: release.objectives.iter().map(objective_counts).collect(),
            rules,
            why: release
                .decision
                .as_ref()
                .map(|(_, change)| report_text(&change.report)),
            gaps: gaps.collect(),
        }
    }

    /// Whether any rule was projected beyond the end of the record.
    pub fn is_projected(&self) -> bool {
        self.rules.iter().any(|rule| rule.projected.is_some())
    }
}

/// The message of an analysis report.
pub(super) fn report_text(report: &AnalysisReport) -> String {
    let message = &report.message;
    match (report.kind(), report.hold_code()) {
        (ReportKind::Hold, Some(code)) => format!("Held ({code}): {message}"),
        (ReportKind::Freeze, Some(code)) => format!("Frozen ({code}): {message}"),
        _ => message.to_string(),
    }
}

fn timestamp(at_ms: i64) -> Timestamp {
    Timestamp::from_millisecond(at_ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a span of milliseconds is far below 2^53"
)]
fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1_000.0
}

/// Counts of an objective in the rounds that end after this time.
fn counts_after(course: &ObjectiveRecord, after_ms: i64) -> Counts {
    let mut counts = Counts::default();
    course
        .rounds
        .iter()
        .filter(|round| round.at_ms > after_ms)
        .for_each(|round| counts.add(&round.counts));
    counts
}

fn objective_counts(course: &ObjectiveRecord) -> ObjectiveCounts {
    let Counts {
        canary_requests,
        canary_errors,
        stable_requests,
        stable_errors,
    } = counts_after(course, i64::MIN);
    ObjectiveCounts {
        objective: course.name.clone(),
        canary_requests,
        canary_errors,
        stable_requests,
        stable_errors,
    }
}

fn errors_of(course: &ObjectiveRecord, by_ms: i64) -> f64 {
    let known = course
        .rounds
        .iter()
        .take_while(|round| round.at_ms <= by_ms)
        .last();
    known
        .and_then(|round| round.evidence.budget_spent)
        .unwrap_or(0.0)
}

/// Excess errors until then, of the objective with the most.
pub(super) fn errors_by(release: &ReplayedRelease, by_ms: i64) -> f64 {
    release
        .objectives
        .iter()
        .map(|course| errors_of(course, by_ms))
        .fold(0.0, f64::max)
}

fn recorded_decision(release: &ReplayedRelease, ruling: Ruling, at_ms: i64) -> RecordedDecision {
    RecordedDecision {
        ruling,
        at: timestamp(at_ms),
        after_seconds: seconds(at_ms.saturating_sub(release.began_ms)),
    }
}

fn serin_outcome(release: &ReplayedRelease) -> RuleOutcome {
    let own = release.decision.as_ref().map(|(outcome, change)| {
        let ruling = match outcome {
            ReplayOutcome::RolledBack => Ruling::RollBack,
            ReplayOutcome::Sufficient => Ruling::Promote,
            ReplayOutcome::Inconclusive => Ruling::AskPerson,
        };
        recorded_decision(release, ruling, change.at_ms)
    });
    recorded_outcome("Serin".to_owned(), release, own)
}

/// A canary that is not rolled back causes errors until the end of the record.
fn recorded_outcome(
    rule: String,
    release: &ReplayedRelease,
    decided: Option<RecordedDecision>,
) -> RuleOutcome {
    let rolled_back = decided.filter(|decided| decided.ruling == Ruling::RollBack);
    let until_ms = rolled_back.map_or(release.ended_ms, |decided| decided.at.as_millisecond());
    RuleOutcome {
        rule,
        decided,
        errors: errors_by(release, until_ms),
        projected: None,
    }
}

/// Requests and errors per second of an objective, at the last traffic share and the recorded error
/// rates.
fn last_rates(course: &ObjectiveRecord, ended_ms: i64) -> Option<Counts> {
    let all = counts_after(course, i64::MIN);
    let (from_ms, last) = [LAST_MS, i64::MAX]
        .map(|span_ms| ended_ms.saturating_sub(span_ms))
        .map(|from_ms| (from_ms, counts_after(course, from_ms)))
        .into_iter()
        .find(|(_, counts)| counts.canary_requests > 0.0 && counts.stable_requests > 0.0)?;
    let (first, end) = (
        course.rounds.iter().find(|round| round.at_ms > from_ms)?,
        course.rounds.last()?,
    );
    let lasted = seconds(end.at_ms.saturating_sub(first.started_ms));
    let (canary, stable) = (last.canary_requests / lasted, last.stable_requests / lasted);
    let canary_rate = all.canary_errors / all.canary_requests;
    let stable_rate = all.stable_rate()?;
    (lasted > 0.0).then(|| Counts::new(canary, canary * canary_rate, stable, stable * stable_rate))
}

fn scaled(counts: &Counts, factor: f64) -> Counts {
    Counts::new(
        counts.canary_requests * factor,
        counts.canary_errors * factor,
        counts.stable_requests * factor,
        counts.stable_errors * factor,
    )
}

/// The decision of a fixed rule on one objective, recorded or projected.
fn fixed_rule_decision(
    release: &ReplayedRelease,
    course: &ObjectiveRecord,
    rival: CompetingRule,
) -> Option<(FinalDecision, i64)> {
    let mut checks = RuleRunner::new(rival, release.began_ms);
    let recorded = course.rounds.iter().find_map(|round| {
        checks
            .add(round.at_ms, &round.counts)
            .map(|decision| (decision, round.at_ms))
    });
    if recorded.is_some() {
        return recorded;
    }
    let a_second = last_rates(course, release.ended_ms).filter(|_| is_projected(release))?;
    let step = scaled(&a_second, seconds(PROJECTED_STEP_MS));
    let mut at_ms = release.ended_ms;
    while at_ms < release.began_ms.saturating_add(PROJECTED_MS) {
        at_ms = at_ms.saturating_add(PROJECTED_STEP_MS);
        if let Some(decision) = checks.add(at_ms, &step) {
            return Some((decision, at_ms));
        }
    }
    None
}

fn fixed_rule_outcome(
    release: &ReplayedRelease,
    objectives: &[f64],
    pick: usize,
    rule: String,
) -> RuleOutcome {
    let each = release
        .objectives
        .iter()
        .zip(objectives)
        .map(|(course, objective)| {
            let rival = CompetingRule::shipped(1.0 - objective / 100.0)[pick];
            fixed_rule_decision(release, course, rival)
        });
    let each: Vec<Option<(FinalDecision, i64)>> = each.collect();
    let rolled_back = each
        .iter()
        .flatten()
        .filter(|(decision, _)| *decision == FinalDecision::RolledBack);
    let first_failure = rolled_back.min_by_key(|(_, at_ms)| *at_ms).copied();
    let all_passed: Option<Vec<_>> = each.iter().copied().collect();
    let outcome = first_failure.or_else(|| all_passed?.into_iter().max_by_key(|(_, at_ms)| *at_ms));
    let ruling = |decision| match decision {
        FinalDecision::RolledBack | FinalDecision::RolledBackByBudget => Ruling::RollBack,
        FinalDecision::Promoted => Ruling::Promote,
        FinalDecision::Undecided => Ruling::AskPerson,
    };
    let recorded = outcome
        .filter(|(_, at_ms)| *at_ms <= release.ended_ms)
        .map(|(decision, at_ms)| recorded_decision(release, ruling(decision), at_ms));
    let projected = outcome
        .filter(|_| is_projected(release))
        .and_then(|(decision, at_ms)| {
            let ruling = ruling(decision);
            let is_over = ruling == Ruling::RollBack && at_ms <= release.ended_ms;
            let until_ms = if ruling == Ruling::RollBack {
                at_ms
            } else {
                release.began_ms.saturating_add(PROJECTED_MS)
            };
            (!is_over).then(|| Projection {
                ruling,
                after_seconds: seconds(at_ms.saturating_sub(release.began_ms)),
                errors: projected_errors(release, until_ms),
            })
        });
    RuleOutcome {
        projected,
        ..recorded_outcome(rule, release, recorded)
    }
}

/// Whether the canary is known to be worse and its record is shorter than a projection.
fn is_projected(release: &ReplayedRelease) -> bool {
    let is_worse = matches!(release.decision, Some((ReplayOutcome::RolledBack, _)));
    is_worse && release.ended_ms < release.began_ms.saturating_add(PROJECTED_MS)
}

/// Projected excess errors at a time after the end of the record, of the objective with the most.
fn projected_errors(release: &ReplayedRelease, by_ms: i64) -> f64 {
    let beyond = seconds(by_ms.saturating_sub(release.ended_ms));
    let errors = |course: &ObjectiveRecord| {
        let a_second = last_rates(course, release.ended_ms).and_then(|counts| {
            Some(counts.canary_errors - counts.canary_requests * counts.stable_rate()?)
        });
        errors_of(course, release.ended_ms) + beyond * a_second.unwrap_or(0.0)
    };
    release.objectives.iter().map(errors).fold(0.0, f64::max)
}

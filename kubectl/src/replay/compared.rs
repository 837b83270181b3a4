//! One release on record as each rule would have had it: Serin's, and the fixed ones that other
//! controllers ship.
//!
//! All of them see the same requests at the weights that the canary had. A record often ends before
//! a rule has decided, because whoever was in charge then had decided earlier. What that rule would
//! have come to is told apart from what is on record: it is projected, as if the canary had gone on
//! failing as often as on record, with the last share of the traffic. That is done only for a
//! canary that Serin rolls back: what is not known to be worse would be projected by its chance.

use jiff::Timestamp;
use serde::Serialize;
use serin_analysis::Counts;
use serin_core::observed::AnalysisReport;
use serin_metrics_analysis::replay::{Course, Ending, Outcome, Replayed};
use serin_simulation::Decision;
use serin_simulation::rivals::{Checks, Rival};

/// How far a release is projected, from its first request on.
const PROJECTED_MS: i64 = 3_600_000;
/// The scrapes of a projection.
const PROJECTED_STEP_MS: i64 = 5_000;
/// Over how much of the end of a record the canary's last share is measured.
const LAST_MS: i64 = 60_000;

/// What a rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Ruling {
    /// Rolled back.
    RollBack,
    /// Promoted.
    Promote,
    /// Left to a person.
    AskPerson,
}

/// A decision of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decided {
    /// What.
    pub ruling: Ruling,
    /// When.
    pub at: Timestamp,
    /// Seconds since the canary's first request.
    pub after_seconds: f64,
}

/// What is not on record.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Projected {
    /// The decision.
    pub ruling: Ruling,
    /// Seconds since the canary's first request.
    pub after_seconds: f64,
    /// Errors beyond stable's: until it rolls back, else within the hour.
    pub errors: f64,
}

/// One rule and one release.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ruled {
    /// The rule's name.
    pub rule: String,
    /// Its decision on record; nothing: the record ends before.
    pub decided: Option<Decided>,
    /// Errors beyond those that stable would have made of the canary's requests: until it rolls
    /// back, else until the end of the record.
    pub errors: f64,
    /// What it would have come to within an hour, where the record is shorter and it has not rolled
    /// back by its end.
    pub projected: Option<Projected>,
}

/// Requests and errors of one objective on record.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counted {
    /// The objective's name.
    pub objective: String,
    /// The canary's requests.
    pub canary_requests: f64,
    /// Its errors among them.
    pub canary_errors: f64,
    /// Stable's requests.
    pub stable_requests: f64,
    /// Its errors among them.
    pub stable_errors: f64,
}

/// A stretch of time without data.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    /// The objective's name.
    pub objective: String,
    /// From when.
    pub from: Timestamp,
    /// Until when.
    pub to: Timestamp,
}

/// One release as every rule would have had it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Compared {
    /// What it is called, where it was given a name.
    pub name: Option<String>,
    /// Its namespace.
    pub namespace: String,
    /// When the canary's first request was scraped.
    pub began_at: Timestamp,
    /// When its record ends.
    pub ended_at: Timestamp,
    /// Why it ends there: record, canaryStopped or stableStopped.
    pub ending: &'static str,
    /// What was counted until then, for each objective.
    pub counted: Vec<Counted>,
    /// The rules, Serin's first.
    pub rules: Vec<Ruled>,
    /// What Serin says with its decision, where it decides.
    pub why: Option<String>,
    /// What is missing on record.
    pub gaps: Vec<Gap>,
}

impl Compared {
    /// Compares the rules; `objectives` are the percentages of the release's objectives, in their
    /// order.
    ///
    /// With several objectives each fixed rule checks every one by itself: the first that fails
    /// rolls back, and all must pass.
    pub fn of(
        name: Option<String>,
        namespace: String,
        release: &Replayed,
        objectives: &[f64],
    ) -> Self {
        let budget_fraction = 1.0 - objectives.first().copied().unwrap_or(99.9) / 100.0;
        let mut rules = vec![serin(release)];
        for (pick, rival) in Rival::shipped(budget_fraction).into_iter().enumerate() {
            // A threshold at the objective can be one that is there already.
            if rules.iter().all(|known| known.rule != rival.name()) {
                rules.push(fixed(release, objectives, pick, rival.name()));
            }
        }
        let gaps = release.gaps.iter().map(|(objective, from_ms, to_ms)| Gap {
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
                Ending::Record => "record",
                Ending::CanaryStopped => "canaryStopped",
                Ending::StableStopped => "stableStopped",
            },
            counted: release.objectives.iter().map(counted).collect(),
            rules,
            why: release
                .decision
                .as_ref()
                .map(|(_, moment)| said(&moment.judgement)),
            gaps: gaps.collect(),
        }
    }

    /// Whether a rule was projected beyond the end of the record.
    pub fn is_projected(&self) -> bool {
        self.rules.iter().any(|rule| rule.projected.is_some())
    }
}

/// What an operator reads of a judgement.
pub(super) fn said(judgement: &AnalysisReport) -> String {
    match judgement {
        AnalysisReport::NotConfigured => "Not judged.".to_owned(),
        AnalysisReport::Hold { cause, message, .. } => format!("Held ({cause}): {message}"),
        AnalysisReport::Frozen { cause, message } => format!("Frozen ({cause}): {message}"),
        AnalysisReport::Undecided { message, .. }
        | AnalysisReport::Sound { message, .. }
        | AnalysisReport::RollBack { message, .. } => message.clone(),
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

/// What was counted of an objective in the rounds that end after this moment.
fn counts_after(course: &Course, after_ms: i64) -> Counts {
    let mut counts = Counts::default();
    course
        .rounds
        .iter()
        .filter(|round| round.at_ms > after_ms)
        .for_each(|round| counts.add(&round.counts));
    counts
}

fn counted(course: &Course) -> Counted {
    let Counts {
        canary_requests,
        canary_errors,
        stable_requests,
        stable_errors,
    } = counts_after(course, i64::MIN);
    Counted {
        objective: course.name.clone(),
        canary_requests,
        canary_errors,
        stable_requests,
        stable_errors,
    }
}

fn errors_of(course: &Course, by_ms: i64) -> f64 {
    let known = course
        .rounds
        .iter()
        .take_while(|round| round.at_ms <= by_ms)
        .last();
    known
        .and_then(|round| round.evidence.budget_spent)
        .unwrap_or(0.0)
}

/// The errors beyond stable's until then, of the objective that has the most.
pub(super) fn errors_by(release: &Replayed, by_ms: i64) -> f64 {
    release
        .objectives
        .iter()
        .map(|course| errors_of(course, by_ms))
        .fold(0.0, f64::max)
}

fn decided(release: &Replayed, ruling: Ruling, at_ms: i64) -> Decided {
    Decided {
        ruling,
        at: timestamp(at_ms),
        after_seconds: seconds(at_ms.saturating_sub(release.began_ms)),
    }
}

fn serin(release: &Replayed) -> Ruled {
    let own = release.decision.as_ref().map(|(outcome, moment)| {
        let ruling = match outcome {
            Outcome::RolledBack => Ruling::RollBack,
            Outcome::Proven => Ruling::Promote,
            Outcome::Inconclusive => Ruling::AskPerson,
        };
        decided(release, ruling, moment.at_ms)
    });
    on_record("Serin".to_owned(), release, own)
}

/// A canary that is not rolled back goes on to cost what it costs.
fn on_record(rule: String, release: &Replayed, decided: Option<Decided>) -> Ruled {
    let rolled_back = decided.filter(|decided| decided.ruling == Ruling::RollBack);
    let until_ms = rolled_back.map_or(release.ended_ms, |decided| decided.at.as_millisecond());
    Ruled {
        rule,
        decided,
        errors: errors_by(release, until_ms),
        projected: None,
    }
}

/// How an objective would have gone on: requests and errors of a second, at the last share and the
/// error rates on record.
fn going_on(course: &Course, ended_ms: i64) -> Option<Counts> {
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

fn times(counts: &Counts, factor: f64) -> Counts {
    Counts::new(
        counts.canary_requests * factor,
        counts.canary_errors * factor,
        counts.stable_requests * factor,
        counts.stable_errors * factor,
    )
}

/// The decision of a fixed rule on one objective, on record or projected.
fn decision(release: &Replayed, course: &Course, rival: Rival) -> Option<(Decision, i64)> {
    let mut checks = Checks::new(rival, release.began_ms);
    let recorded = course.rounds.iter().find_map(|round| {
        checks
            .add(round.at_ms, &round.counts)
            .map(|decision| (decision, round.at_ms))
    });
    if recorded.is_some() {
        return recorded;
    }
    let a_second = going_on(course, release.ended_ms).filter(|_| is_projected(release))?;
    let step = times(&a_second, seconds(PROJECTED_STEP_MS));
    let mut at_ms = release.ended_ms;
    while at_ms < release.began_ms.saturating_add(PROJECTED_MS) {
        at_ms = at_ms.saturating_add(PROJECTED_STEP_MS);
        if let Some(decision) = checks.add(at_ms, &step) {
            return Some((decision, at_ms));
        }
    }
    None
}

fn fixed(release: &Replayed, objectives: &[f64], pick: usize, rule: String) -> Ruled {
    let each = release
        .objectives
        .iter()
        .zip(objectives)
        .map(|(course, objective)| {
            let rival = Rival::shipped(1.0 - objective / 100.0)[pick];
            decision(release, course, rival)
        });
    let each: Vec<Option<(Decision, i64)>> = each.collect();
    let rolled_back = each
        .iter()
        .flatten()
        .filter(|(decision, _)| *decision == Decision::RolledBack);
    let first_failure = rolled_back.min_by_key(|(_, at_ms)| *at_ms).copied();
    let all_passed: Option<Vec<_>> = each.iter().copied().collect();
    let came_to = first_failure.or_else(|| all_passed?.into_iter().max_by_key(|(_, at_ms)| *at_ms));
    let ruling = |decision| match decision {
        Decision::RolledBack | Decision::RolledBackByBudget => Ruling::RollBack,
        Decision::Promoted => Ruling::Promote,
        Decision::Undecided => Ruling::AskPerson,
    };
    let recorded = came_to
        .filter(|(_, at_ms)| *at_ms <= release.ended_ms)
        .map(|(decision, at_ms)| decided(release, ruling(decision), at_ms));
    let projected = came_to
        .filter(|_| is_projected(release))
        .and_then(|(decision, at_ms)| {
            let ruling = ruling(decision);
            let is_over = ruling == Ruling::RollBack && at_ms <= release.ended_ms;
            let until_ms = if ruling == Ruling::RollBack {
                at_ms
            } else {
                release.began_ms.saturating_add(PROJECTED_MS)
            };
            (!is_over).then(|| Projected {
                ruling,
                after_seconds: seconds(at_ms.saturating_sub(release.began_ms)),
                errors: errors_projected(release, until_ms),
            })
        });
    Ruled {
        projected,
        ..on_record(rule, release, recorded)
    }
}

/// Whether it is known that this canary is worse, and its record is shorter than a projection.
fn is_projected(release: &Replayed) -> bool {
    let is_worse = matches!(release.decision, Some((Outcome::RolledBack, _)));
    is_worse && release.ended_ms < release.began_ms.saturating_add(PROJECTED_MS)
}

/// The errors beyond stable's by a moment after the end of the record, of the objective that has
/// the most.
fn errors_projected(release: &Replayed, by_ms: i64) -> f64 {
    let beyond = seconds(by_ms.saturating_sub(release.ended_ms));
    let of = |course: &Course| {
        let a_second = going_on(course, release.ended_ms).and_then(|counts| {
            Some(counts.canary_errors - counts.canary_requests * counts.stable_rate()?)
        });
        errors_of(course, release.ended_ms) + beyond * a_second.unwrap_or(0.0)
    };
    release.objectives.iter().map(of).fold(0.0, f64::max)
}

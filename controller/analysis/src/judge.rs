//! The decision: what the evidence of all objectives says to do. First match wins.

use serde::{Deserialize, Serialize};

use crate::counts::Counts;
use crate::evidence::{Bets, Evidence};
use crate::explain;
use crate::feasibility::expected_requests;
use crate::guard::Burning;
use crate::numeric::log_sum_exp;
use crate::objective::{Objective, ObjectiveState};
use crate::step_size::{LEAST_GROWTH, StepConfig};

/// The thresholds of the decision.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JudgeConfig {
    /// The most that the chance of rolling back a good release by evidence may be.
    pub alpha: f64,
    /// The most that the chance of promoting at an excess of the margin may be.
    pub beta: f64,
    /// Promotion and steps need `E` below this.
    pub calm_below: f64,
    /// A spent allotment rolls back from this `E` on. Theory bounds a good release's chance of it by its inverse only.
    pub breach_from: f64,
    /// How weights grow.
    pub steps: StepConfig,
    /// The least time at a weight.
    pub soak_seconds: f64,
    /// The least number of scrapes at a weight.
    pub soak_scrapes: f64,
    /// Without data for this long the weight goes down.
    pub step_down_after_seconds: f64,
    /// The longest that a rollout may take before a person is asked.
    pub longest_seconds: f64,
}

impl Default for JudgeConfig {
    fn default() -> Self {
        Self {
            alpha: 0.01,
            beta: 0.05,
            calm_below: 5.0,
            breach_from: 10.0,
            steps: StepConfig::default(),
            soak_seconds: 60.0,
            soak_scrapes: 4.0,
            step_down_after_seconds: 300.0,
            longest_seconds: 3600.0,
        }
    }
}

/// Whether the objective's metrics could be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Availability {
    /// Yes.
    #[default]
    Ok,
    /// The provider answered with warnings: some of the data is missing.
    Partial {
        /// Since when, in milliseconds since the epoch.
        since_ms: i64,
    },
    /// The provider did not answer.
    Unreachable {
        /// Since when, in milliseconds since the epoch.
        since_ms: i64,
    },
}

/// One objective before the judge.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The objective.
    pub objective: &'a Objective,
    /// What is known of it.
    pub state: &'a ObjectiveState,
    /// What this rollout may spend of its budget, in errors; nothing where the budget is not known.
    pub allotment: Option<f64>,
    /// Whether its metrics could be read.
    pub availability: Availability,
}

/// Where the rollout stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Context {
    /// The clock, in milliseconds since the epoch.
    pub now_ms: i64,
    /// The canary's weight in effect, from 0 to 1.
    pub weight: f64,
    /// When it last changed.
    pub weight_changed_at_ms: i64,
    /// How long the rollout has been judged, without the time that it was paused by a person.
    pub elapsed_seconds: f64,
    /// The most requests per second that the service may soon have.
    pub requests_per_second: f64,
    /// The service guard, where it burns.
    pub guard: Option<Burning>,
    /// Whether a person has lifted the freeze.
    pub freeze_lifted: bool,
}

/// Why a rollout holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HoldReason {
    /// The provider of the metrics does not answer.
    Unreachable,
    /// It answers with some of the data missing.
    PartialData,
    /// A sample was not a number, negative or infinite.
    NotANumber,
    /// An arm has no series.
    NoData,
    /// An arm's samples are old.
    Stale,
    /// The canary gets no requests.
    NoTraffic,
    /// The error selector has never matched anything: no errors may be a mistyped selector.
    UnverifiedSelector,
    /// The worst case at this weight no longer fits what is left of the allotment.
    BudgetLeft,
}

/// Why a rollout is rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RollBackCause {
    /// `E >= 1/alpha`.
    Evidence,
    /// The allotment is spent, and `E >= 10`.
    Budget,
    /// The service burns, and `E >= 10`.
    ServiceGuard,
}

/// Why a rollout is frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FreezeReason {
    /// The service burns its budget, all versions together.
    ServiceGuard,
    /// No budget is left for a rollout.
    BudgetSpent,
}

/// A way forward.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Forward {
    /// Make the canary stable.
    Promote,
    /// Raise the weight.
    Step {
        /// The next weight, from 0 to 1.
        next: f64,
    },
    /// Wait for more evidence.
    Continue,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Take the traffic off the canary.
    RollBack(RollBackCause),
    /// Stay at this weight; never success.
    Hold(HoldReason),
    /// Lower the weight: there has been no data for too long.
    StepDown {
        /// The next weight, from 0 to 1.
        next: f64,
        /// What is missing.
        reason: HoldReason,
    },
    /// Stay until the service is well or a person lifts it.
    Freeze(FreezeReason),
    /// Go on in spite of a freeze: stable is demonstrably worse, this release is the cure.
    GoOnCure(Forward),
    /// Go on.
    Forward(Forward),
    /// Ask a person: the longest duration is over.
    Inconclusive,
}

/// The evidence on one objective, as told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectiveEvidence {
    /// The objective's name.
    pub name: String,
    /// What was counted over the rollout.
    pub counts: Counts,
    /// `p_c - p_s`, estimated; nothing before both arms had requests.
    pub excess: Option<f64>,
    /// `L`, the always-valid lower bound of the excess.
    pub lower: f64,
    /// `U`, the upper one.
    pub upper: f64,
    /// `delta1`, the margin that `U` must come below.
    pub margin: f64,
    /// `b`, the fraction that may fail.
    pub budget_fraction: f64,
    /// `ln E`.
    pub ln_e: f64,
    /// `ln E` with the arms exchanged.
    pub ln_e_cure: f64,
    /// `ln M_good(delta1)`; promotion needs `ln(1/beta)`.
    pub ln_m_good: f64,
    /// The temper `k`; 1 where errors do not cluster.
    pub k: f64,
    /// What the rollout may spend, in errors, where it is known.
    pub allotment: Option<f64>,
    /// What it has spent, in errors: `max(X, 0)`.
    pub spent: f64,
    /// About how many more requests promotion needs, of both arms, if the canary fails like stable.
    pub needed_requests: Option<f64>,
    /// Why it holds, and since when.
    pub hold: Option<(HoldReason, i64)>,
    /// Whether both arms have fresh samples.
    pub fresh: bool,
    /// The canary's share of the requests, where it differs from the weight that was set.
    pub traffic_mismatch: Option<f64>,
}

/// The verdict and all that it stands on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    /// What to do.
    pub verdict: Verdict,
    /// Why, in sentences for an operator.
    pub because: Vec<String>,
    /// `ln` of the weighted mean of the objectives' `E`: rolls back at `ln(1/alpha)`.
    pub ln_e: f64,
    /// Whether every objective's evidence allows promotion, whatever the weight.
    pub proven: bool,
    /// The largest next weight that the budget allows, from 0 to 1.
    pub next_weight: f64,
    /// The evidence on each objective.
    pub objectives: Vec<ObjectiveEvidence>,
}

/// `ln` of the weighted mean of e-values. A mean of e-values is an e-value, whatever their dependence.
pub fn ln_mean(ln_e_values: &[(f64, f64)]) -> f64 {
    let total: f64 = ln_e_values.iter().map(|(_, weight)| weight).sum();
    log_sum_exp(ln_e_values.iter().map(|(ln_e, weight)| ln_e + (weight / total).ln()))
}

/// Judges a rollout by all of its objectives. Without an objective nothing is ever proven.
pub fn judge(config: &JudgeConfig, views: &[View<'_>], context: &Context) -> Judgement {
    let objectives: Vec<_> = views.iter().map(|view| evidence(config, view, context)).collect();
    let shares: Vec<_> = views.iter().map(|view| view.objective.config().weight).collect();
    let standing = Standing::new(config, context, &objectives, &shares, slowest_scrape_ms(views));
    let verdict = standing.verdict();
    let next_weight = if matches!(verdict, Verdict::Freeze(_)) { context.weight } else { standing.next_weight() };
    let Standing { ln_e, proven, .. } = standing;
    let mut judgement = Judgement { verdict, because: Vec::new(), ln_e, proven, next_weight, objectives };
    judgement.because = explain::because(&judgement, config, context);
    judgement
}

fn slowest_scrape_ms(views: &[View<'_>]) -> i64 {
    views.iter().map(|view| view.objective.config().counters.scrape_interval_ms).max().unwrap_or(0)
}

fn evidence(config: &JudgeConfig, view: &View<'_>, context: &Context) -> ObjectiveEvidence {
    let View { objective, state, allotment, .. } = *view;
    let name = &objective.config().name;
    let told = ObjectiveEvidence::of(name, objective.bets(), &state.evidence, config, context.weight);
    let (hold, fresh) = freshness(view, context);
    let traffic_mismatch = traffic_mismatch(&state.evidence.at_weight, context.weight);
    ObjectiveEvidence { allotment, hold, fresh, traffic_mismatch, ..told }
}

impl ObjectiveEvidence {
    /// What the counts alone tell: not whether they are fresh, nor what may be spent. The canary's `weight` is for the requests needed.
    pub fn of(name: &str, bets: &Bets, evidence: &Evidence, config: &JudgeConfig, weight: f64) -> Self {
        let settings = bets.config();
        let ln_m_good = evidence.ln_m_good(bets, settings.delta1);
        let k = evidence.k(settings);
        let missing = (-config.beta.ln() - ln_m_good).max(0.0);
        let share = if weight > 0.0 && weight < 1.0 { weight } else { config.steps.max_weight };
        // ln(1/beta)/I is for ln(1/beta); of what is missing, 1/I for each unit of it.
        let for_one = expected_requests(evidence.usual_rate(settings), share, settings.delta1, (-1.0_f64).exp());
        let needed = for_one * missing * k;
        Self {
            name: name.to_owned(),
            counts: evidence.totals,
            excess: evidence.excess(settings),
            lower: evidence.lower(bets, config.alpha),
            upper: evidence.upper(bets, config.beta),
            margin: settings.delta1,
            budget_fraction: settings.budget_fraction,
            ln_e: evidence.ln_e(bets),
            ln_e_cure: evidence.ln_e_cure(bets),
            ln_m_good,
            k,
            allotment: None,
            spent: evidence.excess_errors(settings).max(0.0),
            needed_requests: needed.is_finite().then_some(needed.ceil()),
            hold: None,
            fresh: false,
            traffic_mismatch: None,
        }
    }
}

/// Why an objective holds, and whether both arms are fresh.
fn freshness(view: &View<'_>, context: &Context) -> (Option<(HoldReason, i64)>, bool) {
    let state = view.state;
    let stale_after_ms = view.objective.config().stale_after_ms;
    let (now_ms, began_ms) = (context.now_ms, state.evidence.began_ms.max(context.weight_changed_at_ms));
    let is_old = |at_ms: i64| now_ms.saturating_sub(at_ms) > stale_after_ms;
    match view.availability {
        Availability::Unreachable { since_ms } => return (Some((HoldReason::Unreachable, since_ms)), false),
        Availability::Partial { since_ms } => return (Some((HoldReason::PartialData, since_ms)), false),
        Availability::Ok => {}
    }
    if let Some(at_ms) = state.not_a_number_at_ms.filter(|at_ms| !is_old(*at_ms)) {
        return (Some((HoldReason::NotANumber, at_ms)), false);
    }
    let mut fresh = true;
    // An arm that is meant to have no traffic need not be seen.
    let arms = [(context.weight > 0.0, state.canary_at_ms), (context.weight < 1.0, state.stable_at_ms)];
    for (_, at_ms) in arms.into_iter().filter(|(serves, _)| *serves) {
        match at_ms {
            None if is_old(began_ms) => return (Some((HoldReason::NoData, began_ms)), false),
            Some(at_ms) if is_old(at_ms) => return (Some((HoldReason::Stale, at_ms)), false),
            // Too early to say.
            None => fresh = false,
            Some(_) => {}
        }
    }
    if context.weight > 0.0 {
        let requests_ms = state.canary_requests_at_ms.map_or(began_ms, |at_ms| at_ms.max(began_ms));
        if is_old(requests_ms) {
            return (Some((HoldReason::NoTraffic, requests_ms)), false);
        }
        fresh &= state.canary_requests_at_ms.is_some();
    }
    if !state.selector_verified && fresh {
        return (Some((HoldReason::UnverifiedSelector, began_ms)), false);
    }
    (None, fresh)
}

/// Standard errors, and the part of the weight, that the observed share must be off by to be told.
const MISMATCH_STANDARD_ERRORS: f64 = 5.0;
const MISMATCH_OF_WEIGHT: f64 = 0.2;

/// The canary's share where it differs from the weight by more than chance and by a fifth of it. A report, never a verdict: the test
/// conditions on the counts that it sees.
fn traffic_mismatch(counts: &Counts, weight: f64) -> Option<f64> {
    let share = counts.canary_share()?;
    let error = (weight * (1.0 - weight) / counts.requests()).max(0.0).sqrt();
    let off = (share - weight).abs();
    (off > MISMATCH_STANDARD_ERRORS * error && off > MISMATCH_OF_WEIGHT * weight).then_some(share)
}

/// All that the decision table looks at.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    config: &'a JudgeConfig,
    context: &'a Context,
    objectives: &'a [ObjectiveEvidence],
    ln_e: f64,
    ln_e_cure: f64,
    proven: bool,
    scrape_ms: i64,
}

impl<'a> Standing<'a> {
    /// Where the objectives stand together. `shares` are their weights in the mean of e-values, `scrape_ms` the slowest scrape interval.
    pub fn new(
        config: &'a JudgeConfig,
        context: &'a Context,
        objectives: &'a [ObjectiveEvidence],
        shares: &[f64],
        scrape_ms: i64,
    ) -> Self {
        let mean = |ln_e: fn(&ObjectiveEvidence) -> f64| {
            let values: Vec<_> = objectives.iter().map(ln_e).zip(shares.iter().copied()).collect();
            if values.is_empty() { 0.0 } else { ln_mean(&values) }
        };
        let proven =
            !objectives.is_empty() && objectives.iter().all(|of| of.fresh && of.ln_m_good >= -config.beta.ln());
        let (ln_e, ln_e_cure) = (mean(|of| of.ln_e), mean(|of| of.ln_e_cure));
        Self { config, context, objectives, ln_e, ln_e_cure, proven, scrape_ms }
    }

    /// What the table says: first match wins.
    pub fn verdict(&self) -> Verdict {
        let Self { config, context, .. } = self;
        let ln_decides = -config.alpha.ln();
        let is_suspect = self.ln_e >= config.breach_from.ln();
        if self.ln_e >= ln_decides {
            return Verdict::RollBack(RollBackCause::Evidence);
        }
        let is_spent = self.objectives.iter().any(|of| of.allotment.is_some_and(|allotment| of.spent >= allotment));
        if is_spent && is_suspect {
            return Verdict::RollBack(RollBackCause::Budget);
        }
        if context.guard.is_some() && is_suspect {
            return Verdict::RollBack(RollBackCause::ServiceGuard);
        }
        if let Some((reason, since_ms)) = self.objectives.iter().find_map(|of| of.hold) {
            return self.without_data(reason, since_ms);
        }
        let freeze = if context.guard.is_some() {
            Some(FreezeReason::ServiceGuard)
        } else {
            let has_none = self.objectives.iter().any(|of| of.allotment.is_some_and(|allotment| allotment <= 0.0));
            has_none.then_some(FreezeReason::BudgetSpent)
        };
        match freeze {
            Some(_) if self.ln_e_cure >= ln_decides => Verdict::GoOnCure(self.forward()),
            Some(reason) if !context.freeze_lifted => Verdict::Freeze(reason),
            _ => match self.forward() {
                Forward::Continue if self.outgrown() => {
                    Verdict::StepDown { next: self.next_weight(), reason: HoldReason::BudgetLeft }
                }
                // Off the traffic with its allotment spent and nothing proven: only a person can go on from here.
                Forward::Continue if is_spent && context.weight <= 0.0 => Verdict::Inconclusive,
                Forward::Continue if context.elapsed_seconds >= config.longest_seconds => Verdict::Inconclusive,
                forward => Verdict::Forward(forward),
            },
        }
    }

    /// Holds, and goes down once it has lasted; each step down begins the wait again.
    fn without_data(&self, reason: HoldReason, since_ms: i64) -> Verdict {
        let waited_ms = self.context.now_ms.saturating_sub(since_ms.max(self.context.weight_changed_at_ms));
        let next = self.context.weight / self.config.steps.growth;
        // A selector that never matched is a question to a person: a lower weight does not answer it.
        let has_lasted =
            seconds(waited_ms) >= self.config.step_down_after_seconds && reason != HoldReason::UnverifiedSelector;
        if has_lasted && self.context.weight > 0.0 { Verdict::StepDown { next, reason } } else { Verdict::Hold(reason) }
    }

    /// Whether the worst case at this weight no longer fits the budget left. Steps are sized so that it does; as a release spends without
    /// being found out, its weight shrinks with what is left, and it cannot spend all of it.
    fn outgrown(&self) -> bool {
        self.context.weight > 0.0 && self.next_weight() * LEAST_GROWTH < self.context.weight
    }

    fn forward(&self) -> Forward {
        let Self { config, context, .. } = self;
        let soak_seconds = config.soak_seconds.max(config.soak_scrapes * seconds(self.scrape_ms));
        let soaked = seconds(context.now_ms.saturating_sub(context.weight_changed_at_ms)) >= soak_seconds;
        let is_fresh = !self.objectives.is_empty() && self.objectives.iter().all(|of| of.fresh);
        if !soaked || !is_fresh || self.ln_e >= config.calm_below.ln() {
            return Forward::Continue;
        }
        if context.weight >= config.steps.max_weight {
            return if self.proven { Forward::Promote } else { Forward::Continue };
        }
        // While nothing is known since the warm-up, the traffic does not grow on the strength of it.
        if self.objectives.iter().any(|of| of.upper >= 1.0) {
            return Forward::Continue;
        }
        let next = self.next_weight();
        // The last step may be a small one: else a weight just below the last would stay there.
        let is_worth_it = next > LEAST_GROWTH * context.weight || next >= config.steps.max_weight;
        if is_worth_it { Forward::Step { next } } else { Forward::Continue }
    }

    /// The largest next weight that every objective's budget allows. Where there is no budget at all, only a cure or a person's word leads
    /// further, and the growth alone is the limit.
    fn next_weight(&self) -> f64 {
        let Self { config, context, .. } = self;
        let steps = &config.steps;
        let rate = context.requests_per_second;
        let weights = self.objectives.iter().map(|of| {
            let left = of.allotment.filter(|allotment| *allotment > 0.0);
            if context.weight > 0.0 {
                let left = left.map(|allotment| steps.budget_left(allotment, of.spent));
                steps.next(context.weight, left, of.upper, of.margin, rate)
            } else {
                steps.first(left.map(|allotment| allotment - of.spent), rate)
            }
        });
        weights.fold(steps.max_weight, f64::min)
    }
}

fn seconds(milliseconds: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a span of milliseconds is far below 2^53")]
    let milliseconds = milliseconds as f64;
    milliseconds / 1000.0
}

#[cfg(test)]
mod tests;

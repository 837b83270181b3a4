//! The decision table: combines the evidence of all objectives into one verdict. The first matching
//! row wins.

use serde::{Deserialize, Serialize};

use crate::counts::Counts;
use crate::evidence::{Bets, Evidence};
use crate::explain;
use crate::feasibility::expected_requests;
use crate::latency::{GUARD_WEIGHT, LatencyGuardState};
use crate::numeric::log_sum_exp;
use crate::objective::{Objective, ObjectiveState};
use crate::step_size::MIN_GROWTH;

pub use crate::verdict::{
    AnalysisConfig, Evaluation, FreezeReason, HoldReason, NextAction, ObjectiveEvidence,
    RollBackCause, RolloutContext, Verdict,
};

/// Availability of an objective's metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Availability {
    /// The metrics were read completely.
    #[default]
    Ok,
    /// The metrics provider responded with warnings: some data is missing.
    Partial {
        /// Start of this condition, in milliseconds since the epoch.
        since_ms: i64,
    },
    /// The metrics provider did not respond.
    Unreachable {
        /// Start of this condition, in milliseconds since the epoch.
        since_ms: i64,
    },
}

/// The input of the decision table for one objective.
#[derive(Debug, Clone, Copy)]
pub struct ObjectiveInput<'a> {
    /// The objective.
    pub objective: &'a Objective,
    /// Its accumulated state.
    pub state: &'a ObjectiveState,
    /// Errors of the budget that this rollout may spend. `None` if the budget is unknown.
    pub allotment: Option<f64>,
    /// Availability of its metrics.
    pub availability: Availability,
    /// Its latency guard, if configured.
    pub guard: Option<LatencyGuardInput<'a>>,
}

/// The input of the decision table for one latency guard.
#[derive(Debug, Clone, Copy)]
pub struct LatencyGuardInput<'a> {
    /// Its accumulated state.
    pub state: &'a LatencyGuardState,
    /// Whether it contributes to rollbacks. It can always hold a rollout.
    pub rolls_back: bool,
}

/// `ln` of the weighted mean of e-values. A mean of e-values is an e-value, regardless of their
/// dependence.
pub fn ln_mean(ln_e_values: &[(f64, f64)]) -> f64 {
    let total: f64 = ln_e_values.iter().map(|(_, weight)| weight).sum();
    log_sum_exp(
        ln_e_values
            .iter()
            .map(|(ln_e, weight)| ln_e + (weight / total).ln()),
    )
}

/// Evaluates a rollout against all of its objectives. A rollout without objectives is never
/// promotable.
pub fn evaluate(
    config: &AnalysisConfig,
    inputs: &[ObjectiveInput<'_>],
    context: &RolloutContext,
) -> Evaluation {
    let objectives: Vec<_> = inputs
        .iter()
        .map(|input| objective_evidence(config, input, context))
        .collect();
    let shares: Vec<_> = inputs
        .iter()
        .map(|input| input.objective.config().weight)
        .collect();
    let table = DecisionTable::new(
        config,
        context,
        &objectives,
        &shares,
        max_scrape_interval_ms(inputs),
    );
    let verdict = table.verdict();
    let next_weight = if matches!(verdict, Verdict::Freeze(_)) {
        context.weight
    } else {
        table.next_weight()
    };
    let DecisionTable { ln_e, proven, .. } = table;
    let mut evaluation = Evaluation {
        verdict,
        reasons: Vec::new(),
        ln_e,
        is_promotable: proven,
        next_weight,
        objectives,
    };
    evaluation.reasons = explain::reasons(&evaluation, config, context);
    evaluation
}

fn max_scrape_interval_ms(inputs: &[ObjectiveInput<'_>]) -> i64 {
    inputs
        .iter()
        .map(|input| input.objective.config().counters.scrape_interval_ms)
        .max()
        .unwrap_or(0)
}

fn objective_evidence(
    config: &AnalysisConfig,
    input: &ObjectiveInput<'_>,
    context: &RolloutContext,
) -> ObjectiveEvidence {
    let ObjectiveInput {
        objective,
        state,
        allotment,
        ..
    } = *input;
    let name = &objective.config().name;
    let evidence = ObjectiveEvidence::from_evidence(
        name,
        objective.bets(),
        &state.evidence,
        config,
        context.weight,
    );
    let (hold, fresh) = hold_and_freshness(input, context);
    let traffic_mismatch = traffic_mismatch(&state.evidence.at_weight, context.weight);
    let guard = input
        .guard
        .map(|guard| guard.state.evidence(guard.rolls_back));
    ObjectiveEvidence {
        allotment,
        hold,
        fresh,
        traffic_mismatch,
        guard,
        ..evidence
    }
}

impl ObjectiveEvidence {
    /// Evidence from the counts alone, without freshness, allotment or guard. `weight` is the
    /// canary's weight; it determines `needed_requests`.
    pub fn from_evidence(
        name: &str,
        bets: &Bets,
        evidence: &Evidence,
        config: &AnalysisConfig,
        weight: f64,
    ) -> Self {
        let settings = bets.config();
        let ln_m_good = evidence.ln_m_good(bets, settings.delta1);
        let k = evidence.k(settings);
        let missing = (-config.beta.ln() - ln_m_good).max(0.0);
        let share = if weight > 0.0 && weight < 1.0 {
            weight
        } else {
            config.steps.max_weight
        };
        // The bound for a log e-value of ln(1/beta) is ln(1/beta)/I requests: 1/I requests per
        // missing nat.
        let per_nat = expected_requests(
            evidence.baseline_rate(settings),
            share,
            settings.delta1,
            (-1.0_f64).exp(),
        );
        let needed = per_nat * missing * k;
        Self {
            name: name.to_owned(),
            counts: evidence.totals,
            excess: evidence.excess(settings),
            lower: evidence.lower(bets, config.alpha),
            upper: evidence.upper(bets, config.beta),
            margin: settings.delta1,
            budget_fraction: settings.budget_fraction,
            ln_e: evidence.ln_e(bets),
            ln_e_reversed: evidence.ln_e_reversed(bets),
            ln_m_good,
            k,
            allotment: None,
            spent: evidence.excess_errors(settings).max(0.0),
            needed_requests: needed.is_finite().then_some(needed.ceil()),
            hold: None,
            fresh: false,
            traffic_mismatch: None,
            guard: None,
        }
    }
}

/// The reason to hold, if any, and whether both arms have fresh samples.
fn hold_and_freshness(
    input: &ObjectiveInput<'_>,
    context: &RolloutContext,
) -> (Option<(HoldReason, i64)>, bool) {
    let state = input.state;
    let stale_after_ms = input.objective.config().stale_after_ms;
    let (now_ms, began_ms) = (
        context.now_ms,
        state.evidence.began_ms.max(context.weight_changed_at_ms),
    );
    let is_old = |at_ms: i64| now_ms.saturating_sub(at_ms) > stale_after_ms;
    match input.availability {
        Availability::Unreachable { since_ms } => {
            return (Some((HoldReason::Unreachable, since_ms)), false);
        }
        Availability::Partial { since_ms } => {
            return (Some((HoldReason::PartialData, since_ms)), false);
        }
        Availability::Ok => {}
    }
    // An invalid sample from before the release is irrelevant.
    let is_current = |at_ms: &i64| !is_old(*at_ms) && *at_ms >= state.evidence.began_ms;
    if let Some(at_ms) = state.not_a_number_at_ms.filter(is_current) {
        return (Some((HoldReason::NotANumber, at_ms)), false);
    }
    let mut fresh = true;
    // An arm without a share of the traffic needs no samples.
    let arms = [
        (context.weight > 0.0, state.canary_at_ms),
        (context.weight < 1.0, state.stable_at_ms),
    ];
    for (_, at_ms) in arms.into_iter().filter(|(serves, _)| *serves) {
        match at_ms {
            None if is_old(began_ms) => return (Some((HoldReason::NoData, began_ms)), false),
            Some(at_ms) if is_old(at_ms) => return (Some((HoldReason::Stale, at_ms)), false),
            // No sample yet, but the objective is not stale yet either.
            None => fresh = false,
            Some(_) => {}
        }
    }
    if context.weight > 0.0 {
        let requests_ms = state
            .canary_requests_at_ms
            .map_or(began_ms, |at_ms| at_ms.max(began_ms));
        if is_old(requests_ms) {
            return (Some((HoldReason::NoTraffic, requests_ms)), false);
        }
        fresh &= state.canary_requests_at_ms.is_some();
    }
    if !state.selector_verified && fresh {
        return (Some((HoldReason::UnverifiedSelector, began_ms)), false);
    }
    // A guard without data gives no protection. It can compare only if both arms have traffic.
    if let Some(guard) = input
        .guard
        .filter(|_| context.weight > 0.0 && context.weight < 1.0)
    {
        let compared_ms = guard
            .state
            .compared_at_ms
            .map_or(began_ms, |at_ms| at_ms.max(began_ms));
        if is_old(compared_ms) {
            return (Some((HoldReason::NothingToCompare, compared_ms)), false);
        }
    }
    (None, fresh)
}

/// Minimum deviation of the observed canary share to report a mismatch: in standard errors, and as
/// a fraction of the weight.
const MISMATCH_STANDARD_ERRORS: f64 = 5.0;
const MISMATCH_OF_WEIGHT: f64 = 0.2;

/// The canary's share if it differs from the weight significantly and by more than a fifth of the
/// weight. It is reported but never affects the verdict: the test conditions on the observed
/// counts.
fn traffic_mismatch(counts: &Counts, weight: f64) -> Option<f64> {
    let share = counts.canary_share()?;
    let error = (weight * (1.0 - weight) / counts.requests())
        .max(0.0)
        .sqrt();
    let deviation = (share - weight).abs();
    (deviation > MISMATCH_STANDARD_ERRORS * error && deviation > MISMATCH_OF_WEIGHT * weight)
        .then_some(share)
}

/// The inputs of the decision table over all objectives.
#[derive(Debug, Clone, Copy)]
pub struct DecisionTable<'a> {
    config: &'a AnalysisConfig,
    context: &'a RolloutContext,
    objectives: &'a [ObjectiveEvidence],
    ln_e: f64,
    ln_e_reversed: f64,
    proven: bool,
    scrape_ms: i64,
}

impl<'a> DecisionTable<'a> {
    /// Combines the objectives. `shares` are their weights in the mean of e-values, `scrape_ms` is
    /// the longest scrape interval.
    pub fn new(
        config: &'a AnalysisConfig,
        context: &'a RolloutContext,
        objectives: &'a [ObjectiveEvidence],
        shares: &[f64],
        scrape_ms: i64,
    ) -> Self {
        let mean = |ln_e: fn(&ObjectiveEvidence) -> f64| {
            let values: Vec<_> = objectives
                .iter()
                .map(ln_e)
                .zip(shares.iter().copied())
                .collect();
            if values.is_empty() {
                0.0
            } else {
                ln_mean(&values)
            }
        };
        let guards = objectives
            .iter()
            .zip(shares)
            .filter_map(|(objective, share)| {
                let guard = objective.guard.as_ref().filter(|guard| guard.rolls_back)?;
                Some((guard.ln_e, share * GUARD_WEIGHT))
            });
        let with_guards: Vec<_> = objectives
            .iter()
            .map(|objective| objective.ln_e)
            .zip(shares.iter().copied())
            .chain(guards)
            .collect();
        let proven = !objectives.is_empty()
            && objectives
                .iter()
                .all(|objective| objective.fresh && objective.ln_m_good >= -config.beta.ln());
        let ln_e = if with_guards.is_empty() {
            0.0
        } else {
            ln_mean(&with_guards)
        };
        let ln_e_reversed = mean(|objective| objective.ln_e_reversed);
        Self {
            config,
            context,
            objectives,
            ln_e,
            ln_e_reversed,
            proven,
            scrape_ms,
        }
    }

    /// Evaluates the table. The first matching row wins.
    pub fn verdict(&self) -> Verdict {
        let Self {
            config, context, ..
        } = self;
        let ln_decides = -config.alpha.ln();
        let is_suspect = self.ln_e >= config.suspect_from_e.ln();
        if self.ln_e >= ln_decides {
            return Verdict::RollBack(RollBackCause::Evidence);
        }
        let is_spent = self.objectives.iter().any(|objective| {
            objective
                .allotment
                .is_some_and(|allotment| objective.spent >= allotment)
        });
        if is_spent && is_suspect {
            return Verdict::RollBack(RollBackCause::Budget);
        }
        if context.guard.is_some() && is_suspect {
            return Verdict::RollBack(RollBackCause::ServiceGuard);
        }
        if let Some((reason, since_ms)) =
            self.objectives.iter().find_map(|objective| objective.hold)
        {
            return self.hold_or_step_down(reason, since_ms);
        }
        let freeze = if context.guard.is_some() {
            Some(FreezeReason::ServiceGuard)
        } else {
            let has_none = self.objectives.iter().any(|objective| {
                objective
                    .allotment
                    .is_some_and(|allotment| allotment <= 0.0)
            });
            has_none.then_some(FreezeReason::BudgetSpent)
        };
        match freeze {
            Some(_) if self.ln_e_reversed >= ln_decides => {
                Verdict::ProceedDespiteFreeze(self.next_action())
            }
            Some(reason) if !context.freeze_lifted => Verdict::Freeze(reason),
            _ => match self.next_action() {
                NextAction::Continue if self.exceeds_budget() => Verdict::StepDown {
                    next: self.next_weight(),
                    reason: HoldReason::BudgetLeft,
                },
                _ if self.has_latency_breach() => Verdict::Hold(HoldReason::Slower),
                // The canary has no traffic, its allotment is spent and it is not promotable:
                // manual action is required.
                NextAction::Continue if is_spent && context.weight <= 0.0 => Verdict::Inconclusive,
                NextAction::Continue if context.elapsed_seconds >= config.max_duration_seconds => {
                    Verdict::Inconclusive
                }
                forward => Verdict::Proceed(forward),
            },
        }
    }

    /// Holds. Steps down once the condition has lasted; each step down restarts the wait.
    fn hold_or_step_down(&self, reason: HoldReason, since_ms: i64) -> Verdict {
        let waited_ms = self
            .context
            .now_ms
            .saturating_sub(since_ms.max(self.context.weight_changed_at_ms));
        let next = self.context.weight / self.config.steps.growth;
        // A selector that never matched and histograms that differ need manual action. A lower
        // weight does not help.
        let depends_on_weight = !matches!(
            reason,
            HoldReason::UnverifiedSelector | HoldReason::NothingToCompare
        );
        let has_lasted =
            seconds(waited_ms) >= self.config.step_down_after_seconds && depends_on_weight;
        if has_lasted && self.context.weight > 0.0 {
            Verdict::StepDown { next, reason }
        } else {
            Verdict::Hold(reason)
        }
    }

    /// Whether the worst case at this weight exceeds the remaining budget. Steps are sized to fit.
    /// If a release spends budget without enough evidence to roll back, its weight shrinks with the
    /// remaining budget.
    fn exceeds_budget(&self) -> bool {
        self.context.weight > 0.0 && self.next_weight() * MIN_GROWTH < self.context.weight
    }

    /// Whether a latency guard has found the canary slower. The bound on false alarms holds for
    /// each guard separately.
    fn has_latency_breach(&self) -> bool {
        let ln_decides = -self.config.alpha.ln();
        // At weight 0 or 1 a hold has no effect.
        (self.context.weight > 0.0 && self.context.weight < 1.0)
            && self
                .objectives
                .iter()
                .filter_map(|objective| objective.guard.as_ref())
                .any(|guard| guard.ln_e >= ln_decides)
    }

    fn next_action(&self) -> NextAction {
        let Self {
            config, context, ..
        } = self;
        let soak_seconds = config
            .soak_seconds
            .max(config.soak_scrapes * seconds(self.scrape_ms));
        let soaked =
            seconds(context.now_ms.saturating_sub(context.weight_changed_at_ms)) >= soak_seconds;
        let is_fresh =
            !self.objectives.is_empty() && self.objectives.iter().all(|objective| objective.fresh);
        if !soaked || !is_fresh || self.ln_e >= config.advance_below_e.ln() {
            return NextAction::Continue;
        }
        if context.weight >= config.steps.max_weight {
            return if self.proven {
                NextAction::Promote
            } else {
                NextAction::Continue
            };
        }
        // The weight does not grow before there is evidence from after the warm-up.
        if self
            .objectives
            .iter()
            .any(|objective| objective.upper >= 1.0)
        {
            return NextAction::Continue;
        }
        let next = self.next_weight();
        // The final step may be small. Otherwise a weight just below the maximum would never reach
        // it.
        let is_worthwhile = next > MIN_GROWTH * context.weight || next >= config.steps.max_weight;
        if is_worthwhile {
            NextAction::Step { next }
        } else {
            NextAction::Continue
        }
    }

    /// The largest next weight that every objective's budget allows. With an exhausted budget, only
    /// a proven fix or a manual override continues, limited by the growth factor alone.
    fn next_weight(&self) -> f64 {
        let Self {
            config, context, ..
        } = self;
        let steps = &config.steps;
        let rate = context.requests_per_second;
        let weights = self.objectives.iter().map(|objective| {
            let left = objective.allotment.filter(|allotment| *allotment > 0.0);
            if context.weight > 0.0 {
                let left = left.map(|allotment| steps.budget_left(allotment, objective.spent));
                steps.next(
                    context.weight,
                    left,
                    objective.upper,
                    objective.margin,
                    rate,
                )
            } else {
                steps.first(left.map(|allotment| allotment - objective.spent), rate)
            }
        });
        weights.fold(steps.max_weight, f64::min)
    }
}

fn seconds(milliseconds: i64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a span of milliseconds is far below 2^53"
    )]
    let milliseconds = milliseconds as f64;
    milliseconds / 1000.0
}

#[cfg(test)]
mod tests;

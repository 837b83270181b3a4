//! The decision table: combines the evidence of all objectives into one verdict. The first matching
//! row wins.

use serde::{Deserialize, Serialize};

use crate::claim::{RoutedUnit, claim};
use crate::counts::Counts;
use crate::evidence::{Bets, Evidence};
use crate::explain;
use crate::feasibility::expected_requests_with_part;
use crate::latency::LatencyGuardState;
use crate::numeric::log_sum_exp;
use crate::objective::{Objective, ObjectiveState};

mod table;

pub use crate::verdict::{
    AnalysisConfig, Evaluation, FreezeReason, HoldReason, NextAction, ObjectiveEvidence,
    RollBackCause, RolloutContext, Verdict,
};
pub use table::DecisionTable;

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
    let settings = objective.bets().config();
    let assumption = claim(&state.evidence, settings, config.alpha)
        .for_unit(config.routed_unit, objective.config().counted_unit);
    let evidence = ObjectiveEvidence::from_evidence(
        name,
        objective.bets(),
        &state.evidence,
        config,
        context.weight,
    );
    let (hold, fresh) = hold_and_freshness(input, context);
    // Without the pods that were excluded the canary's share is smaller than its weight.
    let traffic_mismatch = traffic_mismatch(&state.evidence.at_weight, context.weight)
        .filter(|_| state.pods.excluded.is_empty());
    let spent = state.evidence.excess_errors(settings)
        + state
            .pods
            .excess_errors(state.evidence.baseline_rate(settings));
    let guard = input
        .guard
        .map(|guard| guard.state.evidence(guard.rolls_back));
    ObjectiveEvidence {
        assumption,
        allotment,
        spent: spent.max(0.0),
        ln_e: state.ln_e(objective.bets()),
        endpoint: state
            .strata
            .as_ref()
            .and_then(|strata| strata.worst(objective.bets())),
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
        let per_nat = expected_requests_with_part(
            evidence.baseline_rate(settings),
            share,
            evidence.compared_part_of_stable(),
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
            assumption: claim(evidence, settings, config.alpha)
                .for_unit(config.routed_unit, RoutedUnit::Request),
            allotment: None,
            spent: evidence.excess_errors(settings).max(0.0),
            needed_requests: needed.is_finite().then_some(needed.ceil()),
            hold: None,
            fresh: false,
            traffic_mismatch: None,
            guard: None,
            endpoint: None,
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

#[cfg(test)]
mod tests;

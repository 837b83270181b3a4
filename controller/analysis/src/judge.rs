//! The decision: what the evidence of all objectives says to do. First match wins.

use serde::{Deserialize, Serialize};

use crate::counts::Counts;
use crate::evidence::{Bets, Evidence};
use crate::explain;
use crate::feasibility::expected_requests;
use crate::latency::{GUARD_SHARE, GuardState};
use crate::numeric::log_sum_exp;
use crate::objective::{Objective, ObjectiveState};
use crate::step_size::LEAST_GROWTH;

pub use crate::verdict::{
    Context, Forward, FreezeReason, HoldReason, JudgeConfig, Judgement, ObjectiveEvidence,
    RollBackCause, Verdict,
};

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
    /// Its latency guard, where it has one.
    pub guard: Option<GuardView<'a>>,
}

/// A latency guard before the judge.
#[derive(Debug, Clone, Copy)]
pub struct GuardView<'a> {
    /// What is known.
    pub state: &'a GuardState,
    /// Whether it takes part in rolling back; it holds in any case.
    pub rolls_back: bool,
}

/// `ln` of the weighted mean of e-values. A mean of e-values is an e-value, whatever their
/// dependence.
pub fn ln_mean(ln_e_values: &[(f64, f64)]) -> f64 {
    let total: f64 = ln_e_values.iter().map(|(_, weight)| weight).sum();
    log_sum_exp(
        ln_e_values
            .iter()
            .map(|(ln_e, weight)| ln_e + (weight / total).ln()),
    )
}

/// Judges a rollout by all of its objectives. Without an objective nothing is ever proven.
pub fn judge(config: &JudgeConfig, views: &[View<'_>], context: &Context) -> Judgement {
    let objectives: Vec<_> = views
        .iter()
        .map(|view| evidence(config, view, context))
        .collect();
    let shares: Vec<_> = views
        .iter()
        .map(|view| view.objective.config().weight)
        .collect();
    let standing = Standing::new(
        config,
        context,
        &objectives,
        &shares,
        slowest_scrape_ms(views),
    );
    let verdict = standing.verdict();
    let next_weight = if matches!(verdict, Verdict::Freeze(_)) {
        context.weight
    } else {
        standing.next_weight()
    };
    let Standing { ln_e, proven, .. } = standing;
    let mut judgement = Judgement {
        verdict,
        because: Vec::new(),
        ln_e,
        proven,
        next_weight,
        objectives,
    };
    judgement.because = explain::because(&judgement, config, context);
    judgement
}

fn slowest_scrape_ms(views: &[View<'_>]) -> i64 {
    views
        .iter()
        .map(|view| view.objective.config().counters.scrape_interval_ms)
        .max()
        .unwrap_or(0)
}

fn evidence(config: &JudgeConfig, view: &View<'_>, context: &Context) -> ObjectiveEvidence {
    let View {
        objective,
        state,
        allotment,
        ..
    } = *view;
    let name = &objective.config().name;
    let told = ObjectiveEvidence::of(
        name,
        objective.bets(),
        &state.evidence,
        config,
        context.weight,
    );
    let (hold, fresh) = freshness(view, context);
    let traffic_mismatch = traffic_mismatch(&state.evidence.at_weight, context.weight);
    let guard = view
        .guard
        .map(|guard| guard.state.evidence(guard.rolls_back));
    ObjectiveEvidence {
        allotment,
        hold,
        fresh,
        traffic_mismatch,
        guard,
        ..told
    }
}

impl ObjectiveEvidence {
    /// What the counts alone tell: not whether they are fresh, nor what may be spent. The canary's
    /// `weight` is for the requests needed.
    pub fn of(
        name: &str,
        bets: &Bets,
        evidence: &Evidence,
        config: &JudgeConfig,
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
        // ln(1/beta)/I is for ln(1/beta); of what is missing, 1/I for each unit of it.
        let for_one = expected_requests(
            evidence.usual_rate(settings),
            share,
            settings.delta1,
            (-1.0_f64).exp(),
        );
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
            guard: None,
        }
    }
}

/// Why an objective holds, and whether both arms are fresh.
fn freshness(view: &View<'_>, context: &Context) -> (Option<(HoldReason, i64)>, bool) {
    let state = view.state;
    let stale_after_ms = view.objective.config().stale_after_ms;
    let (now_ms, began_ms) = (
        context.now_ms,
        state.evidence.began_ms.max(context.weight_changed_at_ms),
    );
    let is_old = |at_ms: i64| now_ms.saturating_sub(at_ms) > stale_after_ms;
    match view.availability {
        Availability::Unreachable { since_ms } => {
            return (Some((HoldReason::Unreachable, since_ms)), false);
        }
        Availability::Partial { since_ms } => {
            return (Some((HoldReason::PartialData, since_ms)), false);
        }
        Availability::Ok => {}
    }
    // What was not a number before the release says nothing of it.
    let is_current = |at_ms: &i64| !is_old(*at_ms) && *at_ms >= state.evidence.began_ms;
    if let Some(at_ms) = state.not_a_number_at_ms.filter(is_current) {
        return (Some((HoldReason::NotANumber, at_ms)), false);
    }
    let mut fresh = true;
    // An arm that is meant to have no traffic need not be seen.
    let arms = [
        (context.weight > 0.0, state.canary_at_ms),
        (context.weight < 1.0, state.stable_at_ms),
    ];
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
    // A guard that sees nothing guards nothing. Without both arms under traffic there is nothing to
    // see.
    if let Some(guard) = view
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

/// Standard errors, and the part of the weight, that the observed share must be off by to be told.
const MISMATCH_STANDARD_ERRORS: f64 = 5.0;
const MISMATCH_OF_WEIGHT: f64 = 0.2;

/// The canary's share where it differs from the weight by more than chance and by a fifth of it. A
/// report, never a verdict: the test conditions on the counts that it sees.
fn traffic_mismatch(counts: &Counts, weight: f64) -> Option<f64> {
    let share = counts.canary_share()?;
    let error = (weight * (1.0 - weight) / counts.requests())
        .max(0.0)
        .sqrt();
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
    /// Where the objectives stand together. `shares` are their weights in the mean of e-values,
    /// `scrape_ms` the slowest scrape interval.
    pub fn new(
        config: &'a JudgeConfig,
        context: &'a Context,
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
        let guards = objectives.iter().zip(shares).filter_map(|(of, share)| {
            let guard = of.guard.as_ref().filter(|guard| guard.rolls_back)?;
            Some((guard.ln_e, share * GUARD_SHARE))
        });
        let with_guards: Vec<_> = objectives
            .iter()
            .map(|of| of.ln_e)
            .zip(shares.iter().copied())
            .chain(guards)
            .collect();
        let proven = !objectives.is_empty()
            && objectives
                .iter()
                .all(|of| of.fresh && of.ln_m_good >= -config.beta.ln());
        let ln_e = if with_guards.is_empty() {
            0.0
        } else {
            ln_mean(&with_guards)
        };
        let ln_e_cure = mean(|of| of.ln_e_cure);
        Self {
            config,
            context,
            objectives,
            ln_e,
            ln_e_cure,
            proven,
            scrape_ms,
        }
    }

    /// What the table says: first match wins.
    pub fn verdict(&self) -> Verdict {
        let Self {
            config, context, ..
        } = self;
        let ln_decides = -config.alpha.ln();
        let is_suspect = self.ln_e >= config.breach_from.ln();
        if self.ln_e >= ln_decides {
            return Verdict::RollBack(RollBackCause::Evidence);
        }
        let is_spent = self
            .objectives
            .iter()
            .any(|of| of.allotment.is_some_and(|allotment| of.spent >= allotment));
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
            let has_none = self
                .objectives
                .iter()
                .any(|of| of.allotment.is_some_and(|allotment| allotment <= 0.0));
            has_none.then_some(FreezeReason::BudgetSpent)
        };
        match freeze {
            Some(_) if self.ln_e_cure >= ln_decides => Verdict::GoOnCure(self.forward()),
            Some(reason) if !context.freeze_lifted => Verdict::Freeze(reason),
            _ => match self.forward() {
                Forward::Continue if self.outgrown() => Verdict::StepDown {
                    next: self.next_weight(),
                    reason: HoldReason::BudgetLeft,
                },
                _ if self.is_slower() => Verdict::Hold(HoldReason::Slower),
                // Off the traffic with its allotment spent and nothing proven: only a person can go
                // on from here.
                Forward::Continue if is_spent && context.weight <= 0.0 => Verdict::Inconclusive,
                Forward::Continue if context.elapsed_seconds >= config.longest_seconds => {
                    Verdict::Inconclusive
                }
                forward => Verdict::Forward(forward),
            },
        }
    }

    /// Holds, and goes down once it has lasted; each step down begins the wait again.
    fn without_data(&self, reason: HoldReason, since_ms: i64) -> Verdict {
        let waited_ms = self
            .context
            .now_ms
            .saturating_sub(since_ms.max(self.context.weight_changed_at_ms));
        let next = self.context.weight / self.config.steps.growth;
        // A selector that never matched, or a histogram that differs, is a question to a person: a
        // lower weight does not answer it.
        let is_of_weight = !matches!(
            reason,
            HoldReason::UnverifiedSelector | HoldReason::NothingToCompare
        );
        let has_lasted = seconds(waited_ms) >= self.config.step_down_after_seconds && is_of_weight;
        if has_lasted && self.context.weight > 0.0 {
            Verdict::StepDown { next, reason }
        } else {
            Verdict::Hold(reason)
        }
    }

    /// Whether the worst case at this weight no longer fits the budget left. Steps are sized so
    /// that it does; as a release spends without being found out, its weight shrinks with what is
    /// left, and it cannot spend all of it.
    fn outgrown(&self) -> bool {
        self.context.weight > 0.0 && self.next_weight() * LEAST_GROWTH < self.context.weight
    }

    /// Whether a latency guard says that the canary is slower. The bound on doing so of a good
    /// release is each guard's own.
    fn is_slower(&self) -> bool {
        let ln_decides = -self.config.alpha.ln();
        // Off the traffic, or with all of it, there is nothing to hold back.
        (self.context.weight > 0.0 && self.context.weight < 1.0)
            && self
                .objectives
                .iter()
                .filter_map(|of| of.guard.as_ref())
                .any(|guard| guard.ln_e >= ln_decides)
    }

    fn forward(&self) -> Forward {
        let Self {
            config, context, ..
        } = self;
        let soak_seconds = config
            .soak_seconds
            .max(config.soak_scrapes * seconds(self.scrape_ms));
        let soaked =
            seconds(context.now_ms.saturating_sub(context.weight_changed_at_ms)) >= soak_seconds;
        let is_fresh = !self.objectives.is_empty() && self.objectives.iter().all(|of| of.fresh);
        if !soaked || !is_fresh || self.ln_e >= config.calm_below.ln() {
            return Forward::Continue;
        }
        if context.weight >= config.steps.max_weight {
            return if self.proven {
                Forward::Promote
            } else {
                Forward::Continue
            };
        }
        // While nothing is known since the warm-up, the traffic does not grow on the strength of
        // it.
        if self.objectives.iter().any(|of| of.upper >= 1.0) {
            return Forward::Continue;
        }
        let next = self.next_weight();
        // The last step may be a small one: else a weight just below the last would stay there.
        let is_worth_it = next > LEAST_GROWTH * context.weight || next >= config.steps.max_weight;
        if is_worth_it {
            Forward::Step { next }
        } else {
            Forward::Continue
        }
    }

    /// The largest next weight that every objective's budget allows. Where there is no budget at
    /// all, only a cure or a person's word leads further, and the growth alone is the limit.
    fn next_weight(&self) -> f64 {
        let Self {
            config, context, ..
        } = self;
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
    #[expect(
        clippy::cast_precision_loss,
        reason = "a span of milliseconds is far below 2^53"
    )]
    let milliseconds = milliseconds as f64;
    milliseconds / 1000.0
}

#[cfg(test)]
mod tests;

//! The rows of the decision table.

use super::ln_mean;
use crate::latency::GUARD_WEIGHT;
use crate::step_size::MIN_GROWTH;
use crate::verdict::{
    AnalysisConfig, FreezeReason, HoldReason, NextAction, ObjectiveEvidence, RollBackCause,
    RolloutContext, Verdict,
};

/// The inputs of the decision table over all objectives.
#[derive(Debug, Clone, Copy)]
pub struct DecisionTable<'a> {
    config: &'a AnalysisConfig,
    context: &'a RolloutContext,
    objectives: &'a [ObjectiveEvidence],
    pub(super) ln_e: f64,
    ln_e_reversed: f64,
    pub(super) proven: bool,
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
    pub(super) fn next_weight(&self) -> f64 {
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

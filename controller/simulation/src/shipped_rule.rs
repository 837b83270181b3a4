//! Simulates a whole rollout that is paced and decided by Serin's rule.

use serin_analysis::budget::{AllotmentShare, ServiceBudget};
use serin_analysis::decision::{
    DecisionTable, NextAction, ObjectiveEvidence, RollBackCause, RolloutContext,
};
use serin_analysis::evidence::{Bets, Evidence, TickContext};
use serin_analysis::{AnalysisConfig, ConfigError, EvidenceConfig, Verdict};

use crate::outcome::{FinalDecision, RolloutOutcome};
use crate::scenario::{Scenario, ServiceSimulator, seconds};

const MONTH_SECONDS: f64 = 30.0 * 86_400.0;

/// Serin's rule with one configuration.
pub(crate) struct ShippedRule {
    bets: Bets,
    analysis: AnalysisConfig,
    allotment: f64,
}

impl ShippedRule {
    /// The allotment of a service with half of its budget remaining.
    pub(crate) fn default_allotment(budget_fraction: f64, requests_per_second: f64) -> f64 {
        let requests = requests_per_second * MONTH_SECONDS;
        let budget =
            ServiceBudget::new(budget_fraction, requests, 0.5 * budget_fraction * requests);
        budget.allotment(&AllotmentShare::default())
    }

    pub(crate) fn new(
        evidence: EvidenceConfig,
        analysis: AnalysisConfig,
        allotment: f64,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            bets: Bets::new(evidence)?,
            analysis,
            allotment,
        })
    }

    /// Simulates one rollout.
    pub(crate) fn rollout(&self, scenario: &Scenario, seed: u64) -> RolloutOutcome {
        let mut simulator = ServiceSimulator::new(*scenario, seed);
        let mut evidence = Evidence::new(&self.bets, 0);
        evidence.learn_dispersion(&simulator.history());
        let rate = scenario.requests_per_second;
        let mut weight = self.analysis.steps.first(Some(self.allotment), rate);
        let mut weight_changed_at_ms = 0;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "configured seconds are at most 1e9"
        )]
        let warm_up_ends_ms = (self.bets.config().warm_up_seconds * 1000.0) as i64;
        let mut excess_errors = 0.0;
        let scrape_ms = i64::from(scenario.tick_seconds) * 1000;
        loop {
            let simulated = simulator.serve(weight);
            let at_ms = simulated.tick.at_ms;
            excess_errors += simulated.excess_errors;
            let tick_context = TickContext {
                warm_up_ends_ms,
                weight_changed_at_ms,
                young_share: None,
            };
            evidence.add(&self.bets, &simulated.tick, &tick_context);
            let seconds = seconds(at_ms);
            let context = RolloutContext {
                now_ms: at_ms,
                weight,
                weight_changed_at_ms,
                elapsed_seconds: seconds,
                requests_per_second: rate,
                guard: None,
                freeze_lifted: false,
            };
            let objective = ObjectiveEvidence {
                allotment: Some(self.allotment),
                fresh: evidence.totals.canary_requests > 0.0,
                ..ObjectiveEvidence::from_evidence(
                    "",
                    &self.bets,
                    &evidence,
                    &self.analysis,
                    weight,
                )
            };
            let spent = objective.spent;
            let verdict =
                DecisionTable::new(&self.analysis, &context, &[objective], &[1.0], scrape_ms)
                    .verdict();
            let decision = match verdict {
                Verdict::RollBack(RollBackCause::Evidence) => Some(FinalDecision::RolledBack),
                Verdict::RollBack(_) => Some(FinalDecision::RolledBackByBudget),
                Verdict::Proceed(NextAction::Promote) => Some(FinalDecision::Promoted),
                Verdict::Proceed(NextAction::Step { next }) | Verdict::StepDown { next, .. } => {
                    weight = next;
                    weight_changed_at_ms = at_ms;
                    None
                }
                Verdict::Inconclusive => Some(FinalDecision::Undecided),
                _ => None,
            };
            let is_over =
                (seconds >= self.analysis.max_duration_seconds).then_some(FinalDecision::Undecided);
            if let Some(decision) = decision.or(is_over) {
                let after = if decision == FinalDecision::Promoted {
                    (self.analysis.max_duration_seconds - seconds) * rate
                } else {
                    0.0
                };
                let p_s = scenario.stable_rate;
                excess_errors += after * (scenario.effect.rate(p_s) - p_s);
                return RolloutOutcome {
                    decision,
                    seconds,
                    excess_errors,
                    overspent: spent > self.allotment,
                };
            }
        }
    }
}

//! A whole rollout, paced and decided by the shipped rule.

use serin_analysis::budget::{AllotmentShare, ServiceBudget};
use serin_analysis::evidence::{Bets, Evidence, TickContext};
use serin_analysis::judge::{Context, Forward, ObjectiveEvidence, RollBackCause, Standing};
use serin_analysis::{ConfigError, EvidenceConfig, JudgeConfig, Verdict};

use crate::outcome::{Decision, Outcome};
use crate::world::{Scenario, World, seconds};

const MONTH_SECONDS: f64 = 30.0 * 86_400.0;

/// The rule under a configuration.
pub(crate) struct Rule {
    bets: Bets,
    judge: JudgeConfig,
    allotment: f64,
}

impl Rule {
    /// What a service with half of its budget left allots.
    pub(crate) fn usual_allotment(budget_fraction: f64, requests_per_second: f64) -> f64 {
        let requests = requests_per_second * MONTH_SECONDS;
        let budget =
            ServiceBudget::new(budget_fraction, requests, 0.5 * budget_fraction * requests);
        budget.allotment(&AllotmentShare::default())
    }

    pub(crate) fn new(
        evidence: EvidenceConfig,
        judge: JudgeConfig,
        allotment: f64,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            bets: Bets::new(evidence)?,
            judge,
            allotment,
        })
    }

    /// One rollout.
    pub(crate) fn rollout(&self, scenario: &Scenario, seed: u64) -> Outcome {
        let mut world = World::new(*scenario, seed);
        let mut evidence = Evidence::new(&self.bets, 0);
        evidence.learn_dispersion(&world.history());
        let rate = scenario.requests_per_second;
        let mut weight = self.judge.steps.first(Some(self.allotment), rate);
        let mut weight_changed_at_ms = 0;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "configured seconds are at most 1e9"
        )]
        let warm_up_ends_ms = (self.bets.config().warm_up_seconds * 1000.0) as i64;
        let mut excess_errors = 0.0;
        let scrape_ms = i64::from(scenario.tick_seconds) * 1000;
        loop {
            let served = world.serve(weight);
            let at_ms = served.tick.at_ms;
            excess_errors += served.excess_errors;
            let tick_context = TickContext {
                warm_up_ends_ms,
                weight_changed_at_ms,
            };
            evidence.add(&self.bets, &served.tick, &tick_context);
            let seconds = seconds(at_ms);
            let context = Context {
                now_ms: at_ms,
                weight,
                weight_changed_at_ms,
                elapsed_seconds: seconds,
                requests_per_second: rate,
                guard: None,
                freeze_lifted: false,
            };
            let told = ObjectiveEvidence {
                allotment: Some(self.allotment),
                fresh: evidence.totals.canary_requests > 0.0,
                ..ObjectiveEvidence::of("", &self.bets, &evidence, &self.judge, weight)
            };
            let spent = told.spent;
            let verdict =
                Standing::new(&self.judge, &context, &[told], &[1.0], scrape_ms).verdict();
            let decision = match verdict {
                Verdict::RollBack(RollBackCause::Evidence) => Some(Decision::RolledBack),
                Verdict::RollBack(_) => Some(Decision::RolledBackByBudget),
                Verdict::Forward(Forward::Promote) => Some(Decision::Promoted),
                Verdict::Forward(Forward::Step { next }) | Verdict::StepDown { next, .. } => {
                    weight = next;
                    weight_changed_at_ms = at_ms;
                    None
                }
                Verdict::Inconclusive => Some(Decision::Undecided),
                _ => None,
            };
            let is_over = (seconds >= self.judge.longest_seconds).then_some(Decision::Undecided);
            if let Some(decision) = decision.or(is_over) {
                let after = if decision == Decision::Promoted {
                    (self.judge.longest_seconds - seconds) * rate
                } else {
                    0.0
                };
                let p_s = scenario.stable_rate;
                excess_errors += after * (scenario.effect.rate(p_s) - p_s);
                return Outcome {
                    decision,
                    seconds,
                    excess_errors,
                    overspent: spent > self.allotment,
                };
            }
        }
    }
}

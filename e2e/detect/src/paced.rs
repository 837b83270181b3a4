//! A whole rollout, paced and decided by the shipped rule.

use serin_analysis::budget::{AllotmentShare, ServiceBudget};
use serin_analysis::evidence::{Bets, Evidence, TickContext};
use serin_analysis::judge::{Context, Forward, ObjectiveEvidence, RollBackCause, Standing};
use serin_analysis::{EvidenceConfig, JudgeConfig, Verdict};

use crate::report::{Decision, Outcome};
use crate::world::{Scenario, World};

const WARM_UP_MS: i64 = 60_000;
const MONTH_SECONDS: f64 = 30.0 * 86_400.0;

/// The rule at the objective of 99.9 %, with this margin, knowing stable's error rate from history.
pub(crate) struct Rule {
    bets: Bets,
    judge: JudgeConfig,
    allotment: f64,
    longest_seconds: f64,
}

impl Rule {
    /// `margin_of_budget` is `delta1 / b`; without an `allotment` it is that of a service with half of its budget left.
    pub(crate) fn new(scenario: &Scenario, margin_of_budget: f64, allotment: Option<f64>) -> Option<Self> {
        let b = 0.001;
        let mut config = EvidenceConfig::for_budget_fraction(b).with_history(scenario.stable_rate);
        config.delta1 = margin_of_budget * b;
        let requests = scenario.requests_per_second * MONTH_SECONDS;
        let budget = ServiceBudget::new(b, requests, 0.5 * b * requests);
        let allotment = allotment.unwrap_or_else(|| budget.allotment(&AllotmentShare::default()));
        let judge = JudgeConfig::default();
        let longest_seconds = judge.longest_seconds;
        Bets::new(config).ok().map(|bets| Self { bets, judge, allotment, longest_seconds })
    }

    /// One rollout.
    pub(crate) fn rollout(&self, scenario: &Scenario, seed: u64) -> Outcome {
        let mut world = World::new(*scenario, seed);
        let mut evidence = Evidence::new(&self.bets, 0);
        evidence.learn_dispersion(&world.history());
        let rate = scenario.requests_per_second;
        let mut weight = self.judge.steps.first(Some(self.allotment), rate);
        let mut weight_changed_at_ms = 0;
        let mut excess_errors = 0.0;
        let scrape_ms = i64::from(scenario.tick_seconds) * 1000;
        loop {
            let served = world.serve(weight);
            let at_ms = served.tick.at_ms;
            excess_errors += served.excess_errors;
            let tick_context = TickContext { warm_up_ends_ms: WARM_UP_MS, weight_changed_at_ms };
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
            let verdict = Standing::new(&self.judge, &context, &[told], &[1.0], scrape_ms).verdict();
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
            let is_over = (seconds >= self.longest_seconds).then_some(Decision::Undecided);
            if let Some(decision) = decision.or(is_over) {
                let after = if decision == Decision::Promoted { (self.longest_seconds - seconds) * rate } else { 0.0 };
                let p_s = scenario.stable_rate;
                excess_errors += after * (scenario.effect.rate(p_s) - p_s);
                return Outcome { decision, seconds, excess_errors, overspent: spent > self.allotment };
            }
        }
    }
}

pub(crate) fn seconds(at_ms: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "the milliseconds of a simulated hour")]
    {
        at_ms as f64 / 1000.0
    }
}

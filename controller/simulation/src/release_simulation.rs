//! Simulates one release that is paced as in its Rollout: by steps or by the evidence.
//!
//! Serin's rule decides, with the waiting conditions of the controller. A step completes when it
//! has taken effect and no data is missing. Without steps the evidence alone raises the weight. A
//! release without a verdict within the maximum duration stays undecided. Pods and the router take
//! no time; times start at the first request to the canary.

use serin_analysis::decision::{
    DecisionTable, HoldReason, NextAction, ObjectiveEvidence, RolloutContext,
};
use serin_analysis::evidence::{Bets, Evidence, TickContext};
use serin_analysis::service_guard::{BurnAlert, WindowCounts, burn_alert};
use serin_analysis::{AnalysisConfig, ConfigError, EvidenceConfig, Verdict};

use crate::outcome::FinalDecision;
use crate::parallel;
use crate::report::SimulationOptions;
use crate::scenario::{Scenario, ServiceSimulator, seconds};

/// The pacing of a release.
#[derive(Debug, Clone, PartialEq)]
pub enum SimulatedPace {
    /// The evidence, from the first weight to the maximum weight.
    Evidence,
    /// These steps, then promotion.
    Steps(Vec<SimulatedStep>),
}

/// One step of a release.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SimulatedStep {
    /// The canary gets this share of the traffic, from 0 to 1.
    SetWeight(f64),
    /// Wait for this number of seconds.
    Pause(f64),
    /// Wait for this number of seconds of fresh data. `None` waits until the evidence suffices for
    /// promotion.
    Analysis(Option<f64>),
}

/// A release to simulate.
#[derive(Debug, Clone, PartialEq)]
pub struct ReleaseScenario {
    /// The service and the canary's error rate.
    pub scenario: Scenario,
    /// Configuration of the evidence.
    pub evidence: EvidenceConfig,
    /// Thresholds of the decision table.
    pub analysis: AnalysisConfig,
    /// The pacing of a release.
    pub pace: SimulatedPace,
    /// Errors that the release may spend.
    pub allotment: f64,
    /// Maximum seconds to wait for evidence.
    pub max_duration_seconds: f64,
    /// Part of stable's requests that the canary is compared with, from 0 to 1, by the weight from
    /// which it applies, in ascending order. Empty if it is compared with all of stable.
    pub compared_stable: Vec<(f64, f64)>,
}

impl ReleaseScenario {
    /// Part of stable's requests that the canary is compared with at this weight. `None` if it is
    /// compared with all of stable.
    fn compared_stable_at(&self, weight: f64) -> Option<f64> {
        let from = |(from, _): &&(f64, f64)| *from <= weight;
        let latest = self.compared_stable.iter().rfind(from);
        latest
            .or(self.compared_stable.first())
            .map(|(_, part)| *part)
    }
}

/// The outcome of one simulated release.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReleaseOutcome {
    /// The final decision.
    pub decision: FinalDecision,
    /// Seconds until the decision.
    pub seconds: f64,
    /// The canary's expected errors beyond stable's until then.
    pub excess_errors: f64,
    /// Whether the counted errors exceeded the allotment.
    pub overspent: bool,
}

/// Simulates the release `options.runs` times on all cores. The same seed gives the same list.
///
/// # Errors
/// The first field of the configuration that is out of its range.
pub fn simulate_releases(
    options: SimulationOptions,
    release: &ReleaseScenario,
) -> Result<Vec<ReleaseOutcome>, ConfigError> {
    let bets = Bets::new(release.evidence.clone())?;
    // The burn rates of a service with a constant error rate are constant.
    let burns = |seconds: u32| {
        let requests = release.scenario.requests_per_second * f64::from(seconds);
        WindowCounts {
            requests,
            bad: requests * release.scenario.stable_rate,
        }
    };
    let windows = serin_analysis::service_guard::WINDOW_PAIRS
        .map(|pair| (burns(pair.long_seconds), burns(pair.short_seconds)));
    let guard = burn_alert(&windows, release.evidence.budget_fraction);
    Ok(parallel::map_seeds(options.runs, options.seed, |seed| {
        ReleaseRun::new(release, &bets, guard, seed).run()
    }))
}

/// The result of one evaluation as used by the pacing.
#[derive(Debug, Clone, Copy, PartialEq)]
enum EvidenceSignal {
    RollBack { by_budget: bool },
    Hold,
    Sufficient,
    Undecided { next: Option<f64> },
}

/// The condition for which a step waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StepWait {
    Over,
    Time,
    Evidence,
}

struct ReleaseRun<'a> {
    release: &'a ReleaseScenario,
    bets: &'a Bets,
    guard: Option<BurnAlert>,
    simulator: ServiceSimulator,
    evidence: Evidence,
    now_ms: i64,
    weight: f64,
    weight_changed_at_ms: i64,
    canary_requests_at_ms: Option<i64>,
    fresh_since_ms: Option<i64>,
    step: usize,
    step_began_ms: i64,
    excess_errors: f64,
    spent: f64,
}

impl<'a> ReleaseRun<'a> {
    fn new(
        release: &'a ReleaseScenario,
        bets: &'a Bets,
        guard: Option<BurnAlert>,
        seed: u64,
    ) -> Self {
        let mut simulator = ServiceSimulator::new(release.scenario, seed);
        let mut evidence = Evidence::new(bets, 0);
        evidence.learn_dispersion(&simulator.history());
        let (step, weight) = match &release.pace {
            SimulatedPace::Evidence => (0, release.analysis.steps.first_weight),
            // Steps before the first traffic have no data.
            SimulatedPace::Steps(steps) => steps
                .iter()
                .enumerate()
                .find_map(|(index, step)| match step {
                    SimulatedStep::SetWeight(weight) if *weight > 0.0 => Some((index + 1, *weight)),
                    _ => None,
                })
                .unwrap_or((steps.len(), 0.0)),
        };
        Self {
            release,
            bets,
            guard,
            simulator,
            evidence,
            now_ms: 0,
            weight,
            weight_changed_at_ms: 0,
            canary_requests_at_ms: None,
            fresh_since_ms: None,
            step,
            step_began_ms: 0,
            excess_errors: 0.0,
            spent: 0.0,
        }
    }

    fn run(mut self) -> ReleaseOutcome {
        loop {
            // A release that never gives the canary traffic is promoted by its steps alone.
            let signal = if self.weight > 0.0 || self.evidence.ticks > 0 {
                self.tick()
            } else {
                self.skip_scrape()
            };
            let decision = match signal {
                EvidenceSignal::RollBack { by_budget: true } => {
                    Some(FinalDecision::RolledBackByBudget)
                }
                EvidenceSignal::RollBack { by_budget: false } => Some(FinalDecision::RolledBack),
                signal => self.advance(signal),
            };
            if let Some(decision) = decision {
                return ReleaseOutcome {
                    decision,
                    seconds: seconds(self.now_ms),
                    excess_errors: self.excess_errors,
                    overspent: self.spent > self.release.allotment,
                };
            }
        }
    }

    fn scrape_ms(&self) -> i64 {
        i64::from(self.release.scenario.tick_seconds) * 1000
    }

    fn skip_scrape(&mut self) -> EvidenceSignal {
        self.now_ms += self.scrape_ms();
        EvidenceSignal::Undecided { next: None }
    }

    /// Simulates one scrape and evaluates it.
    fn tick(&mut self) -> EvidenceSignal {
        let simulated = self.simulator.serve(self.weight);
        self.now_ms = simulated.tick.at_ms;
        self.excess_errors += simulated.excess_errors;
        if simulated.tick.counts.canary_requests > 0.0 {
            self.canary_requests_at_ms = Some(self.now_ms);
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "configured seconds are at most 1e9"
        )]
        let warm_up_ends_ms = (self.bets.config().warm_up_seconds * 1000.0) as i64;
        let context = TickContext {
            warm_up_ends_ms,
            weight_changed_at_ms: self.weight_changed_at_ms,
            young_share: None,
        };
        let part = self.release.compared_stable_at(self.weight);
        let compared = part.map(|part| self.simulator.part_of_stable(&simulated.tick, part));
        self.evidence
            .add_compared(self.bets, &simulated.tick, compared.as_ref(), &context);
        self.evaluate()
    }

    fn evaluate(&mut self) -> EvidenceSignal {
        let Self {
            release,
            now_ms,
            weight,
            ..
        } = *self;
        let mut config = release.analysis;
        if matches!(release.pace, SimulatedPace::Steps(_)) && weight > 0.0 {
            // As in the controller: with steps, every weight counts as the last one, and the steps
            // set the weights.
            config.steps.max_weight = weight;
            config.steps.kappa = f64::INFINITY;
        }
        let context = RolloutContext {
            now_ms,
            weight,
            weight_changed_at_ms: self.weight_changed_at_ms,
            elapsed_seconds: seconds(now_ms),
            requests_per_second: release.scenario.requests_per_second,
            guard: self.guard,
            freeze_lifted: false,
        };
        let requests_ms = self
            .canary_requests_at_ms
            .unwrap_or(0)
            .max(self.weight_changed_at_ms);
        let is_idle = weight > 0.0 && now_ms - requests_ms > 3 * self.scrape_ms() + STALE_MARGIN_MS;
        let hold = is_idle.then_some((HoldReason::NoTraffic, requests_ms));
        let fresh = self.canary_requests_at_ms.is_some() && hold.is_none();
        self.fresh_since_ms = fresh.then(|| self.fresh_since_ms.unwrap_or(now_ms));
        let objective = ObjectiveEvidence {
            allotment: Some(release.allotment),
            fresh,
            hold,
            ..ObjectiveEvidence::from_evidence("", self.bets, &self.evidence, &config, weight)
        };
        self.spent = objective.spent;
        match DecisionTable::new(&config, &context, &[objective], &[1.0], self.scrape_ms())
            .verdict()
        {
            Verdict::RollBack(cause) => EvidenceSignal::RollBack {
                by_budget: cause != serin_analysis::decision::RollBackCause::Evidence,
            },
            _ if weight <= 0.0 => EvidenceSignal::Undecided { next: None },
            Verdict::Hold(_) | Verdict::StepDown { .. } | Verdict::Freeze(_) => {
                EvidenceSignal::Hold
            }
            Verdict::Proceed(NextAction::Promote)
            | Verdict::ProceedDespiteFreeze(NextAction::Promote) => EvidenceSignal::Sufficient,
            Verdict::Proceed(NextAction::Step { next })
            | Verdict::ProceedDespiteFreeze(NextAction::Step { next }) => {
                EvidenceSignal::Undecided { next: Some(next) }
            }
            _ => EvidenceSignal::Undecided { next: None },
        }
    }

    /// Advances as far as the signal allows. Returns the decision at the end of the release.
    fn advance(&mut self, signal: EvidenceSignal) -> Option<FinalDecision> {
        loop {
            let wait = match &self.release.pace {
                SimulatedPace::Evidence => self.wait_by_evidence(signal),
                SimulatedPace::Steps(steps) => self.wait_of_step(steps.get(self.step), signal),
            };
            match wait {
                StepWait::Time => return None,
                StepWait::Evidence => {
                    let has_waited = seconds(self.now_ms - self.step_began_ms)
                        >= self.release.max_duration_seconds;
                    return has_waited.then_some(FinalDecision::Undecided);
                }
                StepWait::Over => {
                    let SimulatedPace::Steps(steps) = &self.release.pace else {
                        return Some(FinalDecision::Promoted);
                    };
                    let Some(step) = steps.get(self.step) else {
                        return Some(FinalDecision::Promoted);
                    };
                    if let SimulatedStep::SetWeight(weight) = step {
                        self.set_weight(*weight);
                    }
                    self.step += 1;
                    self.step_began_ms = self.now_ms;
                }
            }
        }
    }

    fn set_weight(&mut self, weight: f64) {
        if weight.to_bits() != self.weight.to_bits() {
            self.weight = weight;
            self.weight_changed_at_ms = self.now_ms;
        }
    }

    fn wait_by_evidence(&mut self, signal: EvidenceSignal) -> StepWait {
        match signal {
            EvidenceSignal::Sufficient => StepWait::Over,
            EvidenceSignal::Undecided { next: Some(next) } if next > self.weight => {
                self.set_weight(next);
                StepWait::Time
            }
            _ => StepWait::Evidence,
        }
    }

    fn wait_of_step(&self, step: Option<&SimulatedStep>, signal: EvidenceSignal) -> StepWait {
        let passed = |since_ms: i64, seconds_needed: f64| {
            if seconds(self.now_ms - since_ms) >= seconds_needed {
                StepWait::Over
            } else {
                StepWait::Time
            }
        };
        let wait = match step {
            Some(SimulatedStep::Pause(seconds)) => passed(self.step_began_ms, *seconds),
            Some(SimulatedStep::Analysis(duration)) => match (signal, duration) {
                (EvidenceSignal::Sufficient, None) => StepWait::Over,
                (EvidenceSignal::Sufficient | EvidenceSignal::Undecided { .. }, Some(duration)) => {
                    let fresh_since_ms = self.fresh_since_ms.unwrap_or(self.now_ms);
                    passed(self.step_began_ms.max(fresh_since_ms), *duration)
                }
                _ => StepWait::Evidence,
            },
            // Data from the warm-up alone does not suffice for promotion.
            None if self.weight > 0.0 => passed(
                self.fresh_since_ms.unwrap_or(self.now_ms),
                self.bets.config().warm_up_seconds,
            ),
            Some(SimulatedStep::SetWeight(_)) | None => StepWait::Over,
        };
        if wait == StepWait::Over && signal == EvidenceSignal::Hold {
            StepWait::Evidence
        } else {
            wait
        }
    }
}

/// Added to three scrape intervals before the canary counts as without traffic.
const STALE_MARGIN_MS: i64 = 5_000;

#[cfg(test)]
mod tests;

//! The odds of one release, paced as its Rollout says: by steps, or by the evidence.
//!
//! Decided by the shipped rule, with the waits of the planner: a step is over when its effect is
//! there and no data is missing, the evidence alone raises a weight where there are no steps, and
//! what stays undecided for the longest duration is left to a person. Pods and the router take no
//! time here: times are from the first request to the canary.

use serin_analysis::evidence::{Bets, Evidence, TickContext};
use serin_analysis::guard::{Burning, WindowCounts, burning};
use serin_analysis::judge::{Context, Forward, HoldReason, ObjectiveEvidence, Standing};
use serin_analysis::{ConfigError, EvidenceConfig, JudgeConfig, Verdict};

use crate::outcome::Decision;
use crate::parallel;
use crate::report::Options;
use crate::world::{Scenario, World, seconds};

/// What sets the pace.
#[derive(Debug, Clone, PartialEq)]
pub enum Pace {
    /// The evidence, from the judge's first weight to its last.
    Evidence,
    /// These steps, then promotion.
    Steps(Vec<Step>),
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// The canary gets this share of the traffic, from 0 to 1.
    SetWeight(f64),
    /// Nothing happens for so many seconds.
    Pause(f64),
    /// So many seconds of fresh data; nothing: until the evidence suffices to promote.
    Analysis(Option<f64>),
}

/// A release.
#[derive(Debug, Clone, PartialEq)]
pub struct Release {
    /// The service and what the canary does.
    pub scenario: Scenario,
    /// What the evidence is gathered with.
    pub evidence: EvidenceConfig,
    /// The decision's thresholds.
    pub judge: JudgeConfig,
    /// What sets the pace.
    pub pace: Pace,
    /// The errors that the release may cost.
    pub allotment: f64,
    /// How long it may wait for evidence before a person is asked.
    pub longest_seconds: f64,
}

/// How one simulated release ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ended {
    /// What became of it.
    pub decision: Decision,
    /// After how many seconds.
    pub seconds: f64,
    /// The canary's expected errors beyond stable's until then.
    pub excess_errors: f64,
    /// Whether it had spent more than its allotment, as counted.
    pub overspent: bool,
}

/// Simulates the release so many times, on all cores; the same seed gives the same list.
///
/// # Errors
/// The first field of the configuration that is out of its range.
pub fn odds(options: Options, release: &Release) -> Result<Vec<Ended>, ConfigError> {
    let bets = Bets::new(release.evidence.clone())?;
    // A service that fails all the time burns its budget all the time.
    let burns = |seconds: u32| {
        let requests = release.scenario.requests_per_second * f64::from(seconds);
        WindowCounts {
            requests,
            bad: requests * release.scenario.stable_rate,
        }
    };
    let windows = serin_analysis::guard::WINDOW_PAIRS
        .map(|pair| (burns(pair.long_seconds), burns(pair.short_seconds)));
    let guard = burning(&windows, release.evidence.budget_fraction);
    Ok(parallel::map(options.runs, options.seed, |seed| {
        Run::new(release, &bets, guard, seed).run()
    }))
}

/// What the judge says to the planner.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Said {
    RollBack { by_budget: bool },
    Held,
    Sound,
    Undecided { next: Option<f64> },
}

/// What a step waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Over,
    Time,
    Evidence,
}

struct Run<'a> {
    release: &'a Release,
    bets: &'a Bets,
    guard: Option<Burning>,
    world: World,
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

impl<'a> Run<'a> {
    fn new(release: &'a Release, bets: &'a Bets, guard: Option<Burning>, seed: u64) -> Self {
        let mut world = World::new(release.scenario, seed);
        let mut evidence = Evidence::new(bets, 0);
        evidence.learn_dispersion(&world.history());
        let (step, weight) = match &release.pace {
            Pace::Evidence => (0, release.judge.steps.first_weight),
            // Before the first traffic there is nothing to be seen.
            Pace::Steps(steps) => steps
                .iter()
                .enumerate()
                .find_map(|(index, step)| match step {
                    Step::SetWeight(weight) if *weight > 0.0 => Some((index + 1, *weight)),
                    _ => None,
                })
                .unwrap_or((steps.len(), 0.0)),
        };
        Self {
            release,
            bets,
            guard,
            world,
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

    fn run(mut self) -> Ended {
        loop {
            // A pace that never gives the canary traffic is promoted by its steps alone.
            let said = if self.weight > 0.0 || self.evidence.ticks > 0 {
                self.tick()
            } else {
                self.pass()
            };
            let decision = match said {
                Said::RollBack { by_budget: true } => Some(Decision::RolledBackByBudget),
                Said::RollBack { by_budget: false } => Some(Decision::RolledBack),
                said => self.advance(said),
            };
            if let Some(decision) = decision {
                return Ended {
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

    fn pass(&mut self) -> Said {
        self.now_ms += self.scrape_ms();
        Said::Undecided { next: None }
    }

    /// One scrape and what is said of it.
    fn tick(&mut self) -> Said {
        let served = self.world.serve(self.weight);
        self.now_ms = served.tick.at_ms;
        self.excess_errors += served.excess_errors;
        if served.tick.counts.canary_requests > 0.0 {
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
        };
        self.evidence.add(self.bets, &served.tick, &context);
        self.said()
    }

    fn said(&mut self) -> Said {
        let Self {
            release,
            now_ms,
            weight,
            ..
        } = *self;
        let mut config = release.judge;
        if matches!(release.pace, Pace::Steps(_)) && weight > 0.0 {
            // As the controller does: with steps, any weight is as good as the last one, and how
            // far a step goes is written.
            config.steps.max_weight = weight;
            config.steps.kappa = f64::INFINITY;
        }
        let context = Context {
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
        let told = ObjectiveEvidence {
            allotment: Some(release.allotment),
            fresh,
            hold,
            ..ObjectiveEvidence::of("", self.bets, &self.evidence, &config, weight)
        };
        self.spent = told.spent;
        match Standing::new(&config, &context, &[told], &[1.0], self.scrape_ms()).verdict() {
            Verdict::RollBack(cause) => Said::RollBack {
                by_budget: cause != serin_analysis::judge::RollBackCause::Evidence,
            },
            _ if weight <= 0.0 => Said::Undecided { next: None },
            Verdict::Hold(_) | Verdict::StepDown { .. } | Verdict::Freeze(_) => Said::Held,
            Verdict::Forward(Forward::Promote) | Verdict::GoOnCure(Forward::Promote) => Said::Sound,
            Verdict::Forward(Forward::Step { next })
            | Verdict::GoOnCure(Forward::Step { next }) => Said::Undecided { next: Some(next) },
            _ => Said::Undecided { next: None },
        }
    }

    /// Goes as far as what was said allows; the decision where that is the end.
    fn advance(&mut self, said: Said) -> Option<Decision> {
        loop {
            let wait = match &self.release.pace {
                Pace::Evidence => self.by_evidence(said),
                Pace::Steps(steps) => self.of_step(steps.get(self.step), said),
            };
            match wait {
                Wait::Time => return None,
                Wait::Evidence => {
                    let has_waited =
                        seconds(self.now_ms - self.step_began_ms) >= self.release.longest_seconds;
                    return has_waited.then_some(Decision::Undecided);
                }
                Wait::Over => {
                    let Pace::Steps(steps) = &self.release.pace else {
                        return Some(Decision::Promoted);
                    };
                    let Some(step) = steps.get(self.step) else {
                        return Some(Decision::Promoted);
                    };
                    if let Step::SetWeight(weight) = step {
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

    fn by_evidence(&mut self, said: Said) -> Wait {
        match said {
            Said::Sound => Wait::Over,
            Said::Undecided { next: Some(next) } if next > self.weight => {
                self.set_weight(next);
                Wait::Time
            }
            _ => Wait::Evidence,
        }
    }

    fn of_step(&self, step: Option<&Step>, said: Said) -> Wait {
        let passed = |since_ms: i64, seconds_needed: f64| {
            if seconds(self.now_ms - since_ms) >= seconds_needed {
                Wait::Over
            } else {
                Wait::Time
            }
        };
        let own = match step {
            Some(Step::Pause(seconds)) => passed(self.step_began_ms, *seconds),
            Some(Step::Analysis(duration)) => match (said, duration) {
                (Said::Sound, None) => Wait::Over,
                (Said::Sound | Said::Undecided { .. }, Some(duration)) => {
                    let fresh_since_ms = self.fresh_since_ms.unwrap_or(self.now_ms);
                    passed(self.step_began_ms.max(fresh_since_ms), *duration)
                }
                _ => Wait::Evidence,
            },
            // What was seen of young pods alone does not suffice to promote.
            None if self.weight > 0.0 => passed(
                self.fresh_since_ms.unwrap_or(self.now_ms),
                self.bets.config().warm_up_seconds,
            ),
            Some(Step::SetWeight(_)) | None => Wait::Over,
        };
        if own == Wait::Over && said == Said::Held {
            Wait::Evidence
        } else {
            own
        }
    }
}

/// What is added to three scrapes before an arm counts as without traffic.
const STALE_MARGIN_MS: i64 = 5_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{Effect, Weather};

    fn release(effect: Effect, pace: Pace) -> Release {
        Release {
            scenario: Scenario {
                requests_per_second: 100.0,
                tick_seconds: 15,
                stable_rate: 5e-4,
                effect,
                weather: Weather::Plain,
            },
            evidence: EvidenceConfig::default().with_history(5e-4),
            judge: JudgeConfig {
                step_down_after_seconds: f64::INFINITY,
                longest_seconds: f64::INFINITY,
                ..JudgeConfig::default()
            },
            pace,
            allotment: 2592.0,
            longest_seconds: 3600.0,
        }
    }

    const OPTIONS: Options = Options { runs: 300, seed: 3 };

    fn share(ended: &[Ended], decision: Decision) -> f64 {
        let count = ended
            .iter()
            .filter(|ended| ended.decision == decision)
            .count();
        f64::from(u32::try_from(count).unwrap()) / f64::from(u32::try_from(ended.len()).unwrap())
    }

    fn steps() -> Pace {
        let half_an_hour = [
            Step::SetWeight(0.05),
            Step::Pause(600.0),
            Step::SetWeight(0.2),
            Step::Pause(600.0),
        ];
        Pace::Steps(
            [
                &half_an_hour[..],
                &[Step::SetWeight(0.5), Step::Pause(600.0)],
            ]
            .concat(),
        )
    }

    #[test]
    fn where_the_evidence_sets_the_pace_a_good_release_is_promoted_and_a_bad_one_rolled_back() {
        let good = odds(OPTIONS, &release(Effect::Times(1.0), Pace::Evidence)).unwrap();
        assert!(
            share(&good, Decision::Promoted) >= 0.98,
            "{}",
            share(&good, Decision::Promoted)
        );
        let bad = odds(OPTIONS, &release(Effect::Times(10.0), Pace::Evidence)).unwrap();
        assert!(share(&bad, Decision::RolledBack) >= 0.99);
        assert!(bad.iter().all(|ended| ended.excess_errors < 100.0));
    }

    #[test]
    fn steps_take_the_time_that_is_written_and_no_more() {
        let good = odds(OPTIONS, &release(Effect::Times(1.0), steps())).unwrap();
        let promoted: Vec<f64> = good
            .iter()
            .filter(|ended| ended.decision == Decision::Promoted)
            .map(|ended| ended.seconds)
            .collect();
        assert!(promoted.len() >= 290, "{}", promoted.len());
        // Each step is seen to be over at a scrape.
        assert!(
            promoted
                .iter()
                .all(|seconds| (1800.0..=1860.0).contains(seconds)),
            "{promoted:?}"
        );
    }

    #[test]
    fn an_analysis_step_waits_for_evidence_and_a_person_is_asked_where_none_comes() {
        let pace = |last| Pace::Steps(vec![Step::SetWeight(0.2), Step::Analysis(last)]);
        let for_a_time = odds(OPTIONS, &release(Effect::Times(1.0), pace(Some(300.0)))).unwrap();
        assert!(for_a_time.iter().any(|ended| ended.seconds <= 345.0));
        let until_proven = odds(OPTIONS, &release(Effect::Times(1.0), pace(None))).unwrap();
        assert!(share(&until_proven, Decision::Promoted) > 0.9);
        let later = until_proven
            .iter()
            .filter(|ended| ended.seconds > 345.0)
            .count();
        assert!(
            later > 200,
            "proof mostly takes longer than five minutes: {later}"
        );
        let at_the_margin = odds(OPTIONS, &release(Effect::Plus(0.0005), pace(None))).unwrap();
        assert!(share(&at_the_margin, Decision::Promoted) <= 0.05);
        assert!(share(&at_the_margin, Decision::Undecided) > 0.2);
    }

    #[test]
    fn without_a_budget_or_while_the_service_burns_nothing_is_promoted() {
        let frozen = Release {
            allotment: 0.0,
            ..release(Effect::Times(1.0), steps())
        };
        assert!(share(&odds(OPTIONS, &frozen).unwrap(), Decision::Promoted) < 1e-9);
        let mut burning = release(Effect::Times(1.0), steps());
        burning.scenario.stable_rate = 0.02;
        assert!(share(&odds(OPTIONS, &burning).unwrap(), Decision::Promoted) < 1e-9);
    }

    #[test]
    fn a_canary_without_requests_is_not_promoted_and_one_without_steps_is_at_once() {
        let mut idle = release(Effect::Times(1.0), steps());
        idle.scenario.requests_per_second = 0.001;
        let idle = odds(Options { runs: 20, seed: 1 }, &idle).unwrap();
        assert!(share(&idle, Decision::Undecided) >= 0.99, "{idle:?}");
        let at_once = odds(
            Options { runs: 20, seed: 1 },
            &release(Effect::Times(1.0), Pace::Steps(vec![])),
        )
        .unwrap();
        assert!(share(&at_once, Decision::Promoted) >= 0.99);
    }

    #[test]
    fn a_seed_gives_the_same_list() {
        let once = || {
            odds(
                Options { runs: 50, seed: 9 },
                &release(Effect::Times(2.0), steps()),
            )
            .unwrap()
        };
        assert_eq!(once(), once());
    }
}

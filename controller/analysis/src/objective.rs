//! One objective of one rollout: samples in, evidence out.

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, EvidenceConfig, within};
use crate::counters::{CounterConfig, Counters, Feed, Rounds};
use crate::counts::{Counts, Tick};
use crate::evidence::{Bets, Evidence, TickContext};

/// How one objective is judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// What people call it.
    pub name: String,
    /// Its share of the mean of e-values that rolls back; any positive number.
    pub weight: f64,
    /// What the evidence is gathered with.
    pub evidence: EvidenceConfig,
    /// How samples become rounds.
    pub counters: CounterConfig,
    /// An arm whose last sample is older than this is stale; one without a request for this long
    /// has no traffic.
    pub stale_after_ms: i64,
    /// How long after its timestamp a sample is taken to be visible, where there are several
    /// sources.
    pub settle_ms: i64,
    /// Whether it is known, from history or by a person's word, that the error selector is right.
    pub selector_verified: bool,
}

/// What follows from the scrape interval; see the fields of [`ObjectiveConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How samples become rounds.
    pub counters: CounterConfig,
    /// How long after its timestamp a sample is taken to be visible.
    pub settle_ms: i64,
    /// An arm whose last sample is older than this is stale.
    pub stale_after_ms: i64,
}

/// Prometheus shows a sample within its scrape interval and these many milliseconds.
const SETTLE_MARGIN_MS: i64 = 5000;

impl ObjectiveConfig {
    /// The defaults for an objective such as 0.999 (a fraction), scraped this often.
    pub fn new(name: impl Into<String>, target: f64, scrape_interval_ms: i64) -> Self {
        let settle_ms = scrape_interval_ms.saturating_add(SETTLE_MARGIN_MS);
        Self {
            name: name.into(),
            weight: 1.0,
            evidence: EvidenceConfig::for_budget_fraction(1.0 - target),
            counters: CounterConfig {
                scrape_interval_ms,
                ..CounterConfig::default()
            },
            // Three scrapes missed, of samples that are shown as late as can be.
            stale_after_ms: scrape_interval_ms
                .saturating_mul(3)
                .saturating_add(settle_ms),
            settle_ms,
            selector_verified: false,
        }
    }
}

impl Default for ObjectiveConfig {
    /// 99.9 %, scraped every 15 s.
    fn default() -> Self {
        Self::new("availability", 0.999, 15_000)
    }
}

/// All that must survive a restart: serialisable, below 2 KB of JSON, bounded however long the
/// rollout and however many the pods.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectiveState {
    /// The evidence so far.
    pub evidence: Evidence,
    /// When the last round closed, or when the rollout began.
    pub round_at_ms: i64,
    /// The newest scrape of the canary.
    pub canary_at_ms: Option<i64>,
    /// The newest scrape of stable.
    pub stable_at_ms: Option<i64>,
    /// The newest round in which the canary had a request.
    pub canary_requests_at_ms: Option<i64>,
    /// Whether the error selector has at some time matched a stable series.
    pub selector_verified: bool,
    /// The newest sample that was not a number.
    pub not_a_number_at_ms: Option<i64>,
}

/// What the caller knows beside the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundContext {
    /// When the canary's pods are no longer young: a minute after they began, unless configured
    /// otherwise.
    pub warm_up_ends_ms: i64,
    /// When the weight last changed.
    pub weight_changed_at_ms: i64,
}

/// What one observation came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RoundReport {
    /// The rounds that were taken in.
    pub ticks: Vec<Tick>,
    /// Samples left out because they were from the future.
    pub from_the_future: u64,
    /// Increments that could not be true and were cut.
    pub inconsistent: u64,
}

/// The state does not belong to this configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// The configuration itself is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state holds another number of bets: it was gathered under another configuration.
    #[error("the stored evidence was gathered with other bets")]
    OtherBets,
}

/// One objective at work: its configuration, and the memory of counters that a restart rebuilds.
#[derive(Debug, Clone)]
pub struct Objective {
    config: ObjectiveConfig,
    bets: Bets,
    counters: Counters,
}

impl Objective {
    /// Begins to gather evidence for a rollout that begins at `began_ms`.
    ///
    /// # Errors
    /// The first field of the configuration that is out of its range.
    pub fn begin(
        config: ObjectiveConfig,
        began_ms: i64,
    ) -> Result<(Self, ObjectiveState), ConfigError> {
        validate(&config)?;
        let bets = Bets::new(config.evidence.clone())?;
        let state = ObjectiveState {
            evidence: Evidence::new(&bets, began_ms),
            round_at_ms: began_ms,
            canary_at_ms: None,
            stable_at_ms: None,
            canary_requests_at_ms: None,
            selector_verified: config.selector_verified,
            not_a_number_at_ms: None,
        };
        let counters = Counters::resume(config.counters, began_ms, began_ms);
        Ok((
            Self {
                config,
                bets,
                counters,
            },
            state,
        ))
    }

    /// Goes on where the state ends. The next feed needs the samples since [`Self::read_from_ms`].
    ///
    /// # Errors
    /// An invalid configuration, or a state of another one.
    pub fn resume(config: ObjectiveConfig, state: &ObjectiveState) -> Result<Self, ResumeError> {
        validate(&config)?;
        let bets = Bets::new(config.evidence.clone())?;
        if !state.evidence.fits(&bets) {
            return Err(ResumeError::OtherBets);
        }
        let counters =
            Counters::resume(config.counters, state.evidence.began_ms, state.round_at_ms);
        Ok(Self {
            config,
            bets,
            counters,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &ObjectiveConfig {
        &self.config
    }

    /// The bets that the evidence is gathered with.
    pub fn bets(&self) -> &Bets {
        &self.bets
    }

    /// From when (exclusive) the next feed must have all samples.
    pub fn read_from_ms(&self) -> i64 {
        self.counters.read_from_ms()
    }

    /// Up to when samples are taken to be visible: [`Feed::settled_ms`] for a clock that shows
    /// `now_ms`.
    pub fn settled_ms(&self, now_ms: i64) -> i64 {
        now_ms.saturating_sub(self.config.settle_ms)
    }

    /// Uses another scrape interval from the next observation on, and the limits that follow from
    /// it. The evidence so far stays.
    pub fn set_timing(&mut self, timing: Timing) {
        self.config.counters = timing.counters;
        self.config.settle_ms = timing.settle_ms;
        self.config.stale_after_ms = timing.stale_after_ms;
        self.counters.set_config(timing.counters);
    }

    /// Allows for samples that are seen so much later, in milliseconds: an arm is stale, or without
    /// traffic, so much later too.
    pub fn allow_for_delay(&mut self, delay_ms: i64) {
        self.config.stale_after_ms = self.config.stale_after_ms.saturating_add(delay_ms);
    }

    /// Learns from the hours before the rollout how stable's errors cluster, once, before the first
    /// observation. `history` holds the samples after `from_ms`. Without this, the first clusters
    /// of a rollout are taken for evidence.
    ///
    /// Returns what stable counted: its error rate is what [`crate::EvidenceConfig::with_history`]
    /// takes.
    pub fn learn(
        config: CounterConfig,
        state: &mut ObjectiveState,
        history: &Feed<'_>,
        from_ms: i64,
    ) -> Counts {
        let ticks = Counters::resume(config, from_ms, from_ms)
            .feed(history)
            .ticks;
        state.evidence.learn_dispersion(&ticks);
        let mut counts = Counts::default();
        for tick in &ticks {
            counts.add(&tick.counts);
        }
        counts
    }

    /// Takes samples in; `state` is then what to persist. Feeding the same samples again changes
    /// nothing.
    pub fn observe(
        &mut self,
        state: &mut ObjectiveState,
        feed: &Feed<'_>,
        context: &RoundContext,
    ) -> RoundReport {
        let rounds = self.counters.feed(feed);
        let round_at_ms = self.counters.round_at_ms();
        self.take(state, rounds, round_at_ms, context)
    }

    /// Takes in rounds that were not made of single series: those that began when the last one had
    /// closed, or later. What is between the two is lost, of requests and errors alike; nothing
    /// counts twice.
    pub fn observe_rounds(
        &mut self,
        state: &mut ObjectiveState,
        mut rounds: Rounds,
        context: &RoundContext,
    ) -> RoundReport {
        let round_at_ms = rounds.retain_since(state.round_at_ms);
        self.take(state, rounds, round_at_ms, context)
    }

    fn take(
        &mut self,
        state: &mut ObjectiveState,
        rounds: Rounds,
        round_at_ms: i64,
        context: &RoundContext,
    ) -> RoundReport {
        let tick_context = TickContext {
            warm_up_ends_ms: context.warm_up_ends_ms,
            weight_changed_at_ms: context.weight_changed_at_ms,
        };
        for tick in &rounds.ticks {
            state.evidence.add(&self.bets, tick, &tick_context);
        }
        state.round_at_ms = round_at_ms;
        state.canary_at_ms = state.canary_at_ms.max(rounds.canary_at_ms);
        state.stable_at_ms = state.stable_at_ms.max(rounds.stable_at_ms);
        state.canary_requests_at_ms = state
            .canary_requests_at_ms
            .max(rounds.canary_requests_at_ms);
        state.selector_verified |= rounds.selector_matched_stable;
        state.not_a_number_at_ms = state.not_a_number_at_ms.max(rounds.not_a_number_at_ms);
        RoundReport {
            ticks: rounds.ticks,
            from_the_future: rounds.from_the_future,
            inconsistent: rounds.inconsistent,
        }
    }
}

fn validate(config: &ObjectiveConfig) -> Result<(), ConfigError> {
    within("weight", config.weight, f64::MIN_POSITIVE, 1e9)?;
    let positive = |field, value: i64| {
        if value > 0 {
            Ok(())
        } else {
            Err(ConfigError::new(
                field,
                format!("must be above 0, not {value}"),
            ))
        }
    };
    positive(
        "counters.scrapeIntervalMs",
        config.counters.scrape_interval_ms,
    )?;
    positive("staleAfterMs", config.stale_after_ms)?;
    if config.counters.forget_ms <= config.counters.scrape_interval_ms.saturating_mul(2) {
        return Err(ConfigError::new(
            "counters.forgetMs",
            "must be more than two scrape intervals",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::counters::{Arm, Kind, Sample};
    use proptest::prelude::*;

    const CONTEXT: RoundContext = RoundContext {
        warm_up_ends_ms: 60_000,
        weight_changed_at_ms: 90_000,
    };

    /// Three pods, one of them the canary's, that serve and fail as the numbers say.
    fn samples(steps: &[(u16, u8)]) -> Vec<(usize, Kind, i64, f64)> {
        let mut samples = Vec::new();
        for pod in 0..3_usize {
            let (mut total, mut errors) = (0.0, 0.0);
            for (index, (requests, failing)) in steps.iter().enumerate().skip(pod) {
                let at_ms = i64::try_from(index * 15_000 + pod * 4321).unwrap() - 30_000;
                total += f64::from(*requests);
                errors += f64::from((*failing).min(3)).min(f64::from(*requests));
                samples.push((pod, Kind::Total, at_ms, total));
                samples.push((pod, Kind::Errors, at_ms, errors));
            }
        }
        samples
    }

    const PODS: [&str; 3] = ["canary-0", "stable-0", "stable-1"];

    fn observe(
        objective: &mut Objective,
        state: &mut ObjectiveState,
        samples: &[(usize, Kind, i64, f64)],
        now_ms: i64,
    ) {
        let settled_ms = objective.settled_ms(now_ms);
        let births = BTreeMap::from([(PODS[0].to_owned(), 500)]);
        let samples: Vec<_> = samples
            .iter()
            .filter(|(_, _, at_ms, _)| *at_ms <= now_ms)
            .map(|(pod, kind, at_ms, value)| Sample {
                source: PODS[*pod],
                series: "s",
                arm: if *pod == 0 { Arm::Canary } else { Arm::Stable },
                kind: *kind,
                at_ms: *at_ms,
                value: *value,
            })
            .collect();
        objective.observe(
            state,
            &Feed {
                samples: &samples,
                births: &births,
                settled_ms,
                now_ms,
            },
            &CONTEXT,
        );
    }

    proptest! {
        #[test]
        fn a_restart_at_any_moment_changes_no_bit(
            steps in prop::collection::vec((any::<u16>(), any::<u8>()), 4..80), restarts in prop::collection::vec(0_i64..1_300_000, 0..6),
        ) {
            let samples = samples(&steps);
            let config = ObjectiveConfig::default();
            let (mut whole, mut expected) = Objective::begin(config.clone(), 0).unwrap();
            observe(&mut whole, &mut expected, &samples, 1_400_000);

            let (mut objective, mut state) = Objective::begin(config.clone(), 0).unwrap();
            let mut restarts = restarts;
            restarts.sort_unstable();
            for now_ms in restarts {
                observe(&mut objective, &mut state, &samples, now_ms);
                let json = serde_json::to_string(&state).unwrap();
                prop_assert!(json.len() < 3000, "{} bytes", json.len());
                state = serde_json::from_str(&json).unwrap();
                objective = Objective::resume(config.clone(), &state).unwrap();
            }
            observe(&mut objective, &mut state, &samples, 1_400_000);
            prop_assert_eq!(serde_json::to_string(&state).unwrap(), serde_json::to_string(&expected).unwrap());
            prop_assert!(state.evidence.ticks >= u64::try_from(steps.len()).unwrap().saturating_sub(5));
        }
    }

    #[test]
    fn rounds_that_began_before_the_last_one_closed_count_nothing() {
        let (mut objective, mut state) =
            Objective::begin(ObjectiveConfig::default(), 20_000).unwrap();
        let tick = |at_ms: i64| Tick {
            started_ms: at_ms - 15_000,
            at_ms,
            counts: Counts::new(10.0, 0.0, 90.0, 0.0),
            stable_pods: Vec::new(),
        };
        let rounds = || Rounds {
            ticks: vec![tick(30_000), tick(45_000), tick(60_000)],
            ..Rounds::default()
        };
        let report = objective.observe_rounds(&mut state, rounds(), &CONTEXT);
        // The first one began at 15 s: what was counted until 20 s may be in the evidence already.
        assert_eq!(report.ticks, [tick(45_000), tick(60_000)]);
        assert_eq!(
            (state.round_at_ms, state.evidence.totals.canary_requests),
            (60_000, 20.0)
        );
        let before = state.clone();
        objective.observe_rounds(&mut state, rounds(), &CONTEXT);
        assert_eq!(state, before, "the same again changes nothing");
    }

    #[test]
    fn how_errors_cluster_is_learnt_from_before_the_rollout() {
        let (_, mut state) = Objective::begin(ObjectiveConfig::default(), 0).unwrap();
        let mut samples = Vec::new();
        for scrape in 0..10_u32 {
            let at_ms = i64::from(scrape) * 15_000 - 200_000;
            // Of two pods one makes four errors in every other scrape.
            for (source, errors) in [("a", f64::from(scrape / 2) * 4.0), ("b", 0.0)] {
                let sample = Sample {
                    source,
                    series: "s",
                    arm: Arm::Stable,
                    kind: Kind::Total,
                    at_ms,
                    value: 0.0,
                };
                samples.push(Sample {
                    value: f64::from(scrape) * 100.0,
                    ..sample
                });
                samples.push(Sample {
                    kind: Kind::Errors,
                    value: errors,
                    ..sample
                });
            }
        }
        let births = BTreeMap::new();
        let history = Feed {
            samples: &samples,
            births: &births,
            settled_ms: 0,
            now_ms: 0,
        };
        let counts = Objective::learn(CounterConfig::default(), &mut state, &history, -300_000);
        assert_eq!(counts, Counts::new(0.0, 0.0, 1800.0, 16.0));
        assert_eq!(state.evidence.phi(), Some(4.0));
        assert_eq!(
            (state.evidence.ticks, state.round_at_ms),
            (0, 0),
            "nothing of it is evidence"
        );
    }

    #[test]
    fn a_state_of_other_bets_is_refused() {
        let (_, state) = Objective::begin(ObjectiveConfig::default(), 0).unwrap();
        let mut config = ObjectiveConfig::default();
        config.evidence = config.evidence.with_history(1e-3);
        assert_eq!(
            Objective::resume(config, &state).unwrap_err(),
            ResumeError::OtherBets
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let mut config = ObjectiveConfig::default();
        config.counters.scrape_interval_ms = 0;
        assert_eq!(
            Objective::begin(config, 0).unwrap_err().field,
            "counters.scrapeIntervalMs"
        );
        let mut config = ObjectiveConfig::default();
        config.counters.forget_ms = 20_000;
        assert_eq!(
            Objective::begin(config, 0).unwrap_err().field,
            "counters.forgetMs"
        );
    }
}

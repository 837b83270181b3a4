//! One objective of one rollout: samples in, evidence out.

mod config;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::config::ConfigError;
use crate::counters::{RoundBuilder, Rounds, SampleBatch};
use crate::counts::{Counts, PodId, Tick};
use crate::evidence::{Bets, Evidence, TickContext};
use crate::pods::{OutlierPod, PodEvidence};
use crate::strata::StrataState;
use config::validate;

pub use config::{ObjectiveConfig, Timing};

/// The persistent state of an objective: at most about 10 KB of JSON, and 3 KB where pods are not
/// distinguished, regardless of the duration of the rollout and the number of pods.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectiveState {
    /// Accumulated evidence.
    pub evidence: Evidence,
    /// When the last round closed, or the start of the rollout if none has, in milliseconds since
    /// the epoch.
    pub round_at_ms: i64,
    /// Time of the latest scrape of the canary.
    pub canary_at_ms: Option<i64>,
    /// Time of the latest scrape of stable.
    pub stable_at_ms: Option<i64>,
    /// Time of the latest round with requests to the canary.
    pub canary_requests_at_ms: Option<i64>,
    /// Whether the error selector has ever matched a stable series.
    pub selector_verified: bool,
    /// Time of the latest sample that was not a count.
    pub not_a_number_at_ms: Option<i64>,
    /// Counts of each pod, and the pods that were excluded.
    #[serde(default)]
    pub pods: PodEvidence,
    /// Evidence by endpoint, if the objective has strata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strata: Option<StrataState>,
}

impl ObjectiveState {
    /// `ln E_t`: the evidence that the canary is worse than the tolerances allow, over all requests
    /// and by endpoint.
    pub fn ln_e(&self, bets: &Bets) -> f64 {
        let ln_e = self.evidence.ln_e(bets);
        self.strata
            .as_ref()
            .map_or(ln_e, |strata| strata.ln_mean_with(ln_e, bets))
    }
}

/// Context of an observation beyond its samples.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoundContext {
    /// End of the warm-up of the canary's first pods, in milliseconds since the epoch.
    pub warm_up_ends_ms: i64,
    /// Time of the last weight change, in milliseconds since the epoch.
    pub weight_changed_at_ms: i64,
    /// The canary's pods whose age is known. Empty if none is.
    pub canary_pods: Vec<PodWarmUp>,
}

/// The warm-up of one pod of the canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodWarmUp {
    /// Identity of the pod, as in [`Tick::canary_pods`].
    pub pod: PodId,
    /// When the pod started, in milliseconds since the epoch.
    pub started_ms: i64,
    /// End of its warm-up, in milliseconds since the epoch.
    pub ends_ms: i64,
}

impl RoundContext {
    /// The context of one tick. Everything in it is known before the errors of the tick are: the
    /// ages of pods and the counts of their requests.
    pub fn of_tick(&self, tick: &Tick) -> TickContext {
        TickContext {
            warm_up_ends_ms: self.warm_up_ends_ms,
            weight_changed_at_ms: self.weight_changed_at_ms,
            young_share: self.young_share(tick),
        }
    }

    /// Share of the canary's requests in this tick that went to pods in their warm-up. If the
    /// counts do not distinguish pods, the share of such pods.
    fn young_share(&self, tick: &Tick) -> Option<f64> {
        if self.canary_pods.is_empty() {
            return None;
        }
        let is_young = |pod: &&PodWarmUp| tick.counts_since_ms() < pod.ends_ms;
        let requests: f64 = tick.canary_pods.iter().map(|pod| pod.requests).sum();
        if requests > 0.0 {
            let young: f64 = tick
                .canary_pods
                .iter()
                .filter(|counts| {
                    let known = self.canary_pods.iter().find(|pod| pod.pod == counts.pod);
                    known.is_some_and(|pod| is_young(&pod))
                })
                .map(|counts| counts.requests)
                .sum();
            return Some(young / requests);
        }
        let running = || {
            self.canary_pods
                .iter()
                .filter(|pod| pod.started_ms < tick.at_ms)
        };
        #[expect(
            clippy::cast_precision_loss,
            reason = "a count of pods is far below 2^53"
        )]
        let (young, all) = (
            running().filter(is_young).count() as f64,
            running().count() as f64,
        );
        (all > 0.0).then(|| young / all)
    }
}

/// The result of one observation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RoundReport {
    /// The rounds that were added to the evidence.
    pub ticks: Vec<Tick>,
    /// Number of samples ignored because their timestamps are in the future.
    pub future_samples: u64,
    /// Number of inconsistent increments that were limited.
    pub inconsistent_increments: u64,
}

/// Error when resuming from a stored state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state has a different number of bets: it belongs to another configuration.
    #[error("the stored evidence was gathered with other bets")]
    OtherBets,
}

/// A running objective: its configuration, and counter values that are rebuilt after a restart.
#[derive(Debug, Clone)]
pub struct Objective {
    config: ObjectiveConfig,
    bets: Bets,
    counters: RoundBuilder,
    /// The stable pods that the canary is compared with. `None` if these are all.
    baseline: Option<BTreeSet<PodId>>,
}

impl Objective {
    /// Starts the analysis of a rollout that begins at `began_ms`.
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
            pods: PodEvidence::default(),
            strata: None,
        };
        let counters = RoundBuilder::resume(config.counters, began_ms, began_ms);
        Ok((
            Self {
                config,
                bets,
                counters,
                baseline: None,
            },
            state,
        ))
    }

    /// Resumes from a stored state. The next batch must contain all samples since
    /// [`Self::read_from_ms`].
    ///
    /// # Errors
    /// The configuration is invalid, or the state belongs to another configuration.
    pub fn resume(config: ObjectiveConfig, state: &ObjectiveState) -> Result<Self, ResumeError> {
        validate(&config)?;
        let bets = Bets::new(config.evidence.clone())?;
        let strata = state.strata.as_ref();
        if !state.evidence.is_compatible(&bets)
            || strata.is_some_and(|strata| !strata.is_compatible(&bets))
        {
            return Err(ResumeError::OtherBets);
        }
        let counters =
            RoundBuilder::resume(config.counters, state.evidence.began_ms, state.round_at_ms);
        Ok(Self {
            config,
            bets,
            counters,
            baseline: None,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &ObjectiveConfig {
        &self.config
    }

    /// The bets of the evidence.
    pub fn bets(&self) -> &Bets {
        &self.bets
    }

    /// Start (exclusive) of the period of which the next batch must contain all samples.
    pub fn read_from_ms(&self) -> i64 {
        self.counters.read_from_ms()
    }

    /// Time up to which all samples are assumed to be visible at `now_ms`: the value for
    /// [`SampleBatch::settled_ms`].
    pub fn settled_ms(&self, now_ms: i64) -> i64 {
        now_ms.saturating_sub(self.config.settle_ms)
    }

    /// Changes the scrape interval and the limits that depend on it, effective with the next
    /// observation. Existing evidence is kept.
    pub fn set_timing(&mut self, timing: Timing) {
        self.config.counters = timing.counters;
        self.config.settle_ms = timing.settle_ms;
        self.config.stale_after_ms = timing.stale_after_ms;
        self.counters.set_config(timing.counters);
    }

    /// Sets the stable pods that the canary is compared with from the next observation on, or all if
    /// `None`. They must be chosen without knowledge of their errors, for example by age. All stable
    /// pods still count for the error budget and for the temper.
    pub fn set_baseline(&mut self, pods: Option<BTreeSet<PodId>>) {
        self.baseline = pods;
    }

    /// The tick as the bets see it: with the counts of the baseline pods as those of stable. `None`
    /// if all stable pods are compared.
    fn compared(&self, tick: &Tick) -> Option<Tick> {
        let baseline = self.baseline.as_ref()?;
        let pods = || {
            let pods = tick.stable_pods.iter();
            pods.filter(|pod| baseline.contains(&pod.pod))
        };
        let mut compared = tick.clone();
        compared.counts.stable_requests = pods().map(|pod| pod.requests).sum();
        compared.counts.stable_errors = pods().map(|pod| pod.errors).sum();
        compared.stable_pods = pods().copied().collect();
        Some(compared)
    }

    /// Allows for samples that arrive with an additional delay, in milliseconds. It is added to the
    /// staleness limit.
    pub fn allow_for_delay(&mut self, delay_ms: i64) {
        self.config.stale_after_ms = self.config.stale_after_ms.saturating_add(delay_ms);
    }

    /// Estimates the overdispersion of stable's errors from before the rollout. Call it once,
    /// before the first observation. `history` holds the samples after `from_ms`. Without this, the
    /// first error clusters of a rollout count as evidence.
    ///
    /// Returns the counts of the history. Pass stable's error rate to
    /// [`crate::EvidenceConfig::with_history`].
    pub fn estimate_dispersion(
        config: &ObjectiveConfig,
        state: &mut ObjectiveState,
        history: &SampleBatch<'_>,
        from_ms: i64,
    ) -> Counts {
        let mut ticks = RoundBuilder::resume(config.counters, from_ms, from_ms)
            .add_samples(history)
            .ticks;
        Self::learn_dispersion(config, state, &mut ticks);
        let mut counts = Counts::default();
        for tick in &ticks {
            counts.add(&tick.counts);
        }
        counts
    }

    /// Estimates the overdispersion from the rounds before a release, in order of time.
    pub fn learn_dispersion(
        config: &ObjectiveConfig,
        state: &mut ObjectiveState,
        history: &mut [Tick],
    ) {
        if !config.sources_are_pods {
            for tick in history.iter_mut() {
                tick.stable_pods.clear();
            }
        }
        state.evidence.learn_dispersion(history);
    }

    /// Excludes a canary pod: from now on its requests are not evidence, and the evidence starts
    /// again. Returns false if too many pods already are.
    pub fn exclude_pod(
        &self,
        state: &mut ObjectiveState,
        outlier: &OutlierPod,
        name: &str,
        at_ms: i64,
    ) -> bool {
        let is_excluded = state.pods.exclude(outlier, name, at_ms);
        if is_excluded {
            state.evidence = state.evidence.restarted(&self.bets);
            // The strata do not distinguish pods. They start again with the next samples.
            if state.strata.is_some() {
                state.strata = Some(StrataState::default());
            }
        }
        is_excluded
    }

    /// Adds samples and updates `state`, which the caller then persists. Adding the same samples
    /// again has no effect.
    pub fn observe(
        &mut self,
        state: &mut ObjectiveState,
        batch: &SampleBatch<'_>,
        context: &RoundContext,
    ) -> RoundReport {
        let rounds = self.counters.add_samples(batch);
        let round_at_ms = self.counters.round_at_ms();
        self.apply_rounds(state, rounds, round_at_ms, context)
    }

    /// Adds pre-aggregated rounds. Rounds that began before the last one closed are ignored. Counts
    /// between the two are lost, requests and errors alike; nothing counts twice.
    pub fn observe_rounds(
        &mut self,
        state: &mut ObjectiveState,
        mut rounds: Rounds,
        context: &RoundContext,
    ) -> RoundReport {
        let round_at_ms = rounds.retain_since(state.round_at_ms);
        self.apply_rounds(state, rounds, round_at_ms, context)
    }

    fn apply_rounds(
        &mut self,
        state: &mut ObjectiveState,
        mut rounds: Rounds,
        round_at_ms: i64,
        context: &RoundContext,
    ) -> RoundReport {
        let mut baseline_at_ms = None;
        let at_ms = |tick: &Tick| tick.at_ms;
        for tick in &mut rounds.ticks {
            if !self.config.sources_are_pods {
                tick.stable_pods.clear();
                tick.canary_pods.clear();
            }
            let baseline_rate = state.evidence.baseline_rate(&self.config.evidence);
            let kept = state
                .pods
                .add(tick, context.weight_changed_at_ms, baseline_rate);
            let tick_context = context.of_tick(&kept);
            let compared = self.compared(&kept);
            let has_pods = |tick: &&Tick| !tick.stable_pods.is_empty();
            baseline_at_ms = baseline_at_ms.max(compared.as_ref().filter(has_pods).map(at_ms));
            state
                .evidence
                .add_compared(&self.bets, &kept, compared.as_ref(), &tick_context);
        }
        state.round_at_ms = round_at_ms;
        state.canary_at_ms = state.canary_at_ms.max(rounds.canary_at_ms);
        // Without samples of the baseline there is nothing to compare.
        let stable_at_ms = match self.baseline {
            Some(_) => baseline_at_ms,
            None => rounds.stable_at_ms,
        };
        state.stable_at_ms = state.stable_at_ms.max(stable_at_ms);
        state.canary_requests_at_ms = state
            .canary_requests_at_ms
            .max(rounds.canary_requests_at_ms);
        state.selector_verified |= rounds.selector_matched_stable;
        state.not_a_number_at_ms = state.not_a_number_at_ms.max(rounds.not_a_number_at_ms);
        RoundReport {
            ticks: rounds.ticks,
            future_samples: rounds.future_samples,
            inconsistent_increments: rounds.inconsistent_increments,
        }
    }
}

#[cfg(test)]
mod tests;

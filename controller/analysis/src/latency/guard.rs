//! The latency guard compares the whole distribution: a canary can meet the threshold and still be
//! slower than stable elsewhere.
//!
//! For each histogram edge, "took longer than the edge" is a separate bad event with a separate
//! e-process against
//!
//! ```text
//! H0:  P(canary above the edge) <= rho0 P(stable above the edge) + delta0    at every tick
//! ```
//!
//! of Bernoulli bets ([`bernoulli`]). At low edges most requests are "bad", and the Poisson form
//! would have little power. A tick's bets assume stable's rate in the earlier ticks. **Their
//! validity does not depend on it**: by convexity each is an e-value for every pair of rates in H0,
//! so any rate that is fixed before the tick preserves the bound. Only the power of the bets
//! depends on its accuracy.
//!
//! The guard's evidence is the mean over the edges. A mean of e-processes is an e-process
//! regardless of their dependence (the edges of one histogram are strongly dependent). By Ville's
//! inequality it exceeds `1/alpha` with probability at most `alpha` if H0 holds at every edge. The
//! temper `k`, estimated from stable's pods at each edge, is a heuristic for requests that are not
//! independent.

use serde::{Deserialize, Serialize};

use crate::bernoulli::{ODDS_RATIOS, bernoulli};
use crate::config::EvidenceConfig;
use crate::counters::{CounterConfig, RoundBuilder, Rounds, SampleBatch};
use crate::counts::{Counts, Tick};
use crate::eprocess::{Funding, Mixture, elapsed_seconds};
use crate::numeric::log_sum_exp;
use crate::objective::RoundContext;
use crate::overdispersion::Overdispersion;

/// Maximum number of edges. More would make the state too large for a status without improving the
/// guard.
pub const MAX_EDGES: usize = 32;

/// Weight of a guard that rolls back in the mean of e-values, relative to its objective's weight.
/// Any weight that is fixed in advance preserves the bound. With this one the objective rolls back
/// at 1.25 times the evidence that it would need alone, and the guard at five times.
pub const GUARD_WEIGHT: f64 = 0.25;

/// Bets assume rates between this value and its complement.
const MIN_RATE: f64 = 1e-4;

/// The persistent state of a latency guard: about 450 bytes of JSON for each edge, at most
/// [`MAX_EDGES`] edges.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LatencyGuardState {
    /// The compared edges in ascending order.
    pub edges: Vec<EdgeState>,
    /// The latest round in which both arms had requests at some edge, in milliseconds since the
    /// epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared_at_ms: Option<i64>,
    /// Minimum temper: that of the objective when the guard started, which was estimated from
    /// before the release.
    least_k: f64,
}

/// The state of one edge: how often the requests of each arm took longer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EdgeState {
    /// The edge, in seconds.
    pub seconds: f64,
    /// When the last round closed, in milliseconds since the epoch.
    pub round_at_ms: i64,
    /// Counts of both arms so far. Errors are requests that took longer than the edge. The bets of
    /// the next tick assume stable's rate in these counts.
    pub totals: Counts,
    ticks: u64,
    mixture: Mixture,
    funding: Funding,
    dispersion: Overdispersion,
}

/// The evidence of a latency guard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LatencyGuardEvidence {
    /// `ln` of the mean e-value.
    pub ln_e: f64,
    /// Number of compared edges.
    pub edges: usize,
    /// The edge with the strongest evidence. `None` without edges.
    pub worst: Option<EdgeEvidence>,
    /// Whether it contributes to rollbacks. It can always hold a rollout.
    pub rolls_back: bool,
}

/// The counts of one edge.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeEvidence {
    /// The edge, in seconds.
    pub seconds: f64,
    /// Requests of both arms; errors are those that took longer.
    pub counts: Counts,
}

impl Default for LatencyGuardState {
    fn default() -> Self {
        Self {
            edges: Vec::new(),
            compared_at_ms: None,
            least_k: 1.0,
        }
    }
}

impl LatencyGuardState {
    /// Whether this state has the current number of bets. Otherwise it was written by another
    /// version.
    pub fn is_compatible(&self) -> bool {
        self.edges.len() <= MAX_EDGES
            && self
                .edges
                .iter()
                .all(|edge| edge.mixture.len() == ODDS_RATIOS.len())
    }

    /// `ln` of the mean e-value. 0 without edges.
    pub fn ln_e(&self) -> f64 {
        if self.edges.is_empty() {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "at most 32 edges")]
        let edges = self.edges.len() as f64;
        log_sum_exp(self.edges.iter().map(EdgeState::ln_e)) - edges.ln()
    }

    /// Summarizes the evidence.
    pub fn evidence(&self, rolls_back: bool) -> LatencyGuardEvidence {
        let worst = self
            .edges
            .iter()
            .max_by(|one, other| one.ln_e().total_cmp(&other.ln_e()));
        let worst = worst.map(|edge| EdgeEvidence {
            seconds: edge.seconds,
            counts: edge.totals,
        });
        LatencyGuardEvidence {
            ln_e: self.ln_e(),
            edges: self.edges.len(),
            worst,
            rolls_back,
        }
    }
}

impl EdgeState {
    fn new(seconds: f64, round_at_ms: i64) -> Self {
        Self {
            seconds,
            round_at_ms,
            totals: Counts::default(),
            ticks: 0,
            mixture: Mixture::new(ODDS_RATIOS.len()),
            funding: Funding::default(),
            dispersion: Overdispersion::default(),
        }
    }

    /// `ln` of the e-value of this edge.
    pub fn ln_e(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "there are six odds ratios")]
        let ln_weights = [-(ODDS_RATIOS.len() as f64).ln(); ODDS_RATIOS.len()];
        self.mixture.ln_value(&ln_weights)
    }

    /// Adds a tick. A warm-up tick only updates the rates, because cold caches make a new pod slow
    /// at every edge.
    fn add(
        &mut self,
        config: &EvidenceConfig,
        began_ms: i64,
        least_k: f64,
        tick: &Tick,
        context: &RoundContext,
    ) {
        self.ticks += 1;
        let warm = tick.started_ms < context.warm_up_ends_ms;
        let elapsed = elapsed_seconds(began_ms, tick);
        let omega = self.funding.due(
            &config.restarts,
            self.ticks,
            elapsed,
            warm,
            config.warm_up_seconds,
        );
        self.mixture.fund(omega);
        let k = self.dispersion.k().max(least_k);
        let has_both = tick.counts.canary_requests > 0.0 && tick.counts.stable_requests > 0.0;
        if let Some(rate) = self.totals.stable_rate().filter(|_| has_both && !warm) {
            let rate = rate.clamp(MIN_RATE, 1.0 - MIN_RATE);
            let line = |psi: &f64| {
                bernoulli(&tick.counts, rate, *psi, config.rho0)
                    .tempered(k)
                    .at(config.delta0)
            };
            self.mixture.multiply(
                ODDS_RATIOS.iter().map(line),
                config.clip.unwrap_or(f64::INFINITY),
            );
        }
        self.dispersion.add(&tick.stable_pods);
        self.totals.add(&tick.counts);
    }
}

/// A running latency guard: its configuration, and counter values that are rebuilt after a restart.
#[derive(Debug, Clone)]
pub struct LatencyGuard {
    evidence: EvidenceConfig,
    counters: CounterConfig,
    began_ms: i64,
    edges: Vec<RoundBuilder>,
}

impl LatencyGuard {
    /// Resumes from a stored state. `began_ms` is the start of the release. Without edges, call
    /// [`Self::set_edges`] once they are known.
    pub fn resume(
        evidence: EvidenceConfig,
        counters: CounterConfig,
        began_ms: i64,
        state: &LatencyGuardState,
    ) -> Self {
        let resume = |edge: &EdgeState| RoundBuilder::resume(counters, began_ms, edge.round_at_ms);
        Self {
            edges: state.edges.iter().map(resume).collect(),
            evidence,
            counters,
            began_ms,
        }
    }

    /// Changes the counter configuration, effective with the next observation.
    pub fn set_counters(&mut self, counters: CounterConfig) {
        self.counters = counters;
        self.edges
            .iter_mut()
            .for_each(|edge| edge.set_config(counters));
    }

    /// Sets the edges to compare, in seconds, unless they are already set. Of more than
    /// [`MAX_EDGES`] edges an evenly spaced subset is used. Samples up to `round_at_ms` only serve
    /// as a baseline. `k` is the objective's temper, at least 1.
    pub fn set_edges(
        &mut self,
        state: &mut LatencyGuardState,
        edges: &[f64],
        round_at_ms: i64,
        k: f64,
    ) {
        if !state.edges.is_empty() {
            return;
        }
        let every = edges.len().div_ceil(MAX_EDGES).max(1);
        let chosen = edges.iter().skip(every - 1).step_by(every);
        state.edges = chosen
            .map(|seconds| EdgeState::new(*seconds, round_at_ms))
            .collect();
        state.least_k = k.max(1.0);
        *self = Self::resume(self.evidence.clone(), self.counters, self.began_ms, state);
    }

    /// Adds the samples of the edge with this index. Good requests are those within the edge.
    pub fn observe(
        &mut self,
        state: &mut LatencyGuardState,
        index: usize,
        batch: &SampleBatch<'_>,
        context: &RoundContext,
    ) {
        let Some(counters) = self.edges.get_mut(index) else {
            return;
        };
        let ticks = counters.add_samples(batch).ticks;
        let round_at_ms = counters.round_at_ms();
        self.apply_ticks(state, index, &ticks, round_at_ms, context);
    }

    /// Adds pre-aggregated rounds of one edge. Rounds that began before the last one closed are
    /// ignored.
    pub fn observe_rounds(
        &self,
        state: &mut LatencyGuardState,
        index: usize,
        mut rounds: Rounds,
        context: &RoundContext,
    ) {
        let Some(edge) = state.edges.get(index) else {
            return;
        };
        let round_at_ms = rounds.retain_since(edge.round_at_ms);
        self.apply_ticks(state, index, &rounds.ticks, round_at_ms, context);
    }

    fn apply_ticks(
        &self,
        state: &mut LatencyGuardState,
        index: usize,
        ticks: &[Tick],
        round_at_ms: i64,
        context: &RoundContext,
    ) {
        let Some(edge) = state.edges.get_mut(index) else {
            return;
        };
        for tick in ticks {
            edge.add(&self.evidence, self.began_ms, state.least_k, tick, context);
            if tick.counts.canary_requests > 0.0 && tick.counts.stable_requests > 0.0 {
                state.compared_at_ms = state.compared_at_ms.max(Some(tick.at_ms));
            }
        }
        edge.round_at_ms = round_at_ms;
    }
}

#[cfg(test)]
impl LatencyGuardState {
    /// The state after `ticks` ticks with constant counts at each edge.
    pub(crate) fn after_ticks(ticks: i64, edges: &[(f64, Counts)]) -> Self {
        let mut state = Self::default();
        let context = RoundContext {
            warm_up_ends_ms: 0,
            weight_changed_at_ms: 0,
        };
        for (seconds, counts) in edges {
            let mut edge = EdgeState::new(*seconds, 0);
            for index in 0..ticks {
                let (started_ms, at_ms) = (index * 15_000, (index + 1) * 15_000);
                let tick = Tick {
                    started_ms,
                    at_ms,
                    counts: *counts,
                    stable_pods: Vec::new(),
                };
                edge.add(&EvidenceConfig::default(), 0, 1.0, &tick, &context);
            }
            state.edges.push(edge);
            state.compared_at_ms = Some(ticks * 15_000);
        }
        state
    }
}

#[cfg(test)]
mod tests;

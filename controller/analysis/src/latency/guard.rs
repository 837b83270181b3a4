//! The latency guard compares the whole distribution: a canary can meet the threshold and still be
//! slower than stable elsewhere.
//!
//! For each histogram edge, "took longer than the edge" is a separate bad event with a separate
//! e-process against
//!
//! ```text
//! H0:  P(canary above the edge) <= rho P(stable above the edge) + delta0    at every tick
//! ```
//!
//! where `rho` is what a canary that is slower by 10 % would have ([`super::tolerance`]), of
//! stable's requests in earlier ticks. The process consists
//! of Bernoulli bets ([`bernoulli`]). At low edges most requests are "bad", and the Poisson form
//! would have little power. A tick's bets assume stable's rate in the earlier ticks. **Their
//! validity does not depend on it**: by convexity each is an e-value for every pair of rates in H0,
//! so any rate that is fixed before the tick preserves the bound. Only the power of the bets
//! depends on its accuracy.
//!
//! The guard's evidence is the mean over the edges. A mean of e-processes is an e-process
//! regardless of their dependence (the edges of one histogram are strongly dependent). By Ville's
//! inequality it exceeds `1/alpha` with probability at most `alpha` if H0 holds at every edge. The
//! temper `k`, estimated from stable's pods at each edge in the hour before the release and since,
//! is a heuristic for requests that are not independent. Where pods cannot be distinguished it is
//! unknown, and one scrape counts at most a factor of 10.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::edge::{EdgeHistory, EdgeState, EdgeTerms};
use super::find_edge;
use super::tolerance::{Beyond, relative_tolerance};
use crate::config::EvidenceConfig;
use crate::counters::{CounterConfig, RoundBuilder, Rounds, SampleBatch};
use crate::counts::{Counts, Tick};
use crate::numeric::log_sum_exp;
use crate::objective::RoundContext;

/// Maximum number of edges. More would make the state too large for a status without improving the
/// guard.
pub const MAX_EDGES: usize = 32;

/// Maximum number of edges whose history is kept until the edges of both arms are known.
const MAX_HISTORY_EDGES: usize = 64;

/// Weight of a guard that rolls back in the mean of e-values, relative to its objective's weight.
/// Any weight that is fixed in advance preserves the bound. With this one the objective rolls back
/// at 1.25 times the evidence that it would need alone, and the guard at five times.
pub const GUARD_WEIGHT: f64 = 0.25;

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
    /// Stable's requests before the release, by edge, until the edges are set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    history: Vec<EdgeHistory>,
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
            history: Vec::new(),
        }
    }
}

impl LatencyGuardState {
    /// Whether this state has the current number of bets. Otherwise it was written by another
    /// version.
    pub fn is_compatible(&self) -> bool {
        self.edges.len() <= MAX_EDGES && self.edges.iter().all(EdgeState::is_compatible)
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

    /// Learns from stable's requests before the release how slow requests cluster at each edge.
    /// Without effect once the edges are set.
    pub fn learn(&mut self, history: Vec<EdgeHistory>) {
        if self.edges.is_empty() {
            self.history = history;
            self.history.truncate(MAX_HISTORY_EDGES);
        }
    }

    /// Adds ticks of all edges, each with the index of its edge. The tolerance of a tick only
    /// depends on ticks that ended before it began.
    fn add_ticks(
        &mut self,
        config: &EvidenceConfig,
        began_ms: i64,
        ticks: &BTreeMap<i64, Vec<(usize, &Tick)>>,
        context: &RoundContext,
    ) {
        for simultaneous in ticks.values() {
            let closed_ms: Vec<i64> = self.edges.iter().map(|edge| edge.round_at_ms).collect();
            let beyond: Vec<Beyond> = self.edges.iter().map(EdgeState::beyond).collect();
            for (index, tick) in simultaneous {
                let Some(edge) = self.edges.get_mut(*index) else {
                    continue;
                };
                // Otherwise the tolerance would depend on the requests of the tick itself.
                let is_known = closed_ms.iter().all(|at_ms| *at_ms <= tick.started_ms);
                let terms = EdgeTerms {
                    config,
                    began_ms,
                    least_k: self.least_k,
                    rho0: is_known.then(|| relative_tolerance(&beyond, *index, config.rho0)),
                };
                edge.add(&terms, tick, context);
                let counts = &tick.counts;
                if is_known && counts.canary_requests > 0.0 && counts.stable_requests > 0.0 {
                    self.compared_at_ms = self.compared_at_ms.max(Some(tick.at_ms));
                }
            }
        }
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

    /// The counter configuration.
    pub fn counters(&self) -> CounterConfig {
        self.counters
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
        let history = std::mem::take(&mut state.history);
        let new_edge = |seconds: &f64| {
            let known = history
                .iter()
                .find(|known| find_edge(&[known.seconds], *seconds).is_ok());
            EdgeState::new(*seconds, round_at_ms, known)
        };
        state.edges = chosen.map(new_edge).collect();
        state.least_k = k.max(1.0);
        *self = Self::resume(self.evidence.clone(), self.counters, self.began_ms, state);
    }

    /// Adds the samples of all edges, one batch for each edge in order. Good requests are those
    /// within the edge.
    pub fn observe(
        &mut self,
        state: &mut LatencyGuardState,
        batches: &[SampleBatch<'_>],
        context: &RoundContext,
    ) {
        let rounds: Vec<(Vec<Tick>, i64)> = self
            .edges
            .iter_mut()
            .zip(batches)
            .map(|(counters, batch)| {
                let ticks = counters.add_samples(batch).ticks;
                (ticks, counters.round_at_ms())
            })
            .collect();
        self.apply_ticks(state, &rounds, context);
    }

    /// Adds pre-aggregated rounds of all edges, in order. Rounds that began before the last one
    /// closed are ignored.
    pub fn observe_rounds(
        &self,
        state: &mut LatencyGuardState,
        rounds: Vec<Rounds>,
        context: &RoundContext,
    ) {
        let new_rounds = |(edge, mut rounds): (&EdgeState, Rounds)| {
            let round_at_ms = rounds.retain_since(edge.round_at_ms);
            (rounds.ticks, round_at_ms)
        };
        let rounds: Vec<(Vec<Tick>, i64)> =
            state.edges.iter().zip(rounds).map(new_rounds).collect();
        self.apply_ticks(state, &rounds, context);
    }

    fn apply_ticks(
        &self,
        state: &mut LatencyGuardState,
        rounds: &[(Vec<Tick>, i64)],
        context: &RoundContext,
    ) {
        let mut ticks: BTreeMap<i64, Vec<(usize, &Tick)>> = BTreeMap::new();
        for (index, (of_edge, _)) in rounds.iter().enumerate() {
            for tick in of_edge {
                ticks.entry(tick.at_ms).or_default().push((index, tick));
            }
        }
        state.add_ticks(&self.evidence, self.began_ms, &ticks, context);
        for (edge, (_, round_at_ms)) in state.edges.iter_mut().zip(rounds) {
            edge.round_at_ms = *round_at_ms;
        }
    }
}

#[cfg(test)]
impl LatencyGuardState {
    /// The state after `ticks` ticks with constant counts at each edge.
    pub(crate) fn after_ticks(ticks: i64, edges: &[(f64, Counts)]) -> Self {
        let mut state = Self::default();
        for (seconds, _) in edges {
            state.edges.push(EdgeState::new(*seconds, 0, None));
        }
        for index in 0..ticks {
            let of_edge = |(edge, (_, counts)): (usize, &(f64, Counts))| {
                let tick = Tick {
                    started_ms: index * 15_000,
                    at_ms: (index + 1) * 15_000,
                    counts: *counts,
                    ..Tick::default()
                };
                (edge, tick)
            };
            let ticks: Vec<(usize, Tick)> = edges.iter().enumerate().map(of_edge).collect();
            let at_once = ticks.iter().map(|(edge, tick)| (*edge, tick)).collect();
            let by_time = BTreeMap::from([(index, at_once)]);
            let config = EvidenceConfig::default();
            state.add_ticks(&config, 0, &by_time, &RoundContext::default());
        }
        state
    }
}

#[cfg(test)]
mod tests;

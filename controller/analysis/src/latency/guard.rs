//! A guard over the whole distribution: the canary may keep the threshold and be slower than stable
//! elsewhere.
//!
//! For each edge of the histogram, "took longer than the edge" is a bad event of its own, with an
//! e-process of its own against
//!
//! ```text
//! H0:  P(canary takes longer than the edge) <= rho0 P(stable takes longer than it) + delta0    at every tick
//! ```
//!
//! of Bernoulli bets ([`bernoulli`]): at the edges below most requests, most of them are "bad",
//! where the Poisson form would be blunt. The rate that a tick's bets are made at is stable's in
//! the ticks before. **That the bets are valid does not depend on it**: each is an e-value for
//! every pair of rates in H0, by convexity, so that any rate that is known before the tick keeps
//! the theorem. Only what the bets are worth depends on how near it is.
//!
//! The guard's evidence is the mean over the edges. A mean of e-processes is one, whatever their
//! dependence (and that of one histogram's edges is great), so that by Ville's inequality it passes
//! `1/alpha` with probability at most `alpha` while H0 holds at every edge. As everywhere, the
//! temper `k`, which is learnt edge by edge from stable's pods, is a heuristic where requests do
//! not come one by one.

use serde::{Deserialize, Serialize};

use crate::bernoulli::{ODDS_RATIOS, bernoulli};
use crate::config::EvidenceConfig;
use crate::counters::{CounterConfig, Counters, Feed, Rounds};
use crate::counts::{Counts, Tick};
use crate::eprocess::{Funding, Mixture, elapsed_seconds};
use crate::numeric::log_sum_exp;
use crate::objective::RoundContext;
use crate::overdispersion::Overdispersion;

/// More edges than this make the state too large for a status, and the guard no better.
pub const MOST_EDGES: usize = 32;

/// What a guard that rolls back weighs in the mean of e-values, beside its objective's 1. Any share
/// that is fixed beforehand keeps the bound. With this one the objective itself rolls back at 1.25
/// times the evidence that it would need alone, and the guard at five times.
pub const GUARD_SHARE: f64 = 0.25;

/// Rates that bets are made at stay inside of this.
const LEAST_RATE: f64 = 1e-4;

/// All of a guard that must survive a restart: serialisable, about 450 bytes of JSON an edge, at
/// most [`MOST_EDGES`] of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GuardState {
    /// In rising order.
    pub edges: Vec<EdgeState>,
    /// The newest round in which both arms had a request at some edge, in milliseconds since the
    /// epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared_at_ms: Option<i64>,
    /// The least temper: that of the objective when the guard began, which had learnt from before
    /// the release how requests cluster.
    least_k: f64,
}

/// One edge: how often either arm took longer than it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EdgeState {
    /// The edge, in seconds.
    pub seconds: f64,
    /// When the last round closed, in milliseconds since the epoch.
    pub round_at_ms: i64,
    /// Both arms so far: the bad are those that took longer. The next tick's bets take stable's
    /// rate from it.
    pub totals: Counts,
    ticks: u64,
    mixture: Mixture,
    funding: Funding,
    dispersion: Overdispersion,
}

/// What a guard says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuardEvidence {
    /// `ln` of the mean e-value.
    pub ln_e: f64,
    /// How many edges are compared.
    pub edges: usize,
    /// The edge with the most evidence; nothing without edges.
    pub worst: Option<EdgeEvidence>,
    /// Whether it takes part in rolling back; it holds in any case.
    pub rolls_back: bool,
}

/// How often either arm took longer than an edge.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeEvidence {
    /// The edge, in seconds.
    pub seconds: f64,
    /// Requests, and those that took longer.
    pub counts: Counts,
}

impl Default for GuardState {
    fn default() -> Self {
        Self {
            edges: Vec::new(),
            compared_at_ms: None,
            least_k: 1.0,
        }
    }
}

impl GuardState {
    /// Whether this was gathered with as many bets as are made: otherwise it is of another version
    /// of this program.
    pub fn fits(&self) -> bool {
        self.edges.len() <= MOST_EDGES
            && self
                .edges
                .iter()
                .all(|edge| edge.mixture.len() == ODDS_RATIOS.len())
    }

    /// `ln` of the mean e-value; 0 without edges.
    pub fn ln_e(&self) -> f64 {
        if self.edges.is_empty() {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "at most 32 edges")]
        let edges = self.edges.len() as f64;
        log_sum_exp(self.edges.iter().map(EdgeState::ln_e)) - edges.ln()
    }

    /// What it says.
    pub fn evidence(&self, rolls_back: bool) -> GuardEvidence {
        let worst = self
            .edges
            .iter()
            .max_by(|one, other| one.ln_e().total_cmp(&other.ln_e()));
        let worst = worst.map(|edge| EdgeEvidence {
            seconds: edge.seconds,
            counts: edge.totals,
        });
        GuardEvidence {
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

    /// `ln` of its own e-value.
    pub fn ln_e(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "there are six odds ratios")]
        let ln_weights = [-(ODDS_RATIOS.len() as f64).ln(); ODDS_RATIOS.len()];
        self.mixture.ln_value(&ln_weights)
    }

    /// Takes a tick in. One of the warm-up counts for nothing but the rates: caches that are cold
    /// make a new pod slow at every edge.
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
            let rate = rate.clamp(LEAST_RATE, 1.0 - LEAST_RATE);
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

/// A guard at work: what its evidence is gathered with, and the memory of counters that a restart
/// rebuilds.
#[derive(Debug, Clone)]
pub struct LatencyGuard {
    evidence: EvidenceConfig,
    counters: CounterConfig,
    began_ms: i64,
    edges: Vec<Counters>,
}

impl LatencyGuard {
    /// A guard of a release that began at `began_ms`, which goes on where the state ends; one
    /// without edges has yet to learn which there are.
    pub fn resume(
        evidence: EvidenceConfig,
        counters: CounterConfig,
        began_ms: i64,
        state: &GuardState,
    ) -> Self {
        let of = |edge: &EdgeState| Counters::resume(counters, began_ms, edge.round_at_ms);
        Self {
            edges: state.edges.iter().map(of).collect(),
            evidence,
            counters,
            began_ms,
        }
    }

    /// Uses another scrape interval from the next observation on.
    pub fn set_counters(&mut self, counters: CounterConfig) {
        self.counters = counters;
        self.edges
            .iter_mut()
            .for_each(|edge| edge.set_config(counters));
    }

    /// From now on compares these edges, in seconds, where none are compared yet; of more than
    /// [`MOST_EDGES`] evenly many. `round_at_ms` is up to when samples are only what the next ones
    /// are compared with, `k` the objective's temper, at least 1.
    pub fn compare(&mut self, state: &mut GuardState, edges: &[f64], round_at_ms: i64, k: f64) {
        if !state.edges.is_empty() {
            return;
        }
        let every = edges.len().div_ceil(MOST_EDGES).max(1);
        let chosen = edges.iter().skip(every - 1).step_by(every);
        state.edges = chosen
            .map(|seconds| EdgeState::new(*seconds, round_at_ms))
            .collect();
        state.least_k = k.max(1.0);
        *self = Self::resume(self.evidence.clone(), self.counters, self.began_ms, state);
    }

    /// Takes in the samples of one edge by its index: all requests, and as the good ones those
    /// within the edge.
    pub fn observe(
        &mut self,
        state: &mut GuardState,
        index: usize,
        feed: &Feed<'_>,
        context: &RoundContext,
    ) {
        let Some(counters) = self.edges.get_mut(index) else {
            return;
        };
        let ticks = counters.feed(feed).ticks;
        let round_at_ms = counters.round_at_ms();
        self.take(state, index, &ticks, round_at_ms, context);
    }

    /// Takes in rounds of one edge that were not made of single series: those that began when the
    /// last one had closed, or later.
    pub fn observe_rounds(
        &self,
        state: &mut GuardState,
        index: usize,
        mut rounds: Rounds,
        context: &RoundContext,
    ) {
        let Some(edge) = state.edges.get(index) else {
            return;
        };
        let round_at_ms = rounds.retain_since(edge.round_at_ms);
        self.take(state, index, &rounds.ticks, round_at_ms, context);
    }

    fn take(
        &self,
        state: &mut GuardState,
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
impl GuardState {
    /// What is known after so many ticks of the same counts at each edge.
    pub(crate) fn after(ticks: i64, edges: &[(f64, Counts)]) -> Self {
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

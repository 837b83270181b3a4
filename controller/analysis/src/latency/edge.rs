//! One histogram edge of a latency guard.

use serde::{Deserialize, Serialize};

use super::tolerance::Beyond;
use crate::bernoulli::{ODDS_RATIOS, bernoulli};
use crate::config::EvidenceConfig;
use crate::counts::{Counts, PodCounts, Tick};
use crate::eprocess::{Funding, Mixture, elapsed_seconds};
use crate::objective::RoundContext;

/// Bets assume rates between this value and its complement.
const MIN_RATE: f64 = 1e-4;

/// Maximum increment of a bet in one scrape, in nats, while it is unknown how slow requests cluster
/// in stable's pods: `ln 10`. A pause of one pod (garbage collection, a full disk) makes many
/// requests of one scrape slow. With this limit several such scrapes are needed, instead of two.
const CAUTIOUS_CLIP: f64 = std::f64::consts::LN_10;

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
    /// Stable's requests before the release, and those that took longer. Not part of `totals`.
    #[serde(default, skip_serializing_if = "StableBefore::is_empty")]
    before: StableBefore,
    ticks: u64,
    mixture: Mixture,
    funding: Funding,
    dispersion: EdgeDispersion,
}

/// Stable's requests before the release.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StableBefore {
    requests: f64,
    slower: f64,
}

impl StableBefore {
    fn is_empty(&self) -> bool {
        self.requests <= 0.0
    }
}

/// What the time before a release shows about one edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EdgeHistory {
    /// The edge, in seconds.
    pub seconds: f64,
    before: StableBefore,
    dispersion: EdgeDispersion,
}

impl EdgeHistory {
    /// Sums up the ticks of stable before the release.
    pub fn from_ticks(seconds: f64, ticks: &[Tick]) -> Self {
        let mut history = Self {
            seconds,
            before: StableBefore::default(),
            dispersion: EdgeDispersion::default(),
        };
        for tick in ticks {
            history.before.requests += tick.counts.stable_requests;
            history.before.slower += tick.counts.stable_errors;
            history.dispersion.add(&tick.stable_pods);
        }
        history
    }
}

/// Overdispersion of the slow requests over stable's pods within a scrape, as in
/// [`crate::overdispersion`] but with the variance of a Bernoulli trial: at low edges most requests
/// take longer.
///
/// Only within a scrape: over longer times pods of the same code differ in speed, which is what
/// the tolerance on the time axis is for. Counted here as well, it would hide a slow release.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EdgeDispersion {
    numerator: f64,
    denominator: f64,
}

impl EdgeDispersion {
    fn add(&mut self, pods: &[PodCounts]) {
        let serving = || pods.iter().filter(|pod| pod.requests > 0.0);
        let count = serving().count();
        let requests: f64 = serving().map(|pod| pod.requests).sum();
        let slower: f64 = serving().map(|pod| pod.errors).sum();
        if count < 2 || slower <= 0.0 || slower >= requests {
            return;
        }
        let faster_share = 1.0 - slower / requests;
        let chi_squared: f64 = serving()
            .map(|pod| {
                let expected = slower * (pod.requests / requests);
                (pod.errors - expected).powi(2) / (expected * faster_share)
            })
            .sum();
        #[expect(
            clippy::cast_precision_loss,
            reason = "a count of pods is far below 2^53"
        )]
        let degrees = (count - 1) as f64;
        if chi_squared.is_finite() {
            self.numerator += slower * chi_squared;
            self.denominator += degrees * slower;
        }
    }

    /// The factor, at least 1. `None` while it is unknown.
    fn k(&self) -> Option<f64> {
        (self.denominator > 0.0).then(|| (self.numerator / self.denominator).max(1.0))
    }
}

/// What the bets of one tick at one edge assume.
#[derive(Debug, Clone, Copy)]
pub(super) struct EdgeTerms<'a> {
    pub config: &'a EvidenceConfig,
    /// Start of the release, in milliseconds since the epoch.
    pub began_ms: i64,
    /// Minimum temper.
    pub least_k: f64,
    /// Relative tolerance of the share of slower requests, from earlier ticks. `None` if it is not
    /// known from earlier ticks alone: then nothing is bet.
    pub rho0: Option<f64>,
}

impl EdgeState {
    pub(super) fn new(seconds: f64, round_at_ms: i64, history: Option<&EdgeHistory>) -> Self {
        Self {
            seconds,
            round_at_ms,
            totals: Counts::default(),
            before: history.map_or_else(StableBefore::default, |history| history.before),
            ticks: 0,
            mixture: Mixture::new(ODDS_RATIOS.len()),
            funding: Funding::default(),
            dispersion: history.map_or_else(EdgeDispersion::default, |history| history.dispersion),
        }
    }

    /// Whether this state has the current number of bets.
    pub(super) fn is_compatible(&self) -> bool {
        self.mixture.len() == ODDS_RATIOS.len()
    }

    /// `ln` of the e-value of this edge.
    pub fn ln_e(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "there are six odds ratios")]
        let ln_weights = [-(ODDS_RATIOS.len() as f64).ln(); ODDS_RATIOS.len()];
        self.mixture.ln_value(&ln_weights)
    }

    /// Stable's requests so far, and those that took longer.
    pub(super) fn beyond(&self) -> Beyond {
        Beyond {
            seconds: self.seconds,
            requests: self.before.requests + self.totals.stable_requests,
            slower: self.before.slower + self.totals.stable_errors,
        }
    }

    fn stable_rate(&self) -> Option<f64> {
        let Beyond {
            requests, slower, ..
        } = self.beyond();
        (requests > 0.0).then(|| (slower / requests).clamp(MIN_RATE, 1.0 - MIN_RATE))
    }

    /// Adds a tick. A tick with pods in their warm-up, or in which the weight changed, only updates
    /// the rates: cold caches make a new pod slow at every edge.
    pub(super) fn add(&mut self, terms: &EdgeTerms<'_>, tick: &Tick, context: &RoundContext) {
        let config = terms.config;
        self.ticks += 1;
        let tick_context = context.of_tick(tick);
        let is_first_warm_up = tick.started_ms < tick_context.warm_up_ends_ms;
        let elapsed = elapsed_seconds(terms.began_ms, tick);
        let omega = self.funding.due(
            &config.restarts,
            self.ticks,
            elapsed,
            is_first_warm_up,
            config.warm_up_seconds,
        );
        self.mixture.fund(omega);
        let changed_ms = context.weight_changed_at_ms;
        let contains_change = changed_ms > tick.counts_since_ms() && changed_ms < tick.at_ms;
        let is_warm = is_first_warm_up || tick_context.young_share.is_some_and(|share| share > 0.0);
        let has_both = tick.counts.canary_requests > 0.0 && tick.counts.stable_requests > 0.0;
        let can_bet = has_both && !is_warm && !contains_change;
        if let (true, Some(rate), Some(rho0)) = (can_bet, self.stable_rate(), terms.rho0) {
            let k = self.dispersion.k().unwrap_or(1.0).max(terms.least_k);
            let line = |psi: &f64| {
                bernoulli(&tick.counts, rate, *psi, rho0)
                    .tempered(k)
                    .at(config.delta0)
            };
            self.mixture
                .multiply(ODDS_RATIOS.iter().map(line), self.clip(config));
        }
        self.dispersion.add(&tick.stable_pods);
        self.totals.add(&tick.counts);
        self.round_at_ms = tick.at_ms;
    }

    /// Maximum increment of a bet in one scrape, in nats.
    fn clip(&self, config: &EvidenceConfig) -> f64 {
        let clip = config.clip.unwrap_or(f64::INFINITY);
        if self.dispersion.k().is_some() {
            clip
        } else {
            clip.min(CAUTIOUS_CLIP)
        }
    }

    #[cfg(test)]
    pub(super) fn break_bets(&mut self) {
        self.mixture = Mixture::new(2);
    }
}

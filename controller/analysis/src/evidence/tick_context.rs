//! What is known of a tick beyond its counts: the warm-up and the weight.

use crate::config::EvidenceConfig;
use crate::counts::Tick;

/// A weight is seen to have changed up to this long after the router has applied it, in
/// milliseconds.
const WEIGHT_LAG_MS: i64 = 5_000;
/// Share of young pods up to which ticks count toward promotion.
const FEW_YOUNG: f64 = 0.05;

/// Context of a tick beyond its counts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TickContext {
    /// End of the warm-up of the canary's first pods, in milliseconds since the epoch. A tick that
    /// starts earlier does not count toward promotion. Without `young_share` it gets the whole
    /// warm-up tolerance.
    pub warm_up_ends_ms: i64,
    /// Time of the last weight change, in milliseconds since the epoch. A tick that contains it is
    /// not bet on.
    pub weight_changed_at_ms: i64,
    /// Share of the canary's requests that went to pods in their warm-up, from 0 to 1. `None` if
    /// the ages of the pods are unknown.
    pub young_share: Option<f64>,
}

impl TickContext {
    /// Whether the weight changed while the requests of this tick were served, so that both arms'
    /// averages describe different moments.
    pub(crate) fn changes_weight(&self, tick: &Tick) -> bool {
        let latest_ms = tick.at_ms.saturating_add(WEIGHT_LAG_MS);
        tick.counts_since_ms() < self.weight_changed_at_ms && self.weight_changed_at_ms <= latest_ms
    }

    /// The additive tolerance of a tick: larger by the share of the canary's requests that went to
    /// young pods.
    pub(crate) fn tolerance(&self, config: &EvidenceConfig, tick: &Tick) -> f64 {
        match self.young_share {
            Some(young) => config.delta0 + config.warm_up_delta * young.clamp(0.0, 1.0),
            None if tick.started_ms < self.warm_up_ends_ms => {
                config.delta0.max(config.warm_up_delta)
            }
            None => config.delta0,
        }
    }

    /// Whether a tick does not count toward promotion. One young pod among many has no effect, so
    /// that a canary whose pods are replaced all the time can be promoted.
    pub(super) fn is_warming_up(&self, tick: &Tick) -> bool {
        tick.started_ms < self.warm_up_ends_ms
            || self.young_share.is_some_and(|young| young > FEW_YOUNG)
    }
}

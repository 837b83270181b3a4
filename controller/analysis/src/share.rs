//! The evidence of the share bets ([`crate::bet::share`]): valid for any clustering of errors within
//! a tick, without an estimate of it.
//!
//! Where pods are distinguished, what outlasts a scrape is allowed for by a temper that compares long
//! with short blocks. Elsewhere the bets are placed on blocks of a minute if stable's errors show
//! that clusters last. Both are fixed when a block opens, so that they do not depend on its errors.

use serde::{Deserialize, Serialize};

use crate::bet::share;
use crate::counts::{Counts, Tick};
use crate::eprocess::Mixture;
use crate::evidence::Bets;

/// How a block of ticks is bet on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct BlockShape {
    /// The temper, at least 1.
    pub(crate) k: f64,
    /// Minimum length of the block, in milliseconds. 0 for one tick.
    pub(crate) length_ms: i64,
}

impl Default for BlockShape {
    fn default() -> Self {
        Self {
            k: 1.0,
            length_ms: 0,
        }
    }
}

/// A block of ticks that is not bet on yet.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OpenBlock {
    opened_ms: i64,
    counts: Counts,
    /// Sum of the canary's requests times the tolerance of their tick.
    tolerated: f64,
    shape: BlockShape,
}

/// The process of the share bets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ShareEvidence {
    mixture: Mixture,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    block: Option<OpenBlock>,
}

impl ShareEvidence {
    pub(crate) fn new(mixture: Mixture) -> Self {
        Self {
            mixture,
            block: None,
        }
    }

    /// Number of bets.
    pub(crate) fn len(&self) -> usize {
        self.mixture.len()
    }

    /// Moves `omega` of the reserve to every bet.
    pub(crate) fn fund(&mut self, omega: f64) {
        self.mixture.fund(omega);
    }

    /// Adds a tick with requests to both arms to the open block, or to a new one of this `shape`, and
    /// bets on the block if it is long enough. `delta` is the additive tolerance of the tick.
    pub(crate) fn add(&mut self, bets: &Bets, tick: &Tick, delta: f64, shape: BlockShape) {
        let block = self.block.get_or_insert(OpenBlock {
            opened_ms: tick.started_ms,
            counts: Counts::default(),
            tolerated: 0.0,
            shape,
        });
        block.counts.add(&tick.counts);
        block.tolerated += tick.counts.canary_requests * delta;
        if tick.at_ms.saturating_sub(block.opened_ms) >= block.shape.length_ms {
            self.close(bets);
        }
    }

    /// Bets on the open block, if there is one. Call it before the weight changes.
    pub(crate) fn close(&mut self, bets: &Bets) {
        let Some(block) = self.block.take() else {
            return;
        };
        let config = bets.config();
        let delta = block.tolerated / block.counts.canary_requests;
        let lines = config.rollback.rho.iter().map(|rho| {
            share(&block.counts, *rho, config.rho0)
                .tempered(block.shape.k)
                .at(delta)
        });
        self.mixture
            .multiply(lines, config.clip.unwrap_or(f64::INFINITY));
    }

    /// `ln` of the value of the process.
    pub(crate) fn ln_value(&self, ln_weights: &[f64]) -> f64 {
        self.mixture.ln_value(ln_weights)
    }
}

#[cfg(test)]
mod tests;

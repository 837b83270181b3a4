//! Overdispersion in time, for sources that do not distinguish pods.

use serde::{Deserialize, Serialize};

use super::scale::{BlockStatistic, Scale};
use super::{LASTING, MAX_LEVELS};
use crate::counts::Tick;

/// Blocks of a gateway's counts are compared up to this length, in milliseconds. Over longer times
/// the error rate of a service drifts.
const MAX_SERIAL_BLOCK_MS: i64 = 300_000;

/// Counts of a block of a source that does not distinguish pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "(f64, f64, i64)", into = "(f64, f64, i64)")]
struct SerialBlock {
    requests: f64,
    errors: f64,
    length_ms: i64,
}

impl From<(f64, f64, i64)> for SerialBlock {
    fn from((requests, errors, length_ms): (f64, f64, i64)) -> Self {
        Self {
            requests,
            errors,
            length_ms,
        }
    }
}

impl From<SerialBlock> for (f64, f64, i64) {
    fn from(block: SerialBlock) -> Self {
        (block.requests, block.errors, block.length_ms)
    }
}

/// The overdispersion of stable's errors in time, for sources that do not distinguish pods, such as
/// a gateway: Pearson's statistic of the errors of two successive blocks of 1, 2, 4, ... ticks.
///
/// It overestimates where errors come in bursts that hit both arms alike, which cancel in the
/// comparison. It is blind to clients that fail all the time, whose requests stick to one arm.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SerialDispersion {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    scales: Vec<Scale>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    waiting: Vec<Option<SerialBlock>>,
}

impl SerialDispersion {
    /// Learns from stable's ticks before a release, in order of time.
    pub fn learn_history(&mut self, history: &[Tick]) {
        for tick in history {
            self.add(tick);
        }
        self.waiting.clear();
    }

    /// Adds a tick.
    pub fn add(&mut self, tick: &Tick) {
        let mut block = SerialBlock {
            requests: tick.counts.stable_requests,
            errors: tick.counts.stable_errors,
            length_ms: tick.at_ms.saturating_sub(tick.started_ms).max(1),
        };
        for index in 0..MAX_LEVELS {
            if block.length_ms > MAX_SERIAL_BLOCK_MS && index > 0 {
                return;
            }
            if self.scales.len() <= index {
                self.scales.resize(index + 1, Scale::default());
            }
            if self.waiting.len() <= index {
                self.waiting.resize(index + 1, None);
            }
            let Some(earlier) = self.waiting[index].take() else {
                self.waiting[index] = Some(block);
                return;
            };
            let pair = [
                (earlier.requests, earlier.errors),
                (block.requests, block.errors),
            ];
            if let Some(statistic) = BlockStatistic::new(pair.into_iter()) {
                self.scales[index].add(&statistic);
            }
            block.requests += earlier.requests;
            block.errors += earlier.errors;
            block.length_ms = block.length_ms.saturating_add(earlier.length_ms);
        }
    }

    /// The temper that two successive ticks ask for.
    pub fn k_of_ticks(&self) -> f64 {
        self.scales.first().map_or(1.0, Scale::k)
    }

    /// Whether nothing was learned yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.scales.is_empty()
    }

    /// The temper: the largest of all significant scales, at least 1.
    pub fn k(&self) -> f64 {
        self.scales.iter().map(Scale::k).fold(1.0, f64::max)
    }

    /// Whether some scale beyond single scrapes asks for clearly more than they do: clusters outlast
    /// a scrape, or errors come in bursts.
    pub fn clusters_last(&self) -> bool {
        let within = self.scales.first().map_or(1.0, Scale::k);
        self.k() > LASTING * within
    }

    /// The temper beyond what blocks of `2^level` ticks explain. At least 1.
    pub fn serial_k(&self, level: usize) -> f64 {
        let within = self
            .scales
            .iter()
            .take(level.saturating_add(1))
            .map(Scale::k)
            .fold(1.0, f64::max);
        (self.k() / within).max(1.0)
    }
}

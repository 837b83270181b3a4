//! Stable's errors of the day before a release, in steps of some minutes.

use serin_analysis::counters::CounterConfig;

use crate::counter_selectors::CounterSelectors;
use crate::server_side_aggregation::ServerSideAggregation;

/// Minimum length of a step, in milliseconds. A day has at most 288 of them, so that a query stays
/// small for hundreds of pods.
const MIN_STEP_MS: i64 = 300_000;

/// How the day before a release is read: sums over `2^level` scrapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CoarseHistory {
    level: u32,
    step_ms: i64,
}

impl CoarseHistory {
    /// The steps for a scrape interval.
    pub(crate) fn new(scrape_interval_ms: i64) -> Self {
        let mut history = Self {
            level: 0,
            step_ms: scrape_interval_ms.max(1),
        };
        while history.step_ms < MIN_STEP_MS {
            history.step_ms *= 2;
            history.level += 1;
        }
        history
    }

    /// The time scale of the steps: each is about `2^level` scrapes long.
    pub(crate) const fn level(self) -> usize {
        self.level as usize
    }

    /// The aggregation that the queries use.
    pub(crate) const fn aggregation(self) -> ServerSideAggregation {
        ServerSideAggregation::new(CounterConfig {
            scrape_interval_ms: self.step_ms,
            forget_ms: MIN_STEP_MS,
        })
    }

    /// The queries for all requests, the bad (or good) ones and the times of the scrapes.
    pub(crate) fn queries(self, counters: &CounterSelectors, span_ms: i64) -> Vec<String> {
        let mut queries = self.aggregation().queries(counters, span_ms);
        // Without the buckets of a latency guard.
        queries.truncate(3);
        queries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_power_of_two_of_scrapes_of_at_least_five_minutes() {
        let steps = |interval_ms| {
            let history = CoarseHistory::new(interval_ms);
            (history.level(), history.step_ms)
        };
        assert_eq!(steps(15_000), (5, 480_000));
        assert_eq!(steps(60_000), (3, 480_000));
        assert_eq!(steps(1_000), (9, 512_000));
        assert_eq!(steps(600_000), (0, 600_000));
    }
}

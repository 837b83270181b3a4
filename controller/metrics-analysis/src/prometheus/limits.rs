//! Limits on queries to Prometheus.

use std::time::Duration;

use super::meter::AnswerLimits;

/// Limits on queries to Prometheus.
///
/// The defaults suffice for a Rollout with 8 objectives and 16 checks at their shortest intervals.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of concurrent requests to all servers.
    pub concurrent_total: usize,
    /// Maximum number of concurrent polls per host and port.
    pub concurrent_polls: usize,
    /// Maximum number of concurrent single queries per host and port, in addition to the polls.
    /// They can be slow because they cover weeks of data.
    pub concurrent_single: usize,
    /// Maximum number of concurrent polls of one Rollout.
    pub concurrent_polls_per_rollout: usize,
    /// Maximum number of concurrent single queries of one Rollout.
    pub concurrent_single_per_rollout: usize,
    /// Maximum number of queries per second of one Rollout. Every 64 KiB of answers count as
    /// another query.
    pub queries_per_second_per_rollout: u16,
    /// Timeout of all queries of one poll together.
    pub poll_timeout: Duration,
    /// Timeout of a single query.
    pub single_timeout: Duration,
    /// Maximum size of a response in bytes. In memory, an answer can take three times as much.
    pub answer_bytes: usize,
    /// Maximum number of series in a response. The bounds of a native histogram count as series.
    pub answer_series: usize,
    /// Memory of all answers together, in bytes: while they are read, decoded and processed. At
    /// least sixteen times `answer_bytes`. Large answers of one Rollout take at most half of it.
    pub total_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrent_total: 96,
            concurrent_polls: 16,
            concurrent_single: 4,
            concurrent_polls_per_rollout: 6,
            concurrent_single_per_rollout: 2,
            queries_per_second_per_rollout: 150,
            poll_timeout: Duration::from_secs(5),
            single_timeout: Duration::from_secs(20),
            answer_bytes: 8 << 20,
            answer_series: 10_000,
            total_bytes: 128 << 20,
        }
    }
}

impl Limits {
    pub(super) const fn of_answer(&self) -> AnswerLimits {
        AnswerLimits::new(self.answer_bytes, self.answer_series)
    }

    /// Memory of all answers together.
    pub(super) fn memory_bytes(&self) -> usize {
        self.total_bytes.max(self.answer_bytes.saturating_mul(16))
    }
}

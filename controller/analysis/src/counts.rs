//! Counts: requests and errors of the two arms.

use serde::{Deserialize, Serialize};

/// Requests and errors of both arms over one time span.
///
/// Whole numbers, stored as doubles like Prometheus counters (exact up to 2^53). Errors never
/// exceed requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Counts {
    /// Requests to the canary (`n_c`).
    pub canary_requests: f64,
    /// Bad requests to the canary (`e_c`).
    pub canary_errors: f64,
    /// Requests to stable (`n_s`).
    pub stable_requests: f64,
    /// Bad requests to stable (`e_s`).
    pub stable_errors: f64,
}

impl Counts {
    /// Counts from the tuple `(n_c, e_c, n_s, e_s)`.
    pub const fn new(
        canary_requests: f64,
        canary_errors: f64,
        stable_requests: f64,
        stable_errors: f64,
    ) -> Self {
        Self {
            canary_requests,
            canary_errors,
            stable_requests,
            stable_errors,
        }
    }

    /// The same counts with the arms exchanged, to test whether stable is worse.
    #[must_use]
    pub const fn exchanged(self) -> Self {
        Self::new(
            self.stable_requests,
            self.stable_errors,
            self.canary_requests,
            self.canary_errors,
        )
    }

    /// Adds other counts to these.
    pub fn add(&mut self, other: &Self) {
        self.canary_requests += other.canary_requests;
        self.canary_errors += other.canary_errors;
        self.stable_requests += other.stable_requests;
        self.stable_errors += other.stable_errors;
    }

    /// All requests of both arms.
    pub fn requests(&self) -> f64 {
        self.canary_requests + self.stable_requests
    }

    /// The canary's share of the requests, from 0 to 1. `None` without requests.
    pub fn canary_share(&self) -> Option<f64> {
        let requests = self.requests();
        (requests > 0.0).then(|| self.canary_requests / requests)
    }

    /// Stable's error rate, from 0 to 1. `None` without requests.
    pub fn stable_rate(&self) -> Option<f64> {
        (self.stable_requests > 0.0).then(|| self.stable_errors / self.stable_requests)
    }

    /// The errors expected of the canary at stable's error rate. `None` without stable requests.
    pub fn expected_canary_errors(&self) -> Option<f64> {
        self.stable_rate().map(|rate| rate * self.canary_requests)
    }
}

/// Requests and errors of one stable pod in one tick, used for the overdispersion only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodCounts {
    /// Requests to the pod.
    pub requests: f64,
    /// Bad requests among them.
    pub errors: f64,
}

/// One round of scrapes: the counts between two times.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tick {
    /// When the previous round closed, in milliseconds since the epoch.
    pub started_ms: i64,
    /// When this round closed, in milliseconds since the epoch.
    pub at_ms: i64,
    /// Counts of both arms.
    pub counts: Counts,
    /// Stable's counts by pod. Empty if a single source, such as a gateway, counts for all pods.
    pub stable_pods: Vec<PodCounts>,
}

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

/// Identity of a pod across ticks: a hash of its name, or of the name of its scrape target. The
/// default is a pod without a name, which is identified by its position in the list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodId(u64);

impl PodId {
    /// Hashes a name with FNV-1a, which gives the same value in every version.
    pub fn from_name(name: &str) -> Self {
        const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0100_0000_01b3;
        let hash = name.bytes().fold(OFFSET, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(PRIME)
        });
        Self(hash.max(1))
    }

    /// The identity of the pod at `position` of a list.
    #[must_use]
    pub fn or_position(self, position: usize) -> u64 {
        if self.0 == 0 {
            // Small numbers: a collision with a hash is as unlikely as one of two hashes.
            u64::try_from(position).unwrap_or(u64::MAX).wrapping_add(1)
        } else {
            self.0
        }
    }
}

/// Requests and errors of one pod in one tick.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodCounts {
    /// Identity of the pod across ticks.
    #[serde(skip)]
    pub pod: PodId,
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
    /// The canary's counts by pod. Empty if a source counts for pods of both arms.
    pub canary_pods: Vec<PodCounts>,
    /// Time of the oldest scrape from which the counts are increments, in milliseconds since the
    /// epoch. Earlier than `started_ms` if sources are scraped one after the other or a scrape was
    /// missed. `None` if it is not earlier.
    pub counts_since_ms: Option<i64>,
}

impl Tick {
    /// Time of the oldest scrape from which the counts are increments, in milliseconds since the
    /// epoch.
    pub fn counts_since_ms(&self) -> i64 {
        self.counts_since_ms
            .map_or(self.started_ms, |since_ms| since_ms.min(self.started_ms))
    }
}

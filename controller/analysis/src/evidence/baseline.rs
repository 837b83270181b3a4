//! The part of stable that the canary is compared with.

use serde::{Deserialize, Serialize};

use crate::counts::Tick;

/// Counts of the stable pods that the canary is compared with, if these are not all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineCounts {
    /// Number of these pods in the latest tick in which there were any.
    pub pods: u32,
    /// Requests to them since the release began.
    pub requests: f64,
    /// Bad requests among them.
    pub errors: f64,
}

impl BaselineCounts {
    /// Adds a tick that has only these pods.
    pub(super) fn add(&mut self, tick: &Tick) {
        if !tick.stable_pods.is_empty() {
            self.pods = u32::try_from(tick.stable_pods.len()).unwrap_or(u32::MAX);
        }
        self.requests += tick.counts.stable_requests;
        self.errors += tick.counts.stable_errors;
    }
}

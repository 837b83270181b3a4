//! What the canary is compared with, and what is counted.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::analysis::{Indicator, ObjectiveSpec};

/// Stable pods that start together with the canary's. Requires `trafficRouting`, and objectives
/// whose series distinguish pods: the indicator `pod`, or counters with the name of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BaselineSpec {
    /// Maximum number of these pods, which run in addition to `replicas` until the release is
    /// promoted or aborted. There are as many as the canary has pods, up to this number.
    #[schemars(range(min = 1, max = 1000))]
    pub replicas: i32,
}

/// A temper that was found with placebo releases.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CalibrationSpec {
    /// The temper. The logarithm of the evidence for a rollback is divided by it. 1 is the evidence for
    /// independent errors.
    #[schemars(range(min = 1, max = 1000))]
    pub temper: f64,
    /// Number of placebo hours with which it was found. At least the number of objectives, divided by
    /// `rollback.falseRollbackProbability`, minus one: 99 for one objective with the default of 0.01.
    #[schemars(range(min = 1, max = 10000))]
    pub hours: i32,
}

/// What a pair of counters counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum CountedUnit {
    /// Requests.
    #[default]
    Request,
    /// Clients or their sessions, each once.
    Client,
    /// Connections, each once.
    Connection,
}

impl ObjectiveSpec {
    /// What the counters of the objective count.
    pub fn counted_unit(&self) -> CountedUnit {
        let counters = self.counters.as_ref();
        counters
            .and_then(|counters| counters.unit)
            .unwrap_or_default()
    }

    /// Whether the series of the objective have the name of a pod.
    pub fn distinguishes_pods(&self) -> bool {
        match (&self.indicator, &self.counters) {
            (Some(indicator), _) => *indicator == Indicator::Pod,
            (None, Some(counters)) => {
                let variants = counters.variants.as_ref();
                variants.is_none_or(|variants| variants.label.is_none())
            }
            (None, None) => true,
        }
    }
}

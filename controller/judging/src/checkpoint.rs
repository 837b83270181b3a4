//! The position of a judgement, as it is kept in the status.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_analysis::ObjectiveState;
use serin_analysis::latency::GuardState;
use serin_analysis::watch::Watch;
use serin_core::units::Revision;
use serin_crds::status::AnalysisStatus;

use crate::checks::CheckState;
use crate::request::Phase;

/// All that a restarted controller needs beside the samples, which it reads again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// When the canary first had traffic, in milliseconds since the epoch.
    pub began_ms: i64,
    /// Until when its pods count as young.
    pub warm_up_ends_ms: i64,
    /// The weight last seen, in thousandths of a percent.
    pub weight_thousandths: u32,
    /// Since when.
    pub weight_changed_at_ms: i64,
    /// Since when the data has been fresh without a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh_since_ms: Option<i64>,
    /// That it is to be rolled back, once that is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<Decided>,
    /// How far the release had come, and since when, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<(Phase, i64)>,
    /// By check.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub checks: BTreeMap<String, CheckState>,
    /// By objective.
    pub objectives: BTreeMap<String, ObjectiveCheckpoint>,
}

/// A decision to roll back stands, whatever the evidence says later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// One CamelCase word.
    pub cause: String,
    /// What an operator reads.
    pub message: String,
}

/// The position of one objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectiveCheckpoint {
    /// Of what the evidence is; evidence of anything else is not gone on with.
    pub fingerprint: String,
    /// How often the service failed before the release, where that was known when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usual_rate: Option<f64>,
    /// The evidence itself.
    pub state: ObjectiveState,
    /// That of the watch after promotion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<Watch>,
    /// Whether Prometheus adds its series up, since they are too many to be read one by one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub summed: bool,
    /// The evidence of its latency guard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<GuardState>,
}

impl Checkpoint {
    /// The checkpoint in a status, where it is of this revision and can be read.
    pub fn of(status: Option<&AnalysisStatus>, revision: &Revision) -> Option<Self> {
        let status = status.filter(|status| status.revision == revision.as_str())?;
        serde_json::from_value(status.checkpoint.clone())
            .inspect_err(|error| tracing::warn!(%error, "the stored evidence cannot be read and is gathered anew"))
            .ok()
    }

    /// For the status.
    pub fn into_status(self, revision: &Revision) -> Option<AnalysisStatus> {
        let started_at = Timestamp::from_millisecond(self.began_ms).ok()?;
        let checkpoint = serde_json::to_value(self).ok()?;
        Some(AnalysisStatus { revision: revision.as_str().to_owned(), started_at, checkpoint })
    }
}

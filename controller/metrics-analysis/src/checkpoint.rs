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
use crate::request::{JudgeRequest, Phase};

/// All that a restarted controller needs beside the samples, which it reads again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// From when its requests count, a scrape before it was first seen to have traffic, in
    /// milliseconds since the epoch.
    pub began_ms: i64,
    /// When the canary was first seen to have traffic, in milliseconds since the epoch; absent in
    /// checkpoints of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_since_ms: Option<i64>,
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
    /// When the last release before this one ended, in seconds since the epoch; 0 if there was
    /// none. It identifies the attempt. Absent in checkpoints of versions that did not tell
    /// attempts apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_ended_second: Option<i64>,
    /// Whether the service burned its budget when the release began, and has done so since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burned_before: Option<bool>,
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
    /// The scrape interval that was learned, in milliseconds, if it differs from the configured
    /// one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrape_interval_ms: Option<i64>,
    /// The evidence of its latency guard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<GuardState>,
}

/// As a checkpoint has it. Whole seconds, because a timestamp that was read back from a status has
/// no more.
pub(crate) fn previous_ended_second(at: Option<Timestamp>) -> i64 {
    at.map_or(0, Timestamp::as_second)
}

impl Checkpoint {
    /// The checkpoint in a status, if it is of the attempt that the request is about and can be
    /// read.
    pub fn of(status: Option<&AnalysisStatus>, request: &JudgeRequest) -> Option<Self> {
        let status = status.filter(|status| status.revision == request.revision.as_str())?;
        let checkpoint: Self = serde_json::from_value(status.checkpoint.clone())
            .inspect_err(|error| tracing::warn!(%error, "the stored evidence cannot be read and is gathered anew"))
            .ok()?;
        let expected = previous_ended_second(request.previous_ended_at);
        Some(checkpoint).filter(|checkpoint| {
            checkpoint
                .previous_ended_second
                .is_none_or(|second| second == expected)
        })
    }

    /// For the status.
    pub fn into_status(self, revision: &Revision) -> Option<AnalysisStatus> {
        let started_at = Timestamp::from_millisecond(self.began_ms).ok()?;
        let checkpoint = serde_json::to_value(self).ok()?;
        Some(AnalysisStatus {
            revision: revision.as_str().to_owned(),
            started_at,
            checkpoint,
        })
    }
}

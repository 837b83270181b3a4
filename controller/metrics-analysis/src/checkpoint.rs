//! The state of an analysis that is stored in the Rollout status.

use serin_core::state::AbortCause;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serin_analysis::ObjectiveState;
use serin_analysis::bake::BakeEvidence;
use serin_analysis::latency::LatencyGuardState;
use serin_core::hold::Hold;
use serin_core::text::Message;
use serin_core::units::Revision;
use serin_crds::status::AnalysisStatus;

use crate::checks::CheckState;
use crate::request::{AnalysisRequest, ReleasePhase};

/// The state that a restarted controller needs in addition to the samples, which it reads again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// Start of the analysis: one scrape interval before canary traffic was first observed.
    /// Milliseconds since the epoch.
    pub began_ms: i64,
    /// Time at which canary traffic was first observed, in milliseconds since the epoch. `None` in
    /// checkpoints of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_since_ms: Option<i64>,
    /// End of the warm-up of the canary's first pods, in milliseconds since the epoch.
    pub warm_up_ends_ms: i64,
    /// Last observed weight, in thousandths of a percent.
    pub weight_thousandths: u32,
    /// Time of the last weight change, in milliseconds since the epoch.
    pub weight_changed_at_ms: i64,
    /// Time since which the data has been fresh without a gap, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh_since_ms: Option<i64>,
    /// The decision to roll back, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<RollbackDecision>,
    /// End of the previous release in seconds since the epoch, or 0 if there was none. It
    /// identifies the attempt. `None` in checkpoints of versions that did not distinguish attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_ended_second: Option<i64>,
    /// Whether the service was burning its budget too fast when the release began, and has done so
    /// ever since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burned_before: Option<bool>,
    /// Whether the canary has had no traffic yet. Defaults to false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub awaits_traffic: bool,
    /// The hold because of missing or unusable metrics. A restarted analysis reports it until it has
    /// read the metrics.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "known_hold"
    )]
    pub missing_data: Option<Hold>,
    /// Phase of the release and the time at which it began, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<(ReleasePhase, i64)>,
    /// State of each check, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub checks: BTreeMap<String, CheckState>,
    /// State of each objective, by name.
    pub objectives: BTreeMap<String, ObjectiveCheckpoint>,
}

/// A decision to roll back. It is final, whatever later evidence shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackDecision {
    /// What was found.
    pub cause: AbortCause,
    /// Message for operators.
    pub message: Message,
}

/// The stored state of one objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectiveCheckpoint {
    /// Identifies the parameters that the evidence depends on. Evidence with another fingerprint is
    /// discarded.
    pub fingerprint: String,
    /// Error rate of the service before the release. `None` if it was unknown when the release
    /// began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usual_rate: Option<f64>,
    /// The evidence.
    pub state: ObjectiveState,
    /// Evidence of the bake time after promotion.
    #[serde(rename = "watch", default, skip_serializing_if = "Option::is_none")]
    pub bake: Option<BakeEvidence>,
    /// Whether Prometheus aggregates the series because they are too many to be read individually.
    #[serde(rename = "summed", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_aggregated: bool,
    /// Learned scrape interval in milliseconds, if it differs from the configured one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrape_interval_ms: Option<i64>,
    /// Evidence of the latency guard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<LatencyGuardState>,
}

/// Reads a hold of any version. `None` if this version does not know its code.
fn known_hold<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Hold>, D::Error> {
    let hold = Option::<Value>::deserialize(deserializer)?;
    Ok(hold.and_then(|hold| serde_json::from_value(hold).ok()))
}

/// Whole seconds, because timestamps in a status have no higher resolution.
pub(crate) fn previous_ended_second(at: Option<Timestamp>) -> i64 {
    at.map_or(0, Timestamp::as_second)
}

impl Checkpoint {
    /// Reads the checkpoint from a status. `None` if it is unreadable or belongs to another attempt
    /// than the request.
    pub fn from_status(status: Option<&AnalysisStatus>, request: &AnalysisRequest) -> Option<Self> {
        let status = status.filter(|status| status.revision == request.revision.as_str())?;
        let checkpoint: Self = serde_json::from_value(status.checkpoint.clone())
            .inspect_err(|error| tracing::warn!(%error, "discarding unreadable stored evidence"))
            .ok()?;
        let expected = previous_ended_second(request.previous_ended_at);
        Some(checkpoint).filter(|checkpoint| {
            checkpoint
                .previous_ended_second
                .is_none_or(|second| second == expected)
        })
    }

    /// Converts the checkpoint to its representation in the status.
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

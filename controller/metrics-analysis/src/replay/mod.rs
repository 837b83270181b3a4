//! Replays past releases from the data of a Prometheus server.
//!
//! The data is read in slices and passed to the same [`ReleaseAnalysis`] that the controller uses,
//! poll by poll, each time only as far as it was available then. Information that the controller
//! has and the counters lack comes from the request or from the data: the weight from the traffic,
//! and the creation times of pods from kube-state-metrics or else from their first appearance. As
//! in the controller, the dispersion of stable's errors is estimated from the hour before the
//! release.
//!
//! The error budget and the burn rate of the service are queried as of each point in time, but less
//! often than in the controller.

mod pod_creation_times;
mod release_replay;
mod replayer;
mod sample_buffer;
mod weight_source;

use serin_analysis::Counts;
use serin_core::observed::AnalysisReport;
use serin_core::units::Weight;
use serin_crds::status::EvidenceStatus;

use crate::counter_selectors::AnalysisError;
use crate::prometheus::{Poller, QueryError, Server};
use crate::request::AnalysisRequest;
use replayer::Replayer;
pub use weight_source::WeightSource;

/// Length of one slice, and the minimum length if the answer is too large, in milliseconds.
const SLICE_MS: i64 = 3_600_000;
const MIN_SLICE_MS: i64 = 60_000;
/// History that a series needs for its next increment to be counted, as in the counters, in
/// milliseconds.
const LOOK_BACK_MS: i64 = 300_000;
/// Rounds that are further apart than this number of scrapes leave a gap.
const MAX_GAP_SCRAPES: i64 = 3;

/// Default of [`ReplayRequest::quiet_ms`], in milliseconds.
pub const DEFAULT_QUIET_MS: i64 = 600_000;

/// Parameters of a replay.
#[derive(Clone, Debug)]
pub struct ReplayRequest {
    /// Server to query. Overrides the spec.
    pub server: Server,
    /// The release. Its weight is ignored in favor of `weights`. Its pods are used if their
    /// creation time is known.
    pub request: AnalysisRequest,
    /// Start of the time range, in milliseconds since the epoch.
    pub from_ms: i64,
    /// End of the time range, in milliseconds since the epoch.
    pub to_ms: i64,
    /// Source of the canary weight.
    pub weights: WeightSource,
    /// A release ends if one side receives no requests for this time, in milliseconds. At least
    /// three scrapes.
    pub quiet_ms: i64,
    /// Start of the analysis according to a checkpoint, in milliseconds since the epoch. `None` to
    /// start with the first request to the canary.
    pub began_ms: Option<i64>,
}

/// Why a replay failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The spec is invalid.
    #[error("{}", .0.message)]
    Spec(AnalysisError),
    /// The data cannot be read.
    #[error("the recorded metrics of {name} cannot be read: {error}")]
    Query {
        /// Name of the objective or of the additional metric.
        name: String,
        /// The cause.
        error: QueryError,
    },
}

impl From<AnalysisError> for ReplayError {
    fn from(analysis_error: AnalysisError) -> Self {
        Self::Spec(analysis_error)
    }
}

/// A change of the analysis report.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportChange {
    /// Time of the change, in milliseconds since the epoch.
    pub at_ms: i64,
    /// Weight at that time.
    pub weight: Weight,
    /// Report to the planner.
    pub report: AnalysisReport,
    /// Evidence at that time, by objective.
    pub evidence: Vec<EvidenceStatus>,
}

/// A round of scrapes and the evidence after it.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedRound {
    /// End of the round, in milliseconds since the epoch.
    pub at_ms: i64,
    /// End of the previous round, in milliseconds since the epoch.
    pub started_ms: i64,
    /// Counts between the two.
    pub counts: Counts,
    /// Evidence, in the format of the status.
    pub evidence: EvidenceStatus,
}

/// The decision that Serin would have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayOutcome {
    /// Rolled back.
    RolledBack,
    /// The evidence was sufficient to promote.
    Sufficient,
    /// Undecided for the maximum duration of the spec: manual action would have been required.
    Inconclusive,
}

/// Why the data of a release ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayEnd {
    /// The requested time range ends.
    Record,
    /// The canary received no more requests.
    CanaryStopped,
    /// Stable received no more requests: the canary had taken over.
    StableStopped,
}

/// The data of one objective.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectiveRecord {
    /// Name of the objective.
    pub name: String,
    /// `delta1`, the margin that must be ruled out before promotion, as a fraction of requests.
    pub margin: f64,
    /// Rounds, oldest first.
    pub rounds: Vec<RecordedRound>,
}

/// A replayed release.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplayedRelease {
    /// Time at which the canary's first request was scraped, in milliseconds since the epoch.
    pub began_ms: i64,
    /// End of the data, in milliseconds since the epoch.
    pub ended_ms: i64,
    /// Why it ends there.
    pub ending: ReplayEnd,
    /// Changes of the report, up to the decision.
    pub changes: Vec<ReportChange>,
    /// The first decision and its time.
    pub decision: Option<(ReplayOutcome, ReportChange)>,
    /// Objectives, in the order of the spec.
    pub objectives: Vec<ObjectiveRecord>,
    /// Gaps in the data of an objective: its name, start and end, in milliseconds since the epoch.
    pub gaps: Vec<(String, i64, i64)>,
    /// Whether the spec has a baseline, but no stable pod started together with the canary's. The
    /// canary is then compared with all stable pods.
    pub lacks_baseline: bool,
}

/// Replays every release in the time range. A release begins when the canary receives requests
/// after a quiet period.
///
/// # Errors
/// The spec is invalid, or the data cannot be read.
pub async fn replay(
    poller: &Poller,
    parameters: &ReplayRequest,
) -> Result<Vec<ReplayedRelease>, ReplayError> {
    let mut player = Replayer::new(poller, parameters)?;
    let mut read_ms = parameters.from_ms.saturating_sub(LOOK_BACK_MS);
    let mut slice_ms = SLICE_MS;
    while read_ms < parameters.to_ms {
        let end_ms = read_ms.saturating_add(slice_ms).min(parameters.to_ms);
        match player.read(read_ms, end_ms).await {
            Err(ReplayError::Query {
                error: QueryError::TooLarge(_),
                ..
            }) if slice_ms > MIN_SLICE_MS => {
                slice_ms /= 2;
            }
            read => {
                read?;
                player.play(end_ms).await?;
                read_ms = end_ms;
            }
        }
    }
    Ok(player.finish())
}

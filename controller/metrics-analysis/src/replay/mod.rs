//! What would have been decided on what a Prometheus has recorded.
//!
//! The record is read in slices and shown to the very [`Release`] that the controller judges by,
//! poll by poll, each time only as far as it was known then. What the controller knows and the
//! objectives' counters do not say is told with the question, or read off the record: the canary's
//! share off the traffic, and when pods were created off kube-state-metrics' series, else off their
//! first appearance. As the controller does, it learns from the hour before a release how stable's
//! errors cluster.
//!
//! The service's budget and burn rates are asked for as they were at each moment, though less often
//! than the controller asks.

mod births;
mod player;
mod tape;
mod under_way;
mod weights;

use serin_analysis::Counts;
use serin_core::observed::AnalysisReport;
use serin_core::units::Weight;
use serin_crds::status::EvidenceStatus;

use crate::prometheus::{Poller, QueryError, Server};
use crate::request::JudgeRequest;
use crate::selector::Trouble;
use player::Player;
pub use weights::Weights;

/// How much is read at once, and how little where that is too large an answer.
const SLICE_MS: i64 = 3_600_000;
const LEAST_SLICE_MS: i64 = 60_000;
/// How far back a series must be known for its next increment to be counted; as the counters
/// remember.
const LOOK_BACK_MS: i64 = 300_000;
/// Rounds further apart than so many scrapes leave a gap.
const GAP_SCRAPES: i64 = 3;

/// Without requests to one side for so long, in milliseconds, a release is usually over.
pub const USUAL_QUIET_MS: i64 = 600_000;

/// What is to be replayed.
#[derive(Clone, Debug)]
pub struct Question {
    /// Whom to ask, whatever the spec says.
    pub server: Server,
    /// The release; of its weight only the weights below are taken, and its pods where their age is
    /// known.
    pub request: JudgeRequest,
    /// From when, in milliseconds since the epoch.
    pub from_ms: i64,
    /// Until when, in milliseconds since the epoch.
    pub to_ms: i64,
    /// The canary's share.
    pub weights: Weights,
    /// Without requests to one side for so long, in milliseconds, a release is over; three scrapes
    /// at least.
    pub quiet_ms: i64,
    /// When the judgement began, where a checkpoint tells it, in milliseconds since the epoch; else
    /// with the first request to the canary.
    pub began_ms: Option<i64>,
}

/// Why nothing can be replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The spec cannot be judged by.
    #[error("{}", .0.message)]
    Spec(Trouble),
    /// The record cannot be read.
    #[error("the record of {of} cannot be read: {error}")]
    Query {
        /// Of what: an objective, or a metric that is asked for besides.
        of: String,
        /// Why.
        error: QueryError,
    },
}

impl From<Trouble> for ReplayError {
    fn from(trouble: Trouble) -> Self {
        Self::Spec(trouble)
    }
}

/// A moment at which the judgement changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    /// When, in milliseconds since the epoch.
    pub at_ms: i64,
    /// The canary's share then.
    pub weight: Weight,
    /// What would have been told to the planner.
    pub judgement: AnalysisReport,
    /// The evidence then, by objective.
    pub evidence: Vec<EvidenceStatus>,
}

/// What a scrape brought, and the evidence after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    /// When it closed, in milliseconds since the epoch.
    pub at_ms: i64,
    /// When the one before it closed, in milliseconds since the epoch.
    pub started_ms: i64,
    /// What was counted in between.
    pub counts: Counts,
    /// The evidence, as a status has it.
    pub evidence: EvidenceStatus,
}

/// What would have been decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Rolled back.
    RolledBack,
    /// The evidence sufficed to promote.
    Proven,
    /// Undecided for the longest time that the spec allows: a person would have been asked.
    Inconclusive,
}

/// How the record of a release ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With the time that was asked for.
    Record,
    /// The canary got no more requests.
    CanaryStopped,
    /// Stable got no more requests: the canary had taken over.
    StableStopped,
}

/// One objective on record.
#[derive(Clone, Debug, PartialEq)]
pub struct Course {
    /// Its name.
    pub name: String,
    /// `delta1`, the margin that promotion must rule out: a fraction of requests.
    pub margin: f64,
    /// Its rounds, oldest first.
    pub rounds: Vec<Round>,
}

/// One release on record.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// When the canary's first request was scraped, in milliseconds since the epoch.
    pub began_ms: i64,
    /// When its record ends, in milliseconds since the epoch.
    pub ended_ms: i64,
    /// Why it ends there.
    pub ending: Ending,
    /// The moments at which the judgement changed, up to the decision.
    pub moments: Vec<Moment>,
    /// The decision, the first there is, and when it would have been taken.
    pub decision: Option<(Outcome, Moment)>,
    /// The objectives, in the spec's order.
    pub objectives: Vec<Course>,
    /// Stretches of time for which an objective has no data, in milliseconds since the epoch: its
    /// name, from and to.
    pub gaps: Vec<(String, i64, i64)>,
}

/// Replays every release of the canary side between two moments: each time that it got requests
/// after it was quiet.
///
/// # Errors
/// The spec cannot be judged by, or the record not be read.
pub async fn replay(poller: &Poller, question: &Question) -> Result<Vec<Replayed>, ReplayError> {
    let mut player = Player::new(poller, question)?;
    let mut read_ms = question.from_ms.saturating_sub(LOOK_BACK_MS);
    let mut slice_ms = SLICE_MS;
    while read_ms < question.to_ms {
        let end_ms = read_ms.saturating_add(slice_ms).min(question.to_ms);
        match player.read(read_ms, end_ms).await {
            Err(ReplayError::Query {
                error: QueryError::TooLarge(_),
                ..
            }) if slice_ms > LEAST_SLICE_MS => {
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

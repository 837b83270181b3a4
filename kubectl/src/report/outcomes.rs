//! How releases ended.

use jiff::Timestamp;
use serde::Serialize;
use serin_core::state::{AbortCause, ReleaseResult};
use serin_crds::status::{AbortStatus, ReleaseStatus};

use crate::status_value::StatusValue;

/// Abort of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AbortReport {
    /// The aborted revision.
    pub revision: String,
    /// Time of the abort.
    pub at: Timestamp,
    /// Cause of the abort.
    pub cause: StatusValue<AbortCause>,
    /// User who requested the abort. `None` if the controller decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Explanation for operators.
    pub message: String,
}

impl From<AbortStatus> for AbortReport {
    fn from(abort: AbortStatus) -> Self {
        Self {
            cause: abort.cause.as_str().into(),
            revision: abort.revision,
            at: abort.at,
            by: abort.by,
            message: abort.message,
        }
    }
}

/// Outcome of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseReport {
    /// The released revision.
    pub revision: String,
    /// Result of the release.
    pub result: StatusValue<ReleaseResult>,
    /// Time at which the release ended.
    pub at: Timestamp,
    /// Explanation for operators.
    pub message: String,
}

impl From<ReleaseStatus> for ReleaseReport {
    fn from(release: ReleaseStatus) -> Self {
        Self {
            result: release.result.as_str().into(),
            revision: release.revision,
            at: release.at,
            message: release.message,
        }
    }
}

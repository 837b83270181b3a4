//! How releases ended.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_core::state::{AbortCause, ReleaseResult};

use crate::status_value::StatusValue;

/// Abort of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// Outcome of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

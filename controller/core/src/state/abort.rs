//! Why a revision was aborted.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::text::{Message, UserName};
use crate::units::Revision;

/// Abort of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Abort {
    /// Revision that was aborted. The abort applies to it alone.
    pub revision: Revision,
    /// Time of the abort.
    pub at: Timestamp,
    /// Cause of the abort, for example Evidence, ErrorBudget, Command, PodCrash or
    /// ProgressDeadline. The reference lists all causes.
    pub cause: AbortCause,
    /// User who requested the abort. Unset if the controller decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<UserName>,
    /// Explanation for operators.
    pub message: Message,
}

/// What caused an abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AbortCause {
    /// The evidence shows that the canary is worse than stable.
    Evidence,
    /// The release has spent the errors that it may cost.
    ErrorBudget,
    /// The service as a whole burns its error budget while the canary has traffic.
    ServiceBurning,
    /// A check failed more often than its limit.
    Check,
    /// Canary pods crash.
    PodCrash,
    /// Pods, the router or the Services made no progress in time.
    ProgressDeadline,
    /// A gate expired.
    GateExpired,
    /// An `abort` command.
    Command,
}

impl AbortCause {
    /// All causes, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::Evidence,
        Self::ErrorBudget,
        Self::ServiceBurning,
        Self::Check,
        Self::PodCrash,
        Self::ProgressDeadline,
        Self::GateExpired,
        Self::Command,
    ];

    /// The cause as it appears in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Evidence => "Evidence",
            Self::ErrorBudget => "ErrorBudget",
            Self::ServiceBurning => "ServiceBurning",
            Self::Check => "Check",
            Self::PodCrash => "PodCrash",
            Self::ProgressDeadline => "ProgressDeadline",
            Self::GateExpired => "GateExpired",
            Self::Command => "Command",
        }
    }

    /// What the cause means.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Evidence => {
                "The canary fails more often than stable, with a bound on the chance of being wrong."
            }
            Self::ErrorBudget => "The release has cost the errors that it was allotted.",
            Self::ServiceBurning => {
                "The service as a whole burned its error budget while the canary had traffic."
            }
            Self::Check => "A check failed more often than `failureLimit`.",
            Self::PodCrash => "Canary pods crashed more often than `podRestartLimit`.",
            Self::ProgressDeadline => {
                "Pods, the router or the Services made no progress for `progressDeadlineSeconds`."
            }
            Self::GateExpired => {
                "A gate was not opened within `expireAfter`: nobody approved it, or its object did \
                 not meet the condition."
            }
            Self::Command => "Somebody aborted the release.",
        }
    }
}

impl std::fmt::Display for AbortCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

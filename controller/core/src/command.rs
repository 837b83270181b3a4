//! Commands: requests by people, each handled once.

use serde::{Deserialize, Serialize};

use crate::units::Revision;

/// A request by a person or a pipeline. It is a separate object, so that Git cannot undo it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The object's UID, by which a command is handled once.
    pub uid: String,
    /// The object's name.
    pub name: String,
    /// The action.
    pub verb: Verb,
    /// The revision that must still be current.
    pub required_revision: Option<Revision>,
    /// The step index that must still be current.
    pub required_step: Option<usize>,
    /// The requester's reason.
    pub reason: Option<String>,
    /// The requester, verified by the admission policy.
    pub requested_by: Option<String>,
}

/// The action of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verb {
    /// Continue from the current pause.
    Promote,
    /// Go to 100 % without the remaining steps; a breach still aborts.
    PromoteFull,
    /// Take all traffic off the canary and keep the stable revision.
    Abort,
    /// Start an aborted revision again from the first step.
    Retry,
    /// Let nothing advance until `resume`.
    Pause,
    /// Undo `pause`.
    Resume,
    /// Leave the current step, whatever it waits for.
    SkipStep,
    /// Lift a freeze for this revision. Evidence against it still rolls it back.
    Override,
}

impl Verb {
    /// The verb as the API and messages write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::PromoteFull => "promoteFull",
            Self::Abort => "abort",
            Self::Retry => "retry",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::SkipStep => "skipStep",
            Self::Override => "override",
        }
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandOutcome {
    /// Whether the command was carried out or refused.
    pub result: CommandResult,
    /// What happened, or why it was refused.
    pub message: String,
}

/// Whether a command was carried out or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandResult {
    /// The command was carried out, or there was nothing to do.
    Done,
    /// The command was refused.
    Refused,
}

impl CommandOutcome {
    /// The outcome of a command that was carried out.
    pub fn done(message: impl Into<String>) -> Self {
        Self {
            result: CommandResult::Done,
            message: message.into(),
        }
    }

    /// The outcome of a command that was refused.
    pub fn refused(message: impl Into<String>) -> Self {
        Self {
            result: CommandResult::Refused,
            message: message.into(),
        }
    }
}

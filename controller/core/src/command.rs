//! What people ask for, once, bound to what they were looking at.

use serde::{Deserialize, Serialize};

use crate::units::Revision;

/// A request by a person or a pipeline: an object of its own, so that Git cannot undo it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The object's UID: a command is carried out once.
    pub uid: String,
    /// The object's name.
    pub name: String,
    /// What to do.
    pub verb: Verb,
    /// The revision that the requester was looking at.
    pub required_revision: Option<Revision>,
    /// The step index that the requester was looking at.
    pub required_step: Option<usize>,
    /// Why, in the requester's words.
    pub reason: Option<String>,
    /// Who, as the admission policy has checked.
    pub requested_by: Option<String>,
}

/// What a command can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verb {
    /// Go on from the pause at hand.
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
    /// Go on from the step at hand, whatever it waits for.
    SkipStep,
    /// Let this revision go on although the service has no errors to spend; what the evidence says
    /// stands.
    Override,
}

impl Verb {
    /// The word in the API and in messages.
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
    /// Whether it was done or refused.
    pub result: CommandResult,
    /// What happened, or why not.
    pub message: String,
}

/// Whether a command was done or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandResult {
    /// It was carried out, or there was nothing to do.
    Done,
    /// It was not, for the reason given.
    Refused,
}

impl CommandOutcome {
    /// It was carried out.
    pub fn done(message: impl Into<String>) -> Self {
        Self {
            result: CommandResult::Done,
            message: message.into(),
        }
    }

    /// It was not carried out.
    pub fn refused(message: impl Into<String>) -> Self {
        Self {
            result: CommandResult::Refused,
            message: message.into(),
        }
    }
}

//! Commands: requests by people, each handled once.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::text::{Message, USER_BYTES, UserName};
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
    /// Whether an `override` applies the edited `spec.analysis` to the release under way instead of
    /// lifting a freeze.
    pub adopt_analysis: bool,
    /// The requester's reason.
    pub reason: Option<Message>,
    /// The name that the command gives as its requester. Messages use [`Command::requester`].
    pub requested_by: Option<UserName>,
    /// When the object was created, by the clock of the API server.
    pub created_at: Timestamp,
    /// Whether the requester and the permission were verified.
    pub authorization: Authorization,
}

/// Appended to the name of a requester that nothing has verified.
const UNVERIFIED: &str = " (unverified)";

impl Command {
    /// The requester as messages and the status name it. A name that nothing has verified is marked
    /// as such.
    pub fn requester(&self) -> Option<UserName> {
        let mut name = self.requested_by.clone()?;
        if self.authorization == Authorization::Unverified {
            name.shorten(USER_BYTES.saturating_sub(UNVERIFIED.len()));
            name = format!("{name}{UNVERIFIED}").into();
        }
        Some(name)
    }
}

/// Whether the API server has verified the requester of a command and the permission for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Authorization {
    /// The admission policy was in force when the command was created.
    #[default]
    Verified,
    /// The installation uses no admission policy. Whoever may create commands may give any of them,
    /// in any name.
    Unverified,
    /// The admission policy was not in force, for this reason. The command is refused.
    Missing(Message),
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
    /// Lift a freeze for this revision, or apply the edited analysis to it. Evidence against it
    /// still rolls it back.
    Override,
    /// Give the pods to a Deployment, without a restart.
    GiveBack,
    /// Replace the pods of the stable revision, without a release.
    Restart,
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
            Self::GiveBack => "giveBack",
            Self::Restart => "restart",
        }
    }
}

/// Outcome of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CommandOutcome {
    /// Done or Refused.
    pub result: CommandResult,
    /// What was done, or why the command was refused.
    pub message: Message,
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
    pub fn done(message: impl Into<Message>) -> Self {
        Self {
            result: CommandResult::Done,
            message: message.into(),
        }
    }

    /// The outcome of a command that was refused.
    pub fn refused(message: impl Into<Message>) -> Self {
        Self {
            result: CommandResult::Refused,
            message: message.into(),
        }
    }
}

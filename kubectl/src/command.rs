//! A command for the controller, before it becomes a RolloutCommand.

use std::time::Duration;

use serin_crds::command::CommandVerb;

/// A command for the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRequest {
    /// Name of the Rollout.
    pub name: String,
    /// The verb.
    pub verb: CommandVerb,
    /// Reason, stored with the command.
    pub reason: Option<String>,
    /// Whether `override` applies the edited analysis instead of lifting a freeze.
    pub adopt_analysis: bool,
    /// Required revision. `None` means the current one.
    pub revision: Option<String>,
    /// Required step index, from 0. `None` means the current step, if the verb depends on it.
    pub step_index: Option<i32>,
    /// Maximum time to wait for the outcome. `None` does not wait.
    pub timeout: Option<Duration>,
    /// Whether to ask for confirmation on a terminal first.
    pub confirm_first: bool,
}

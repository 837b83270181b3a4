//! What a person wants of the controller, before it is a RolloutCommand.

use std::time::Duration;

use serin_crds::command::CommandVerb;

/// What a person wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The Rollout.
    pub name: String,
    /// What to do.
    pub verb: CommandVerb,
    /// Why.
    pub reason: Option<String>,
    /// The revision that it is meant for; none: the current one.
    pub revision: Option<String>,
    /// The index of the step that it is meant for, from 0; none: the step at hand, where it
    /// matters.
    pub step_index: Option<i32>,
    /// How long to wait for the outcome; none: not at all.
    pub timeout: Option<Duration>,
    /// Whether to ask back first, on a terminal.
    pub ask_first: bool,
}

//! RolloutCommand: a request by a person or a pipeline.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serin_core::command::Verb;

use crate::rules;

/// A request about a Rollout, carried out once: create-only, with its outcome in its status,
/// deleted after a while.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "serin.dev",
    version = "v1alpha1",
    kind = "RolloutCommand",
    namespaced,
    status = "RolloutCommandStatus",
    shortname = "srncmd",
    doc = "A request about a Rollout, carried out once.",
    derive = "PartialEq",
    validation = Rule::new("self.spec == oldSelf.spec").message("a command cannot be changed: create another"),
    printcolumn(name = "Rollout", type_ = "string", json_path = ".spec.rolloutRef.name"),
    printcolumn(name = "Verb", type_ = "string", json_path = ".spec.verb"),
    printcolumn(name = "By", type_ = "string", json_path = ".spec.requestedBy"),
    printcolumn(name = "Outcome", type_ = "string", json_path = ".status.outcome"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::override_has_a_reason())]
pub struct RolloutCommandSpec {
    /// The Rollout, in the same namespace.
    pub rollout_ref: RolloutRef,
    /// What to do.
    pub verb: CommandVerb,
    /// What the requester was looking at; the command is refused where that is no longer so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
    /// Why, for the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub reason: Option<String>,
    /// Who; the admission policy refuses any name but the requester's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub requested_by: Option<String>,
}

/// A Rollout by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What a command can ask for; each is also a verb on `rollouts` that RBAC grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CommandVerb {
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
    /// Let the current revision go on although the service has no errors to spend. It takes a
    /// reason, and lifts no evidence.
    Override,
}

impl From<CommandVerb> for Verb {
    fn from(verb: CommandVerb) -> Self {
        match verb {
            CommandVerb::Promote => Self::Promote,
            CommandVerb::PromoteFull => Self::PromoteFull,
            CommandVerb::Abort => Self::Abort,
            CommandVerb::Retry => Self::Retry,
            CommandVerb::Pause => Self::Pause,
            CommandVerb::Resume => Self::Resume,
            CommandVerb::SkipStep => Self::SkipStep,
            CommandVerb::Override => Self::Override,
        }
    }
}

/// What the requester was looking at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Preconditions {
    /// The current revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The index of the step at hand, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub step: Option<i32>,
}

/// How a command ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutCommandStatus {
    /// How it ended; nothing yet while it is waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<CommandResult>,
    /// What happened, or why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum CommandResult {
    /// It was carried out, or there was nothing to do.
    Done,
    /// It was not, for the reason given.
    Refused,
}

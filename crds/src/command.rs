//! The RolloutCommand resource.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serin_core::command::Verb;

use crate::rules;

/// A request to act on a Rollout, executed once. The object is immutable, its outcome is in
/// `status`, and it is deleted some time after execution.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "serin.dev",
    version = "v1alpha1",
    kind = "RolloutCommand",
    namespaced,
    status = "RolloutCommandStatus",
    shortname = "srncmd",
    doc = "A request to act on a Rollout, executed once.",
    derive = "PartialEq",
    validation = Rule::new("self.spec == oldSelf.spec").message("a RolloutCommand is immutable: create another one"),
    printcolumn(name = "Rollout", type_ = "string", json_path = ".spec.rolloutRef.name"),
    printcolumn(name = "Verb", type_ = "string", json_path = ".spec.verb"),
    printcolumn(name = "By", type_ = "string", json_path = ".spec.requestedBy"),
    printcolumn(name = "Outcome", type_ = "string", json_path = ".status.outcome"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::override_requires_reason())]
#[x_kube(validation = rules::only_override_adopts_analysis())]
pub struct RolloutCommandSpec {
    /// Rollout to act on, in the same namespace.
    pub rollout_ref: RolloutRef,
    /// Action to execute.
    pub verb: CommandVerb,
    /// State that the requester expects. The command is refused if the Rollout is in a different
    /// state. If unset, the command is executed in any state that allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
    /// If true, `override` applies the edited `spec.analysis` of the Rollout to the release in
    /// progress instead of lifting a freeze. Permitted for `override` only. Defaults to false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopt_analysis: bool,
    /// Reason of the request, for the record. Required for `override`. Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub reason: Option<String>,
    /// User name of the requester. The admission policy of the Helm chart requires the requester's
    /// own name. If unset, the requester is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub requested_by: Option<String>,
}

/// Reference to a Rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutRef {
    /// Name of the Rollout.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Action of a command. Each action is also a verb on `rollouts` that RBAC can grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CommandVerb {
    /// Continues after the current pause.
    Promote,
    /// Skips the remaining steps and goes to 100% of the traffic. A breach still aborts.
    PromoteFull,
    /// Removes all traffic from the canary and keeps the stable revision.
    Abort,
    /// Restarts an aborted revision from the first step.
    Retry,
    /// Stops the rollout from advancing until `resume`.
    Pause,
    /// Reverts `pause` and `giveBack`.
    Resume,
    /// Skips the current step, whatever it waits for.
    SkipStep,
    /// Lets the current revision continue although the service's error budget is exhausted.
    /// Requires a reason and does not override evidence against the release.
    Override,
    /// Gives the pods to a Deployment without a restart. The Deployment is created if it does not
    /// exist.
    GiveBack,
    /// Replaces the pods of the stable revision without a release, within `maxSurge`,
    /// `maxUnavailable` and the disruption budgets of the pods. Refused during a release.
    Restart,
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
            CommandVerb::GiveBack => Self::GiveBack,
            CommandVerb::Restart => Self::Restart,
        }
    }
}

/// State that the requester expects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Preconditions {
    /// Current revision. If unset, it is not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub revision: Option<String>,
    /// Index of the current step, from 0. If unset, it is not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub step: Option<i32>,
}

/// Result of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutCommandStatus {
    /// Outcome of the command: Done or Refused. Unset until the command is executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<CommandResult>,
    /// What was done, or why the command was refused. Unset until the command is executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Time of the execution. Unset until the command is executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// Outcome of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum CommandResult {
    /// The command was executed, or there was nothing to do.
    Done,
    /// The command was not executed, for the reason in `message`.
    Refused,
}

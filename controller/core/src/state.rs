//! The state of a release: what is persisted in status, and all that a restarted controller needs.
//!
//! Its JSON form is part of the Rollout's `status`, with the same field names.

mod abort;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::command::CommandOutcome;
use crate::hold::{Hold, known_holds};
use crate::observation::Observation;
use crate::plan::Plan;
use crate::release_analysis::{AnalysisDocument, ReleaseAnalysis};
use crate::release_policy::ReleasePolicy;
use crate::text::{Message, UserName};
use crate::units::{Revision, Weight};

pub use abort::{Abort, AbortCause};

/// The version of the persisted state that this build writes. It rises when a state of the new
/// version would be misunderstood by an older controller.
pub const SCHEMA_VERSION: u32 = 1;
/// Number of release outcomes to keep.
pub const HISTORY_LIMIT: usize = 10;
/// Number of handled commands to remember, so that none is carried out twice.
pub const COMMANDS_LIMIT: usize = 10;
/// Maximum number of holds to report. The least important ones are left out.
pub const HOLDS_LIMIT: usize = 16;
/// Maximum number of revisions that drain at the same time. Further revisions keep their pods until
/// others have drained.
pub const DRAINS_LIMIT: usize = 32;

/// The persisted state.
///
/// Each text of a field is its description in `kubectl explain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// Version of the persisted state. Defaults to 1.
    pub schema_version: u32,
    /// Latest generation of the spec that the controller has processed.
    pub observed_generation: i64,
    /// Summary of the rollout: Progressing, Paused, Degraded or Healthy.
    pub phase: Phase,
    /// What the rollout does or waits for, in one sentence.
    pub message: Message,
    /// Revision that was promoted last. Unset until the first deployment is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable_revision: Option<Revision>,
    /// Revision of the current `spec.template`. Unset until it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_revision: Option<Revision>,
    /// Active plan: the spec that the release follows, with all defaults. Unset until a valid spec
    /// was processed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<ActivePlan>,
    /// Analysis of the current release, as it was when the release began. Unset if no release with
    /// an analysis is in progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release_analysis: Option<ReleaseAnalysis>,
    /// RolloutPolicies under which the last release began, by precedence. Defaults to none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub release_policies: Vec<ReleasePolicy>,
    /// Guardrails of these policies, as they were when the release began. Unset if no release under a
    /// policy is in progress, or if they have more than 8 KiB: then the current ones apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "schemars",
        schemars(schema_with = "crate::schema::any_object")
    )]
    pub release_guardrails: Option<AnalysisDocument>,
    /// Stage of the release: FirstDeploy, Progressing, Promoting, Aborted or Stable.
    pub stage: Stage,
    /// Time at which the current stage or step began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage_since: Option<Timestamp>,
    /// Time at which the current release began, at its first step or at a retry. Earlier events do
    /// not count against it. Unset if no release is in progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release_started_at: Option<Timestamp>,
    /// Latest progress toward the state that the release waits for. Unset if it waits for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Time at which `replicas` was increased during this release. The canary then grows no faster
    /// than the stable revision. Unset once the stable revision has all of its pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growing_since: Option<Timestamp>,
    /// Whether `spec.replicas` was last set by an autoscaler or `kubectl scale`. Defaults to false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub replicas_scaled: bool,
    /// Number of pods that is kept because `spec.replicas` was removed. Unset if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas_kept: Option<ReplicasKept>,
    /// Current step. If the evidence sets the pace, it counts the weights since the release began.
    /// Unset if the release has no steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<StepPosition>,
    /// Restart of the pods that is in progress. Unset if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// Latest value of `spec.restartAt` whose restart is complete. Unset if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarted_at: Option<Timestamp>,
    /// Whether the steps restart with no traffic on the canary because they were edited during the
    /// release. Defaults to false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub restarting: bool,
    /// Traffic split.
    pub weights: Weights,
    /// Current pause. Unset if the release is not paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// Why the current revision was aborted. Unset if it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<Abort>,
    /// Analysis of a release that has all of the traffic. Unset before it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bake: Option<Bake>,
    /// Time at which pods of the stable revision started together with the canary's, which is
    /// compared with them. Unset if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline_since: Option<Timestamp>,
    /// Manual permission for the current revision to continue although the error budget is
    /// exhausted. Unset if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze_override: Option<FreezeOverride>,
    /// Everything that stops the release, the most important first, at most 16.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "known_holds"
    )]
    pub holds: Vec<Hold>,
    /// Revisions that receive no traffic, with the earliest time at which their pods are removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub draining: Vec<Drain>,
    /// Deployment whose pods the Rollout takes over, has taken over or gives back. Unset if there is
    /// none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<AdoptedWorkload>,
    /// Releases of another controller, and what Serin would have done with them. Set only with
    /// `spec.mode: Observe`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observation: Option<Observation>,
    /// Commands that were executed recently, newest last, at most twenty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<HandledCommand>,
    /// Outcomes of the last ten releases, newest last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<ReleaseRecord>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            observed_generation: 0,
            phase: Phase::default(),
            message: Message::default(),
            stable_revision: None,
            current_revision: None,
            plan: None,
            release_analysis: None,
            release_policies: Vec::new(),
            release_guardrails: None,
            stage: Stage::default(),
            stage_since: None,
            release_started_at: None,
            progress: None,
            growing_since: None,
            replicas_scaled: false,
            replicas_kept: None,
            step: None,
            restart: None,
            restarted_at: None,
            restarting: false,
            weights: Weights::default(),
            pause: None,
            abort: None,
            bake: None,
            baseline_since: None,
            freeze_override: None,
            holds: Vec::new(),
            draining: Vec::new(),
            workload: None,
            observation: None,
            commands: Vec::new(),
            history: Vec::new(),
        }
    }
}

impl State {
    /// The bake under way.
    pub(crate) fn active_bake(&self) -> Option<Bake> {
        self.bake
            .filter(|watch| self.stage == Stage::Promoting && watch.ended_at.is_none())
    }

    /// Whether a bake has ended.
    pub(crate) fn is_bake_complete(&self) -> bool {
        self.bake.is_some_and(|watch| watch.ended_at.is_some())
    }
}

/// Where a Rollout stands, in the words of existing dashboards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// A release or another change is under way.
    #[default]
    Progressing,
    /// The release waits for a time or a person.
    Paused,
    /// Somebody should look: a release was aborted, or the spec cannot be used.
    Degraded,
    /// The spec's revision is stable and complete.
    Healthy,
}

/// The stage of a release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stage {
    /// No revision has ever been available.
    #[default]
    FirstDeploy,
    /// The canary goes through its steps.
    Progressing,
    /// The canary takes over: all traffic, then the stable Service, then the route's stable side.
    Promoting,
    /// The current revision was aborted. Stable serves.
    Aborted,
    /// The current revision is the stable one.
    Stable,
}

/// The active plan of a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ActivePlan {
    /// Hash of the plan.
    pub hash: String,
    /// Plan with all defaults.
    #[cfg_attr(
        feature = "schemars",
        schemars(schema_with = "crate::schema::any_object")
    )]
    pub spec: Plan,
}

/// Current step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct StepPosition {
    /// Index of the step, from 0. Equal to the number of steps once all are complete.
    pub index: usize,
    /// Time at which the step began. Timed pauses count from here, also across restarts of the
    /// controller.
    pub started_at: Timestamp,
}

/// Progress toward the state that a release waits for: pods, the router and the Services.
/// `spec.progressDeadlineSeconds` counts from the latest progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Time of the latest progress.
    pub at: Timestamp,
    /// Highest count reached so far: available pods, plus one for each ready part of the router and
    /// the Services. Unset before anything was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<i64>,
    /// Time since which nothing is missing. Unset if something is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete_since: Option<Timestamp>,
}

impl Progress {
    /// The start of something new to wait for.
    pub(crate) fn start(now: Timestamp) -> Self {
        Self {
            at: now,
            reached: None,
            complete_since: None,
        }
    }
}

/// Number of pods that is kept because `spec.replicas` was removed and its default is lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReplicasKept {
    /// Number of pods.
    pub count: u32,
    /// Time until which an autoscaler that has started to set `replicas` may set a lower number.
    /// Unset if no autoscaler has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Restart of the pods, requested by a command or by `spec.restartAt`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Restart {
    /// Pods that were created before this time are replaced.
    pub at: Timestamp,
    /// User who requested it by a command. Unset if unknown, or if it is that of `spec.restartAt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<UserName>,
}

/// Traffic split, in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Weights {
    /// Desired share of the canary in percent.
    pub desired: Weight,
    /// Share of the canary in percent that was last verified to be in effect. Unset while a change
    /// is in progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<Weight>,
    /// Time since which the share has been desired or, once verified, in effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Number of available canary pods at the time of verification. They suffice for this share
    /// even if `replicas` grows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<u32>,
    /// Upper limit of the canary's share in percent, if the metrics require less than the step
    /// sets. Unset if there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap: Option<Weight>,
}

/// A pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// Reason of the pause: Step, Command or Inconclusive.
    pub reason: PauseReason,
    /// Time at which the pause began.
    pub since: Timestamp,
    /// Time at which the pause ends. Unset if it lasts until a manual action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// What caused a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PauseReason {
    /// A pause step.
    Step,
    /// The `pause` command.
    Command,
    /// The analysis reached its maximum duration without a verdict.
    Inconclusive,
}

/// Analysis of a release that has all of the traffic, before it becomes stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Bake {
    /// Time since which the canary is known to have all of the traffic.
    pub since: Timestamp,
    /// Time at which the bake ended. Unset while it is in progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// Manual permission for a revision to continue although the error budget is exhausted. Evidence
/// against the revision still rolls it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct FreezeOverride {
    /// Revision. The permission is valid only for its current release.
    pub revision: Revision,
    /// User who gave the permission. Unset if unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<UserName>,
    /// Time at which the permission was given.
    pub at: Timestamp,
    /// Reason that the user gave.
    pub reason: Message,
}

/// A revision that receives no traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// Revision.
    pub revision: Revision,
    /// Earliest time at which its pods are removed.
    pub until: Timestamp,
}

/// Deployment whose pods a Rollout takes over, has taken over or gives back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct AdoptedWorkload {
    /// Name of the Deployment.
    pub deployment: String,
    /// TakingOver, TakenOver, GivingBack or GivenBack.
    pub phase: WorkloadPhase,
    /// Time since which the workload has been in this phase.
    pub since: Timestamp,
}

/// Who controls the pods of a Deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WorkloadPhase {
    /// The Rollout is becoming their controller.
    TakingOver,
    /// The Rollout controls them.
    TakenOver,
    /// The Deployment is becoming their controller again.
    GivingBack,
    /// The Deployment controls them.
    GivenBack,
}

/// A command that was executed or refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct HandledCommand {
    /// UID of the RolloutCommand.
    pub uid: String,
    /// Outcome of the command.
    pub outcome: CommandOutcome,
}

/// Outcome of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReleaseRecord {
    /// Revision that was released.
    pub revision: Revision,
    /// Promoted, Aborted or Superseded.
    pub result: ReleaseResult,
    /// Time at which the release ended.
    pub at: Timestamp,
    /// Explanation for operators.
    pub message: Message,
    /// Revision that was stable before a promotion by blue/green.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<Revision>,
}

/// How a release ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReleaseResult {
    /// The revision became stable.
    Promoted,
    /// The revision was aborted.
    Aborted,
    /// A newer revision replaced it before it was decided.
    Superseded,
}

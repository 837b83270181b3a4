//! The state of a release: what is persisted in status, and all that a restarted controller needs.
//!
//! Its JSON form is part of the Rollout's `status`, with the same field names.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::command::CommandOutcome;
use crate::hold::{Hold, known_holds};
use crate::plan::Plan;
use crate::units::{Revision, Weight};

/// The version of the persisted state that this build writes. It rises when a state of the new
/// version would be misunderstood by an older controller.
pub const SCHEMA_VERSION: u32 = 1;
/// Number of release outcomes to keep.
pub const HISTORY_LIMIT: usize = 10;
/// Number of handled commands to remember, so that repeats are harmless.
pub const COMMANDS_LIMIT: usize = 10;

/// The persisted state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// The version of this schema, [`SCHEMA_VERSION`]. A status without it has version 1.
    pub schema_version: u32,
    /// The newest `metadata.generation` that was applied.
    pub observed_generation: i64,
    /// The phase of the Rollout.
    pub phase: Phase,
    /// What the Rollout does or waits for, in a sentence.
    pub message: String,
    /// The revision that serves production.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable_revision: Option<Revision>,
    /// The revision of the spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_revision: Option<Revision>,
    /// The active plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<ActivePlan>,
    /// The stage of the release.
    pub stage: Stage,
    /// When the current stage or step began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage_since: Option<Timestamp>,
    /// When the release under way began, at its first step or at a retry. Earlier events do not
    /// count against it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release_started_at: Option<Timestamp>,
    /// The last progress toward what the release waits for. The progress deadline counts from
    /// there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Since when `replicas` is higher than before during this release. Until the stable revision
    /// has its new pods, the canary grows no faster than they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growing_since: Option<Timestamp>,
    /// Whether an autoscaler or `kubectl scale` set `spec.replicas` last.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub replicas_scaled: bool,
    /// The number of pods kept because `spec.replicas` was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas_kept: Option<ReplicasKept>,
    /// The current step. If the evidence sets the pace, it counts the weights since the release
    /// began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<StepPosition>,
    /// Whether the steps restart from no traffic because they were edited during the release.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub restarting: bool,
    /// The traffic split.
    pub weights: Weights,
    /// The pause that holds the release, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// Why the current revision was aborted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<Abort>,
    /// The bake of a release that has all of the traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bake: Option<Bake>,
    /// The lifted freeze of the current revision, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze_override: Option<FreezeOverride>,
    /// Everything that stops the release.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "known_holds"
    )]
    pub holds: Vec<Hold>,
    /// Revisions that no traffic can reach any more and when their pods may go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub draining: Vec<Drain>,
    /// The commands handled last, newest last, at most [`COMMANDS_LIMIT`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<HandledCommand>,
    /// The outcomes of releases, newest last, at most [`HISTORY_LIMIT`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<ReleaseRecord>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            observed_generation: 0,
            phase: Phase::default(),
            message: String::new(),
            stable_revision: None,
            current_revision: None,
            plan: None,
            stage: Stage::default(),
            stage_since: None,
            release_started_at: None,
            progress: None,
            growing_since: None,
            replicas_scaled: false,
            replicas_kept: None,
            step: None,
            restarting: false,
            weights: Weights::default(),
            pause: None,
            abort: None,
            bake: None,
            freeze_override: None,
            holds: Vec::new(),
            draining: Vec::new(),
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

/// The plan that a release runs under.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActivePlan {
    /// A hash of the plan.
    pub hash: String,
    /// The plan.
    pub spec: Plan,
}

/// The current step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepPosition {
    /// Its index, from 0; equal to the number of steps once all are complete.
    pub index: usize,
    /// When it began. Timed pauses count from here, also across restarts of the controller.
    pub started_at: Timestamp,
}

/// Progress toward what a release waits for: pods, the router, the Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// When the last progress was made.
    pub at: Timestamp,
    /// The most that was reached so far: pods in place, plus one for each part of the router and
    /// the Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<i64>,
    /// Since when nothing is missing; `None` while something is.
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

/// The number of pods kept because `spec.replicas` was removed and its default is lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicasKept {
    /// The number of pods.
    pub count: u32,
    /// Until when an autoscaler that has begun to set `replicas` may still be below it; `None`
    /// until one begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// The desired and the observed traffic split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Weights {
    /// The canary's desired share.
    pub desired: Weight,
    /// The canary's share that was last observed in effect. `None` while a change is on its way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<Weight>,
    /// Since when the share has been desired or, once verified, in effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The number of available canary pods with which it was verified. They suffice for this share
    /// even if `replicas` grows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<u32>,
    /// The limit of the canary's share because the analysis demanded less than its step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap: Option<Weight>,
}

/// A pause of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// What caused the pause.
    pub reason: PauseReason,
    /// When the pause began.
    pub since: Timestamp,
    /// When the pause ends. `None` if a command ends it.
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

/// An abort of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Abort {
    /// The aborted revision. The abort applies to it alone.
    pub revision: Revision,
    /// When it was decided.
    pub at: Timestamp,
    /// What caused it.
    pub cause: AbortCause,
    /// Who requested it, if somebody did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What an operator reads.
    pub message: String,
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
    /// An `abort` command.
    Command,
}

impl AbortCause {
    /// All causes, in the order of the documentation.
    pub const ALL: [Self; 7] = [
        Self::Evidence,
        Self::ErrorBudget,
        Self::ServiceBurning,
        Self::Check,
        Self::PodCrash,
        Self::ProgressDeadline,
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
            Self::Command => "Somebody aborted the release.",
        }
    }
}

impl std::fmt::Display for AbortCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The bake of a release that has all of the traffic, before it becomes stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bake {
    /// When the canary was first observed to have all of the traffic.
    pub since: Timestamp,
    /// When the bake ended, so that the release becomes stable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// A lifted freeze: a revision may continue although the service has no errors to spend. Evidence
/// against it still rolls it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FreezeOverride {
    /// The revision. The override applies to its current release alone.
    pub revision: Revision,
    /// Who lifted it, verified by the admission policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When.
    pub at: Timestamp,
    /// The reason given.
    pub reason: String,
}

/// A revision that no traffic can reach any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// The revision.
    pub revision: Revision,
    /// When its pods may be removed.
    pub until: Timestamp,
}

/// A command that was carried out or refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandledCommand {
    /// The UID of the command object.
    pub uid: String,
    /// How it ended.
    pub outcome: CommandOutcome,
}

/// How one release ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseRecord {
    /// The revision.
    pub revision: Revision,
    /// How it ended.
    pub result: ReleaseResult,
    /// When.
    pub at: Timestamp,
    /// What an operator reads.
    pub message: String,
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

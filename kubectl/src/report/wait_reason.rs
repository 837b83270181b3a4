//! What a release is waiting for, since when, and which commands end it.

use jiff::Timestamp;
use serde::Serialize;
use serin_crds::status::{PauseStatus, RolloutStatus};

use super::steps::{StepReport, StepState};
use crate::rollout_summary::{RolloutSummary, same_weight};

/// What a release is waiting for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitReason {
    /// The awaited event; completes "waits for".
    pub what: String,
    /// Start of the wait.
    pub since: Option<Timestamp>,
    /// End of the wait. `None` if it is not limited.
    pub until: Option<Timestamp>,
    /// Whether the release is paused.
    pub pause: bool,
    /// Commands that end it.
    pub commands: Vec<String>,
}

/// What the release is waiting for. `None` if it is healthy or aborted, or if the controller's
/// message is sufficient.
pub fn wait_reason(
    summary: &RolloutSummary,
    status: &RolloutStatus,
    steps: &[StepReport],
    now: Timestamp,
) -> Option<WaitReason> {
    if summary.observed_generation.is_some() && !summary.is_up_to_date() {
        return Some(wait_for("the controller to observe the latest spec", None));
    }
    if summary.phase.is_none() {
        return Some(wait_for(
            "the controller to reconcile it (is the controller running?)",
            None,
        ));
    }
    if summary.release_succeeded().is_some() {
        return None;
    }
    if let Some(pause) = &status.pause {
        return Some(pause_wait(pause, summary, now));
    }
    let releasing = matches!(summary.stage.as_deref(), Some("Progressing" | "Promoting"));
    if let (true, Some(desired)) = (summary.has_router && releasing, summary.desired_weight)
        && !summary
            .verified_weight
            .is_some_and(|verified| same_weight(verified, desired))
    {
        return Some(wait_for(
            &format!("the router to send {desired} % to the canary"),
            status.stage_since,
        ));
    }
    let step = steps.iter().find(|step| step.state == StepState::Current);
    match (step, summary.stage.as_deref()) {
        (Some(step), _) => Some(wait_for(
            &format!("step {}: {}", step.number, step.text),
            step.since,
        )),
        (None, Some("Promoting")) => Some(wait_for(
            "the new revision to take over",
            status.stage_since,
        )),
        (None, Some("FirstDeploy")) => Some(wait_for(
            "the first revision to become available",
            status.stage_since,
        )),
        _ => None,
    }
}

fn wait_for(what: &str, since: Option<Timestamp>) -> WaitReason {
    WaitReason {
        what: what.to_owned(),
        since,
        until: None,
        pause: false,
        commands: Vec::new(),
    }
}

fn pause_wait(pause: &PauseStatus, summary: &RolloutSummary, now: Timestamp) -> WaitReason {
    let command = |verb: &str| format!("kubectl {verb} {} -n {}", summary.name, summary.namespace);
    let (what, commands) = match (pause.reason.as_str(), pause.until) {
        ("Step", Some(until)) if until > now => ("the end of a timed pause", Vec::new()),
        ("Step", Some(_)) => (
            "the controller to end an expired pause (is the controller running?)",
            Vec::new(),
        ),
        ("Step", None) => (
            "a manual promote or abort",
            vec![command("promote"), command("abort")],
        ),
        ("Command", _) => (
            "a manual resume (paused by command)",
            vec![command("serin resume")],
        ),
        ("Inconclusive", _) => (
            "a manual decision: the analysis was inconclusive within its maximum duration",
            vec![command("promote"), command("abort")],
        ),
        _ => ("the end of a pause", Vec::new()),
    };
    WaitReason {
        what: what.to_owned(),
        since: Some(pause.since),
        until: pause.until,
        pause: true,
        commands,
    }
}

//! What a release is waiting for, since when, and which commands end it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serin_core::command::Verb;
use serin_core::hold::{HoldCode, HoldEnd};
use serin_core::state::{PauseReason, Stage};

use super::holds::HoldReport;
use super::steps::{StepReport, StepState};
use crate::rollout_summary::RolloutSummary;
use crate::status_value::StatusValue;

/// What a release is waiting for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitReason {
    /// The message of the first hold. Without holds, the awaited event, which completes "waits
    /// for".
    pub what: String,
    /// Code of the first hold. `None` if the status has no holds.
    pub code: Option<StatusValue<HoldCode>>,
    /// Start of the wait.
    pub since: Option<Timestamp>,
    /// End of the wait. `None` if it is not limited.
    pub until: Option<Timestamp>,
    /// What ends the wait, in a sentence. `None` if it is a time or one of the commands.
    pub ends: Option<String>,
    /// Whether the release is paused.
    pub pause: bool,
    /// Commands that end it.
    pub commands: Vec<String>,
}

/// The pause of a release.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PauseReport {
    /// Reason of the pause.
    pub reason: StatusValue<PauseReason>,
    /// Time at which the pause began.
    pub since: Timestamp,
    /// Time at which the pause ends. `None` if it lasts until a manual action.
    pub until: Option<Timestamp>,
}

/// The position of a release, as far as it decides what the release waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The pause, if any.
    pub pause: Option<PauseReport>,
    /// Time at which the current stage or step began.
    pub stage_since: Option<Timestamp>,
}

/// What the release is waiting for. `None` if it is healthy or aborted, or if the controller's
/// message is sufficient.
pub fn wait_reason(
    summary: &RolloutSummary,
    position: &Position,
    holds: &[HoldReport],
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
    if let Some(hold) = holds.first() {
        return Some(hold_wait(hold, summary));
    }
    if summary.release_succeeded().is_some() {
        return None;
    }
    wait_without_holds(summary, position, steps, now)
}

/// The wait for the end of a hold.
fn hold_wait(hold: &HoldReport, summary: &RolloutSummary) -> WaitReason {
    let mut reason = WaitReason {
        code: Some(hold.code.clone()),
        pause: hold.is_pause(),
        ..wait_for(&hold.message, hold.since)
    };
    match hold.end() {
        Some(HoldEnd::Itself) => {
            reason.ends = Some("The hold ends when its cause is gone.".to_owned());
        }
        Some(HoldEnd::Time { at }) => reason.until = Some(at),
        Some(HoldEnd::Command { command: verb }) => {
            reason.commands.push(command_line(verb, summary));
            if verb == Verb::Promote {
                reason.commands.push(command_line(Verb::Abort, summary));
            }
        }
        Some(HoldEnd::Override) => {
            let ends = "The hold ends when its cause is gone, or by an override with a reason.";
            reason.ends = Some(ends.to_owned());
            reason.commands.push(command_line(Verb::Override, summary));
        }
        Some(HoldEnd::SpecChange) => {
            reason.ends = Some("The hold ends with a change of the spec.".to_owned());
        }
        None => {}
    }
    reason
}

/// The command line of a verb.
fn command_line(verb: Verb, summary: &RolloutSummary) -> String {
    let (subcommand, flag) = match verb {
        Verb::Promote => ("promote", ""),
        Verb::PromoteFull => ("promote", " --full"),
        Verb::Abort => ("abort", ""),
        Verb::Retry => ("serin retry", ""),
        Verb::Pause => ("serin pause", ""),
        Verb::Resume => ("serin resume", ""),
        Verb::SkipStep => ("serin skip-step", ""),
        Verb::Override => ("serin override", " --reason REASON"),
        Verb::GiveBack => ("serin give-back", ""),
        Verb::Restart => ("serin restart", ""),
    };
    let RolloutSummary {
        name, namespace, ..
    } = summary;
    format!("kubectl {subcommand} {name} -n {namespace}{flag}")
}

/// What the release waits for if the status has no holds.
fn wait_without_holds(
    summary: &RolloutSummary,
    position: &Position,
    steps: &[StepReport],
    now: Timestamp,
) -> Option<WaitReason> {
    if let Some(pause) = &position.pause {
        return Some(pause_wait(pause, summary, now));
    }
    let step = steps.iter().find(|step| step.state == StepState::Current);
    if let Some(step) = step {
        let what = format!("step {}: {}", step.number, step.text);
        return Some(wait_for(&what, step.since));
    }
    let what = match summary.stage.as_ref()?.known()? {
        Stage::Promoting => "the new revision to take over",
        Stage::FirstDeploy => "the first revision to become available",
        Stage::Progressing | Stage::Aborted | Stage::Stable => return None,
    };
    Some(wait_for(what, position.stage_since))
}

fn wait_for(what: &str, since: Option<Timestamp>) -> WaitReason {
    WaitReason {
        what: what.to_owned(),
        code: None,
        since,
        until: None,
        ends: None,
        pause: false,
        commands: Vec::new(),
    }
}

fn pause_wait(pause: &PauseReport, summary: &RolloutSummary, now: Timestamp) -> WaitReason {
    let command = |verb| command_line(verb, summary);
    let (what, commands) = match (pause.reason.known(), pause.until) {
        (Some(PauseReason::Step), Some(until)) if until > now => {
            ("the end of a timed pause", Vec::new())
        }
        (Some(PauseReason::Step), Some(_)) => (
            "the controller to end an expired pause (is the controller running?)",
            Vec::new(),
        ),
        (Some(PauseReason::Step), None) => (
            "a manual promote or abort",
            vec![command(Verb::Promote), command(Verb::Abort)],
        ),
        (Some(PauseReason::Command), _) => (
            "a manual resume (paused by command)",
            vec![command(Verb::Resume)],
        ),
        (Some(PauseReason::Inconclusive), _) => (
            "a manual decision: the analysis was inconclusive within its maximum duration",
            vec![command(Verb::Promote), command(Verb::Abort)],
        ),
        (None, _) => ("the end of a pause", Vec::new()),
    };
    WaitReason {
        until: pause.until,
        pause: true,
        commands,
        ..wait_for(what, Some(pause.since))
    }
}

#[cfg(test)]
mod tests {
    use serin_core::hold::Hold;

    use super::*;

    fn wait(holds: &[Hold], stage: &str) -> Option<WaitReason> {
        let holds: Vec<HoldReport> = holds
            .iter()
            .map(|hold| serde_json::from_value(serde_json::to_value(hold).unwrap()).unwrap())
            .collect();
        let summary = RolloutSummary {
            name: "checkout".into(),
            namespace: "shop".into(),
            observed_generation: Some(1),
            generation: 1,
            phase: Some("Progressing".into()),
            stage: Some(stage.into()),
            ..RolloutSummary::default()
        };
        let position = Position::default();
        wait_reason(&summary, &position, &holds, &[], Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn the_first_hold_is_awaited_until_what_ends_it() {
        let end = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(60);
        let timed = Hold::new(HoldCode::WarmUp, "until a minute later").until(end);
        let frozen = Hold::new(HoldCode::BudgetSpent, "the budget is spent");
        let first = wait(&[timed, frozen.clone()], "Progressing").unwrap();
        assert_eq!(
            (first.what.as_str(), first.until, first.commands.len()),
            ("until a minute later", Some(end), 0)
        );
        let frozen = wait(&[frozen], "Progressing").unwrap();
        assert_eq!(
            frozen.commands,
            ["kubectl serin override checkout -n shop --reason REASON"]
        );
        assert!(frozen.ends.unwrap().contains("by an override"));
    }

    #[test]
    fn without_holds_the_stage_is_awaited() {
        let promoting = wait(&[], "Promoting").unwrap();
        assert_eq!(promoting.what, "the new revision to take over");
        assert_eq!(wait(&[], "Progressing"), None);
        assert_eq!(wait(&[], "OfTheFuture"), None);
    }
}

//! What a release waits for, since when, and who or what can end it.

use jiff::Timestamp;
use serde::Serialize;
use serin_crds::status::{PauseStatus, RolloutStatus};

use super::steps::{StepReport, StepState};
use crate::facts::{Facts, same};

/// What it waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// For what.
    pub what: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Until when; none: until it happens.
    pub until: Option<Timestamp>,
    /// Whether it is a pause.
    pub pause: bool,
    /// What a person can type to end it.
    pub commands: Vec<String>,
}

/// What it waits for; nothing where it is healthy or aborted, or where the controller's own message
/// says all.
pub fn waiting(
    facts: &Facts,
    status: &RolloutStatus,
    steps: &[StepReport],
    now: Timestamp,
) -> Option<Waiting> {
    if facts.observed_generation.is_some() && !facts.is_up_to_date() {
        return Some(plain("the controller to take in the newest spec", None));
    }
    if facts.phase.is_none() {
        return Some(plain("the controller to see it (is it running?)", None));
    }
    if facts.ended().is_some() {
        return None;
    }
    if let Some(pause) = &status.pause {
        return Some(paused(pause, facts, now));
    }
    let releasing = matches!(facts.stage.as_deref(), Some("Progressing" | "Promoting"));
    if let (true, Some(asked)) = (facts.routed && releasing, facts.asked)
        && !facts.verified.is_some_and(|verified| same(verified, asked))
    {
        return Some(plain(
            &format!("the router to send {asked} % to the canary"),
            status.stage_since,
        ));
    }
    let step = steps.iter().find(|step| step.state == StepState::Current);
    match (step, facts.stage.as_deref()) {
        (Some(step), _) => Some(plain(
            &format!("step {}: {}", step.number, step.text),
            step.since,
        )),
        (None, Some("Promoting")) => {
            Some(plain("the new revision to take over", status.stage_since))
        }
        (None, Some("FirstDeploy")) => Some(plain(
            "the first revision to become available",
            status.stage_since,
        )),
        _ => None,
    }
}

fn plain(what: &str, since: Option<Timestamp>) -> Waiting {
    Waiting {
        what: what.to_owned(),
        since,
        until: None,
        pause: false,
        commands: Vec::new(),
    }
}

fn paused(pause: &PauseStatus, facts: &Facts, now: Timestamp) -> Waiting {
    let command = |verb: &str| format!("kubectl {verb} {} -n {}", facts.name, facts.namespace);
    let (what, commands) = match (pause.reason.as_str(), pause.until) {
        ("Step", Some(until)) if until > now => ("the end of a timed pause", Vec::new()),
        ("Step", Some(_)) => (
            "the controller to end a pause that is over (is it running?)",
            Vec::new(),
        ),
        ("Step", None) => (
            "somebody to promote or abort it",
            vec![command("promote"), command("abort")],
        ),
        ("Command", _) => (
            "somebody to resume it: it was paused by a command",
            vec![command("serin resume")],
        ),
        ("Inconclusive", _) => (
            "somebody to decide: the evidence has not, in the longest time that it was given",
            vec![command("promote"), command("abort")],
        ),
        _ => ("the end of a pause", Vec::new()),
    };
    Waiting {
        what: what.to_owned(),
        since: Some(pause.since),
        until: pause.until,
        pause: true,
        commands,
    }
}

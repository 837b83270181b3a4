//! The conditions: one sentence each, with a transition time that moves only when the answer does.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serin_core::observed::{AnalysisReport, Programmed};
use serin_core::state::{Phase, Stage};
use serin_crds::status::EvidenceStatus;
use serin_metrics_analysis::telling::NO_DATA_IS_MISSING;

use super::Told;

/// The longest message that a condition may carry, in bytes (the API allows 32 KiB; nobody reads
/// that).
const MESSAGE_LIMIT: usize = 1024;

/// The conditions that tell what was seen; the others tell what was decided.
pub(super) const IS_SEEN: [&str; 5] = [
    "Available",
    "RouteReady",
    "MetricsReady",
    "Frozen",
    "Feasible",
];

/// What the conditions are told from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Everything that the status is made of.
    pub told: &'a Told<'a>,
    /// The generation that they are told of.
    pub generation: i64,
}

struct Answer {
    type_: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

impl Answer {
    fn new(
        type_: &'static str,
        holds: bool,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        let status = if holds { "True" } else { "False" };
        Self {
            type_,
            status,
            reason: reason.into(),
            message: message.into(),
        }
    }

    fn unknown(type_: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            type_,
            status: "Unknown",
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// All conditions; those of `before` whose answer is the same keep their transition time.
pub fn conditions(inputs: &Inputs<'_>, before: &[Condition]) -> Vec<Condition> {
    let told = inputs.told;
    let mut answers = vec![
        available(told),
        progressing(told),
        paused(told),
        completed(told),
        healthy(told),
    ];
    answers.extend(route_ready(told));
    answers.extend(metrics_ready(told));
    answers.extend(frozen(told));
    answers.extend(feasible(told));
    answers.push(invalid_spec(told.seen.spec_problem.as_deref()));
    answers.extend([ready(told), reconciling(told), stalled(told)]);
    merged(answers, before, inputs.generation, told.now)
}

/// The conditions of a Rollout that cannot be read at all or has no plan: only why, and that
/// nothing is done.
pub fn of_unreadable(
    problem: &str,
    before: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let answers = vec![
        invalid_spec(Some(problem)),
        Answer::new("Ready", false, "InvalidSpec", problem),
        Answer::new(
            "Reconciling",
            false,
            "InvalidSpec",
            "nothing is done until the spec can be used",
        ),
        Answer::new("Stalled", true, "InvalidSpec", problem),
    ];
    let kept = kept(&answers, before);
    merged(answers, before, generation, now)
        .into_iter()
        .chain(kept)
        .collect()
}

/// The conditions of a Rollout that is set aside because deciding on it failed in a way that must
/// not happen.
pub fn quarantined(
    problem: &str,
    before: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let answers = vec![
        Answer::new("Ready", false, "Quarantined", problem),
        Answer::new("Stalled", true, "Quarantined", problem),
    ];
    let kept = kept(&answers, before);
    merged(answers, before, generation, now)
        .into_iter()
        .chain(kept)
        .collect()
}

fn kept(answers: &[Answer], before: &[Condition]) -> Vec<Condition> {
    let untold =
        |condition: &&Condition| answers.iter().all(|answer| answer.type_ != condition.type_);
    before.iter().filter(untold).cloned().collect()
}

fn merged(
    answers: Vec<Answer>,
    before: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let condition = |answer: Answer| {
        let earlier = before.iter().find(|earlier| earlier.type_ == answer.type_);
        let since = earlier
            .filter(|earlier| earlier.status == answer.status)
            .map(|earlier| earlier.last_transition_time.0);
        Condition {
            last_transition_time: Time(since.unwrap_or_else(|| whole_second(now))),
            message: short(answer.message),
            observed_generation: Some(generation),
            reason: answer.reason,
            status: answer.status.to_owned(),
            type_: answer.type_.to_owned(),
        }
    };
    answers.into_iter().map(condition).collect()
}

/// Kubernetes writes condition times in whole seconds; a fraction would come back changed.
fn whole_second(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn short(mut message: String) -> String {
    if message.len() > MESSAGE_LIMIT {
        let cut = (0..=MESSAGE_LIMIT)
            .rev()
            .find(|at| message.is_char_boundary(*at))
            .unwrap_or(0);
        message.truncate(cut);
    }
    message
}

fn available(told: &Told<'_>) -> Answer {
    let wanted = told.plan.replicas;
    let missing = told.plan.canary().max_unavailable.rounded_down(wanted);
    let enough = told.counts.available >= wanted.saturating_sub(missing);
    let reason = if enough {
        "MinimumReplicasAvailable"
    } else {
        "MinimumReplicasUnavailable"
    };
    Answer::new(
        "Available",
        enough,
        reason,
        format!("{} of {wanted} pods are available", told.counts.available),
    )
}

fn under_way(told: &Told<'_>) -> bool {
    matches!(
        told.state.stage,
        Stage::FirstDeploy | Stage::Progressing | Stage::Promoting
    )
}

fn progressing(told: &Told<'_>) -> Answer {
    let message = &told.state.message;
    match (told.state.stage, &told.state.abort) {
        (Stage::Aborted, Some(abort)) => {
            Answer::new("Progressing", false, &abort.cause, &abort.message)
        }
        (Stage::Aborted, None) => Answer::new("Progressing", false, "Aborted", message),
        (Stage::Stable, _) => Answer::new("Progressing", false, "Completed", message),
        _ if told.state.pause.is_some() => Answer::new("Progressing", false, "Paused", message),
        (stage, _) => Answer::new("Progressing", true, format!("{stage:?}"), message),
    }
}

fn paused(told: &Told<'_>) -> Answer {
    match &told.state.pause {
        Some(pause) => Answer::new(
            "Paused",
            true,
            format!("{:?}", pause.reason),
            &told.state.message,
        ),
        None if told.plan.paused && told.state.phase == Phase::Paused => {
            Answer::new("Paused", true, "Spec", &told.state.message)
        }
        None => Answer::new("Paused", false, "NotPaused", ""),
    }
}

fn completed(told: &Told<'_>) -> Answer {
    let complete = told.state.stage == Stage::Stable;
    Answer::new(
        "Completed",
        complete,
        if complete { "Stable" } else { "NotStable" },
        "",
    )
}

fn healthy(told: &Told<'_>) -> Answer {
    Answer::new(
        "Healthy",
        told.state.phase == Phase::Healthy,
        format!("{:?}", told.state.phase),
        &told.state.message,
    )
}

fn route_ready(told: &Told<'_>) -> Option<Answer> {
    told.plan.routing()?;
    let unreadable = told
        .seen
        .routes
        .iter()
        .find_map(|route| route.canary_weight.as_ref().err());
    if let Some(problem) = unreadable {
        return Some(Answer::new("RouteReady", false, "RouteUnusable", problem));
    }
    let pending = told
        .seen
        .routes
        .iter()
        .find_map(|route| match &route.programmed {
            Programmed::Pending(why) => Some(why),
            _ => None,
        });
    if let Some(why) = pending {
        return Some(Answer::new("RouteReady", false, "NotProgrammed", why));
    }
    let unreported = told
        .seen
        .routes
        .iter()
        .any(|route| route.programmed == Programmed::Unreported);
    Some(if unreported {
        Answer::unknown(
            "RouteReady",
            "Unverified",
            "the router does not report which generation it has taken over",
        )
    } else {
        Answer::new("RouteReady", true, "Programmed", "")
    })
}

fn metrics_ready(told: &Told<'_>) -> Option<Answer> {
    told.plan.canary().analysis.as_ref()?;
    if !matches!(told.state.stage, Stage::Progressing | Stage::Promoting) {
        return Some(Answer::unknown("MetricsReady", "NothingToJudge", ""));
    }
    Some(match &told.seen.analysis {
        AnalysisReport::NotConfigured => Answer::unknown("MetricsReady", "NothingToJudge", ""),
        AnalysisReport::Hold { cause, message, .. }
            if !NO_DATA_IS_MISSING.contains(&cause.as_str()) =>
        {
            Answer::new("MetricsReady", false, cause, message)
        }
        AnalysisReport::Hold { .. }
        | AnalysisReport::Frozen { .. }
        | AnalysisReport::Undecided { .. }
        | AnalysisReport::Sound { .. }
        | AnalysisReport::RollBack { .. } => {
            Answer::new("MetricsReady", true, "Fresh", readings(&told.evidence))
        }
    })
}

/// What is out of the ordinary in how the counters are read, for example that samples arrive at
/// another interval than configured.
fn readings(evidence: &[EvidenceStatus]) -> String {
    let distinct: BTreeSet<&str> = evidence
        .iter()
        .filter_map(|objective| objective.note.as_deref())
        .collect();
    distinct.into_iter().collect::<Vec<_>>().join(" ")
}

/// Whether the release waits for the service's error budget, and whether a person has said that it
/// need not.
fn frozen(told: &Told<'_>) -> Option<Answer> {
    told.plan.canary().analysis.as_ref()?;
    let releasing = matches!(told.state.stage, Stage::Progressing | Stage::Promoting);
    let lifted = told.state.freeze_override.as_ref().filter(|_| releasing);
    Some(match (&told.seen.analysis, lifted) {
        (_, Some(lifted)) => Answer::new("Frozen", false, "Overridden", &lifted.reason),
        (AnalysisReport::Frozen { cause, message }, None) if releasing => {
            Answer::new("Frozen", true, cause, message)
        }
        _ => Answer::new("Frozen", false, "NotFrozen", ""),
    })
}

/// Whether a release can be judged in time with the traffic that was seen; nothing before any was.
fn feasible(told: &Told<'_>) -> Option<Answer> {
    if told.budgets.is_empty() {
        return None;
    }
    let why: Vec<&str> = told
        .budgets
        .iter()
        .filter_map(|budget| budget.infeasible.as_deref())
        .collect();
    Some(if why.is_empty() {
        Answer::new("Feasible", true, "Feasible", "")
    } else {
        Answer::new("Feasible", false, "NotFeasible", why.join(" "))
    })
}

fn invalid_spec(problem: Option<&str>) -> Answer {
    match problem {
        Some(problem) => Answer::new("InvalidSpec", true, "InvalidSpec", problem),
        None => Answer::new("InvalidSpec", false, "Valid", ""),
    }
}

fn ready(told: &Told<'_>) -> Answer {
    let ready = told.state.phase == Phase::Healthy && told.state.stage == Stage::Stable;
    Answer::new(
        "Ready",
        ready,
        format!("{:?}", told.state.phase),
        &told.state.message,
    )
}

fn reconciling(told: &Told<'_>) -> Answer {
    match &told.trouble {
        Some(trouble) => Answer::new("Reconciling", true, "EffectFailing", trouble),
        None if under_way(told) => Answer::new(
            "Reconciling",
            true,
            format!("{:?}", told.state.stage),
            &told.state.message,
        ),
        None => Answer::new("Reconciling", false, format!("{:?}", told.state.stage), ""),
    }
}

fn stalled(told: &Told<'_>) -> Answer {
    if let Some(problem) = &told.seen.spec_problem {
        return Answer::new("Stalled", true, "InvalidSpec", problem);
    }
    match (&told.state.abort, told.state.phase) {
        (Some(abort), Phase::Degraded) => {
            Answer::new("Stalled", true, &abort.cause, &abort.message)
        }
        (None, Phase::Degraded) => Answer::new("Stalled", true, "Degraded", &told.state.message),
        _ => Answer::new("Stalled", false, "NotStalled", ""),
    }
}

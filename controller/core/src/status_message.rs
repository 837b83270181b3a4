//! The phase and the message that people read.
//!
//! The message changes when the position changes, not with every pod: each change costs a write.

use crate::context::{Context, Transition};
use crate::hold::{Hold, HoldCode, HoldSource};
use crate::holds::{self, Holds};
use crate::state::{HOLDS_LIMIT, Phase, Stage, State};
use crate::{
    abort, blue_green, guardrail_holds, progress, restart, route_state, steps, target, workload,
};

/// Sets the phase, the message and the holds.
pub(crate) fn update(cx: &Context<'_>, transition: &mut Transition) {
    let holds = Holds::collect(cx, &transition.state);
    let (phase, message) = describe(cx, &transition.state, &holds);
    record_new_problems(cx, transition, &holds);
    transition.state.phase = phase;
    transition.state.message = message.into();
    transition.state.holds = holds.into_vec();
    transition.state.holds.truncate(HOLDS_LIMIT);
}

/// Adds one Event when pods begin to have a problem, when a Service or a route cannot be written, and
/// when a guardrail holds the release.
fn record_new_problems(cx: &Context<'_>, transition: &mut Transition, holds: &Holds) {
    let pods = holds.position().filter(|hold| hold.code.is_pod_problem());
    let is_problem = |hold: &&Hold| {
        let is_workload = hold.code.is_workload_problem();
        let is_expected = matches!(
            hold.code,
            HoldCode::WorkloadTakeover | HoldCode::WorkloadGivenBack
        );
        let is_guardrail = hold.source == HoldSource::Guardrail;
        let is_waiting = hold.code.is_waiting_guardrail();
        hold.code.is_object_problem()
            || (is_workload && !is_expected)
            || (is_guardrail && !is_waiting)
    };
    let objects = holds.iter().filter(is_problem);
    for hold in pods.into_iter().chain(objects) {
        let mut before = cx.observed.state.holds.iter();
        if before.all(|before| before.code != hold.code) {
            transition.warning(hold.code.as_str(), hold.message.clone());
        }
    }
}

fn describe(cx: &Context<'_>, state: &State, holds: &Holds) -> (Phase, String) {
    if let Some(described) = workload::describe(cx, state) {
        return described;
    }
    let hold = holds.position();
    let (mut phase, mut message) = match state.stage {
        Stage::FirstDeploy => describe_first_deploy(cx, state, hold),
        Stage::Progressing => describe_progressing(cx, state, hold),
        Stage::Promoting => {
            let action = match (cx.plan.is_blue_green(), state.active_bake().is_some()) {
                (true, true) => "baking after the switch",
                (true, false) => "switching to the new revision",
                (false, true) => "baking at 100 %",
                (false, false) => "going to 100 %",
            };
            (Phase::Progressing, with_hold(action, hold))
        }
        Stage::Aborted => describe_aborted(state),
        Stage::Stable => describe_stable(cx, state),
    };
    if !cx.plan.progress_deadline_abort && abort::overdue_hold(cx, state, holds).is_some() {
        let seconds = cx.plan.progress_deadline.as_secs();
        message = format!("{message}: not within the progress deadline of {seconds} s");
        phase = Phase::Degraded;
    }
    if state.is_releasing()
        && let Some(lifted) = &state.freeze_override
    {
        let by = lifted
            .by
            .as_deref()
            .map(|by| format!(" by {by}"))
            .unwrap_or_default();
        message = format!("{message}; the freeze was lifted{by}: {}", lifted.reason);
    }
    if cx.observed.keeps_strategy {
        let end = if message.ends_with('.') { "" } else { "." };
        message = format!(
            "{message}{end} The change of spec.strategy counts when the traffic of this release is at rest"
        );
    }
    let is_edited = state
        .release_analysis
        .as_ref()
        .is_some_and(|fixed| fixed.edited);
    if state.is_releasing() && is_edited {
        let end = if message.ends_with('.') { "" } else { "." };
        message = format!(
            "{message}{end} The edit of the analysis counts from the next release. `kubectl serin \
             override --adopt-analysis` applies it to this one"
        );
    }
    if let Some(problem) = &cx.observed.spec_problem {
        let message = format!("the spec cannot be used: {problem}; meanwhile: {message}");
        return (Phase::Degraded, message);
    }
    if let Some(hold) = guardrail_holds::start_hold(cx, state) {
        return describe_guardrail(cx, state, &hold, &message);
    }
    match cx.observed.refusal() {
        Some(refusal) if state.current_revision.is_none() => {
            (Phase::Degraded, refusal.message.to_string())
        }
        Some(refusal) => {
            let message = format!("{}; meanwhile: {message}", refusal.message);
            (Phase::Degraded, message)
        }
        None => (phase, message),
    }
}

/// A revision that does not start because of a guardrail.
fn describe_guardrail(
    cx: &Context<'_>,
    state: &State,
    hold: &Hold,
    meanwhile: &str,
) -> (Phase, String) {
    let target = cx.observed.target_revision.as_ref();
    let revision = target.map(ToString::to_string).unwrap_or_default();
    let problem = hold.message.trim_end_matches('.');
    let mut message = format!("revision {revision} does not start: {problem}");
    if state.current_revision.is_some() {
        message = format!("{message}; meanwhile: {meanwhile}");
    }
    let phase = if hold.code.is_waiting_guardrail() {
        Phase::Progressing
    } else {
        Phase::Degraded
    };
    (phase, message)
}

fn describe_first_deploy(cx: &Context<'_>, state: &State, hold: Option<&Hold>) -> (Phase, String) {
    let message = with_hold("first deploy", hold);
    let overdue_at = progress::overdue_at(cx, state);
    if overdue_at.is_some_and(|at| cx.reached(at)) {
        let message = format!("{message}: longer than the progress deadline");
        return (Phase::Degraded, message);
    }
    (Phase::Progressing, message)
}

fn describe_progressing(cx: &Context<'_>, state: &State, hold: Option<&Hold>) -> (Phase, String) {
    let total = cx.plan.steps().len();
    let number = state.step.map_or(0, |step| step.index) + 1;
    let mut position = match steps::current(cx.plan, state) {
        Some(step) if cx.plan.is_blue_green() => {
            let description = blue_green::describe_step(step);
            format!("step {number} of {total} ({description})")
        }
        Some(step) => format!("step {number} of {total} ({})", steps::describe(step)),
        None if total > 0 => format!("all {total} steps are complete"),
        None => format!("at {}, paced by evidence", state.weights.desired),
    };
    let planned = target::planned_share(cx, state);
    if let Some(cap) = state.weights.cap.filter(|cap| *cap < planned) {
        position = format!("{position}, limited to {cap}");
    }
    if cx.plan.paused {
        return (Phase::Paused, format!("{position}: spec.paused is true"));
    }
    let is_paused = state.pause.is_some();
    let hold = holds::person_hold(state).or_else(|| hold.cloned());
    let phase = if is_paused {
        Phase::Paused
    } else {
        Phase::Progressing
    };
    (phase, with_hold(&position, hold.as_ref()))
}

fn with_hold(position: &str, hold: Option<&Hold>) -> String {
    match hold {
        Some(hold) if hold.code == HoldCode::ScaledToZero => {
            format!("{position}; {}", hold.message)
        }
        Some(hold) => format!("{position}: {}", hold.message),
        None => position.to_owned(),
    }
}

fn describe_aborted(state: &State) -> (Phase, String) {
    // Evidence is reported in whole sentences, other causes are not.
    let abort = state.abort.as_ref();
    let cause = abort.map_or("aborted", |abort| abort.message.trim_end_matches('.'));
    let name = |revision: Option<&crate::units::Revision>| {
        revision.map(ToString::to_string).unwrap_or_default()
    };
    let stable = name(state.stable_revision.as_ref());
    let wanted = name(state.current_revision.as_ref());
    let message = format!(
        "{cause}. Stable {stable} serves; the spec still wants the aborted revision {wanted}: \
         declare another revision, or retry"
    );
    (Phase::Degraded, message)
}

fn describe_stable(cx: &Context<'_>, state: &State) -> (Phase, String) {
    let revision = state.stable_revision.as_ref();
    let set = revision.and_then(|revision| cx.observed.replica_sets.get(revision));
    let available = set.map_or(0, |set| set.available);
    let is_complete = available >= cx.plan.canary().sufficient_pods(cx.plan.replicas);
    let has_no_canary_traffic = cx.plan.splits_by_pods() || route_state::canary_is_unreachable(cx);
    if available == 0 && cx.plan.replicas > 0 {
        let message = "no pod of the stable revision is available";
        return (Phase::Degraded, message.to_owned());
    }
    if let Some(restart) = state
        .restart
        .as_ref()
        .filter(|_| restart::is_active(cx, state))
    {
        let message = format!(
            "the revision is stable; replacing the pods that were created before {}",
            restart.at
        );
        return (Phase::Progressing, message);
    }
    // Pods that come and go do not undo what was completed; the Available condition reports them.
    let before = &cx.observed.state;
    let was_healthy = before.phase == Phase::Healthy && before.stage == Stage::Stable;
    if let Some(previous) = blue_green::previous_side(cx, state) {
        let message = format!(
            "the revision is stable; the pods of revision {previous} are kept, so that an abort \
             switches back"
        );
        return (Phase::Healthy, message);
    }
    if was_healthy || (is_complete && has_no_canary_traffic) {
        return (Phase::Healthy, "the revision is stable".to_owned());
    }
    let pending = match route_state::unreadable(cx) {
        Some(problem) => problem,
        None if is_complete => "waiting for the route to return to stable".to_owned(),
        None => "waiting for pods".to_owned(),
    };
    (
        Phase::Progressing,
        format!("the revision is stable; {pending}"),
    )
}

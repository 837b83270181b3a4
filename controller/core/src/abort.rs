//! Aborts. They come first in a decision, before anything that can fail or wait.

use std::time::Duration;

use crate::command::Command;
use crate::context::{Context, Transition};
use crate::gate;
use crate::hold::Hold;
use crate::holds::Holds;
use crate::observed::{Observed, ReplicaSetView};
use crate::plan::Plan;
use crate::progress;
use crate::state::{Abort, AbortCause, Phase, ReleaseResult, Stage, State};
use crate::text::{Message, UserName};
use crate::units::{Revision, saturating_add};

/// The kubelet's reason for a container that keeps failing.
const CRASH_LOOP: &str = "CrashLoopBackOff";

/// Minimum time that a controller observes a release before it finds it overdue.
const GRACE: Duration = Duration::from_secs(30);

/// Aborts the release if its metrics breach or its pods crash.
pub(crate) fn on_breach(cx: &Context<'_>, transition: &mut Transition) {
    if !transition.state.is_releasing() {
        return;
    }
    let Some(revision) = transition.state.current_revision.clone() else {
        return;
    };
    let breach = cx.observed.analysis.as_ref();
    if let Some(breach) = breach.and_then(|report| report.breach.clone()) {
        abort(cx, transition, revision, breach.cause, breach.message, None);
        return;
    }
    let canary = cx.observed.replica_sets.get(&revision);
    let crash = canary.and_then(|canary| describe_crash(cx.plan, cx.observed, canary));
    if let Some(message) = crash {
        let cause = AbortCause::PodCrash;
        abort(cx, transition, revision, cause, message, None);
    }
}

/// Why canary pods count as crashing. `None` if they do not.
pub(crate) fn describe_crash(
    plan: &Plan,
    observed: &Observed,
    canary: &ReplicaSetView,
) -> Option<String> {
    let (name, restarts) = (&canary.name, canary.restarts);
    let limit = plan.canary().pod_restart_limit;
    if canary.crash.as_deref() == Some(CRASH_LOOP) {
        return Some(format!("a canary pod of {name} is in {CRASH_LOOP}"));
    }
    let excess = restarts.saturating_sub(expected_restarts(observed, canary));
    (excess >= limit).then(|| {
        format!(
            "containers of canary pods of {name} restarted {restarts} times since the release \
             began (limit {limit})"
        )
    })
}

/// The restarts of canary pods for reasons that they share with stable pods, such as a restart of
/// the node: as many per pod as stable has.
fn expected_restarts(observed: &Observed, canary: &ReplicaSetView) -> u32 {
    let revision = observed.state.stable_revision.as_ref();
    let stable = revision.and_then(|revision| observed.replica_sets.get(revision));
    let Some(stable) = stable.filter(|stable| stable.current > 0) else {
        return 0;
    };
    let expected = (u64::from(stable.restarts) * u64::from(canary.current))
        .div_ceil(u64::from(stable.current));
    u32::try_from(expected).unwrap_or(u32::MAX)
}

/// Aborts the release by a command.
pub(crate) fn on_command(
    cx: &Context<'_>,
    transition: &mut Transition,
    revision: Revision,
    command: &Command,
) {
    let reason = command.reason.as_deref().unwrap_or("no reason given");
    let message = format!("aborted by command {}: {reason}", command.name);
    let by = command.requester();
    abort(cx, transition, revision, AbortCause::Command, message, by);
}

/// What a release waits for beyond the progress deadline. `None` if it is not overdue.
pub(crate) fn overdue_hold<'a>(
    cx: &Context<'_>,
    state: &State,
    holds: &'a Holds,
) -> Option<&'a Hold> {
    // The deadline does not run while a person or a step holds the release.
    if !state.is_releasing() || cx.plan.paused || state.pause.is_some() {
        return None;
    }
    let hold = holds
        .position()
        .filter(|hold| hold.is_bounded_by_progress_deadline())?;
    let overdue_at = progress::overdue_at(cx, state)?;
    // A controller that has just started has not yet observed what happened while it was down.
    let deadline = cx.plan.progress_deadline;
    let may_abort_at = saturating_add(cx.observed.observed_since, deadline.min(GRACE));
    cx.reached(overdue_at.max(may_abort_at)).then_some(hold)
}

/// Aborts the release if its pods, its Services or the router made no progress in time, unless the
/// spec only wants to know of it.
pub(crate) fn on_deadline(cx: &Context<'_>, transition: &mut Transition, holds: &Holds) {
    let state = &transition.state;
    let (Some(revision), Some(hold)) = (
        state.current_revision.clone(),
        overdue_hold(cx, state, holds),
    ) else {
        return;
    };
    let seconds = cx.plan.progress_deadline.as_secs();
    let message = format!(
        "{}: not within the progress deadline of {seconds} s",
        hold.message
    );
    if cx.plan.progress_deadline_abort {
        let cause = AbortCause::ProgressDeadline;
        abort(cx, transition, revision, cause, message, None);
    } else if cx.observed.state.phase != Phase::Degraded {
        transition.warning("ProgressDeadlineExceeded", message);
    }
}

/// Aborts the release if its gate has expired.
pub(crate) fn on_gate_expiry(cx: &Context<'_>, transition: &mut Transition) {
    let state = &transition.state;
    let (Some(revision), Some(message)) = (
        state.current_revision.clone(),
        gate::abort_message(cx, state),
    ) else {
        return;
    };
    let cause = AbortCause::GateExpired;
    abort(cx, transition, revision, cause, message, None);
}

fn abort(
    cx: &Context<'_>,
    transition: &mut Transition,
    revision: Revision,
    cause: AbortCause,
    message: impl Into<Message>,
    by: Option<UserName>,
) {
    let message = message.into();
    transition.warning("RolledBack", message.clone());
    let result = ReleaseResult::Aborted;
    transition.record_release(revision.clone(), result, cx.now, message.clone());
    transition.state.abort = Some(Abort {
        revision,
        at: cx.now,
        cause,
        by,
        message,
    });
    transition.enter_stage(Stage::Aborted, cx.now);
}

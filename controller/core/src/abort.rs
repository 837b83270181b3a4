//! Abort comes first: what gives a revision up, before anything that can fail or wait.

use std::time::Duration;

use crate::blockers::Wait;
use crate::command::Command;
use crate::context::{Context, Transition, releasing};
use crate::observed::{AnalysisReport, ReplicaSetView};
use crate::state::{Abort, ReleaseResult, Stage};
use crate::units::{Revision, saturating_add};
use crate::{progress, steps};

/// The kubelet's word for a container that keeps failing.
const CRASH_LOOP: &str = "CrashLoopBackOff";

/// How long a controller looks on at least before it finds a release overdue.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// Gives the revision up when its metrics breach or its pods crash.
pub(crate) fn on_breach(cx: &Context<'_>, transition: &mut Transition) {
    if !releasing(&transition.state) {
        return;
    }
    let Some(revision) = transition.state.current_revision.clone() else {
        return;
    };
    if let AnalysisReport::RollBack { cause, message } = &cx.observed.analysis {
        give_up(cx, transition, revision, cause, message.clone(), None);
        return;
    }
    if let Some(message) = cx
        .observed
        .replica_sets
        .get(&revision)
        .and_then(|set| crashing(cx, set))
    {
        give_up(cx, transition, revision, "PodCrash", message, None);
    }
}

fn crashing(cx: &Context<'_>, set: &ReplicaSetView) -> Option<String> {
    let limit = cx.plan.canary().pod_restart_limit;
    if set.crash.as_deref() == Some(CRASH_LOOP) {
        return Some(format!("a canary pod of {} is in {CRASH_LOOP}", set.name));
    }
    let excess = set.restarts.saturating_sub(usual_restarts(cx, set));
    (excess >= limit).then(|| {
        let restarts = set.restarts;
        format!(
            "containers of canary pods of {} restarted {restarts} times since the release began (limit {limit})",
            set.name
        )
    })
}

/// The restarts to expect of this number of canary pods for reasons that they share with the stable
/// ones, such as a restart of the node: the stable pods' own, in proportion.
fn usual_restarts(cx: &Context<'_>, canary: &ReplicaSetView) -> u32 {
    let stable = cx
        .observed
        .state
        .stable_revision
        .as_ref()
        .and_then(|revision| cx.observed.replica_sets.get(revision));
    let Some(stable) = stable.filter(|stable| stable.current > 0) else {
        return 0;
    };
    let expected = (u64::from(stable.restarts) * u64::from(canary.current))
        .div_ceil(u64::from(stable.current));
    u32::try_from(expected).unwrap_or(u32::MAX)
}

/// Gives the revision up because somebody asks for it.
pub(crate) fn on_command(
    cx: &Context<'_>,
    transition: &mut Transition,
    revision: Revision,
    command: &Command,
) {
    let reason = command.reason.as_deref().unwrap_or("no reason given");
    let message = format!("aborted by command {}: {reason}", command.name);
    give_up(
        cx,
        transition,
        revision,
        "Command",
        message,
        command.requested_by.clone(),
    );
}

/// Gives the revision up when its pods or the router did not get ready in time.
pub(crate) fn on_deadline(cx: &Context<'_>, transition: &mut Transition) {
    if !releasing(&transition.state) || cx.plan.paused || transition.state.pause.is_some() {
        return;
    }
    let (Some(revision), Some(overdue_at)) = (
        transition.state.current_revision.clone(),
        progress::overdue_at(cx, &transition.state),
    ) else {
        return;
    };
    let Wait::Progress(waiting_for) = steps::wait(cx, &transition.state) else {
        return;
    };
    // A controller that has just started has yet to see what others have reached while it was away.
    let has_looked = saturating_add(
        cx.observed.observed_since,
        cx.plan.progress_deadline.min(GRACE),
    ) <= cx.now;
    if has_looked && overdue_at <= cx.now {
        let seconds = cx.plan.progress_deadline.as_secs();
        let message = format!("{waiting_for}: not within the progress deadline of {seconds} s");
        give_up(cx, transition, revision, "ProgressDeadline", message, None);
    }
}

fn give_up(
    cx: &Context<'_>,
    transition: &mut Transition,
    revision: Revision,
    cause: &str,
    message: String,
    by: Option<String>,
) {
    transition.warning("RolledBack", message.clone());
    transition.record(
        revision.clone(),
        ReleaseResult::Aborted,
        cx.now,
        message.clone(),
    );
    transition.state.abort = Some(Abort {
        revision,
        at: cx.now,
        cause: cause.to_owned(),
        by,
        message,
    });
    transition.enter_stage(Stage::Aborted, cx.now);
}

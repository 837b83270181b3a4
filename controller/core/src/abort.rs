//! Abort comes first: what gives a revision up, before anything that can fail or wait.

use std::time::Duration;

use crate::command::Command;
use crate::draft::{Draft, Look, releasing};
use crate::observed::{Judgement, ReplicaSetSeen};
use crate::state::{Abort, ReleaseResult, Stage};
use crate::units::{Revision, after};
use crate::waiting::Wait;
use crate::{progress, steps};

/// The kubelet's word for a container that keeps failing.
const CRASH_LOOP: &str = "CrashLoopBackOff";

/// How long a controller looks on at least before it finds a release overdue.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// Gives the revision up when its metrics breach or its pods crash.
pub(crate) fn on_breach(look: &Look<'_>, draft: &mut Draft) {
    if !releasing(&draft.state) {
        return;
    }
    let Some(revision) = draft.state.current_revision.clone() else {
        return;
    };
    if let Judgement::RollBack { cause, message } = &look.seen.judgement {
        give_up(look, draft, revision, cause, message.clone(), None);
        return;
    }
    if let Some(message) = look
        .seen
        .replica_sets
        .get(&revision)
        .and_then(|set| crashing(look, set))
    {
        give_up(look, draft, revision, "PodCrash", message, None);
    }
}

fn crashing(look: &Look<'_>, set: &ReplicaSetSeen) -> Option<String> {
    let limit = look.plan.canary().pod_restart_limit;
    if set.crash.as_deref() == Some(CRASH_LOOP) {
        return Some(format!("a canary pod of {} is in {CRASH_LOOP}", set.name));
    }
    let excess = set.restarts.saturating_sub(usual_restarts(look, set));
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
fn usual_restarts(look: &Look<'_>, canary: &ReplicaSetSeen) -> u32 {
    let stable = look
        .seen
        .state
        .stable_revision
        .as_ref()
        .and_then(|revision| look.seen.replica_sets.get(revision));
    let Some(stable) = stable.filter(|stable| stable.current > 0) else {
        return 0;
    };
    let expected = (u64::from(stable.restarts) * u64::from(canary.current))
        .div_ceil(u64::from(stable.current));
    u32::try_from(expected).unwrap_or(u32::MAX)
}

/// Gives the revision up because somebody asks for it.
pub(crate) fn on_command(
    look: &Look<'_>,
    draft: &mut Draft,
    revision: Revision,
    command: &Command,
) {
    let reason = command.reason.as_deref().unwrap_or("no reason given");
    let message = format!("aborted by command {}: {reason}", command.name);
    give_up(
        look,
        draft,
        revision,
        "Command",
        message,
        command.requested_by.clone(),
    );
}

/// Gives the revision up when its pods or the router did not get ready in time.
pub(crate) fn on_deadline(look: &Look<'_>, draft: &mut Draft) {
    if !releasing(&draft.state) || look.plan.paused || draft.state.pause.is_some() {
        return;
    }
    let (Some(revision), Some(overdue_at)) = (
        draft.state.current_revision.clone(),
        progress::overdue_at(look, &draft.state),
    ) else {
        return;
    };
    let Wait::Progress(waiting_for) = steps::wait(look, &draft.state) else {
        return;
    };
    // A controller that has just started has yet to see what others have reached while it was away.
    let has_looked = after(
        look.seen.looked_since,
        look.plan.progress_deadline.min(GRACE),
    ) <= look.now;
    if has_looked && overdue_at <= look.now {
        let seconds = look.plan.progress_deadline.as_secs();
        let message = format!("{waiting_for}: not within the progress deadline of {seconds} s");
        give_up(look, draft, revision, "ProgressDeadline", message, None);
    }
}

fn give_up(
    look: &Look<'_>,
    draft: &mut Draft,
    revision: Revision,
    cause: &str,
    message: String,
    by: Option<String>,
) {
    draft.warning("RolledBack", message.clone());
    draft.record(
        revision.clone(),
        ReleaseResult::Aborted,
        look.now,
        message.clone(),
    );
    draft.state.abort = Some(Abort {
        revision,
        at: look.now,
        cause: cause.to_owned(),
        by,
        message,
    });
    draft.enter(Stage::Aborted, look.now);
}

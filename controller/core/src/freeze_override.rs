//! Freezes: the service has no errors to spend, and only an `override` lifts that early.

use crate::command::{Command, CommandOutcome};
use crate::context::{Context, Transition};
use crate::state::{FreezeOverride, State};
use crate::text::Message;

/// Why the release is frozen; `None` if it is not, or if the freeze was lifted.
pub(crate) fn active_freeze<'a>(cx: &Context<'a>, state: &State) -> Option<&'a str> {
    let freeze = cx.observed.analysis.as_ref()?.freeze()?;
    (state.is_releasing() && !is_lifted(state)).then_some(freeze.message.as_str())
}

/// Whether the freeze was lifted for the current revision.
pub(crate) fn is_lifted(state: &State) -> bool {
    let lifted = state.freeze_override.as_ref();
    lifted.is_some_and(|lifted| state.current_revision.as_ref() == Some(&lifted.revision))
}

/// Lifts the freeze for the current revision. Evidence against the revision still rolls it back.
pub(crate) fn lift(
    cx: &Context<'_>,
    transition: &mut Transition,
    command: &Command,
) -> CommandOutcome {
    let is_written = |reason: &Message| !reason.trim().is_empty();
    let Some(reason) = command.reason.clone().filter(is_written) else {
        return CommandOutcome::refused(
            "an override needs a reason: it spends errors that the service does not have",
        );
    };
    let state = &transition.state;
    let Some(revision) = state
        .current_revision
        .clone()
        .filter(|_| state.is_releasing())
    else {
        return CommandOutcome::refused("no release is under way");
    };
    if is_lifted(state) {
        return CommandOutcome::done(format!(
            "the freeze was already lifted for revision {revision}"
        ));
    }
    if active_freeze(cx, state).is_none() {
        return CommandOutcome::refused("the release is not frozen: there is nothing to lift");
    }
    let by = command.requester();
    let who = by
        .as_ref()
        .map_or_else(|| format!("command {}", command.name), ToString::to_string);
    transition.warning(
        "FreezeLifted",
        format!("{who} lifted the freeze for revision {revision}: {reason}"),
    );
    transition.state.freeze_override = Some(FreezeOverride {
        revision: revision.clone(),
        by,
        at: cx.now,
        reason,
    });
    CommandOutcome::done(format!(
        "the freeze is lifted for revision {revision}; evidence against it still rolls it back"
    ))
}

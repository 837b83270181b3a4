//! A freeze: the service as a whole has no errors to spend, and only a person with a right of its
//! own can lift that.

use crate::command::{Command, CommandOutcome};
use crate::context::{Context, Transition, releasing};
use crate::observed::AnalysisReport;
use crate::state::{FreezeOverride, State};

/// What freezes the release, in a sentence; nothing: it is not frozen, or that was lifted.
pub(crate) fn of<'a>(cx: &Context<'a>, state: &State) -> Option<&'a str> {
    match &cx.observed.analysis {
        AnalysisReport::Frozen { message, .. } if releasing(state) && !is_lifted(state) => {
            Some(message)
        }
        _ => None,
    }
}

fn is_lifted(state: &State) -> bool {
    let lifted = state
        .freeze_override
        .as_ref()
        .map(|lifted| &lifted.revision);
    lifted.is_some() && lifted == state.current_revision.as_ref()
}

/// Lifts the freeze for the current revision. What the evidence says of it stands: it is rolled
/// back as any other.
pub(crate) fn lift(
    cx: &Context<'_>,
    transition: &mut Transition,
    command: &Command,
) -> CommandOutcome {
    let Some(reason) = command
        .reason
        .clone()
        .filter(|reason| !reason.trim().is_empty())
    else {
        return CommandOutcome::refused(
            "an override is asked for with a reason: it spends errors that the service does not have",
        );
    };
    let Some(revision) = transition
        .state
        .current_revision
        .clone()
        .filter(|_| releasing(&transition.state))
    else {
        return CommandOutcome::refused("no release is under way");
    };
    if is_lifted(&transition.state) {
        return CommandOutcome::done(format!(
            "the freeze had already been lifted for revision {revision}"
        ));
    }
    if of(cx, &transition.state).is_none() {
        return CommandOutcome::refused("the release is not frozen: there is nothing to lift");
    }
    let by = command.requested_by.clone();
    let who = by
        .clone()
        .unwrap_or_else(|| format!("command {}", command.name));
    transition.warning(
        "FreezeLifted",
        format!("{who} lets revision {revision} go on in spite of the freeze: {reason}"),
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

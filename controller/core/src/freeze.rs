//! A freeze: the service as a whole has no errors to spend, and only a person with a right of its
//! own can lift that.

use crate::command::{Command, Outcome};
use crate::draft::{Draft, Look, releasing};
use crate::observed::Judgement;
use crate::state::{FreezeOverride, State};

/// What freezes the release, in a sentence; nothing: it is not frozen, or that was lifted.
pub(crate) fn of<'a>(look: &Look<'a>, state: &State) -> Option<&'a str> {
    match &look.seen.judgement {
        Judgement::Frozen { message, .. } if releasing(state) && !is_lifted(state) => Some(message),
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
pub(crate) fn lift(look: &Look<'_>, draft: &mut Draft, command: &Command) -> Outcome {
    let Some(reason) = command
        .reason
        .clone()
        .filter(|reason| !reason.trim().is_empty())
    else {
        return Outcome::refused(
            "an override is asked for with a reason: it spends errors that the service does not have",
        );
    };
    let Some(revision) = draft
        .state
        .current_revision
        .clone()
        .filter(|_| releasing(&draft.state))
    else {
        return Outcome::refused("no release is under way");
    };
    if is_lifted(&draft.state) {
        return Outcome::done(format!(
            "the freeze had already been lifted for revision {revision}"
        ));
    }
    if of(look, &draft.state).is_none() {
        return Outcome::refused("the release is not frozen: there is nothing to lift");
    }
    let by = command.requested_by.clone();
    let who = by
        .clone()
        .unwrap_or_else(|| format!("command {}", command.name));
    draft.warning(
        "FreezeLifted",
        format!("{who} lets revision {revision} go on in spite of the freeze: {reason}"),
    );
    draft.state.freeze_override = Some(FreezeOverride {
        revision: revision.clone(),
        by,
        at: look.now,
        reason,
    });
    Outcome::done(format!(
        "the freeze is lifted for revision {revision}; evidence against it still rolls it back"
    ))
}

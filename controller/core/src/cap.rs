//! Stepping down: less traffic for a canary whose metrics have been missing for too long, or that
//! has too little left to spend.

use crate::draft::{Draft, Look};
use crate::observed::Judgement;
use crate::plan::Pace;
use crate::state::Stage;
use crate::units::Weight;
use crate::waiting::Wait;
use crate::{goal, waiting};

/// Takes in what the metrics say of the weight at hand, in either direction.
pub(crate) fn note(look: &Look<'_>, draft: &mut Draft) {
    if draft.state.stage != Stage::Stepping {
        return;
    }
    match &look.seen.judgement {
        Judgement::Hold {
            message,
            lower_to: Some(lower),
            ..
        } => step_down(look, draft, *lower, message),
        // Fresh data that asks for nothing less.
        Judgement::Undecided { .. } | Judgement::Sound { .. } | Judgement::NotConfigured => {
            restore(look, draft)
        }
        Judgement::Hold { .. } | Judgement::Frozen { .. } | Judgement::RollBack { .. } => {}
    }
}

fn step_down(look: &Look<'_>, draft: &mut Draft, lower: Weight, message: &str) {
    if lower >= goal::share(look, &draft.state) {
        return;
    }
    draft.warning("SteppedDown", message);
    match &look.plan.canary().pace {
        Pace::Steps(_) => draft.state.weights.cap = Some(lower),
        // From here the evidence leads up again, as from any other weight.
        Pace::Evidence(_) => draft.state.weights.asked = lower,
    }
    // The way down and the way up again have the whole progress deadline each.
    draft.start_waiting(look.now);
}

/// Gives the step's own weight back, and lifts the cap once that is in effect: until then no step
/// is complete.
fn restore(look: &Look<'_>, draft: &mut Draft) {
    // While a person holds the release no traffic is added to it.
    let Some(cap) = draft
        .state
        .weights
        .cap
        .filter(|_| !waiting::is_held_by_person(look, &draft.state))
    else {
        return;
    };
    let planned = goal::planned(look, &draft.state);
    if cap < planned {
        draft.state.weights.cap = Some(planned);
        draft.start_waiting(look.now);
        draft.normal(
            "WeightRestored",
            format!("the metrics are fresh again: back to {planned}"),
        );
    } else if waiting::shifted(look, &draft.state, planned) == Wait::Done {
        draft.state.weights.cap = None;
    }
}

//! Progressing down: less traffic for a canary whose metrics have been missing for too long, or that
//! has too little left to spend.

use crate::blockers::Wait;
use crate::context::{Context, Transition};
use crate::observed::AnalysisReport;
use crate::plan::Pace;
use crate::state::Stage;
use crate::units::Weight;
use crate::{blockers, target};

/// Takes in what the metrics say of the weight at hand, in either direction.
pub(crate) fn note(cx: &Context<'_>, transition: &mut Transition) {
    if transition.state.stage != Stage::Progressing {
        return;
    }
    match &cx.observed.analysis {
        AnalysisReport::Hold {
            message,
            lower_to: Some(lower),
            ..
        } => step_down(cx, transition, *lower, message),
        // Fresh data that asks for nothing less.
        AnalysisReport::Undecided { .. }
        | AnalysisReport::Sound { .. }
        | AnalysisReport::NotConfigured => restore(cx, transition),
        AnalysisReport::Hold { .. }
        | AnalysisReport::Frozen { .. }
        | AnalysisReport::RollBack { .. } => {}
    }
}

fn step_down(cx: &Context<'_>, transition: &mut Transition, lower: Weight, message: &str) {
    if lower >= target::share(cx, &transition.state) {
        return;
    }
    transition.warning("SteppedDown", message);
    match &cx.plan.canary().pace {
        Pace::Steps(_) => transition.state.weights.cap = Some(lower),
        // From here the evidence leads up again, as from any other weight.
        Pace::Evidence(_) => transition.state.weights.desired = lower,
    }
    // The way down and the way up again have the whole progress deadline each.
    transition.start_waiting(cx.now);
}

/// Gives the step's own weight back, and lifts the cap once that is in effect: until then no step
/// is complete.
fn restore(cx: &Context<'_>, transition: &mut Transition) {
    // While a person holds the release no traffic is added to it.
    let Some(cap) = transition
        .state
        .weights
        .cap
        .filter(|_| !blockers::is_held_by_person(cx, &transition.state))
    else {
        return;
    };
    let planned = target::planned(cx, &transition.state);
    if cap < planned {
        transition.state.weights.cap = Some(planned);
        transition.start_waiting(cx.now);
        transition.normal(
            "WeightRestored",
            format!("the metrics are fresh again: back to {planned}"),
        );
    } else if blockers::shifted(cx, &transition.state, planned) == Wait::Done {
        transition.state.weights.cap = None;
    }
}

//! Step-downs: less traffic for a canary whose metrics have been missing for too long, or whose
//! release has too little error budget left.

use crate::context::{Context, Transition};
use crate::plan::Pace;
use crate::state::Stage;
use crate::units::Weight;
use crate::{holds, target};

/// Lowers or restores the canary's share as the analysis demands.
pub(crate) fn apply(cx: &Context<'_>, transition: &mut Transition) {
    if transition.state.stage != Stage::Progressing {
        return;
    }
    let Some(report) = &cx.observed.analysis else {
        return restore(cx, transition);
    };
    let lowering = report.holds.iter().filter(|hold| hold.lower_to.is_some());
    match lowering.min_by_key(|hold| hold.lower_to) {
        Some(hold) => {
            let lower = hold.lower_to.unwrap_or(Weight::ZERO);
            step_down(cx, transition, lower, &hold.message);
        }
        None if report.is_fresh() => restore(cx, transition),
        None => {}
    }
}

fn step_down(cx: &Context<'_>, transition: &mut Transition, lower: Weight, message: &str) {
    if lower >= target::share(cx, &transition.state) {
        return;
    }
    transition.warning("SteppedDown", message);
    match &cx.plan.canary().pace {
        Pace::Steps(_) => transition.state.weights.cap = Some(lower),
        // From here the evidence raises the weight again, as from any other weight.
        Pace::Evidence(_) => transition.state.weights.desired = lower,
    }
    // The way down and the way up again have the whole progress deadline each.
    transition.restart_deadline(cx.now);
}

/// Restores the step's own weight, and lifts the cap once that is in effect: until then no step is
/// complete.
fn restore(cx: &Context<'_>, transition: &mut Transition) {
    let Some(cap) = transition.state.weights.cap else {
        return;
    };
    // While a person holds the release no traffic is added to it.
    if holds::is_held_by_person(cx, &transition.state) {
        return;
    }
    let planned = target::planned_share(cx, &transition.state);
    if cap < planned {
        transition.state.weights.cap = Some(planned);
        transition.restart_deadline(cx.now);
        transition.normal(
            "WeightRestored",
            format!("the metrics are fresh again: back to {planned}"),
        );
    } else if holds::traffic_hold(cx, &transition.state, planned).is_none() {
        transition.state.weights.cap = None;
    }
}

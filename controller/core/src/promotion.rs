//! Promotion: all pods, all traffic, the bake if there is one, then the stable Service.

use crate::context::{Context, Transition};
use crate::converge::bindings;
use crate::hold::{Hold, HoldCode};
use crate::holds;
use crate::plan::{BakePlan, Requirements};
use crate::route_state;
use crate::state::{Bake, State};
use crate::units::{Weight, saturating_add};

/// Advances as far as the observation allows.
pub(crate) fn advance(cx: &Context<'_>, transition: &mut Transition) {
    let Some(revision) = transition.state.current_revision.clone() else {
        return;
    };
    advance_bake(cx, transition);
    if holds::position_hold(cx, &transition.state).is_none() {
        transition.normal(
            "Promoted",
            format!("revision {revision} is promoted: it is stable now"),
        );
        transition.become_stable(cx.now, "promoted");
    }
}

/// What the promotion waits for; `None` if the revision may become stable.
pub(crate) fn position_hold(cx: &Context<'_>, state: &State) -> Option<Hold> {
    // A pod that comes and goes in a long bake does not run into the progress deadline: the bake
    // does not end without it.
    if let (Some(plan), Some(bake)) = (cx.plan.bake(), state.active_bake()) {
        let message = "waiting for all pods and all of the traffic";
        let incomplete = || Hold::new(HoldCode::Baking, message);
        return Some(bake_hold(cx, state, plan, bake).unwrap_or_else(incomplete));
    }
    let pods = holds::pods_hold(cx, state, cx.plan.replicas);
    if pods.is_some() {
        return pods;
    }
    let current = state.current_revision.as_ref();
    if cx.plan.services().is_none() || bindings::stable_serves(cx, current) {
        return None;
    }
    if cx.plan.splits_by_pods() {
        let message = "waiting for the endpoints of the stable Service";
        return Some(Hold::new(HoldCode::PodsNotAvailable, message));
    }
    Some(holds::route_hold(cx))
}

/// Starts the bake once the canary has all of the traffic, and ends it when its time is over and
/// nothing holds it.
fn advance_bake(cx: &Context<'_>, transition: &mut Transition) {
    let Some(plan) = cx.plan.bake().filter(|_| cx.plan.replicas > 0) else {
        return;
    };
    let state = &transition.state;
    let current = state.current_revision.as_ref();
    let has_all_traffic = route_state::in_effect_for(cx, current) == Some(Weight::FULL)
        && holds::pods_hold(cx, state, cx.plan.replicas).is_none();
    match state.bake {
        None if has_all_traffic => {
            let seconds = plan.duration.as_secs();
            transition.normal(
                "Baking",
                format!("the new revision has all of the traffic and is observed for {seconds} s"),
            );
            transition.state.bake = Some(Bake {
                since: cx.now,
                ended_at: None,
            });
        }
        Some(bake)
            if bake.ended_at.is_none()
                && bake_hold(cx, state, plan, bake).is_none()
                && has_all_traffic =>
        {
            end_bake(cx, transition);
        }
        _ => {}
    }
}

/// Ends the bake. The switch of the Service that follows has the whole progress deadline.
pub(crate) fn end_bake(cx: &Context<'_>, transition: &mut Transition) {
    let end = |bake: Bake| Bake {
        ended_at: Some(cx.now),
        ..bake
    };
    transition.state.bake = transition.state.bake.map(end);
    transition.restart_deadline(cx.now);
}

fn bake_hold(cx: &Context<'_>, state: &State, plan: &BakePlan, bake: Bake) -> Option<Hold> {
    let end = saturating_add(bake.since, plan.duration);
    let checks = Requirements {
        checks: plan.checks.clone(),
        ..Requirements::default()
    };
    holds::time_hold(cx, HoldCode::Baking, end)
        .or_else(|| cx.observed.analysis_hold().cloned())
        .or_else(|| holds::requirements_hold(cx, state, &checks))
}

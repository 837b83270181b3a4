//! The last stretch: all pods, all traffic, the watch where there is one, then the stable Service.

use crate::blockers::Wait;
use crate::context::{Context, Transition};
use crate::observed::AnalysisReport;
use crate::plan::{BakePlan, Requirements};
use crate::state::{Bake, State};
use crate::units::{Weight, saturating_add};
use crate::{blockers, route_state, services};

/// Advances as far as what was observed allows.
pub(crate) fn advance(cx: &Context<'_>, transition: &mut Transition) {
    let Some(revision) = transition.state.current_revision.clone() else {
        return;
    };
    watch(cx, transition);
    if wait(cx, &transition.state) == Wait::Done {
        transition.normal(
            "Promoted",
            format!("revision {revision} is promoted: it is stable now"),
        );
        transition.become_stable(cx.now, "promoted");
    }
}

/// What the promotion waits for.
pub(crate) fn wait(cx: &Context<'_>, state: &State) -> Wait {
    if cx.plan.replicas == 0 {
        return Wait::Replicas;
    }
    // A pod that comes and goes in a long watch does not run into the progress deadline: the watch
    // does not end without it.
    if let (Some(plan), Some(watch)) = (cx.plan.bake(), state.active_bake()) {
        return match watched(cx, state, plan, watch) {
            Wait::Done => Wait::Evidence("waiting for all pods and all of the traffic".to_owned()),
            waiting => waiting,
        };
    }
    match blockers::available(cx, state, cx.plan.replicas) {
        Wait::Done => {}
        missing => return missing,
    }
    if cx.plan.routing().is_none() || services::stable_serves(cx, state.current_revision.as_ref()) {
        return Wait::Done;
    }
    Wait::Progress(route_state::waiting_for(cx))
}

/// Begins the watch with the traffic, and ends it with the time where nothing speaks against it.
fn watch(cx: &Context<'_>, transition: &mut Transition) {
    let Some(plan) = cx.plan.bake().filter(|_| cx.plan.replicas > 0) else {
        return;
    };
    let has_all = route_state::in_effect_for(cx, transition.state.current_revision.as_ref())
        == Some(Weight::FULL)
        && blockers::available(cx, &transition.state, cx.plan.replicas) == Wait::Done;
    match transition.state.bake {
        None if has_all => {
            let seconds = plan.duration.as_secs();
            transition.normal(
                "Watching",
                format!("all of the traffic is on the canary: it is watched for {seconds} s"),
            );
            transition.state.bake = Some(Bake {
                since: cx.now,
                ended_at: None,
            });
        }
        Some(begun)
            if begun.ended_at.is_none()
                && has_all
                && watched(cx, &transition.state, plan, begun) == Wait::Done =>
        {
            end(cx, transition);
        }
        _ => {}
    }
}

/// Ends the watch: the switch that follows has the whole progress deadline.
pub(crate) fn end(cx: &Context<'_>, transition: &mut Transition) {
    transition.state.bake = transition.state.bake.map(|watch| Bake {
        ended_at: Some(cx.now),
        ..watch
    });
    transition.start_waiting(cx.now);
}

fn watched(cx: &Context<'_>, state: &State, plan: &BakePlan, watch: Bake) -> Wait {
    match blockers::until(cx, saturating_add(watch.since, plan.duration)) {
        Wait::Done => {}
        waiting => return waiting,
    }
    match &cx.observed.analysis {
        AnalysisReport::Hold { message, .. }
        | AnalysisReport::Frozen { message, .. }
        | AnalysisReport::RollBack { message, .. } => Wait::Evidence(message.clone()),
        AnalysisReport::Undecided { .. }
        | AnalysisReport::Sound { .. }
        | AnalysisReport::NotConfigured => {
            let checks = Requirements {
                checks: plan.checks.clone(),
                ..Requirements::default()
            };
            blockers::answered(cx, state, &checks)
        }
    }
}

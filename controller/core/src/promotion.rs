//! The last stretch: all pods, all traffic, the watch where there is one, then the stable Service.

use crate::draft::{Draft, Look};
use crate::observed::Judgement;
use crate::plan::{Questions, WatchPlan};
use crate::state::{State, Watch};
use crate::units::{Weight, after};
use crate::waiting::Wait;
use crate::{router, services, waiting};

/// Advances as far as what was observed allows.
pub(crate) fn advance(look: &Look<'_>, draft: &mut Draft) {
    let Some(revision) = draft.state.current_revision.clone() else {
        return;
    };
    watch(look, draft);
    if wait(look, &draft.state) == Wait::Done {
        draft.normal(
            "Promoted",
            format!("revision {revision} is promoted: it is stable now"),
        );
        draft.become_stable(look.now, "promoted");
    }
}

/// What the promotion waits for.
pub(crate) fn wait(look: &Look<'_>, state: &State) -> Wait {
    if look.plan.replicas == 0 {
        return Wait::Replicas;
    }
    // A pod that comes and goes in a long watch does not run into the progress deadline: the watch
    // does not end without it.
    if let (Some(plan), Some(watch)) = (look.plan.watch(), state.watch_under_way()) {
        return match watched(look, state, plan, watch) {
            Wait::Done => Wait::Evidence("waiting for all pods and all of the traffic".to_owned()),
            waiting => waiting,
        };
    }
    match waiting::available(look, state, look.plan.replicas) {
        Wait::Done => {}
        missing => return missing,
    }
    if look.plan.routing().is_none()
        || services::stable_serves(look, state.current_revision.as_ref())
    {
        return Wait::Done;
    }
    Wait::Progress(router::waiting_for(look))
}

/// Begins the watch with the traffic, and ends it with the time where nothing speaks against it.
fn watch(look: &Look<'_>, draft: &mut Draft) {
    let Some(plan) = look.plan.watch().filter(|_| look.plan.replicas > 0) else {
        return;
    };
    let has_all = router::in_effect_for(look, draft.state.current_revision.as_ref())
        == Some(Weight::FULL)
        && waiting::available(look, &draft.state, look.plan.replicas) == Wait::Done;
    match draft.state.watch {
        None if has_all => {
            let seconds = plan.duration.as_secs();
            draft.normal(
                "Watching",
                format!("all of the traffic is on the canary: it is watched for {seconds} s"),
            );
            draft.state.watch = Some(Watch {
                since: look.now,
                ended_at: None,
            });
        }
        Some(begun)
            if begun.ended_at.is_none()
                && has_all
                && watched(look, &draft.state, plan, begun) == Wait::Done =>
        {
            end(look, draft);
        }
        _ => {}
    }
}

/// Ends the watch: the switch that follows has the whole progress deadline.
pub(crate) fn end(look: &Look<'_>, draft: &mut Draft) {
    draft.state.watch = draft.state.watch.map(|watch| Watch {
        ended_at: Some(look.now),
        ..watch
    });
    draft.start_waiting(look.now);
}

fn watched(look: &Look<'_>, state: &State, plan: &WatchPlan, watch: Watch) -> Wait {
    match waiting::until(look, after(watch.since, plan.duration)) {
        Wait::Done => {}
        waiting => return waiting,
    }
    match &look.seen.judgement {
        Judgement::Hold { message, .. }
        | Judgement::Frozen { message, .. }
        | Judgement::RollBack { message, .. } => Wait::Evidence(message.clone()),
        Judgement::Undecided { .. } | Judgement::Sound { .. } | Judgement::NotConfigured => {
            let checks = Questions {
                checks: plan.checks.clone(),
                ..Questions::default()
            };
            waiting::answered(look, state, &checks)
        }
    }
}

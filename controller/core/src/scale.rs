//! How many pods each revision has: enough for the traffic that may reach it, and none taken away
//! before that.

use crate::context::{Context, Transition};
use crate::effect::Effect;
use crate::observed::{ReplicaSetView, ServiceView};
use crate::state::{Drain, ReleaseResult, Stage, State};
use crate::units::{Revision, saturating_add};
use crate::{growth, replica_ratio, route_state, target};

/// How many pods a revision shall have, as the traffic needs it.
fn wanted(cx: &Context<'_>, state: &State, revision: &Revision, now: u32) -> u32 {
    let replicas = cx.plan.replicas;
    let goal = target::share(cx, state);
    let is_current = state.current_revision.as_ref() == Some(revision);
    // Nothing shrinks before the router is seen to send it less.
    let settled = |need: u32| {
        if route_state::in_effect(cx) == Some(goal) {
            need
        } else {
            need.max(now)
        }
    };
    let is_stable = state.stable_revision.as_ref() == Some(revision);
    match state.stage {
        // What is scaled to zero has no traffic that would have to go first.
        _ if replicas == 0 && is_kept(state, revision) => 0,
        Stage::FirstDeploy | Stage::Promoting if is_current => replicas,
        Stage::Progressing if is_current => growth::limited(
            cx,
            state,
            settled(target::canary_pods(cx, state, goal)),
            now,
        ),
        Stage::Progressing | Stage::Promoting
            if is_stable && cx.plan.canary().dynamic_stable_scale =>
        {
            settled(target::stable_pods(cx, state))
        }
        _ if is_stable => replicas,
        _ => {
            let drained = state
                .draining
                .iter()
                .any(|drain| drain.revision == *revision && drain.until <= cx.now);
            if drained { 0 } else { now }
        }
    }
}

/// Whether pods of this revision serve by design, rather than being left over.
fn is_kept(state: &State, revision: &Revision) -> bool {
    let is_current = state.current_revision.as_ref() == Some(revision);
    state.stable_revision.as_ref() == Some(revision)
        || (is_current && state.stage != Stage::Aborted)
}

/// Whether a request may still reach this revision's pods.
fn is_reachable(cx: &Context<'_>, revision: &Revision) -> bool {
    selects(cx.observed.stable_service.as_ref(), revision)
        || (selects(cx.observed.canary_service.as_ref(), revision)
            && !route_state::canary_unreachable(cx))
}

/// Whether the objects send requests to this revision's pods.
fn is_given_traffic(cx: &Context<'_>, revision: &Revision) -> bool {
    selects(cx.observed.stable_service.as_ref(), revision)
        || (selects(cx.observed.canary_service.as_ref(), revision)
            && !route_state::written(cx).is_zero())
}

fn selects(service: Option<&ServiceView>, revision: &Revision) -> bool {
    service.is_some_and(|service| service.selects.as_ref() == Some(revision))
}

/// Notes from when revisions that are left over drain: only once no request can reach them.
pub(crate) fn note_draining(cx: &Context<'_>, transition: &mut Transition) {
    let state = &mut transition.state;
    let kept: Vec<_> = cx
        .observed
        .replica_sets
        .keys()
        .filter(|revision| is_kept(state, revision))
        .cloned()
        .collect();
    // What has once been seen to be unreachable stays so until traffic is given back to it: a
    // restarted controller, which has yet to see the router's part again, must not start the delay
    // anew.
    state
        .draining
        .retain(|drain| !kept.contains(&drain.revision) && !is_given_traffic(cx, &drain.revision));
    if cx.plan.routing().is_none() {
        return;
    }
    for (revision, set) in &cx.observed.replica_sets {
        let noted = state
            .draining
            .iter()
            .any(|drain| drain.revision == *revision);
        if set.desired > 0 && !noted && !kept.contains(revision) && !is_reachable(cx, revision) {
            let until = saturating_add(cx.now, drain_delay(cx, state, revision));
            state.draining.push(Drain {
                revision: revision.clone(),
                until,
            });
        }
    }
}

/// Drops what has been noted of revisions that have no pods any more.
pub(crate) fn forget_drained(cx: &Context<'_>, transition: &mut Transition) {
    let sets = &cx.observed.replica_sets;
    transition
        .state
        .draining
        .retain(|drain| sets.get(&drain.revision).is_some_and(|set| set.desired > 0));
}

fn drain_delay(cx: &Context<'_>, state: &State, revision: &Revision) -> std::time::Duration {
    let last = state
        .history
        .iter()
        .rev()
        .find(|release| release.revision == *revision);
    match last.map(|release| release.result) {
        Some(ReleaseResult::Aborted | ReleaseResult::Superseded) => {
            cx.plan.canary().abort_scale_down_delay
        }
        Some(ReleaseResult::Promoted) | None => cx.plan.canary().scale_down_delay,
    }
}

/// What the ReplicaSets must be.
pub(crate) fn effects(cx: &Context<'_>, state: &State) -> Vec<Effect> {
    let sets = &cx.observed.replica_sets;
    let mut effects = Vec::new();
    let counts = match cx.plan.routing() {
        Some(_) => {
            let each = sets.iter().map(|(revision, set)| {
                (revision.clone(), wanted(cx, state, revision, set.desired))
            });
            each.collect()
        }
        None => replica_ratio::next_counts(cx, state),
    };
    if let Some(revision) = missing(cx, state) {
        let replicas = match cx.plan.routing() {
            Some(_) => wanted(cx, state, &revision, 0),
            None => counts.get(&revision).copied().unwrap_or(0),
        };
        effects.push(Effect::CreateReplicaSet { revision, replicas });
    }
    for (revision, set) in sets {
        let replicas = counts.get(revision).copied().unwrap_or(set.desired);
        if replicas != set.desired {
            effects.push(Effect::Scale {
                revision: revision.clone(),
                name: set.name.clone(),
                replicas,
            });
        }
    }
    effects.extend(beyond_history(cx, state));
    effects
}

/// The revision whose ReplicaSet must be made: only the spec's own, since nobody has another's
/// template.
fn missing(cx: &Context<'_>, state: &State) -> Option<Revision> {
    let revision = state.current_revision.clone()?;
    let is_asked = cx.observed.target_revision.as_ref() == Some(&revision)
        && cx.observed.spec_problem.is_none();
    (is_asked && is_kept(state, &revision) && !cx.observed.replica_sets.contains_key(&revision))
        .then_some(revision)
}

/// Old, empty ReplicaSets beyond the history limit, while nothing is under way.
fn beyond_history(cx: &Context<'_>, state: &State) -> Vec<Effect> {
    if state.stage != Stage::Stable {
        return Vec::new();
    }
    let is_old = |revision: &Revision, set: &ReplicaSetView| {
        set.desired == 0 && set.current == 0 && !is_kept(state, revision)
    };
    let mut old: Vec<_> = cx
        .observed
        .replica_sets
        .iter()
        .filter(|(revision, set)| is_old(revision, set))
        .collect();
    old.sort_by_key(|(_, set)| std::cmp::Reverse(set.created_at));
    let extra = old.into_iter().skip(cx.plan.revision_history_limit);
    extra
        .map(|(revision, set)| Effect::DeleteReplicaSet {
            revision: revision.clone(),
            name: set.name.clone(),
        })
        .collect()
}

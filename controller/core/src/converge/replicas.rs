//! The pods of each revision: enough for the traffic that may reach it, and none removed before
//! that traffic is gone.

use std::collections::BTreeMap;

use super::{bindings, replica_ratio};
use crate::context::{Context, Transition};
use crate::effect::Effect;
use crate::growth;
use crate::observed::ServiceView;
use crate::restart;
use crate::route_state;
use crate::state::{DRAINS_LIMIT, Drain, ReleaseResult, State};
use crate::target::Target;
use crate::units::{Revision, saturating_add};

/// The pods of a revision to request now, given that it has `current` of them.
fn safe_count(
    cx: &Context<'_>,
    state: &State,
    target: &Target,
    revision: &Revision,
    current: u32,
) -> u32 {
    let Some(wanted) = target.pods.get(revision) else {
        let mut drains = state.draining.iter();
        let is_drained = drains.any(|drain| drain.revision == *revision && cx.reached(drain.until));
        return if is_drained { 0 } else { current };
    };
    let is_in_effect = || {
        route_state::in_effect(cx) == Some(target.share)
            && route_state::has_no_managed_routes_beyond(cx, &target.managed_routes)
    };
    let keeps_pods = wanted.keeps_excess || (wanted.keeps_pods_until_in_effect && !is_in_effect());
    let count = if keeps_pods {
        wanted.count.max(current)
    } else {
        wanted.count
    };
    if wanted.grows_with_stable {
        growth::limit(cx, state, target, count, current)
    } else {
        count
    }
}

/// Whether a request may still reach this revision's pods.
fn is_reachable(cx: &Context<'_>, revision: &Revision) -> bool {
    let active = cx.observed.stable_service.as_ref();
    let selected = active.and_then(|service| service.selects.as_ref());
    // The selector of the active Service moves traffic, which takes until its endpoints are known.
    if cx.plan.is_blue_green() && !bindings::stable_serves(cx, selected) {
        return true;
    }
    selects(cx.observed.stable_service.as_ref(), revision)
        || (selects(cx.observed.canary_service.as_ref(), revision)
            && !route_state::canary_is_unreachable(cx))
}

/// Whether the objects as written send requests to this revision's pods.
fn is_given_traffic(cx: &Context<'_>, revision: &Revision) -> bool {
    selects(cx.observed.stable_service.as_ref(), revision)
        || (selects(cx.observed.canary_service.as_ref(), revision)
            && route_state::gives_canary_requests(cx))
}

fn selects(service: Option<&ServiceView>, revision: &Revision) -> bool {
    service.is_some_and(|service| service.selects.as_ref() == Some(revision))
}

/// Records from when revisions that no longer serve drain: only once no request can reach them.
pub(crate) fn record_draining(cx: &Context<'_>, transition: &mut Transition, target: &Target) {
    let state = &mut transition.state;
    // A revision that was once seen to be unreachable stays so until traffic is given back to it: a
    // restarted controller, which has yet to see the router's status, must not restart the delay.
    state.draining.retain(|drain| {
        let is_kept = target.pods.contains_key(&drain.revision)
            && cx.observed.replica_sets.contains_key(&drain.revision);
        !is_kept && !is_given_traffic(cx, &drain.revision)
    });
    if cx.plan.splits_by_pods() {
        return;
    }
    for (revision, set) in &cx.observed.replica_sets {
        let is_recorded = state
            .draining
            .iter()
            .any(|drain| drain.revision == *revision);
        let is_left_over = !target.pods.contains_key(revision);
        let has_room = state.draining.len() < DRAINS_LIMIT;
        let begins = set.desired > 0 && is_left_over && !is_recorded && has_room;
        if begins && !is_reachable(cx, revision) {
            let until = saturating_add(cx.now, drain_delay(cx, state, revision));
            state.draining.push(Drain {
                revision: revision.clone(),
                until,
            });
        }
    }
}

/// Drops records of revisions that have no pods any more.
pub(crate) fn forget_drained(cx: &Context<'_>, transition: &mut Transition) {
    let sets = &cx.observed.replica_sets;
    transition.state.draining.retain(|drain| {
        let set = sets.get(&drain.revision);
        set.is_some_and(|set| set.desired > 0)
    });
}

fn drain_delay(cx: &Context<'_>, state: &State, revision: &Revision) -> std::time::Duration {
    let mut newest_first = state.history.iter().rev();
    let last = newest_first.find(|release| release.revision == *revision);
    match last.map(|release| release.result) {
        Some(ReleaseResult::Aborted | ReleaseResult::Superseded) => {
            cx.plan.canary().abort_scale_down_delay
        }
        Some(ReleaseResult::Promoted) | None => cx.plan.canary().scale_down_delay,
    }
}

/// The ReplicaSets to create, scale and delete.
pub(super) fn effects(cx: &Context<'_>, state: &State, target: &Target) -> Vec<Effect> {
    let sets = &cx.observed.replica_sets;
    let is_split_by_pods = cx.plan.splits_by_pods();
    let mut counts: BTreeMap<_, _> = if is_split_by_pods {
        replica_ratio::next_counts(cx, state, target)
    } else {
        let counts = sets.iter().map(|(revision, set)| {
            let count = safe_count(cx, state, target, revision, set.desired);
            (revision.clone(), count)
        });
        counts.collect()
    };
    restart::add_surge(cx, state, &mut counts);
    let mut effects = Vec::new();
    if let Some(revision) = missing(cx, state, target) {
        let replicas = if is_split_by_pods {
            counts.get(&revision).copied().unwrap_or(0)
        } else {
            safe_count(cx, state, target, &revision, 0)
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
    effects.extend(beyond_history(cx, state, target));
    effects.extend(restart::evictions(cx, state));
    effects
}

/// The revision whose ReplicaSet is missing: only the spec's own, because no other template is
/// known.
fn missing(cx: &Context<'_>, state: &State, target: &Target) -> Option<Revision> {
    let revision = state.current_revision.clone()?;
    let observed = cx.observed;
    let is_wanted = observed.target_revision.as_ref() == Some(&revision)
        && observed.spec_problem.is_none()
        && target.pods.contains_key(&revision);
    (is_wanted && !observed.replica_sets.contains_key(&revision)).then_some(revision)
}

/// Old, empty ReplicaSets beyond the history limit, also during a release: otherwise there would be
/// more and more of them if no release is ever completed before the next one begins.
fn beyond_history(cx: &Context<'_>, state: &State, target: &Target) -> Vec<Effect> {
    let sets = cx.observed.replica_sets.iter();
    let mut old: Vec<_> = sets
        .filter(|(revision, set)| {
            let is_needed = target.pods.contains_key(*revision)
                || state.current_revision.as_ref() == Some(*revision);
            set.desired == 0 && set.current == 0 && !is_needed
        })
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

//! The split without a router: replica counts approximate it, within maxSurge and maxUnavailable.

use std::collections::BTreeMap;

use super::bindings;
use crate::context::Context;
use crate::growth;
use crate::state::State;
use crate::target::{PodTarget, Target};
use crate::units::Revision;

fn wanted_count(target: &Target, revision: &Revision) -> u32 {
    target.pods.get(revision).map_or(0, |wanted| wanted.count)
}

/// Whether the wanted counts are reached and their pods available.
pub(crate) fn is_reached(cx: &Context<'_>, target: &Target) -> bool {
    let sets = &cx.observed.replica_sets;
    let wanted = target
        .pods
        .iter()
        .all(|(revision, wanted)| match sets.get(revision) {
            Some(set) => {
                let sufficient = cx.plan.canary().sufficient_pods(wanted.count);
                set.desired == wanted.count && set.available >= sufficient
            }
            None => wanted.count == 0,
        });
    let mut others = sets
        .iter()
        .filter(|(revision, _)| !target.pods.contains_key(*revision));
    wanted && others.all(|(_, set)| set.desired == 0)
}

/// The pods in place, less those in excess: rises to the number of all pods as the split is reached.
pub(crate) fn pods_in_place(cx: &Context<'_>, target: &Target) -> i64 {
    let sets = cx.observed.replica_sets.iter();
    let in_place = sets.map(|(revision, set)| {
        let wanted = wanted_count(target, revision);
        i64::from(set.available.min(wanted)) - i64::from(set.desired.saturating_sub(wanted))
    });
    in_place.sum()
}

/// The counts to request now: as close to the target as surge and availability permit.
pub(super) fn next_counts(
    cx: &Context<'_>,
    state: &State,
    target: &Target,
) -> BTreeMap<Revision, u32> {
    let sets = &cx.observed.replica_sets;
    let mut counts: BTreeMap<_, _> = sets
        .iter()
        .map(|(revision, set)| (revision.clone(), set.desired))
        .collect();
    scale_down(cx, target, &mut counts);
    scale_up(cx, state, target, &mut counts);
    counts
}

/// Removes pods in excess, as far as enough available pods remain.
fn scale_down(cx: &Context<'_>, target: &Target, counts: &mut BTreeMap<Revision, u32>) {
    let replicas = cx.plan.replicas;
    let sets = &cx.observed.replica_sets;
    let surge = cx.plan.canary().max_surge.rounded_up(replicas);
    let max_unavailable = match cx.plan.canary().max_unavailable.rounded_down(replicas) {
        0 if surge == 0 => 1,
        pods => pods,
    };
    let serving: u32 = sets
        .values()
        .map(|set| set.available.min(set.desired))
        .sum();
    let mut spare = serving.saturating_sub(replicas.saturating_sub(max_unavailable));
    // Revisions that no longer serve give up their pods first.
    let mut order: Vec<_> = sets.iter().collect();
    order.sort_by_key(|(revision, _)| target.pods.contains_key(*revision));
    for (revision, set) in order {
        let kept = u32::from(serves_stable_requests(cx, target, revision));
        let wanted = wanted_count(target, revision).max(kept);
        let excess = set.desired.saturating_sub(wanted);
        let idle = set.desired.saturating_sub(set.available);
        let removed = excess.min(idle + spare);
        spare -= removed.saturating_sub(idle);
        counts.insert(revision.clone(), set.desired - removed);
    }
}

/// Whether the stable Service may still send its requests to this revision, although it should select
/// another one. Its last pod then stays, provided that a pod of the other revision fits beside it.
fn serves_stable_requests(cx: &Context<'_>, target: &Target, revision: &Revision) -> bool {
    let service = cx.observed.stable_service.as_ref();
    let Some(service) = service.filter(|_| has_room_for_both(cx)) else {
        return false;
    };
    let wanted = target.stable_binding.as_ref();
    let selects = service.selects.as_ref();
    let was_selected = selects == Some(revision) || selects == wanted;
    wanted.is_some_and(|wanted| wanted != revision)
        && was_selected
        && !bindings::stable_serves(cx, wanted)
}

/// Whether a pod of each revision can run at the same time.
pub(crate) fn has_room_for_both(cx: &Context<'_>) -> bool {
    let replicas = cx.plan.replicas;
    let surge = cx.plan.canary().max_surge.rounded_up(replicas);
    replicas > 0 && replicas + surge > 1
}

/// Adds missing pods as far as the surge permits, stable first.
fn scale_up(
    cx: &Context<'_>,
    state: &State,
    target: &Target,
    counts: &mut BTreeMap<Revision, u32>,
) {
    let replicas = cx.plan.replicas;
    let sets = &cx.observed.replica_sets;
    let surge = cx.plan.canary().max_surge.rounded_up(replicas);
    let total: u32 = sets.values().map(|set| set.desired.max(set.current)).sum();
    let mut room = (replicas + surge).saturating_sub(total);
    for (revision, wanted) in stable_first(target, state) {
        let current = sets.get(revision).map_or(0, |set| set.desired);
        let count = if wanted.grows_with_stable {
            growth::limit(cx, state, target, wanted.count, current)
        } else {
            wanted.count
        };
        if current < count {
            let added = (count - current).min(room);
            room -= added;
            counts.insert(revision.clone(), current + added);
        }
    }
}

fn stable_first<'a>(target: &'a Target, state: &State) -> Vec<(&'a Revision, PodTarget)> {
    let pods = target.pods.iter();
    let mut pods: Vec<_> = pods.map(|(revision, wanted)| (revision, *wanted)).collect();
    pods.sort_by_key(|(revision, _)| state.stable_revision.as_ref() != Some(*revision));
    pods
}

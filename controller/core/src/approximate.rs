//! Without a router the split is approximated by replica counts, within maxSurge and maxUnavailable.

use std::collections::BTreeMap;

use crate::draft::Look;
use crate::goal;
use crate::state::{Stage, State};
use crate::units::{Revision, Weight};

/// The counts of canary and stable pods that come closest to the canary's share.
///
/// At least one of each side from two replicas up; a single replica needs room for a second pod to be split at all.
pub(crate) fn split_counts(replicas: u32, share: Weight, surge: u32) -> (u32, u32) {
    if share.is_zero() || replicas == 0 {
        return (0, replicas);
    }
    if share == Weight::FULL {
        return (replicas, 0);
    }
    if replicas == 1 && surge > 0 {
        return (1, 1);
    }
    let thousandths = u64::from(replicas) * u64::from(share.thousandths());
    let full = u64::from(Weight::FULL.thousandths());
    let nearest = u32::try_from((thousandths + full / 2) / full).unwrap_or(replicas);
    let canary = if replicas == 1 { nearest } else { nearest.clamp(1, replicas - 1) };
    (canary, replicas - canary)
}

/// The counts to be reached; what is not named shall have no pods.
fn goal_counts(look: &Look<'_>, state: &State) -> BTreeMap<Revision, u32> {
    let replicas = look.plan.replicas;
    let surge = look.plan.canary().max_surge.rounded_up(replicas);
    let (canary, stable) = split_counts(replicas, goal::share(look, state), surge);
    let mut counts = BTreeMap::new();
    if let Some(revision) = &state.stable_revision {
        counts.insert(revision.clone(), stable);
    }
    match (state.stage, &state.current_revision) {
        (Stage::Stepping | Stage::Promoting, Some(revision)) => counts.insert(revision.clone(), canary),
        (Stage::FirstDeploy, Some(revision)) => counts.insert(revision.clone(), replicas),
        (Stage::Aborted | Stage::Stable, _) | (_, None) => None,
    };
    counts
}

/// Whether the counts are reached and their pods available.
pub(crate) fn reached(look: &Look<'_>, state: &State) -> bool {
    let goals = goal_counts(look, state);
    let sets = &look.seen.replica_sets;
    let kept = goals.iter().all(|(revision, goal)| match sets.get(revision) {
        Some(set) => set.desired == *goal && set.available >= *goal,
        None => *goal == 0,
    });
    kept && sets.iter().all(|(revision, set)| goals.contains_key(revision) || set.desired == 0)
}

/// The counts to ask for now: as near to the goal as surge and availability permit.
pub(crate) fn next_counts(look: &Look<'_>, state: &State) -> BTreeMap<Revision, u32> {
    let replicas = look.plan.replicas;
    let sets = &look.seen.replica_sets;
    let goals = goal_counts(look, state);
    let surge = look.plan.canary().max_surge.rounded_up(replicas);
    let allowed_missing = match look.plan.canary().max_unavailable.rounded_down(replicas) {
        0 if surge == 0 => 1,
        missing => missing,
    };
    let total: u32 = sets.values().map(|set| set.desired.max(set.current)).sum();
    let serving: u32 = sets.values().map(|set| set.available.min(set.desired)).sum();
    let mut spare = serving.saturating_sub(replicas.saturating_sub(allowed_missing));
    let mut room = (replicas + surge).saturating_sub(total);

    let mut counts: BTreeMap<_, _> = sets.iter().map(|(revision, set)| (revision.clone(), set.desired)).collect();
    // Left-over revisions give up their pods first.
    let mut order: Vec<_> = sets.iter().collect();
    order.sort_by_key(|(revision, _)| goals.contains_key(*revision));
    for (revision, set) in order {
        let surplus = set.desired.saturating_sub(goals.get(revision).copied().unwrap_or(0));
        let idle = set.desired.saturating_sub(set.available);
        let cut = surplus.min(idle + spare);
        spare -= cut.saturating_sub(idle);
        counts.insert(revision.clone(), set.desired - cut);
    }
    for (revision, goal) in stable_first(&goals, state) {
        let now = sets.get(revision).map_or(0, |set| set.desired);
        if now < goal {
            let more = (goal - now).min(room);
            room -= more;
            counts.insert(revision.clone(), now + more);
        }
    }
    counts
}

fn stable_first<'a>(goals: &'a BTreeMap<Revision, u32>, state: &State) -> Vec<(&'a Revision, u32)> {
    let mut goals: Vec<_> = goals.iter().map(|(revision, goal)| (revision, *goal)).collect();
    goals.sort_by_key(|(revision, _)| state.stable_revision.as_ref() != Some(*revision));
    goals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_is_as_close_as_possible_with_one_of_each_side() {
        assert_eq!(split_counts(10, Weight::percent(30), 0), (3, 7));
        assert_eq!(split_counts(1, Weight::percent(5), 1), (1, 1));
        assert_eq!(split_counts(2, Weight::percent(1), 0), (1, 1));
        assert_eq!(split_counts(2, Weight::percent(99), 0), (1, 1));
        assert_eq!(split_counts(1, Weight::percent(5), 0), (0, 1));
        assert_eq!(split_counts(0, Weight::percent(50), 1), (0, 0));
        assert_eq!(split_counts(7, Weight::FULL, 1), (7, 0));
    }
}

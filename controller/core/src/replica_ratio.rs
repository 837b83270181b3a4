//! Without a router the split is approximated by replica counts, within maxSurge and
//! maxUnavailable.

use std::collections::BTreeMap;

use crate::context::Context;
use crate::state::{Stage, State};
use crate::units::Revision;
use crate::{growth, target};

/// The counts to be reached; what is not named shall have no pods.
fn goal_counts(cx: &Context<'_>, state: &State) -> BTreeMap<Revision, u32> {
    let replicas = cx.plan.replicas;
    let surge = cx.plan.canary().max_surge.rounded_up(replicas);
    let (canary, stable) = target::split_counts(replicas, target::share(cx, state), surge);
    let mut counts = BTreeMap::new();
    if let Some(revision) = &state.stable_revision {
        counts.insert(revision.clone(), stable);
    }
    match (state.stage, &state.current_revision) {
        (Stage::Progressing | Stage::Promoting, Some(revision)) => {
            counts.insert(revision.clone(), canary)
        }
        (Stage::FirstDeploy, Some(revision)) => counts.insert(revision.clone(), replicas),
        (Stage::Aborted | Stage::Stable, _) | (_, None) => None,
    };
    counts
}

/// Whether the counts are reached and their pods available.
pub(crate) fn reached(cx: &Context<'_>, state: &State) -> bool {
    let goals = goal_counts(cx, state);
    let sets = &cx.observed.replica_sets;
    let kept = goals
        .iter()
        .all(|(revision, goal)| match sets.get(revision) {
            Some(set) => set.desired == *goal && set.available >= *goal,
            None => *goal == 0,
        });
    kept && sets
        .iter()
        .all(|(revision, set)| goals.contains_key(revision) || set.desired == 0)
}

/// The pods that are where they shall be, less those that shall go: rises to the number of all pods
/// as the split is reached.
pub(crate) fn in_place(cx: &Context<'_>, state: &State) -> i64 {
    let goals = goal_counts(cx, state);
    let each = cx.observed.replica_sets.iter().map(|(revision, set)| {
        let goal = goals.get(revision).copied().unwrap_or(0);
        i64::from(set.available.min(goal)) - i64::from(set.desired.saturating_sub(goal))
    });
    each.sum()
}

/// The counts to ask for now: as near to the goal as surge and availability permit.
pub(crate) fn next_counts(cx: &Context<'_>, state: &State) -> BTreeMap<Revision, u32> {
    let replicas = cx.plan.replicas;
    let sets = &cx.observed.replica_sets;
    let goals = goal_counts(cx, state);
    let surge = cx.plan.canary().max_surge.rounded_up(replicas);
    let allowed_missing = match cx.plan.canary().max_unavailable.rounded_down(replicas) {
        0 if surge == 0 => 1,
        missing => missing,
    };
    let total: u32 = sets.values().map(|set| set.desired.max(set.current)).sum();
    let serving: u32 = sets
        .values()
        .map(|set| set.available.min(set.desired))
        .sum();
    let mut spare = serving.saturating_sub(replicas.saturating_sub(allowed_missing));
    let mut room = (replicas + surge).saturating_sub(total);

    let mut counts: BTreeMap<_, _> = sets
        .iter()
        .map(|(revision, set)| (revision.clone(), set.desired))
        .collect();
    // Left-over revisions give up their pods first.
    let mut order: Vec<_> = sets.iter().collect();
    order.sort_by_key(|(revision, _)| goals.contains_key(*revision));
    for (revision, set) in order {
        let surplus = set
            .desired
            .saturating_sub(goals.get(revision).copied().unwrap_or(0));
        let idle = set.desired.saturating_sub(set.available);
        let cut = surplus.min(idle + spare);
        spare -= cut.saturating_sub(idle);
        counts.insert(revision.clone(), set.desired - cut);
    }
    for (revision, goal) in stable_first(&goals, state) {
        let now = sets.get(revision).map_or(0, |set| set.desired);
        let is_canary =
            state.stage == Stage::Progressing && state.current_revision.as_ref() == Some(revision);
        let goal = if is_canary {
            growth::limited(cx, state, goal, now)
        } else {
            goal
        };
        if now < goal {
            let more = (goal - now).min(room);
            room -= more;
            counts.insert(revision.clone(), now + more);
        }
    }
    counts
}

fn stable_first<'a>(goals: &'a BTreeMap<Revision, u32>, state: &State) -> Vec<(&'a Revision, u32)> {
    let mut goals: Vec<_> = goals
        .iter()
        .map(|(revision, goal)| (revision, *goal))
        .collect();
    goals.sort_by_key(|(revision, _)| state.stable_revision.as_ref() != Some(*revision));
    goals
}

//! What the release asks for at this stage and step: the canary's share of the traffic, and the
//! pods for it.

use crate::context::Context;
use crate::plan::{Canary, CanaryScale, Pace};
use crate::route_state;
use crate::state::{Stage, State};
use crate::units::Weight;

/// The canary's share that the stage and step ask for, as far as the metrics let them.
pub(crate) fn share(cx: &Context<'_>, state: &State) -> Weight {
    cut(state, planned(cx, state))
}

/// The canary's share that the stage and step ask for.
pub(crate) fn planned(cx: &Context<'_>, state: &State) -> Weight {
    match state.stage {
        Stage::FirstDeploy | Stage::Stable | Stage::Aborted => Weight::ZERO,
        Stage::Progressing if state.restarting => Weight::ZERO,
        Stage::Progressing => match &cx.plan.canary().pace {
            Pace::Steps(steps) => Canary::weight_at(steps, state.step.map_or(0, |step| step.index)),
            Pace::Evidence(_) => state.weights.desired,
        },
        Stage::Promoting => Weight::FULL,
    }
}

/// A step's weight, as far as it is not capped.
pub(crate) fn cut(state: &State, weight: Weight) -> Weight {
    state.weights.cap.map_or(weight, |cap| cap.min(weight))
}

/// The canary pods that this share of traffic asks for at the step at hand.
pub(crate) fn canary_pods(cx: &Context<'_>, state: &State, share: Weight) -> u32 {
    let replicas = cx.plan.replicas;
    let scale = match (&cx.plan.canary().pace, state.step) {
        (Pace::Steps(steps), Some(step)) if state.stage == Stage::Progressing => {
            Canary::scale_at(steps, step.index)
        }
        _ => CanaryScale::MatchTrafficWeight,
    };
    match scale {
        CanaryScale::MatchTrafficWeight => share.pods_of(replicas),
        CanaryScale::Replicas(pods) => pods.max(u32::from(!share.is_zero())),
        CanaryScale::Weight(weight) => weight.pods_of(replicas).max(u32::from(!share.is_zero())),
    }
}

/// The canary pods that this share of traffic needs, or fewer if it was verified with fewer: raised
/// `replicas` make nothing incomplete that was complete.
pub(crate) fn carrying_pods(cx: &Context<'_>, state: &State, share: Weight) -> u32 {
    let needed = canary_pods(cx, state, share);
    let sufficed = state
        .weights
        .pods
        .filter(|_| share == state.weights.desired);
    sufficed.map_or(needed, |sufficed| sufficed.min(needed))
}

/// The stable pods that the stage and step ask for while a release is under way.
pub(crate) fn stable_pods(cx: &Context<'_>, state: &State) -> u32 {
    let (canary, replicas, share) = (cx.plan.canary(), cx.plan.replicas, share(cx, state));
    if canary.routing.is_none() {
        return split_counts(replicas, share, canary.max_surge.rounded_up(replicas)).1;
    }
    // All of it has to be there before a superseded canary can lose its traffic.
    if !canary.dynamic_stable_scale
        || route_state::superseded_gets_traffic(cx, state.current_revision.as_ref())
    {
        return replicas;
    }
    share.complement().pods_of(replicas).max(replicas.min(1))
}

/// The counts of canary and stable pods that come closest to the canary's share.
///
/// At least one of each side from two replicas up; a single replica needs room for a second pod to
/// be split at all.
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
    let canary = if replicas == 1 {
        nearest
    } else {
        nearest.clamp(1, replicas - 1)
    };
    (canary, replicas - canary)
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

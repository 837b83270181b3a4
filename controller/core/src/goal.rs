//! What the release asks for at this stage and step: the canary's share of the traffic, and the pods for it.

use crate::draft::Look;
use crate::plan::{Canary, CanaryScale, Pace};
use crate::state::{Stage, State};
use crate::units::Weight;

/// The canary's share that the stage and step ask for, as far as the metrics let them.
pub(crate) fn share(look: &Look<'_>, state: &State) -> Weight {
    cut(state, planned(look, state))
}

/// The canary's share that the stage and step ask for.
pub(crate) fn planned(look: &Look<'_>, state: &State) -> Weight {
    match state.stage {
        Stage::FirstDeploy | Stage::Stable | Stage::Aborted => Weight::ZERO,
        Stage::Stepping if state.restarting => Weight::ZERO,
        Stage::Stepping => match &look.plan.canary().pace {
            Pace::Steps(steps) => Canary::weight_at(steps, state.step.map_or(0, |step| step.index)),
            Pace::Evidence(_) => state.weights.asked,
        },
        Stage::Promoting => Weight::FULL,
    }
}

/// A step's weight, as far as it is not capped.
pub(crate) fn cut(state: &State, weight: Weight) -> Weight {
    state.weights.cap.map_or(weight, |cap| cap.min(weight))
}

/// The canary pods that this share of traffic asks for at the step at hand.
pub(crate) fn canary_pods(look: &Look<'_>, state: &State, share: Weight) -> u32 {
    let replicas = look.plan.replicas;
    let scale = match (&look.plan.canary().pace, state.step) {
        (Pace::Steps(steps), Some(step)) if state.stage == Stage::Stepping => Canary::scale_at(steps, step.index),
        _ => CanaryScale::MatchTrafficWeight,
    };
    match scale {
        CanaryScale::MatchTrafficWeight => share.pods_of(replicas),
        CanaryScale::Replicas(pods) => pods.max(u32::from(!share.is_zero())),
        CanaryScale::Weight(weight) => weight.pods_of(replicas).max(u32::from(!share.is_zero())),
    }
}

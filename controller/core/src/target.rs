//! What the strategy wants at a stage and step, before the safety rules of [`crate::converge`].
//!
//! This is the only file that maps the strategy and the stage to traffic, pods and Services.

use std::collections::BTreeMap;

use crate::baseline;
use crate::context::Context;
use crate::converge::replica_ratio;
use crate::guardrail_holds;
use crate::holds;
use crate::managed_route::{ManagedRoute, managed_routes_at};
use crate::plan::{Canary, CanaryScale, Pace, Plan};
use crate::route_state;
use crate::state::{Stage, State};
use crate::steps;
use crate::units::{Revision, Weight};

/// The wanted traffic, pods and Services.
pub(crate) struct Target {
    /// The canary's share of the traffic.
    pub share: Weight,
    /// Whether the share may rise above what is written now. After an abort it never rises again,
    /// and while a guardrail holds the release it does not.
    pub may_raise: bool,
    /// The rules for chosen requests, by precedence.
    pub managed_routes: Vec<ManagedRoute>,
    /// The wanted pods of each revision that serves by design. Other revisions are drained.
    pub pods: BTreeMap<Revision, PodTarget>,
    /// The revision that the stable Service should select.
    pub stable_binding: Option<Revision>,
    /// The revision that the canary Service should select; `None` leaves the Service as it is.
    pub canary_binding: Option<Revision>,
    /// How the stable side's capacity limits the traffic that returns to it.
    pub stable_capacity: StableCapacity,
    /// Whether the current revision takes over the stable Service.
    pub is_cutover: bool,
}

/// The wanted pods of a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PodTarget {
    /// The number of pods.
    pub count: u32,
    /// Whether pods in excess stay until the wanted traffic split is in effect.
    pub keeps_pods_until_in_effect: bool,
    /// Whether pods in excess stay.
    pub keeps_excess: bool,
    /// Whether the pods grow no faster than those of the stable revision.
    pub grows_with_stable: bool,
}

/// How the stable side's capacity limits the traffic that returns to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StableCapacity {
    /// It takes everything: there is no other side.
    Unlimited,
    /// It carries all of the traffic with `needed` available pods, and less in proportion.
    Pods {
        /// Pods that carry all of the traffic.
        needed: u32,
        /// Whether pods count even if the Service does not select them at the moment: somebody else
        /// changed its selector, which is corrected in the same reconcile.
        counts_unselected: bool,
    },
}

/// The wanted traffic, pods and Services for this state.
pub(crate) fn target(cx: &Context<'_>, state: &State) -> Target {
    let share = share(cx, state);
    let needed = if cx.plan.canary().dynamic_stable_scale {
        cx.plan.replicas
    } else {
        1
    };
    Target {
        share,
        may_raise: may_raise(cx, state),
        managed_routes: managed_routes(cx, state),
        pods: pods(cx, state, share),
        stable_binding: stable_binding(cx, state),
        canary_binding: canary_binding(cx, state),
        stable_capacity: match state.stage {
            Stage::FirstDeploy => StableCapacity::Unlimited,
            Stage::Progressing | Stage::Promoting | Stage::Aborted | Stage::Stable => {
                StableCapacity::Pods {
                    needed,
                    counts_unselected: state.stage == Stage::Progressing,
                }
            }
        },
        is_cutover: state.stage == Stage::Promoting,
    }
}

fn may_raise(cx: &Context<'_>, state: &State) -> bool {
    state.is_releasing() && !guardrail_holds::forbid_traffic(cx, state)
}

fn pods(cx: &Context<'_>, state: &State, share: Weight) -> BTreeMap<Revision, PodTarget> {
    let replicas = cx.plan.replicas;
    let at_once = |count| PodTarget {
        count,
        keeps_pods_until_in_effect: false,
        keeps_excess: false,
        grows_with_stable: false,
    };
    let mut pods = BTreeMap::new();
    if let Some(stable) = &state.stable_revision {
        let shrinks = state.is_releasing() && cx.plan.canary().dynamic_stable_scale;
        let count = if state.is_releasing() {
            stable_pods(cx, state, share)
        } else {
            replicas
        };
        pods.insert(
            stable.clone(),
            PodTarget {
                keeps_pods_until_in_effect: shrinks || baseline::is_ending(state),
                keeps_excess: baseline::keeps_stable_pods(cx, state),
                ..at_once(count + baseline::pods(cx, state, share))
            },
        );
    }
    if let Some(current) = &state.current_revision {
        let wanted = match state.stage {
            Stage::FirstDeploy => Some(at_once(replicas)),
            Stage::Progressing => Some(PodTarget {
                count: canary_side_pods(cx, state, share),
                keeps_pods_until_in_effect: true,
                grows_with_stable: true,
                keeps_excess: false,
            }),
            Stage::Promoting => Some(at_once(canary_side_pods(cx, state, share))),
            Stage::Aborted | Stage::Stable => None,
        };
        pods.extend(wanted.map(|wanted| (current.clone(), wanted)));
    }
    if replicas == 0 {
        // What is scaled to zero has no traffic that would have to move away first.
        for wanted in pods.values_mut() {
            *wanted = at_once(0);
        }
    }
    pods
}

/// The canary's pods while a release is under way.
fn canary_side_pods(cx: &Context<'_>, state: &State, share: Weight) -> u32 {
    let replicas = cx.plan.replicas;
    if cx.plan.splits_by_pods() {
        return unrouted_counts(cx, state, share).0;
    }
    match state.stage {
        Stage::Promoting => replicas,
        _ => canary_pods(cx, state, share),
    }
}

/// The revision that the stable Service should select.
fn stable_binding(cx: &Context<'_>, state: &State) -> Option<Revision> {
    let current = state.current_revision.clone();
    match state.stage {
        // A Service that was not bound yet sends no request to a revision that a guardrail holds.
        Stage::FirstDeploy => current.filter(|_| !guardrail_holds::forbid_traffic(cx, state)),
        // No route splits the requests of the two Services: the pods decide when it can be switched.
        Stage::Promoting if cx.plan.splits_by_pods() => current,
        Stage::Promoting => {
            let service = cx.observed.stable_service.as_ref();
            let selected = service.and_then(|service| service.selects.as_ref());
            let is_switched = current.is_some() && selected == current.as_ref();
            let is_complete = if cx.plan.switches_service() {
                // The Service moves the traffic: it changes once all pods can serve.
                may_raise(cx, state) && holds::pods_hold(cx, state, cx.plan.replicas).is_none()
            } else {
                route_state::in_effect_for(cx, current.as_ref()) == Some(Weight::FULL)
                    && (cx.plan.bake().is_none() || state.is_bake_complete())
            };
            if is_switched || is_complete {
                current
            } else {
                state.stable_revision.clone()
            }
        }
        Stage::Progressing | Stage::Aborted | Stage::Stable => state.stable_revision.clone(),
    }
}

/// The revision that the canary Service should select; `None` leaves the Service as it is.
fn canary_binding(cx: &Context<'_>, state: &State) -> Option<Revision> {
    match state.stage {
        Stage::Progressing | Stage::Promoting | Stage::FirstDeploy => {
            state.current_revision.clone()
        }
        // Without a router requests reach the Service all the time, also once its canary is gone. A
        // preview without a release shows the active revision.
        Stage::Aborted | Stage::Stable
            if cx.plan.routing().is_none() || cx.plan.is_blue_green() =>
        {
            state.stable_revision.clone()
        }
        // A route that names the Service from the beginning is resolved by its router only if the
        // Service exists.
        Stage::Aborted | Stage::Stable => {
            let service = cx.observed.canary_service.as_ref();
            let is_missing = service.is_some_and(|service| !service.exists);
            state.stable_revision.clone().filter(|_| is_missing)
        }
    }
}

/// The canary's share that the stage and step want, as far as the analysis permits it.
pub(crate) fn share(cx: &Context<'_>, state: &State) -> Weight {
    capped(state, planned_share(cx, state))
}

/// The canary's share that the stage and step want.
pub(crate) fn planned_share(cx: &Context<'_>, state: &State) -> Weight {
    match state.stage {
        Stage::FirstDeploy | Stage::Stable | Stage::Aborted => Weight::ZERO,
        Stage::Progressing if state.restarting => Weight::ZERO,
        Stage::Progressing => match &cx.plan.canary().pace {
            Pace::Steps(steps) => Canary::weight_at(steps, state.step.map_or(0, |step| step.index)),
            Pace::Evidence(_) if steps::checks_before_traffic(cx.plan, state).is_some() => {
                Weight::ZERO
            }
            Pace::Evidence(_) => state.weights.desired,
        },
        Stage::Promoting => Weight::FULL,
    }
}

/// The rules for chosen requests that the stage and step want. They stay until the canary has all of
/// the traffic.
pub(crate) fn managed_routes(cx: &Context<'_>, state: &State) -> Vec<ManagedRoute> {
    if cx.plan.routing().is_none() {
        return Vec::new();
    }
    let steps = cx.plan.steps();
    match state.stage {
        Stage::FirstDeploy | Stage::Stable | Stage::Aborted => Vec::new(),
        Stage::Progressing if state.restarting => Vec::new(),
        Stage::Progressing => managed_routes_at(steps, state.step.map_or(0, |step| step.index)),
        Stage::Promoting => managed_routes_at(steps, steps.len()),
    }
}

/// A step's weight, limited by the cap that the analysis has set.
pub(crate) fn capped(state: &State, weight: Weight) -> Weight {
    state.weights.cap.map_or(weight, |cap| cap.min(weight))
}

/// The canary's pods for this share of traffic at the current step.
pub(crate) fn canary_pods(cx: &Context<'_>, state: &State, share: Weight) -> u32 {
    let scale = match (&cx.plan.canary().pace, state.step) {
        (Pace::Steps(steps), Some(step)) if state.stage == Stage::Progressing => {
            Canary::scale_at(steps, step.index)
        }
        _ => CanaryScale::MatchTrafficWeight,
    };
    let mut pods = canary_pods_of_scale(cx.plan, scale, share);
    if share.is_zero() {
        pods = pods.max(pods_before_traffic(cx, state));
    }
    // Chosen requests need a pod, too.
    if share.is_zero() && !managed_routes(cx, state).is_empty() {
        return pods.max(1).max(min_pods(cx));
    }
    pods
}

/// The canary's pods for this share of traffic, with this scale.
pub(crate) fn canary_pods_of_scale(plan: &Plan, scale: CanaryScale, share: Weight) -> u32 {
    let replicas = plan.replicas;
    let at_least_one = u32::from(!share.is_zero());
    match scale {
        CanaryScale::MatchTrafficWeight if share.is_zero() => 0,
        CanaryScale::MatchTrafficWeight => share.pods_of(replicas).max(min_pods_of(plan)),
        // A preview never has more pods than the side that serves.
        CanaryScale::Replicas(pods) if plan.is_blue_green() => pods.min(replicas),
        CanaryScale::Replicas(pods) => pods.max(at_least_one),
        CanaryScale::Weight(weight) => weight.pods_of(replicas).max(at_least_one),
    }
}

/// The canary's pods while its checks run before the first traffic: those of the first weight. 0 if
/// no checks run.
fn pods_before_traffic(cx: &Context<'_>, state: &State) -> u32 {
    match &cx.plan.canary().pace {
        Pace::Evidence(pace) if steps::checks_before_traffic(cx.plan, state).is_some() => {
            let of_weight = pace.first_weight.pods_of(cx.plan.replicas);
            of_weight.max(1).max(min_pods(cx))
        }
        _ => 0,
    }
}

/// The canary's pods that suffice for this share: fewer than [`canary_pods`] if the share was
/// verified with fewer. Raised `replicas` make nothing incomplete that was complete.
pub(crate) fn sufficient_canary_pods(cx: &Context<'_>, state: &State, share: Weight) -> u32 {
    let needed = canary_pods(cx, state, share);
    let verified_with = state
        .weights
        .pods
        .filter(|_| share == state.weights.desired);
    verified_with.map_or(needed, |pods| pods.min(needed))
}

/// The stable pods while a release is under way.
fn stable_pods(cx: &Context<'_>, state: &State, share: Weight) -> u32 {
    let (canary, replicas) = (cx.plan.canary(), cx.plan.replicas);
    if cx.plan.splits_by_pods() {
        return unrouted_counts(cx, state, share).1;
    }
    // All of stable has to be there before a superseded canary can lose its traffic.
    let current = state.current_revision.as_ref();
    if !canary.dynamic_stable_scale || route_state::superseded_gets_traffic(cx, current) {
        return replicas;
    }
    let of_share = share.complement().pods_of(replicas);
    of_share.max(replicas.min(1)).max(min_pods(cx))
}

/// The pods that each side with requests has at least.
fn min_pods(cx: &Context<'_>) -> u32 {
    min_pods_of(cx.plan)
}

fn min_pods_of(plan: &Plan) -> u32 {
    plan.canary().min_pods_per_replica_set.min(plan.replicas)
}

fn surge(cx: &Context<'_>) -> u32 {
    cx.plan.canary().max_surge.rounded_up(cx.plan.replicas)
}

/// The pods of canary and stable without a router. While a Service selects the stable pods, one of
/// them stays until the promotion, if a canary pod fits beside it.
fn unrouted_counts(cx: &Context<'_>, state: &State, share: Weight) -> (u32, u32) {
    let replicas = cx.plan.replicas;
    let (canary, stable) = split_counts(replicas, share, surge(cx));
    let is_served = state.stage == Stage::Progressing && cx.plan.services().is_some();
    if stable == 0 && is_served && replica_ratio::has_room_for_both(cx) {
        return (canary.min(replicas + surge(cx) - 1), 1);
    }
    (canary, stable)
}

/// The counts of canary and stable pods that come closest to the canary's share.
///
/// With two replicas or more, each side has at least one pod. A single replica can only be split if
/// there is room for a second pod.
fn split_counts(replicas: u32, share: Weight, surge: u32) -> (u32, u32) {
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

//! What autoscalers read of a Rollout: how many pods stand for `spec.replicas`, and which revisions
//! carry the load.
//!
//! A release has pods on two sides, but an autoscaler sets one number.
//! `docs/explanation/autoscaling.md` derives both rules from the formulas of the
//! HorizontalPodAutoscaler.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::context::Context;
use crate::effect::{Effect, Side};
use crate::observed::Observed;
use crate::plan::Plan;
use crate::route_state;
use crate::units::Revision;

/// What the `scale` subresource reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScaleReport {
    /// Number of pods that stand for `spec.replicas`. Equal to it once all of them exist, and never
    /// more.
    pub replicas: u32,
    /// Revisions whose pods may receive requests. `None` if these are all pods of the Rollout.
    pub revisions: Option<BTreeSet<Revision>>,
}

/// What the `scale` subresource reports before `effects` are carried out.
///
/// The number of pods does not include those that exist in addition during a release: an autoscaler
/// that compares a total with a target per pod takes the number for the size of the fleet, and
/// writes it to `spec.replicas`.
///
/// Pods that cannot receive requests are not measured: a canary that starts, and pods that drain. An
/// autoscaler counts unready pods as idle and therefore does not scale up while they start. A
/// revision is measured from before the effect that sends requests to it.
pub fn report(plan: &Plan, observed: &Observed, effects: &[Effect], now: Timestamp) -> ScaleReport {
    let cx = Context::new(plan, observed, now);
    ScaleReport {
        replicas: standing_pods(plan, observed),
        revisions: loaded_revisions(&cx, effects),
    }
}

/// With a router, each side alone has the pods for `spec.replicas`, unless stable shrinks while the
/// canary grows. Otherwise both sides have them together.
fn standing_pods(plan: &Plan, observed: &Observed) -> u32 {
    let sets = observed.replica_sets.values();
    let pods = sets.map(|set| set.current.min(set.desired));
    let is_shared = plan.splits_by_pods() || plan.canary().dynamic_stable_scale;
    let standing = if is_shared {
        pods.fold(0, u32::saturating_add)
    } else {
        pods.max().unwrap_or(0)
    };
    standing.min(plan.replicas)
}

/// The revisions with pods that may receive requests, now or by one of the effects. `None` if there
/// are no other pods, or if it is not known.
fn loaded_revisions(cx: &Context<'_>, effects: &[Effect]) -> Option<BTreeSet<Revision>> {
    if cx.plan.splits_by_pods() {
        return None;
    }
    let stable = cx.observed.stable_service.as_ref()?;
    let canary = cx.observed.canary_service.as_ref()?;
    // A Service that is not bound may select any pod.
    let mut reachable = BTreeSet::from([stable.selects.clone()?]);
    let is_canary_reachable = !route_state::canary_is_unreachable(cx)
        || effects.iter().any(Effect::gives_canary_requests);
    if is_canary_reachable {
        reachable.extend(canary.selects.clone());
    }
    for effect in effects {
        if let Effect::BindService { side, revision, .. } = effect
            && (*side == Side::Stable || is_canary_reachable)
        {
            reachable.insert(revision.clone());
        }
    }
    let sets = cx.observed.replica_sets.iter();
    let with_pods = sets.filter(|(_, set)| set.desired > 0 || set.current > 0);
    let (loaded, idle): (BTreeSet<_>, BTreeSet<_>) = with_pods
        .map(|(revision, _)| revision.clone())
        .partition(|revision| reachable.contains(revision));
    (!loaded.is_empty() && !idle.is_empty()).then_some(loaded)
}

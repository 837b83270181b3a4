//! Baseline pods: pods of the stable revision that start together with the canary's, so that both
//! sides of the comparison are equally young (docs/adr/0032).
//!
//! They are pods of the stable ReplicaSet in excess of `replicas`. The Service, the route and the
//! rules of [`crate::converge`] are those of any other stable pod. The analysis distinguishes them
//! by their age, so pods in excess that were there before are removed first.

use std::time::Duration;

use jiff::Timestamp;

use crate::context::{Context, Transition};
use crate::hold::{Hold, HoldCode};
use crate::observed::ReplicaSetView;
use crate::plan::{CanaryScale, Plan};
use crate::route_state;
use crate::state::{Stage, State};
use crate::target;
use crate::units::{Weight, saturating_add};

/// Divisor of the progress deadline: the first canary traffic waits this long for the baseline pods.
const WAIT_DIVISOR: u32 = 2;

/// When the baseline pods of the release in progress started. `None` if the plan has none, if they
/// have not started, or if those that exist belong to an earlier release.
pub fn started_at(plan: &Plan, state: &State) -> Option<Timestamp> {
    let is_of_release = |since: &Timestamp| {
        let began = state.release_started_at;
        began.is_none_or(|began| *since >= began)
    };
    let since = state.baseline_since.filter(is_of_release);
    since.filter(|_| limit(plan, state) > 0)
}

/// Part of stable's requests that the canary is compared with at this share of the traffic and with
/// this scale, from 0 to 1: that of the baseline pods among all stable pods. 1 if the plan has none.
pub fn compared_part_of_stable(plan: &Plan, scale: CanaryScale, share: Weight) -> f64 {
    let limit = limit_of_plan(plan);
    if limit == 0 {
        return 1.0;
    }
    let pods = limit.min(target::canary_pods_of_scale(plan, scale, share));
    f64::from(pods) / f64::from(plan.replicas.saturating_add(pods))
}

/// Maximum number of baseline pods of the release. 0 if it has none.
fn limit(plan: &Plan, state: &State) -> u32 {
    let is_release = state.is_releasing() && state.stable_revision.is_some();
    if is_release { limit_of_plan(plan) } else { 0 }
}

/// Maximum number of baseline pods of a release. 0 if the plan has none.
fn limit_of_plan(plan: &Plan) -> u32 {
    let canary = plan.canary();
    // Without a router the number of pods sets the split, and a stable side that shrinks loses its
    // youngest pods first.
    let is_possible = plan.routing().is_some() && !canary.dynamic_stable_scale && plan.replicas > 0;
    let analysis = canary.analysis.as_ref();
    analysis
        .filter(|_| is_possible)
        .and_then(|analysis| analysis.baseline_pods)
        .unwrap_or(0)
}

/// The baseline pods beside the canary's pods at this share: as many as the canary has, up to the
/// limit.
pub(crate) fn pods(cx: &Context<'_>, state: &State, share: Weight) -> u32 {
    if !keeps_stable_pods(cx, state) {
        return 0;
    }
    limit(cx.plan, state).min(target::canary_pods(cx, state, share))
}

/// Whether stable keeps pods in excess: the youngest ones, which are removed first, are the
/// baseline.
pub(crate) fn keeps_stable_pods(cx: &Context<'_>, state: &State) -> bool {
    state.stage == Stage::Progressing && started_at(cx.plan, state).is_some()
}

/// Whether baseline pods may still be there that are not needed any more: the release is being
/// promoted, or has ended. They are removed once the traffic is where it should be.
pub(crate) fn is_ending(state: &State) -> bool {
    state.baseline_since.is_some() && state.stage != Stage::Progressing
}

/// Records when the baseline pods start: together with the canary's first pods.
pub(crate) fn record(cx: &Context<'_>, transition: &mut Transition) {
    let state = &transition.state;
    let may_start = state.stage == Stage::Progressing && started_at(cx.plan, state).is_none();
    // Older pods in excess would count as baseline pods.
    if !may_start || has_excess(cx, state) {
        return;
    }
    let share = target::share(cx, state);
    if limit(cx.plan, state).min(target::canary_pods(cx, state, share)) > 0 {
        transition.state.baseline_since = Some(cx.now);
    }
}

/// Forgets baseline pods that are gone.
pub(crate) fn forget(cx: &Context<'_>, transition: &mut Transition) {
    let state = &transition.state;
    if started_at(cx.plan, state).is_none() && !has_excess(cx, state) {
        transition.state.baseline_since = None;
    }
}

/// Waits for the baseline pods before the canary's first traffic. Bounded, so that a release can
/// replace a stable revision whose pods do not start.
pub(crate) fn hold(cx: &Context<'_>, state: &State) -> Option<Hold> {
    let share = target::share(cx, state);
    let has_baseline = state.stage == Stage::Progressing && limit(cx.plan, state) > 0;
    if !has_baseline || share.is_zero() || !route_state::written(cx).is_zero() {
        return None;
    }
    let needed = pods(cx, state, share);
    if needed > 0 && available(cx, state) >= needed {
        return None;
    }
    let began = started_at(cx.plan, state).or(state.release_started_at)?;
    let end = saturating_add(began, wait(cx.plan));
    let message = "waiting for the baseline pods of the stable revision";
    (!cx.reached(end)).then(|| Hold::new(HoldCode::PodsNotAvailable, message).until(end))
}

fn wait(plan: &Plan) -> Duration {
    plan.progress_deadline / WAIT_DIVISOR
}

/// Available baseline pods: stable's available pods in excess of `replicas`.
pub(crate) fn available(cx: &Context<'_>, state: &State) -> u32 {
    let set = stable_set(cx, state);
    let excess = set.map_or(0, |set| set.available.saturating_sub(cx.plan.replicas));
    excess.min(pods(cx, state, target::share(cx, state)))
}

fn has_excess(cx: &Context<'_>, state: &State) -> bool {
    let replicas = cx.plan.replicas;
    stable_set(cx, state).is_some_and(|set| set.desired > replicas || set.current > replicas)
}

fn stable_set<'a>(cx: &'a Context<'_>, state: &State) -> Option<&'a ReplicaSetView> {
    let revision = state.stable_revision.as_ref()?;
    cx.observed.replica_sets.get(revision)
}

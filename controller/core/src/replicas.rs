//! The number of pods if the manifest leaves `replicas` out.
//!
//! The API server defaults the field to 1, so that the scale subresource can be read and an
//! autoscaler can begin. But a manifest from which the field is *removed*, usually to hand it over
//! to an autoscaler, gets the same 1, and a fleet must not shrink for that. So the number of pods
//! that was in effect is kept until an autoscaler or a person sets another one. An autoscaler that
//! begins at 1 raises step by step; until it is as high, or has had its time, the higher number
//! stays.

use std::time::Duration;

use jiff::Timestamp;

use crate::context::{Context, Transition};
use crate::observed::ReplicasSource;
use crate::state::{ReplicasKept, State};
use crate::units::saturating_add;

/// How long an autoscaler that has begun may stay below the kept number: the stabilization window
/// of a HorizontalPodAutoscaler, in which it does not scale down either.
const TAKEOVER: Duration = Duration::from_secs(300);

/// The number of pods in effect, given `spec.replicas` as stored, who set it, and the state so far.
pub fn effective(spec_replicas: u32, source: ReplicasSource, state: &State, now: Timestamp) -> u32 {
    let source = source.resolved(state.replicas_scaled);
    let before = state.plan.as_ref().map_or(0, |plan| plan.spec.replicas);
    match (source, state.replicas_kept) {
        (ReplicasSource::Declared, _) | (ReplicasSource::Scaled, None) => spec_replicas,
        (ReplicasSource::Default | ReplicasSource::Unowned, None) => spec_replicas.max(before),
        (ReplicasSource::Scaled, Some(kept)) if kept.until.is_some_and(|until| until <= now) => {
            spec_replicas
        }
        (_, Some(kept)) => spec_replicas.max(kept.count),
    }
}

/// Records what is kept, so that a restarted controller keeps it too.
pub(crate) fn record(cx: &Context<'_>, transition: &mut Transition) {
    // While the spec cannot be used, the active plan counts.
    if cx.observed.spec_problem.is_some() {
        return;
    }
    let (count, spec_replicas) = (cx.plan.replicas, cx.observed.spec_replicas);
    let state = &mut transition.state;
    let before = state.replicas_kept;
    let source = cx.observed.replicas_source.resolved(state.replicas_scaled);
    state.replicas_scaled = source == ReplicasSource::Scaled;
    state.replicas_kept = match source {
        _ if count <= spec_replicas => None,
        ReplicasSource::Declared => None,
        ReplicasSource::Default | ReplicasSource::Unowned => {
            Some(ReplicasKept { count, until: None })
        }
        ReplicasSource::Scaled => {
            let begun = before.and_then(|kept| kept.until);
            let until = begun.unwrap_or_else(|| saturating_add(cx.now, TAKEOVER));
            // Evaluated so that the number is decided again at that time.
            let is_over = cx.reached(until);
            (!is_over).then_some(ReplicasKept {
                count,
                until: Some(until),
            })
        }
    };
    if before.is_none() && state.replicas_kept.is_some() {
        transition.normal(
            "ReplicasKept",
            format!(
                "spec.replicas was removed and defaults to {spec_replicas}: {count} pods stay \
                 until an autoscaler or `kubectl scale` sets another number"
            ),
        );
    }
}

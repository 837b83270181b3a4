//! Safety rules that every decision is checked against before anything of it is carried out.
//!
//! The rules are those of the tests in `tests/invariants.rs`. They repeat on purpose what
//! [`crate::converge`] ensures by construction: a mistake there stops one Rollout instead of sending
//! requests to nobody.

use crate::context::Context;
use crate::converge::replica_ratio;
use crate::effect::{Effect, Side};
use crate::guardrail_holds;
use crate::managed_route::ManagedRoute;
use crate::observed::{RouteView, ServiceView};
use crate::plan::{Canary, RouteRef};
use crate::route_state;
use crate::state::{Stage, State};
use crate::units::{Revision, Weight};

/// A safety rule that a decision would have broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the decision would break a safety rule ({rule}): {message}")]
pub struct InvariantViolation {
    /// The rule, a CamelCase word.
    pub rule: &'static str,
    /// What would have happened.
    pub message: String,
}

/// Checks a new state and its effects.
pub(crate) fn check(
    cx: &Context<'_>,
    state: &State,
    effects: &[Effect],
) -> Result<(), InvariantViolation> {
    check_desired_share(cx, state)?;
    effects.iter().try_for_each(|effect| match effect {
        Effect::SetWeight {
            route,
            canary,
            managed_routes,
        } => {
            check_route_is_held(cx, route, *canary, managed_routes)?;
            check_managed_routes(cx, state, managed_routes)?;
            check_share(cx, state, *canary)
        }
        Effect::BindService {
            side,
            name,
            revision,
        } => {
            check_service_is_held(cx, *side, name)?;
            check_binding(cx, state, *side, revision)
        }
        Effect::Scale {
            revision, replicas, ..
        } => check_scale(cx, revision, *replicas),
        Effect::TakeReplicaSet { name, .. } | Effect::ReturnReplicaSet { name, .. } => {
            check_deployment_is_paused(cx, name)
        }
        Effect::CreateReplicaSet { .. }
        | Effect::EvictPod { .. }
        | Effect::DeleteReplicaSet { .. }
        | Effect::PauseDeployment { .. }
        | Effect::LabelPods { .. }
        | Effect::CreateDeployment { .. }
        | Effect::RestoreObjects
        | Effect::ResumeDeployment { .. }
        | Effect::ScaleDeployment { .. }
        | Effect::FinishCommand { .. } => Ok(()),
    })
}

fn violation(rule: &'static str, message: String) -> Result<(), InvariantViolation> {
    Err(InvariantViolation { rule, message })
}

/// No ReplicaSet changes its controller while the controller of the Deployment may act: it would
/// create other pods.
fn check_deployment_is_paused(cx: &Context<'_>, set: &str) -> Result<(), InvariantViolation> {
    let view = cx.observed.workload.as_ref();
    match view.and_then(|view| view.deployment.as_ref()) {
        Some(deployment) if !deployment.paused || !deployment.is_observed => violation(
            "DeploymentPaused",
            format!("ReplicaSet {set} would change its controller under a running Deployment"),
        ),
        _ => Ok(()),
    }
}

/// The desired share is never above what the step and the cap allow.
fn check_desired_share(cx: &Context<'_>, state: &State) -> Result<(), InvariantViolation> {
    let (desired, cap) = (state.weights.desired, state.weights.cap);
    if state.stage != Stage::Progressing {
        return Ok(());
    }
    let index = state.step.map_or(0, |step| step.index);
    let steps = cx.plan.steps();
    if !steps.is_empty() && desired > Canary::weight_at(steps, index) {
        return violation(
            "ShareWithinStep",
            format!("step {index} would get {desired}"),
        );
    }
    match cap {
        Some(cap) if desired > cap => violation(
            "ShareWithinCap",
            format!("the canary would get {desired} over a cap of {cap}"),
        ),
        _ => Ok(()),
    }
}

/// Nothing is written to a Service that another Rollout holds or that must not be taken.
fn check_service_is_held(
    cx: &Context<'_>,
    side: Side,
    name: &str,
) -> Result<(), InvariantViolation> {
    let service = cx.observed.service(side);
    match service.and_then(ServiceView::refusal) {
        Some(refusal) => violation(
            "OwnObjectsOnly",
            format!("Service {name} would be bound: {}", refusal.message),
        ),
        None => Ok(()),
    }
}

/// The stable Service never changes from a revision with pods to one without, nor to an aborted
/// one.
fn check_binding(
    cx: &Context<'_>,
    state: &State,
    side: Side,
    revision: &Revision,
) -> Result<(), InvariantViolation> {
    let service = cx.observed.stable_service.as_ref();
    let Some(service) = service.filter(|_| side == Side::Stable) else {
        return Ok(());
    };
    let set = cx.observed.replica_sets.get(revision);
    let available = set.map_or(0, |set| set.available);
    if service.exists && service.ready > 0 && available == 0 {
        return violation(
            "ServiceHasPods",
            format!("the stable Service would select {revision} without an available pod"),
        );
    }
    let aborted = state.abort.as_ref().map(|abort| &abort.revision);
    if state.stage == Stage::Aborted && aborted == Some(revision) {
        return violation(
            "NoRaiseAfterAbort",
            format!("the stable Service would select the aborted revision {revision}"),
        );
    }
    Ok(())
}

/// No route is written whose stable Service another Rollout holds, and none is raised that another
/// Rollout splits.
fn check_route_is_held(
    cx: &Context<'_>,
    route: &RouteRef,
    share: Weight,
    managed_routes: &[ManagedRoute],
) -> Result<(), InvariantViolation> {
    let stable = cx.observed.stable_service.as_ref();
    let of_stable = stable.and_then(ServiceView::refusal);
    let view = cx.observed.routes.iter().find(|view| view.route == *route);
    let is_lower = |view: &RouteView| match view.canary_weight {
        Ok(weight) => share < weight || (share == weight && view.has_managed_routes()),
        Err(_) => false,
    };
    let rises = |view: &&RouteView| !(managed_routes.is_empty() && is_lower(view));
    let of_route = view.filter(rises).and_then(RouteView::refusal);
    match of_stable.or(of_route) {
        Some(refusal) => violation(
            "OwnObjectsOnly",
            format!("route {} would be changed: {}", route.name, refusal.message),
        ),
        None => Ok(()),
    }
}

/// Chosen requests go to the canary only during a release, never against a guardrail, and never
/// without pods of the current revision behind its Service.
fn check_managed_routes(
    cx: &Context<'_>,
    state: &State,
    managed_routes: &[ManagedRoute],
) -> Result<(), InvariantViolation> {
    let Some(first) = managed_routes.first() else {
        return Ok(());
    };
    let name = &first.name;
    if !state.is_releasing() {
        let message = format!("managed route {name} would be written in {:?}", state.stage);
        return violation("NoRaiseAfterAbort", message);
    }
    let mut added = managed_routes.iter();
    let is_added = added.any(|one| !route_state::is_on_every_route(cx, one));
    if is_added && guardrail_holds::forbid_traffic(cx, state) {
        let message = format!("managed route {name} would be written against a guardrail");
        return violation("NoRaiseUnderGuardrail", message);
    }
    let service = cx.observed.canary_service.as_ref();
    let selected = service.and_then(|service| service.selects.as_ref());
    let set = selected.and_then(|revision| cx.observed.replica_sets.get(revision));
    let has_pods = set.is_some_and(|set| set.available > 0);
    if !has_pods || selected != state.current_revision.as_ref() {
        let message = format!("managed route {name} would be written without a pod to serve it");
        return violation("ShareHasPods", message);
    }
    Ok(())
}

/// The canary's share rises only during a release, and never without pods behind its Service.
fn check_share(cx: &Context<'_>, state: &State, share: Weight) -> Result<(), InvariantViolation> {
    let written = route_state::written(cx);
    if share > written && !state.is_releasing() {
        return violation(
            "NoRaiseAfterAbort",
            format!(
                "the share would rise from {written} to {share} in {:?}",
                state.stage
            ),
        );
    }
    if share > written && guardrail_holds::forbid_traffic(cx, state) {
        return violation(
            "NoRaiseUnderGuardrail",
            format!("the share would rise from {written} to {share} against a guardrail"),
        );
    }
    if cx.plan.is_blue_green() && !share.is_zero() && share != Weight::FULL {
        return violation(
            "AllTrafficAtOnce",
            format!("the new revision would get {share} instead of everything or nothing"),
        );
    }
    let service = cx.observed.canary_service.as_ref();
    let selected = service.and_then(|service| service.selects.as_ref());
    let set = selected.and_then(|revision| cx.observed.replica_sets.get(revision));
    let available = set.map_or(0, |set| set.available);
    if !share.is_zero() && available == 0 {
        return violation(
            "ShareHasPods",
            format!("the canary would get {share} without an available pod"),
        );
    }
    Ok(())
}

/// Nothing is scaled to zero while the objects send requests to it.
fn check_scale(
    cx: &Context<'_>,
    revision: &Revision,
    replicas: u32,
) -> Result<(), InvariantViolation> {
    let selects = |service: Option<&ServiceView>| {
        service.is_some_and(|service| service.selects.as_ref() == Some(revision))
    };
    let gets_traffic = selects(cx.observed.stable_service.as_ref())
        || (selects(cx.observed.canary_service.as_ref()) && route_state::gives_canary_requests(cx));
    // A single pod without surge has to end before the next can start.
    let is_unavoidable = cx.plan.splits_by_pods() && !replica_ratio::has_room_for_both(cx);
    if replicas == 0 && gets_traffic && cx.plan.replicas > 0 && !is_unavoidable {
        return violation(
            "PodsUnderTraffic",
            format!("revision {revision} would be scaled to 0 under traffic"),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;

    use super::*;
    use crate::context::test_plan;
    use crate::hold::{Hold, HoldCode};
    use crate::observed::{Observed, Programmed, ReplicaSetView};
    use crate::plan::RouteKind;

    fn route() -> RouteRef {
        RouteRef {
            kind: RouteKind::HttpRoute,
            name: "shop".into(),
            rule: None,
        }
    }

    /// The canary has half of the traffic and `available` pods.
    fn observed(available: u32) -> Observed {
        let canary = Revision::new("v2");
        Observed {
            canary_service: Some(ServiceView {
                exists: true,
                selects: Some(canary.clone()),
                ready: available,
                ..ServiceView::default()
            }),
            replica_sets: BTreeMap::from([(
                canary,
                ReplicaSetView {
                    available,
                    ..ReplicaSetView::default()
                },
            )]),
            routes: vec![RouteView {
                route: route(),
                canary_weight: Ok(Weight::percent(50)),
                managed_routes: Some(Vec::new()),
                written_since: Timestamp::UNIX_EPOCH,
                programmed: Programmed::Unreported,
                hold: None,
            }],
            ..Observed::default()
        }
    }

    fn violated_rule(observed: &Observed, stage: Stage, effect: Effect) -> Option<&'static str> {
        let plan = test_plan();
        let cx = Context::new(&plan, observed, Timestamp::UNIX_EPOCH);
        let position = State {
            stage,
            ..State::default()
        };
        check(&cx, &position, &[effect])
            .err()
            .map(|violation| violation.rule)
    }

    fn share(percent: u32) -> Effect {
        Effect::SetWeight {
            route: route(),
            canary: Weight::percent(percent),
            managed_routes: Vec::new(),
        }
    }

    #[test]
    fn a_decision_that_would_break_a_safety_rule_is_refused() {
        let scale_to_zero = Effect::Scale {
            revision: Revision::new("v2"),
            name: "shop-v2".into(),
            replicas: 0,
        };
        let cases = [
            (0, Stage::Progressing, share(50), Some("ShareHasPods")),
            (2, Stage::Progressing, share(60), None),
            (2, Stage::Aborted, share(60), Some("NoRaiseAfterAbort")),
            (2, Stage::Aborted, share(40), None),
            (
                2,
                Stage::Progressing,
                scale_to_zero,
                Some("PodsUnderTraffic"),
            ),
        ];
        for (available, stage, effect, rule) in cases {
            let description = format!("{effect:?} in {stage:?}");
            assert_eq!(
                violated_rule(&observed(available), stage, effect),
                rule,
                "{description}"
            );
        }
    }

    #[test]
    fn a_decision_that_would_write_an_object_of_somebody_else_is_refused() {
        let conflict = Some(Hold::new(
            HoldCode::OwnershipConflict,
            "held by Rollout first",
        ));
        let bind = |side| Effect::BindService {
            side,
            name: "shop".into(),
            revision: Revision::new("v2"),
        };
        let rule =
            |observed: &Observed, effect| violated_rule(observed, Stage::Progressing, effect);
        let mut of_route = observed(2);
        of_route.routes[0].hold.clone_from(&conflict);
        assert_eq!(rule(&of_route, share(60)), Some("OwnObjectsOnly"));
        assert_eq!(rule(&of_route, share(40)), None, "it may be lowered");
        let mut of_stable = observed(2);
        of_stable.stable_service = Some(ServiceView {
            exists: true,
            hold: conflict,
            ..ServiceView::default()
        });
        for effect in [share(60), share(40), bind(Side::Stable)] {
            assert_eq!(rule(&of_stable, effect), Some("OwnObjectsOnly"));
        }
        assert_eq!(rule(&of_stable, bind(Side::Canary)), None);
    }

    #[test]
    fn a_desired_share_above_the_cap_is_refused() {
        let (plan, observed) = (test_plan(), Observed::default());
        let cx = Context::new(&plan, &observed, Timestamp::UNIX_EPOCH);
        let mut state = State {
            stage: Stage::Progressing,
            ..State::default()
        };
        state.weights.desired = Weight::percent(20);
        state.weights.cap = Some(Weight::percent(10));
        let violation = check(&cx, &state, &[]).unwrap_err();
        assert_eq!(violation.rule, "ShareWithinCap");
    }
}

//! Collects everything that stops a release at its current position.

use std::time::Duration;

use jiff::Timestamp;

use crate::context::Context;
use crate::converge::{bindings, replica_ratio};
use crate::hold::{Blocks, Hold, HoldCode, HoldSource};
use crate::observed::PodProblem;
use crate::plan::Requirements;
use crate::state::{PauseReason, Stage, State};
use crate::units::{Weight, saturating_add};
use crate::{
    baseline, blue_green, guardrail_holds, promotion, route_state, steps, target, workload,
};

/// Time in which a pod may be unschedulable or not ready without a report: it may only be starting.
const START_TIME: Duration = Duration::from_secs(30);

/// Everything that stops a release at one position: the spec first, then people, then what the
/// position itself waits for, then the rest of the metrics.
pub(crate) struct Holds(Vec<Hold>);

impl Holds {
    /// Collects the holds at the position of `state`.
    pub fn collect(cx: &Context<'_>, state: &State) -> Self {
        let mut holds = spec_holds(cx, state);
        holds.extend(person_hold(state));
        holds.extend(position_hold(cx, state));
        for hold in object_holds(cx, state) {
            if holds.iter().all(|other| other.code != hold.code) {
                holds.push(hold);
            }
        }
        if state.stage == Stage::Progressing
            && let Some(freeze) = blue_green::freeze_before_switch(cx, state)
            && holds.iter().all(|other| other.code != freeze.code)
        {
            holds.push(freeze.clone());
        }
        if state.stage == Stage::Progressing && has_planned_traffic(cx, state) {
            let report = cx.observed.analysis.iter();
            for hold in report.flat_map(|report| &report.holds) {
                if holds.iter().all(|other| other.code != hold.code) {
                    holds.push(hold.clone());
                }
            }
        }
        for hold in &mut holds {
            let before = cx.observed.state.holds.iter();
            let before = before
                .filter(|before| before.code == hold.code)
                .find_map(|before| before.since);
            hold.since = hold.since.or(before).or(Some(cx.now));
        }
        Self(holds)
    }

    /// What the position itself waits for; `None` if nothing.
    pub fn position(&self) -> Option<&Hold> {
        let is_external =
            |hold: &Hold| matches!(hold.source, HoldSource::Spec | HoldSource::Person);
        self.0.iter().find(|hold| !is_external(hold))
    }

    /// All holds, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Hold> {
        self.0.iter()
    }

    /// Whether the spec or a person stops the release, whatever the position waits for.
    pub fn is_stopped_from_outside(&self) -> bool {
        let mut holds = self.0.iter();
        holds.any(|hold| matches!(hold.source, HoldSource::Spec | HoldSource::Person))
    }

    /// The holds for the status.
    pub fn into_vec(self) -> Vec<Hold> {
        self.0
    }
}

fn spec_holds(cx: &Context<'_>, state: &State) -> Vec<Hold> {
    let mut holds = Vec::new();
    if let Some(problem) = &cx.observed.spec_problem {
        let code = cx.observed.spec_problem_code;
        let code = code.unwrap_or(HoldCode::SpecInvalid);
        holds.push(Hold::new(code, problem.clone()));
    }
    if cx.plan.paused && state.is_releasing() {
        holds.push(Hold::new(HoldCode::SpecPaused, "spec.paused is true"));
    }
    holds
}

pub(crate) fn person_hold(state: &State) -> Option<Hold> {
    let pause = state.pause.as_ref()?;
    let hold = match pause.reason {
        PauseReason::Step => return None,
        PauseReason::Command => Hold::new(
            HoldCode::PausedByCommand,
            "paused by a command, until resume",
        ),
        PauseReason::Inconclusive => Hold::new(
            HoldCode::Inconclusive,
            "the analysis is inconclusive; promote or abort",
        ),
    };
    Some(Hold {
        since: Some(pause.since),
        ..hold
    })
}

/// Whether a person or the spec holds the release, so that no traffic is added to its canary.
pub(crate) fn is_held_by_person(cx: &Context<'_>, state: &State) -> bool {
    cx.plan.paused || person_hold(state).is_some()
}

/// What the position waits for; `None` if its effect has been observed.
pub(crate) fn position_hold(cx: &Context<'_>, state: &State) -> Option<Hold> {
    if !workload::is_settled(cx, state) {
        return workload::hold(cx, state);
    }
    if let Some(refusal) = cx.observed.refusal()
        && !matches!(state.stage, Stage::Aborted | Stage::Stable)
    {
        return Some(refusal.clone());
    }
    if let Some(hold) = guardrail_hold(cx, state) {
        return Some(hold);
    }
    match state.stage {
        Stage::FirstDeploy => pods_hold(cx, state, cx.plan.replicas),
        Stage::Progressing | Stage::Promoting if cx.plan.replicas == 0 => {
            let message = "scaled to 0: the position is kept until replicas is raised";
            Some(Hold::new(HoldCode::ScaledToZero, message))
        }
        Stage::Progressing => steps::position_hold(cx, state),
        Stage::Promoting => promotion::position_hold(cx, state),
        Stage::Aborted | Stage::Stable => None,
    }
}

/// What a guardrail holds at a stage that needs the current revision. Pods that do not become
/// available come first: the progress deadline applies to them, and a guardrail may wait for them.
fn guardrail_hold(cx: &Context<'_>, state: &State) -> Option<Hold> {
    if matches!(state.stage, Stage::Aborted | Stage::Stable) {
        return None;
    }
    let hold = effective_guardrail_holds(cx, state).into_iter().next()?;
    let has_pods_to_wait_for = state.current_revision.is_some() && !cx.plan.splits_by_pods();
    let needed = needed_pods(cx, state);
    let pods = || pods_hold(cx, state, needed).filter(|_| has_pods_to_wait_for);
    Some(pods().unwrap_or(hold))
}

/// The holds of the guardrails. What only pods can show is not awaited while there are none.
fn effective_guardrail_holds(cx: &Context<'_>, state: &State) -> Vec<Hold> {
    let has_pods = needed_pods(cx, state) > 0;
    let mut holds = guardrail_holds::holds(cx, state);
    holds.retain(|hold| has_pods || hold.blocks == Blocks::Start);
    holds
}

/// The pods of the current revision that the position needs.
fn needed_pods(cx: &Context<'_>, state: &State) -> u32 {
    match state.stage {
        Stage::Progressing => target::sufficient_canary_pods(cx, state, target::share(cx, state)),
        Stage::FirstDeploy | Stage::Promoting => cx.plan.replicas,
        Stage::Aborted | Stage::Stable => 0,
    }
}

/// What the Services and routes hold, whatever the position waits for.
fn object_holds(cx: &Context<'_>, state: &State) -> Vec<Hold> {
    let mut holds: Vec<Hold> = cx.observed.refusal().cloned().into_iter().collect();
    holds.extend(cx.observed.contested().cloned());
    holds.extend(service_in_use(cx, state));
    holds.extend(workload::hold(cx, state));
    holds.extend(effective_guardrail_holds(cx, state));
    holds
}

/// Why a Service that other pods serve does not select its revision yet.
fn service_in_use(cx: &Context<'_>, state: &State) -> Option<Hold> {
    let routing = cx.plan.services()?;
    let mut services = cx.observed.services();
    if services.all(|service| service.other_ready == 0) {
        return None;
    }
    let target = target::target(cx, state);
    bindings::sides(cx, &target).into_iter().find_map(|side| {
        let needed = bindings::pods_before_first_binding(cx, &target, &side)?;
        let (name, revision) = (routing.service(side.side), side.revision);
        let others = side.service.other_ready;
        let message = format!(
            "Service {name} has {others} ready endpoints that are not pods of this Rollout, and \
             keeps them until {needed} pods of revision {revision} are available"
        );
        Some(Hold::new(HoldCode::ServiceInUse, message))
    })
}

/// Whether the canary should have traffic. A canary whose traffic was taken away by missing metrics
/// is held all the same.
pub(crate) fn has_planned_traffic(cx: &Context<'_>, state: &State) -> bool {
    !target::planned_share(cx, state).is_zero()
}

/// Waits until `required` is satisfied at the canary's share.
pub(crate) fn requirements_hold(
    cx: &Context<'_>,
    state: &State,
    required: &Requirements,
) -> Option<Hold> {
    let share = target::share(cx, state);
    let none = Requirements::default();
    let report = cx.observed.analysis.as_ref();
    let satisfied = report
        .and_then(|report| report.satisfied_at(share))
        .unwrap_or(&none);
    let unmet = required.unmet(satisfied)?;
    // Without traffic, other holds of the analysis are about nothing, but those of its checks are
    // the reason.
    let problem = report.and_then(|report| report.holds.first());
    if let Some(hold) = problem.filter(|_| share.is_zero()) {
        return Some(hold.clone());
    }
    let message = format!("waiting for {unmet}");
    Some(Hold::new(HoldCode::EvidenceInsufficient, message))
}

/// Waits until a time.
pub(crate) fn time_hold(cx: &Context<'_>, code: HoldCode, end: Timestamp) -> Option<Hold> {
    (!cx.reached(end)).then(|| Hold::new(code, format!("until {end}")).until(end))
}

/// Waits until the canary's share is observed to be `share`, with the pods for it.
pub(crate) fn traffic_hold(cx: &Context<'_>, state: &State, share: Weight) -> Option<Hold> {
    if cx.plan.splits_by_pods() {
        let is_reached = replica_ratio::is_reached(cx, &target::target(cx, state));
        let canary_service = cx.observed.canary_service.as_ref();
        let is_bound = share.is_zero()
            || canary_service.is_none_or(|service| service.selects == state.current_revision);
        let message = if is_reached {
            "waiting for the canary Service"
        } else {
            "waiting for pods"
        };
        let is_complete = is_reached && is_bound;
        return (!is_complete).then(|| Hold::new(HoldCode::PodsNotAvailable, message));
    }
    let pods = pods_hold(cx, state, target::sufficient_canary_pods(cx, state, share));
    let pods = pods.or_else(|| baseline::hold(cx, state));
    if pods.is_some() {
        return pods;
    }
    let current = state.current_revision.as_ref();
    if route_state::in_effect_for(cx, current) == Some(share) {
        return None;
    }
    Some(route_hold(cx))
}

/// Waits until the rules for chosen requests are in effect. With all of the traffic the canary needs
/// none.
pub(crate) fn managed_routes_hold(cx: &Context<'_>, state: &State) -> Option<Hold> {
    if target::share(cx, state) == Weight::FULL {
        return None;
    }
    let wanted = target::managed_routes(cx, state);
    let is_in_effect = route_state::managed_routes_are_in_effect(cx, &wanted);
    (!is_in_effect).then(|| route_hold(cx))
}

/// Waits until the routes are confirmed.
pub(crate) fn route_hold(cx: &Context<'_>) -> Hold {
    if let Some(contested) = cx.observed.contested() {
        return contested.clone();
    }
    Hold::new(HoldCode::RouteNotReady, route_state::describe_pending(cx))
}

/// Waits until `needed` pods of the current revision are available.
pub(crate) fn pods_hold(cx: &Context<'_>, state: &State, needed: u32) -> Option<Hold> {
    let current = state.current_revision.as_ref();
    let set = current.and_then(|revision| cx.observed.replica_sets.get(revision));
    let sufficient = cx.plan.canary().sufficient_pods(needed);
    if set.is_some_and(|set| set.available >= sufficient && set.desired >= needed) {
        return None;
    }
    let is_due = |problem: &&PodProblem| {
        let since = problem.since.map(|since| saturating_add(since, START_TIME));
        since.is_none_or(|at| cx.reached(at))
    };
    let problem = set.and_then(|set| set.problem.as_ref()).filter(is_due);
    let waiting = format!("waiting for {sufficient} available pods of the new revision");
    let Some(problem) = problem else {
        return Some(Hold::new(HoldCode::PodsNotAvailable, waiting));
    };
    let PodProblem {
        code,
        object,
        detail,
        ..
    } = problem;
    let message = format!("{waiting}: {object} {detail}. {}", code.fix());
    Some(Hold::new(*code, message.trim_end_matches('.')))
}

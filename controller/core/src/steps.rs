//! Steps. A step is complete when its effect has been observed, never because it was requested.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use crate::context::{Context, Transition};
use crate::hold::{Hold, HoldCode, HoldEnd};
use crate::holds::{self, Holds};
use crate::plan::{Pace, Plan, Requirements, Step};
use crate::state::{Pause, PauseReason, Stage, State, StepPosition};
use crate::units::{Weight, saturating_add};
use crate::{blue_green, promotion, route_state, target};

/// The current step as planned. `None` after the last one, and if the evidence sets the pace.
pub(crate) fn current<'a>(plan: &'a Plan, state: &State) -> Option<&'a Step> {
    plan.steps().get(state.step?.index)
}

/// Advances as far as the observation allows.
pub(crate) fn advance(cx: &Context<'_>, transition: &mut Transition) {
    match transition.state.stage {
        Stage::FirstDeploy => finish_first_deploy(cx, transition),
        Stage::Progressing => advance_steps(cx, transition),
        Stage::Promoting => promotion::advance(cx, transition),
        Stage::Aborted | Stage::Stable => {}
    }
}

/// Starts the step with this index.
pub(crate) fn begin_step(cx: &Context<'_>, transition: &mut Transition, index: usize) {
    transition.state.pause = None;
    transition.restart_deadline(cx.now);
    transition.state.step = Some(StepPosition {
        index,
        started_at: cx.now,
    });
}

/// What the current step waits for; `None` if its effect has been observed.
pub(crate) fn position_hold(cx: &Context<'_>, state: &State) -> Option<Hold> {
    if state.restarting {
        let is_without_traffic = cx.plan.splits_by_pods() || route_state::canary_is_unreachable(cx);
        return (!is_without_traffic).then(|| holds::route_hold(cx));
    }
    match (&cx.plan.canary().pace, state.step) {
        (Pace::Steps(steps), Some(step)) => {
            step_hold(cx, state, steps.get(step.index), step.started_at)
        }
        _ => evidence_hold(cx, state),
    }
}

fn step_hold(
    cx: &Context<'_>,
    state: &State,
    step: Option<&Step>,
    started_at: Timestamp,
) -> Option<Hold> {
    if matches!(step, None | Some(Step::Require(_)))
        && let Some(freeze) = blue_green::freeze_before_switch(cx, state)
    {
        return Some(freeze.clone());
    }
    let own = match step {
        Some(Step::SetWeight(weight)) => {
            holds::traffic_hold(cx, state, target::capped(state, *weight))
        }
        Some(Step::SetCanaryScale(_)) => holds::pods_hold(
            cx,
            state,
            target::canary_pods(cx, state, target::share(cx, state)),
        ),
        Some(Step::Pause(Some(duration))) => {
            let end = saturating_add(started_at, *duration);
            holds::time_hold(cx, HoldCode::StepPause, end)
        }
        Some(Step::Pause(None)) => Some(Hold::new(HoldCode::StepPause, "until promoted")),
        Some(Step::Analysis(duration)) => return analysis_hold(cx, started_at, *duration),
        Some(Step::Require(required)) => holds::requirements_hold(cx, state, required),
        Some(Step::Gate(gate)) => gate.hold(cx, started_at),
        Some(Step::SetManagedRoute(_)) => {
            let share = target::share(cx, state);
            holds::traffic_hold(cx, state, share).or_else(|| holds::managed_routes_hold(cx, state))
        }
        None => promote_hold(cx, state),
    };
    // Missing data never counts as success: no step completes by it, nor before traffic that was
    // taken away is given back, nor while nobody knows what the routes say.
    let unreadable = || {
        let problem = route_state::unreadable(cx)?;
        Some(Hold::new(HoldCode::RouteNotReady, problem))
    };
    let given_back = || {
        state.weights.cap?;
        holds::traffic_hold(cx, state, target::share(cx, state))
    };
    own.or_else(|| metrics_hold(cx, state))
        .or_else(unreadable)
        .or_else(given_back)
}

/// All steps are complete. Evidence of young pods alone, under a high tolerance, does not suffice to
/// promote, and every check must have succeeded at this weight.
fn promote_hold(cx: &Context<'_>, state: &State) -> Option<Hold> {
    let analysis = cx.plan.canary().analysis.as_ref()?;
    let checks = Requirements {
        checks: analysis.checks.clone(),
        ..Requirements::default()
    };
    holds::requirements_hold(cx, state, &checks).or_else(|| {
        let report = cx.observed.fresh_analysis()?;
        let fresh_since = report.fresh_since?;
        if target::share(cx, state).is_zero() {
            return None;
        }
        let end = saturating_add(fresh_since, analysis.warm_up);
        holds::time_hold(cx, HoldCode::WarmUp, end)
    })
}

fn metrics_hold(cx: &Context<'_>, state: &State) -> Option<Hold> {
    let hold = cx.observed.analysis_hold().cloned();
    hold.filter(|_| holds::has_planned_traffic(cx, state))
}

/// An analysis step: fresh data for a duration, or sufficient evidence.
fn analysis_hold(
    cx: &Context<'_>,
    started_at: Timestamp,
    duration: Option<Duration>,
) -> Option<Hold> {
    let fresh = cx.observed.fresh_analysis();
    match (fresh, duration) {
        (Some(report), Some(duration)) => {
            let fresh_since = report.fresh_since.unwrap_or(cx.now);
            let end = saturating_add(started_at.max(fresh_since), duration);
            holds::time_hold(cx, HoldCode::AnalysisRunning, end)
        }
        (Some(report), None) if report.ready_to_promote => None,
        _ => Some(insufficient_evidence(cx)),
    }
}

/// The evidence sets the pace: once the desired weight is in effect, the evidence decides what comes
/// next.
fn evidence_hold(cx: &Context<'_>, state: &State) -> Option<Hold> {
    if let Some(checks) = checks_before_traffic(cx.plan, state) {
        return before_traffic_hold(cx, state, checks);
    }
    let traffic = holds::traffic_hold(cx, state, state.weights.desired);
    if traffic.is_some() {
        return traffic;
    }
    let fresh = cx.observed.fresh_analysis();
    if fresh.is_some_and(|report| report.ready_to_promote) || permitted_raise(cx, state).is_some() {
        return None;
    }
    Some(insufficient_evidence(cx))
}

/// The checks that must have succeeded before the first traffic, if the evidence sets the pace and
/// the release has had none. The first weight is then reached as any other one, from index 0 on.
pub(crate) fn checks_before_traffic<'a>(
    plan: &'a Plan,
    state: &State,
) -> Option<&'a BTreeSet<String>> {
    let checks = &plan.canary().analysis.as_ref()?.checks_before_traffic;
    let is_first = state.step.is_some_and(|step| step.index == 0);
    let is_awaited = state.stage == Stage::Progressing
        && is_first
        && matches!(plan.canary().pace, Pace::Evidence(_))
        && !checks.is_empty();
    is_awaited.then_some(checks)
}

fn before_traffic_hold(cx: &Context<'_>, state: &State, checks: &BTreeSet<String>) -> Option<Hold> {
    let required = Requirements {
        checks: checks.clone(),
        ..Requirements::default()
    };
    holds::traffic_hold(cx, state, Weight::ZERO)
        .or_else(|| holds::requirements_hold(cx, state, &required))
}

/// The checks that the current position waits for, and since when. They are checks of the phases
/// `step` and `beforeTraffic`, among others. `None` if it waits for none.
pub fn awaited_checks<'a>(
    plan: &'a Plan,
    state: &State,
) -> Option<(&'a BTreeSet<String>, Timestamp)> {
    let position = state.step.filter(|_| state.stage == Stage::Progressing)?;
    let checks = match current(plan, state) {
        Some(Step::Require(required)) => Some(&required.checks),
        Some(_) => None,
        None => checks_before_traffic(plan, state),
    };
    let checks = checks.filter(|checks| !checks.is_empty())?;
    Some((checks, position.started_at))
}

/// The higher weight that the evidence permits, if the evidence sets the pace.
fn permitted_raise(cx: &Context<'_>, state: &State) -> Option<Weight> {
    let Pace::Evidence(pace) = &cx.plan.canary().pace else {
        return None;
    };
    if state.restarting {
        return None;
    }
    if let Some(checks) = checks_before_traffic(cx.plan, state) {
        let is_ready = before_traffic_hold(cx, state, checks).is_none();
        return is_ready.then_some(pace.first_weight);
    }
    let report = cx.observed.fresh_analysis()?;
    let next = report
        .next_weight
        .filter(|next| *next > state.weights.desired);
    next.filter(|_| !report.ready_to_promote)
}

fn insufficient_evidence(cx: &Context<'_>) -> Hold {
    match &cx.observed.analysis {
        None => Hold::new(HoldCode::EvidenceInsufficient, "no analysis is configured"),
        Some(report) => {
            report.holds.first().cloned().unwrap_or_else(|| {
                Hold::new(HoldCode::EvidenceInsufficient, report.message.clone())
            })
        }
    }
}

fn finish_first_deploy(cx: &Context<'_>, transition: &mut Transition) {
    let Some(revision) = transition.state.current_revision.clone() else {
        return;
    };
    if holds::position_hold(cx, &transition.state).is_none() {
        transition.normal(
            "FirstDeployed",
            format!("revision {revision} is available and stable"),
        );
        transition.become_stable(cx.now, "first deploy");
    }
}

fn advance_steps(cx: &Context<'_>, transition: &mut Transition) {
    // Bounded: every turn but the last completes a step or a restart of the steps.
    for _ in 0..=cx.plan.steps().len() + 1 {
        if transition.state.stage != Stage::Progressing {
            return;
        }
        let holds = Holds::collect(cx, &transition.state);
        if holds.is_stopped_from_outside() {
            return;
        }
        match holds.position() {
            Some(hold) if hold.code == HoldCode::ScaledToZero => return,
            Some(hold) => return record_pause(cx, transition, hold),
            None if transition.state.restarting => transition.state.restarting = false,
            None => match permitted_raise(cx, &transition.state) {
                Some(weight) => return raise_weight(cx, transition, weight),
                None => leave_step(cx, transition),
            },
        }
    }
}

fn raise_weight(cx: &Context<'_>, transition: &mut Transition, weight: Weight) {
    transition.normal("WeightRaised", format!("the evidence permits {weight}"));
    transition.state.weights.desired = weight;
    transition.restart_deadline(cx.now);
    let next = |step: StepPosition| StepPosition {
        index: step.index + 1,
        ..step
    };
    transition.state.step = transition.state.step.map(next);
}

fn leave_step(cx: &Context<'_>, transition: &mut Transition) {
    let steps = cx.plan.steps();
    let index = transition.state.step.map_or(steps.len(), |step| step.index);
    match steps.get(index) {
        Some(step) => {
            let (number, total) = (index + 1, steps.len());
            transition.detail(
                "StepCompleted",
                format!("step {number} of {total} is complete: {}", describe(step)),
            );
            begin_step(cx, transition, index + 1);
        }
        None => transition.enter_stage(Stage::Promoting, cx.now),
    }
}

/// A step as the API writes it.
pub(crate) fn describe(step: &Step) -> String {
    match step {
        Step::SetWeight(weight) => format!("setWeight {}", weight.as_percent()),
        Step::Pause(None) => "pause".to_owned(),
        Step::Pause(Some(duration)) => format!("pause {} s", duration.as_secs_f64()),
        Step::SetCanaryScale(_) => "setCanaryScale".to_owned(),
        Step::Analysis(_) | Step::Require(_) => "analysis".to_owned(),
        Step::Gate(_) => "gate".to_owned(),
        Step::SetManagedRoute(route) => {
            let (step, name) = (route.action.step_name(), &route.name);
            let removes = if route.is_removal() { " (removed)" } else { "" };
            format!("{step} {name}{removes}")
        }
    }
}

/// Records what a person has to know: that a pause step holds the release, or that the analysis
/// reached its maximum duration.
fn record_pause(cx: &Context<'_>, transition: &mut Transition, hold: &Hold) {
    let started_at = transition.state.step.map_or(cx.now, |step| step.started_at);
    let step_pause = |until| Pause {
        reason: PauseReason::Step,
        since: started_at,
        until,
    };
    transition.state.pause = match &hold.ends {
        HoldEnd::Time { at } if hold.code == HoldCode::StepPause => Some(step_pause(Some(*at))),
        _ if matches!(
            hold.code,
            HoldCode::StepPause | HoldCode::ApprovalPending | HoldCode::GateExpired
        ) =>
        {
            Some(step_pause(None))
        }
        _ if hold.is_bounded_by_max_duration() && max_duration_is_over(cx, started_at) => {
            let message = format!("undecided for the maximum duration: {}", hold.message);
            transition.warning("Inconclusive", message);
            Some(Pause {
                reason: PauseReason::Inconclusive,
                since: cx.now,
                until: None,
            })
        }
        _ => None,
    };
}

fn max_duration_is_over(cx: &Context<'_>, started_at: Timestamp) -> bool {
    let analysis = cx.plan.canary().analysis.as_ref();
    analysis.is_some_and(|analysis| cx.reached(saturating_add(started_at, analysis.max_duration)))
}

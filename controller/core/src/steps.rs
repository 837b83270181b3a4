//! Advancing: a step is complete when its effect has been observed, never because it was requested.

use std::time::Duration;

use jiff::Timestamp;

use crate::blockers::Wait;
use crate::context::{Context, Transition};
use crate::observed::AnalysisReport;
use crate::plan::{Pace, Plan, Requirements, Step};
use crate::state::{Pause, PauseReason, Stage, State, StepPosition};
use crate::units::{Weight, saturating_add};
use crate::{blockers, promotion, route_state, target};

/// The step at hand as planned; none past the last, and where evidence sets the pace.
pub(crate) fn current<'a>(plan: &'a Plan, state: &State) -> Option<&'a Step> {
    plan.steps().get(state.step?.index)
}

/// Advances as far as what was observed allows.
pub(crate) fn advance(cx: &Context<'_>, transition: &mut Transition) {
    match transition.state.stage {
        Stage::FirstDeploy => first_deploy(cx, transition),
        Stage::Progressing => step_on(cx, transition),
        Stage::Promoting => promotion::advance(cx, transition),
        Stage::Aborted | Stage::Stable => {}
    }
}

/// Starts the step with this index now.
pub(crate) fn begin_step(cx: &Context<'_>, transition: &mut Transition, index: usize) {
    transition.state.pause = None;
    transition.start_waiting(cx.now);
    transition.state.step = Some(StepPosition {
        index,
        started_at: cx.now,
    });
}

/// What the release waits for.
pub(crate) fn wait(cx: &Context<'_>, state: &State) -> Wait {
    match state.stage {
        Stage::Progressing if cx.plan.replicas == 0 => Wait::Replicas,
        Stage::Progressing if state.restarting => match route_state::in_effect(cx) {
            Some(Weight::ZERO) => Wait::Done,
            _ if cx.plan.routing().is_none() => Wait::Done,
            _ => Wait::Progress(route_state::waiting_for(cx)),
        },
        Stage::Progressing => match (&cx.plan.canary().pace, state.step) {
            (Pace::Steps(steps), Some(step)) => {
                of_step(cx, state, steps.get(step.index), step.started_at)
            }
            _ => by_evidence(cx, state),
        },
        Stage::Promoting => promotion::wait(cx, state),
        Stage::FirstDeploy => blockers::available(cx, state, cx.plan.replicas),
        Stage::Aborted | Stage::Stable => Wait::Done,
    }
}

fn of_step(cx: &Context<'_>, state: &State, step: Option<&Step>, started_at: Timestamp) -> Wait {
    let own = match step {
        Some(Step::SetWeight(weight)) => blockers::shifted(cx, state, target::cut(state, *weight)),
        Some(Step::SetCanaryScale(_)) => blockers::available(
            cx,
            state,
            target::canary_pods(cx, state, target::share(cx, state)),
        ),
        Some(Step::Pause(Some(duration))) => {
            blockers::until(cx, saturating_add(started_at, *duration))
        }
        Some(Step::Pause(None)) => Wait::Person,
        Some(Step::Analysis(duration)) => return analysed(cx, started_at, *duration),
        Some(Step::Require(questions)) => blockers::answered(cx, state, questions),
        None => ready_to_promote(cx, state),
    };
    // Missing data is never a success: no step ends in its favour, nor before what it took away is
    // given back. Nor does one end while nobody knows what the routes say.
    match (
        own,
        held(cx, state).or_else(|| route_state::unreadable(cx).map(Wait::Progress)),
    ) {
        (Wait::Done, Some(hold)) => hold,
        (Wait::Done, None) if state.weights.cap.is_some() => {
            blockers::shifted(cx, state, target::share(cx, state))
        }
        (own, _) => own,
    }
}

/// All steps are complete: what was seen of young pods alone, under a high tolerance, does not
/// suffice to promote, and every check must have succeeded at this weight.
fn ready_to_promote(cx: &Context<'_>, state: &State) -> Wait {
    let Some(analysis) = cx.plan.canary().analysis.as_ref() else {
        return Wait::Done;
    };
    let checks = Requirements {
        checks: analysis.checks.clone(),
        ..Requirements::default()
    };
    if let open @ Wait::Evidence(_) = blockers::answered(cx, state, &checks) {
        return open;
    }
    match &cx.observed.analysis {
        AnalysisReport::Undecided { fresh_since, .. }
        | AnalysisReport::Sound { fresh_since, .. }
            if !target::share(cx, state).is_zero() =>
        {
            blockers::until(cx, saturating_add(*fresh_since, analysis.warm_up))
        }
        _ => Wait::Done,
    }
}

fn held(cx: &Context<'_>, state: &State) -> Option<Wait> {
    // A canary whose traffic was taken from it is held all the same.
    let judged = !target::planned(cx, state).is_zero();
    match &cx.observed.analysis {
        AnalysisReport::Hold { message, .. } | AnalysisReport::Frozen { message, .. } if judged => {
            Some(Wait::Evidence(message.clone()))
        }
        _ => None,
    }
}

fn analysed(cx: &Context<'_>, started_at: Timestamp, duration: Option<Duration>) -> Wait {
    match (&cx.observed.analysis, duration) {
        (
            AnalysisReport::Sound { fresh_since, .. }
            | AnalysisReport::Undecided { fresh_since, .. },
            Some(duration),
        ) => blockers::until(cx, saturating_add(started_at.max(*fresh_since), duration)),
        (AnalysisReport::Sound { .. }, None) => Wait::Done,
        (
            AnalysisReport::Undecided { message, .. }
            | AnalysisReport::Hold { message, .. }
            | AnalysisReport::Frozen { message, .. }
            | AnalysisReport::RollBack { message, .. },
            _,
        ) => Wait::Evidence(message.clone()),
        (AnalysisReport::NotConfigured, _) => {
            Wait::Evidence("no analysis is configured".to_owned())
        }
    }
}

/// Where evidence sets the pace: the weight asked for is in effect, and then the evidence says what
/// comes next.
fn by_evidence(cx: &Context<'_>, state: &State) -> Wait {
    let asked = state.weights.desired;
    match blockers::shifted(cx, state, asked) {
        Wait::Done => {}
        missing => return missing,
    }
    match &cx.observed.analysis {
        AnalysisReport::Sound { .. } => Wait::Done,
        AnalysisReport::Undecided {
            next_weight: Some(next),
            ..
        } if *next > asked => Wait::Raise(*next),
        AnalysisReport::Undecided { message, .. }
        | AnalysisReport::Hold { message, .. }
        | AnalysisReport::Frozen { message, .. }
        | AnalysisReport::RollBack { message, .. } => Wait::Evidence(message.clone()),
        AnalysisReport::NotConfigured => Wait::Evidence("no analysis is configured".to_owned()),
    }
}

fn first_deploy(cx: &Context<'_>, transition: &mut Transition) {
    let Some(revision) = transition.state.current_revision.clone() else {
        return;
    };
    if wait(cx, &transition.state) == Wait::Done {
        transition.normal(
            "FirstDeployed",
            format!("revision {revision} is available and stable"),
        );
        transition.become_stable(cx.now, "first deploy");
    }
}

fn step_on(cx: &Context<'_>, transition: &mut Transition) {
    // Bounded: every turn but the last completes a step, or ends a restart.
    for _ in 0..=cx.plan.steps().len() + 1 {
        if transition.state.stage != Stage::Progressing
            || cx.observed.spec_problem.is_some()
            || blockers::is_held_by_person(cx, &transition.state)
        {
            return;
        }
        match wait(cx, &transition.state) {
            Wait::Done if transition.state.restarting => transition.state.restarting = false,
            // Whatever holds the release goes on to hold it.
            Wait::Replicas => return,
            Wait::Done => leave_step(cx, transition),
            Wait::Raise(weight) => {
                let next = transition.state.step.map_or(0, |step| step.index + 1);
                transition.normal("WeightRaised", format!("the evidence permits {weight}"));
                transition.state.weights.desired = weight;
                transition.start_waiting(cx.now);
                transition.state.step = transition.state.step.map(|step| StepPosition {
                    index: next,
                    ..step
                });
                return;
            }
            waiting => return note_pause(cx, transition, &waiting),
        }
    }
}

fn leave_step(cx: &Context<'_>, transition: &mut Transition) {
    let steps = cx.plan.steps();
    let index = transition.state.step.map_or(steps.len(), |step| step.index);
    match steps.get(index) {
        Some(step) => {
            let (number, total) = (index + 1, steps.len());
            transition.detail(
                "StepCompleted",
                format!("step {number} of {total} is complete: {}", name(step)),
            );
            begin_step(cx, transition, index + 1);
        }
        None => transition.enter_stage(Stage::Promoting, cx.now),
    }
}

/// A step in the words of the API.
pub(crate) fn name(step: &Step) -> String {
    match step {
        Step::SetWeight(weight) => format!("setWeight {}", weight.as_percent()),
        Step::Pause(None) => "pause".to_owned(),
        Step::Pause(Some(duration)) => format!("pause {} s", duration.as_secs_f64()),
        Step::SetCanaryScale(_) => "setCanaryScale".to_owned(),
        Step::Analysis(_) | Step::Require(_) => "analysis".to_owned(),
    }
}

/// Notes what a person would have to know: that a pause holds it, or that the analysis came to no
/// end.
fn note_pause(cx: &Context<'_>, transition: &mut Transition, waiting: &Wait) {
    let started_at = transition.state.step.map_or(cx.now, |step| step.started_at);
    let pause = |until| Pause {
        reason: PauseReason::Step,
        since: started_at,
        until,
    };
    transition.state.pause = match waiting {
        Wait::Until(at) if matches!(current(cx.plan, &transition.state), Some(Step::Pause(_))) => {
            Some(pause(Some(*at)))
        }
        Wait::Person => Some(pause(None)),
        Wait::Evidence(message) if longest_passed(cx, started_at) => {
            transition.warning(
                "Inconclusive",
                format!("undecided for the longest duration: {message}"),
            );
            Some(Pause {
                reason: PauseReason::Inconclusive,
                since: cx.now,
                until: None,
            })
        }
        _ => None,
    };
}

fn longest_passed(cx: &Context<'_>, started_at: Timestamp) -> bool {
    let analysis = cx.plan.canary().analysis.as_ref();
    analysis.is_some_and(|analysis| saturating_add(started_at, analysis.max_duration) <= cx.now)
}

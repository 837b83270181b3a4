//! Advancing: a step is complete when its effect has been observed, never because it was requested.

use std::time::Duration;

use jiff::Timestamp;

use crate::draft::{Draft, Look};
use crate::observed::Judgement;
use crate::plan::{Pace, Plan, Questions, Step};
use crate::state::{Pause, PauseReason, Stage, State, StepPosition};
use crate::units::{Weight, after};
use crate::waiting::Wait;
use crate::{goal, promotion, router, waiting};

/// The step at hand as planned; none past the last, and where evidence sets the pace.
pub(crate) fn current<'a>(plan: &'a Plan, state: &State) -> Option<&'a Step> {
    plan.steps().get(state.step?.index)
}

/// Advances as far as what was observed allows.
pub(crate) fn advance(look: &Look<'_>, draft: &mut Draft) {
    match draft.state.stage {
        Stage::FirstDeploy => first_deploy(look, draft),
        Stage::Stepping => step_on(look, draft),
        Stage::Promoting => promotion::advance(look, draft),
        Stage::Aborted | Stage::Stable => {}
    }
}

/// Starts the step with this index now.
pub(crate) fn begin_step(look: &Look<'_>, draft: &mut Draft, index: usize) {
    draft.state.pause = None;
    draft.start_waiting(look.now);
    draft.state.step = Some(StepPosition {
        index,
        started_at: look.now,
    });
}

/// What the release waits for.
pub(crate) fn wait(look: &Look<'_>, state: &State) -> Wait {
    match state.stage {
        Stage::Stepping if look.plan.replicas == 0 => Wait::Replicas,
        Stage::Stepping if state.restarting => match router::in_effect(look) {
            Some(Weight::ZERO) => Wait::Done,
            _ if look.plan.routing().is_none() => Wait::Done,
            _ => Wait::Progress(router::waiting_for(look)),
        },
        Stage::Stepping => match (&look.plan.canary().pace, state.step) {
            (Pace::Steps(steps), Some(step)) => {
                of_step(look, state, steps.get(step.index), step.started_at)
            }
            _ => by_evidence(look, state),
        },
        Stage::Promoting => promotion::wait(look, state),
        Stage::FirstDeploy => waiting::available(look, state, look.plan.replicas),
        Stage::Aborted | Stage::Stable => Wait::Done,
    }
}

fn of_step(look: &Look<'_>, state: &State, step: Option<&Step>, started_at: Timestamp) -> Wait {
    let own = match step {
        Some(Step::SetWeight(weight)) => waiting::shifted(look, state, goal::cut(state, *weight)),
        Some(Step::SetCanaryScale(_)) => waiting::available(
            look,
            state,
            goal::canary_pods(look, state, goal::share(look, state)),
        ),
        Some(Step::Pause(Some(duration))) => waiting::until(look, after(started_at, *duration)),
        Some(Step::Pause(None)) => Wait::Person,
        Some(Step::Analysis(duration)) => return analysed(look, started_at, *duration),
        Some(Step::Prove(questions)) => waiting::answered(look, state, questions),
        None => ready_to_promote(look, state),
    };
    // Missing data is never a success: no step ends in its favour, nor before what it took away is
    // given back. Nor does one end while nobody knows what the routes say.
    match (
        own,
        held(look, state).or_else(|| router::unreadable(look).map(Wait::Progress)),
    ) {
        (Wait::Done, Some(hold)) => hold,
        (Wait::Done, None) if state.weights.cap.is_some() => {
            waiting::shifted(look, state, goal::share(look, state))
        }
        (own, _) => own,
    }
}

/// All steps are complete: what was seen of young pods alone, under a high tolerance, does not
/// suffice to promote, and every check must have succeeded at this weight.
fn ready_to_promote(look: &Look<'_>, state: &State) -> Wait {
    let Some(analysis) = look.plan.canary().analysis.as_ref() else {
        return Wait::Done;
    };
    let checks = Questions {
        checks: analysis.checks.clone(),
        ..Questions::default()
    };
    if let open @ Wait::Evidence(_) = waiting::answered(look, state, &checks) {
        return open;
    }
    match &look.seen.judgement {
        Judgement::Undecided { fresh_since, .. } | Judgement::Sound { fresh_since, .. }
            if !goal::share(look, state).is_zero() =>
        {
            waiting::until(look, after(*fresh_since, analysis.warm_up))
        }
        _ => Wait::Done,
    }
}

fn held(look: &Look<'_>, state: &State) -> Option<Wait> {
    // A canary whose traffic was taken from it is held all the same.
    let judged = !goal::planned(look, state).is_zero();
    match &look.seen.judgement {
        Judgement::Hold { message, .. } | Judgement::Frozen { message, .. } if judged => {
            Some(Wait::Evidence(message.clone()))
        }
        _ => None,
    }
}

fn analysed(look: &Look<'_>, started_at: Timestamp, duration: Option<Duration>) -> Wait {
    match (&look.seen.judgement, duration) {
        (
            Judgement::Sound { fresh_since, .. } | Judgement::Undecided { fresh_since, .. },
            Some(duration),
        ) => waiting::until(look, after(started_at.max(*fresh_since), duration)),
        (Judgement::Sound { .. }, None) => Wait::Done,
        (
            Judgement::Undecided { message, .. }
            | Judgement::Hold { message, .. }
            | Judgement::Frozen { message, .. }
            | Judgement::RollBack { message, .. },
            _,
        ) => Wait::Evidence(message.clone()),
        (Judgement::NotConfigured, _) => Wait::Evidence("no analysis is configured".to_owned()),
    }
}

/// Where evidence sets the pace: the weight asked for is in effect, and then the evidence says what
/// comes next.
fn by_evidence(look: &Look<'_>, state: &State) -> Wait {
    let asked = state.weights.asked;
    match waiting::shifted(look, state, asked) {
        Wait::Done => {}
        missing => return missing,
    }
    match &look.seen.judgement {
        Judgement::Sound { .. } => Wait::Done,
        Judgement::Undecided {
            next_weight: Some(next),
            ..
        } if *next > asked => Wait::Raise(*next),
        Judgement::Undecided { message, .. }
        | Judgement::Hold { message, .. }
        | Judgement::Frozen { message, .. }
        | Judgement::RollBack { message, .. } => Wait::Evidence(message.clone()),
        Judgement::NotConfigured => Wait::Evidence("no analysis is configured".to_owned()),
    }
}

fn first_deploy(look: &Look<'_>, draft: &mut Draft) {
    let Some(revision) = draft.state.current_revision.clone() else {
        return;
    };
    if wait(look, &draft.state) == Wait::Done {
        draft.normal(
            "FirstDeployed",
            format!("revision {revision} is available and stable"),
        );
        draft.become_stable(look.now, "first deploy");
    }
}

fn step_on(look: &Look<'_>, draft: &mut Draft) {
    // Bounded: every turn but the last completes a step, or ends a restart.
    for _ in 0..=look.plan.steps().len() + 1 {
        if draft.state.stage != Stage::Stepping
            || look.seen.spec_problem.is_some()
            || waiting::is_held_by_person(look, &draft.state)
        {
            return;
        }
        match wait(look, &draft.state) {
            Wait::Done if draft.state.restarting => draft.state.restarting = false,
            // Whatever holds the release goes on to hold it.
            Wait::Replicas => return,
            Wait::Done => leave_step(look, draft),
            Wait::Raise(weight) => {
                let next = draft.state.step.map_or(0, |step| step.index + 1);
                draft.normal("WeightRaised", format!("the evidence permits {weight}"));
                draft.state.weights.asked = weight;
                draft.start_waiting(look.now);
                draft.state.step = draft.state.step.map(|step| StepPosition {
                    index: next,
                    ..step
                });
                return;
            }
            waiting => return note_pause(look, draft, &waiting),
        }
    }
}

fn leave_step(look: &Look<'_>, draft: &mut Draft) {
    let steps = look.plan.steps();
    let index = draft.state.step.map_or(steps.len(), |step| step.index);
    match steps.get(index) {
        Some(step) => {
            let (number, total) = (index + 1, steps.len());
            draft.detail(
                "StepCompleted",
                format!("step {number} of {total} is complete: {}", name(step)),
            );
            begin_step(look, draft, index + 1);
        }
        None => draft.enter(Stage::Promoting, look.now),
    }
}

/// A step in the words of the API.
pub(crate) fn name(step: &Step) -> String {
    match step {
        Step::SetWeight(weight) => format!("setWeight {}", weight.as_percent()),
        Step::Pause(None) => "pause".to_owned(),
        Step::Pause(Some(duration)) => format!("pause {} s", duration.as_secs_f64()),
        Step::SetCanaryScale(_) => "setCanaryScale".to_owned(),
        Step::Analysis(_) | Step::Prove(_) => "analysis".to_owned(),
    }
}

/// Notes what a person would have to know: that a pause holds it, or that the analysis came to no
/// end.
fn note_pause(look: &Look<'_>, draft: &mut Draft, waiting: &Wait) {
    let started_at = draft.state.step.map_or(look.now, |step| step.started_at);
    let pause = |until| Pause {
        reason: PauseReason::Step,
        since: started_at,
        until,
    };
    draft.state.pause = match waiting {
        Wait::Until(at) if matches!(current(look.plan, &draft.state), Some(Step::Pause(_))) => {
            Some(pause(Some(*at)))
        }
        Wait::Person => Some(pause(None)),
        Wait::Evidence(message) if longest_passed(look, started_at) => {
            draft.warning(
                "Inconclusive",
                format!("undecided for the longest duration: {message}"),
            );
            Some(Pause {
                reason: PauseReason::Inconclusive,
                since: look.now,
                until: None,
            })
        }
        _ => None,
    };
}

fn longest_passed(look: &Look<'_>, started_at: Timestamp) -> bool {
    let analysis = look.plan.canary().analysis.as_ref();
    analysis.is_some_and(|analysis| after(started_at, analysis.longest) <= look.now)
}

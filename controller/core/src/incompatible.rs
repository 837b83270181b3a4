//! Decisions on a state that another version of the controller wrote.
//!
//! Nothing is changed that cannot be understood. Only an abort works: it takes all traffic to
//! stable, and afterwards the state is one of this version.

use crate::command::{Command, CommandOutcome, Verb};
use crate::commands;
use crate::context::{Context, Transition};
use crate::converge::{converge, replicas, traffic};
use crate::decide::complete;
use crate::effect::{Decision, Effect};
use crate::invariants::{self, InvariantViolation};
use crate::state::{SCHEMA_VERSION, Stage};
use crate::{status_message, target};

/// Decides on a state that cannot be understood completely.
pub(crate) fn decide(
    cx: &Context<'_>,
    mut transition: Transition,
    problem: &str,
) -> Result<Decision, InvariantViolation> {
    let mut outcomes = Vec::new();
    let mut is_aborted = false;
    for command in commands::select(&cx.observed.commands, &transition.state.commands) {
        let outcome = handle(cx, &mut transition, command, problem);
        is_aborted |= transition.state.stage == Stage::Aborted && command.verb == Verb::Abort;
        outcomes.push((command, outcome));
    }
    let mut effects = Vec::new();
    if is_aborted {
        transition.state.schema_version = SCHEMA_VERSION;
        effects = return_to_stable(cx, &mut transition)?;
    } else {
        transition.state = cx.observed.state.clone();
    }
    Ok(complete(cx, transition, effects, outcomes))
}

/// Takes the traffic of an aborted release back to stable. Returns the effects.
pub(crate) fn return_to_stable(
    cx: &Context<'_>,
    transition: &mut Transition,
) -> Result<Vec<Effect>, InvariantViolation> {
    let target = target::target(cx, &transition.state);
    traffic::record(cx, transition, &target);
    replicas::record_draining(cx, transition, &target);
    status_message::update(cx, transition);
    let effects = converge(cx, &transition.state, &target);
    invariants::check(cx, &transition.state, &effects)?;
    Ok(effects)
}

fn handle(
    cx: &Context<'_>,
    transition: &mut Transition,
    command: &Command,
    problem: &str,
) -> CommandOutcome {
    if let Some(refusal) = commands::refusal(cx, transition, command) {
        return refusal;
    }
    let state = &transition.state;
    let (stable, current) = (&state.stable_revision, &state.current_revision);
    match (command.verb, stable, current) {
        (Verb::Abort, Some(stable), Some(current)) if stable != current => {
            // The stage may be unknown, so whatever it was ends here.
            transition.state.stage = Stage::Progressing;
            commands::abort_release(cx, transition, command)
        }
        (Verb::Abort, _, _) => CommandOutcome::done("no release is under way: nothing to abort"),
        _ => CommandOutcome::refused(format!(
            "the status was written by an incompatible version of the controller, so only abort \
             works: {problem}"
        )),
    }
}

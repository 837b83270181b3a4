//! Decisions on a quarantined Rollout: a reconcile of it panicked or ended the process.
//!
//! Nothing advances, because nobody knows what failed. Only an abort is carried out, and an aborted
//! release returns to stable.

use crate::commands;
use crate::context::{Context, Transition};
use crate::decide::complete;
use crate::effect::Decision;
use crate::incompatible::return_to_stable;
use crate::invariants::InvariantViolation;
use crate::state::Stage;

/// Decides on a quarantined Rollout.
pub(crate) fn decide(
    cx: &Context<'_>,
    mut transition: Transition,
) -> Result<Decision, InvariantViolation> {
    let outcomes = commands::handle_aborts(cx, &mut transition);
    let effects = if transition.state.stage == Stage::Aborted {
        return_to_stable(cx, &mut transition)?
    } else {
        Vec::new()
    };
    Ok(complete(cx, transition, effects, outcomes))
}

//! Rollouts on which nothing can be decided: each is told so, and holds up nobody else.

use kube::runtime::controller::Action;
use serin_core::command::CommandOutcome;
use serin_core::effect::{Level, Reason};
use serin_crds::RolloutStatus;

use super::writing::{may_write, replace_status};
use super::{Context, Failure};
use crate::effects;
use crate::memory::Memory;
use crate::status::{Urgency, of_unreadable, quarantined, urgency};
use crate::world::RolloutObject;

/// The spec cannot be used, and no plan is in force: nothing has ever been made, and nothing is.
pub(super) async fn no_plan(
    context: &Context,
    rollout: &RolloutObject,
    status: &RolloutStatus,
    problem: String,
    memory: &mut Memory,
) -> Result<Action, Failure> {
    let mut next = status.clone();
    next.observed_generation = Some(rollout.generation());
    next.phase = Some("Degraded".to_owned());
    next.message = Some(format!("the spec cannot be used: {problem}"));
    next.conditions = of_unreadable(
        &problem,
        &status.conditions,
        rollout.generation(),
        context.clock.now(),
    );
    if *status != next {
        replace_status(context, rollout, &next, memory).await?;
        let because = [Reason {
            code: "InvalidSpec",
            message: problem.clone(),
            level: Level::Warning,
        }];
        let position = format!("generation {}", rollout.generation());
        context
            .events
            .tell(rollout, &because, &position, true, &mut memory.told)
            .await;
    }
    refuse_commands(context, rollout, &problem).await?;
    Ok(Action::await_change())
}

/// Nothing waits for ever without an answer, and without a plan there is nothing to promote or
/// abort.
async fn refuse_commands(
    context: &Context,
    rollout: &RolloutObject,
    problem: &str,
) -> Result<(), Failure> {
    let waiting = context
        .world
        .commands
        .of_rollout(&rollout.key())
        .into_iter()
        .filter(|command| command.finished_at.is_none());
    for command in waiting {
        let outcome = CommandOutcome::refused(format!(
            "nothing is deployed yet, and the spec cannot be used: {problem}"
        ));
        may_write(context, "RolloutCommand", "patch")?;
        effects::command::finish(
            &context.client,
            &context.world,
            &command,
            &outcome,
            context.clock.now(),
        )
        .await?;
    }
    Ok(())
}

/// The position cannot be read, so nothing may be inferred: it is told by an Event, and nothing is
/// touched.
pub(super) async fn unreadable_status(
    context: &Context,
    rollout: &RolloutObject,
    problem: &str,
    memory: &mut Memory,
) -> Result<Action, Failure> {
    tracing::error!(%problem, "the position in the status cannot be read: nothing is touched");
    let message =
        format!("the position in the status cannot be read, so nothing is touched: {problem}");
    let because = [Reason {
        code: "StatusUnreadable",
        message,
        level: Level::Warning,
    }];
    context
        .events
        .tell(rollout, &because, "status", false, &mut memory.told)
        .await;
    Ok(Action::await_change())
}

/// Tells in the status that the Rollout is set aside.
pub(super) async fn tell_quarantine(
    context: &Context,
    rollout: &RolloutObject,
    problem: &str,
    memory: &mut Memory,
) -> Result<(), Failure> {
    let Ok(status) = &rollout.status else {
        return Ok(());
    };
    let mut next = (**status).clone();
    next.conditions = quarantined(
        problem,
        &status.conditions,
        rollout.generation(),
        context.clock.now(),
    );
    if urgency(status, &next) != Urgency::Now {
        return Ok(());
    }
    replace_status(context, rollout, &next, memory).await?;
    let because = [Reason {
        code: "Quarantined",
        message: problem.to_owned(),
        level: Level::Warning,
    }];
    context
        .events
        .tell(rollout, &because, "quarantine", true, &mut memory.told)
        .await;
    Ok(())
}

//! Handles Rollouts for which no decision is possible. The problem is reported on the Rollout, and
//! other Rollouts are not affected.

use kube::runtime::controller::Action;
use serin_core::command::CommandOutcome;
use serin_core::effect::{Level, Reason};
use serin_crds::RolloutStatus;

use super::api_writer::{authorize_write, replace_status};
use super::{Context, ReconcileError};
use crate::cluster_cache::RolloutObject;
use crate::effects;
use crate::local_state::LocalState;
use crate::status::{Urgency, invalid_spec_conditions, quarantine_conditions, urgency};

/// Reports an invalid spec if no plan is active. Nothing has been deployed yet, and nothing is.
pub(super) async fn report_invalid_spec(
    context: &Context,
    rollout: &RolloutObject,
    status: &RolloutStatus,
    problem: String,
    local: &mut LocalState,
) -> Result<Action, ReconcileError> {
    let mut next = status.clone();
    next.observed_generation = Some(rollout.generation());
    next.phase = Some("Degraded".to_owned());
    next.message = Some(format!("the spec is invalid: {problem}"));
    next.conditions = invalid_spec_conditions(
        &problem,
        &status.conditions,
        rollout.generation(),
        context.clock.now(),
    );
    if *status != next {
        replace_status(context, rollout, &next, local).await?;
        let reasons = [Reason {
            code: "InvalidSpec",
            message: problem.clone(),
            level: Level::Warning,
        }];
        let position = format!("generation {}", rollout.generation());
        context
            .events
            .publish(rollout, &reasons, &position, true, &mut local.event_dedup)
            .await;
    }
    refuse_commands(context, rollout, &problem).await?;
    Ok(Action::await_change())
}

/// Refuses pending commands, so that they do not wait forever. Without a plan, there is nothing to
/// promote or abort.
async fn refuse_commands(
    context: &Context,
    rollout: &RolloutObject,
    problem: &str,
) -> Result<(), ReconcileError> {
    let waiting = context
        .cache
        .commands
        .for_rollout(&rollout.key())
        .into_iter()
        .filter(|command| command.finished_at.is_none());
    for command in waiting {
        let outcome = CommandOutcome::refused(format!(
            "nothing is deployed yet, and the spec is invalid: {problem}"
        ));
        authorize_write(context, "RolloutCommand", "patch")?;
        effects::command::finish(
            &context.client,
            &context.cache,
            &command,
            &outcome,
            context.clock.now(),
        )
        .await?;
    }
    Ok(())
}

/// Reports a status that cannot be decoded. Its state is unknown, so the status is not written and
/// only an Event is published.
pub(super) async fn report_incompatible_status(
    context: &Context,
    rollout: &RolloutObject,
    problem: &str,
    local: &mut LocalState,
) -> Result<Action, ReconcileError> {
    tracing::error!(%problem, "status was written by an incompatible version; not reconciling");
    let message =
        format!("status was written by an incompatible version; not reconciling: {problem}");
    let reasons = [Reason {
        code: "StatusUnreadable",
        message,
        level: Level::Warning,
    }];
    context
        .events
        .publish(rollout, &reasons, "status", false, &mut local.event_dedup)
        .await;
    Ok(Action::await_change())
}

/// Reports in the status that the Rollout is quarantined.
pub(super) async fn report_quarantine(
    context: &Context,
    rollout: &RolloutObject,
    problem: &str,
    local: &mut LocalState,
) -> Result<(), ReconcileError> {
    let Ok(status) = &rollout.status else {
        return Ok(());
    };
    let mut next = (**status).clone();
    next.conditions = quarantine_conditions(
        problem,
        &status.conditions,
        rollout.generation(),
        context.clock.now(),
    );
    if urgency(status, &next) != Urgency::Now {
        return Ok(());
    }
    replace_status(context, rollout, &next, local).await?;
    let reasons = [Reason {
        code: "Quarantined",
        message: problem.to_owned(),
        level: Level::Warning,
    }];
    context
        .events
        .publish(
            rollout,
            &reasons,
            "quarantine",
            true,
            &mut local.event_dedup,
        )
        .await;
    Ok(())
}

//! Handles Rollouts for which no decision is possible. The problem is reported on the Rollout, and
//! other Rollouts are not affected.

use kube::runtime::controller::Action;
use serde_json::json;
use serin_core::command::{CommandOutcome, Verb};
use serin_core::effect::{Level, Reason};
use serin_crds::RolloutStatus;

use super::api_writer::{authorize_write, patch_status_fields, replace_status};
use super::pipeline::RESYNC;
use super::{Context, ReconcileError};
use crate::cluster_cache::{Key, RolloutObject};
use crate::effects;
use crate::local_state::LocalState;
use crate::status::{
    Urgency, incompatible_conditions, invalid_spec_conditions, quarantine_conditions, urgency,
};

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
    let reason = format!("nothing is deployed yet, and the spec is invalid: {problem}");
    refuse_commands(context, rollout, &reason).await?;
    Ok(Action::await_change())
}

/// Refuses pending commands, so that they do not wait forever.
async fn refuse_commands(
    context: &Context,
    rollout: &RolloutObject,
    reason: &str,
) -> Result<(), ReconcileError> {
    let waiting = context
        .cache
        .commands
        .for_rollout(&rollout.key())
        .into_iter()
        .filter(|command| command.finished_at.is_none());
    for command in waiting {
        let outcome = CommandOutcome::refused(reason);
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

/// Whether an `abort` command waits. It works on a status of any version.
pub(super) fn has_pending_abort(context: &Context, rollout: &Key) -> bool {
    let commands = context.cache.commands.for_rollout(rollout);
    let mut pending = commands
        .iter()
        .filter(|command| command.finished_at.is_none());
    pending.any(|cached| cached.command.verb == Verb::Abort)
}

/// Reports a status that another version of the controller wrote. Traffic and pods stay as they
/// are, and only an `abort` works. Fields that this version does not know are left untouched.
pub(super) async fn report_incompatible_status(
    context: &Context,
    rollout: &RolloutObject,
    problem: &str,
    local: &mut LocalState,
) -> Result<Action, ReconcileError> {
    tracing::error!(%problem, "status was written by an incompatible version; not reconciling");
    let message = format!(
        "the status was written by an incompatible version of the controller: {problem}. Traffic \
         stays as it is; upgrade the controller, or abort the release"
    );
    let conditions = incompatible_conditions(
        &message,
        &rollout.status.conditions,
        rollout.generation(),
        context.clock.now(),
    );
    let is_reported = rollout.status.message.as_deref() == Some(message.as_str());
    if !is_reported || rollout.status.conditions != conditions {
        let fields = json!({
            "phase": "Degraded", "message": message, "conditions": conditions,
        });
        patch_status_fields(context, rollout, &fields, local).await?;
        let reasons = [Reason {
            code: "IncompatibleStatus",
            message: message.clone(),
            level: Level::Warning,
        }];
        context
            .events
            .publish(rollout, &reasons, "status", true, &mut local.event_dedup)
            .await;
    }
    refuse_commands(context, rollout, &message).await?;
    Ok(Action::requeue(RESYNC))
}

/// Reports in the status that the Rollout is quarantined.
pub(super) async fn report_quarantine(
    context: &Context,
    rollout: &RolloutObject,
    problem: &str,
    local: &mut LocalState,
) -> Result<(), ReconcileError> {
    if rollout.incompatibility.is_some() {
        return Ok(());
    }
    let status = &rollout.status;
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

//! Handles Rollouts for which no decision is possible. The problem is reported on the Rollout, and
//! other Rollouts are not affected.

use std::time::Duration;

use serde_json::json;
use serin_core::command::{CommandOutcome, Verb};
use serin_core::effect::{Level, Reason};
use serin_core::state::{COMMANDS_LIMIT, Phase, Stage};
use serin_core::text::{Message, Text};
use serin_crds::RolloutStatus;

use super::api_writer::{authorize_write, patch_status_fields};
use super::pipeline::RESYNC;
use super::{Context, ReconcileError};
use crate::cluster_cache::{Key, RolloutObject};
use crate::dispatcher::Action;
use crate::effects;
use crate::local_state::LocalState;
use crate::status::{
    Urgency, incompatible_conditions, invalid_spec_conditions, quarantine_conditions, urgency,
};

/// Time until the next commands are refused if there are many.
const NEXT_COMMANDS_AFTER: Duration = Duration::from_secs(1);

/// Reports an invalid spec if no plan is active. Nothing has been deployed yet, and nothing is.
pub(super) async fn report_invalid_spec(
    context: &Context,
    rollout: &RolloutObject,
    status: &RolloutStatus,
    problem: String,
    local: &mut LocalState,
) -> Result<Action, ReconcileError> {
    let mut next = status.clone();
    next.state.observed_generation = rollout.generation();
    next.state.phase = Phase::Degraded;
    next.state.message = format!("the spec is invalid: {problem}").into();
    next.conditions = invalid_spec_conditions(
        &problem,
        &status.conditions,
        rollout.generation(),
        context.clock.now(),
    );
    if *status != next {
        // Nothing else is known yet.
        let fields = json!({
            "observedGeneration": next.state.observed_generation, "phase": next.state.phase,
            "message": next.state.message, "conditions": next.conditions,
        });
        patch_status_fields(context, rollout, &fields, local).await?;
        let reasons = [Reason {
            code: "InvalidSpec",
            message: problem.as_str().into(),
            level: Level::Warning,
        }];
        let position = format!("generation {}", rollout.generation());
        context
            .events
            .publish(rollout, &reasons, &position, false, &mut local.event_dedup);
    }
    let reason = format!("nothing is deployed yet, and the spec is invalid: {problem}");
    let next_commands = refuse_commands(context, rollout, &reason).await?;
    Ok(next_commands.map_or(Action::AwaitChange, Action::Requeue))
}

/// Refuses pending commands, so that they do not wait forever. Returns when to refuse more of them,
/// if there are any: a flood of commands must not delay the next reconcile.
pub(super) async fn refuse_commands(
    context: &Context,
    rollout: &RolloutObject,
    reason: &str,
) -> Result<Option<Duration>, ReconcileError> {
    let policy = context.cache.command_policy.borrow().clone();
    let mut waiting = context.cache.commands.for_rollout(&rollout.key());
    waiting.retain(|command| {
        let is_known = policy.authorization(command.created_at).is_some();
        command.finished_at.is_none() && is_known
    });
    for command in waiting.iter().take(COMMANDS_LIMIT) {
        let outcome = CommandOutcome::refused(reason);
        authorize_write(context, rollout, "RolloutCommand", "patch")?;
        let (client, cache) = (&context.client, &context.cache);
        let ownership = context.ownership.as_ref();
        let now = context.clock.now();
        effects::command::finish(client, cache, ownership, command, &outcome, now).await?;
    }
    Ok((waiting.len() > COMMANDS_LIMIT).then_some(NEXT_COMMANDS_AFTER))
}

/// Whether an `abort` command waits that may be carried out. It works on a status of any version.
pub(super) fn has_pending_abort(context: &Context, rollout: &Key) -> bool {
    let commands = context.cache.commands.for_rollout(rollout);
    let policy = context.cache.command_policy.borrow().clone();
    let mut pending = commands
        .iter()
        .filter(|command| command.finished_at.is_none() && policy.permits(command.created_at));
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
    // What to do must not be cut off.
    let problem = Text::<512>::from(problem);
    let message = Message::from(format!(
        "the status was written by an incompatible version of the controller: {problem}. Traffic \
         stays as it is; upgrade the controller, or abort the release"
    ));
    let conditions = incompatible_conditions(
        &message,
        &rollout.status.conditions,
        rollout.generation(),
        context.clock.now(),
    );
    let is_reported = rollout.status.state.message == message;
    if !is_reported || rollout.status.conditions != conditions {
        let fields = json!({
            "phase": Phase::Degraded, "message": message, "conditions": conditions,
        });
        patch_status_fields(context, rollout, &fields, local).await?;
        let reasons = [Reason {
            code: "IncompatibleStatus",
            message: message.clone(),
            level: Level::Warning,
        }];
        context
            .events
            .publish(rollout, &reasons, "status", false, &mut local.event_dedup);
    }
    let next_commands = refuse_commands(context, rollout, &message).await?;
    Ok(Action::Requeue(next_commands.unwrap_or(RESYNC)))
}

/// Whether a quarantined Rollout is being aborted: an abort waits, or its traffic is on the way to
/// stable. Its quarantine must not delay that.
pub(super) fn is_aborting(context: &Context, rollout: &RolloutObject) -> bool {
    let is_deleted = rollout.metadata.deletion_timestamp.is_some();
    let is_aborted =
        rollout.incompatibility.is_none() && rollout.status.state.stage == Stage::Aborted;
    !is_deleted && (is_aborted || has_pending_abort(context, &rollout.key()))
}

/// Refuses the commands of a quarantined Rollout without an active plan.
pub(super) async fn refuse_quarantined(
    context: &Context,
    rollout: &RolloutObject,
) -> Result<Action, ReconcileError> {
    let reason = "the Rollout is quarantined, and no plan is active: there is nothing to abort";
    let next_commands = refuse_commands(context, rollout, reason).await?;
    Ok(Action::Requeue(next_commands.unwrap_or(RESYNC)))
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
    let fields = json!({"conditions": next.conditions});
    patch_status_fields(context, rollout, &fields, local).await?;
    let reasons = [Reason {
        code: "Quarantined",
        message: problem.into(),
        level: Level::Warning,
    }];
    context.events.publish(
        rollout,
        &reasons,
        "quarantine",
        true,
        &mut local.event_dedup,
    );
    Ok(())
}

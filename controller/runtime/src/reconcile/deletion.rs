//! A Rollout that is being deleted gives back what it has changed; what it has made goes with it.

use kube::runtime::controller::Action;
use serin_core::plan::Plan;
use serin_core::state::State;
use serin_crds::RolloutStatus;

use super::reading::Reading;
use super::{Context, Failure, finalizer};
use crate::effects::{self, Hands};
use crate::observe::Snapshot;
use crate::world::RolloutObject;

pub(super) async fn delete(
    context: &Context,
    rollout: &RolloutObject,
    status: &RolloutStatus,
    state: &State,
) -> Result<Action, Failure> {
    context.judge.forget(rollout.uid());
    if !finalizer::is_held(rollout) {
        return Ok(Action::await_change());
    }
    // What was changed was changed under the plan in force.
    let in_force = state.plan.as_ref().map(|plan| plan.spec.clone());
    if let Some(plan) = in_force.or_else(|| Reading::of(rollout, state).plan) {
        give_back(context, rollout, status, &plan).await?;
    }
    finalizer::write(context, rollout, "removing the finalizer", &finalizer::others(rollout)).await?;
    tracing::info!("the Rollout is deleted: its routes and Services are as they were");
    Ok(Action::await_change())
}

async fn give_back(
    context: &Context,
    rollout: &RolloutObject,
    status: &RolloutStatus,
    plan: &Plan,
) -> Result<(), Failure> {
    let snapshot = Snapshot::of(&context.world, &rollout.key(), rollout.uid(), Some(plan));
    let hands = Hands {
        client: &context.client,
        world: &context.world,
        leadership: &context.leadership,
        metrics: &context.metrics,
        rollout,
        spec: None,
        status,
        plan,
        snapshot: &snapshot,
        now: context.clock.now(),
    };
    effects::restore_all(&hands, &status.original_routes).await?;
    effects::release_services(&hands).await?;
    Ok(())
}

//! A Rollout that is being deleted gives back what it has changed; what it has made goes with it.

use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use serde_json::json;
use serin_core::plan::Plan;
use serin_core::state::State;
use serin_crds::RolloutStatus;
use serin_crds::names::{FIELD_MANAGER, FINALIZER};

use super::reading::Reading;
use super::writing::{in_time, may_write};
use super::{Context, Failure};
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
    let finalizers = rollout.metadata.finalizers.clone().unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(Action::await_change());
    }
    // What was changed was changed under the plan in force.
    let in_force = state.plan.as_ref().map(|plan| plan.spec.clone());
    if let Some(plan) = in_force.or_else(|| Reading::of(rollout, state, context.clock.now()).plan) {
        give_back(context, rollout, status, &plan).await?;
    }
    let others: Vec<&String> = finalizers.iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    let patch = json!({"metadata": {"resourceVersion": rollout.resource_version(), "finalizers": others}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    may_write(context, "Rollout", "patch")?;
    let key = rollout.key();
    let api: Api<RolloutObject> = Api::namespaced(context.client.clone(), &key.namespace);
    in_time("removing the finalizer", api.patch(&key.name, &params, &Patch::Merge(patch))).await?;
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
    if let Some(routing) = plan.routing() {
        for name in [&routing.stable_service, &routing.canary_service] {
            effects::release_service(&hands, name).await?;
        }
    }
    Ok(())
}

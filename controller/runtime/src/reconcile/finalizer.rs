//! The finalizer. A Rollout has it only while it has changed objects that it does not own. Without
//! a running controller, as few Rollouts as possible are then blocked from deletion.

use std::sync::Arc;

use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use serin_core::effect::{Decision, Effect};
use serin_core::plan::Plan;
use serin_core::state::{Stage, WorkloadPhase};
use serin_crds::names::{FIELD_MANAGER, FINALIZER};
use serin_crds::workload::OnDelete;

use super::api_writer::{authorize_write, with_timeout};
use super::{Context, ReconcileError};
use crate::cluster_cache::{CachedService, Key, RolloutObject};
use crate::effects;
use crate::local_state::LocalState;
use crate::ownership::Ownership;

/// Adds the finalizer before the first change of an object that the Rollout does not own.
pub(super) async fn add(
    context: &Context,
    rollout: &Arc<RolloutObject>,
    effects: &[Effect],
    local: &mut LocalState,
) -> Result<Arc<RolloutObject>, ReconcileError> {
    let touches = |effect: &Effect| match effect {
        Effect::SetWeight { .. }
        | Effect::PauseDeployment { .. }
        | Effect::TakeReplicaSet { .. } => true,
        Effect::CreateReplicaSet { .. } => gives_back(rollout),
        Effect::BindService { name, .. } => {
            let key = Key::new(&rollout.key().namespace, name);
            context
                .cache
                .services
                .get(&key)
                .is_some_and(|service| !is_owned(&service, rollout))
        }
        _ => false,
    };
    if is_held(rollout) || !effects.iter().any(touches) {
        return Ok(Arc::clone(rollout));
    }
    let mut finalizers = rollout.metadata.finalizers.clone().unwrap_or_default();
    finalizers.push(FINALIZER.to_owned());
    write(context, rollout, "adding the finalizer", &finalizers)
        .await
        .map(|answer| local.record_written(answer))
}

/// Removes the finalizer if nothing is left to restore.
pub(super) async fn remove(
    context: &Context,
    rollout: &Arc<RolloutObject>,
    plan: &Plan,
    decision: &Decision,
    local: &mut LocalState,
) -> Result<(), ReconcileError> {
    let is_settled = decision.effects.is_empty()
        && !matches!(decision.state.stage, Stage::Progressing | Stage::Promoting);
    if !is_held(rollout) || !is_settled {
        return Ok(());
    }
    let status = &rollout.status;
    let key = rollout.key();
    let is_changed = |entry| effects::needs_restore(entry, plan.routing(), &key, &context.cache);
    let has_services = context
        .cache
        .services
        .for_rollout(&key)
        .iter()
        .any(|service| !is_owned(service, rollout));
    let has_workload = state_needs_finalizer(decision) || gives_back(rollout);
    if has_services || has_workload || status.original_routes.iter().any(is_changed) {
        return Ok(());
    }
    let answer = write(
        context,
        rollout,
        "removing the finalizer",
        &other_finalizers(rollout),
    )
    .await?;
    local.record_written(answer);
    Ok(())
}

/// Whether pods are to be given to a Deployment at the deletion.
fn state_needs_finalizer(decision: &Decision) -> bool {
    let workload = decision.state.workload.as_ref();
    workload.is_some_and(|workload| workload.phase != WorkloadPhase::GivenBack)
}

/// Whether the spec requires it.
fn gives_back(rollout: &RolloutObject) -> bool {
    let spec = rollout.spec.as_ref();
    spec.is_ok_and(|spec| spec.on_delete == Some(OnDelete::GiveBack))
}

/// Whether the Rollout has our finalizer.
pub(super) fn is_held(rollout: &RolloutObject) -> bool {
    rollout
        .metadata
        .finalizers
        .iter()
        .flatten()
        .any(|finalizer| finalizer == FINALIZER)
}

/// The finalizers except ours.
pub(super) fn other_finalizers(rollout: &RolloutObject) -> Vec<String> {
    let all = rollout.metadata.finalizers.iter().flatten();
    all.filter(|finalizer| *finalizer != FINALIZER)
        .cloned()
        .collect()
}

fn is_owned(service: &CachedService, rollout: &RolloutObject) -> bool {
    service.owner_uid.as_deref() == Some(rollout.uid())
}

pub(super) async fn write(
    context: &Context,
    rollout: &RolloutObject,
    what: &'static str,
    finalizers: &[String],
) -> Result<RolloutObject, ReconcileError> {
    authorize_write(context, rollout, "Rollout", "patch")?;
    let ownership = context.ownership.as_ref();
    patch(&context.client, ownership, rollout, what, finalizers).await
}

pub(super) async fn patch(
    client: &Client,
    ownership: &dyn Ownership,
    rollout: &RolloutObject,
    what: &'static str,
    finalizers: &[String],
) -> Result<RolloutObject, ReconcileError> {
    let patch = json!({"metadata": {"resourceVersion": rollout.resource_version(), "finalizers": finalizers}});
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let key = rollout.key();
    let api: Api<RolloutObject> = Api::namespaced(client.clone(), &key.namespace);
    let patch = Patch::Merge(patch);
    let request = api.patch(&key.name, &params, &patch);
    with_timeout(ownership, &key, what, request).await
}

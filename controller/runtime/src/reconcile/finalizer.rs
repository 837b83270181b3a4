//! The finalizer: a Rollout holds it only while it has changed objects that it does not own, so
//! that without the controller as few Rollouts as possible cannot be deleted.

use std::sync::Arc;

use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use serin_core::effect::{Decision, Effect};
use serin_core::plan::Plan;
use serin_core::state::Stage;
use serin_crds::names::{FIELD_MANAGER, FINALIZER};

use super::writing::{in_time, may_write};
use super::{Context, Failure};
use crate::effects;
use crate::memory::Memory;
use crate::world::{Key, RolloutObject, ServiceFact};

/// Adds the finalizer before the first change of an object that the Rollout does not own.
pub(super) async fn add(
    context: &Context,
    rollout: &Arc<RolloutObject>,
    effects: &[Effect],
    memory: &mut Memory,
) -> Result<Arc<RolloutObject>, Failure> {
    let touches = |effect: &Effect| match effect {
        Effect::SetWeight { .. } => true,
        Effect::BindService { name, .. } => {
            let key = Key::new(&rollout.key().namespace, name);
            context
                .world
                .services
                .get(&key)
                .is_some_and(|service| !is_ours(&service, rollout))
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
        .map(|answer| memory.wrote(answer))
}

/// Removes the finalizer when there is nothing to give back any more.
pub(super) async fn remove(
    context: &Context,
    rollout: &Arc<RolloutObject>,
    plan: &Plan,
    decision: &Decision,
    memory: &mut Memory,
) -> Result<(), Failure> {
    let is_at_rest = decision.effects.is_empty()
        && !matches!(decision.state.stage, Stage::Progressing | Stage::Promoting);
    if !is_held(rollout) || !is_at_rest {
        return Ok(());
    }
    let Ok(status) = &rollout.status else {
        return Ok(());
    };
    let key = rollout.key();
    let is_changed = |entry| effects::is_changed(entry, plan.routing(), &key, &context.world);
    let has_services = context
        .world
        .services
        .of_rollout(&key)
        .iter()
        .any(|service| !is_ours(service, rollout));
    if has_services || status.original_routes.iter().any(is_changed) {
        return Ok(());
    }
    let answer = write(context, rollout, "removing the finalizer", &others(rollout)).await?;
    memory.wrote(answer);
    Ok(())
}

/// Whether the Rollout holds our finalizer.
pub(super) fn is_held(rollout: &RolloutObject) -> bool {
    rollout
        .metadata
        .finalizers
        .iter()
        .flatten()
        .any(|finalizer| finalizer == FINALIZER)
}

/// The finalizers of others.
pub(super) fn others(rollout: &RolloutObject) -> Vec<String> {
    let all = rollout.metadata.finalizers.iter().flatten();
    all.filter(|finalizer| *finalizer != FINALIZER)
        .cloned()
        .collect()
}

fn is_ours(service: &ServiceFact, rollout: &RolloutObject) -> bool {
    service.owner_uid.as_deref() == Some(rollout.uid())
}

pub(super) async fn write(
    context: &Context,
    rollout: &RolloutObject,
    what: &'static str,
    finalizers: &[String],
) -> Result<RolloutObject, Failure> {
    may_write(context, "Rollout", "patch")?;
    patch(&context.client, rollout, what, finalizers).await
}

pub(super) async fn patch(
    client: &Client,
    rollout: &RolloutObject,
    what: &'static str,
    finalizers: &[String],
) -> Result<RolloutObject, Failure> {
    let patch = json!({"metadata": {"resourceVersion": rollout.resource_version(), "finalizers": finalizers}});
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let key = rollout.key();
    let api: Api<RolloutObject> = Api::namespaced(client.clone(), &key.namespace);
    in_time(what, api.patch(&key.name, &params, &Patch::Merge(patch))).await
}

//! Takes over what an earlier Rollout of the same name has left: after `kubectl delete
//! --cascade=orphan`, or when the CustomResourceDefinition was replaced and the Rollout was applied
//! again before the garbage collector had come.
//!
//! The rules are those of a Deployment: an object without a controller whose labels and name are
//! ours is adopted, after a fresh read of the Rollout has shown that it still exists.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Service;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use kube::{Api, Resource};
use serde_json::json;
use serin_crds::Rollout;
use serin_crds::names::{FIELD_MANAGER, ROLLOUT_LABEL};

use super::writing::{in_time, may_write};
use super::{Context, Failure};
use crate::world::{Fact, Identity, OwnerFact, ReplicaSetFact, RolloutObject, ServiceFact};

pub(super) async fn adopt(context: &Context, rollout: &RolloutObject) -> Result<(), Failure> {
    let key = rollout.key();
    let mut sets = context.world.replica_sets.of_rollout(&key);
    sets.retain(|set| is_orphan_set(set, rollout));
    let mut services = context.world.services.of_rollout(&key);
    services.retain(|service| is_orphan_service(service, rollout));
    if (sets.is_empty() && services.is_empty()) || !still_exists(context, rollout).await? {
        return Ok(());
    }
    for set in sets {
        let api = objects::<ReplicaSet>(context, rollout);
        if let Some(answer) = take(context, rollout, "ReplicaSet", &api, &set.identity).await?
            && let Ok(set) = serde_json::from_value::<ReplicaSet>(json!(answer))
        {
            context.world.replica_sets.put(ReplicaSetFact::from(set));
        }
    }
    for service in services {
        let api = objects::<Service>(context, rollout);
        if let Some(answer) = take(context, rollout, "Service", &api, service.identity()).await?
            && let Ok(service) = serde_json::from_value::<Service>(json!(answer))
        {
            context.world.services.put(ServiceFact::from(service));
        }
    }
    Ok(())
}

fn objects<K: Resource<DynamicType = ()>>(
    context: &Context,
    rollout: &RolloutObject,
) -> Api<DynamicObject> {
    Api::namespaced_with(
        context.client.clone(),
        &rollout.key().namespace,
        &ApiResource::erase::<K>(&()),
    )
}

fn is_orphan_set(set: &ReplicaSetFact, rollout: &RolloutObject) -> bool {
    let is_named = set.revision.as_ref().is_some_and(|revision| {
        set.identity.key.name
            == format!(
                "{}-{revision}",
                rollout.metadata.name.as_deref().unwrap_or_default()
            )
    });
    let is_older = rollout
        .metadata
        .creation_timestamp
        .as_ref()
        .is_some_and(|created| set.created_at < created.0);
    is_named
        && !set.terminating
        && is_older
        && is_orphan(set.owner.as_ref(), set.owner_uid.as_deref(), rollout)
}

/// Only a Service that Serin made selects the Rollout by its label; a user's Service is not taken
/// over.
fn is_orphan_service(service: &ServiceFact, rollout: &RolloutObject) -> bool {
    let selector = service.spec.selector.as_ref();
    let is_made_by_us =
        selector.and_then(|selector| selector.get(ROLLOUT_LABEL)) == rollout.metadata.name.as_ref();
    is_made_by_us && service.owner_uid.is_none()
}

/// Nobody controls it, or a Rollout that had this name before.
fn is_orphan(owner: Option<&OwnerFact>, owner_uid: Option<&str>, rollout: &RolloutObject) -> bool {
    owner.is_none_or(|owner| {
        let group = owner.api_version.split('/').next().unwrap_or_default();
        group == Rollout::group(&())
            && owner.kind == Rollout::kind(&())
            && Some(&owner.name) == rollout.metadata.name.as_ref()
            && owner_uid != Some(rollout.uid())
    })
}

/// What is known of the Rollout may be out of date, and its objects orphaned because it is being
/// deleted.
async fn still_exists(context: &Context, rollout: &RolloutObject) -> Result<bool, Failure> {
    let key = rollout.key();
    let api: Api<RolloutObject> = Api::namespaced(context.client.clone(), &key.namespace);
    let live = in_time("reading the Rollout", api.get_opt(&key.name)).await?;
    Ok(live.is_some_and(|live| {
        live.uid() == rollout.uid() && live.metadata.deletion_timestamp.is_none()
    }))
}

/// Makes the Rollout the controller of an object. A failure leaves it as it is and holds nothing
/// up.
async fn take(
    context: &Context,
    rollout: &RolloutObject,
    kind: &'static str,
    api: &Api<DynamicObject>,
    identity: &Identity,
) -> Result<Option<DynamicObject>, Failure> {
    let Some(owner) = rollout.controller_owner_ref(&()) else {
        return Ok(None);
    };
    let name = &identity.key.name;
    let patch = json!({"metadata": {
        "uid": identity.uid,
        "resourceVersion": identity.resource_version,
        "ownerReferences": [owner],
    }});
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    may_write(context, kind, "patch")?;
    match in_time(
        "taking over an orphan",
        api.patch(name, &params, &Patch::Merge(patch)),
    )
    .await
    {
        Ok(answer) => {
            tracing::info!(kind, %name, "took over an object that an earlier Rollout of this name had left");
            Ok(Some(answer))
        }
        Err(Failure::NotLeader) => Err(Failure::NotLeader),
        Err(failure) => {
            tracing::warn!(kind, %name, error = %failure, "an orphan could not be taken over");
            Ok(None)
        }
    }
}

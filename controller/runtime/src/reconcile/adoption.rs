//! Adopts the objects that an earlier Rollout of the same name has left behind: after `kubectl
//! delete --cascade=orphan`, or if the CustomResourceDefinition was replaced and the Rollout was
//! applied again before garbage collection.
//!
//! The rules are those of a Deployment: an object without a controller whose labels and name match
//! is adopted, after a live read has shown that the Rollout still exists.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Service;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use kube::{Api, Resource};
use serde_json::json;
use serin_crds::Rollout;
use serin_crds::names::{FIELD_MANAGER, ROLLOUT_LABEL};

use super::api_writer::{authorize_write, with_timeout};
use super::{Context, ReconcileError};
use crate::cluster_cache::{
    CachedObject, CachedReplicaSet, CachedService, ControllerRef, Identity, ReplicaSetObject,
    RolloutObject,
};

pub(super) async fn adopt(
    context: &Context,
    rollout: &RolloutObject,
) -> Result<(), ReconcileError> {
    let key = rollout.key();
    let mut sets = context.cache.replica_sets.for_rollout(&key);
    sets.retain(|set| is_orphan_set(set, rollout));
    let mut services = context.cache.services.for_rollout(&key);
    services.retain(|service| is_orphan_service(service, rollout));
    if (sets.is_empty() && services.is_empty()) || !still_exists(context, rollout).await? {
        return Ok(());
    }
    for set in sets {
        let api = dynamic_api::<ReplicaSet>(context, rollout);
        if let Some(answer) =
            adopt_object(context, rollout, "ReplicaSet", &api, &set.identity).await?
            && let Ok(set) = serde_json::from_value::<ReplicaSetObject>(json!(answer))
        {
            context.cache.replica_sets.put(CachedReplicaSet::from(set));
        }
    }
    for service in services {
        let api = dynamic_api::<Service>(context, rollout);
        if let Some(answer) =
            adopt_object(context, rollout, "Service", &api, service.identity()).await?
            && let Ok(service) = serde_json::from_value::<Service>(json!(answer))
        {
            context.cache.services.put(CachedService::from(service));
        }
    }
    Ok(())
}

fn dynamic_api<K: Resource<DynamicType = ()>>(
    context: &Context,
    rollout: &RolloutObject,
) -> Api<DynamicObject> {
    Api::namespaced_with(
        context.client.clone(),
        &rollout.key().namespace,
        &ApiResource::erase::<K>(&()),
    )
}

fn is_orphan_set(set: &CachedReplicaSet, rollout: &RolloutObject) -> bool {
    let is_named = set.is_named_for(rollout.metadata.name.as_deref().unwrap_or_default());
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

/// Only a Service that Serin created selects pods by the Rollout label. Services of users are not
/// adopted.
fn is_orphan_service(service: &CachedService, rollout: &RolloutObject) -> bool {
    let selector = service.spec.selector.as_ref();
    let is_made_by_us =
        selector.and_then(|selector| selector.get(ROLLOUT_LABEL)) == rollout.metadata.name.as_ref();
    is_made_by_us && service.owner_uid.is_none()
}

/// The object has no controller, or its controller is an earlier Rollout of this name.
fn is_orphan(
    owner: Option<&ControllerRef>,
    owner_uid: Option<&str>,
    rollout: &RolloutObject,
) -> bool {
    owner.is_none_or(|owner| {
        let group = owner.api_version.split('/').next().unwrap_or_default();
        group == Rollout::group(&())
            && owner.kind == Rollout::kind(&())
            && Some(&owner.name) == rollout.metadata.name.as_ref()
            && owner_uid != Some(rollout.uid())
    })
}

/// The cached Rollout may be outdated: its objects may be orphaned because it is being deleted.
async fn still_exists(context: &Context, rollout: &RolloutObject) -> Result<bool, ReconcileError> {
    let key = rollout.key();
    let api: Api<RolloutObject> = Api::namespaced(context.client.clone(), &key.namespace);
    let (ownership, request) = (context.ownership.as_ref(), api.get_opt(&key.name));
    let live = with_timeout(ownership, &key, "reading the Rollout", request).await?;
    Ok(live.is_some_and(|live| {
        live.uid() == rollout.uid() && live.metadata.deletion_timestamp.is_none()
    }))
}

/// Makes the Rollout the controller of an object. If the request fails, the object is left
/// unchanged and the reconcile continues.
async fn adopt_object(
    context: &Context,
    rollout: &RolloutObject,
    kind: &'static str,
    api: &Api<DynamicObject>,
    identity: &Identity,
) -> Result<Option<DynamicObject>, ReconcileError> {
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
    authorize_write(context, rollout, kind, "patch")?;
    let patch = Patch::Merge(patch);
    let (ownership, request) = (context.ownership.as_ref(), api.patch(name, &params, &patch));
    let key = rollout.key();
    match with_timeout(ownership, &key, "adopting an orphan", request).await {
        Ok(answer) => {
            tracing::info!(kind, %name, "adopted orphan of an earlier Rollout with this name");
            Ok(Some(answer))
        }
        Err(ReconcileError::NotLeader) => Err(ReconcileError::NotLeader),
        // The garbage collector removes the previous owner at the same time. Without its
        // ReplicaSets, the Rollout would create others.
        Err(ReconcileError::Conflict) => Err(ReconcileError::Conflict),
        Err(failure) => {
            tracing::warn!(kind, %name, error = %failure, "failed to adopt orphan");
            Ok(None)
        }
    }
}

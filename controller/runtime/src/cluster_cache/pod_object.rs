//! A decoded pod: the fields that are cached. The managed fields and nearly all of the spec, which is
//! the largest part of a pod, are skipped.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::Resource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Deserializer};

use super::objects::CachedPod;

/// A pod as the API server sent it, with only the node of its spec.
#[derive(Clone, Debug, Default, Deserialize, Resource)]
#[resource(inherit = Pod)]
pub struct PodObject {
    #[serde(default, deserialize_with = "lean_metadata")]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: PodPlacement,
    #[serde(default)]
    pub status: Option<PodStatus>,
}

/// The one field of a pod's spec that is cached.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodPlacement {
    #[serde(default)]
    pub node_name: Option<String>,
}

impl From<Pod> for CachedPod {
    fn from(pod: Pod) -> Self {
        let Pod {
            metadata,
            spec,
            status,
        } = pod;
        let spec = PodPlacement {
            node_name: spec.and_then(|spec| spec.node_name),
        };
        PodObject {
            metadata,
            spec,
            status,
        }
        .into()
    }
}

/// The metadata that is cached of an object.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LeanMetadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
    creation_timestamp: Option<Timestamp>,
    deletion_timestamp: Option<Timestamp>,
}

/// Decodes the metadata that is cached of an object.
pub(crate) fn lean_metadata<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<ObjectMeta, D::Error> {
    let lean = LeanMetadata::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: lean.name,
        namespace: lean.namespace,
        uid: lean.uid,
        resource_version: lean.resource_version,
        labels: lean.labels,
        annotations: lean.annotations,
        owner_references: lean.owner_references,
        creation_timestamp: lean.creation_timestamp.map(Time),
        deletion_timestamp: lean.deletion_timestamp.map(Time),
        ..ObjectMeta::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster_cache::CheckedObject;

    #[test]
    fn a_pod_is_cached_as_if_it_was_decoded_as_a_whole() {
        let metadata = json!({
            "name": "checkout-abc-x", "namespace": "shop", "uid": "uid-1", "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "deletionTimestamp": "2026-01-01T00:01:00Z",
            "labels": {"serin.dev/rollout": "checkout", "serin.dev/revision": "abc"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": true,
                "name": "checkout-abc", "uid": "uid-set"}],
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
        });
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
            "spec": {"nodeName": "node-7", "containers": [{"name": "app", "image": 7}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        let CheckedObject(decoded) =
            serde_json::from_value::<CheckedObject<PodObject>>(pod.clone()).unwrap();
        let cached = CachedPod::from(decoded.unwrap());
        let whole: ObjectMeta = serde_json::from_value(metadata).unwrap();
        assert_eq!(cached.identity.uid, whole.uid.unwrap());
        assert_eq!(cached.identity.resource_version, "7");
        assert_eq!(cached.created_at, whole.creation_timestamp.unwrap().0);
        assert_eq!(cached.owner_uid.as_deref(), Some("uid-set"));
        assert_eq!(cached.rollout, "checkout");
        assert_eq!(cached.node.as_deref(), Some("node-7"));
        assert!(cached.ready && !cached.active);
    }
}

//! The ReplicaSets and autoscalers of a namespace, reduced to what a takeover needs of them.
//!
//! Whoever may create these objects chooses their number and their size. So they are read in small
//! pages, and most of each object is skipped while it is decoded.

use std::fmt::Debug;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ListParams, ObjectMeta};
use kube::{Api, Client, Resource};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serin_crds::names::{POD_TEMPLATE_HASH_LABEL, ROLLOUT_LABEL};

use crate::cluster_cache::lean_metadata;

/// Maximum number of objects in one answer. Each has up to 1.5 MB in etcd, and more as JSON. A
/// Deployment usually has fewer than twelve.
const PAGE: u32 = 6;
/// Maximum number of answers.
const MAX_PAGES: usize = 50;

/// A ReplicaSet that matches the selector of a Deployment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ListedSet {
    pub name: String,
    pub uid: String,
    /// The label `pod-template-hash`.
    pub hash: Option<String>,
    /// The label with the Rollout.
    pub rollout: Option<String>,
    /// Its controller, if any.
    pub controller: Option<OwnerReference>,
    /// The revision number that the Deployment controller writes.
    pub revision_number: u64,
    pub is_deleting: bool,
    /// `spec.replicas`.
    pub replicas: Option<u32>,
}

impl From<SetObject> for ListedSet {
    fn from(object: SetObject) -> Self {
        let metadata = object.metadata;
        let label = |name: &str| metadata.labels.as_ref()?.get(name).cloned();
        let annotations = metadata.annotations.as_ref();
        let number = annotations.and_then(|all| all.get("deployment.kubernetes.io/revision"));
        let mut owners = metadata.owner_references.iter().flatten();
        let replicas = object.spec.replicas;
        Self {
            hash: label(POD_TEMPLATE_HASH_LABEL),
            rollout: label(ROLLOUT_LABEL),
            controller: owners.find(|owner| owner.controller == Some(true)).cloned(),
            revision_number: number.and_then(|number| number.parse().ok()).unwrap_or(0),
            is_deleting: metadata.deletion_timestamp.is_some(),
            replicas: replicas.and_then(|number| u32::try_from(number).ok()),
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
        }
    }
}

impl ListedSet {
    /// Whether it has the name that a Deployment or Rollout of this name gives it.
    pub fn is_named(&self, base: &str) -> bool {
        let hash = self.hash.as_ref();
        hash.is_some_and(|hash| self.name == format!("{base}-{hash}"))
    }

    /// Whether it has pods, or will have some.
    pub fn has_pods(&self) -> bool {
        self.replicas != Some(0)
    }
}

#[derive(Clone, Debug, Default, Deserialize, Resource)]
#[resource(inherit = ReplicaSet)]
struct SetObject {
    #[serde(default, deserialize_with = "lean_metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: SetSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct SetSpec {
    replicas: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize, Resource)]
#[resource(inherit = HorizontalPodAutoscaler)]
struct AutoscalerObject {
    #[serde(default, deserialize_with = "lean_metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: AutoscalerSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AutoscalerSpec {
    #[serde(default)]
    scale_target_ref: TargetRef,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct TargetRef {
    kind: Option<String>,
    name: Option<String>,
}

/// The ReplicaSets with these labels, at most 300.
pub(super) async fn replica_sets(
    client: &Client,
    namespace: &str,
    labels: &str,
) -> kube::Result<Vec<ListedSet>> {
    let api: Api<SetObject> = Api::namespaced(client.clone(), namespace);
    let mut sets = Vec::new();
    for_each(&api, labels, |set| sets.push(ListedSet::from(set))).await?;
    Ok(sets)
}

/// The name of an autoscaler that scales a Deployment. `None` if there is none among the first 300.
pub(super) async fn autoscaler_of(
    client: &Client,
    namespace: &str,
    deployment: &str,
) -> kube::Result<Option<String>> {
    let api: Api<AutoscalerObject> = Api::namespaced(client.clone(), namespace);
    let mut found = None;
    for_each(&api, "", |autoscaler| {
        let target = autoscaler.spec.scale_target_ref;
        let kind = target.kind.as_deref();
        if kind == Some("Deployment") && target.name.as_deref() == Some(deployment) {
            found.get_or_insert(autoscaler.metadata.name.unwrap_or_default());
        }
    })
    .await?;
    Ok(found)
}

/// Reads the objects page by page.
async fn for_each<K: Clone + Debug + DeserializeOwned>(
    api: &Api<K>,
    labels: &str,
    mut use_object: impl FnMut(K),
) -> kube::Result<()> {
    let mut params = ListParams::default().labels(labels).limit(PAGE);
    for _ in 0..MAX_PAGES {
        let page = api.list(&params).await?;
        page.items.into_iter().for_each(&mut use_object);
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A ReplicaSet of 1 MB takes no more memory than a small one.
    #[test]
    fn what_is_kept_of_a_replica_set_does_not_depend_on_its_size() {
        let set = |text: &str| {
            let object: SetObject = serde_json::from_value(json!({
                "apiVersion": "apps/v1", "kind": "ReplicaSet",
                "metadata": {
                    "name": "web-abc", "namespace": "shop", "uid": "uid-1",
                    "labels": {"pod-template-hash": "abc", "app": text},
                    "annotations": {"deployment.kubernetes.io/revision": "7", "note": text},
                    "managedFields": [{"manager": text}],
                    "ownerReferences": [
                        {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "0"},
                        {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web",
                            "uid": "uid-0", "controller": true},
                    ],
                },
                "spec": {"replicas": 3, "template": {"spec": {"containers": [{"args": [text]}]}}},
            }))
            .unwrap();
            ListedSet::from(object)
        };
        let large = set(&"x".repeat(1 << 20));
        assert_eq!(large, set(""));
        assert!(large.is_named("web") && large.has_pods());
        assert_eq!((large.revision_number, large.replicas), (7, Some(3)));
        assert_eq!(large.controller.unwrap().name, "web");
    }
}

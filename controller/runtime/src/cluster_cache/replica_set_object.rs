//! A decoded ReplicaSet: the fields that are cached, and the digest of its template.

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Resource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serin_crds::side_metadata::AddedMetadata;

use super::container_ports;
use super::objects::DeclaredPort;
use super::pod_object::lean_metadata;
use crate::revision::TemplateDigest;

/// A ReplicaSet as the API server sent it.
///
/// The template is reduced to what is needed of it while the object is decoded, because it is the
/// largest part of a ReplicaSet. Unlike the type of k8s-openapi, this also sees template fields
/// that this build does not know.
#[derive(Clone, Debug, Default, Deserialize, Resource)]
#[resource(inherit = ReplicaSet)]
pub struct ReplicaSetObject {
    #[serde(default, deserialize_with = "lean_metadata")]
    pub metadata: ObjectMeta,
    #[serde(default)]
    pub spec: Option<ReplicaSetFields>,
    #[serde(default)]
    pub status: Option<ReplicaSetStatus>,
}

/// The cached fields of the spec of a ReplicaSet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaSetFields {
    pub replicas: Option<i32>,
    pub min_ready_seconds: Option<i32>,
    pub template: Option<TemplateSummary>,
    pub selector: Option<LabelSelector>,
}

/// What is kept of a pod template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateSummary {
    /// Identifies the template.
    pub digest: TemplateDigest,
    /// The ports that its containers declare.
    pub ports: Vec<DeclaredPort>,
    /// What was added to it for the side of its revision.
    pub added: Option<AddedMetadata>,
}

impl<'de> Deserialize<'de> for TemplateSummary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let template = Value::deserialize(deserializer)?;
        Ok(Self {
            digest: TemplateDigest::from_stored(&template),
            added: AddedMetadata::from_template(&template),
            ports: template
                .get("spec")
                .map(container_ports::from_json)
                .unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster_cache::{CachedReplicaSet, CheckedObject};

    /// A ReplicaSet as the watch decodes it.
    fn watched(pod_spec: &Value) -> CachedReplicaSet {
        let text = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": "checkout-abc", "namespace": "shop", "uid": "uid-1"},
            "spec": {
                "replicas": 3,
                "minReadySeconds": 5,
                "template": {"metadata": {"labels": {"app": "checkout"}}, "spec": pod_spec},
            },
            "status": {"replicas": 3, "availableReplicas": 2},
        })
        .to_string();
        let CheckedObject(set) =
            serde_json::from_str::<CheckedObject<ReplicaSetObject>>(&text).unwrap();
        CachedReplicaSet::from(set.unwrap())
    }

    #[test]
    fn a_replica_set_is_reduced_to_the_cached_fields() {
        let cached = watched(&json!({"containers": [
            {"name": "app", "ports": [{"name": "http", "containerPort": 8080}]},
        ]}));
        assert_eq!(cached.identity.uid, "uid-1");
        assert_eq!((cached.desired, cached.min_ready_seconds), (3, 5));
        assert_eq!((cached.replicas, cached.available), (3, 2));
        assert_eq!(cached.ports[0].number, 8080);
    }

    #[test]
    fn templates_that_differ_in_a_field_unknown_to_this_build_are_different() {
        let with = |field: &str| watched(&json!({"containers": [], "fieldOfTheFuture": field}));
        assert!(with("a").template.is_some());
        assert_eq!(with("a").template, with("a").template);
        assert_ne!(with("a").template, with("b").template);
    }

    #[test]
    fn the_watch_and_a_response_give_the_same_digest() {
        let pod_spec = json!({"containers": [{"name": "app", "resources": {"limits": {"cpu": "1"}}}],
            "terminationGracePeriodSeconds": 30, "securityContext": {}, "floating": 0.1});
        let response =
            json!({"metadata": {"labels": {"app": "checkout"}}, "spec": pod_spec.clone()});
        assert_eq!(
            watched(&pod_spec).template,
            Some(TemplateDigest::from_stored(&response))
        );
    }

    #[test]
    fn a_replica_set_without_a_template_has_no_digest() {
        let set: ReplicaSetObject =
            serde_json::from_value(json!({"metadata": {}, "spec": {"template": null}})).unwrap();
        let cached = CachedReplicaSet::from(set);
        assert_eq!(cached.template, None);
        assert_eq!(cached.desired, 1, "the default of the API server");
    }
}

//! Takes over the ReplicaSet of a Deployment, and gives it back. Of a Deployment that exists, only
//! `spec.paused` is written, and `spec.replicas` if the Rollout replaces its pods.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PostParams};
use serde_json::{Value, json};
use serin_core::plan::Routing;
use serin_core::units::Revision;
use serin_crds::names::{
    DEPLOYMENT_ANNOTATION, PINNED_CONTAINERS_ANNOTATION, REVISION_LABEL, ROLLOUT_LABEL,
    TEMPLATE_HASH_ANNOTATION,
};
use serin_crds::{api_status, side_metadata};

use super::{
    EffectError, EffectExecutor, patch_params, post_params, release_all_services,
    restore_all_routes,
};
use crate::cluster_cache::PodObject;
use crate::status::selector_string;
use crate::{revision, workload};

/// Number of pods that get their labels at the same time.
const CONCURRENT_PODS: usize = 8;
/// Maximum number of pods in one answer. Each has up to 1.5 MB in etcd, and more as JSON.
const PODS_PER_PAGE: u32 = 12;

impl EffectExecutor<'_> {
    fn deployments(&self) -> Api<DynamicObject> {
        let kind = ApiResource::erase::<Deployment>(&());
        Api::namespaced_with(self.client.clone(), self.namespace(), &kind)
    }

    fn replica_sets(&self) -> Api<DynamicObject> {
        let kind = ApiResource::erase::<ReplicaSet>(&());
        Api::namespaced_with(self.client.clone(), self.namespace(), &kind)
    }

    pub(super) async fn pause_deployment(&self, name: &str) -> Result<(), EffectError> {
        // Whoever resumes it again and again is put off as with other objects.
        self.pace(&format!("Deployment {name}"), "paused", false)?;
        self.patch_deployment(name, json!({"paused": true})).await?;
        tracing::info!(deployment = %name, "paused Deployment");
        Ok(())
    }

    pub(super) async fn resume_deployment(&self, name: &str) -> Result<(), EffectError> {
        self.patch_deployment(name, json!({"paused": null})).await?;
        tracing::info!(deployment = %name, "resumed Deployment");
        Ok(())
    }

    pub(super) async fn scale_deployment(
        &self,
        name: &str,
        replicas: u32,
    ) -> Result<(), EffectError> {
        let patch = json!({"replicas": replicas});
        self.patch_deployment(name, patch).await?;
        tracing::info!(deployment = %name, replicas, "scaled Deployment");
        Ok(())
    }

    /// Patches the spec of the Deployment that the decision was made for.
    async fn patch_deployment(&self, name: &str, spec: Value) -> Result<(), EffectError> {
        let seen = self.snapshot.workload.as_ref();
        let seen = seen.and_then(|objects| objects.deployment.as_ref());
        let seen = seen.ok_or_else(|| EffectError::Conflict(format!("Deployment {name}")))?;
        let patch = json!({
            "metadata": {"uid": seen.uid, "resourceVersion": seen.resource_version},
            "spec": spec,
        });
        self.authorize_write("Deployment", "patch")?;
        let (api, params) = (self.deployments(), patch_params());
        let patched = api.patch(name, &params, &Patch::Merge(patch)).await;
        // A Deployment that was replaced meanwhile has another UID.
        patched.map(drop).map_err(|error| match error {
            kube::Error::Api(status)
                if api_status::is_missing_object(&status) || api_status::is_invalid(&status) =>
            {
                EffectError::Conflict(format!("Deployment {name}"))
            }
            other => EffectError::api(format!("Deployment {name}"))(other),
        })
    }

    /// Moves the ReplicaSet in one write: it never lacks a controller, which any Deployment with a
    /// matching selector would become.
    pub(super) async fn take_replica_set(
        &self,
        revision: &Revision,
        name: &str,
    ) -> Result<(), EffectError> {
        let deployment = self.workload_name()?;
        let api = self.replica_sets();
        let set = self.read_replica_set(&api, name).await?;
        let owner = workload::controller_of(&set);
        if owner.is_some_and(|owner| owner.uid == self.rollout.uid()) {
            return self.cache_replica_set(&set).map(drop);
        }
        if owner.is_some_and(|owner| owner.kind != "Deployment" || owner.name != deployment) {
            return Err(EffectError::Conflict(format!("ReplicaSet {name}")));
        }
        let labels = json!({ROLLOUT_LABEL: self.name(), REVISION_LABEL: revision.as_str()});
        // One that the Rollout has created itself has its name.
        let source = (name == format!("{deployment}-{revision}")).then_some(deployment);
        let patch = json!({
            "metadata": {
                "uid": set.metadata.uid,
                "resourceVersion": set.metadata.resource_version,
                "ownerReferences": with_controller(&set, self.owner()?),
                "labels": labels,
                "annotations": {DEPLOYMENT_ANNOTATION: source},
            },
            "spec": {"template": {"metadata": {"labels": labels}}},
        });
        self.patch_replica_set(&api, name, patch).await?;
        tracing::info!(replica_set = %name, %revision, %deployment, "took over ReplicaSet");
        Ok(())
    }

    /// Gives the ReplicaSet to the Deployment in one write, as the Deployment would have made it.
    pub(super) async fn return_replica_set(
        &self,
        name: &str,
        deployment: &str,
    ) -> Result<(), EffectError> {
        let api = self.replica_sets();
        let set = self.read_replica_set(&api, name).await?;
        if workload::controller_of(&set).is_none_or(|owner| owner.uid != self.rollout.uid()) {
            self.cache.replica_sets.remove(&self.key(name));
            return Ok(());
        }
        let seen = self.snapshot.workload.as_ref();
        let seen = seen.and_then(|objects| objects.deployment.as_ref());
        let seen = seen.ok_or_else(|| EffectError::Conflict(format!("Deployment {deployment}")))?;
        let owner = OwnerReference {
            api_version: "apps/v1".to_owned(),
            kind: "Deployment".to_owned(),
            name: deployment.to_owned(),
            uid: seen.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        };
        let labels = json!({ROLLOUT_LABEL: null, REVISION_LABEL: null});
        let mut template = side_metadata::template_patch(&set.data["spec"]["template"], None);
        template["labels"][ROLLOUT_LABEL] = Value::Null;
        template["labels"][REVISION_LABEL] = Value::Null;
        // The template of the Deployment has the tags of the images.
        let containers = revision::unpinned_containers(&set.data["spec"]["template"]);
        if containers.is_some() {
            template["annotations"][PINNED_CONTAINERS_ANNOTATION] = Value::Null;
        }
        let patch = json!({
            "metadata": {
                "uid": set.metadata.uid,
                "resourceVersion": set.metadata.resource_version,
                "ownerReferences": with_controller(&set, owner),
                "labels": labels,
                "annotations": {DEPLOYMENT_ANNOTATION: null, TEMPLATE_HASH_ANNOTATION: null},
            },
            "spec": {"template": {
                "metadata": template,
                "spec": containers.unwrap_or_else(|| json!({})),
            }},
        });
        self.patch_replica_set(&api, name, patch).await?;
        self.cache.replica_sets.remove(&self.key(name));
        tracing::info!(replica_set = %name, %deployment, "gave ReplicaSet back");
        Ok(())
    }

    /// Gives the pods of a ReplicaSet the labels of its template.
    pub(super) async fn label_pods(
        &self,
        revision: &Revision,
        name: &str,
    ) -> Result<(), EffectError> {
        let set = self.read_replica_set(&self.replica_sets(), name).await?;
        let selector: LabelSelector =
            serde_json::from_value(set.data["spec"]["selector"].clone()).unwrap_or_default();
        let selector = selector_string(&selector).unwrap_or_default();
        let labels = BTreeMap::from([
            (ROLLOUT_LABEL, self.name()),
            (REVISION_LABEL, revision.as_str()),
        ]);
        let lacks_labels = |pod: &PodObject| {
            let own = pod.metadata.labels.as_ref();
            let has = |(key, value): (&&str, &&str)| {
                own.and_then(|own| own.get(*key)).map(String::as_str) == Some(*value)
            };
            !labels.iter().all(has)
        };
        let is_owned = |pod: &PodObject| {
            let mut owners = pod.metadata.owner_references.iter().flatten();
            owners.any(|owner| {
                owner.controller == Some(true) && Some(&owner.uid) == set.metadata.uid.as_ref()
            })
        };
        let api: Api<PodObject> = Api::namespaced(self.client.clone(), self.namespace());
        let mut page = ListParams::default().labels(&selector).limit(PODS_PER_PAGE);
        loop {
            let permit = self.cache.adopters.begin_read().await;
            let pods = api.list(&page).await;
            let pods = pods.map_err(EffectError::api(format!("pods of ReplicaSet {name}")))?;
            drop(permit);
            page.continue_token = pods.metadata.continue_.filter(|token| !token.is_empty());
            let unlabelled = pods.items.into_iter();
            let unlabelled = unlabelled.filter(|pod| is_owned(pod) && lacks_labels(pod));
            let writes = unlabelled.map(|pod| self.label_pod(&api, pod, &labels));
            stream::iter(writes)
                .buffer_unordered(CONCURRENT_PODS)
                .try_collect::<()>()
                .await?;
            if page.continue_token.is_none() {
                return Ok(());
            }
        }
    }

    async fn label_pod(
        &self,
        api: &Api<PodObject>,
        pod: PodObject,
        labels: &BTreeMap<&str, &str>,
    ) -> Result<(), EffectError> {
        let name = pod.metadata.name.unwrap_or_default();
        let patch = json!({"metadata": {"uid": pod.metadata.uid, "labels": labels}});
        self.authorize_write("Pod", "patch")?;
        match api
            .patch(&name, &patch_params(), &Patch::Merge(patch))
            .await
        {
            Ok(_) => Ok(()),
            // The pod was deleted or replaced meanwhile.
            Err(kube::Error::Api(status))
                if api_status::is_missing_object(&status) || api_status::is_invalid(&status) =>
            {
                Ok(())
            }
            Err(error) => Err(EffectError::api(format!("Pod {name}"))(error)),
        }
    }

    /// Creates a paused Deployment with the template of a ReplicaSet of the Rollout.
    pub(super) async fn create_deployment(
        &self,
        name: &str,
        revision: &Revision,
    ) -> Result<(), EffectError> {
        let set = self.snapshot.replica_sets.get(revision);
        let set = set.ok_or_else(|| EffectError::Conflict(format!("revision {revision}")))?;
        let set = &set.identity.key.name;
        let set = self.read_replica_set(&self.replica_sets(), set).await?;
        let made = self.new_deployment(name, &set);
        self.authorize_write("Deployment", "create")?;
        let params: PostParams = post_params();
        match self.deployments().create(&params, &made).await {
            Ok(_) => tracing::info!(deployment = %name, "created paused Deployment"),
            Err(kube::Error::Api(status)) if api_status::is_already_exists(&status) => {
                return Err(EffectError::Conflict(format!("Deployment {name}")));
            }
            Err(error) => return Err(EffectError::api(format!("Deployment {name}"))(error)),
        }
        Ok(())
    }

    fn new_deployment(&self, name: &str, set: &DynamicObject) -> DynamicObject {
        let mut made = DynamicObject::new(name, &ApiResource::erase::<Deployment>(&()))
            .within(self.namespace());
        let (template, selector) = workload::template_of(&set.data);
        made.metadata.labels.clone_from(&selector.match_labels);
        made.data = json!({"spec": {
            "paused": true,
            "replicas": set.data["spec"]["replicas"],
            "selector": selector,
            "template": template,
            "minReadySeconds": set.data["spec"]["minReadySeconds"].as_i64().unwrap_or(0),
        }});
        let spec = self.rollout.spec.as_ref().ok();
        let limits = [
            (
                "revisionHistoryLimit",
                spec.and_then(|spec| spec.revision_history_limit),
            ),
            (
                "progressDeadlineSeconds",
                spec.and_then(|spec| spec.progress_deadline_seconds),
            ),
        ];
        for (field, value) in limits {
            if let Some(value) = value {
                made.data["spec"][field] = value.into();
            }
        }
        made
    }

    /// Restores the routes and the selectors of the Services. A stable Service that Serin created
    /// stays, and selects all pods of the workload.
    pub(super) async fn restore_objects(&self) -> Result<(), EffectError> {
        restore_all_routes(self, &self.status.original_routes).await?;
        release_all_services(self).await?;
        let stable = self.plan.services().map(Routing::stable_service);
        let cached = stable.and_then(|name| self.cache.services.get(&self.key(name)));
        let Some(cached) = cached.filter(|cached| self.is_owned(cached)) else {
            return Ok(());
        };
        let name = &cached.identity.key.name;
        let patch = json!({
            "metadata": {
                "uid": cached.identity.uid,
                "resourceVersion": cached.identity.resource_version,
                "labels": {ROLLOUT_LABEL: null},
                "ownerReferences": null,
            },
            "spec": {"selector": {ROLLOUT_LABEL: null, REVISION_LABEL: null}},
        });
        let api: Api<Service> = Api::namespaced(self.client.clone(), self.namespace());
        self.write_service(&api, name, patch).await?;
        tracing::info!(service = %name, "gave Service to its users");
        Ok(())
    }

    fn workload_name(&self) -> Result<&str, EffectError> {
        let objects = self.snapshot.workload.as_ref();
        let name = objects.map(|objects| objects.name.as_str());
        name.ok_or_else(|| EffectError::Conflict("the Deployment".to_owned()))
    }

    pub(super) async fn read_replica_set(
        &self,
        api: &Api<DynamicObject>,
        name: &str,
    ) -> Result<DynamicObject, EffectError> {
        let set = api.get_opt(name).await;
        let set = set.map_err(EffectError::api(format!("ReplicaSet {name}")))?;
        set.ok_or_else(|| EffectError::Conflict(format!("ReplicaSet {name}, which is gone,")))
    }

    async fn patch_replica_set(
        &self,
        api: &Api<DynamicObject>,
        name: &str,
        patch: Value,
    ) -> Result<(), EffectError> {
        self.authorize_write("ReplicaSet", "patch")?;
        let patched = api.patch(name, &patch_params(), &Patch::Merge(patch)).await;
        let patched = patched.map_err(EffectError::api(format!("ReplicaSet {name}")))?;
        if patched
            .metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.contains_key(ROLLOUT_LABEL))
        {
            self.cache_replica_set(&patched)?;
        }
        Ok(())
    }
}

/// The owner references of an object with another controller.
fn with_controller(object: &DynamicObject, controller: OwnerReference) -> Vec<OwnerReference> {
    let owners = object.metadata.owner_references.iter().flatten();
    let others = owners.filter(|owner| owner.controller != Some(true));
    others.cloned().chain([controller]).collect()
}

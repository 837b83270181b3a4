//! ReplicaSets: one per revision. They are scaled as decided, and deleted only when empty.

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};
use serin_core::units::Revision;
use serin_crds::api_status;
use serin_crds::names::{
    POD_TEMPLATE_HASH_LABEL, REVISION_LABEL, ROLLOUT_LABEL, TEMPLATE_HASH_ANNOTATION,
};

use super::{EffectError, EffectExecutor, as_json, patch_params, post_params};
use crate::cluster_cache::{CachedObject, CachedReplicaSet, ReplicaSetObject};
use crate::revision;

/// Responses are decoded into the few fields that are cached, without a tree of the whole object.
fn api(client: &Client, namespace: &str) -> Api<ReplicaSetObject> {
    Api::namespaced(client.clone(), namespace)
}

impl EffectExecutor<'_> {
    pub(super) async fn create_replica_set(
        &self,
        revision: &Revision,
        replicas: u32,
    ) -> Result<(), EffectError> {
        let made = self.new_replica_set(revision, replicas)?;
        let name = made.metadata.name.clone().unwrap_or_default();
        let api = api(self.client, self.namespace());
        self.authorize_write("ReplicaSet", "create")?;
        let params = post_params();
        let created =
            revision::request::create_replica_set(self.client, self.namespace(), &params, &made)
                .await;
        match created {
            Ok(created) => {
                self.put_replica_set(created);
                tracing::info!(%revision, replicas, "created ReplicaSet");
                Ok(())
            }
            Err(kube::Error::Api(status)) if api_status::is_already_exists(&status) => {
                let found = api
                    .get(&name)
                    .await
                    .map_err(EffectError::api(format!("ReplicaSet {name}")))?;
                let found = self.put_replica_set(found);
                if found.owner_uid.as_deref() == Some(self.rollout.uid()) {
                    return Ok(());
                }
                Err(EffectError::Impossible(format!(
                    "ReplicaSet {name} already exists and belongs to another owner: the revision \
                     will get another name"
                )))
            }
            Err(error) => Err(EffectError::api(format!("ReplicaSet {name}"))(error)),
        }
    }

    fn new_replica_set(
        &self,
        revision: &Revision,
        replicas: u32,
    ) -> Result<DynamicObject, EffectError> {
        let spec = self.spec()?;
        let name = format!("{}-{revision}", self.name());
        let mut set = DynamicObject::new(&name, &ApiResource::erase::<ReplicaSet>(&()))
            .within(self.namespace());
        // The labels of the template, as on the ReplicaSets of a Deployment, and ours.
        let template = spec.template.metadata.as_ref();
        let mut labels = template
            .and_then(|metadata| metadata.labels.clone())
            .unwrap_or_default();
        for (label, value) in [
            (ROLLOUT_LABEL, self.name()),
            (REVISION_LABEL, revision.as_str()),
            (POD_TEMPLATE_HASH_LABEL, revision.as_str()),
        ] {
            labels.insert(label.to_owned(), value.to_owned());
        }
        set.metadata.labels = Some(labels);
        let hash = (
            TEMPLATE_HASH_ANNOTATION.to_owned(),
            revision::template_hash(spec),
        );
        set.metadata.annotations = Some([hash].into());
        set.metadata.owner_references = Some(vec![self.owner()?]);
        let images = self.status.pinned_images(revision);
        let template = revision::with_serin_labels(spec, self.name(), revision.as_str(), images);
        set.data = json!({"spec": {
            "replicas": replicas,
            "minReadySeconds": spec.min_ready_seconds.unwrap_or(0),
            "selector": revision::selector(spec, revision.as_str()),
            "template": self.with_side_metadata(template, revision),
        }});
        Ok(set)
    }

    pub(super) async fn scale(
        &self,
        revision: &Revision,
        name: &str,
        replicas: u32,
    ) -> Result<(), EffectError> {
        let mut cached = self.cached_replica_set(name)?;
        if cached.desired == replicas {
            return Ok(());
        }
        if cached.desired < replicas {
            self.prepare_template(revision, name).await;
            cached = self.cached_replica_set(name)?;
        }
        let mut patch = json!({"metadata": preconditions(&cached), "spec": {"replicas": replicas}});
        if let Some(seconds) = self
            .min_ready_seconds()
            .filter(|seconds| *seconds != cached.min_ready_seconds)
        {
            patch["spec"]["minReadySeconds"] = seconds.into();
        }
        self.authorize_write("ReplicaSet", "patch")?;
        let patched = api(self.client, self.namespace())
            .patch(name, &patch_params(), &Patch::Merge(patch))
            .await;
        let patched = patched.map_err(EffectError::api(format!("ReplicaSet {name}")))?;
        self.put_replica_set(patched);
        tracing::info!(%revision, from = cached.desired, to = replicas, "scaled ReplicaSet");
        Ok(())
    }

    /// Updates the fields of ReplicaSets that follow the spec but are not part of the template, so
    /// that a change of them does not create a revision. Empty ReplicaSets are updated when they
    /// are scaled up.
    ///
    /// # Errors
    /// The first failure, after all ReplicaSets have been tried.
    pub async fn update_replica_sets(&self) -> Result<(), EffectError> {
        let Some(seconds) = self.min_ready_seconds() else {
            return Ok(());
        };
        let api = api(self.client, self.namespace());
        let mut failure = None;
        for set in self.snapshot.replica_sets.values() {
            let name = &set.identity.key.name;
            let cached = self.cache.replica_sets.get(&set.identity.key);
            let is_behind = |cached: &std::sync::Arc<CachedReplicaSet>| {
                cached.min_ready_seconds != seconds && (cached.desired > 0 || cached.replicas > 0)
            };
            let Some(cached) = cached.filter(is_behind) else {
                continue;
            };
            let patch = json!({
                "metadata": preconditions(&cached),
                "spec": {"minReadySeconds": seconds},
            });
            self.authorize_write("ReplicaSet", "patch")?;
            let (params, patch) = (patch_params(), Patch::Merge(patch));
            let write = async {
                let answer = api.patch(name, &params, &patch).await;
                answer.map_err(EffectError::api(format!("ReplicaSet {name}")))
            };
            let written = self.within_time(write).await;
            match written.map(|set| self.put_replica_set(set)) {
                Ok(_) => tracing::info!(replica_set = %name, seconds, "updated minReadySeconds"),
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// The value in the spec. `None` if the spec cannot be decoded.
    fn min_ready_seconds(&self) -> Option<i32> {
        self.spec.map(|spec| spec.min_ready_seconds.unwrap_or(0))
    }

    pub(super) async fn delete_replica_set(
        &self,
        revision: &Revision,
        name: &str,
    ) -> Result<(), EffectError> {
        let cached = self.cached_replica_set(name)?;
        if cached.desired > 0 || cached.replicas > 0 {
            return Err(EffectError::Conflict(format!(
                "ReplicaSet {name}, which is not empty,"
            )));
        }
        let identity = cached.identity();
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: Some(identity.uid.clone()),
            resource_version: Some(identity.resource_version.clone()),
        });
        self.authorize_write("ReplicaSet", "delete")?;
        match api(self.client, self.namespace())
            .delete(name, &params)
            .await
        {
            Ok(_) => {
                tracing::info!(%revision, "deleted ReplicaSet beyond the history limit");
            }
            Err(kube::Error::Api(status)) if api_status::is_missing_object(&status) => {}
            Err(error) => return Err(EffectError::api(format!("ReplicaSet {name}"))(error)),
        }
        self.cache.replica_sets.remove(&identity.key);
        Ok(())
    }

    fn cached_replica_set(
        &self,
        name: &str,
    ) -> Result<std::sync::Arc<CachedReplicaSet>, EffectError> {
        let cached = self.cache.replica_sets.get(&self.key(name));
        cached.ok_or_else(|| EffectError::Conflict(format!("ReplicaSet {name}, which is gone,")))
    }

    pub(super) fn cache_replica_set(
        &self,
        answer: &DynamicObject,
    ) -> Result<std::sync::Arc<CachedReplicaSet>, EffectError> {
        let set: ReplicaSetObject = serde_json::from_value(as_json(answer)).map_err(|problem| {
            EffectError::Impossible(format!(
                "cannot decode the response of the API server: {problem}"
            ))
        })?;
        Ok(self.put_replica_set(set))
    }

    fn put_replica_set(&self, set: ReplicaSetObject) -> std::sync::Arc<CachedReplicaSet> {
        self.cache.replica_sets.put(CachedReplicaSet::from(set))
    }
}

fn preconditions(cached: &CachedReplicaSet) -> Value {
    json!({"uid": cached.identity.uid, "resourceVersion": cached.identity.resource_version})
}

//! ReplicaSets: one per revision, scaled by hand of the planner, deleted only when empty.

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};
use serin_core::units::Revision;
use serin_crds::api_status;
use serin_crds::names::{REVISION_LABEL, ROLLOUT_LABEL, TEMPLATE_HASH_ANNOTATION};
use tokio::time::timeout;

use super::{EffectError, Hands, TIMEOUT, as_json, patch_params, post_params};
use crate::revision;
use crate::world::{Fact, ReplicaSetFact};

/// As plain JSON: a field of the template that this build does not know must reach the API server.
fn api(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(
        client.clone(),
        namespace,
        &ApiResource::erase::<ReplicaSet>(&()),
    )
}

impl Hands<'_> {
    pub(super) async fn create_replica_set(
        &self,
        revision: &Revision,
        replicas: u32,
    ) -> Result<(), EffectError> {
        let made = self.new_replica_set(revision, replicas)?;
        let name = made.metadata.name.clone().unwrap_or_default();
        let api = api(self.client, self.namespace());
        self.may_write("ReplicaSet", "create")?;
        match api.create(&post_params(), &made).await {
            Ok(answer) => {
                self.take_in(&answer)?;
                tracing::info!(%revision, replicas, "made a ReplicaSet");
                Ok(())
            }
            Err(kube::Error::Api(status)) if api_status::is_already_exists(&status) => {
                let found = api
                    .get(&name)
                    .await
                    .map_err(EffectError::api(format!("ReplicaSet {name}")))?;
                let found = self.take_in(&found)?;
                if found.owner_uid.as_deref() == Some(self.rollout.uid()) {
                    return Ok(());
                }
                Err(EffectError::Impossible(format!(
                    "ReplicaSet {name} exists and belongs to somebody else: the revision gets another name"
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
        let labels = [
            (ROLLOUT_LABEL, self.name()),
            (REVISION_LABEL, revision.as_str()),
        ];
        set.metadata.labels = Some(
            labels
                .map(|(label, value)| (label.to_owned(), value.to_owned()))
                .into(),
        );
        let hash = (
            TEMPLATE_HASH_ANNOTATION.to_owned(),
            revision::written_hash(spec),
        );
        set.metadata.annotations = Some([hash].into());
        set.metadata.owner_references = Some(vec![self.owner()?]);
        set.data = json!({"spec": {
            "replicas": replicas,
            "minReadySeconds": spec.min_ready_seconds.unwrap_or(0),
            "selector": revision::selector(spec, revision.as_str()),
            "template": revision::labelled(spec, self.name(), revision.as_str()),
        }});
        Ok(set)
    }

    pub(super) async fn scale(
        &self,
        revision: &Revision,
        name: &str,
        replicas: u32,
    ) -> Result<(), EffectError> {
        let known = self.known_set(name)?;
        if known.desired == replicas {
            return Ok(());
        }
        let mut patch = json!({"metadata": preconditions(&known), "spec": {"replicas": replicas}});
        if let Some(seconds) = self
            .min_ready_seconds()
            .filter(|seconds| *seconds != known.min_ready_seconds)
        {
            patch["spec"]["minReadySeconds"] = seconds.into();
        }
        self.may_write("ReplicaSet", "patch")?;
        let patched = api(self.client, self.namespace())
            .patch(name, &patch_params(), &Patch::Merge(patch))
            .await;
        let patched = patched.map_err(EffectError::api(format!("ReplicaSet {name}")))?;
        self.take_in(&patched)?;
        tracing::info!(%revision, from = known.desired, to = replicas, "scaled a ReplicaSet");
        Ok(())
    }

    /// Brings the fields of ReplicaSets up to date that follow the spec without being part of the
    /// template, so that a change of them is no new revision. An empty ReplicaSet gets them when it
    /// is scaled up.
    ///
    /// # Errors
    /// The first failure, after all have been tried.
    pub async fn update_replica_sets(&self) -> Result<(), EffectError> {
        let Some(seconds) = self.min_ready_seconds() else {
            return Ok(());
        };
        let api = api(self.client, self.namespace());
        let mut failure = None;
        for set in self.snapshot.replica_sets.values() {
            let name = &set.identity.key.name;
            let known = self.world.replica_sets.get(&set.identity.key);
            let is_behind = |known: &std::sync::Arc<ReplicaSetFact>| {
                known.min_ready_seconds != seconds && (known.desired > 0 || known.replicas > 0)
            };
            let Some(known) = known.filter(is_behind) else {
                continue;
            };
            let patch = json!({"metadata": {"uid": known.identity.uid}, "spec": {"minReadySeconds": seconds}});
            self.may_write("ReplicaSet", "patch")?;
            let write = timeout(
                TIMEOUT,
                api.patch(name, &patch_params(), &Patch::Merge(patch)),
            )
            .await;
            let written = match write {
                Ok(answer) => answer.map_err(EffectError::api(format!("ReplicaSet {name}"))),
                Err(_) => Err(EffectError::Timeout),
            };
            match written.and_then(|answer| self.take_in(&answer)) {
                Ok(_) => tracing::info!(replica_set = %name, seconds, "updated minReadySeconds"),
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// As the spec has it now; `None` if the spec cannot be read.
    fn min_ready_seconds(&self) -> Option<i32> {
        self.spec.map(|spec| spec.min_ready_seconds.unwrap_or(0))
    }

    pub(super) async fn delete_replica_set(
        &self,
        revision: &Revision,
        name: &str,
    ) -> Result<(), EffectError> {
        let known = self.known_set(name)?;
        if known.desired > 0 || known.replicas > 0 {
            return Err(EffectError::Conflict(format!(
                "ReplicaSet {name}, which is not empty,"
            )));
        }
        let identity = known.identity();
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: Some(identity.uid.clone()),
            resource_version: Some(identity.resource_version.clone()),
        });
        self.may_write("ReplicaSet", "delete")?;
        match api(self.client, self.namespace())
            .delete(name, &params)
            .await
        {
            Ok(_) => {
                tracing::info!(%revision, "deleted an empty ReplicaSet beyond the history limit")
            }
            Err(kube::Error::Api(status)) if api_status::is_missing_object(&status) => {}
            Err(error) => return Err(EffectError::api(format!("ReplicaSet {name}"))(error)),
        }
        self.world.replica_sets.remove(&identity.key);
        Ok(())
    }

    fn known_set(&self, name: &str) -> Result<std::sync::Arc<ReplicaSetFact>, EffectError> {
        let known = self.world.replica_sets.get(&self.key(name));
        known.ok_or_else(|| EffectError::Conflict(format!("ReplicaSet {name}, which is gone,")))
    }

    fn take_in(
        &self,
        answer: &DynamicObject,
    ) -> Result<std::sync::Arc<ReplicaSetFact>, EffectError> {
        let set: ReplicaSet = serde_json::from_value(as_json(answer)).map_err(|problem| {
            EffectError::Impossible(format!("the API server's answer cannot be read: {problem}"))
        })?;
        Ok(self.world.replica_sets.put(ReplicaSetFact::from(set)))
    }
}

fn preconditions(known: &ReplicaSetFact) -> Value {
    json!({"uid": known.identity.uid, "resourceVersion": known.identity.resource_version})
}

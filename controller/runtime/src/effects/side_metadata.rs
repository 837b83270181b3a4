//! Labels and annotations of one side of a release: in the templates of the ReplicaSets, so that new
//! pods have them from the beginning, and then in the pods that exist. No pod is restarted.

use std::borrow::Cow;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch};
use serde_json::{Value, json};
use serin_core::effect::Side;
use serin_core::units::Revision;
use serin_crds::api_status;
use serin_crds::side_metadata::{AddedMetadata, SideMetadata, pod_patch, template_patch};
use serin_crds::strategy::CanarySpec;

use super::{EffectError, EffectExecutor, patch_params};
use crate::cluster_cache::{CachedPod, CachedReplicaSet, PodObject};

/// Number of pods that are patched at the same time.
const CONCURRENT_PODS: usize = 8;
/// Maximum number of pods that are patched in one reconcile, so that a large fleet does not delay
/// what follows.
const PODS_PER_RECONCILE: usize = 64;

impl EffectExecutor<'_> {
    /// Puts the labels and annotations of each side on its pods, and takes them from other pods.
    /// Returns whether pods are left for the next reconcile.
    ///
    /// # Errors
    /// The first failure, after all ReplicaSets have been tried.
    pub async fn update_side_metadata(&self) -> Result<bool, EffectError> {
        let Some(settings) = self.side_settings() else {
            return Ok(false);
        };
        let (mut is_incomplete, mut failure) = (false, None);
        for (revision, set) in &self.snapshot.replica_sets {
            let wanted = self.metadata_of(&settings, revision);
            let updated = self
                .update_set_and_pods(&set.identity.key.name, wanted)
                .await;
            match updated {
                Ok(is_complete) => is_incomplete |= !is_complete,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(is_incomplete), Err)
    }

    /// The template of a new ReplicaSet, with the labels and annotations of its side.
    pub(super) fn with_side_metadata(&self, mut template: Value, revision: &Revision) -> Value {
        if let Some(settings) = self.side_settings()
            && let Some(wanted) = self.metadata_of(&settings, revision)
        {
            let patch = json!({"metadata": template_patch(&template, Some(wanted))});
            json_patch::merge(&mut template, &patch);
        }
        template
    }

    /// Updates the template of a ReplicaSet that gets pods, so that these have the labels and
    /// annotations from the beginning. A failure does not prevent the pods.
    pub(super) async fn prepare_template(&self, revision: &Revision, name: &str) {
        let Some(settings) = self.side_settings() else {
            return;
        };
        let wanted = self.metadata_of(&settings, revision);
        if let Err(error) = self.update_template(name, wanted).await {
            tracing::warn!(replica_set = %name, %error, "cannot update the metadata of its side");
        }
    }

    /// The settings of the strategy. `None` if the spec is invalid: what was not checked is not
    /// written to pods.
    fn side_settings(&self) -> Option<Cow<'_, CanarySpec>> {
        let spec = self.spec.filter(|_| self.is_spec_valid)?;
        Some(spec.strategy.as_canary())
    }

    /// The labels and annotations of the side of a revision.
    fn metadata_of<'a>(
        &self,
        settings: &'a CanarySpec,
        revision: &Revision,
    ) -> Option<&'a SideMetadata> {
        let metadata = match self.status.state.side_of(revision)? {
            Side::Stable => settings.stable_metadata.as_ref(),
            Side::Canary => settings.canary_metadata.as_ref(),
        };
        metadata.filter(|metadata| !metadata.is_empty())
    }

    /// Returns whether all pods of the ReplicaSet are up to date.
    async fn update_set_and_pods(
        &self,
        name: &str,
        wanted: Option<&SideMetadata>,
    ) -> Result<bool, EffectError> {
        let Some(set) = self.within_time(self.update_template(name, wanted)).await? else {
            return Ok(true);
        };
        let is_behind = |pod: &CachedPod| {
            pod.active
                && pod.owner_uid.as_deref() == Some(&set.identity.uid)
                && hash_of(pod.added.as_deref()) != hash_of(set.added.as_ref())
        };
        let mut behind: Vec<Arc<CachedPod>> = self
            .snapshot
            .pods
            .iter()
            .filter(|pod| is_behind(pod))
            .filter_map(|pod| self.cache.pods.get(&pod.identity.key))
            .filter(|pod| is_behind(pod))
            .take(PODS_PER_RECONCILE + 1)
            .collect();
        let is_complete = behind.len() <= PODS_PER_RECONCILE;
        behind.truncate(PODS_PER_RECONCILE);
        if !behind.is_empty() {
            let added = set.added.as_ref();
            self.within_time(self.update_pods(behind, wanted, added))
                .await?;
        }
        Ok(is_complete)
    }

    async fn update_pods(
        &self,
        pods: Vec<Arc<CachedPod>>,
        wanted: Option<&SideMetadata>,
        set: Option<&AddedMetadata>,
    ) -> Result<(), EffectError> {
        let api: Api<PodObject> = Api::namespaced(self.client.clone(), self.namespace());
        let pods = pods.into_iter();
        let writes = pods.map(|pod| self.update_pod(&api, pod, wanted, set));
        stream::iter(writes)
            .buffer_unordered(CONCURRENT_PODS)
            .try_collect::<()>()
            .await
    }

    /// Updates the template of a ReplicaSet. Returns the ReplicaSet; `None` if it is gone.
    async fn update_template(
        &self,
        name: &str,
        wanted: Option<&SideMetadata>,
    ) -> Result<Option<Arc<CachedReplicaSet>>, EffectError> {
        let Some(cached) = self.cache.replica_sets.get(&self.key(name)) else {
            return Ok(None);
        };
        let is_up_to_date = match (&cached.added, wanted) {
            (None, None) => true,
            (Some(added), Some(wanted)) => added.hash == wanted.hash(),
            _ => false,
        };
        if is_up_to_date {
            return Ok(Some(cached));
        }
        let kind = ApiResource::erase::<ReplicaSet>(&());
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), self.namespace(), &kind);
        let set = self.read_replica_set(&api, name).await?;
        let patch = json!({
            "metadata": {
                "uid": cached.identity.uid,
                "resourceVersion": set.metadata.resource_version,
            },
            "spec": {"template": {"metadata": template_patch(&set.data["spec"]["template"], wanted)}},
        });
        self.authorize_write("ReplicaSet", "patch")?;
        let patched = api.patch(name, &patch_params(), &Patch::Merge(patch)).await;
        let patched = patched.map_err(EffectError::api(format!("ReplicaSet {name}")))?;
        tracing::info!(replica_set = %name, "updated the metadata of its side");
        self.cache_replica_set(&patched).map(Some)
    }

    async fn update_pod(
        &self,
        api: &Api<PodObject>,
        pod: Arc<CachedPod>,
        wanted: Option<&SideMetadata>,
        set: Option<&AddedMetadata>,
    ) -> Result<(), EffectError> {
        let name = &pod.identity.key.name;
        let mut metadata = pod_patch(pod.added.as_deref(), wanted, set);
        metadata["uid"] = json!(pod.identity.uid);
        let patch = json!({"metadata": metadata});
        self.authorize_write("Pod", "patch")?;
        match api.patch(name, &patch_params(), &Patch::Merge(patch)).await {
            Ok(patched) => {
                self.cache.pods.put(CachedPod::from(patched));
                Ok(())
            }
            // The pod was deleted or replaced meanwhile.
            Err(kube::Error::Api(status))
                if api_status::is_missing_object(&status) || api_status::is_invalid(&status) =>
            {
                Ok(())
            }
            Err(error) => Err(EffectError::api(format!("Pod {name}"))(error)),
        }
    }
}

/// The hash of what was added to an object. `None` if nothing was.
fn hash_of(added: Option<&AddedMetadata>) -> Option<&str> {
    added.map(|added| added.hash.as_str())
}

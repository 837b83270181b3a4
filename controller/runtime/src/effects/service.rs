//! The stable and canary Services: created if they do not exist, and bound to a revision by their
//! selector.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use kube::Api;
use kube::api::{ObjectMeta, Patch};
use serde_json::{Value, json};
use serin_core::effect::Side;
use serin_core::units::Revision;
use serin_crds::api_status;
use serin_crds::names::{REVISION_LABEL, ROLLOUT_LABEL};
use tokio::time::timeout;

use super::{EffectError, EffectExecutor, TIMEOUT, patch_params, post_params};
use crate::cluster_cache::{CachedObject, CachedService};

impl EffectExecutor<'_> {
    pub(super) async fn bind_service(
        &self,
        side: Side,
        name: &str,
        revision: &Revision,
    ) -> Result<(), EffectError> {
        self.check_held(name)?;
        let api: Api<Service> = Api::namespaced(self.client.clone(), self.namespace());
        if let Some(cached) = self.cache.services.get(&self.key(name)) {
            return self.patch_service(&api, side, &cached, revision).await;
        }
        let made = self.new_service(&api, side, name, revision).await?;
        self.authorize_write("Service", "create")?;
        match api.create(&post_params(), &made).await {
            Ok(service) => {
                self.cache.services.put(CachedService::from(service));
                Ok(())
            }
            Err(kube::Error::Api(status)) if api_status::is_already_exists(&status) => {
                let found = api
                    .get(name)
                    .await
                    .map_err(EffectError::api(format!("Service {name}")))?;
                let found = self.cache.services.put(CachedService::from(found));
                if self.is_owned(&found) {
                    return self.patch_service(&api, side, &found, revision).await;
                }
                // A user's Service is changed only after the Rollout has its finalizer.
                Err(EffectError::Conflict(format!("Service {name}")))
            }
            Err(error) => Err(EffectError::api(format!("Service {name}"))(error)),
        }
    }

    async fn patch_service(
        &self,
        api: &Api<Service>,
        side: Side,
        cached: &CachedService,
        revision: &Revision,
    ) -> Result<(), EffectError> {
        let name = &cached.identity().key.name;
        let is_ours = cached.rollout.as_deref() == Some(self.name());
        if is_ours && cached.selects.as_ref() == Some(revision) {
            return Ok(());
        }
        if cached.spec.type_.as_deref() == Some("ExternalName") {
            return Err(EffectError::Impossible(format!(
                "Service {name} is of type ExternalName, which selects no pods: make it a \
                 ClusterIP Service"
            )));
        }
        self.check_reachable(side, Some(cached), revision)?;
        let mut patch = json!({
            "metadata": {
                "resourceVersion": cached.identity().resource_version,
                "uid": cached.identity().uid,
                "labels": {ROLLOUT_LABEL: self.name()},
            },
            "spec": {"selector": {REVISION_LABEL: revision.as_str()}},
        });
        // Both are changed in one write, so that the selector and the ports always belong to the
        // same revision.
        if self.is_owned(cached)
            && let Some(change) = self.shape_change(side, cached, revision)
        {
            json_patch::merge(&mut patch, &change);
        }
        self.pace(&format!("Service {name}"), revision.as_str(), false)?;
        self.write_service(api, name, patch).await?;
        tracing::info!(service = %name, %revision, "bound Service to revision");
        Ok(())
    }

    pub(super) async fn write_service(
        &self,
        api: &Api<Service>,
        name: &str,
        patch: Value,
    ) -> Result<(), EffectError> {
        self.authorize_write("Service", "patch")?;
        let patched = api.patch(name, &patch_params(), &Patch::Merge(patch)).await;
        self.evict_if_stale(&patched, name);
        let patched = patched.map_err(EffectError::api(format!("Service {name}")))?;
        self.cache.services.put(CachedService::from(patched));
        Ok(())
    }

    /// Updates the Services created by Serin while their revision stays the same, because the
    /// routes, the template or the user's stable Service may have changed.
    ///
    /// # Errors
    /// The first failure, after both Services have been tried.
    pub async fn update_services(&self) -> Result<(), EffectError> {
        let Some(routing) = self.plan.services() else {
            return Ok(());
        };
        let api: Api<Service> = Api::namespaced(self.client.clone(), self.namespace());
        let mut failure = None;
        for (side, name) in routing.services() {
            if let Err(error) = self.update_service(&api, side, name).await {
                failure = Some(error);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    async fn update_service(
        &self,
        api: &Api<Service>,
        side: Side,
        name: &str,
    ) -> Result<(), EffectError> {
        let cached = self.cache.services.get(&self.key(name));
        let Some(cached) = cached.filter(|cached| self.is_owned(cached)) else {
            return Ok(());
        };
        let Some(revision) = &cached.selects else {
            return Ok(());
        };
        let Some(mut patch) = self.shape_change(side, &cached, revision) else {
            return Ok(());
        };
        self.check_held(name)?;
        self.pace(&format!("Service {name}"), &patch.to_string(), false)?;
        json_patch::merge(&mut patch, &json!({"metadata": preconditions(&cached)}));
        self.within_time(self.write_service(api, name, patch))
            .await?;
        tracing::info!(service = %name, %revision, "updated Service");
        Ok(())
    }

    pub(super) fn is_owned(&self, service: &CachedService) -> bool {
        service.owner_uid.as_deref() == Some(self.rollout.uid())
    }

    fn evict_if_stale<T>(&self, answer: &kube::Result<T>, name: &str) {
        if let Err(kube::Error::Api(status)) = answer
            && (api_status::is_missing_object(status)
                || api_status::is_conflict(status)
                // A patch with the UID of a deleted predecessor returns Invalid, not Conflict.
                || api_status::is_invalid(status))
        {
            // The cached Service is outdated. The next reconcile reads it again.
            self.cache.services.remove(&self.key(name));
        }
    }

    /// Reads a Service again. Returns whether it is still the same object with the label of the
    /// Rollout.
    async fn is_still_labelled(
        &self,
        api: &Api<Service>,
        cached: &CachedService,
    ) -> Result<bool, EffectError> {
        let name = &cached.identity().key.name;
        let live = timeout(TIMEOUT, api.get_opt(name))
            .await
            .map_err(|_| EffectError::Timeout)?
            .map_err(EffectError::api(format!("Service {name}")))?;
        let Some(live) = live else { return Ok(false) };
        let live = self.cache.services.put(CachedService::from(live));
        let is_same = live.identity().uid == cached.identity().uid;
        Ok(is_same && live.rollout.as_deref() == Some(self.name()))
    }

    async fn new_service(
        &self,
        api: &Api<Service>,
        side: Side,
        name: &str,
        revision: &Revision,
    ) -> Result<Service, EffectError> {
        let spec = self.spec()?;
        self.check_ports_known(api, side).await?;
        self.check_reachable(side, None, revision)?;
        let shape = self.shape(side, None, revision);
        if shape.spec.ports.as_ref().is_none_or(Vec::is_empty) && shape.spec.cluster_ip.is_none() {
            return Err(EffectError::Impossible(format!(
                "Service {name} does not exist and cannot be created: no container of the template \
                 declares a port; set spec.template.spec.containers[].ports, or create the Service"
            )));
        }
        let mut selector: BTreeMap<String, String> =
            spec.selector.match_labels.clone().unwrap_or_default();
        selector.insert(ROLLOUT_LABEL.to_owned(), self.name().to_owned());
        selector.insert(REVISION_LABEL.to_owned(), revision.as_str().to_owned());
        Ok(Service {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(self.namespace().to_owned()),
                labels: Some(BTreeMap::from([(
                    ROLLOUT_LABEL.to_owned(),
                    self.name().to_owned(),
                )])),
                annotations: Some(shape.annotations).filter(|annotations| !annotations.is_empty()),
                owner_references: Some(vec![self.owner()?]),
                ..ObjectMeta::default()
            },
            spec: Some(ServiceSpec {
                selector: Some(selector),
                ..shape.spec
            }),
            status: None,
        })
    }

    /// Checks that the ports of a new Service can be determined. The canary Service is created
    /// after the stable one. The routes determine the ports, so a missing route is waited for.
    async fn check_ports_known(&self, api: &Api<Service>, side: Side) -> Result<(), EffectError> {
        let Some(routing) = self.plan.services() else {
            return Ok(());
        };
        let name = routing.stable_service();
        if side == Side::Canary && self.stable_service().is_none() {
            let stable = api
                .get_opt(name)
                .await
                .map_err(EffectError::api(format!("Service {name}")))?;
            if let Some(stable) = stable {
                self.cache.services.put(CachedService::from(stable));
            }
        }
        if side == Side::Canary && self.stable_service().is_some() {
            return Ok(());
        }
        let absent = routing
            .routes
            .iter()
            .find(|route| self.snapshot.route_object(route).is_none());
        absent.map_or(Ok(()), |absent| {
            let service = routing.service(side);
            Err(EffectError::Impossible(format!(
                "Service {service} will be created once route {} exists, because the route \
                 determines its ports",
                absent.name
            )))
        })
    }
}

fn preconditions(cached: &CachedService) -> Value {
    json!({"uid": cached.identity().uid, "resourceVersion": cached.identity().resource_version})
}

/// Releases the user's Services: they select pods of any revision again.
///
/// # Errors
/// The first failure, after all Services have been tried.
pub async fn release_all_services(executor: &EffectExecutor<'_>) -> Result<(), EffectError> {
    let bound = executor
        .cache
        .services
        .for_rollout(&executor.key(executor.name()));
    release(
        executor,
        bound.iter().filter(|cached| !executor.is_owned(cached)),
    )
    .await
}

/// Releases the Services that the plan no longer uses. They would not be switched to the next
/// revision, so they select all pods of the Rollout, as without a router.
///
/// # Errors
/// The first failure, after all Services have been tried.
pub async fn release_orphaned_services(executor: &EffectExecutor<'_>) -> Result<(), EffectError> {
    let routing = executor.plan.services();
    let named = |name: &str| routing.is_some_and(|routing| routing.side_of(name).is_some());
    let bound = executor
        .cache
        .services
        .for_rollout(&executor.key(executor.name()));
    let is_orphaned = |cached: &&Arc<CachedService>| {
        cached.selects.is_some() && !named(&cached.identity().key.name)
    };
    release(executor, bound.iter().filter(is_orphaned)).await
}

async fn release(
    executor: &EffectExecutor<'_>,
    services: impl Iterator<Item = &Arc<CachedService>>,
) -> Result<(), EffectError> {
    let api: Api<Service> = Api::namespaced(executor.client.clone(), executor.namespace());
    let mut failure = None;
    for cached in services {
        let name = &cached.identity().key.name;
        let mut patch = json!({
            "metadata": preconditions(cached),
            "spec": {"selector": {REVISION_LABEL: null}},
        });
        if !executor.is_owned(cached) {
            patch["metadata"]["labels"] = json!({ROLLOUT_LABEL: null});
        }
        let write = executor.write_service(&api, name, patch);
        match executor.within_time(write).await {
            Ok(()) => {
                tracing::info!(service = %name, "released Service: it selects pods of any revision");
            }
            // The Service was deleted, replaced or changed.
            Err(error @ (EffectError::Refused { .. } | EffectError::Conflict(_)))
                if executor.cache.services.get(&executor.key(name)).is_none() =>
            {
                if executor.is_still_labelled(&api, cached).await? {
                    failure = Some(error);
                }
            }
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(()), Err)
}

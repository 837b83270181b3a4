//! The stable and canary Services: created if they do not exist, and bound to a revision by their
//! selector.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use kube::Api;
use kube::api::{ObjectMeta, Patch};
use serde_json::{Map, Value, json};
use serin_core::effect::Side;
use serin_core::units::Revision;
use serin_crds::api_status;
use serin_crds::names::{REVISION_LABEL, ROLLOUT_LABEL};
use tokio::time::timeout;

use super::ports::{
    PortInputs, merge_ports, routed_ports, same_ports, service_ports, unreachable_port,
    with_node_ports_of, without_node_ports,
};
use super::{EffectError, EffectExecutor, TIMEOUT, patch_params, post_params};
use crate::cluster_cache::{CachedObject, CachedService, DeclaredPort, container_ports};

/// The cluster IP of a headless Service.
const HEADLESS: &str = "None";

/// The ports that are relevant for the two Services.
struct PodPorts {
    /// The ports declared by the selected revision.
    declared: Vec<DeclaredPort>,
    /// The ports declared by the Rollout's spec.
    upcoming: Vec<DeclaredPort>,
    /// The port numbers that the routes use to reach the Services.
    routed: BTreeSet<i32>,
}

impl EffectExecutor<'_> {
    pub(super) async fn bind_service(
        &self,
        side: Side,
        name: &str,
        revision: &Revision,
    ) -> Result<(), EffectError> {
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
        if let Some(other) = cached
            .rollout
            .as_deref()
            .filter(|other| *other != self.name())
        {
            return Err(EffectError::Impossible(format!(
                "Service {name} belongs to Rollout {other}"
            )));
        }
        if cached.selects.as_ref() == Some(revision) && cached.rollout.is_some() {
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
        self.write_service(api, name, patch).await?;
        tracing::info!(service = %name, %revision, "bound Service to revision");
        Ok(())
    }

    async fn write_service(
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
        let Some(routing) = self.plan.routing() else {
            return Ok(());
        };
        let api: Api<Service> = Api::namespaced(self.client.clone(), self.namespace());
        let mut failure = None;
        for (side, name) in [
            (Side::Stable, &routing.stable_service),
            (Side::Canary, &routing.canary_service),
        ] {
            let Some(cached) = self
                .cache
                .services
                .get(&self.key(name))
                .filter(|cached| self.is_owned(cached))
            else {
                continue;
            };
            let Some(revision) = cached.selects.clone() else {
                continue;
            };
            let Some(mut patch) = self.shape_change(side, &cached, &revision) else {
                continue;
            };
            json_patch::merge(&mut patch, &json!({"metadata": preconditions(&cached)}));
            match timeout(TIMEOUT, self.write_service(&api, name, patch))
                .await
                .unwrap_or(Err(EffectError::Timeout))
            {
                Ok(()) => {
                    tracing::info!(service = %name, %revision, "updated Service");
                }
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn is_owned(&self, service: &CachedService) -> bool {
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
        let Some(routing) = self.plan.routing() else {
            return Ok(());
        };
        let name = &routing.stable_service;
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
            .find(|route| !self.snapshot.routes.contains_key(&route.name));
        absent.map_or(Ok(()), |absent| {
            let service = if side == Side::Stable {
                name
            } else {
                &routing.canary_service
            };
            Err(EffectError::Impossible(format!(
                "Service {service} will be created once route {} exists, because the route \
                 determines its ports",
                absent.name
            )))
        })
    }

    fn stable_service(&self) -> Option<Arc<CachedService>> {
        self.cache
            .services
            .get(&self.key(&self.plan.routing()?.stable_service))
    }

    /// The ports declared by a revision. Empty if its template is unknown.
    fn declared(&self, revision: &Revision) -> Vec<DeclaredPort> {
        if let Some(set) = self.snapshot.replica_sets.get(revision) {
            return set.ports.clone();
        }
        // Its ReplicaSet has not been created yet.
        let is_current = self.status.current_revision.as_deref() == Some(revision.as_str());
        if is_current {
            self.upcoming()
        } else {
            Vec::new()
        }
    }

    fn upcoming(&self) -> Vec<DeclaredPort> {
        self.spec
            .map(|spec| container_ports::from_json(&spec.template.spec))
            .unwrap_or_default()
    }

    fn pod_ports(&self, revision: &Revision) -> PodPorts {
        let routes = self.snapshot.routes.values().map(AsRef::as_ref);
        let names: Vec<&str> = self
            .plan
            .routing()
            .map(|routing| {
                vec![
                    routing.stable_service.as_str(),
                    routing.canary_service.as_str(),
                ]
            })
            .unwrap_or_default();
        PodPorts {
            declared: self.declared(revision),
            upcoming: self.upcoming(),
            routed: routed_ports(routes, &names),
        }
    }

    /// Checks that the pods of a revision can be reached through the ports of the user's Services,
    /// before traffic is sent to them. A stable Service that is already bound can be switched back
    /// without this check.
    fn check_reachable(
        &self,
        side: Side,
        cached: Option<&CachedService>,
        revision: &Revision,
    ) -> Result<(), EffectError> {
        let is_first = cached.is_none_or(|cached| cached.selects.is_none());
        if side == Side::Stable && !is_first {
            return Ok(());
        }
        let pods = self.pod_ports(revision);
        let stable = self.stable_service().filter(|_| side == Side::Canary);
        let before = stable.as_ref().and_then(|stable| stable.selects.as_ref());
        let before = before
            .map(|revision| self.declared(revision))
            .unwrap_or_default();
        let of_user = cached
            .into_iter()
            .chain(stable.as_deref())
            .filter(|service| !self.is_owned(service));
        for service in of_user {
            let ports = service.spec.ports.as_deref().unwrap_or_default();
            if let Some(problem) = unreachable_port(ports, &pods.declared, &before, &pods.routed) {
                let name = &service.identity().key.name;
                return Err(EffectError::Impossible(format!(
                    "Service {name} cannot reach the pods of revision {revision}: {problem}"
                )));
            }
        }
        Ok(())
    }

    /// The desired spec of a Service created by Serin.
    fn shape(
        &self,
        side: Side,
        cached: Option<&CachedService>,
        revision: &Revision,
    ) -> ServiceShape {
        let own = cached
            .and_then(|cached| cached.spec.ports.as_deref())
            .unwrap_or_default();
        let stable = self.stable_service().filter(|_| side == Side::Canary);
        let Some(stable) = stable else {
            let previous = cached.and_then(|cached| cached.selects.as_ref());
            let ports = self.ports_of_revision(own, previous, revision);
            return ServiceShape {
                spec: ServiceSpec {
                    ports: Some(ports),
                    ..ServiceSpec::default()
                },
                ..ServiceShape::default()
            };
        };
        let ports_of_stable = stable.spec.ports.as_deref().unwrap_or_default();
        let ports = if self.is_owned(&stable) {
            // The targets of its own ports refer to its own revision. The ports of a new Service
            // refer to the stable revision.
            let previous = cached.unwrap_or(&stable).selects.as_ref();
            self.ports_of_revision(&merge_ports(own, ports_of_stable), previous, revision)
        } else {
            without_node_ports(ports_of_stable)
        };
        ServiceShape::copy_of(&stable, ports)
    }

    fn ports_of_revision(
        &self,
        existing: &[ServicePort],
        previous: Option<&Revision>,
        revision: &Revision,
    ) -> Vec<ServicePort> {
        let PodPorts {
            declared,
            upcoming,
            routed,
        } = self.pod_ports(revision);
        let previous = previous
            .map(|previous| self.declared(previous))
            .unwrap_or_default();
        service_ports(&PortInputs {
            existing,
            declared: &declared,
            previous: &previous,
            upcoming: &upcoming,
            routed: &routed,
        })
    }

    /// The merge patch that applies the desired spec. `None` if there is no difference.
    fn shape_change(
        &self,
        side: Side,
        cached: &CachedService,
        revision: &Revision,
    ) -> Option<Value> {
        self.shape(side, Some(cached), revision)
            .merge_patch_for(cached)
    }
}

/// The fields that Serin sets in the Services that it creates. It never sets external fields (type,
/// node ports, addresses) or `publishNotReadyAddresses`: a canary gets no requests before it is
/// ready.
#[derive(Debug, Default)]
struct ServiceShape {
    spec: ServiceSpec,
    annotations: BTreeMap<String, String>,
    is_copy: bool,
}

impl ServiceShape {
    /// A copy of the Service of the other side.
    fn copy_of(stable: &CachedService, ports: Vec<ServicePort>) -> Self {
        let from = stable.spec.clone();
        let is_headless = from.cluster_ip.as_deref() == Some(HEADLESS);
        Self {
            spec: ServiceSpec {
                ports: Some(ports),
                cluster_ip: is_headless.then(|| HEADLESS.to_owned()),
                ip_families: from.ip_families,
                ip_family_policy: from.ip_family_policy,
                internal_traffic_policy: from.internal_traffic_policy,
                session_affinity: from.session_affinity,
                session_affinity_config: from.session_affinity_config,
                traffic_distribution: from.traffic_distribution,
                ..ServiceSpec::default()
            },
            annotations: stable.annotations.clone(),
            is_copy: true,
        }
    }

    fn merge_patch_for(&self, cached: &CachedService) -> Option<Value> {
        let (wanted, now) = (&self.spec, &cached.spec);
        let mut spec = Map::new();
        let mut annotations = Map::new();
        let mut set = |field: &str, wanted: Value, now: Value| {
            if wanted != now {
                spec.insert(field.to_owned(), wanted);
            }
        };
        let ports = wanted.ports.as_deref().unwrap_or_default();
        if self.is_copy {
            set(
                "sessionAffinity",
                json!(wanted.session_affinity),
                json!(now.session_affinity),
            );
            set(
                "sessionAffinityConfig",
                json!(wanted.session_affinity_config),
                json!(now.session_affinity_config),
            );
            set(
                "internalTrafficPolicy",
                json!(wanted.internal_traffic_policy),
                json!(now.internal_traffic_policy),
            );
            set(
                "trafficDistribution",
                json!(wanted.traffic_distribution),
                json!(now.traffic_distribution),
            );
            // The first IP family and the headless property of a Service are immutable.
            let first = |spec: &ServiceSpec| {
                spec.ip_families
                    .as_ref()
                    .and_then(|families| families.first().cloned())
            };
            if first(wanted) == first(now) {
                set(
                    "ipFamilies",
                    json!(wanted.ip_families),
                    json!(now.ip_families),
                );
                set(
                    "ipFamilyPolicy",
                    json!(wanted.ip_family_policy),
                    json!(now.ip_family_policy),
                );
            }
            let left = cached
                .annotations
                .keys()
                .filter(|name| !self.annotations.contains_key(*name));
            annotations.extend(left.map(|name| (name.clone(), Value::Null)));
            let changed = self
                .annotations
                .iter()
                .filter(|(name, value)| cached.annotations.get(*name) != Some(value));
            annotations.extend(changed.map(|(name, value)| (name.clone(), json!(value))));
        }
        let with_node_ports = with_node_ports_of(ports, now.ports.as_deref().unwrap_or_default());
        if !ports.is_empty()
            && !same_ports(&with_node_ports, now.ports.as_deref().unwrap_or_default())
        {
            spec.insert("ports".to_owned(), json!(with_node_ports));
        }
        if spec.is_empty() && annotations.is_empty() {
            return None;
        }
        let mut change = json!({"spec": spec});
        if !annotations.is_empty() {
            change["metadata"] = json!({"annotations": annotations});
        }
        Some(change)
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
    let named = |name: &String| {
        executor.plan.routing().is_some_and(|routing| {
            [&routing.stable_service, &routing.canary_service].contains(&name)
        })
    };
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
            "metadata": {"uid": cached.identity().uid},
            "spec": {"selector": {REVISION_LABEL: null}},
        });
        if !executor.is_owned(cached) {
            patch["metadata"]["labels"] = json!({ROLLOUT_LABEL: null});
        }
        match timeout(TIMEOUT, executor.write_service(&api, name, patch))
            .await
            .unwrap_or(Err(EffectError::Timeout))
        {
            Ok(()) => {
                tracing::info!(service = %name, "released Service: it selects pods of any revision");
            }
            // The Service was deleted or replaced.
            Err(EffectError::Refused { .. } | EffectError::Conflict(_))
                if executor.cache.services.get(&executor.key(name)).is_none() => {}
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(()), Err)
}

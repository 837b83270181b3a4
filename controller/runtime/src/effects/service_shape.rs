//! The fields of the Services that Serin creates: their ports follow the revision that they select,
//! and the canary Service is a copy of the stable one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
use serde_json::{Map, Value, json};
use serin_core::effect::Side;
use serin_core::plan::Routing;
use serin_core::units::Revision;

use super::ports::{
    PortInputs, merge_ports, routed_ports, same_ports, service_ports, unreachable_port,
    with_node_ports_of, without_node_ports,
};
use super::{EffectError, EffectExecutor};
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
    pub(super) fn stable_service(&self) -> Option<Arc<CachedService>> {
        self.cache
            .services
            .get(&self.key(self.plan.services()?.stable_service()))
    }

    /// The ports declared by a revision. Empty if its template is unknown.
    fn declared(&self, revision: &Revision) -> Vec<DeclaredPort> {
        if let Some(set) = self.snapshot.replica_sets.get(revision) {
            return set.ports.clone();
        }
        // Its ReplicaSet has not been created yet.
        let is_current = self.status.state.current_revision.as_ref() == Some(revision);
        if is_current {
            self.upcoming()
        } else {
            Vec::new()
        }
    }

    fn upcoming(&self) -> Vec<DeclaredPort> {
        self.spec
            .map(|spec| container_ports::from_json(&spec.template.spec.to_value()))
            .unwrap_or_default()
    }

    fn pod_ports(&self, revision: &Revision) -> PodPorts {
        let routes = self.snapshot.routes.iter();
        let routes = routes.map(|((kind, _), route)| (*kind, route.as_ref()));
        let services = self.plan.services().map(Routing::services);
        let names: Vec<&str> = services
            .into_iter()
            .flatten()
            .map(|(_, name)| name.as_str())
            .collect();
        PodPorts {
            declared: self.declared(revision),
            upcoming: self.upcoming(),
            routed: routed_ports(routes, &names),
        }
    }

    /// Checks that the pods of a revision can be reached through the ports of the user's Services,
    /// before traffic is sent to them. A stable Service that is already bound can be switched back
    /// without this check.
    pub(super) fn check_reachable(
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
    pub(super) fn shape(
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
    pub(super) fn shape_change(
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
pub(super) struct ServiceShape {
    pub spec: ServiceSpec,
    pub annotations: BTreeMap<String, String>,
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

//! The two Services: made where they are absent, and bound to a revision by their selector.

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
    PortInputs, joined, routed_ports, same_ports, service_ports, unreachable_port,
    with_node_ports_of, without_node_ports,
};
use super::{EffectError, Hands, TIMEOUT, patch_params, post_params};
use crate::world::{ContainerPortFact, Fact, ServiceFact, ports};

/// The cluster IP of a headless Service.
const HEADLESS: &str = "None";

/// What is known of the pods behind the two Services.
struct PodPorts {
    /// What the selected revision declares.
    declared: Vec<ContainerPortFact>,
    /// What the Rollout's spec declares.
    upcoming: Vec<ContainerPortFact>,
    /// The port numbers by which the routes reach the Services.
    routed: BTreeSet<i32>,
}

impl Hands<'_> {
    pub(super) async fn bind_service(
        &self,
        side: Side,
        name: &str,
        revision: &Revision,
    ) -> Result<(), EffectError> {
        let api: Api<Service> = Api::namespaced(self.client.clone(), self.namespace());
        if let Some(known) = self.world.services.get(&self.key(name)) {
            return self.patch_service(&api, side, &known, revision).await;
        }
        let made = self.new_service(&api, side, name, revision).await?;
        self.may_write("Service", "create")?;
        match api.create(&post_params(), &made).await {
            Ok(service) => {
                self.world.services.put(ServiceFact::from(service));
                Ok(())
            }
            Err(kube::Error::Api(status)) if api_status::is_already_exists(&status) => {
                let found = api
                    .get(name)
                    .await
                    .map_err(EffectError::api(format!("Service {name}")))?;
                let found = self.world.services.put(ServiceFact::from(found));
                if self.is_ours(&found) {
                    return self.patch_service(&api, side, &found, revision).await;
                }
                // Somebody else's, which is changed only once the Rollout holds its finalizer.
                Err(EffectError::Conflict(format!("Service {name}")))
            }
            Err(error) => Err(EffectError::api(format!("Service {name}"))(error)),
        }
    }

    async fn patch_service(
        &self,
        api: &Api<Service>,
        side: Side,
        known: &ServiceFact,
        revision: &Revision,
    ) -> Result<(), EffectError> {
        let name = &known.identity().key.name;
        if let Some(other) = known
            .rollout
            .as_deref()
            .filter(|other| *other != self.name())
        {
            return Err(EffectError::Impossible(format!(
                "Service {name} belongs to Rollout {other}"
            )));
        }
        if known.selects.as_ref() == Some(revision) && known.rollout.is_some() {
            return Ok(());
        }
        if known.spec.type_.as_deref() == Some("ExternalName") {
            return Err(EffectError::Impossible(format!(
                "Service {name} is of type ExternalName, which selects no pods: make it a ClusterIP Service"
            )));
        }
        self.check_reachable(side, Some(known), revision)?;
        let mut patch = json!({
            "metadata": {
                "resourceVersion": known.identity().resource_version,
                "uid": known.identity().uid,
                "labels": {ROLLOUT_LABEL: self.name()},
            },
            "spec": {"selector": {REVISION_LABEL: revision.as_str()}},
        });
        // In the same write: at no moment do the selector and the ports belong to different
        // revisions.
        if self.is_ours(known)
            && let Some(change) = self.shape_change(side, known, revision)
        {
            json_patch::merge(&mut patch, &change);
        }
        self.write_service(api, name, patch).await?;
        tracing::info!(service = %name, %revision, "the Service picks this revision");
        Ok(())
    }

    async fn write_service(
        &self,
        api: &Api<Service>,
        name: &str,
        patch: Value,
    ) -> Result<(), EffectError> {
        self.may_write("Service", "patch")?;
        let patched = api.patch(name, &patch_params(), &Patch::Merge(patch)).await;
        self.forget_if_gone(&patched, name);
        let patched = patched.map_err(EffectError::api(format!("Service {name}")))?;
        self.world.services.put(ServiceFact::from(patched));
        Ok(())
    }

    /// Brings the Services that Serin made up to date while their revision stays: the routes, the
    /// template or the user's stable Service may have changed.
    ///
    /// # Errors
    /// The first failure, after both have been tried.
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
            let Some(known) = self
                .world
                .services
                .get(&self.key(name))
                .filter(|known| self.is_ours(known))
            else {
                continue;
            };
            let Some(revision) = known.selects.clone() else {
                continue;
            };
            let Some(mut patch) = self.shape_change(side, &known, &revision) else {
                continue;
            };
            json_patch::merge(&mut patch, &json!({"metadata": preconditions(&known)}));
            match timeout(TIMEOUT, self.write_service(&api, name, patch))
                .await
                .unwrap_or(Err(EffectError::Timeout))
            {
                Ok(()) => {
                    tracing::info!(service = %name, %revision, "updated the ports of the Service")
                }
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn is_ours(&self, service: &ServiceFact) -> bool {
        service.owner_uid.as_deref() == Some(self.rollout.uid())
    }

    fn forget_if_gone<T>(&self, answer: &kube::Result<T>, name: &str) {
        if let Err(kube::Error::Api(status)) = answer
            && (api_status::is_missing_object(status)
                || api_status::is_conflict(status)
                // A patch that names the UID of a predecessor is invalid, and no conflict.
                || api_status::is_invalid(status))
        {
            // What is known of it is out of date; the next look reads it again.
            self.world.services.remove(&self.key(name));
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
        self.read_stable(api, side).await?;
        self.check_reachable(side, None, revision)?;
        let shape = self.shape(side, None, revision);
        if shape.spec.ports.as_ref().is_none_or(Vec::is_empty) && shape.spec.cluster_ip.is_none() {
            return Err(EffectError::Impossible(format!(
                "Service {name} does not exist and cannot be made: no container of the template names a port; \
                 write spec.template.spec.containers[].ports, or make the Service"
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

    /// The canary's Service is made after the stable one. A new Service needs to know by which port
    /// it is reached, which the routes say: one that was applied a moment after its Rollout is
    /// waited for.
    async fn read_stable(&self, api: &Api<Service>, side: Side) -> Result<(), EffectError> {
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
                self.world.services.put(ServiceFact::from(stable));
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
            let service = if side == Side::Stable { name } else { &routing.canary_service };
            Err(EffectError::Impossible(format!(
                "Service {service} is made once route {} exists, which says by which port it is reached",
                absent.name
            )))
        })
    }

    fn stable_service(&self) -> Option<Arc<ServiceFact>> {
        self.world
            .services
            .get(&self.key(&self.plan.routing()?.stable_service))
    }

    /// What a revision's containers declare; nothing if its template is not known any more.
    fn declared(&self, revision: &Revision) -> Vec<ContainerPortFact> {
        if let Some(set) = self.snapshot.replica_sets.get(revision) {
            return set.ports.clone();
        }
        // Its ReplicaSet has yet to be made.
        let is_current = self.status.current_revision.as_deref() == Some(revision.as_str());
        if is_current {
            self.upcoming()
        } else {
            Vec::new()
        }
    }

    fn upcoming(&self) -> Vec<ContainerPortFact> {
        self.spec
            .map(|spec| ports::of_json(&spec.template.spec))
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

    /// Whether the pods of a revision can be reached by the ports of the user's Services: told
    /// before traffic is sent there, not by failing requests. A Service that has a revision already
    /// is switched back without questions.
    fn check_reachable(
        &self,
        side: Side,
        known: Option<&ServiceFact>,
        revision: &Revision,
    ) -> Result<(), EffectError> {
        let is_first = known.is_none_or(|known| known.selects.is_none());
        if side == Side::Stable && !is_first {
            return Ok(());
        }
        let pods = self.pod_ports(revision);
        let stable = self.stable_service().filter(|_| side == Side::Canary);
        let before = stable.as_ref().and_then(|stable| stable.selects.as_ref());
        let before = before
            .map(|revision| self.declared(revision))
            .unwrap_or_default();
        let of_user = known
            .into_iter()
            .chain(stable.as_deref())
            .filter(|service| !self.is_ours(service));
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

    /// How a Service that Serin makes must look for this revision.
    fn shape(&self, side: Side, known: Option<&ServiceFact>, revision: &Revision) -> Shape {
        let own = known
            .and_then(|known| known.spec.ports.as_deref())
            .unwrap_or_default();
        let stable = self.stable_service().filter(|_| side == Side::Canary);
        let Some(stable) = stable else {
            let previous = known.and_then(|known| known.selects.as_ref());
            let ports = self.ports_of_revision(own, previous, revision);
            return Shape {
                spec: ServiceSpec {
                    ports: Some(ports),
                    ..ServiceSpec::default()
                },
                ..Shape::default()
            };
        };
        let ports_of_stable = stable.spec.ports.as_deref().unwrap_or_default();
        let ports = if self.is_ours(&stable) {
            // The targets of the ports that it has are written for its own revision, those of a new
            // one for stable's.
            let previous = known.unwrap_or(&stable).selects.as_ref();
            self.ports_of_revision(&joined(own, ports_of_stable), previous, revision)
        } else {
            without_node_ports(ports_of_stable)
        };
        Shape::like(&stable, ports)
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

    /// The merge patch that gives a Service its shape; `None` if it has it.
    fn shape_change(&self, side: Side, known: &ServiceFact, revision: &Revision) -> Option<Value> {
        self.shape(side, Some(known), revision).change_of(known)
    }
}

/// The fields of a Service that Serin sets in those that it makes. Nothing external is among them:
/// no type, no node port, no address. Neither is `publishNotReadyAddresses`: a canary gets no
/// request before it is ready.
#[derive(Debug, Default)]
struct Shape {
    spec: ServiceSpec,
    annotations: BTreeMap<String, String>,
    is_copy: bool,
}

impl Shape {
    /// As this Service, which serves the other side.
    fn like(stable: &ServiceFact, ports: Vec<ServicePort>) -> Self {
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

    fn change_of(&self, known: &ServiceFact) -> Option<Value> {
        let (wanted, now) = (&self.spec, &known.spec);
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
            // The first family of a Service cannot be changed, nor can whether it is headless.
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
            let left = known
                .annotations
                .keys()
                .filter(|name| !self.annotations.contains_key(*name));
            annotations.extend(left.map(|name| (name.clone(), Value::Null)));
            let changed = self
                .annotations
                .iter()
                .filter(|(name, value)| known.annotations.get(*name) != Some(value));
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

fn preconditions(known: &ServiceFact) -> Value {
    json!({"uid": known.identity().uid, "resourceVersion": known.identity().resource_version})
}

/// Takes our hand off the user's Services: they select the user's pods again, whatever their
/// revision.
///
/// # Errors
/// The first failure, after all have been tried.
pub async fn release_all(hands: &Hands<'_>) -> Result<(), EffectError> {
    let bound = hands.world.services.of_rollout(&hands.key(hands.name()));
    release(hands, bound.iter().filter(|known| !hands.is_ours(known))).await
}

/// Takes our hand off the Services that the plan names no longer. Nobody would switch them to the
/// next revision, so each selects all pods of the Rollout from now on, as without a router.
///
/// # Errors
/// The first failure, after all have been tried.
pub async fn release_left(hands: &Hands<'_>) -> Result<(), EffectError> {
    let named = |name: &String| {
        hands.plan.routing().is_some_and(|routing| {
            [&routing.stable_service, &routing.canary_service].contains(&name)
        })
    };
    let bound = hands.world.services.of_rollout(&hands.key(hands.name()));
    let is_left =
        |known: &&Arc<ServiceFact>| known.selects.is_some() && !named(&known.identity().key.name);
    release(hands, bound.iter().filter(is_left)).await
}

async fn release(
    hands: &Hands<'_>,
    services: impl Iterator<Item = &Arc<ServiceFact>>,
) -> Result<(), EffectError> {
    let api: Api<Service> = Api::namespaced(hands.client.clone(), hands.namespace());
    let mut failure = None;
    for known in services {
        let name = &known.identity().key.name;
        let mut patch = json!({
            "metadata": {"uid": known.identity().uid},
            "spec": {"selector": {REVISION_LABEL: null}},
        });
        if !hands.is_ours(known) {
            patch["metadata"]["labels"] = json!({ROLLOUT_LABEL: null});
        }
        match timeout(TIMEOUT, hands.write_service(&api, name, patch))
            .await
            .unwrap_or(Err(EffectError::Timeout))
        {
            Ok(()) => {
                tracing::info!(service = %name, "the Service selects pods of any revision again")
            }
            // Gone, or created again by somebody else.
            Err(EffectError::Refused { .. } | EffectError::Conflict(_))
                if hands.world.services.get(&hands.key(name)).is_none() => {}
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(()), Err)
}

//! The two Services: made where they are absent, and bound to a revision by their selector.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Api;
use kube::api::{ObjectMeta, Patch};
use serde_json::{Value, json};
use serin_core::effect::Side;
use serin_core::units::Revision;
use serin_crds::names::{REVISION_LABEL, ROLLOUT_LABEL};
use serin_crds::{RolloutSpec, api_status};

use super::{EffectError, Hands, patch_params, post_params};
use crate::world::{Fact, RouteFact, ServiceFact};

impl Hands<'_> {
    pub(super) async fn bind_service(&self, side: Side, name: &str, revision: &Revision) -> Result<(), EffectError> {
        let api: Api<Service> = Api::namespaced(self.client.clone(), self.namespace());
        if let Some(known) = self.world.services.get(&self.key(name)) {
            return self.patch_service(&api, &known, revision).await;
        }
        let made = self.new_service(&api, side, name, revision).await?;
        self.may_write("Service", "create")?;
        match api.create(&post_params(), &made).await {
            Ok(service) => {
                self.world.services.put(ServiceFact::from(service));
                Ok(())
            }
            Err(kube::Error::Api(status)) if api_status::is_already_exists(&status) => {
                let found = api.get(name).await.map_err(EffectError::api(format!("Service {name}")))?;
                let found = self.world.services.put(ServiceFact::from(found));
                self.patch_service(&api, &found, revision).await
            }
            Err(error) => Err(EffectError::api(format!("Service {name}"))(error)),
        }
    }

    async fn patch_service(
        &self,
        api: &Api<Service>,
        known: &ServiceFact,
        revision: &Revision,
    ) -> Result<(), EffectError> {
        let name = &known.identity().key.name;
        if let Some(other) = known.rollout.as_deref().filter(|other| *other != self.name()) {
            return Err(EffectError::Impossible(format!("Service {name} belongs to Rollout {other}")));
        }
        if known.selects.as_ref() == Some(revision) && known.rollout.is_some() {
            return Ok(());
        }
        let patch = json!({
            "metadata": {
                "resourceVersion": known.identity().resource_version,
                "uid": known.identity().uid,
                "labels": {ROLLOUT_LABEL: self.name()},
            },
            "spec": {"selector": {REVISION_LABEL: revision.as_str()}},
        });
        self.may_write("Service", "patch")?;
        let patched = api.patch(name, &patch_params(), &Patch::Merge(patch)).await;
        self.forget_if_gone(&patched, name);
        let patched = patched.map_err(EffectError::api(format!("Service {name}")))?;
        self.world.services.put(ServiceFact::from(patched));
        tracing::info!(service = %name, %revision, "the Service picks this revision");
        Ok(())
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
        let ports = match self.ports_of_stable(api, side).await? {
            Some(ports) => ports,
            None => self.ports_of_containers(spec, name)?,
        };
        let mut selector: BTreeMap<String, String> = spec.selector.match_labels.clone().unwrap_or_default();
        selector.insert(ROLLOUT_LABEL.to_owned(), self.name().to_owned());
        selector.insert(REVISION_LABEL.to_owned(), revision.as_str().to_owned());
        Ok(Service {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(self.namespace().to_owned()),
                labels: Some(BTreeMap::from([(ROLLOUT_LABEL.to_owned(), self.name().to_owned())])),
                owner_references: Some(vec![self.owner()?]),
                ..ObjectMeta::default()
            },
            spec: Some(ServiceSpec { selector: Some(selector), ports: Some(ports), ..ServiceSpec::default() }),
            status: None,
        })
    }

    /// The canary's Service has the ports of the stable one.
    async fn ports_of_stable(&self, api: &Api<Service>, side: Side) -> Result<Option<Vec<ServicePort>>, EffectError> {
        let Some(routing) = self.plan.routing().filter(|_| side == Side::Canary) else { return Ok(None) };
        let name = &routing.stable_service;
        let stable = api.get_opt(name).await.map_err(EffectError::api(format!("Service {name}")))?;
        let ports = stable.and_then(|stable| stable.spec).and_then(|spec| spec.ports);
        let without_node_port = |port| ServicePort { node_port: None, ..port };
        Ok(ports.map(|ports| ports.into_iter().map(without_node_port).collect()))
    }

    fn ports_of_containers(&self, spec: &RolloutSpec, service: &str) -> Result<Vec<ServicePort>, EffectError> {
        // A route that was applied a moment after its Rollout says by which port it wants to be served.
        let routes = self.plan.routing().map(|routing| routing.routes.as_slice()).unwrap_or_default();
        if let Some(absent) = routes.iter().find(|route| !self.snapshot.routes.contains_key(&route.name)) {
            return Err(EffectError::Impossible(format!(
                "Service {service} is made once route {} exists, which says by which port it is reached",
                absent.name
            )));
        }
        let mut routes = self.snapshot.routes.values();
        let backend_port = routes.find_map(|route| backend_port(route, service));
        let ports = ports(&spec.template.spec, backend_port);
        if ports.is_empty() {
            return Err(EffectError::Impossible(format!(
                "Service {service} does not exist and cannot be made: no container of the template names a port; \
                 write spec.template.spec.containers[].ports, or make the Service"
            )));
        }
        Ok(ports)
    }
}

/// The port by which a route reaches a Service.
fn backend_port(route: &RouteFact, service: &str) -> Option<i32> {
    let rules = route.object.pointer("/spec/rules")?.as_array()?;
    let backends = rules.iter().filter_map(|rule| rule.get("backendRefs")?.as_array()).flatten();
    let mut ports = backends
        .filter(|backend| backend.get("name").and_then(Value::as_str) == Some(service))
        .filter_map(|backend| i32::try_from(backend.get("port")?.as_i64()?).ok());
    ports.next()
}

/// The ports of the containers; where the route reaches the Service by another port, that one leads to the first.
fn ports(pod_spec: &Value, backend_port: Option<i32>) -> Vec<ServicePort> {
    let containers = pod_spec.get("containers").and_then(Value::as_array).into_iter().flatten();
    let container_ports = containers.filter_map(|container| container.get("ports")?.as_array()).flatten();
    let mut ports: Vec<ServicePort> = container_ports
        .filter_map(|port| {
            let number = i32::try_from(port.get("containerPort")?.as_i64()?).ok()?;
            let text = |field: &str| port.get(field).and_then(Value::as_str).map(str::to_owned);
            Some(ServicePort {
                name: Some(text("name").unwrap_or_else(|| format!("port-{number}"))),
                port: number,
                protocol: text("protocol"),
                target_port: Some(IntOrString::Int(number)),
                ..ServicePort::default()
            })
        })
        .collect();
    if let Some(wanted) = backend_port.filter(|wanted| ports.iter().all(|port| port.port != *wanted)) {
        match ports.first_mut() {
            Some(first) => first.port = wanted,
            None => ports.push(ServicePort {
                port: wanted,
                target_port: Some(IntOrString::Int(wanted)),
                ..ServicePort::default()
            }),
        }
    }
    ports
}

/// Takes our hand off a Service that was there before us: it picks the user's pods again, whatever their revision.
///
/// # Errors
/// Where the API server refuses it.
pub async fn release(hands: &Hands<'_>, name: &str) -> Result<(), EffectError> {
    let Some(known) = hands.world.services.get(&hands.key(name)) else { return Ok(()) };
    let is_ours = known.owner_uid.as_deref() == Some(hands.rollout.uid());
    if is_ours || known.rollout.as_deref() != Some(hands.name()) {
        return Ok(());
    }
    let api: Api<Service> = Api::namespaced(hands.client.clone(), hands.namespace());
    let patch = json!({
        "metadata": {"uid": known.identity().uid, "labels": {ROLLOUT_LABEL: null}},
        "spec": {"selector": {REVISION_LABEL: null}},
    });
    hands.may_write("Service", "patch")?;
    match api.patch(name, &patch_params(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if api_status::is_missing_object(&status) => Ok(()),
        Err(error) => Err(EffectError::api(format!("Service {name}"))(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Identity;

    #[test]
    fn the_routes_port_leads_to_the_containers() {
        let pod =
            json!({"containers": [{"ports": [{"containerPort": 8080, "name": "http"}, {"containerPort": 9090}]}]});
        let told: Vec<_> =
            ports(&pod, Some(80)).into_iter().map(|port| (port.name, port.port, port.target_port)).collect();
        assert_eq!(
            told,
            [
                (Some("http".into()), 80, Some(IntOrString::Int(8080))),
                (Some("port-9090".into()), 9090, Some(IntOrString::Int(9090))),
            ]
        );
        assert_eq!(ports(&pod, Some(9090))[0].port, 8080);
        assert_eq!(ports(&json!({"containers": [{}]}), Some(80))[0].port, 80);
        assert!(ports(&json!({"containers": [{}]}), None).is_empty());
    }

    #[test]
    fn a_routes_port_is_that_of_the_services_backend() {
        let object =
            json!({"spec": {"rules": [{"backendRefs": [{"name": "other", "port": 1}, {"name": "shop", "port": 80}]}]}});
        let route = RouteFact { identity: Identity::default(), generation: 1, object };
        assert_eq!(backend_port(&route, "shop"), Some(80));
        assert_eq!(backend_port(&route, "none"), None);
    }
}

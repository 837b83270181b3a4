//! The EndpointSlice controller.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::schedule::Controller;
use super::{ControllerContext, DelayedWork, is_controlled_by, is_terminating, pod_is_ready};
use crate::api::{DeleteOptions, ObjectKey, ObjectPart, ObjectStore, Selector, metadata_str};

/// Maximum number of endpoints per slice, as in the real controller.
const SLICE_LIMIT: usize = 100;

const SERVICES: &str = "services";
const SLICES: &str = "endpointslices.discovery.k8s.io";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

#[derive(Default)]
pub(super) struct EndpointSliceController {
    /// Services whose slices are outdated.
    outdated: DelayedWork<ObjectKey>,
}

type Objects = Vec<(ObjectKey, Arc<Value>)>;

impl Controller for EndpointSliceController {
    fn input_version(store: &ObjectStore) -> u64 {
        store.newest_version_of(&["pods", SERVICES, SLICES])
    }

    fn reconcile(&mut self, context: &mut ControllerContext<'_>) {
        for key in self.affected(context) {
            let service = context.store.get(&key).cloned();
            let service = service.filter(|service| has_selector(service));
            let Some(service) = service.filter(|service| !is_terminating(service)) else {
                self.outdated.cancel(&key);
                continue;
            };
            let uid = metadata_str(&service, "uid");
            let existing: Objects = objects_beside(context, &key, SLICES)
                .filter(|(_, slice)| is_controlled_by(slice, uid))
                .map(|(key, slice)| (key.clone(), Arc::clone(slice)))
                .collect();
            let desired = desired_slices(&service, objects_beside(context, &key, "pods"));
            if matches_desired(&existing, &desired) {
                self.outdated.cancel(&key);
            } else if self
                .outdated
                .is_due(key.clone(), context.tuning.endpoints, context)
            {
                self.outdated.cancel(&key);
                apply_slices(context, &key, &existing, desired);
            }
        }
    }
}

impl EndpointSliceController {
    /// The Services whose slices may have to change, and those that wait for a time.
    fn affected(&self, context: &ControllerContext<'_>) -> BTreeSet<ObjectKey> {
        let Some(changes) = context.new_changes() else {
            return context.keys(SERVICES);
        };
        let mut affected: BTreeSet<ObjectKey> = self.outdated.items().cloned().collect();
        for change in changes {
            match change.key.resource.as_str() {
                SERVICES => affected.extend([change.key.clone()]),
                SLICES => affected.extend(change.states().map(|slice| {
                    ObjectKey {
                        resource: SERVICES.to_owned(),
                        namespace: change.key.namespace.clone(),
                        name: slice["metadata"]["labels"][SERVICE_LABEL]
                            .as_str()
                            .unwrap_or_default()
                            .to_owned(),
                    }
                })),
                "pods" => {
                    let services = objects_beside(context, &change.key, SERVICES);
                    let selecting = services.filter(|(_, service)| {
                        let selector = Selector::from_labels(&service["spec"]["selector"]);
                        change.states().any(|pod| selector.matches(pod))
                    });
                    affected.extend(selecting.map(|(key, _)| key.clone()));
                }
                _ => {}
            }
        }
        affected
    }
}

fn has_selector(service: &Value) -> bool {
    let selector = service["spec"]["selector"].as_object();
    selector.is_some_and(|selector| !selector.is_empty())
}

/// The objects of a resource in the namespace of an object.
fn objects_beside<'s>(
    context: &'s ControllerContext<'_>,
    key: &'s ObjectKey,
    resource: &'static str,
) -> impl Iterator<Item = (&'s ObjectKey, &'s Arc<Value>)> {
    context.store.list(resource, Some(&key.namespace))
}

fn matches_desired(existing: &Objects, desired: &[Value]) -> bool {
    existing.len() == desired.len()
        && existing
            .iter()
            .zip(desired)
            .all(|((_, slice), desired)| same_content(slice, desired))
}

fn same_content(slice: &Value, desired: &Value) -> bool {
    slice["endpoints"] == desired["endpoints"]
        && slice["ports"] == desired["ports"]
        && slice["metadata"]["labels"] == desired["metadata"]["labels"]
}

fn apply_slices(
    context: &mut ControllerContext<'_>,
    service: &ObjectKey,
    existing: &Objects,
    desired: Vec<Value>,
) {
    for (key, _) in existing.iter().skip(desired.len()) {
        context.delete(key, &DeleteOptions::default());
    }
    for (index, desired) in desired.into_iter().enumerate() {
        match existing.get(index) {
            None => context.create(SLICES, &service.namespace, desired),
            Some((key, slice)) if !same_content(slice, &desired) => {
                let mut next = Value::clone(slice);
                next["endpoints"] = desired["endpoints"].clone();
                next["ports"] = desired["ports"].clone();
                next["metadata"]["labels"] = desired["metadata"]["labels"].clone();
                context.write(key, next, ObjectPart::Main);
            }
            Some(_) => {}
        }
    }
}

/// The desired slices of a Service: at least one, even without endpoints. As in the real
/// controller, pods that resolve the Service's ports to different numbers are in different slices.
fn desired_slices<'s>(
    service: &Value,
    pods: impl Iterator<Item = (&'s ObjectKey, &'s Arc<Value>)>,
) -> Vec<Value> {
    let selector = Selector::from_labels(&service["spec"]["selector"]);
    let selected =
        pods.filter(|(_, pod)| selector.matches(pod) && pod["status"]["podIP"].is_string());
    let mut by_ports: Vec<(Vec<Value>, Vec<Value>)> = Vec::new();
    for (key, pod) in selected {
        let ports = resolved_ports(service, pod);
        match by_ports.iter_mut().find(|(known, _)| *known == ports) {
            Some((_, endpoints)) => endpoints.push(endpoint(key, pod)),
            None => by_ports.push((ports, vec![endpoint(key, pod)])),
        }
    }
    if by_ports.is_empty() {
        return vec![slice(service, &[], &[])];
    }
    let chunks = by_ports.iter().flat_map(|(ports, endpoints)| {
        endpoints
            .chunks(SLICE_LIMIT)
            .map(move |chunk| (ports, chunk))
    });
    chunks
        .map(|(ports, endpoints)| slice(service, ports, endpoints))
        .collect()
}

/// The Service's ports, resolved for a pod. A named port that no container declares is omitted.
fn resolved_ports(service: &Value, pod: &Value) -> Vec<Value> {
    let containers = super::list(pod, "/spec/containers").iter();
    let declared: Vec<&Value> = containers
        .flat_map(|container| super::list(container, "/ports"))
        .collect();
    let resolve = |port: &Value| {
        let target = &port["targetPort"];
        if target.is_number() {
            return Some(target.clone());
        }
        let named = declared
            .iter()
            .find(|known| known["name"] == *target && known["protocol"] == port["protocol"])?;
        Some(named["containerPort"].clone())
    };
    let ports = super::list(service, "/spec/ports").iter();
    ports
        .filter_map(|port| {
            let number = resolve(port)?;
            Some(json!({"name": port["name"].as_str().unwrap_or_default(), "port": number, "protocol": port["protocol"]}))
        })
        .collect()
}

fn slice(service: &Value, ports: &[Value], endpoints: &[Value]) -> Value {
    let name = metadata_str(service, "name");
    let mut labels: Map<String, Value> = service["metadata"]["labels"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    labels.insert(SERVICE_LABEL.into(), name.into());
    labels.insert(
        "endpointslice.kubernetes.io/managed-by".into(),
        "endpointslice-controller.k8s.io".into(),
    );
    let owner = json!({
        "apiVersion": "v1", "kind": "Service", "name": name, "uid": metadata_str(service, "uid"),
        "controller": true, "blockOwnerDeletion": true,
    });
    json!({
        "metadata": {"generateName": format!("{name}-"), "labels": labels, "ownerReferences": [owner]},
        "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
    })
}

fn endpoint(key: &ObjectKey, pod: &Value) -> Value {
    let (serving, terminating) = (pod_is_ready(pod), is_terminating(pod));
    json!({
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": serving && !terminating, "serving": serving, "terminating": terminating},
        "nodeName": pod["spec"]["nodeName"],
        "targetRef": {"kind": "Pod", "namespace": key.namespace, "name": key.name, "uid": metadata_str(pod, "uid")},
    })
}

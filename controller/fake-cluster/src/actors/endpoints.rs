//! Keeps EndpointSlices as the Services' selectors and the pods say.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Due, Moment, is_controlled_by, is_going, pod_is_ready};
use crate::api::{DeleteOptions, Key, Part, Selector, field};

/// As many endpoints as the real controller puts into one slice.
const SLICE_LIMIT: usize = 100;

#[derive(Default)]
pub(super) struct Endpoints {
    /// Services whose slices are wrong.
    wrong: Due<Key>,
}

type Objects = Vec<(Key, Arc<Value>)>;

impl Endpoints {
    pub(super) fn act(&mut self, moment: &mut Moment<'_>) {
        let mut pods: HashMap<String, Objects> = HashMap::new();
        for (key, pod) in moment.all("pods") {
            pods.entry(key.namespace.clone())
                .or_default()
                .push((key, pod));
        }
        let slices = moment.all("endpointslices.discovery.k8s.io");
        for (key, service) in moment.all("services") {
            let selects = service["spec"]["selector"]
                .as_object()
                .is_some_and(|selector| !selector.is_empty());
            if !selects || is_going(&service) {
                continue;
            }
            let uid = field(&service, "uid");
            let existing: Objects = slices
                .iter()
                .filter(|(_, slice)| is_controlled_by(slice, uid))
                .cloned()
                .collect();
            let wanted = slices_of(
                &service,
                pods.get(&key.namespace).map_or(&[], Vec::as_slice),
            );
            if is_as_wanted(&existing, &wanted) {
                self.wrong.settle(&key);
            } else if self
                .wrong
                .has_waited(key.clone(), moment.tuning.endpoints, moment)
            {
                self.wrong.settle(&key);
                make_so(moment, &key, &existing, wanted);
            }
        }
    }
}

fn is_as_wanted(existing: &Objects, wanted: &[Value]) -> bool {
    existing.len() == wanted.len()
        && existing
            .iter()
            .zip(wanted)
            .all(|((_, slice), wanted)| same_content(slice, wanted))
}

fn same_content(slice: &Value, wanted: &Value) -> bool {
    slice["endpoints"] == wanted["endpoints"]
        && slice["ports"] == wanted["ports"]
        && slice["metadata"]["labels"] == wanted["metadata"]["labels"]
}

fn make_so(moment: &mut Moment<'_>, service: &Key, existing: &Objects, wanted: Vec<Value>) {
    for (key, _) in existing.iter().skip(wanted.len()) {
        moment.delete(key, &DeleteOptions::default());
    }
    for (index, wanted) in wanted.into_iter().enumerate() {
        match existing.get(index) {
            None => moment.create(
                "endpointslices.discovery.k8s.io",
                &service.namespace,
                wanted,
            ),
            Some((key, slice)) if !same_content(slice, &wanted) => {
                let mut next = Value::clone(slice);
                next["endpoints"] = wanted["endpoints"].clone();
                next["ports"] = wanted["ports"].clone();
                next["metadata"]["labels"] = wanted["metadata"]["labels"].clone();
                moment.write(key, next, Part::Main);
            }
            Some(_) => {}
        }
    }
}

/// The slices that a Service should have: at least one, even without endpoints. As in the real
/// controller, pods that resolve the Service's ports to different numbers are in different slices.
fn slices_of(service: &Value, pods: &[(Key, Arc<Value>)]) -> Vec<Value> {
    let selector = Selector::from_labels(&service["spec"]["selector"]);
    let chosen = pods
        .iter()
        .filter(|(_, pod)| selector.matches(pod) && pod["status"]["podIP"].is_string());
    let mut by_ports: Vec<(Vec<Value>, Vec<Value>)> = Vec::new();
    for (key, pod) in chosen {
        let ports = ports_of(service, pod);
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

/// The Service's ports as this pod serves them: a name that none of its containers has is left out.
fn ports_of(service: &Value, pod: &Value) -> Vec<Value> {
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
    let name = field(service, "name");
    let mut labels: Map<String, Value> = service["metadata"]["labels"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    labels.insert("kubernetes.io/service-name".into(), name.into());
    labels.insert(
        "endpointslice.kubernetes.io/managed-by".into(),
        "endpointslice-controller.k8s.io".into(),
    );
    let owner = json!({
        "apiVersion": "v1", "kind": "Service", "name": name, "uid": field(service, "uid"),
        "controller": true, "blockOwnerDeletion": true,
    });
    json!({
        "metadata": {"generateName": format!("{name}-"), "labels": labels, "ownerReferences": [owner]},
        "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
    })
}

fn endpoint(key: &Key, pod: &Value) -> Value {
    let (serving, terminating) = (pod_is_ready(pod), is_going(pod));
    json!({
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": serving && !terminating, "serving": serving, "terminating": terminating},
        "nodeName": pod["spec"]["nodeName"],
        "targetRef": {"kind": "Pod", "namespace": key.namespace, "name": key.name, "uid": field(pod, "uid")},
    })
}

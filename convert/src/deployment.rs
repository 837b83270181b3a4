//! Deployments that no other controller releases.

use serde_json::{Map, Value, json};

use crate::http_route::{from_ingress, gateway_parent};
use crate::note::Translation;
use crate::objects::Objects;
use crate::rollout::RolloutDraft;

/// Fields of a Deployment's spec that a Rollout has under the same name.
const SHARED: [&str; 6] = [
    "replicas",
    "selector",
    "template",
    "minReadySeconds",
    "revisionHistoryLimit",
    "progressDeadlineSeconds",
];

/// Converts a Deployment: to a Rollout that refers to it, or to one with its template.
pub(crate) fn convert(set: &Objects<'_>, object: &Value) -> Translation {
    let mut draft = RolloutDraft::new(object);
    let name = draft.name().to_owned();
    let spec = &object["spec"];
    if set.options.inline {
        for field in SHARED {
            let value = Some(spec[field].clone()).filter(|value| !value.is_null());
            draft
                .spec
                .extend(value.map(|value| (field.to_owned(), value)));
        }
        draft
            .spec
            .insert("adopt".to_owned(), json!({"deployment": name}));
        draft.notes.kept(
            "spec.template",
            "the Rollout has the template, and takes over the pods of the Deployment",
        );
    } else {
        let workload = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": name});
        draft.spec.insert("workloadRef".to_owned(), workload);
    }
    let rolling = &spec["strategy"]["rollingUpdate"];
    for field in ["maxSurge", "maxUnavailable"] {
        let value = Some(rolling[field].clone()).filter(|value| !value.is_null());
        draft
            .canary
            .extend(value.map(|value| (field.to_owned(), value)));
    }
    if spec["strategy"]["type"] == "Recreate" {
        draft.notes.changed(
            "spec.strategy.type",
            "old and new pods run side by side during a release",
            "do not convert it if two versions must not run at once",
        );
    }
    traffic(set, object, &mut draft);
    objective(set, &mut draft);
    if draft.steps.is_empty() && draft.analysis.is_empty() {
        draft.notes.changed(
            "spec.strategy",
            "without steps and analysis a release goes to 100 % at once",
            "add spec.analysis (--indicator NAME), or spec.strategy.canary.steps",
        );
    }
    let keeps_deployment = !set.options.inline;
    let mut finished = draft.finish();
    if keeps_deployment && !finished.outputs.is_empty() {
        finished.outputs.insert(0, object.clone());
    }
    finished
}

/// The Service of the pods, and the route to it.
fn traffic(set: &Objects<'_>, object: &Value, draft: &mut RolloutDraft) {
    let namespace = object["metadata"]["namespace"].as_str();
    let labels = &object["spec"]["template"]["metadata"]["labels"];
    let services = set.services_selecting(namespace, labels);
    let routed = services.iter().filter_map(|service| {
        let name = service["metadata"]["name"].as_str()?;
        let route = set.http_route_with_backend(namespace, name);
        let ingresses = set.ingresses_with_backend(namespace, name);
        (route.is_some() || !ingresses.is_empty()).then_some((name, route, ingresses))
    });
    let routed: Vec<_> = routed.collect();
    let (name, route, ingresses) = match routed.as_slice() {
        [] => return,
        [only] => only,
        [first, ..] => {
            draft.notes.lost(
                "spec.selector",
                format!("several Services have a route: only {} is split", first.0),
                "set stableService and trafficRouting of the Rollout",
            );
            first
        }
    };
    if let Some(route) = route {
        draft.set_route(route["metadata"]["name"].as_str().unwrap_or_default());
    } else if let Some(parent) = gateway_parent(set) {
        let mut refs: Vec<Value> = Vec::new();
        for ingress in ingresses {
            for route in from_ingress(set, ingress, &parent, &mut draft.notes) {
                refs.push(json!({"name": route["metadata"]["name"]}));
                draft.others.push(route);
            }
        }
        let routing = json!({"gatewayAPI": {"httpRoutes": refs}});
        draft.canary.insert("trafficRouting".to_owned(), routing);
    } else {
        draft.notes.not_yet(
            "spec",
            format!(
                "the Ingress of Service {name} cannot be split: the pods determine the weights"
            ),
            "convert with --gateway NAMESPACE/NAME to move the traffic to an HTTPRoute",
        );
        return;
    }
    draft.canary.insert("stableService".to_owned(), json!(name));
    // They have no effect with a router.
    draft.canary.remove("maxSurge");
    draft.canary.remove("maxUnavailable");
}

/// The default objective, if a source of counters was given.
fn objective(set: &Objects<'_>, draft: &mut RolloutDraft) {
    let Some(indicator) = set.options.indicator.as_deref() else {
        return;
    };
    if !draft.has_router() && indicator != "pod" {
        return;
    }
    let mut entry = Map::new();
    entry.insert("name".to_owned(), json!("availability"));
    entry.insert("objective".to_owned(), json!(99.9));
    entry.insert("indicator".to_owned(), json!(indicator));
    if draft.analysis.add(entry).is_ok() {
        draft.notes.changed(
            "spec",
            "an objective of 99.9 % was added, because a Deployment has none",
            "set it to the service level objective of the service",
        );
    }
}

//! Canary Ingresses of ingress-nginx that no controller manages.

use serde_json::{Value, json};

pub(crate) use crate::http_route::NGINX as PREFIX;
use crate::http_route::{from_ingress, gateway_parent};
use crate::note::{Notes, Translation};
use crate::objects::{Objects, ingress_backends};

/// Whether an Ingress has the annotation of a canary.
pub(crate) fn is_canary(ingress: &Value) -> bool {
    ingress["metadata"]["annotations"][format!("{PREFIX}canary")] == "true"
}

/// Annotations of the main Ingress that a canary Ingress does not inherit. The others it does, or they
/// are ignored in it.
const NOT_INHERITED: [&str; 2] = ["load-balance", "upstream-hash-by"];

/// A canary Ingress for the hosts and paths of `ingress` that lead to the Service `stable`. `None` if
/// none does.
pub(crate) fn canary_ingress(ingress: &Value, stable: &str, canary: &str) -> Option<Value> {
    let of_stable = |path: &Value| {
        let mut path = path.clone();
        let name = path.pointer_mut("/backend/service/name")?;
        if name != stable {
            return None;
        }
        *name = json!(canary);
        Some(path)
    };
    let rules = ingress["spec"]["rules"].as_array().into_iter().flatten();
    let rules = rules.filter_map(|rule| {
        let paths = rule["http"]["paths"].as_array().into_iter().flatten();
        let paths: Vec<Value> = paths.filter_map(of_stable).collect();
        let mut rule = rule.clone();
        rule["http"]["paths"] = json!(paths);
        (!paths.is_empty()).then_some(rule)
    });
    let rules: Vec<Value> = rules.collect();
    if rules.is_empty() {
        return None;
    }
    let metadata = &ingress["metadata"];
    let mut annotations = json!({(format!("{PREFIX}canary")): "true"});
    let kept = NOT_INHERITED.map(|short| format!("{PREFIX}{short}"));
    for key in kept
        .into_iter()
        .chain(["kubernetes.io/ingress.class".to_owned()])
    {
        if let Some(value) = metadata["annotations"].get(&key) {
            annotations[key] = value.clone();
        }
    }
    let name = metadata["name"].as_str().unwrap_or_default();
    let mut made = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": format!("{name}-canary"), "annotations": annotations},
        "spec": {"rules": rules},
    });
    for (object, field) in [
        ("metadata", "namespace"),
        ("metadata", "labels"),
        ("spec", "ingressClassName"),
        ("spec", "tls"),
    ] {
        let value = &ingress[object][field];
        if !value.is_null() {
            made[object][field] = value.clone();
        }
    }
    Some(made)
}

/// Keeps a canary Ingress, which a Rollout can name.
fn keep_unclaimed(canary: &Value, field: &str) -> Translation {
    let mut notes = Notes::default();
    let name = canary["metadata"]["name"].as_str().unwrap_or_default();
    notes.changed(
        field,
        "a Rollout that names this Ingress sets its weight, which is 0 while no release is in progress",
        format!(
            "set trafficRouting.nginx.canaryIngress: {name} in the Rollout of its main Ingress, and \
             its backend as canaryService"
        ),
    );
    Translation {
        outputs: vec![canary.clone()],
        notes,
    }
}

/// Converts the canary Ingress and the primary Ingress of the same host to an HTTPRoute with two
/// weighted backends.
pub(crate) fn convert_unclaimed(set: &Objects<'_>, canary: &Value) -> Translation {
    let field = format!("metadata.annotations.{PREFIX}canary");
    let Some(parent) = gateway_parent(set) else {
        return keep_unclaimed(canary, &field);
    };
    let namespace = canary["metadata"]["namespace"].as_str();
    let host = &canary["spec"]["rules"][0]["host"];
    let is_primary = |ingress: &&Value| {
        !is_canary(ingress)
            && ingress["metadata"]["namespace"].as_str() == namespace
            && ingress["spec"]["rules"][0]["host"] == *host
    };
    let primary = set.of_kind("networking.k8s.io", "Ingress").find(is_primary);
    let (Some(primary), Some(canary_service)) =
        (primary, ingress_backends(canary).first().copied())
    else {
        return Translation::refused(
            &field,
            "the Ingress of the stable Service is not part of the input",
            "convert it together with the primary Ingress of the same host",
        );
    };
    let annotations = &canary["metadata"]["annotations"];
    let weight = annotations[format!("{PREFIX}canary-weight")].as_str();
    let weight: i64 = weight.and_then(|weight| weight.parse().ok()).unwrap_or(0);
    let total = annotations[format!("{PREFIX}canary-weight-total")].as_str();
    let total: i64 = total.and_then(|total| total.parse().ok()).unwrap_or(100);
    let mut notes = Notes::default();
    let mut routes = from_ingress(set, primary, &parent, &mut notes);
    for route in &mut routes {
        for rule in route["spec"]["rules"].as_array_mut().into_iter().flatten() {
            let stable = rule["backendRefs"][0].clone();
            let with = |service: &Value, weight: i64| json!({"name": service, "port": stable["port"], "weight": weight});
            rule["backendRefs"] = json!([
                with(&stable["name"], total - weight),
                with(&json!(canary_service), weight),
            ]);
        }
    }
    notes.changed(
        field,
        "the HTTPRoute splits the traffic; a Rollout with these two Services sets the weights",
        "convert it together with the Deployments, and set canaryService of the Rollout",
    );
    Translation {
        outputs: routes,
        notes,
    }
}

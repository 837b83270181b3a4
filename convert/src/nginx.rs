//! Canary Ingresses of ingress-nginx that no controller manages.

use serde_json::{Value, json};

use crate::http_route::{NGINX, from_ingress, gateway_parent};
use crate::note::{Notes, Translation};
use crate::objects::{Objects, ingress_backends};

/// Whether an Ingress has the annotation of a canary.
pub(crate) fn is_canary(ingress: &Value) -> bool {
    ingress["metadata"]["annotations"][format!("{NGINX}canary")] == "true"
}

/// Converts the canary Ingress and the primary Ingress of the same host to an HTTPRoute with two
/// weighted backends.
pub(crate) fn convert_unclaimed(set: &Objects<'_>, canary: &Value) -> Translation {
    let field = format!("metadata.annotations.{NGINX}canary");
    let Some(parent) = gateway_parent(set) else {
        return Translation::refused(
            &field,
            "Serin does not write the canary annotations of ingress-nginx",
            "convert with --gateway NAMESPACE/NAME to move the traffic to an HTTPRoute of that Gateway",
        );
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
    let weight = annotations[format!("{NGINX}canary-weight")].as_str();
    let weight: i64 = weight.and_then(|weight| weight.parse().ok()).unwrap_or(0);
    let total = annotations[format!("{NGINX}canary-weight-total")].as_str();
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

//! What the API server fills in, as far as controllers see it: a template is not stored as it was sent.

use serde_json::{Map, Value, json};

use super::kinds::Kind;

/// The status of an object that has just been created, where the kind has one from the start.
pub(crate) fn first_status(kind: &Kind) -> Option<Value> {
    match kind.resource().as_str() {
        "replicasets.apps" => Some(json!({"replicas": 0})),
        "deployments.apps" => Some(json!({})),
        "pods" => Some(json!({"phase": "Pending", "qosClass": "BestEffort"})),
        "services" => Some(json!({"loadBalancer": {}})),
        _ => None,
    }
}

/// Fills in what the real server would.
pub(crate) fn fill(kind: &Kind, object: &mut Value) {
    let Some(spec) = object.get_mut("spec") else { return };
    match kind.resource().as_str() {
        "replicasets.apps" | "deployments.apps" => {
            set(spec, "replicas", json!(1));
            if let Some(pod) = spec["template"].get_mut("spec") {
                pod_spec(pod);
            }
        }
        "pods" => pod_spec(spec),
        "services" => service(spec),
        "httproutes.gateway.networking.k8s.io" => http_route(spec),
        _ => {}
    }
}

fn set(object: &mut Value, field: &str, value: Value) {
    if let Value::Object(fields) = object {
        fields.entry(field).or_insert(value);
    }
}

fn each(object: &mut Value, list: &str, mut change: impl FnMut(&mut Value)) {
    if let Some(Value::Array(items)) = object.get_mut(list) {
        items.iter_mut().for_each(&mut change);
    }
}

fn pod_spec(spec: &mut Value) {
    set(spec, "restartPolicy", json!("Always"));
    set(spec, "terminationGracePeriodSeconds", json!(30));
    set(spec, "dnsPolicy", json!("ClusterFirst"));
    set(spec, "securityContext", json!({}));
    set(spec, "schedulerName", json!("default-scheduler"));
    for list in ["containers", "initContainers"] {
        each(spec, list, container);
    }
}

fn container(container: &mut Value) {
    set(container, "resources", json!({}));
    set(container, "terminationMessagePath", json!("/dev/termination-log"));
    set(container, "terminationMessagePolicy", json!("File"));
    let image = container["image"].as_str().unwrap_or_default();
    let tag = image.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
    let always = !image.contains('@') && tag.is_none_or(|tag| tag == "latest");
    set(container, "imagePullPolicy", json!(if always { "Always" } else { "IfNotPresent" }));
    each(container, "ports", |port| set(port, "protocol", json!("TCP")));
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe) {
            for (field, value) in
                [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
            {
                set(probe, field, json!(value));
            }
            if let Some(get) = probe.get_mut("httpGet") {
                set(get, "scheme", json!("HTTP"));
            }
        }
    }
    for which in ["requests", "limits"] {
        if let Some(Value::Object(quantities)) = container["resources"].get_mut(which) {
            quantities.values_mut().for_each(canonical_quantity);
        }
    }
}

/// `1000m`, `1.0` and `1` are one quantity, stored in one way.
fn canonical_quantity(quantity: &mut Value) {
    let text = match quantity {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return,
    };
    let thousandths = match text.strip_suffix('m') {
        Some(number) => number.parse::<i64>().ok(),
        None => whole_thousandths(&text),
    };
    let canonical = match thousandths {
        Some(n) if n % 1000 == 0 => (n / 1000).to_string(),
        Some(n) => format!("{n}m"),
        // Binary and larger decimal suffixes are kept as written.
        None => text,
    };
    *quantity = canonical.into();
}

fn whole_thousandths(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    format!("{whole}{fraction:0<3}").parse().ok()
}

fn service(spec: &mut Value) {
    set(spec, "type", json!("ClusterIP"));
    set(spec, "sessionAffinity", json!("None"));
    each(spec, "ports", |port| {
        set(port, "protocol", json!("TCP"));
        let number = port["port"].clone();
        set(port, "targetPort", number);
    });
}

fn http_route(spec: &mut Value) {
    each(spec, "parentRefs", |parent| {
        set(parent, "group", json!("gateway.networking.k8s.io"));
        set(parent, "kind", json!("Gateway"));
    });
    each(spec, "rules", |rule| {
        let default_matches = json!([{"path": {"type": "PathPrefix", "value": "/"}}]);
        if rule.as_object().is_some_and(|rule: &Map<_, _>| !rule.contains_key("matches")) {
            set(rule, "matches", default_matches);
        }
        each(rule, "backendRefs", |backend| {
            set(backend, "group", json!(""));
            set(backend, "kind", json!("Service"));
            set(backend, "weight", json!(1));
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ways_to_write_a_quantity_are_stored_in_one() {
        for (written, stored) in [
            (json!("1000m"), "1"),
            (json!("1"), "1"),
            (json!(1), "1"),
            (json!("0.5"), "500m"),
            (json!("1.50"), "1500m"),
            (json!("128Mi"), "128Mi"),
        ] {
            let mut quantity = written;
            canonical_quantity(&mut quantity);
            assert_eq!(quantity, stored);
        }
    }
}

//! Defaulting, as far as it is visible to controllers. Because of it, a stored pod template differs
//! from the submitted one.

use serde_json::{Map, Value, json};

use super::kinds::ServedKind;

/// The initial status of a new object, if its kind has one.
pub(crate) fn initial_status(kind: &ServedKind) -> Option<Value> {
    match kind.resource().as_str() {
        "replicasets.apps" => Some(json!({"replicas": 0})),
        "deployments.apps" => Some(json!({})),
        "pods" => Some(json!({"phase": "Pending", "qosClass": "BestEffort"})),
        "services" => Some(json!({"loadBalancer": {}})),
        _ => None,
    }
}

/// The part of a structural schema that contains defaults, or `None` if there are none.
pub(crate) fn schema_defaults(schema: &Value) -> Option<Value> {
    let mut kept = Map::new();
    if let Some(default) = schema.get("default") {
        kept.insert("default".into(), default.clone());
    }
    if let Some(Value::Object(properties)) = schema.get("properties") {
        let with_defaults: Map<String, Value> = properties
            .iter()
            .filter_map(|(name, schema)| Some((name.clone(), schema_defaults(schema)?)))
            .collect();
        if !with_defaults.is_empty() {
            kept.insert("properties".into(), with_defaults.into());
        }
    }
    for nested in ["items", "additionalProperties"] {
        kept.extend(
            schema
                .get(nested)
                .and_then(schema_defaults)
                .map(|schema| (nested.to_owned(), schema)),
        );
    }
    (!kept.is_empty()).then(|| kept.into())
}

/// Applies structural defaults to absent fields.
fn apply_schema_defaults(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                // A null that the schema does not allow counts as absent.
                if fields.get(name).is_none_or(Value::is_null)
                    && let Some(default) = schema.get("default")
                {
                    fields.insert(name.clone(), default.clone());
                }
                if let Some(field) = fields.get_mut(name) {
                    apply_schema_defaults(schema, field);
                }
            }
            if let Some(schema) = schema.get("additionalProperties") {
                fields
                    .values_mut()
                    .for_each(|field| apply_schema_defaults(schema, field));
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for item in items {
                    apply_schema_defaults(schema, item);
                }
            }
        }
        _ => {}
    }
}

/// Applies the defaults of the real API server.
pub(crate) fn apply_defaults(kind: &ServedKind, object: &mut Value) {
    if let Some(schema) = &kind.defaults {
        apply_schema_defaults(schema, object);
    }
    let Some(spec) = object.get_mut("spec") else {
        return;
    };
    match kind.resource().as_str() {
        "replicasets.apps" | "deployments.apps" => {
            set_default(spec, "replicas", json!(1));
            if let Some(pod) = spec["template"].get_mut("spec") {
                pod_spec(pod);
            }
        }
        "pods" => pod_spec(spec),
        "services" => service(spec),
        "httproutes.gateway.networking.k8s.io" => {
            gateway_route(spec);
            http_matches(spec);
        }
        "grpcroutes.gateway.networking.k8s.io"
        | "tlsroutes.gateway.networking.k8s.io"
        | "tcproutes.gateway.networking.k8s.io" => gateway_route(spec),
        _ => {}
    }
}

fn set_default(object: &mut Value, field: &str, value: Value) {
    if let Value::Object(fields) = object {
        fields.entry(field).or_insert(value);
    }
}

fn for_each_item(object: &mut Value, list: &str, mut change: impl FnMut(&mut Value)) {
    if let Some(Value::Array(items)) = object.get_mut(list) {
        items.iter_mut().for_each(&mut change);
    }
}

fn pod_spec(spec: &mut Value) {
    set_default(spec, "restartPolicy", json!("Always"));
    set_default(spec, "terminationGracePeriodSeconds", json!(30));
    set_default(spec, "dnsPolicy", json!("ClusterFirst"));
    set_default(spec, "securityContext", json!({}));
    set_default(spec, "schedulerName", json!("default-scheduler"));
    for list in ["containers", "initContainers"] {
        for_each_item(spec, list, container);
    }
}

fn container(container: &mut Value) {
    set_default(container, "resources", json!({}));
    set_default(
        container,
        "terminationMessagePath",
        json!("/dev/termination-log"),
    );
    set_default(container, "terminationMessagePolicy", json!("File"));
    let image = container["image"].as_str().unwrap_or_default();
    let tag = image
        .rsplit('/')
        .next()
        .and_then(|last| last.split_once(':'))
        .map(|(_, tag)| tag);
    let always = !image.contains('@') && tag.is_none_or(|tag| tag == "latest");
    set_default(
        container,
        "imagePullPolicy",
        json!(if always { "Always" } else { "IfNotPresent" }),
    );
    for_each_item(container, "ports", |port| {
        set_default(port, "protocol", json!("TCP"));
    });
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe) {
            for (field, value) in [
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ] {
                set_default(probe, field, json!(value));
            }
            if let Some(get) = probe.get_mut("httpGet") {
                set_default(get, "scheme", json!("HTTP"));
            }
        }
    }
    for which in ["requests", "limits"] {
        if let Some(Value::Object(quantities)) = container["resources"].get_mut(which) {
            quantities.values_mut().for_each(canonical_quantity);
        }
    }
}

/// Converts a quantity to its canonical form: `1000m`, `1.0` and `1` are all stored as `1`.
fn canonical_quantity(quantity: &mut Value) {
    let text = match quantity {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return,
    };
    let thousandths = match text.strip_suffix('m') {
        Some(number) => number.parse::<i64>().ok(),
        None => decimal_to_thousandths(&text),
    };
    let canonical = match thousandths {
        Some(n) if n % 1000 == 0 => (n / 1000).to_string(),
        Some(n) => format!("{n}m"),
        // Quantities with other suffixes are not converted.
        None => text,
    };
    *quantity = canonical.into();
}

fn decimal_to_thousandths(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    format!("{whole}{fraction:0<3}").parse().ok()
}

fn service(spec: &mut Value) {
    set_default(spec, "type", json!("ClusterIP"));
    set_default(spec, "sessionAffinity", json!("None"));
    for_each_item(spec, "ports", |port| {
        set_default(port, "protocol", json!("TCP"));
        let number = port["port"].clone();
        set_default(port, "targetPort", number);
    });
}

/// The defaults that all routes of the Gateway API have.
fn gateway_route(spec: &mut Value) {
    for_each_item(spec, "parentRefs", |parent| {
        set_default(parent, "group", json!("gateway.networking.k8s.io"));
        set_default(parent, "kind", json!("Gateway"));
    });
    for_each_item(spec, "rules", |rule| {
        for_each_item(rule, "backendRefs", |backend| {
            set_default(backend, "group", json!(""));
            set_default(backend, "kind", json!("Service"));
            set_default(backend, "weight", json!(1));
        });
    });
}

fn http_matches(spec: &mut Value) {
    for_each_item(spec, "rules", |rule| {
        let default_matches = json!([{"path": {"type": "PathPrefix", "value": "/"}}]);
        set_default(rule, "matches", default_matches);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structural_defaults_are_applied_to_absent_fields() {
        let schema = schema_defaults(&json!({"properties": {
            "spec": {"properties": {
                "replicas": {"type": "integer", "default": 1},
                "name": {"type": "string"},
                "ports": {"items": {"properties": {"protocol": {"default": "TCP"}}}},
            }},
            "status": {"properties": {"phase": {"type": "string"}}},
        }}))
        .unwrap();
        let mut object = json!({"spec": {"replicas": null, "ports": [{}, {"protocol": "UDP"}]}});
        apply_schema_defaults(&schema, &mut object);
        assert_eq!(
            object,
            json!({"spec": {"replicas": 1, "ports": [{"protocol": "TCP"}, {"protocol": "UDP"}]}})
        );
        let mut empty = json!({});
        apply_schema_defaults(&schema, &mut empty);
        assert_eq!(
            empty,
            json!({}),
            "an absent parent gets none of its children's defaults"
        );
        assert_eq!(
            schema_defaults(&json!({"properties": {"a": {"type": "string"}}})),
            None
        );
    }

    #[test]
    fn equal_quantities_are_stored_in_the_same_form() {
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

//! What the API server fills in, as far as controllers see it: a template is not stored as it was
//! sent.

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

/// The part of a structural schema that has defaults; `None` if there are none.
pub(crate) fn of_schema(schema: &Value) -> Option<Value> {
    let mut kept = Map::new();
    if let Some(default) = schema.get("default") {
        kept.insert("default".into(), default.clone());
    }
    if let Some(Value::Object(properties)) = schema.get("properties") {
        let with_defaults: Map<String, Value> = properties
            .iter()
            .filter_map(|(name, schema)| Some((name.clone(), of_schema(schema)?)))
            .collect();
        if !with_defaults.is_empty() {
            kept.insert("properties".into(), with_defaults.into());
        }
    }
    for nested in ["items", "additionalProperties"] {
        kept.extend(
            schema
                .get(nested)
                .and_then(of_schema)
                .map(|schema| (nested.to_owned(), schema)),
        );
    }
    (!kept.is_empty()).then(|| kept.into())
}

/// Fills in structural defaults: where a field is absent, never where it is null and may be.
fn fill_by_schema(schema: &Value, value: &mut Value) {
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
                    fill_by_schema(schema, field);
                }
            }
            if let Some(schema) = schema.get("additionalProperties") {
                fields
                    .values_mut()
                    .for_each(|field| fill_by_schema(schema, field));
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for item in items {
                    fill_by_schema(schema, item);
                }
            }
        }
        _ => {}
    }
}

/// Fills in what the real server would.
pub(crate) fn fill(kind: &Kind, object: &mut Value) {
    if let Some(schema) = &kind.defaults {
        fill_by_schema(schema, object);
    }
    let Some(spec) = object.get_mut("spec") else {
        return;
    };
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
    set(
        container,
        "terminationMessagePath",
        json!("/dev/termination-log"),
    );
    set(container, "terminationMessagePolicy", json!("File"));
    let image = container["image"].as_str().unwrap_or_default();
    let tag = image
        .rsplit('/')
        .next()
        .and_then(|last| last.split_once(':'))
        .map(|(_, tag)| tag);
    let always = !image.contains('@') && tag.is_none_or(|tag| tag == "latest");
    set(
        container,
        "imagePullPolicy",
        json!(if always { "Always" } else { "IfNotPresent" }),
    );
    each(container, "ports", |port| {
        set(port, "protocol", json!("TCP"))
    });
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe) {
            for (field, value) in [
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ] {
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
        if rule
            .as_object()
            .is_some_and(|rule: &Map<_, _>| !rule.contains_key("matches"))
        {
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
    fn structural_defaults_are_filled_in_where_a_field_is_absent() {
        let schema = of_schema(&json!({"properties": {
            "spec": {"properties": {
                "replicas": {"type": "integer", "default": 1},
                "name": {"type": "string"},
                "ports": {"items": {"properties": {"protocol": {"default": "TCP"}}}},
            }},
            "status": {"properties": {"phase": {"type": "string"}}},
        }}))
        .unwrap();
        let mut object = json!({"spec": {"replicas": null, "ports": [{}, {"protocol": "UDP"}]}});
        fill_by_schema(&schema, &mut object);
        assert_eq!(
            object,
            json!({"spec": {"replicas": 1, "ports": [{"protocol": "TCP"}, {"protocol": "UDP"}]}})
        );
        let mut empty = json!({});
        fill_by_schema(&schema, &mut empty);
        assert_eq!(
            empty,
            json!({}),
            "an absent parent gets none of its children's defaults"
        );
        assert_eq!(
            of_schema(&json!({"properties": {"a": {"type": "string"}}})),
            None
        );
    }

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

//! HTTPRoutes in place of other routers' objects.

use serde_json::{Map, Value, json};

use crate::note::Notes;
use crate::objects::Objects;

/// Prefix of the annotations of ingress-nginx.
pub(crate) const NGINX: &str = "nginx.ingress.kubernetes.io/";

/// The Gateway of the options as a parent of a route. `None` if none was given.
pub(crate) fn gateway_parent(set: &Objects<'_>) -> Option<Value> {
    let gateway = set.options.gateway.as_deref()?;
    Some(match gateway.split_once('/') {
        Some((namespace, name)) => json!({"name": name, "namespace": namespace}),
        None => json!({"name": gateway}),
    })
}

/// An HTTPRoute.
pub(crate) fn http_route(
    name: &str,
    namespace: Option<&str>,
    parents: Vec<Value>,
    hostnames: &[String],
    rules: Vec<Value>,
) -> Value {
    let mut metadata = json!({"name": name});
    if let Some(namespace) = namespace {
        metadata["namespace"] = json!(namespace);
    }
    let mut spec = Map::new();
    spec.insert("parentRefs".to_owned(), Value::Array(parents));
    if !hostnames.is_empty() {
        spec.insert("hostnames".to_owned(), json!(hostnames));
    }
    spec.insert("rules".to_owned(), Value::Array(rules));
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": metadata,
        "spec": spec,
    })
}

/// A rule that sends everything to one Service.
pub(crate) fn plain_rule(service: &str, port: i64) -> Value {
    json!({"backendRefs": [{"name": service, "port": port}]})
}

/// The port of a Service: the number `wanted`, the port with that name, or the only port.
pub(crate) fn service_port(
    set: &Objects<'_>,
    namespace: Option<&str>,
    service: &str,
    wanted: Option<&Value>,
) -> Option<i64> {
    if let Some(number) = wanted.and_then(Value::as_i64) {
        return Some(number);
    }
    let ports = set.service(namespace, service)?["spec"]["ports"].as_array()?;
    let named = wanted.and_then(Value::as_str);
    let port = match named {
        Some(name) => ports.iter().find(|port| port["name"] == name)?,
        None => ports.first()?,
    };
    port["port"].as_i64()
}

/// The HTTPRoutes that take the place of an Ingress: one for all hosts with the same paths.
pub(crate) fn from_ingress(
    set: &Objects<'_>,
    ingress: &Value,
    parent: &Value,
    notes: &mut Notes,
) -> Vec<Value> {
    let namespace = ingress["metadata"]["namespace"].as_str();
    let name = ingress["metadata"]["name"].as_str().unwrap_or_default();
    record_annotations(ingress, name, notes);
    let mut groups: Vec<(Vec<String>, Vec<Value>)> = Vec::new();
    for rule in ingress["spec"]["rules"].as_array().into_iter().flatten() {
        let paths = rule["http"]["paths"].as_array().into_iter().flatten();
        let rules: Vec<Value> = paths
            .filter_map(|path| ingress_rule(set, namespace, path, name, notes))
            .collect();
        let host = rule["host"].as_str().map(ToOwned::to_owned);
        match groups
            .iter_mut()
            .find(|(hosts, same)| *same == rules && !hosts.is_empty())
        {
            Some((hosts, _)) if host.is_some() => hosts.extend(host),
            _ => groups.push((host.into_iter().collect(), rules)),
        }
    }
    if groups.is_empty() && ingress["spec"]["defaultBackend"].is_object() {
        let path = json!({"backend": ingress["spec"]["defaultBackend"]});
        let rule = ingress_rule(set, namespace, &path, name, notes);
        groups.push((Vec::new(), rule.into_iter().collect()));
    }
    if !ingress["spec"]["tls"].is_null() {
        notes.changed(
            format!("Ingress {name}: spec.tls"),
            "certificates belong to the listeners of the Gateway",
            "add an HTTPS listener with the same Secret to the Gateway",
        );
    }
    let routes = groups
        .into_iter()
        .filter(|(_, rules)| !rules.is_empty())
        .enumerate();
    routes
        .map(|(index, (hosts, rules))| {
            let name = match index {
                0 => name.to_owned(),
                _ => format!("{name}-{}", index + 1),
            };
            http_route(&name, namespace, vec![parent.clone()], &hosts, rules)
        })
        .collect()
}

fn ingress_rule(
    set: &Objects<'_>,
    namespace: Option<&str>,
    path: &Value,
    ingress: &str,
    notes: &mut Notes,
) -> Option<Value> {
    let service = path["backend"]["service"]["name"].as_str();
    let port = &path["backend"]["service"]["port"];
    let wanted = [&port["number"], &port["name"]]
        .into_iter()
        .find(|port| !port.is_null());
    let port = service.and_then(|service| service_port(set, namespace, service, wanted));
    let (Some(service), Some(port)) = (service, port) else {
        notes.lost(
            format!("Ingress {ingress}: spec.rules"),
            "the port of a backend is not known",
            "convert it together with its Service, or write the port as a number",
        );
        return None;
    };
    let mut rule = plain_rule(service, port);
    if let Some(text) = path["path"].as_str() {
        let kind = match path["pathType"].as_str() {
            Some("Exact") => "Exact",
            Some("Prefix") => "PathPrefix",
            _ => {
                notes.changed(
                    format!("Ingress {ingress}: spec.rules"),
                    format!("path {text} is matched as a prefix"),
                    "check its matches in the HTTPRoute",
                );
                "PathPrefix"
            }
        };
        rule["matches"] = json!([{"path": {"type": kind, "value": text}}]);
    }
    Some(rule)
}

/// Notes every annotation of ingress-nginx that no route expresses.
fn record_annotations(ingress: &Value, name: &str, notes: &mut Notes) {
    let annotations = ingress["metadata"]["annotations"].as_object();
    for (key, value) in annotations.into_iter().flatten() {
        let Some(short) = key.strip_prefix(NGINX) else {
            continue;
        };
        if short == "canary" || short == "canary-weight" || short == "canary-weight-total" {
            continue;
        }
        let field = format!("Ingress {name}: metadata.annotations.{key}");
        match short {
            "canary-by-header"
            | "canary-by-header-value"
            | "canary-by-header-pattern"
            | "canary-by-cookie" => notes.not_yet(
                field,
                "routing by header or cookie is not supported",
                "route by header with a rule of your own in the HTTPRoute",
            ),
            "ssl-redirect" | "force-ssl-redirect" if value == "false" => {}
            "ssl-redirect" | "force-ssl-redirect" => notes.lost(
                field,
                "the redirect to HTTPS is not converted",
                "add a rule with a RequestRedirect filter to the HTTP listener's route",
            ),
            "rewrite-target" => notes.lost(
                field,
                "the rewrite is not converted",
                "add a URLRewrite filter to the rule",
            ),
            _ => notes.lost(
                field,
                "it has no counterpart in an HTTPRoute",
                "use a policy of your Gateway, if the service needs it",
            ),
        }
    }
}

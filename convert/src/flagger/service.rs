//! `spec.service` of a Canary: its Services and its route.

use serde_json::{Map, Value, json};

use super::Names;
use crate::fields::Fields;
use crate::http_route::{from_ingress, gateway_parent, http_route, service_port};
use crate::objects::Objects;
use crate::rollout::RolloutDraft;

/// Fields of `service` that a router other than Gateway API reads.
const ISTIO_FIELDS: [&str; 5] = [
    "gateways",
    "corsPolicy",
    "trafficPolicy",
    "delegation",
    "headers",
];

/// How the traffic reaches the Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Router {
    GatewayApi,
    Linkerd,
    /// Another router, which `--gateway` replaces.
    Other,
}

/// Sets the Services and the route.
pub(super) fn convert(
    set: &Objects<'_>,
    provider: Option<&str>,
    spec: &mut Fields,
    service: &mut Fields,
    names: &Names,
    draft: &mut RolloutDraft,
) {
    let canary_service = format!("{}-canary", names.apex);
    draft
        .canary
        .insert("stableService".to_owned(), json!(names.apex));
    draft
        .canary
        .insert("canaryService".to_owned(), json!(canary_service));
    let port = service.number("port");
    service.ignore(&[
        "name",
        "targetPort",
        "portName",
        "appProtocol",
        "portDiscovery",
    ]);
    service.ignore(&["unmanagedMetadata"]);
    for field in ["apex", "primary", "canary"] {
        let path = service.path(field);
        if service.take(field).is_some() {
            draft.notes.lost(
                path,
                "Serin sets no labels and annotations of Services",
                "create the Services with them; Serin only changes their selectors",
            );
        }
    }
    let gateways: Vec<Value> = match service.take("gatewayRefs") {
        Some(Value::Array(parents)) => parents,
        _ => Vec::new(),
    };
    let router = match provider {
        Some(name) if name.starts_with("gatewayapi") => Router::GatewayApi,
        Some("linkerd") => Router::Linkerd,
        None if !gateways.is_empty() => Router::GatewayApi,
        _ => Router::Other,
    };
    #[expect(clippy::cast_possible_truncation, reason = "a port number")]
    let port = port.map(|port| port as i64);
    let port = port.or_else(|| service_port(set, names.namespace.as_deref(), &names.apex, None));
    let parents = match router {
        Router::GatewayApi => gateways,
        Router::Linkerd => {
            vec![json!({"group": "", "kind": "Service", "name": names.apex, "port": port})]
        }
        Router::Other => {
            let Some(parent) = other_router(set, provider, spec, service, names, draft) else {
                return;
            };
            vec![parent]
        }
    };
    route(set, service, names, port, parents, draft);
}

/// The Gateway that takes the place of another router. `None` if there is none, or if the route is
/// complete.
fn other_router(
    set: &Objects<'_>,
    provider: Option<&str>,
    spec: &mut Fields,
    service: &mut Fields,
    names: &Names,
    draft: &mut RolloutDraft,
) -> Option<Value> {
    let name = provider.unwrap_or("that Flagger is configured with");
    let Some(parent) = gateway_parent(set) else {
        draft.notes.not_yet(
            "spec.provider",
            format!("Serin does not write the router {name}"),
            "convert with --gateway NAMESPACE/NAME to move the traffic to an HTTPRoute of that \
             Gateway, or keep it on Flagger",
        );
        draft.is_refused = true;
        return None;
    };
    draft.notes.changed(
        "spec.provider",
        format!("an HTTPRoute splits the traffic instead of the router {name}"),
        "let clients use the address of the Gateway, then remove the old route",
    );
    for field in ISTIO_FIELDS {
        let path = service.path(field);
        if service.take(field).is_some() {
            draft.notes.lost(
                path,
                "it has no counterpart in the HTTPRoute",
                "add a filter or a policy of the Gateway, if the service needs it",
            );
        }
    }
    spec.ignore(&["ingressRef"]);
    let ingress = names.ingress.as_deref().and_then(|ingress| {
        set.find(
            ("networking.k8s.io", "Ingress"),
            names.namespace.as_deref(),
            ingress,
        )
    });
    let Some(ingress) = ingress else {
        return Some(parent);
    };
    service.ignore(&["hosts", "match", "timeout", "retries", "rewrite"]);
    let routes = from_ingress(set, ingress, &parent, &mut draft.notes);
    let refs: Vec<Value> = routes
        .iter()
        .map(|route| json!({"name": route["metadata"]["name"]}))
        .collect();
    match refs.as_slice() {
        [] => draft.set_route(&names.apex),
        [only] => draft.set_route(only["name"].as_str().unwrap_or_default()),
        _ => {
            let routing = json!({"gatewayAPI": {"httpRoutes": refs}});
            draft.canary.insert("trafficRouting".to_owned(), routing);
        }
    }
    draft.others.extend(routes);
    None
}

/// Writes the HTTPRoute that Flagger generates from `service`.
fn route(
    set: &Objects<'_>,
    service: &mut Fields,
    names: &Names,
    port: Option<i64>,
    parents: Vec<Value>,
    draft: &mut RolloutDraft,
) {
    let namespace = names.namespace.as_deref();
    draft.set_route(&names.apex);
    if let Some(existing) = set.http_route_with_backend(namespace, &names.apex) {
        let name = existing["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        draft.set_route(&name);
        service.ignore(&["hosts", "match", "timeout", "retries"]);
        return;
    }
    let hosts: Vec<String> = match service.take("hosts") {
        Some(Value::Array(hosts)) => {
            let hosts = hosts.iter().filter_map(|host| host.as_str());
            hosts
                .filter(|host| *host != "*")
                .map(ToOwned::to_owned)
                .collect()
        }
        _ => Vec::new(),
    };
    let Some(port) = port else {
        draft.notes.lost(
            "spec.service.port",
            "no HTTPRoute was written: the port is not known",
            format!(
                "create HTTPRoute {} with a rule for Service {}",
                names.apex, names.apex
            ),
        );
        return;
    };
    let mut rule = Map::new();
    rule.insert(
        "backendRefs".to_owned(),
        json!([{"name": names.apex, "port": port}]),
    );
    let path = service.path("match");
    if let Some(Value::Array(matches)) = service.take("match") {
        let converted: Vec<Option<Value>> = matches.iter().map(route_match).collect();
        if converted.iter().any(Option::is_none) {
            draft
                .notes
                .lost(path, "a match is not converted", "add it to the HTTPRoute");
        }
        let converted: Vec<Value> = converted.into_iter().flatten().collect();
        if !converted.is_empty() {
            rule.insert("matches".to_owned(), Value::Array(converted));
        }
    }
    if let Some(timeout) = service.text("timeout") {
        rule.insert("timeouts".to_owned(), json!({"request": timeout}));
    }
    for (field, fix) in [
        ("retries", "add a retry policy of the Gateway"),
        ("rewrite", "add a URLRewrite filter to the HTTPRoute"),
        (
            "headers",
            "add a RequestHeaderModifier filter to the HTTPRoute",
        ),
        ("mirror", "add a RequestMirror filter to the HTTPRoute"),
        ("corsPolicy", "add a policy of the Gateway"),
        (
            "backendTimeout",
            "add timeouts.backendRequest to the HTTPRoute",
        ),
    ] {
        let path = service.path(field);
        if service.take(field).is_some() {
            draft
                .notes
                .lost(path, "it is not part of the HTTPRoute", fix);
        }
    }
    let rules = vec![Value::Object(rule)];
    draft
        .others
        .push(http_route(&names.apex, namespace, parents, &hosts, rules));
}

/// A match of Istio or Gateway API as one of Gateway API. `None` if it has no counterpart.
fn route_match(source: &Value) -> Option<Value> {
    if source["path"]["type"].is_string() {
        return Some(source.clone());
    }
    let fields = source.as_object()?;
    let uri = fields.get("uri").filter(|_| fields.len() == 1)?;
    let (kind, value) = if let Some(prefix) = uri["prefix"].as_str() {
        ("PathPrefix", prefix)
    } else {
        ("Exact", uri["exact"].as_str()?)
    };
    Some(json!({"path": {"type": kind, "value": value}}))
}

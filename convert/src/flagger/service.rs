//! `spec.service` of a Canary: its Services and its route.

use serde_json::{Map, Value, json};

use super::Names;
use super::generated::has_generated_route;
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

/// Reports the fields that have no counterpart in an HTTPRoute, or need a filter by hand.
fn report_lost_fields(service: &mut Fields, draft: &mut RolloutDraft) {
    for (field, fix) in [
        ("retries", "add a retry policy of the Gateway"),
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
    if !has_generated_route(set, names)
        && let Some(existing) = set.http_route_with_backend(namespace, &names.apex)
    {
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
    let path = service.path("rewrite");
    if let Some(rewrite) = service.take("rewrite") {
        match url_rewrite(&rewrite, rule.get("matches")) {
            Some(filters) if filters.is_empty() => {}
            Some(filters) => {
                rule.insert("filters".to_owned(), Value::Array(filters));
            }
            None => draft.notes.lost(
                path,
                "it is not part of the HTTPRoute",
                "add a URLRewrite filter to the HTTPRoute",
            ),
        }
    }
    if let Some(timeout) = service.text("timeout") {
        rule.insert("timeouts".to_owned(), json!({"request": timeout}));
    }
    report_lost_fields(service, draft);
    let rules = vec![Value::Object(rule)];
    draft
        .others
        .push(http_route(&names.apex, namespace, parents, &hosts, rules));
}

/// A rewrite of Istio as filters of a rule with these matches. Empty if nothing is rewritten, `None`
/// if it has no counterpart.
fn url_rewrite(rewrite: &Value, matches: Option<&Value>) -> Option<Vec<Value>> {
    let fields = rewrite.as_object()?;
    if fields
        .keys()
        .any(|field| field != "uri" && field != "authority")
    {
        return None;
    }
    let mut filter = Map::new();
    if let Some(host) = rewrite["authority"].as_str() {
        filter.insert("hostname".to_owned(), json!(host));
    }
    if let Some(uri) = rewrite["uri"].as_str() {
        let every = json!([{"path": {"type": "PathPrefix", "value": "/"}}]);
        let matches = matches.unwrap_or(&every).as_array()?;
        let all = |kind: &str| matches.iter().all(|found| found["path"]["type"] == kind);
        let is_same = matches.iter().all(|found| found["path"]["value"] == uri);
        let path = if all("PathPrefix") {
            json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": uri})
        } else if all("Exact") {
            json!({"type": "ReplaceFullPath", "replaceFullPath": uri})
        } else {
            return None;
        };
        if !is_same {
            filter.insert("path".to_owned(), path);
        }
    }
    if filter.is_empty() {
        return Some(Vec::new());
    }
    Some(vec![json!({"type": "URLRewrite", "urlRewrite": filter})])
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

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(kind: &str, value: &str) -> Value {
        json!([{"path": {"type": kind, "value": value}}])
    }

    #[test]
    fn a_rewrite_becomes_a_filter_that_fits_the_match() {
        let rewrite = json!({"uri": "/v2"});
        let prefix = url_rewrite(&rewrite, Some(&matches("PathPrefix", "/v1"))).unwrap();
        let path = &prefix[0]["urlRewrite"]["path"];
        assert_eq!(
            path,
            &json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v2"})
        );
        let exact = url_rewrite(&rewrite, Some(&matches("Exact", "/v1"))).unwrap();
        assert_eq!(exact[0]["urlRewrite"]["path"]["replaceFullPath"], "/v2");
        let host = url_rewrite(&json!({"authority": "a.example"}), None).unwrap();
        assert_eq!(host[0]["urlRewrite"], json!({"hostname": "a.example"}));
    }

    #[test]
    fn a_rewrite_of_everything_to_itself_needs_no_filter() {
        assert_eq!(url_rewrite(&json!({"uri": "/"}), None), Some(Vec::new()));
        let root = matches("PathPrefix", "/");
        assert_eq!(
            url_rewrite(&json!({"uri": "/"}), Some(&root)),
            Some(Vec::new())
        );
    }

    #[test]
    fn a_rewrite_without_a_counterpart_is_reported() {
        assert_eq!(url_rewrite(&json!({"uriRegexRewrite": {}}), None), None);
        let regex = matches("RegularExpression", "/v[0-9]");
        assert_eq!(url_rewrite(&json!({"uri": "/"}), Some(&regex)), None);
    }
}

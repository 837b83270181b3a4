//! Istio VirtualService: stable and canary are two destinations of a route.

use serde_json::{Value, json};
use serin_core::layer4_rule::Layer4Rule;
use serin_core::managed_route::{HeaderMatch, RequestMatch, StringMatch};
use serin_core::plan::RouteKind;

use crate::added_rules::{AddedRuleSyntax, Problem};
use crate::backend::{InvalidField, Layout, RoutedUnit, RuleList};
use crate::backend_router::BackendRouter;
use crate::original::OriginalBackend;
use crate::programmed::ProgrammedStatus;

/// VirtualService. The fields that Serin uses are equal in all versions.
pub(crate) static VIRTUAL_SERVICE: BackendRouter = BackendRouter {
    route_kind: RouteKind::VirtualService,
    group: "networking.istio.io",
    versions: &["v1", "v1beta1", "v1alpha3"],
    kind: "VirtualService",
    plural: "virtualservices",
    installed_by: "Istio",
    layout: &LAYOUT,
    // Istio writes the status only if that is switched on, and not for each proxy.
    programmed_status: |_| ProgrammedStatus::UnknownGeneration,
};

static LAYOUT: Layout = Layout {
    rule_lists: &[
        RuleList {
            field: "http",
            is_single: false,
            unit: RoutedUnit::Requests,
        },
        RuleList {
            field: "tls",
            is_single: false,
            unit: RoutedUnit::Connections,
        },
        RuleList {
            field: "tcp",
            is_single: false,
            unit: RoutedUnit::Connections,
        },
    ],
    backends: "route",
    identity: "destination",
    parse_identity,
    set_service,
    default_weight,
    is_rule,
    keeps_total: true,
    persistence: None,
    zero_is_even: false,
    added_rules: Some(&ADDED_RULES),
};

/// The first route that matches counts.
static ADDED_RULES: AddedRuleSyntax = AddedRuleSyntax {
    list: "http",
    matches: "match",
    narrow,
    make_only,
    mirror,
    is_by_specificity: false,
    limits: None,
};

/// A single destination receives all of the traffic, and one of several without a weight none (Istio,
/// `HTTPRouteDestination.weight`).
fn default_weight(destinations: usize) -> u64 {
    if destinations == 1 { 100 } else { 0 }
}

/// The kind of an original destination that is not a whole Service of a cluster.
const HOST: &str = "Host";
const SUBSET: &str = "Subset";

fn parse_identity(backend: &Value, namespace: &str) -> Result<OriginalBackend, InvalidField> {
    let destination = &backend["destination"];
    let Some(host) = destination["host"].as_str() else {
        return Err(InvalidField {
            at: "/destination/host",
            expected: "a string",
        });
    };
    let service = service_of(host);
    let kind_and_name = match (service, destination["subset"].as_str()) {
        (_, Some(subset)) => (Some(SUBSET), format!("{host}/{subset}")),
        (Some((name, _)), None) => (None, name.to_owned()),
        (None, None) => (Some(HOST), host.to_owned()),
    };
    let (kind, name) = kind_and_name;
    let other_namespace = service
        .and_then(|(_, namespace)| namespace)
        .filter(|other| *other != namespace && kind.is_none());
    Ok(OriginalBackend {
        group: None,
        kind: kind.map(Into::into),
        namespace: other_namespace.map(Into::into),
        name,
        port: destination.pointer("/port/number").and_then(Value::as_u64),
        weight: None,
    })
}

/// The Service and its namespace, if the host is `<service>`, `<service>.<namespace>`,
/// `<service>.<namespace>.svc` or `<service>.<namespace>.svc.cluster.local`. A host without a
/// namespace is of the namespace of the VirtualService.
fn service_of(host: &str) -> Option<(&str, Option<&str>)> {
    let Some((service, rest)) = host.split_once('.') else {
        return (host != "*").then_some((host, None));
    };
    let (namespace, domain) = rest.split_once('.').unwrap_or((rest, ""));
    let is_service = ["", "svc", "svc.cluster.local"].contains(&domain) && service != "*";
    is_service.then_some((service, Some(namespace)))
}

/// Replaces the name of the Service, and keeps the form of the host.
fn set_service(backend: &mut Value, service: &str) {
    let host = &mut backend["destination"]["host"];
    let domain = host.as_str().and_then(|host| host.split_once('.'));
    *host = match domain {
        Some((_, domain)) => format!("{service}.{domain}").into(),
        None => service.into(),
    };
}

/// A plan names a rule for HTTP by its name, and a rule for TLS or TCP by what it matches.
fn is_rule(list: &RuleList, rule: &Value, name: &str) -> bool {
    let Ok(named) = name.parse::<Layer4Rule>() else {
        return list.field == "http" && rule["name"] == name;
    };
    let matches = rule["match"].as_array().map_or(&[][..], Vec::as_slice);
    let is_match = |found: &Value| {
        let hosts = found["sniHosts"].as_array().into_iter().flatten();
        let mut hosts: Vec<&str> = hosts.filter_map(Value::as_str).collect();
        hosts.sort_unstable();
        let has_port = |port: u16| found["port"].as_u64() == Some(port.into());
        named.port.is_none_or(has_port) && (named.sni_hosts.is_empty() || named.sni_hosts == hosts)
    };
    list.field == named.protocol.as_str() && matches.iter().any(is_match)
}

/// A destination without a weight has all of the traffic.
fn make_only(destination: &mut Value) {
    if let Some(fields) = destination.as_object_mut() {
        fields.remove("weight");
    }
}

fn narrow(existing: &mut Value, request: &RequestMatch) -> Result<bool, Problem> {
    for HeaderMatch { name, value } in &request.headers {
        let headers = existing["headers"].as_object();
        let mut names = headers.into_iter().flat_map(|headers| headers.keys());
        if names.any(|other| other.eq_ignore_ascii_case(name)) {
            return Err(format!(
                "its rule already matches the header {name}; use another header"
            ));
        }
        // The names of a VirtualService are lowercase.
        existing["headers"][name.to_ascii_lowercase()] = string_match(value);
    }
    if let Some(method) = &request.method {
        match existing["method"].as_object() {
            None => existing["method"] = json!({"exact": method}),
            Some(found) if found.get("exact").is_some_and(|other| other == method) => {}
            Some(found) if found.contains_key("exact") => return Ok(false),
            Some(_) => {
                return Err(format!(
                    "its method {method} and the method of a rule cannot be matched together; match \
                     no method"
                ));
            }
        }
    }
    match &request.path {
        Some(path) => narrow_uri(existing, path),
        None => Ok(true),
    }
}

fn string_match(text: &StringMatch) -> Value {
    match text {
        StringMatch::Exact(text) => json!({"exact": text}),
        StringMatch::Prefix(text) => json!({"prefix": text}),
        StringMatch::Regex(text) => json!({"regex": text}),
    }
}

/// Limits the path of a match. A prefix is one of the text. Returns false if no path matches both.
fn narrow_uri(existing: &mut Value, path: &StringMatch) -> Result<bool, Problem> {
    let found = |field: &str| existing["uri"][field].as_str();
    let is_possible = match (path, found("prefix"), found("exact"), found("regex")) {
        (_, None, None, None) => true,
        (StringMatch::Prefix(wanted), ..) if wanted == "/" => return Ok(true),
        (_, Some("/"), ..) => true,
        _ if existing["ignoreUriCase"] == true => {
            return Err("a rule ignores the case of its path; match no path".to_owned());
        }
        (StringMatch::Prefix(wanted), Some(prefix), ..) if prefix.starts_with(&**wanted) => {
            return Ok(true);
        }
        (StringMatch::Prefix(wanted) | StringMatch::Exact(wanted), Some(prefix), ..) => {
            wanted.starts_with(prefix)
        }
        (StringMatch::Prefix(wanted), _, Some(exact), _) => return Ok(exact.starts_with(&**wanted)),
        (StringMatch::Exact(wanted), _, Some(exact), _) => return Ok(exact == wanted),
        (StringMatch::Regex(wanted), _, _, Some(regex)) if wanted == regex => return Ok(true),
        _ => {
            return Err(
                "its path and the path of a rule cannot be matched together; match a prefix, or no \
                 path"
                    .to_owned(),
            );
        }
    };
    if is_possible {
        existing["uri"] = string_match(path);
    }
    Ok(is_possible)
}

fn mirror(route: &mut Value, canary: &Value, percent: u32) -> Result<(), Problem> {
    for field in ["mirror", "mirrors"] {
        if route.get(field).is_some() {
            return Err(format!(
                "its route already has the field {field}; remove it"
            ));
        }
    }
    route["mirror"] = canary["destination"].clone();
    route["mirrorPercentage"] = json!({"value": percent});
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_limited_to_what_matches_both() {
        use StringMatch::{Exact, Prefix};
        let prefix = |text: &str| json!({"uri": {"prefix": text}});
        let exact = |text: &str| json!({"uri": {"exact": text}});
        for (existing, wanted, expected) in [
            (json!({}), Prefix("/shop".into()), Some(prefix("/shop"))),
            (prefix("/shop"), Prefix("/".into()), Some(prefix("/shop"))),
            (
                prefix("/shop"),
                Prefix("/shop/a".into()),
                Some(prefix("/shop/a")),
            ),
            (
                prefix("/shop"),
                Exact("/shopping".into()),
                Some(exact("/shopping")),
            ),
            (prefix("/shop"), Exact("/a".into()), None),
            (exact("/shop"), Prefix("/sh".into()), Some(exact("/shop"))),
            (exact("/shop"), Exact("/a".into()), None),
        ] {
            let mut narrowed = existing.clone();
            let is_possible = narrow_uri(&mut narrowed, &wanted).unwrap();
            let message = format!("{existing} and {wanted:?}");
            assert_eq!(is_possible.then_some(narrowed), expected, "{message}");
        }
        let mut expression = json!({"uri": {"regex": "/a.*"}});
        assert!(narrow_uri(&mut expression, &Prefix("/a".into())).is_err());
    }

    #[test]
    fn a_host_of_the_cluster_is_a_service() {
        for (host, expected) in [
            ("shop", Some(("shop", None))),
            ("shop.web", Some(("shop", Some("web")))),
            ("shop.web.svc", Some(("shop", Some("web")))),
            ("shop.web.svc.cluster.local", Some(("shop", Some("web")))),
            ("shop.web.svc.example.org", None),
            ("shop.example.com", None),
            ("*", None),
            ("*.web", None),
        ] {
            assert_eq!(service_of(host), expected, "{host}");
        }
    }
}

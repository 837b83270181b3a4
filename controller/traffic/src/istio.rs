//! Istio VirtualService: stable and canary are two destinations of a route.

use serde_json::Value;
use serin_core::layer4_rule::Layer4Rule;
use serin_core::plan::RouteKind;

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

#[cfg(test)]
mod tests {
    use super::*;

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

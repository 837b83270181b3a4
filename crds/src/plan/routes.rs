//! Validation of the routes of a router.

use serin_core::layer4_rule::Layer4Rule;
use serin_core::plan::RouteRef;

use super::object_name::{MAX_NAME_BYTES, is_object_name};
use super::problem::Problems;
use crate::traffic_routing::{
    GatewayApiSpec, IstioSpec, MAX_ROUTES, NamedRoute, TrafficRoutingSpec,
};

/// The routes of `trafficRouting`, which is at `path`.
pub(super) fn routes(
    path: &str,
    spec: &TrafficRoutingSpec,
    problems: &mut Problems,
) -> Vec<RouteRef> {
    let named = spec.named_routes();
    check_presence(path, spec, &named, problems);
    if named.len() > MAX_ROUTES {
        problems.invalid(
            path.to_owned(),
            &named.len(),
            "it names more than 16 routes and rules",
            "name whole routes instead of their rules, or fewer routes",
        );
    }
    if let Some(istio) = &spec.istio {
        check_matches(path, istio, problems);
    }
    for (index, entry) in named.iter().enumerate() {
        let earlier = named.get(..index).unwrap_or_default();
        check_route(path, entry, earlier, problems);
    }
    named.into_iter().map(|named| named.route).collect()
}

fn check_presence(
    path: &str,
    spec: &TrafficRoutingSpec,
    named: &[NamedRoute],
    problems: &mut Problems,
) {
    if let Some(GatewayApiSpec {
        http_route: Some(name),
        http_routes: Some(_),
        ..
    }) = &spec.gateway_api
    {
        problems.invalid(
            format!("{path}.gatewayAPI.httpRoute"),
            name,
            "it excludes httpRoutes, which is also set",
            "keep one of the two",
        );
    }
    let fix = "set httpRoute to the name of an HTTPRoute, or set httpRoutes, grpcRoutes, tlsRoutes \
               or tcpRoutes";
    let of_gateways = |named: &NamedRoute| named.name_path.starts_with("gatewayAPI.");
    if spec.gateway_api.is_some() && !named.iter().any(of_gateways) {
        let path = format!("{path}.gatewayAPI.httpRoute");
        problems.required(path, "the name of the route is missing", fix);
    }
    let (istio, traefik) = (spec.istio.as_ref(), spec.traefik.as_ref());
    let (contour, apisix) = (spec.contour.as_ref(), spec.apisix.as_ref());
    let lists = [
        (
            "istio.virtualServices",
            istio.map(|istio| istio.virtual_services.len()),
        ),
        (
            "traefik.traefikServices",
            traefik.map(|traefik| traefik.named_routes().len()),
        ),
        (
            "contour.httpProxies",
            contour.map(|contour| contour.http_proxies.len()),
        ),
        (
            "apisix.apisixRoutes",
            apisix.map(|apisix| apisix.apisix_routes.len()),
        ),
    ];
    for (list, _) in lists.iter().filter(|(_, length)| *length == Some(0)) {
        let fix = "list the objects that split the traffic";
        problems.required(format!("{path}.{list}"), "it is empty", fix);
    }
    let is_missing = lists.iter().all(|(_, length)| length.is_none());
    if is_missing && spec.gateway_api.is_none() && spec.nginx.is_none() {
        let fix = "set gatewayAPI, istio, nginx, traefik, contour or apisix";
        problems.required(path.to_owned(), "the router is missing", fix);
    }
}

fn check_matches(path: &str, spec: &IstioSpec, problems: &mut Problems) {
    for (index, service) in spec.virtual_services.iter().enumerate() {
        let path = format!("{path}.istio.virtualServices[{index}]");
        let mut earlier = spec.virtual_services.iter().take(index);
        if earlier.any(|earlier| earlier.name == service.name) {
            problems.invalid(
                format!("{path}.name"),
                &service.name,
                "another entry has the same name",
                "list all routes of a VirtualService in one entry",
            );
        }
        let tls = service.tls_routes.iter().enumerate();
        let tls = tls.map(|(index, tls)| (format!("tlsRoutes[{index}].port"), tls.port));
        let tcp = service.tcp_routes.iter().enumerate();
        let tcp = tcp.map(|(index, tcp)| (format!("tcpRoutes[{index}].port"), Some(tcp.port)));
        for (field, port) in tls.chain(tcp) {
            if let Some(port) = port.filter(|port| !(1..=65_535).contains(port)) {
                let fix = "use a number from 1 to 65535";
                problems.invalid(format!("{path}.{field}"), &port, "it is not a port", fix);
            }
        }
        for (index, tls) in service.tls_routes.iter().enumerate() {
            let path = format!("{path}.tlsRoutes[{index}]");
            if tls.port.is_none() && tls.sni_hosts.is_empty() {
                let fix = "set port, sniHosts or both to what the route matches";
                problems.required(path.clone(), "it has no fields", fix);
            }
            let is_host = |host: &&String| {
                let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-.*".contains(&b);
                !host.is_empty() && host.bytes().all(allowed)
            };
            if let Some(host) = tls.sni_hosts.iter().find(|host| !is_host(host)) {
                let fix = "use a host as in sniHosts of the VirtualService";
                problems.invalid(
                    format!("{path}.sniHosts"),
                    host,
                    "it is not a server name",
                    fix,
                );
            }
        }
        for (index, name) in service.routes.iter().enumerate() {
            if name.parse::<Layer4Rule>().is_ok() {
                problems.invalid(
                    format!("{path}.routes[{index}]"),
                    name,
                    "it has the form in which Serin names TLS and TCP routes",
                    "rename the HTTP route",
                );
            }
        }
    }
}

/// Checks the name of a route, a DNS subdomain (RFC 1123), and that its rule is selected once.
fn check_route(path: &str, entry: &NamedRoute, earlier: &[NamedRoute], problems: &mut Problems) {
    let RouteRef { kind, name, rule } = &entry.route;
    if !is_object_name(name) {
        let fix = "use the metadata.name of an object in the Rollout's namespace";
        problems.invalid(
            format!("{path}.{}", entry.name_path),
            name,
            "it is not a valid object name",
            fix,
        );
    }
    if let Some(rule) = rule
        && (rule.is_empty() || rule.len() > MAX_NAME_BYTES)
    {
        problems.invalid(
            format!("{path}.{}", entry.rule_path),
            rule,
            format!("the name of a rule has 1 to {MAX_NAME_BYTES} characters"),
            "set the name of a rule, or remove the field",
        );
    }
    let overlaps = |other: &&NamedRoute| {
        let other = &other.route;
        (other.kind, &other.name) == (*kind, name)
            && (other.rule.is_none() || rule.is_none() || other.rule == *rule)
    };
    if earlier.iter().any(|other| overlaps(&other)) {
        let path = match entry.rule_path.strip_suffix(".rule") {
            Some(item) => format!("{path}.{item}"),
            None => format!("{path}.{}", entry.rule_path),
        };
        problems.invalid(
            path,
            name,
            "another entry selects the same rule",
            "list each rule once",
        );
    }
}

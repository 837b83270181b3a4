//! `trafficRouting`: the router that splits the traffic, and its routes.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serin_core::layer4_rule::{Layer4Protocol, Layer4Rule};
use serin_core::plan::{RouteKind, RouteRef};

use crate::managed_routes::{MAX_MANAGED_ROUTES, ManagedRouteName};
use crate::rules;

/// Maximum number of routes and rules of a Rollout together. Each needs an authorization check at
/// admission, and a place in the status.
pub const MAX_ROUTES: usize = 16;

/// Router that splits the traffic. At least one must be set. If several are, all routes get the same
/// weight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::a_router_is_set())]
pub struct TrafficRoutingSpec {
    /// Gateway API routes. Defaults to none.
    #[serde(
        rename = "gatewayAPI",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub gateway_api: Option<GatewayApiSpec>,
    /// Istio VirtualServices. Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub istio: Option<IstioSpec>,
    /// Canary Ingress of ingress-nginx. Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nginx: Option<NginxSpec>,
    /// Traefik's own services and routes. Defaults to none. Traefik also serves the routes of
    /// `gatewayAPI`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traefik: Option<TraefikSpec>,
    /// Contour's HTTPProxies. Defaults to none. Contour also serves the routes of `gatewayAPI`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contour: Option<ContourSpec>,
    /// Routes of the APISIX ingress controller. Defaults to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apisix: Option<ApisixSpec>,
    /// Names of the rules that the steps `setHeaderRoute` and `setMirrorRoute` set. Where a router
    /// takes the first rule that matches, the first of the list wins. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_MANAGED_ROUTES))]
    #[x_kube(validation = rules::names_are_distinct())]
    pub managed_routes: Vec<ManagedRouteName>,
    /// Time that the router needs to apply a change after its route reports it, for example `2s`.
    /// Defaults to 2s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = rules::duration())]
    pub settle: Option<String>,
}

/// Gateway API routes in the Rollout's namespace, of any kinds. At least one must be set, and at
/// most 16 together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::a_route_is_set())]
#[x_kube(validation = rules::one_way_to_name_http_routes())]
#[x_kube(validation = rules::routes_are_few())]
pub struct GatewayApiSpec {
    /// Name of one HTTPRoute. Every rule of it that has the stable Service as a backend is split.
    /// Excludes `httpRoutes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub http_route: Option<String>,
    /// Several HTTPRoutes, or single rules of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_ROUTES))]
    #[x_kube(validation = rules::routes_are_distinct())]
    pub http_routes: Option<Vec<RouteSpec>>,
    /// GRPCRoutes, or single rules of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_ROUTES))]
    #[x_kube(validation = rules::routes_are_distinct())]
    pub grpc_routes: Option<Vec<RouteSpec>>,
    /// TLSRoutes, or single rules of them. They split connections, not requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_ROUTES))]
    #[x_kube(validation = rules::routes_are_distinct())]
    pub tls_routes: Option<Vec<RouteSpec>>,
    /// TCPRoutes, or single rules of them. They split connections, not requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_ROUTES))]
    #[x_kube(validation = rules::routes_are_distinct())]
    pub tcp_routes: Option<Vec<RouteSpec>>,
}

/// A route or one of its rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteSpec {
    /// Name of the route.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub name: String,
    /// Name of the rule. If unset, every rule that has the stable Service as a backend is split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub rule: Option<String>,
}

/// Istio VirtualServices in the Rollout's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct IstioSpec {
    /// The VirtualServices. A destination is a Service if its host is the name of the Service, alone
    /// or followed by its namespace, `svc` and `cluster.local`.
    #[schemars(length(min = 1, max = MAX_ROUTES))]
    #[x_kube(validation = rules::virtual_services_are_distinct())]
    pub virtual_services: Vec<VirtualServiceSpec>,
}

/// A VirtualService or some of its routes. If no routes are named, every route that has the stable
/// Service as a destination is split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualServiceSpec {
    /// Name of the VirtualService.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub name: String,
    /// Names of the HTTP routes that are split. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_ROUTES), inner(length(min = 1, max = 253)))]
    pub routes: Vec<String>,
    /// TLS routes that are split, by what they match. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_ROUTES))]
    pub tls_routes: Vec<TlsRouteMatch>,
    /// TCP routes that are split, by what they match. Defaults to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_ROUTES))]
    pub tcp_routes: Vec<TcpRouteMatch>,
}

/// A TLS route of a VirtualService. At least one of the fields must be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::a_match_is_set())]
pub struct TlsRouteMatch {
    /// Port that the route matches. If unset, any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,
    /// Server names that the route matches, all of them. If empty, any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 253), regex(pattern = "^[-.*a-zA-Z0-9]+$"))
    )]
    pub sni_hosts: Vec<String>,
}

/// A TCP route of a VirtualService.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpRouteMatch {
    /// Port that the route matches.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
}

/// An Ingress of ingress-nginx in the Rollout's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NginxSpec {
    /// Name of the Ingress with the annotation `nginx.ingress.kubernetes.io/canary: "true"`, the
    /// hosts and paths of your main Ingress, and the canary Service as its only backend. The
    /// annotation `canary-weight` is set to the weight.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub canary_ingress: String,
}

/// TraefikServices and IngressRoutes in the Rollout's namespace. At least one must be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::a_traefik_object_is_set())]
pub struct TraefikSpec {
    /// TraefikServices with `spec.weighted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_ROUTES))]
    #[x_kube(validation = rules::names_are_distinct())]
    pub traefik_services: Option<Vec<RouteObject>>,
    /// IngressRoutes. Every route of them that has the stable Service is split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_ROUTES))]
    #[x_kube(validation = rules::names_are_distinct())]
    pub ingress_routes: Option<Vec<RouteObject>>,
}

/// Contour HTTPProxies in the Rollout's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContourSpec {
    /// HTTPProxies. Every route of them that has the stable Service is split.
    #[schemars(length(min = 1, max = MAX_ROUTES))]
    #[x_kube(validation = rules::names_are_distinct())]
    pub http_proxies: Vec<RouteObject>,
}

/// An object that is split as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteObject {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub name: String,
}

/// ApisixRoutes in the Rollout's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApisixSpec {
    /// ApisixRoutes, or some of their HTTP rules.
    #[schemars(length(min = 1, max = MAX_ROUTES))]
    #[x_kube(validation = rules::names_are_distinct())]
    pub apisix_routes: Vec<ApisixRouteSpec>,
}

/// An ApisixRoute or some of its HTTP rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApisixRouteSpec {
    /// Name of the ApisixRoute.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub name: String,
    /// Names of the HTTP rules that are split. If empty, every rule that has the stable Service as a
    /// backend is split.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_ROUTES), inner(length(min = 1, max = 253)))]
    pub rules: Vec<String>,
}

/// A route that a spec names, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRoute {
    /// The path of its name below `trafficRouting`, for example `gatewayAPI.httpRoutes[0].name`.
    pub name_path: String,
    /// The path of its rule. As `name_path` if the spec names no rule.
    pub rule_path: String,
    /// The route.
    pub route: RouteRef,
}

impl TrafficRoutingSpec {
    /// The routes and rules that the spec names, in its order. An object has one entry for each of its
    /// rules that is named.
    pub fn named_routes(&self) -> Vec<NamedRoute> {
        let of_gateways = self
            .gateway_api
            .iter()
            .flat_map(GatewayApiSpec::named_routes);
        let of_istio = self.istio.iter().flat_map(IstioSpec::named_routes);
        let of_nginx = self.nginx.iter().map(NginxSpec::named_route);
        let of_traefik = self.traefik.iter().flat_map(TraefikSpec::named_routes);
        let of_contour = self.contour.iter().flat_map(|contour| {
            let (field, kind) = ("contour.httpProxies", RouteKind::HttpProxy);
            named_objects(field, kind, &contour.http_proxies)
        });
        let of_apisix = self.apisix.iter().flat_map(ApisixSpec::named_routes);
        of_gateways
            .chain(of_istio)
            .chain(of_nginx)
            .chain(of_traefik)
            .chain(of_contour)
            .chain(of_apisix)
            .collect()
    }
}

impl GatewayApiSpec {
    fn named_routes(&self) -> Vec<NamedRoute> {
        let one = self.http_route.iter().map(|name| {
            let path = "gatewayAPI.httpRoute".to_owned();
            NamedRoute::new(path.clone(), path, RouteKind::HttpRoute, name, None)
        });
        let lists = [
            ("httpRoutes", RouteKind::HttpRoute, &self.http_routes),
            ("grpcRoutes", RouteKind::GrpcRoute, &self.grpc_routes),
            ("tlsRoutes", RouteKind::TlsRoute, &self.tls_routes),
            ("tcpRoutes", RouteKind::TcpRoute, &self.tcp_routes),
        ];
        let of_list = |(field, kind, list): (&str, RouteKind, &Option<Vec<RouteSpec>>)| {
            let routes = list.iter().flatten().enumerate();
            let named = routes.map(|(index, route)| {
                let path = format!("gatewayAPI.{field}[{index}]");
                let [name, rule] = [format!("{path}.name"), format!("{path}.rule")];
                NamedRoute::new(name, rule, kind, &route.name, route.rule.clone())
            });
            named.collect::<Vec<_>>()
        };
        one.chain(lists.into_iter().flat_map(of_list)).collect()
    }
}

impl IstioSpec {
    fn named_routes(&self) -> Vec<NamedRoute> {
        let services = self.virtual_services.iter().enumerate();
        let named = services.flat_map(|(index, service)| {
            let path = format!("istio.virtualServices[{index}]");
            named_rules(
                &path,
                RouteKind::VirtualService,
                &service.name,
                service.rules(),
            )
        });
        named.collect()
    }
}

impl NginxSpec {
    fn named_route(&self) -> NamedRoute {
        let path = "nginx.canaryIngress".to_owned();
        let (kind, name) = (RouteKind::Ingress, &self.canary_ingress);
        NamedRoute::new(path.clone(), path, kind, name, None)
    }
}

impl TraefikSpec {
    pub(crate) fn named_routes(&self) -> Vec<NamedRoute> {
        let services = self.traefik_services.iter().flat_map(|services| {
            named_objects(
                "traefik.traefikServices",
                RouteKind::TraefikService,
                services,
            )
        });
        let routes = self.ingress_routes.iter().flat_map(|routes| {
            named_objects("traefik.ingressRoutes", RouteKind::IngressRoute, routes)
        });
        services.chain(routes).collect()
    }
}

impl ApisixSpec {
    fn named_routes(&self) -> Vec<NamedRoute> {
        let routes = self.apisix_routes.iter().enumerate();
        let named = routes.flat_map(|(index, route)| {
            let path = format!("apisix.apisixRoutes[{index}]");
            let rules = route.rules.iter().enumerate();
            let rules = rules.map(|(index, name)| (format!("rules[{index}]"), name.clone()));
            named_rules(&path, RouteKind::ApisixRoute, &route.name, rules)
        });
        named.collect()
    }
}

/// The rules of the object at `path`, each with the field that names it. All of them if none is named.
fn named_rules(
    path: &str,
    kind: RouteKind,
    object: &str,
    rules: impl Iterator<Item = (String, String)>,
) -> Vec<NamedRoute> {
    let name_path = format!("{path}.name");
    let mut rules: Vec<(String, Option<String>)> = rules
        .map(|(field, rule)| (format!("{path}.{field}"), Some(rule)))
        .collect();
    if rules.is_empty() {
        rules.push((name_path.clone(), None));
    }
    let named = rules
        .into_iter()
        .map(|(rule_path, rule)| NamedRoute::new(name_path.clone(), rule_path, kind, object, rule));
    named.collect()
}

fn named_objects(field: &str, kind: RouteKind, objects: &[RouteObject]) -> Vec<NamedRoute> {
    let objects = objects.iter().enumerate();
    let named = objects.map(|(index, object)| {
        let path = format!("{field}[{index}].name");
        NamedRoute::new(path.clone(), path, kind, &object.name, None)
    });
    named.collect()
}

impl VirtualServiceSpec {
    /// The routes that are named, each with its path.
    fn rules(&self) -> impl Iterator<Item = (String, String)> {
        let http = self.routes.iter().enumerate();
        let http = http.map(|(index, name)| (format!("routes[{index}]"), name.clone()));
        let tls = self.tls_routes.iter().enumerate().map(|(index, tls)| {
            let mut sni_hosts = tls.sni_hosts.clone();
            sni_hosts.sort();
            let port = tls.port.map(port_number);
            let rule = layer4_rule(Layer4Protocol::Tls, port, sni_hosts);
            (format!("tlsRoutes[{index}]"), rule)
        });
        let tcp = self.tcp_routes.iter().enumerate().map(|(index, tcp)| {
            let port = Some(port_number(tcp.port));
            let rule = layer4_rule(Layer4Protocol::Tcp, port, Vec::new());
            (format!("tcpRoutes[{index}]"), rule)
        });
        http.chain(tls).chain(tcp)
    }
}

/// 0 for a number that is not a port: no route matches it.
fn port_number(port: i32) -> u16 {
    u16::try_from(port).unwrap_or(0)
}

fn layer4_rule(protocol: Layer4Protocol, port: Option<u16>, sni_hosts: Vec<String>) -> String {
    let rule = Layer4Rule {
        protocol,
        port,
        sni_hosts,
    };
    rule.to_string()
}

impl NamedRoute {
    fn new(
        name_path: String,
        rule_path: String,
        kind: RouteKind,
        name: &str,
        rule: Option<String>,
    ) -> Self {
        let name = name.to_owned();
        Self {
            name_path,
            rule_path,
            route: RouteRef { kind, name, rule },
        }
    }
}

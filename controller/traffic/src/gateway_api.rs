//! Routes of the Gateway API: stable and canary are two `backendRefs` of a rule.

use serin_core::plan::RouteKind;

use crate::backend::{Layout, RoutedUnit, RuleList, parse_service_identity};
use crate::backend_router::BackendRouter;
use crate::programmed::programmed_status;

/// HTTPRoute. The fields that Serin uses are equal in all versions.
pub(crate) static HTTP_ROUTE: BackendRouter = BackendRouter {
    route_kind: RouteKind::HttpRoute,
    versions: &["v1", "v1beta1"],
    kind: "HTTPRoute",
    plural: "httproutes",
    layout: &OF_REQUESTS,
    ..GATEWAY_API
};

/// GRPCRoute.
pub(crate) static GRPC_ROUTE: BackendRouter = BackendRouter {
    route_kind: RouteKind::GrpcRoute,
    versions: &["v1"],
    kind: "GRPCRoute",
    plural: "grpcroutes",
    layout: &OF_REQUESTS,
    ..GATEWAY_API
};

/// TLSRoute. `v1` since Gateway API 1.5, which serves `v1alpha3` and `v1alpha2` in its experimental
/// channel.
pub(crate) static TLS_ROUTE: BackendRouter = BackendRouter {
    route_kind: RouteKind::TlsRoute,
    versions: &["v1", "v1alpha3", "v1alpha2"],
    kind: "TLSRoute",
    plural: "tlsroutes",
    layout: &OF_CONNECTIONS,
    ..GATEWAY_API
};

/// TCPRoute. `v1` since Gateway API 1.6.
pub(crate) static TCP_ROUTE: BackendRouter = BackendRouter {
    route_kind: RouteKind::TcpRoute,
    versions: &["v1", "v1alpha2"],
    kind: "TCPRoute",
    plural: "tcproutes",
    layout: &OF_CONNECTIONS,
    ..GATEWAY_API
};

/// What the kinds have in common.
const GATEWAY_API: BackendRouter = BackendRouter {
    route_kind: RouteKind::HttpRoute,
    group: "gateway.networking.k8s.io",
    versions: &[],
    kind: "",
    plural: "",
    installed_by: "the CRDs of the Gateway API",
    layout: &OF_REQUESTS,
    programmed_status,
};

static OF_REQUESTS: Layout = Layout {
    rule_lists: &[RuleList {
        field: "rules",
        is_single: false,
        unit: RoutedUnit::Requests,
    }],
    ..LAYOUT
};

static OF_CONNECTIONS: Layout = Layout {
    rule_lists: &[RuleList {
        field: "rules",
        is_single: false,
        unit: RoutedUnit::Connections,
    }],
    ..LAYOUT
};

const LAYOUT: Layout = Layout {
    rule_lists: &[],
    backends: "backendRefs",
    identity: "name",
    parse_identity: parse_service_identity,
    set_service: |backend, service| backend["name"] = service.into(),
    default_weight: |_| 1,
    is_rule: |_, rule, name| rule["name"] == name,
    keeps_total: false,
    // GEP-1619.
    persistence: Some("sessionPersistence"),
    zero_is_even: false,
};

//! Traefik TraefikService and IngressRoute: stable and canary are two services of a weighted round
//! robin.

use serin_core::plan::RouteKind;

use crate::backend::{Layout, RoutedUnit, RuleList, parse_service_identity};
use crate::backend_router::BackendRouter;
use crate::programmed::ProgrammedStatus;

/// TraefikService with `spec.weighted`, which an IngressRoute refers to.
pub(crate) static TRAEFIK_SERVICE: BackendRouter = BackendRouter {
    route_kind: RouteKind::TraefikService,
    kind: "TraefikService",
    plural: "traefikservices",
    layout: &OF_SERVICE,
    ..TRAEFIK
};

/// IngressRoute. Its routes have no names.
pub(crate) static INGRESS_ROUTE: BackendRouter = BackendRouter {
    route_kind: RouteKind::IngressRoute,
    kind: "IngressRoute",
    plural: "ingressroutes",
    layout: &OF_ROUTES,
    ..TRAEFIK
};

/// What the kinds have in common.
const TRAEFIK: BackendRouter = BackendRouter {
    route_kind: RouteKind::TraefikService,
    group: "traefik.io",
    versions: &["v1alpha1"],
    kind: "",
    plural: "",
    installed_by: "the CRDs of Traefik",
    layout: &OF_SERVICE,
    // Traefik writes no status.
    programmed_status: |_| ProgrammedStatus::UnknownGeneration,
};

static OF_SERVICE: Layout = Layout {
    rule_lists: &[RuleList {
        field: "weighted",
        is_single: true,
        unit: RoutedUnit::Requests,
    }],
    persistence: Some("sticky"),
    ..LAYOUT
};

static OF_ROUTES: Layout = Layout {
    rule_lists: &[RuleList {
        field: "routes",
        is_single: false,
        unit: RoutedUnit::Requests,
    }],
    // `sticky` of a service chooses a pod of the service. The services of a route are not sticky.
    persistence: None,
    ..LAYOUT
};

const LAYOUT: Layout = Layout {
    rule_lists: &[],
    backends: "services",
    identity: "name",
    parse_identity: parse_service_identity,
    set_service: |backend, service| backend["name"] = service.into(),
    default_weight: |_| 1,
    is_rule: |_, _, _| false,
    keeps_total: false,
    persistence: None,
    zero_is_even: false,
    added_rules: None,
};

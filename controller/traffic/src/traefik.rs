//! Traefik TraefikService: stable and canary are two services of a weighted round robin.

use serin_core::plan::RouteKind;

use crate::backend::{Layout, RoutedUnit, RuleList, parse_service_identity};
use crate::backend_router::BackendRouter;
use crate::programmed::ProgrammedStatus;

/// TraefikService with `spec.weighted`, which an IngressRoute refers to.
pub(crate) static TRAEFIK_SERVICE: BackendRouter = BackendRouter {
    route_kind: RouteKind::TraefikService,
    group: "traefik.io",
    versions: &["v1alpha1"],
    kind: "TraefikService",
    plural: "traefikservices",
    installed_by: "the CRDs of Traefik",
    layout: &LAYOUT,
    // Traefik writes no status.
    programmed_status: |_| ProgrammedStatus::UnknownGeneration,
};

static LAYOUT: Layout = Layout {
    rule_lists: &[RuleList {
        field: "weighted",
        is_single: true,
        unit: RoutedUnit::Requests,
    }],
    backends: "services",
    identity: "name",
    parse_identity: parse_service_identity,
    set_service: |backend, service| backend["name"] = service.into(),
    default_weight: |_| 1,
    is_rule: |_, _, _| false,
    keeps_total: false,
    persistence: Some("sticky"),
    zero_is_even: false,
};

//! Contour HTTPProxy: stable and canary are two services of a route.

use serde_json::Value;
use serin_core::plan::RouteKind;

use crate::backend::{InvalidField, Layout, RoutedUnit, RuleList, parse_service_identity};
use crate::backend_router::BackendRouter;
use crate::original::OriginalBackend;
use crate::programmed::programmed_by_condition;

/// HTTPProxy. Only `spec.routes` is split, not `spec.tcpproxy`.
pub(crate) static HTTP_PROXY: BackendRouter = BackendRouter {
    route_kind: RouteKind::HttpProxy,
    group: "projectcontour.io",
    versions: &["v1"],
    kind: "HTTPProxy",
    plural: "httpproxies",
    installed_by: "the CRDs of Contour",
    layout: &LAYOUT,
    programmed_status: |route| programmed_by_condition(route, "Valid", "Contour"),
};

static LAYOUT: Layout = Layout {
    rule_lists: &[RuleList {
        field: "routes",
        is_single: false,
        unit: RoutedUnit::Requests,
    }],
    backends: "services",
    identity: "name",
    parse_identity,
    set_service: |backend, service| backend["name"] = service.into(),
    default_weight,
    // Routes have no names.
    is_rule: |_, _, _| false,
    keeps_total: false,
    // A cookie chooses an endpoint of a side, not the side: Envoy selects the weighted cluster first.
    persistence: None,
    zero_is_even: true,
    added_rules: None,
};

/// A single service receives all of the traffic, and one of several without a weight none, unless
/// all are without.
fn default_weight(services: usize) -> u64 {
    u64::from(services == 1)
}

fn parse_identity(backend: &Value, namespace: &str) -> Result<OriginalBackend, InvalidField> {
    // The weight of a mirror is a share of the requests that are copied.
    if backend["mirror"] == true {
        return Err(InvalidField {
            at: "/mirror",
            expected: "false, because a route with a mirror cannot be split",
        });
    }
    parse_service_identity(backend, namespace)
}

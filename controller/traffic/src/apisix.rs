//! ApisixRoute: stable and canary are two backends of an HTTP rule.

use serde_json::Value;
use serin_core::plan::RouteKind;

use crate::backend::{InvalidField, Layout, RoutedUnit, RuleList};
use crate::backend_router::BackendRouter;
use crate::original::OriginalBackend;
use crate::programmed::ProgrammedStatus;

/// ApisixRoute. Rules in `spec.stream` have one backend without a weight.
pub(crate) static APISIX_ROUTE: BackendRouter = BackendRouter {
    route_kind: RouteKind::ApisixRoute,
    group: "apisix.apache.org",
    versions: &["v2"],
    kind: "ApisixRoute",
    plural: "apisixroutes",
    installed_by: "the CRDs of the APISIX ingress controller",
    layout: &LAYOUT,
    // Its conditions mean that the object was sent to APISIX, and not in all versions.
    programmed_status: |_| ProgrammedStatus::UnknownGeneration,
};

static LAYOUT: Layout = Layout {
    rule_lists: &[RuleList {
        field: "http",
        is_single: false,
        unit: RoutedUnit::Requests,
    }],
    backends: "backends",
    identity: "serviceName",
    parse_identity,
    set_service: |backend, service| backend["serviceName"] = service.into(),
    default_weight: |_| 100,
    is_rule: |_, rule, name| rule["name"] == name,
    keeps_total: false,
    persistence: None,
    zero_is_even: false,
    added_rules: None,
};

fn parse_identity(backend: &Value, _namespace: &str) -> Result<OriginalBackend, InvalidField> {
    let Some(service) = backend["serviceName"].as_str() else {
        return Err(InvalidField {
            at: "/serviceName",
            expected: "a string",
        });
    };
    // A subset is a part of the pods of a Service.
    let subset = backend["subset"].as_str().filter(|name| !name.is_empty());
    Ok(OriginalBackend {
        group: None,
        kind: subset.map(|_| "Subset".into()),
        namespace: None,
        name: subset.map_or_else(|| service.into(), |subset| format!("{service}/{subset}")),
        port: backend.get("servicePort").and_then(Value::as_u64),
        weight: None,
    })
}

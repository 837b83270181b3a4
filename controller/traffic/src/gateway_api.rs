//! Routes of the Gateway API: stable and canary are two `backendRefs` of a rule.

use serde_json::{Value, json};
use serin_core::managed_route::{HeaderMatch, RequestMatch, StringMatch};
use serin_core::plan::RouteKind;

use crate::added_rules::{AddedRuleSyntax, Problem, is_path_within};
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
    layout: &OF_GRPC_REQUESTS,
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
    rule_lists: REQUEST_RULES,
    added_rules: Some(&AddedRuleSyntax {
        narrow: narrow_http,
        ..ADDED_RULES
    }),
    ..LAYOUT
};

static OF_GRPC_REQUESTS: Layout = Layout {
    rule_lists: REQUEST_RULES,
    added_rules: Some(&AddedRuleSyntax {
        narrow: narrow_grpc,
        ..ADDED_RULES
    }),
    ..LAYOUT
};

const REQUEST_RULES: &[RuleList] = &[RuleList {
    field: "rules",
    is_single: false,
    unit: RoutedUnit::Requests,
}];

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
    added_rules: None,
};

/// The limits are those of the schema. A match with a header more is more specific.
const ADDED_RULES: AddedRuleSyntax = AddedRuleSyntax {
    list: "rules",
    matches: "matches",
    narrow: narrow_http,
    make_only: |backend| backend["weight"] = 1.into(),
    mirror,
    is_by_specificity: true,
    limits: Some((16, 64)),
};

/// The maximum number of headers of a match in the schema.
const MAX_HEADERS: usize = 16;

fn narrow_http(existing: &mut Value, request: &RequestMatch) -> Result<bool, Problem> {
    add_headers(existing, request)?;
    if let Some(method) = &request.method {
        match existing["method"].as_str() {
            Some(other) if other != method => return Ok(false),
            _ => existing["method"] = method.as_str().into(),
        }
    }
    match &request.path {
        Some(path) => narrow_path(existing, path),
        None => Ok(true),
    }
}

fn narrow_grpc(existing: &mut Value, request: &RequestMatch) -> Result<bool, Problem> {
    if request.method.is_some() || request.path.is_some() {
        return Err("a GRPCRoute has no method and path of HTTP; match headers only".to_owned());
    }
    add_headers(existing, request)?;
    Ok(true)
}

/// Adds the conditions on headers. A second condition on a header is not possible.
fn add_headers(existing: &mut Value, request: &RequestMatch) -> Result<(), Problem> {
    if request.headers.is_empty() {
        return Ok(());
    }
    let mut headers = existing["headers"].as_array().cloned().unwrap_or_default();
    for HeaderMatch { name, value } in &request.headers {
        let is_same = |other: &Value| {
            let other = other["name"].as_str().unwrap_or_default();
            other.eq_ignore_ascii_case(name)
        };
        if headers.iter().any(is_same) {
            return Err(format!(
                "its rule already matches the header {name}; use another header"
            ));
        }
        let (kind, value) = match value {
            StringMatch::Exact(text) => ("Exact", text.clone()),
            StringMatch::Prefix(text) => ("RegularExpression", prefix_expression(text)),
            StringMatch::Regex(text) => ("RegularExpression", text.clone()),
        };
        headers.push(json!({"type": kind, "name": name, "value": value}));
    }
    if headers.len() > MAX_HEADERS {
        return Err(format!(
            "a match has at most {MAX_HEADERS} headers; use fewer"
        ));
    }
    existing["headers"] = headers.into();
    Ok(())
}

/// A prefix as a regular expression that also holds where the whole text has to match.
fn prefix_expression(text: &str) -> String {
    let mut expression = "^".to_owned();
    for character in text.chars() {
        if !character.is_alphanumeric() && character.is_ascii() {
            expression.push('\\');
        }
        expression.push(character);
    }
    expression + ".*$"
}

/// Limits the path of a match. Returns false if no path matches both.
fn narrow_path(existing: &mut Value, path: &StringMatch) -> Result<bool, Problem> {
    let found = &existing["path"];
    let kind = found["type"].as_str().unwrap_or("PathPrefix").to_owned();
    let value = found["value"].as_str().unwrap_or("/").to_owned();
    let (wanted_kind, wanted) = match path {
        StringMatch::Exact(wanted) => ("Exact", wanted),
        StringMatch::Prefix(wanted) => ("PathPrefix", wanted),
        StringMatch::Regex(wanted) => ("RegularExpression", wanted),
    };
    let is_wider = match (kind.as_str(), wanted_kind) {
        _ if kind == "PathPrefix" && value == "/" => true,
        (_, "PathPrefix") if wanted == "/" => return Ok(true),
        ("PathPrefix", "PathPrefix") if is_path_within(wanted, &value) => return Ok(true),
        ("PathPrefix", "PathPrefix" | "Exact") => is_path_within(&value, wanted),
        ("Exact", "PathPrefix") => return Ok(is_path_within(wanted, &value)),
        ("Exact", "Exact") => return Ok(value == *wanted),
        _ if kind == wanted_kind && value == *wanted => return Ok(true),
        _ => {
            return Err(format!(
                "its path {wanted} and the path {value} of a rule cannot be matched together; \
                 match a prefix, or no path"
            ));
        }
    };
    if is_wider {
        existing["path"] = json!({"type": wanted_kind, "value": wanted});
    }
    Ok(is_wider)
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "other kinds of route can refuse a mirror"
)]
fn mirror(rule: &mut Value, canary: &Value, percent: u32) -> Result<(), Problem> {
    let mut backend = canary.clone();
    if let Some(fields) = backend.as_object_mut() {
        let is_reference =
            |field: &str| ["group", "kind", "name", "namespace", "port"].contains(&field);
        fields.retain(|field, _| is_reference(field));
    }
    let mut request_mirror = json!({"backendRef": backend});
    if percent < 100 {
        request_mirror["percent"] = percent.into();
    }
    let filter = json!({"type": "RequestMirror", "requestMirror": request_mirror});
    match &mut rule["filters"] {
        Value::Array(filters) => filters.push(filter),
        filters => *filters = vec![filter].into(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(kind: &str, value: &str) -> Value {
        json!({"path": {"type": kind, "value": value}})
    }

    #[test]
    fn a_path_is_limited_to_what_matches_both() {
        use StringMatch::{Exact, Prefix, Regex};
        let shop = || path("PathPrefix", "/shop");
        let cart = || path("Exact", "/shop/cart");
        for (existing, wanted, expected) in [
            (json!({}), Prefix("/shop".into()), Some(shop())),
            (
                json!({}),
                Regex("/a.*".into()),
                Some(path("RegularExpression", "/a.*")),
            ),
            (shop(), Prefix("/".into()), Some(shop())),
            (
                shop(),
                Prefix("/shop/cart".into()),
                Some(path("PathPrefix", "/shop/cart")),
            ),
            (shop(), Prefix("/shopping".into()), None),
            (shop(), Exact("/shop/cart".into()), Some(cart())),
            (shop(), Exact("/other".into()), None),
            (cart(), Prefix("/shop".into()), Some(cart())),
            (cart(), Exact("/shop".into()), None),
        ] {
            let mut narrowed = existing.clone();
            let is_possible = narrow_path(&mut narrowed, &wanted).unwrap();
            let message = format!("{existing} and {wanted:?}");
            assert_eq!(is_possible.then_some(narrowed), expected, "{message}");
        }
        let expression = || path("RegularExpression", "/a.*");
        assert!(narrow_path(&mut expression(), &Prefix("/a".into())).is_err());
        assert_eq!(
            narrow_path(&mut expression(), &Prefix("/".into())),
            Ok(true)
        );
    }

    #[test]
    fn a_prefix_of_a_header_is_an_expression_for_the_whole_value() {
        assert_eq!(prefix_expression("v1.2-a"), r"^v1\.2\-a.*$");
    }
}

//! Validation of rules for chosen requests.

use serin_core::managed_route::{
    HeaderMatch, ManagedAction, ManagedRoute, RequestMatch, StringMatch,
};
use serin_core::plan::Step;

use super::problem::{CANARY, Problems};
use crate::managed_routes::{
    CookieMatchSpec, HeaderRouteMatch, HeaderRouteSpec, MAX_HEADER_NAME, MAX_MANAGED_ROUTES,
    MAX_MATCH_HEADERS, MAX_MATCHES, MAX_TEXT, ManagedRouteName, MirrorRouteMatch, MirrorRouteSpec,
    StringMatchSpec,
};
use crate::traffic_routing::TrafficRoutingSpec;

/// Maximum size of all rules as JSON. The plan is stored in the status.
const MAX_BYTES: usize = 16 * 1024;

/// The rules of `spec.strategy.canary.trafficRouting`, by precedence.
pub(super) struct ManagedRouteParser<'a> {
    routing: Option<&'a TrafficRoutingSpec>,
}

impl<'a> ManagedRouteParser<'a> {
    pub(super) const fn new(routing: Option<&'a TrafficRoutingSpec>) -> Self {
        Self { routing }
    }

    pub(super) fn header_route(
        &self,
        path: &str,
        spec: &HeaderRouteSpec,
        problems: &mut Problems,
    ) -> ManagedRoute {
        check_count(path, spec.matches.len(), problems);
        let matches = spec.matches.iter().enumerate().filter_map(|(index, one)| {
            header_route_match(&format!("{path}.match[{index}]"), one, problems)
        });
        let matches = matches.collect();
        ManagedRoute {
            precedence: self.precedence(path, &spec.name, problems),
            name: spec.name.clone(),
            action: ManagedAction::ToCanary,
            matches,
        }
    }

    pub(super) fn mirror_route(
        &self,
        path: &str,
        spec: &MirrorRouteSpec,
        problems: &mut Problems,
    ) -> ManagedRoute {
        let percent = u32::try_from(spec.percentage.unwrap_or(100)).unwrap_or(0);
        if !(1..=100).contains(&percent) {
            let fix = "use 1 to 100, or an empty match to remove the rule";
            let path = format!("{path}.percentage");
            problems.invalid(
                path,
                &spec.percentage,
                "it is not a percentage of requests",
                fix,
            );
        }
        check_count(path, spec.matches.len(), problems);
        let matches = spec.matches.iter().enumerate().filter_map(|(index, one)| {
            mirror_route_match(&format!("{path}.match[{index}]"), one, problems)
        });
        let matches = matches.collect();
        ManagedRoute {
            precedence: self.precedence(path, &spec.name, problems),
            name: spec.name.clone(),
            action: ManagedAction::Mirror { percent },
            matches,
        }
    }

    /// The position of a rule in the list, which must contain it, and whose routes must be able to
    /// hold it.
    fn precedence(&self, path: &str, name: &str, problems: &mut Problems) -> u32 {
        let Some(routing) = self.routing else {
            let fix = "add trafficRouting, or remove the step";
            problems.invalid(path, &name, "only a router can choose requests", fix);
            return 0;
        };
        for named in routing.named_routes() {
            if !named.route.kind.has_managed_routes() {
                let field = format!("trafficRouting.{}", named.name_path);
                let problem =
                    format!("{field} names an object that cannot hold rules for requests");
                let fix = "use an HTTPRoute, a GRPCRoute or a VirtualService, or remove the step";
                problems.invalid(path, &name, problem, fix);
                break;
            }
        }
        let mut names = routing.managed_routes.iter();
        let Some(position) = names.position(|known| known.name == name) else {
            let fix = "add it there; the first of the list is matched first";
            problems.invalid(
                format!("{path}.name"),
                &name,
                "trafficRouting.managedRoutes does not contain it",
                fix,
            );
            return 0;
        };
        u32::try_from(position).unwrap_or(u32::MAX)
    }
}

/// Checks the names of the rules.
pub(super) fn check_names(path: &str, names: &[ManagedRouteName], problems: &mut Problems) {
    if names.len() > MAX_MANAGED_ROUTES {
        let fix = "use fewer rules with more matches each";
        problems.invalid(path, &names.len(), "it names more than 8 rules", fix);
    }
    for (index, ManagedRouteName { name }) in names.iter().enumerate() {
        let path = format!("{path}[{index}].name");
        let is_label = |text: &str| {
            let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            (1..=63).contains(&text.len())
                && text.bytes().all(allowed)
                && !text.starts_with('-')
                && !text.ends_with('-')
        };
        if !is_label(name) {
            let fix = "use at most 63 lowercase letters, digits and dashes";
            problems.invalid(path.clone(), name, "it is not the name of a rule", fix);
        }
        if names
            .iter()
            .take(index)
            .any(|earlier| earlier.name == *name)
        {
            problems.invalid(
                path,
                name,
                "another entry has the same name",
                "list each name once",
            );
        }
    }
}

/// Checks the size of all rules together.
pub(super) fn check_size(steps: &[Step], problems: &mut Problems) {
    let rules = steps.iter().filter_map(|step| match step {
        Step::SetManagedRoute(route) => serde_json::to_vec(route).ok(),
        _ => None,
    });
    let bytes: usize = rules.map(|json| json.len()).sum();
    if bytes > MAX_BYTES {
        let problem = format!("the rules of setHeaderRoute and setMirrorRoute have {bytes} bytes");
        let fix = format!("use at most {MAX_BYTES} bytes together: shorter or fewer matches");
        problems.invalid(format!("{CANARY}.steps"), &bytes, problem, fix);
    }
}

fn check_count(path: &str, matches: usize, problems: &mut Problems) {
    if matches > MAX_MATCHES {
        let fix = "use at most 8, or a regular expression";
        problems.invalid(
            format!("{path}.match"),
            &matches,
            "there are too many matches",
            fix,
        );
    }
}

fn header_route_match(
    path: &str,
    spec: &HeaderRouteMatch,
    problems: &mut Problems,
) -> Option<RequestMatch> {
    let header = match spec {
        HeaderRouteMatch {
            header_name: Some(name),
            header_value: Some(value),
            cookie: None,
        } => {
            let value = string_match(&format!("{path}.headerValue"), value, problems);
            header(&format!("{path}.headerName"), name, value?, problems)?
        }
        HeaderRouteMatch {
            header_name: None,
            header_value: None,
            cookie: Some(cookie),
        } => cookie_header(&format!("{path}.cookie"), cookie, problems)?,
        spec => {
            let fix = "set headerName and headerValue, or cookie";
            problems.invalid(path, spec, "a match is one header or one cookie", fix);
            return None;
        }
    };
    Some(RequestMatch {
        headers: vec![header],
        ..RequestMatch::default()
    })
}

/// The header with all cookies of a request, of which one is this.
fn cookie_header(
    path: &str,
    cookie: &CookieMatchSpec,
    problems: &mut Problems,
) -> Option<HeaderMatch> {
    let is_octet = |b: u8| b.is_ascii_graphic() && !b"\",;\\".contains(&b);
    for (field, text, is_valid) in [
        ("name", &cookie.name, is_token(&cookie.name)),
        ("value", &cookie.value, cookie.value.bytes().all(is_octet)),
    ] {
        if !is_valid || text.len() > MAX_TEXT {
            let fix =
                "use printable ASCII characters without spaces, quotes, commas and semicolons";
            problems.invalid(
                format!("{path}.{field}"),
                text,
                "a cookie cannot have it",
                fix,
            );
            return None;
        }
    }
    let (name, value) = (escaped(&cookie.name), escaped(&cookie.value));
    Some(HeaderMatch {
        name: "cookie".to_owned(),
        value: StringMatch::Regex(format!("^(.*; *)?{name}={value}(;.*)?$")),
    })
}

/// A text as a regular expression.
fn escaped(text: &str) -> String {
    let mut expression = String::with_capacity(text.len());
    for character in text.chars() {
        if !character.is_ascii_alphanumeric() && character != '_' {
            expression.push('\\');
        }
        expression.push(character);
    }
    expression
}

fn mirror_route_match(
    path: &str,
    spec: &MirrorRouteMatch,
    problems: &mut Problems,
) -> Option<RequestMatch> {
    let MirrorRouteMatch {
        method,
        path: request_path,
        headers,
    } = spec;
    if method.is_none()
        && request_path.is_none()
        && headers
            .as_ref()
            .is_none_or(std::collections::BTreeMap::is_empty)
    {
        let fix = "set method, path or headers; path: {prefix: /} is every request";
        problems.invalid(path, spec, "it has no condition", fix);
        return None;
    }
    let method = method.as_ref().map(|method| {
        let text = string_match(&format!("{path}.method"), method, problems);
        let is_method = |text: &String| {
            text.len() <= 32 && !text.is_empty() && text.bytes().all(|b| b.is_ascii_uppercase())
        };
        let exact = match text {
            Some(StringMatch::Exact(text)) => Some(text).filter(is_method),
            _ => None,
        };
        if exact.is_none() {
            let fix = "use exact with a method in uppercase, for example GET";
            problems.invalid(
                format!("{path}.method"),
                method,
                "it is not one method",
                fix,
            );
        }
        exact.unwrap_or_default()
    });
    let request_path = match request_path {
        Some(spec) => Some(path_match(&format!("{path}.path"), spec, problems)?),
        None => None,
    };
    let headers = headers.iter().flatten();
    let mut matches = Vec::new();
    for (name, value) in headers {
        let path = format!("{path}.headers");
        let value = string_match(&path, value, problems)?;
        matches.push(header(&path, name, value, problems)?);
    }
    if matches.len() > MAX_MATCH_HEADERS {
        let fix = "use at most 8";
        let path = format!("{path}.headers");
        problems.invalid(path, &matches.len(), "there are too many headers", fix);
    }
    Some(RequestMatch {
        method,
        path: request_path,
        headers: matches,
    })
}

fn path_match(path: &str, spec: &StringMatchSpec, problems: &mut Problems) -> Option<StringMatch> {
    let found = string_match(path, spec, problems)?;
    if let StringMatch::Exact(text) | StringMatch::Prefix(text) = &found
        && !text.starts_with('/')
    {
        let fix = "begin with a slash";
        problems.invalid(path, text, "it is not a path", fix);
        return None;
    }
    Some(found)
}

/// A condition on a text. Its characters can be part of a header.
fn string_match(
    path: &str,
    spec: &StringMatchSpec,
    problems: &mut Problems,
) -> Option<StringMatch> {
    let found = match spec {
        StringMatchSpec {
            exact: Some(text),
            prefix: None,
            regex: None,
        } => StringMatch::Exact(text.clone()),
        StringMatchSpec {
            exact: None,
            prefix: Some(text),
            regex: None,
        } => StringMatch::Prefix(text.clone()),
        StringMatchSpec {
            exact: None,
            prefix: None,
            regex: Some(text),
        } => StringMatch::Regex(text.clone()),
        spec => {
            let fix = "set exactly one of exact, prefix and regex";
            problems.invalid(path, spec, "it must have exactly one condition", fix);
            return None;
        }
    };
    let (StringMatch::Exact(text) | StringMatch::Prefix(text) | StringMatch::Regex(text)) = &found;
    let is_printable = text.bytes().all(|b| (b' '..=b'~').contains(&b));
    let may_be_empty = matches!(found, StringMatch::Exact(_));
    if !is_printable || text.len() > MAX_TEXT || (text.is_empty() && !may_be_empty) {
        let fix = "use 1 to 256 printable ASCII characters";
        problems.invalid(path, text, "a request cannot be matched by it", fix);
        return None;
    }
    Some(found)
}

fn header(
    path: &str,
    name: &str,
    value: StringMatch,
    problems: &mut Problems,
) -> Option<HeaderMatch> {
    if !is_token(name) || name.eq_ignore_ascii_case("host") {
        let fix = "use letters, digits, dashes and underscores, and hostnames of the route instead \
                   of the header Host";
        problems.invalid(
            path,
            &name,
            "it is not the name of a header that can be matched",
            fix,
        );
        return None;
    }
    Some(HeaderMatch {
        name: name.to_owned(),
        value,
    })
}

fn is_token(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=MAX_HEADER_NAME).contains(&name.len()) && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::rollout::RolloutSpec;

    /// A Rollout with these steps and this `trafficRouting`.
    fn spec(routing: &Value, steps: &Value) -> RolloutSpec {
        let spec = json!({
            "selector": {"matchLabels": {"app": "shop"}},
            "template": {
                "metadata": {"labels": {"app": "shop"}},
                "spec": {"containers": [{"name": "shop", "image": "shop:v1"}]},
            },
            "strategy": {"canary": {"trafficRouting": routing, "steps": steps}},
        });
        serde_json::from_value(spec).unwrap()
    }

    fn routing() -> Value {
        json!({
            "gatewayAPI": {"httpRoute": "shop"},
            "managedRoutes": [{"name": "copies"}, {"name": "staff"}],
        })
    }

    fn staff(matches: &Value) -> Value {
        json!({"setHeaderRoute": {"name": "staff", "match": matches}})
    }

    /// The only problem of a spec.
    fn problem(routing: &Value, steps: &Value) -> String {
        let errors = spec(routing, steps).plan("shop").unwrap_err();
        assert_eq!(errors.iter().count(), 1, "{errors}");
        errors.to_string()
    }

    #[test]
    fn steps_become_rules_by_the_order_of_the_list() {
        let steps = json!([
            staff(&json!([{"headerName": "x-user", "headerValue": {"prefix": "a"}}])),
            {"setMirrorRoute": {"name": "copies", "percentage": 35, "match": [
                {"method": {"exact": "GET"}, "path": {"prefix": "/"},
                 "headers": {"x-copy": {"regex": "^y"}}},
            ]}},
            {"setMirrorRoute": {"name": "copies"}},
        ]);
        let plan = spec(&routing(), &steps).plan("shop").unwrap();
        let header = |name: &str, value| HeaderMatch {
            name: name.to_owned(),
            value,
        };
        let copies = |matches| ManagedRoute {
            precedence: 0,
            name: "copies".to_owned(),
            action: ManagedAction::Mirror { percent: 35 },
            matches,
        };
        let expected = [
            Step::SetManagedRoute(ManagedRoute {
                precedence: 1,
                name: "staff".to_owned(),
                action: ManagedAction::ToCanary,
                matches: vec![RequestMatch {
                    headers: vec![header("x-user", StringMatch::Prefix("a".to_owned()))],
                    ..RequestMatch::default()
                }],
            }),
            Step::SetManagedRoute(copies(vec![RequestMatch {
                method: Some("GET".to_owned()),
                path: Some(StringMatch::Prefix("/".to_owned())),
                headers: vec![header("x-copy", StringMatch::Regex("^y".to_owned()))],
            }])),
            Step::SetManagedRoute(ManagedRoute {
                action: ManagedAction::Mirror { percent: 100 },
                ..copies(Vec::new())
            }),
        ];
        assert_eq!(plan.steps(), expected);
    }

    #[test]
    fn each_mistake_in_a_rule_names_its_field() {
        let at = "spec.strategy.canary.steps[0].setHeaderRoute";
        let exact = |text: &str| json!({"exact": text});
        let long = "a".repeat(300);
        for (matches, field) in [
            (json!([{"headerName": "x-user"}]), "match[0]"),
            (
                json!([{"cookie": {"name": "a b", "value": "c"}}]),
                "match[0].cookie.name",
            ),
            (
                json!([{"cookie": {"name": "a", "value": "c;d"}}]),
                "match[0].cookie.value",
            ),
            (
                json!([{"headerName": "Host", "headerValue": exact("a")}]),
                "match[0].headerName",
            ),
            (
                json!([{"headerName": ":path", "headerValue": exact("a")}]),
                "match[0].headerName",
            ),
            (
                json!([{"headerName": "x", "headerValue": {}}]),
                "match[0].headerValue",
            ),
            (
                json!([{"headerName": "x", "headerValue": exact(&long)}]),
                "match[0].headerValue",
            ),
            (
                json!([{"headerName": "x", "headerValue": exact("a\n")}]),
                "match[0].headerValue",
            ),
        ] {
            let problem = problem(&routing(), &json!([staff(&matches)]));
            assert!(problem.starts_with(&format!("{at}.{field}: ")), "{problem}");
        }
        let mirror = |one: Value| json!([{"setMirrorRoute": {"name": "copies", "match": [one]}}]);
        let at = "spec.strategy.canary.steps[0].setMirrorRoute.match[0]";
        for (one, field) in [
            (json!({}), ""),
            (json!({"method": {"prefix": "G"}}), ".method"),
            (json!({"method": exact("get")}), ".method"),
            (json!({"path": exact("shop")}), ".path"),
        ] {
            let problem = problem(&routing(), &mirror(one));
            assert!(problem.starts_with(&format!("{at}{field}: ")), "{problem}");
        }
    }

    #[test]
    fn only_some_kinds_of_route_hold_rules_and_each_is_listed() {
        let exact = json!([{"headerName": "x", "headerValue": {"exact": "a"}}]);
        let steps = json!([staff(&exact)]);
        let names = json!([{"name": "staff"}]);
        let objects = json!([{"name": "shop"}]);
        for (field, router) in [
            (
                "gatewayAPI.tlsRoutes[0]",
                json!({"gatewayAPI": {"tlsRoutes": objects}}),
            ),
            (
                "nginx.canaryIngress",
                json!({"nginx": {"canaryIngress": "shop"}}),
            ),
            (
                "traefik.traefikServices[0]",
                json!({"traefik": {"traefikServices": objects}}),
            ),
            (
                "contour.httpProxies[0]",
                json!({"contour": {"httpProxies": objects}}),
            ),
            (
                "apisix.apisixRoutes[0]",
                json!({"apisix": {"apisixRoutes": objects}}),
            ),
        ] {
            let mut routing = router;
            routing["managedRoutes"] = names.clone();
            let problem = problem(&routing, &steps);
            assert!(
                problem.contains(&format!("trafficRouting.{field}")),
                "{problem}"
            );
            assert!(problem.contains("use an HTTPRoute"), "{problem}");
        }
        for router in [
            json!({"gatewayAPI": {"grpcRoutes": objects}, "managedRoutes": names}),
            json!({"istio": {"virtualServices": objects}, "managedRoutes": names}),
        ] {
            assert!(spec(&router, &steps).plan("shop").is_ok());
        }
        let unlisted = json!({"gatewayAPI": {"httpRoute": "shop"}});
        let problem = problem(&unlisted, &steps);
        assert!(
            problem.contains("trafficRouting.managedRoutes does not contain it"),
            "{problem}"
        );
    }

    #[test]
    fn the_canary_has_pods_while_a_rule_is_in_force() {
        let exact = json!([{"headerName": "x", "headerValue": {"exact": "a"}}]);
        let none = json!({"setCanaryScale": {"replicas": 0}});
        let before = problem(&routing(), &json!([none, staff(&exact)]));
        assert!(
            before.contains("steps[1].setHeaderRoute: Invalid value"),
            "{before}"
        );
        let after = problem(&routing(), &json!([staff(&exact), none]));
        assert!(
            after.contains("steps[1].setCanaryScale: Invalid value"),
            "{after}"
        );
        let removed = json!([staff(&exact), staff(&json!([])), none]);
        assert!(spec(&routing(), &removed).plan("shop").is_ok());
    }

    #[test]
    fn the_rules_fit_into_the_status() {
        let value = json!({"exact": "a".repeat(200)});
        let header =
            |index: usize| json!({"headerName": format!("x-{index}"), "headerValue": value});
        let step = staff(&(0..8).map(header).collect());
        let steps: Vec<Value> = (0..20).map(|_| step.clone()).collect();
        let problem = problem(&routing(), &steps.into());
        assert!(
            problem.starts_with("spec.strategy.canary.steps: Invalid value"),
            "{problem}"
        );
    }

    #[test]
    fn a_cookie_is_found_among_others_and_nothing_else_is() {
        let cookie = CookieMatchSpec {
            name: "group".to_owned(),
            value: "a.b".to_owned(),
        };
        let mut problems = Problems::default();
        let header = cookie_header("cookie", &cookie, &mut problems).unwrap();
        let StringMatch::Regex(expression) = header.value else {
            panic!("{:?}", header.value);
        };
        let expression = regex::Regex::new(&expression).unwrap();
        for (cookies, expected) in [
            ("group=a.b", true),
            ("x=1; group=a.b", true),
            ("group=a.b; x=1", true),
            ("x=1;group=a.b;y=2", true),
            ("group=axb", false),
            ("group=a.bc", false),
            ("mygroup=a.b", false),
            ("x=group=a.b", false),
        ] {
            assert_eq!(expression.is_match(cookies), expected, "{cookies}");
        }
    }
}

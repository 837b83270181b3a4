//! Names of Gateway API backends in Traefik's metrics.
//!
//! Since 3.7 a name is `httproute-<ns>-<route>-gw-<gateway's ns>-<gateway>-ep-<entry
//! point>-<rule>-<hash>-svc-<ns>-<service>-<backend>@kubernetesgateway`
//! (pkg/provider/kubernetes/gateway of traefik/traefik: makeRouterName, loadHTTPService; verified
//! with 3.7.15). If the route is attached to a ListenerSet, `ls` replaces `gw`. The first releases
//! of 3.7 had no hash. Earlier names are `<ns>-<service>-<port>@kubernetesgateway`.
//!
//! All parts of a name are joined with dashes (traefik #10105, #10139), and tenants choose most of
//! them. Therefore only the entry point is matched by a wildcard, which is named by the operator of
//! Traefik. It has at most three words: a longer match could hide the name of another route. Names
//! that another route of the cluster can also have are ambiguous, and count for neither side.

use crate::matcher::join_with_dashes;
use crate::request::AnalysisRequest;
use crate::routes::{RouteBackend, RouteParent, RouteRule};

const ENTRY_POINT: &str = "[A-Za-z0-9]+(?:-[A-Za-z0-9]+){0,2}";
const WORDS: &str = "[a-z0-9]+(?:-[a-z0-9]+)*";
const HASH: &str = "(?:[0-9a-f]{8,64}-)?";

/// Names of one Service's backends in the rules that a Rollout splits.
#[derive(Debug)]
pub(crate) struct BackendNames {
    /// The Service in Traefik's notation.
    pub(crate) service: String,
    /// Patterns of names that only this Rollout uses.
    pub(crate) certain: Vec<String>,
    /// Patterns of names that other routes can also have.
    pub(crate) ambiguous: Vec<String>,
    /// Why they are ambiguous, and how to fix it.
    pub(crate) why: Option<String>,
}

pub(crate) fn backend_names(request: &AnalysisRequest, service: &str) -> BackendNames {
    let namespace = &request.rollout.namespace;
    let mut names = BackendNames {
        service: join_with_dashes(&[namespace, service]),
        certain: Vec::new(),
        ambiguous: Vec::new(),
        why: None,
    };
    let is_written_so = |backend: &RouteBackend| {
        join_with_dashes(&[&backend.namespace, &backend.service]) == names.service
    };
    let others = request
        .rules
        .others
        .iter()
        .filter(|rule| rule.backends.iter().any(is_written_so));
    let others: Vec<&RouteRule> = others.collect();
    let written = service_pattern(namespace, service);
    for rule in &request.rules.split {
        let pattern = name_since_3_7(rule, &written);
        match others.iter().find(|other| may_collide(rule, other)) {
            None => names.certain.push(pattern),
            Some(other) => {
                names.ambiguous.push(pattern);
                names.why = Some(format!(
                    "Traefik uses the same name for {} and {} in its metrics, so their requests \
                     cannot be distinguished: rename one of the routes or Services, or use the \
                     indicator pod",
                    rule.title(),
                    other.title()
                ));
            }
        }
    }
    let before_3_7 = format!("{}-[0-9]+@kubernetesgateway", regex::escape(&names.service));
    match others.first() {
        None => names.certain.push(before_3_7),
        Some(other) => {
            names.ambiguous.push(before_3_7);
            names.why.get_or_insert_with(|| {
                format!(
                    "Traefik before 3.7 uses the same name for Service {namespace}/{service} and \
                     the backend of {} in its metrics, so their requests cannot be distinguished: \
                     upgrade Traefik to 3.7 or later, split that rule as well, or use the \
                     indicator pod",
                    other.title()
                )
            });
        }
    }
    names.certain.sort();
    names.certain.dedup();
    names
}

/// Pattern of a Service in the notation of all Traefik releases, with or without double dashes.
fn service_pattern(namespace: &str, service: &str) -> String {
    let (joined, plain) = (
        join_with_dashes(&[namespace, service]),
        format!("{namespace}-{service}"),
    );
    if joined == plain {
        regex::escape(&joined)
    } else {
        format!("(?:{}|{})", regex::escape(&joined), regex::escape(&plain))
    }
}

/// Prefix of the name of a rule, up to the entry point.
fn rule_prefix(rule: &RouteRule, parent: &RouteParent) -> String {
    let kind = if parent.is_listener_set { "ls" } else { "gw" };
    join_with_dashes(&[
        "httproute",
        &rule.namespace,
        &rule.route,
        kind,
        &parent.namespace,
        &parent.name,
        "ep",
    ])
}

fn name_since_3_7(rule: &RouteRule, service: &str) -> String {
    let beginnings: Vec<String> = rule
        .parents
        .iter()
        .map(|parent| regex::escape(&rule_prefix(rule, parent)))
        .collect();
    let beginning = if beginnings.is_empty() {
        let route = regex::escape(&join_with_dashes(&[
            "httproute",
            &rule.namespace,
            &rule.route,
        ]));
        format!("{route}-(?:gw|ls)-{WORDS}-ep")
    } else {
        format!("(?:{})", beginnings.join("|"))
    };
    let index = rule
        .index
        .map_or_else(|| "[0-9]+".to_owned(), |index| index.to_string());
    format!("{beginning}-{ENTRY_POINT}-{index}-{HASH}svc-{service}-[0-9]+@kubernetesgateway")
}

/// Whether two rules of different routes, whose Services have the same notation, can have the same
/// name.
fn may_collide(rule: &RouteRule, other: &RouteRule) -> bool {
    let is_same_route = (&rule.namespace, &rule.route) == (&other.namespace, &other.route);
    if is_same_route || (rule.index.is_some() && rule.index != other.index) {
        return false;
    }
    let prefixes = |rule: &RouteRule| -> Vec<String> {
        rule.parents
            .iter()
            .map(|parent| format!("{}-", rule_prefix(rule, parent)))
            .collect()
    };
    let others = prefixes(other);
    prefixes(rule).iter().any(|one| {
        others
            .iter()
            .any(|other| one.starts_with(other.as_str()) || other.starts_with(one))
    })
}

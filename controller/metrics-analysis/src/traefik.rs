//! The names that Traefik gives the backends of the Gateway API in its metrics.
//!
//! Since 3.7 a name is `httproute-<ns>-<route>-gw-<gateway's ns>-<gateway>-ep-<entry
//! point>-<rule>-<hash>-svc-<ns>-<service>-<backend>@kubernetesgateway`
//! (pkg/provider/kubernetes/gateway of traefik/traefik: makeRouterName, loadHTTPService; seen with
//! 3.7.15). `ls` stands for `gw` where the route is attached to a ListenerSet, and its first
//! releases wrote no hash. Before, it was `<ns>-<service>-<port>@kubernetesgateway`.
//!
//! All names in it are joined by dashes (traefik #10105, #10139), and tenants choose most of them.
//! So nothing but the entry point is left open, which whoever runs Traefik names, and it has at
//! most three words: a longer one could hide the names of another route. What another route of the
//! cluster can have caused as well is unclear, and counts for neither side.

use crate::matcher::joined;
use crate::request::JudgeRequest;
use crate::routes::{RouteBackend, RouteParent, RouteRule};

const ENTRY_POINT: &str = "[A-Za-z0-9]+(?:-[A-Za-z0-9]+){0,2}";
const WORDS: &str = "[a-z0-9]+(?:-[a-z0-9]+)*";
const HASH: &str = "(?:[0-9a-f]{8,64}-)?";

/// The names of one Service's requests by way of the rules that a Rollout splits.
#[derive(Debug)]
pub(crate) struct Names {
    /// The Service as Traefik writes it.
    pub(crate) service: String,
    /// Regular expressions of the names that nobody else's requests have.
    pub(crate) certain: Vec<String>,
    /// Of those that others' can have as well.
    pub(crate) unclear: Vec<String>,
    /// Why they are unclear, and what to do.
    pub(crate) why: Option<String>,
}

pub(crate) fn names_of(request: &JudgeRequest, service: &str) -> Names {
    let namespace = &request.rollout.namespace;
    let mut names = Names {
        service: joined(&[namespace, service]),
        certain: Vec::new(),
        unclear: Vec::new(),
        why: None,
    };
    let is_written_so =
        |backend: &RouteBackend| joined(&[&backend.namespace, &backend.service]) == names.service;
    let others = request
        .rules
        .others
        .iter()
        .filter(|rule| rule.backends.iter().any(is_written_so));
    let others: Vec<&RouteRule> = others.collect();
    let written = written(namespace, service);
    for rule in &request.rules.split {
        let pattern = name_since_3_7(rule, &written);
        match others.iter().find(|other| collide(rule, other)) {
            None => names.certain.push(pattern),
            Some(other) => {
                names.unclear.push(pattern);
                names.why = Some(format!(
                    "Traefik writes {} and {} alike, so that their requests cannot be told apart: rename one of the routes or \
                     Services, or use the indicator pod",
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
            names.unclear.push(before_3_7);
            names.why.get_or_insert_with(|| {
                format!(
                    "Traefik before 3.7 writes requests to Service {namespace}/{service} and those of {} alike, so that they cannot be \
                     told apart: upgrade Traefik to 3.7 or later, split that rule as well, or use the indicator pod",
                    other.title()
                )
            });
        }
    }
    names.certain.sort();
    names.certain.dedup();
    names
}

/// A Service as the releases of Traefik write it, with or without its double dashes.
fn written(namespace: &str, service: &str) -> String {
    let (joined, plain) = (
        joined(&[namespace, service]),
        format!("{namespace}-{service}"),
    );
    if joined == plain {
        regex::escape(&joined)
    } else {
        format!("(?:{}|{})", regex::escape(&joined), regex::escape(&plain))
    }
}

/// What the name of a rule begins with, up to the entry point.
fn beginning(rule: &RouteRule, parent: &RouteParent) -> String {
    let kind = if parent.is_listener_set { "ls" } else { "gw" };
    joined(&[
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
        .map(|parent| regex::escape(&beginning(rule, parent)))
        .collect();
    let beginning = if beginnings.is_empty() {
        let route = regex::escape(&joined(&["httproute", &rule.namespace, &rule.route]));
        format!("{route}-(?:gw|ls)-{WORDS}-ep")
    } else {
        format!("(?:{})", beginnings.join("|"))
    };
    let index = rule
        .index
        .map_or_else(|| "[0-9]+".to_owned(), |index| index.to_string());
    format!("{beginning}-{ENTRY_POINT}-{index}-{HASH}svc-{service}-[0-9]+@kubernetesgateway")
}

/// Whether two rules of different routes, to Services that are written alike, can have the same
/// name.
fn collide(rule: &RouteRule, other: &RouteRule) -> bool {
    let is_same_route = (&rule.namespace, &rule.route) == (&other.namespace, &other.route);
    if is_same_route || (rule.index.is_some() && rule.index != other.index) {
        return false;
    }
    let of = |rule: &RouteRule| -> Vec<String> {
        rule.parents
            .iter()
            .map(|parent| format!("{}-", beginning(rule, parent)))
            .collect()
    };
    let others = of(other);
    of(rule).iter().any(|one| {
        others
            .iter()
            .any(|other| one.starts_with(other.as_str()) || other.starts_with(one))
    })
}

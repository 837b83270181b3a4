//! Names of Gateway API backends in Traefik's metrics.
//!
//! Since 3.7 a name is `httproute-<ns>-<route>-gw-<gateway's ns>-<gateway>-ep-<entry
//! point>-<rule>-<hash>-svc-<ns>-<service>-<backend>@kubernetesgateway`
//! (pkg/provider/kubernetes/gateway of traefik/traefik: makeRouterName, loadHTTPService; verified
//! with 3.7.15). If the route is attached to a ListenerSet, `ls` replaces `gw`. The first releases
//! of 3.7 had no hash. Earlier names are `<ns>-<service>-<port>@kubernetesgateway`.
//!
//! All parts of a name are joined with dashes (traefik #10105, #10139), and tenants choose most of
//! them. Therefore a name counts only if it is complete, from the namespace of the route to the
//! Service. Only the entry point is matched by a wildcard, which is named by the operator of
//! Traefik. It has at most three words, none of which is `svc`: a longer match could hide the name
//! of another route. Names that another route of the cluster can also have are ambiguous, and count
//! for neither side.

use std::collections::BTreeMap;

use serin_core::plan::RouteKind;
use serin_traffic::router_of;

use crate::matcher::{any_of, join_with_dashes, words};
use crate::request::AnalysisRequest;
use crate::routes::{RouteParent, RouteRule, RouteScope};

/// Any word but `svc`, which is between a rule and its Service.
const WORD: &str = "(?:[A-Za-rt-z0-9][A-Za-z0-9]*|s(?:[A-Za-uw-z0-9][A-Za-z0-9]*)?\
    |sv(?:[A-Zabd-z0-9][A-Za-z0-9]*)?|svc[A-Za-z0-9]+)";
const HASH: &str = "(?:[0-9a-f]{8,20}-)?";
const HASH_LENGTH: std::ops::RangeInclusive<usize> = 8..=20;

/// The word between a rule and its Service.
const BEFORE_SERVICE: &str = "svc";

/// Entry points with more words are not considered when names are compared.
const MAX_ENTRY_POINT_WORDS: usize = 8;

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
    let rules = &request.rules;
    let mut names = BackendNames {
        service: join_with_dashes(&[namespace, service]),
        certain: Vec::new(),
        ambiguous: Vec::new(),
        why: None,
    };
    let mut by_route: BTreeMap<_, Vec<&RouteRule>> = BTreeMap::new();
    for rule in &rules.split {
        let own = names_since_3_7(rule, namespace, service);
        let mut others = rules.others.iter();
        let other = others.find(|other| !is_same_route(rule, other) && shares_name(&own, other));
        if let Some(other) = other {
            names.why = Some(format!(
                "Traefik uses the same name for {} and {} in its metrics, so their requests cannot \
                 be distinguished: rename one of the routes or Services, or use the indicator pod",
                rule.title(),
                other.title()
            ));
        }
        let key = (&rule.namespace, &rule.route, other.is_some());
        by_route.entry(key).or_default().push(rule);
    }
    for ((_, _, is_ambiguous), of_route) in by_route {
        let pattern = pattern_since_3_7(&of_route, rules.scope, namespace, service);
        if is_ambiguous {
            names.ambiguous.extend(pattern);
        } else {
            names.certain.extend(pattern);
        }
    }
    let pattern = format!("{}-[0-9]+@kubernetesgateway", regex::escape(&names.service));
    match problem_before_3_7(request, service) {
        None => names.certain.push(pattern),
        Some(problem) => {
            names.ambiguous.push(pattern);
            names.why.get_or_insert(problem);
        }
    }
    names
}

/// Why the name of a Service in Traefik before 3.7 is not known to be the Rollout's, and how to fix
/// it.
fn problem_before_3_7(request: &AnalysisRequest, service: &str) -> Option<String> {
    let namespace = &request.rollout.namespace;
    let own = [name_before_3_7(namespace, service)];
    let mut others = request.rules.others.iter();
    if let Some(other) = others.find(|other| shares_name(&own, other)) {
        return Some(format!(
            "Traefik before 3.7 uses the same name for Service {namespace}/{service} and the \
             backend of {} in its metrics, so their requests cannot be distinguished: upgrade \
             Traefik to 3.7 or later, split that rule as well, or use the indicator pod",
            other.title()
        ));
    }
    let joined = join_with_dashes(&[namespace, service]);
    // Two words can only be a namespace and a Service in one way.
    let is_divisible = words(&joined).count() > 2;
    (request.rules.scope == RouteScope::OwnNamespace && is_divisible).then(|| {
        format!(
            "Traefik before 3.7 joins a namespace and a Service with a dash, so {joined} can also \
             be a Service of another namespace, whose routes this controller does not see: upgrade \
             Traefik to 3.7 or later, let the controller watch all namespaces, or use the indicator \
             pod"
        )
    })
}

/// Whether Traefik can use the same name for one of these Services, in one of the split rules, and
/// for a backend of another rule.
pub(crate) fn may_share_name(
    split: &[RouteRule],
    namespace: &str,
    services: [&str; 2],
    other: &RouteRule,
) -> bool {
    services.into_iter().any(|service| {
        let mut own = vec![name_before_3_7(namespace, service)];
        let rules = split.iter().filter(|rule| !is_same_route(rule, other));
        own.extend(rules.flat_map(|rule| names_since_3_7(rule, namespace, service)));
        shares_name(&own, other)
    })
}

/// The end of all names of a Service: equal names have equal ends. A cheap comparison before
/// [`may_share_name`].
pub(crate) fn name_end(namespace: &str, service: &str) -> String {
    let joined = join_with_dashes(&[namespace, service]);
    let words: Vec<&str> = words(&joined).collect();
    let mut parts = words.rsplit(|word| *word == BEFORE_SERVICE);
    parts.next().unwrap_or_default().join("-")
}

fn is_same_route(rule: &RouteRule, other: &RouteRule) -> bool {
    (rule.kind, &rule.namespace, &rule.route) == (other.kind, &other.namespace, &other.route)
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
        &router_of(rule.kind).kind().to_lowercase(),
        &rule.namespace,
        &rule.route,
        kind,
        &parent.namespace,
        &parent.name,
        "ep",
    ])
}

/// Pattern of the names of a Service in rules of one route. `None` if the route has no parent, so
/// that nothing serves it.
fn pattern_since_3_7(
    rules: &[&RouteRule],
    scope: RouteScope,
    namespace: &str,
    service: &str,
) -> Option<String> {
    let rule = rules.first()?;
    let prefixes: Vec<String> = rule
        .parents
        .iter()
        .map(|parent| regex::escape(&rule_prefix(rule, parent)))
        .collect();
    let beginning = if !prefixes.is_empty() {
        any_of(&prefixes)
    } else if scope == RouteScope::Plan {
        // The parents are unknown.
        let route = join_with_dashes(&["httproute", &rule.namespace, &rule.route]);
        format!("{}-(?:gw|ls)-(?:{WORD}-){{2,8}}ep", regex::escape(&route))
    } else {
        return None;
    };
    let index = |rule: &&RouteRule| {
        let index = rule.index.map(|index| index.to_string());
        index.unwrap_or_else(|| "[0-9]+".to_owned())
    };
    let index = any_of(&rules.iter().map(index).collect::<Vec<_>>());
    let service = service_pattern(namespace, service);
    Some(format!(
        "{beginning}-(?:{WORD}-){{1,3}}{index}-{HASH}svc-{service}-[0-9]+@kubernetesgateway"
    ))
}

/// One word of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NameWord {
    Literal(String),
    /// A word of an entry point.
    EntryPoint,
    /// The index of a rule or of a backend, or a port.
    Number,
    Hash,
}

impl NameWord {
    fn allows(&self, word: &str) -> bool {
        match self {
            Self::Literal(literal) => literal == word,
            Self::EntryPoint => word != BEFORE_SERVICE,
            Self::Number => word.bytes().all(|byte| byte.is_ascii_digit()),
            Self::Hash => {
                HASH_LENGTH.contains(&word.len())
                    && word.bytes().all(|byte| byte.is_ascii_hexdigit())
            }
        }
    }

    /// Whether both can be the same word.
    fn can_equal(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Literal(word), pattern) | (pattern, Self::Literal(word)) => pattern.allows(word),
            _ => true,
        }
    }
}

fn literals(text: &str) -> impl Iterator<Item = NameWord> {
    words(text).map(|word| NameWord::Literal(word.to_owned()))
}

/// The name of a Service before Traefik 3.7.
fn name_before_3_7(namespace: &str, service: &str) -> Vec<NameWord> {
    let service = literals(namespace).chain(literals(service));
    service.chain([NameWord::Number]).collect()
}

/// The names of a Service in a rule since Traefik 3.7, for every number of words that the entry
/// point can have, with and without a hash.
fn names_since_3_7(rule: &RouteRule, namespace: &str, service: &str) -> Vec<Vec<NameWord>> {
    let index = match rule.index {
        Some(index) => NameWord::Literal(index.to_string()),
        None => NameWord::Number,
    };
    let service: Vec<NameWord> = literals(BEFORE_SERVICE)
        .chain(name_before_3_7(namespace, service))
        .collect();
    let mut names = Vec::new();
    for parent in &rule.parents {
        let mut name: Vec<NameWord> = literals(&rule_prefix(rule, parent)).collect();
        for _ in 0..MAX_ENTRY_POINT_WORDS {
            name.push(NameWord::EntryPoint);
            for hash in [None, Some(NameWord::Hash)] {
                let rule = name.iter().cloned().chain([index.clone()]).chain(hash);
                names.push(rule.chain(service.iter().cloned()).collect());
            }
        }
    }
    names
}

/// Whether a backend of another rule can have one of these names. Only routes for requests have
/// counters of requests.
fn shares_name(own: &[Vec<NameWord>], other: &RouteRule) -> bool {
    if !matches!(other.kind, RouteKind::HttpRoute | RouteKind::GrpcRoute) {
        return false;
    }
    let can_equal = |one: &Vec<NameWord>, other: &Vec<NameWord>| {
        one.len() == other.len()
            && one
                .iter()
                .zip(other)
                .all(|(one, other)| one.can_equal(other))
    };
    other.backends.iter().any(|backend| {
        let (namespace, service) = (&backend.namespace, &backend.service);
        let mut names = names_since_3_7(other, namespace, service);
        names.push(name_before_3_7(namespace, service));
        names
            .iter()
            .any(|name| own.iter().any(|own| can_equal(own, name)))
    })
}

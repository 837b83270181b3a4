//! Errors of reading and changing a route.

use std::fmt;

use serde_json::Value;
use serin_core::units::Weight;

/// A route cannot be read or changed. The message contains the route, the rule and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The object does not match its schema.
    #[error("{route} is malformed: {at} is not {expected}")]
    Malformed {
        /// The route.
        route: RouteName,
        /// A JSON pointer into the object.
        at: String,
        /// The expected type.
        expected: &'static str,
    },
    /// No rule has this name.
    #[error(
        "rule `{rule}` not found in {route}; its rules are: {}",
        list(existing)
    )]
    RuleNotFound {
        /// The route.
        route: RouteName,
        /// The requested name.
        rule: String,
        /// The existing rules.
        existing: Vec<String>,
    },
    /// The named rule, or every rule, lacks the stable Service.
    #[error(
        "Service `{stable}` is not a backend of {location} of {route}; its backends are: {}; \
         add a backend `{stable}` or name the right Service as stableService",
        list(backends)
    )]
    StableNotFound {
        /// The route.
        route: RouteName,
        /// The rule, or `any rule`.
        location: String,
        /// The stable Service.
        stable: String,
        /// The existing backends.
        backends: Vec<String>,
    },
    /// A rule lists a Service more than once, so its weight is ambiguous.
    #[error("{rule} of {route} lists Service `{service}` more than once; list it once")]
    DuplicateBackend {
        /// The route.
        route: RouteName,
        /// The rule.
        rule: String,
        /// The Service.
        service: String,
    },
    /// The stable backend has weight 0, so there is no traffic to divide.
    #[error(
        "{rule} of {route} gives Service `{stable}` weight 0, so there is no traffic to divide; \
         set it to the combined weight of stable and canary"
    )]
    StableHasNoTraffic {
        /// The route.
        route: RouteName,
        /// The rule.
        rule: String,
        /// The stable Service.
        stable: String,
    },
    /// The weight cannot be expressed in whole numbers next to the weights of the other backends.
    #[error(
        "a canary weight of {weight} cannot be expressed in {rule} of {route}: the weight of \
         Service `{stable}` is too small compared with the other backends; use a whole percentage \
         or reduce the weights of the other backends"
    )]
    WeightTooFine {
        /// The route.
        route: RouteName,
        /// The rule.
        rule: String,
        /// The stable Service.
        stable: String,
        /// The requested canary weight.
        weight: Weight,
    },
    /// The object is an Ingress without the canary annotation of ingress-nginx.
    #[error(
        "{route} has no annotation nginx.ingress.kubernetes.io/canary: \"true\"; name an Ingress \
         with it, whose backends are the canary Service"
    )]
    NotCanaryIngress {
        /// The Ingress.
        route: RouteName,
    },
    /// A backend of a canary Ingress is not the canary Service.
    #[error(
        "the backends of {route} are {}, and its weight concerns all of them; the only backend of a \
         canary Ingress must be Service `{canary}`",
        list(backends)
    )]
    NotCanaryBackend {
        /// The Ingress.
        route: RouteName,
        /// The canary Service.
        canary: String,
        /// The existing backends.
        backends: Vec<String>,
    },
    /// A canary Ingress also sends requests to the canary by header or cookie, at any weight.
    #[error(
        "annotation {annotation} of {route} sends requests to the canary at any weight; remove it"
    )]
    CanaryRegardlessOfWeight {
        /// The Ingress.
        route: RouteName,
        /// The annotation.
        annotation: String,
    },
    /// The weight of a canary Ingress is not a multiple of its unit.
    #[error(
        "a canary weight of {weight} cannot be expressed in {route}: its weights sum to {total}; set \
         the annotation nginx.ingress.kubernetes.io/canary-weight-total to \"{suggested_total}\""
    )]
    CanaryWeightTooFine {
        /// The Ingress.
        route: RouteName,
        /// The requested canary weight.
        weight: Weight,
        /// The sum of the weights of both sides.
        total: u64,
        /// A sum that can express the weight.
        suggested_total: u64,
    },
    /// A rule for chosen requests cannot be written.
    #[error("managed route `{managed}` cannot be written to {route}: {problem}")]
    NotExpressible {
        /// The route.
        route: RouteName,
        /// The name of the managed route.
        managed: String,
        /// What prevents it, with the fix.
        problem: String,
    },
    /// The rules have different canary weights, because another client changed one of them.
    #[error("the rules of {route} have different canary weights: {}", list(shares))]
    RulesDisagree {
        /// The route.
        route: RouteName,
        /// The canary weight of each rule.
        shares: Vec<String>,
    },
}

/// Kind, namespace and name of a route, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteName {
    /// The object's kind.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
}

impl RouteName {
    pub(crate) fn new(kind: &'static str, route: &Value) -> Self {
        let text = |field: &str| {
            let value = route
                .get("metadata")
                .and_then(|metadata| metadata.get(field));
            Box::from(value.and_then(Value::as_str).unwrap_or_default())
        };
        Self {
            kind,
            namespace: text("namespace"),
            name: text("name"),
        }
    }
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A manifest can leave the namespace out.
        if self.namespace.is_empty() {
            return write!(f, "{} {}", self.kind, self.name);
        }
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

fn list(items: &[String]) -> String {
    if items.is_empty() {
        "none".into()
    } else {
        items.join(", ")
    }
}

//! Errors of reading and changing a route.

use std::fmt;

use serin_core::units::Weight;

/// A route cannot be read or changed. The message contains the route, the rule and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// This kind of route is not supported.
    #[error("{kind} is not supported as a route; use {}", supported.join(" or "))]
    UnsupportedKind {
        /// The object's `kind`.
        kind: String,
        /// The supported kinds.
        supported: Vec<&'static str>,
    },
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
         add a backendRef to `{stable}` or name the right Service as stableService",
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

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

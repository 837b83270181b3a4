//! Why a route cannot be read or written, and what would mend it.

use std::fmt;

use serin_core::units::Weight;

/// Why a route cannot be read or written. The text names the route, the rule and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteProblem {
    /// There is no file for this kind of router object.
    #[error("{kind} is not a kind of route that can be split: use an HTTPRoute")]
    UnknownKind {
        /// The object's `kind`.
        kind: String,
    },
    /// The object is not what its schema promises.
    #[error("{route} is malformed: {at} is not {expected}")]
    Malformed {
        /// The route.
        route: RouteName,
        /// A JSON pointer into the object.
        at: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// No rule has the name.
    #[error("rule `{rule}` not found in {route}; its rules are: {}", list(known))]
    RuleNotFound {
        /// The route.
        route: RouteName,
        /// The name that was asked for.
        rule: String,
        /// The rules that there are.
        known: Vec<String>,
    },
    /// The named rule, or every rule, lacks the stable Service.
    #[error(
        "Service `{stable}` is not a backend of {place} of {route}; the backends there are: {}; \
         add a backendRef to `{stable}` or name the right Service as stableService",
        list(backends)
    )]
    StableNotFound {
        /// The route.
        route: RouteName,
        /// The rule, or that it is any.
        place: String,
        /// The stable Service.
        stable: String,
        /// The backends that there are.
        backends: Vec<String>,
    },
    /// A Service stands twice in one rule, so nobody can tell which share is meant.
    #[error("{rule} of {route} lists Service `{service}` more than once; list it once")]
    ListedTwice {
        /// The route.
        route: RouteName,
        /// The rule.
        rule: String,
        /// The Service.
        service: String,
    },
    /// The user gave stable no traffic, so there is nothing to divide.
    #[error(
        "{rule} of {route} gives Service `{stable}` weight 0, so there is no traffic to divide; \
         give it the share that stable and canary shall have together"
    )]
    StableHasNoTraffic {
        /// The route.
        route: RouteName,
        /// The rule.
        rule: String,
        /// The stable Service.
        stable: String,
    },
    /// The share cannot be written in whole numbers beside the other backends' weights.
    #[error(
        "a canary weight of {weight} cannot be written in {rule} of {route}: beside its other backends the weight of \
         Service `{stable}` is too small to be divided so finely; use a whole percentage or smaller weights for the others"
    )]
    TooFine {
        /// The route.
        route: RouteName,
        /// The rule.
        rule: String,
        /// The stable Service.
        stable: String,
        /// What was asked for.
        weight: Weight,
    },
    /// The rules say different things: somebody else has changed one of them.
    #[error(
        "the rules of {route} disagree on the canary's share: {}",
        list(shares)
    )]
    RulesDisagree {
        /// The route.
        route: RouteName,
        /// What each rule says.
        shares: Vec<String>,
    },
}

/// The route as messages name it.
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

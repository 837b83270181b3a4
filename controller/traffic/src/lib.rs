//! What a router object must look like for a given traffic split: JSON in, RFC 6902 patches out.
//!
//! A router object belongs to its users; Serin owns nothing in it but how the stable side's share
//! is divided between the stable and the canary backend of the rules it was pointed to. So an
//! object is read as plain JSON, never through a type that could drop an unknown field, and changed
//! by a JSON Patch whose `test` operations refuse an object that has changed since it was read.
//!
//! Each kind of router is one file. The functions here choose it by the object's `kind`; an object
//! without one (typed clients drop it) is taken for an HTTPRoute.

#![warn(missing_docs)]

mod backend;
mod http_route;
mod original;
mod problem;
mod programmed;
mod split;

use json_patch::Patch;
use serde_json::Value;
use serin_core::units::Weight;

pub use original::{Original, OriginalBackend, OriginalRule};
pub use problem::RouteProblem;
pub use programmed::ProgrammedSeen;

/// The kinds of router object that there is a file for.
enum Router {
    HttpRoute,
}

impl Router {
    fn of(route: &Value) -> Result<Self, RouteProblem> {
        match route.get("kind").and_then(Value::as_str) {
            None | Some("HTTPRoute") => Ok(Self::HttpRoute),
            Some(other) => Err(RouteProblem::UnknownKind { kind: other.into() }),
        }
    }
}

/// The canary's share of what the route's rule gives to stable and canary together, as written in
/// the object.
///
/// `rule` is the name of the one rule that counts; without it every rule counts that has the
/// Service `stable` of the route's own namespace as a backend. This is what drift is detected by.
///
/// # Errors
/// The rule or its stable backend does not exist, the object is malformed, or several rules say
/// different things ([`RouteProblem::RulesDisagree`], which [`set_weight`] mends).
pub fn canary_weight(
    route: &Value,
    rule: Option<&str>,
    stable: &str,
    canary: &str,
) -> Result<Weight, RouteProblem> {
    match Router::of(route)? {
        Router::HttpRoute => http_route::canary_weight(route, rule, stable, canary),
    }
}

/// The patch that gives the canary `canary_weight` of what the rule gives to stable and canary
/// together.
///
/// It is empty where the object already says so. At weight 0 the canary's backend is not in the
/// rule (unless the user had written it: then it stays with weight 0) and the weights are as the
/// user wrote them. Other backends of the rule keep their share of the whole: their weights are
/// multiplied by a common factor where stable's own weight cannot be divided in whole numbers, and
/// put back at weight 0.
///
/// `original` is what [`original`] or [`refreshed`] told; it is not needed for a rule that carries
/// no canary, because such a rule is as the user wrote it, whatever was remembered.
///
/// # Errors
/// As [`canary_weight`] (but rules that disagree are mended), and where the share cannot be written
/// in the object.
pub fn set_weight(
    route: &Value,
    rule: Option<&str>,
    stable: &str,
    canary: &str,
    canary_weight: Weight,
    original: Option<&Original>,
) -> Result<Patch, RouteProblem> {
    match Router::of(route)? {
        Router::HttpRoute => {
            http_route::set_weight(route, rule, (stable, canary), canary_weight, original)
        }
    }
}

/// Whether every router that the route is attached to has taken over the object's current
/// generation.
pub fn programmed(route: &Value) -> ProgrammedSeen {
    match Router::of(route) {
        Ok(Router::HttpRoute) => programmed::programmed(route),
        Err(problem) => ProgrammedSeen::Pending(problem.to_string()),
    }
}

/// The weights of the route's rules as they stand, for [`restore`]: to be stored before the first
/// change.
///
/// # Errors
/// As [`canary_weight`].
pub fn original(
    route: &Value,
    rule: Option<&str>,
    stable: &str,
    canary: &str,
) -> Result<Original, RouteProblem> {
    refreshed(route, rule, stable, canary, None)
}

/// What was `known`, brought up to date: a rule that carries no canary is as its user wrote it now
/// (an `apply` in the middle of a release replaces the rule), and a rule that carries one is as it
/// was known.
///
/// Cheap enough for every reconcile; to be stored, where it differs from `known`, before the next
/// change.
///
/// # Errors
/// As [`canary_weight`].
pub fn refreshed(
    route: &Value,
    rule: Option<&str>,
    stable: &str,
    canary: &str,
    known: Option<&Original>,
) -> Result<Original, RouteProblem> {
    match Router::of(route)? {
        Router::HttpRoute => http_route::refreshed(route, rule, (stable, canary), known),
    }
}

/// The patch that takes Serin's hand off the route: every remembered rule gets its weights back,
/// also that of a canary which the user had written, and a canary that the user had not written
/// goes.
///
/// Rules and backends that no longer exist are left alone. Empty where there is nothing to put
/// back.
///
/// # Errors
/// The object is malformed.
pub fn restore(
    route: &Value,
    original: &Original,
    stable: &str,
    canary: &str,
) -> Result<Patch, RouteProblem> {
    match Router::of(route)? {
        Router::HttpRoute => http_route::restore(route, original, (stable, canary)),
    }
}

//! Computes the RFC 6902 patch that sets the canary weight in a route object. Input is plain JSON.
//!
//! A route object belongs to its users. Serin only divides the weight of the stable backend between
//! the stable and the canary backend, in the rules that it manages. Therefore an object is read as
//! plain JSON, never through a type that could drop an unknown field, and changed by a JSON Patch
//! whose `test` operations fail if the object has changed since it was read.
//!
//! Each kind of route has its own module with an implementation of [`Router`], selected by the
//! object's group and kind. An object without a kind (typed clients drop it) is treated as the first
//! kind in [`ROUTERS`].

#![warn(missing_docs)]

mod assignment;
mod backend;
mod error;
mod http_route;
mod original;
mod patch_builder;
mod programmed;
mod router;
mod split;

use json_patch::Patch;
use serde_json::Value;
use serin_core::units::Weight;

pub use assignment::{ServiceFacts, assignment_unit, sticky_annotation};
pub use error::RouteError;
pub use original::{OriginalBackend, OriginalRule, OriginalWeights};
pub use programmed::ProgrammedStatus;
pub use router::{ManagedRule, ROUTERS, Router, Services, router_for, router_of};

/// The current canary weight: the canary's share of the combined weight of the stable and the
/// canary backend.
///
/// `rule` is the name of the managed rule. If `None`, all rules with the Service `stable` of the
/// route's own namespace as a backend are managed. Drift detection compares this value with the
/// desired weight.
///
/// # Errors
/// The rule or its stable backend does not exist, the object is malformed, or the rules have
/// different weights ([`RouteError::RulesDisagree`], which [`set_weight`] fixes).
pub fn canary_weight(
    route: &Value,
    rule: Option<&str>,
    stable: &str,
    canary: &str,
) -> Result<Weight, RouteError> {
    router_for(route)?.canary_weight(route, rule, Services { stable, canary })
}

/// The patch that sets the canary weight to `canary_weight` of the combined weight of the stable
/// and the canary backend.
///
/// The patch is empty if the object already has this weight. At weight 0 the canary backend is
/// removed (or kept with weight 0 if the user listed it), and all weights are as the user wrote
/// them. Other backends of the rule keep their share of the rule's traffic: if the weight of the
/// stable backend cannot be divided in whole numbers, their weights are multiplied by a common
/// factor, which is undone at weight 0.
///
/// `original` is the result of [`capture_original`] or [`refresh_original`]. It is ignored for a
/// rule without a canary backend, because such a rule is as the user wrote it.
///
/// # Errors
/// As [`canary_weight`], except that rules with different weights are fixed. Also if the weight
/// cannot be expressed in whole numbers.
pub fn set_weight(
    route: &Value,
    rule: Option<&str>,
    stable: &str,
    canary: &str,
    canary_weight: Weight,
    original: Option<&OriginalWeights>,
) -> Result<Patch, RouteError> {
    let services = Services { stable, canary };
    router_for(route)?.set_weight(route, rule, services, canary_weight, original)
}

/// Whether every gateway that the route is attached to has programmed the current generation of the
/// object.
pub fn programmed_status(route: &Value) -> ProgrammedStatus {
    match router_for(route) {
        Ok(router) => router.programmed_status(route),
        Err(error) => ProgrammedStatus::Pending(error.to_string()),
    }
}

/// The current weights of the managed rules, for [`restore`]. Must be stored before the first
/// change.
///
/// # Errors
/// As [`canary_weight`].
pub fn capture_original(
    route: &Value,
    rule: Option<&str>,
    stable: &str,
    canary: &str,
) -> Result<OriginalWeights, RouteError> {
    refresh_original(route, rule, stable, canary, None)
}

/// Updates `original`. For a rule without a canary backend the current weights are the original ones,
/// because the user has written it (an `apply` during a release replaces the rule). For a rule with
/// a canary backend the known weights are kept.
///
/// Cheap enough for every reconcile. If the result differs from `original`, it must be stored before
/// the next change.
///
/// # Errors
/// As [`canary_weight`].
pub fn refresh_original(
    route: &Value,
    rule: Option<&str>,
    stable: &str,
    canary: &str,
    original: Option<&OriginalWeights>,
) -> Result<OriginalWeights, RouteError> {
    router_for(route)?.refresh_original(route, rule, Services { stable, canary }, original)
}

/// The patch that restores the original weights of every recorded rule, including the weight of a
/// canary backend that the user listed. Removes a canary backend that the user did not list.
///
/// Rules and backends that no longer exist are ignored. The patch is empty if there is nothing to
/// restore.
///
/// # Errors
/// The object is malformed.
pub fn restore(
    route: &Value,
    original: &OriginalWeights,
    stable: &str,
    canary: &str,
) -> Result<Patch, RouteError> {
    router_for(route)?.restore(route, original, Services { stable, canary })
}

//! The functions of a router, for the tests of all kinds.

#![allow(dead_code, reason = "each test binary uses some of the functions")]

use json_patch::Patch;
use serde_json::Value;
use serin_core::units::Weight;
use serin_traffic::{OriginalWeights, RouteError, Router, Services, router_for};

pub const STABLE: &str = "checkout";
pub const CANARY: &str = "checkout-canary";

pub const SERVICES: Services<'_> = Services {
    stable: STABLE,
    canary: CANARY,
};

/// The router of an object, which every object in these tests has.
pub fn router(route: &Value) -> &'static dyn Router {
    router_for(route).unwrap()
}

pub fn canary_weight(route: &Value, rule: Option<&str>) -> Result<Weight, RouteError> {
    router(route).canary_weight(route, rule, SERVICES)
}

pub fn set_weight(
    route: &Value,
    rule: Option<&str>,
    weight: Weight,
    original: Option<&OriginalWeights>,
) -> Result<Patch, RouteError> {
    router(route).set_weight(route, rule, SERVICES, weight, &[], original)
}

pub fn refresh_original(
    route: &Value,
    original: Option<&OriginalWeights>,
) -> Result<OriginalWeights, RouteError> {
    router(route).refresh_original(route, None, SERVICES, original)
}

pub fn capture_original(route: &Value) -> Result<OriginalWeights, RouteError> {
    refresh_original(route, None)
}

pub fn restore(route: &Value, original: &OriginalWeights) -> Result<Patch, RouteError> {
    router(route).restore(route, original, SERVICES)
}

pub fn apply_patch(route: &Value, patch: &Patch) -> Value {
    let mut changed = route.clone();
    json_patch::patch(&mut changed, patch).unwrap();
    changed
}

/// The route at a weight, which reads back.
pub fn route_at_weight(route: &Value, percent: f64, original: Option<&OriginalWeights>) -> Value {
    let weight = Weight::try_from(percent).unwrap();
    let patch = set_weight(route, None, weight, original).unwrap();
    let changed = apply_patch(route, &patch);
    assert_eq!(canary_weight(&changed, None), Ok(weight));
    changed
}

//! The seam between Serin and the kinds of route object.

use json_patch::Patch;
use serde_json::Value;
use serin_core::plan::RouteKind;
use serin_core::units::Weight;

use crate::error::RouteError;
use crate::http_route::HttpRouteRouter;
use crate::original::OriginalWeights;
use crate::programmed::ProgrammedStatus;

/// The names of the two Services that a route splits traffic between.
#[derive(Clone, Copy, Debug)]
pub struct Services<'a> {
    /// The Service of the stable side.
    pub stable: &'a str,
    /// The Service of the canary side.
    pub canary: &'a str,
}

/// A rule that is split, and the Services that it sends requests to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedRule {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The Services of the route's own namespace among its backends.
    pub services: Vec<String>,
}

/// A kind of route object. A new kind is one file with one implementation, and one entry in
/// [`ROUTERS`].
///
/// Objects are plain JSON, and changes are JSON Patches whose `test` operations fail if the object
/// has changed since it was read.
///
/// # Examples
///
/// ```
/// use serde_json::json;
/// use serin_core::units::Weight;
/// use serin_traffic::{Services, router_for};
///
/// let mut route = json!({
///     "apiVersion": "gateway.networking.k8s.io/v1",
///     "kind": "HTTPRoute",
///     "metadata": {"namespace": "shop", "name": "shop", "resourceVersion": "1"},
///     "spec": {"rules": [{"backendRefs": [{"name": "shop", "port": 80}]}]},
/// });
/// let services = Services { stable: "shop", canary: "shop-canary" };
/// let router = router_for(&route)?;
/// let original = router.refresh_original(&route, None, services, None)?;
///
/// let patch = router.set_weight(&route, None, services, Weight::percent(5), Some(&original))?;
/// json_patch::patch(&mut route, &patch)?;
/// assert_eq!(router.canary_weight(&route, None, services)?, Weight::percent(5));
///
/// let patch = router.restore(&route, &original, services)?;
/// json_patch::patch(&mut route, &patch)?;
/// assert_eq!(route["spec"]["rules"][0]["backendRefs"], json!([{"name": "shop", "port": 80}]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Router: Sync {
    /// The kind in plans.
    fn route_kind(&self) -> RouteKind;

    /// The API group of the kind, for example `gateway.networking.k8s.io`.
    fn group(&self) -> &'static str;

    /// The supported versions of the kind, in order of preference.
    fn versions(&self) -> &'static [&'static str];

    /// The kind, for example `HTTPRoute`.
    fn kind(&self) -> &'static str;

    /// The plural of the kind in paths, for example `httproutes`.
    fn plural(&self) -> &'static str;

    /// What to install so that a cluster serves the kind.
    fn installed_by(&self) -> &'static str;

    /// The rules that are split: the rule with this name, or every rule with the Service `stable` as
    /// a backend. Never empty.
    ///
    /// # Errors
    /// The rule or its stable backend does not exist, or the object is malformed.
    fn managed_rules(
        &self,
        route: &Value,
        rule: Option<&str>,
        stable: &str,
    ) -> Result<Vec<ManagedRule>, RouteError>;

    /// The canary's share of the combined weight of the two Services. See
    /// [`crate::canary_weight`].
    ///
    /// # Errors
    /// The rule or its stable backend does not exist, the object is malformed, or the rules have
    /// different weights.
    fn canary_weight(
        &self,
        route: &Value,
        rule: Option<&str>,
        services: Services<'_>,
    ) -> Result<Weight, RouteError>;

    /// The patch that sets the canary's share. See [`crate::set_weight`].
    ///
    /// # Errors
    /// As [`Router::canary_weight`], or the weight cannot be expressed in whole numbers.
    fn set_weight(
        &self,
        route: &Value,
        rule: Option<&str>,
        services: Services<'_>,
        weight: Weight,
        original: Option<&OriginalWeights>,
    ) -> Result<Patch, RouteError>;

    /// Whether the router has applied the current generation of the object.
    fn programmed_status(&self, route: &Value) -> ProgrammedStatus;

    /// The weights to restore later, given those that are known. See [`crate::refresh_original`].
    ///
    /// # Errors
    /// As [`Router::canary_weight`].
    fn refresh_original(
        &self,
        route: &Value,
        rule: Option<&str>,
        services: Services<'_>,
        known: Option<&OriginalWeights>,
    ) -> Result<OriginalWeights, RouteError>;

    /// The patch that restores the original weights. See [`crate::restore`].
    ///
    /// # Errors
    /// The object is malformed.
    fn restore(
        &self,
        route: &Value,
        original: &OriginalWeights,
        services: Services<'_>,
    ) -> Result<Patch, RouteError>;
}

/// All supported kinds of route.
pub const ROUTERS: &[&dyn Router] = &[&HttpRouteRouter];

/// The router for the kind of an object. Typed clients omit `apiVersion` and `kind`: such an object
/// is of the first kind.
///
/// # Errors
/// The kind is not supported.
pub fn router_for(route: &Value) -> Result<&'static dyn Router, RouteError> {
    let Some(kind) = route.get("kind").and_then(Value::as_str) else {
        return Ok(ROUTERS[0]);
    };
    let api_version = route.get("apiVersion").and_then(Value::as_str);
    let group = api_version.map(|version| version.split('/').next().unwrap_or_default());
    let is_same = |router: &&&'static dyn Router| {
        router.kind() == kind && group.is_none_or(|group| router.group() == group)
    };
    let router = ROUTERS.iter().find(is_same).copied();
    router.ok_or_else(|| RouteError::UnsupportedKind {
        kind: kind.into(),
        supported: ROUTERS.iter().map(|router| router.kind()).collect(),
    })
}

/// The router of a kind. Every kind has one.
pub fn router_of(kind: RouteKind) -> &'static dyn Router {
    let mut routers = ROUTERS.iter().copied();
    routers
        .find(|router| router.route_kind() == kind)
        .unwrap_or(ROUTERS[0])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_router_is_chosen_by_group_and_kind() {
        let of = |api_version: &str, kind: &str| {
            let route = json!({"apiVersion": api_version, "kind": kind});
            router_for(&route).map(|router| (router.group(), router.kind()))
        };
        assert_eq!(
            of("gateway.networking.k8s.io/v1", "HTTPRoute").unwrap(),
            ("gateway.networking.k8s.io", "HTTPRoute")
        );
        for (api_version, kind) in [
            ("example.com/v1", "HTTPRoute"),
            ("networking.istio.io/v1", "VirtualService"),
        ] {
            let error = of(api_version, kind).unwrap_err().to_string();
            assert!(
                error.contains(kind) && error.ends_with("use HTTPRoute"),
                "{error}"
            );
        }
        assert_eq!(router_for(&json!({})).unwrap().kind(), "HTTPRoute");
        for router in ROUTERS {
            assert_eq!(router_of(router.route_kind()).kind(), router.kind());
        }
    }
}

//! The seam between Serin and the kinds of route object.

use std::fmt::Debug;

use json_patch::Patch;
use serde_json::Value;
use serin_core::assignment_unit::AssignmentUnit;
use serin_core::managed_route::ManagedRoute;
use serin_core::plan::RouteKind;
use serin_core::units::Weight;

use crate::apisix::APISIX_ROUTE;
use crate::contour::HTTP_PROXY;
use crate::error::RouteError;
use crate::gateway_api::{GRPC_ROUTE, HTTP_ROUTE, TCP_ROUTE, TLS_ROUTE};
use crate::istio::VIRTUAL_SERVICE;
use crate::nginx::CanaryIngress;
use crate::original::OriginalWeights;
use crate::programmed::ProgrammedStatus;
use crate::traefik::{INGRESS_ROUTE, TRAEFIK_SERVICE};

/// The names of the two Services that a route splits traffic between.
#[derive(Clone, Copy, Debug)]
pub struct Services<'a> {
    /// The Service of the stable side.
    pub stable: &'a str,
    /// The Service of the canary side.
    pub canary: &'a str,
}

/// A Service that a rule sends traffic to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteBackend {
    /// The namespace of the Service.
    pub namespace: String,
    /// The name of the Service.
    pub service: String,
    /// The port, if the backend has one.
    pub port: Option<u64>,
    /// The effective weight, 0 to 1,000,000.
    pub weight: u64,
}

/// A rule of a route, and the Services that it sends traffic to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRule {
    /// The rule in messages, unique in its route.
    pub title: String,
    /// The index in its list.
    pub index: usize,
    /// The name, if the rule has one.
    pub name: Option<String>,
    /// The backends that are Services, in order.
    pub backends: Vec<RouteBackend>,
}

/// A rule that is split, and the Services that it sends traffic to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedRule {
    /// The rule in messages, unique in its route.
    pub title: String,
    /// The Services of the route's own namespace among its backends.
    pub services: Vec<String>,
}

/// A kind of route object. A new kind is one file with one implementation or, if its rules list
/// weighted backends, one description; and one entry in [`ROUTERS`].
///
/// Objects are plain JSON, and changes are JSON Patches whose `test` operations fail if the object
/// has changed since it was read.
///
/// # Examples
///
/// ```
/// use serde_json::json;
/// use serin_core::plan::RouteKind;
/// use serin_core::units::Weight;
/// use serin_traffic::{Services, router_of};
///
/// let mut route = json!({
///     "apiVersion": "gateway.networking.k8s.io/v1",
///     "kind": "HTTPRoute",
///     "metadata": {"namespace": "shop", "name": "shop", "resourceVersion": "1"},
///     "spec": {"rules": [{"backendRefs": [{"name": "shop", "port": 80}]}]},
/// });
/// let services = Services { stable: "shop", canary: "shop-canary" };
/// let router = router_of(RouteKind::HttpRoute);
/// let original = router.refresh_original(&route, None, services, None)?;
///
/// let five = Weight::percent(5);
/// let patch = router.set_weight(&route, None, services, five, &[], Some(&original))?;
/// json_patch::patch(&mut route, &patch)?;
/// assert_eq!(router.canary_weight(&route, None, services)?, Weight::percent(5));
///
/// let patch = router.restore(&route, &original, services)?;
/// json_patch::patch(&mut route, &patch)?;
/// assert_eq!(route["spec"]["rules"][0]["backendRefs"], json!([{"name": "shop", "port": 80}]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Router: Debug + Sync {
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

    /// All rules of a route.
    ///
    /// # Errors
    /// The object is malformed.
    fn rules(&self, route: &Value) -> Result<Vec<RouteRule>, RouteError>;

    /// The rules that are split: the rule with this name, or every rule with the Service `stable` of
    /// the route's own namespace as a backend. Never empty.
    ///
    /// # Errors
    /// The rule or its stable backend does not exist, or the object is malformed.
    fn managed_rules(
        &self,
        route: &Value,
        rule: Option<&str>,
        stable: &str,
    ) -> Result<Vec<ManagedRule>, RouteError>;

    /// The current canary weight: the canary's share of the combined weight of the stable and the
    /// canary backend, in the rules of [`Router::managed_rules`]. Drift detection compares this value
    /// with the desired weight.
    ///
    /// # Errors
    /// The rule or its stable backend does not exist, the object is malformed, or the rules have
    /// different weights ([`RouteError::RulesDisagree`], which [`Router::set_weight`] fixes).
    fn canary_weight(
        &self,
        route: &Value,
        rule: Option<&str>,
        services: Services<'_>,
    ) -> Result<Weight, RouteError>;

    /// The patch that sets the canary weight to `weight` of the combined weight of the stable and the
    /// canary backend, and the rules for chosen requests to those of `managed`.
    ///
    /// The patch is empty if the object already has this weight. At weight 0 the canary backend is
    /// removed (or kept with weight 0 if the user listed it), and all weights are as the user wrote
    /// them. Other backends of the rule keep their share of the rule's traffic: if the weight of the
    /// stable backend cannot be divided in whole numbers, their weights are multiplied by a common
    /// factor, which is undone at weight 0.
    ///
    /// `original` is the result of [`Router::refresh_original`]. It is ignored for a rule without a
    /// canary backend, because such a rule is as the user wrote it.
    ///
    /// # Errors
    /// As [`Router::canary_weight`], except that rules with different weights are fixed. Also if the
    /// weight cannot be expressed in whole numbers, or if the kind cannot hold a managed route.
    fn set_weight(
        &self,
        route: &Value,
        rule: Option<&str>,
        services: Services<'_>,
        weight: Weight,
        managed: &[ManagedRoute],
        original: Option<&OriginalWeights>,
    ) -> Result<Patch, RouteError>;

    /// The rules for chosen requests that the object has, if they are those of one of the
    /// `candidates`. Empty if it has none. `None` if somebody else has changed one, or if the route
    /// cannot be read.
    fn managed_routes<'p>(
        &self,
        route: &Value,
        rule: Option<&str>,
        services: Services<'_>,
        candidates: &'p [Vec<ManagedRoute>],
    ) -> Option<&'p [ManagedRoute]>;

    /// Whether the router has applied the current generation of the object.
    fn programmed_status(&self, route: &Value) -> ProgrammedStatus;

    /// What the managed rules assign to a side: requests, the sessions of clients, or connections.
    fn assignment_unit(&self, route: &Value, rule: Option<&str>, stable: &str) -> AssignmentUnit;

    /// The weights to restore later. For a rule without a canary backend the current weights are the
    /// original ones, because the user has written it (an `apply` during a release replaces the
    /// rule). For a rule with a canary backend the weights in `original` are kept.
    ///
    /// Cheap enough for every reconcile. If the result differs from `original`, it must be stored
    /// before the next change.
    ///
    /// # Errors
    /// As [`Router::canary_weight`].
    fn refresh_original(
        &self,
        route: &Value,
        rule: Option<&str>,
        services: Services<'_>,
        original: Option<&OriginalWeights>,
    ) -> Result<OriginalWeights, RouteError>;

    /// The patch that restores the original weights of every recorded rule, including the weight of
    /// a canary backend that the user listed. Removes a canary backend that the user did not list,
    /// and all rules for chosen requests.
    ///
    /// Rules and backends that no longer exist are ignored. The patch is empty if there is nothing to
    /// restore.
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
pub const ROUTERS: &[&dyn Router] = &[
    &HTTP_ROUTE,
    &GRPC_ROUTE,
    &TLS_ROUTE,
    &TCP_ROUTE,
    &VIRTUAL_SERVICE,
    &CanaryIngress,
    &TRAEFIK_SERVICE,
    &INGRESS_ROUTE,
    &HTTP_PROXY,
    &APISIX_ROUTE,
];

/// The router of an object, by its `apiVersion` and `kind`. `None` if it is of another kind.
pub fn router_for(route: &Value) -> Option<&'static dyn Router> {
    let text = |field: &str| route.get(field).and_then(Value::as_str);
    let (group, kind) = (text("apiVersion")?.split('/').next()?, text("kind")?);
    let mut routers = ROUTERS.iter().copied();
    routers.find(|router| router.group() == group && router.kind() == kind)
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
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_of_plans_has_its_own_router() {
        for kind in RouteKind::ALL {
            assert_eq!(router_of(kind).route_kind(), kind);
        }
        let kinds: BTreeSet<_> = ROUTERS.iter().map(|router| router.route_kind()).collect();
        assert_eq!(kinds.len(), ROUTERS.len());
        assert_eq!(ROUTERS.len(), RouteKind::ALL.len());
    }

    #[test]
    fn the_router_of_an_object_is_found_by_group_and_kind() {
        let kind_of = |api_version: &str, kind: &str| {
            let route = json!({"apiVersion": api_version, "kind": kind});
            router_for(&route).map(Router::route_kind)
        };
        for router in ROUTERS {
            let api_version = format!("{}/{}", router.group(), router.versions()[0]);
            assert_eq!(
                kind_of(&api_version, router.kind()),
                Some(router.route_kind())
            );
        }
        assert_eq!(kind_of("example.com/v1", "HTTPRoute"), None);
        assert_eq!(kind_of("networking.istio.io/v1", "Gateway"), None);
    }

    // The status and the metrics of Serin name a route by its kind without the group.
    #[test]
    fn kinds_and_plurals_are_unique_and_a_kind_is_named_as_in_plans() {
        let plurals: BTreeSet<_> = ROUTERS.iter().map(|router| router.plural()).collect();
        assert_eq!(plurals.len(), ROUTERS.len());
        for router in ROUTERS {
            let name = serde_json::to_value(router.route_kind()).unwrap();
            assert_eq!(name, router.kind());
            assert!(!router.versions().is_empty(), "{}", router.kind());
        }
    }
}

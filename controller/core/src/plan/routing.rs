//! The routes that split traffic, and what they tell the two sides apart by.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::effect::Side;

/// The router that splits traffic between the two Services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Routing {
    /// What the routes tell the two sides apart by.
    #[serde(flatten)]
    pub binding: ArmBinding,
    /// The routes that split traffic between the two.
    pub routes: Vec<RouteRef>,
    /// Time that the router needs to apply its object, from when it reports it.
    pub settle: Duration,
    /// Time after which a router that reports nothing is assumed to have applied its object.
    pub unverified_after: Duration,
}

/// What a route tells the two sides of the split apart by.
///
/// In JSON its fields are those of [`Routing`], as in plans that were stored before there was a
/// choice, so that they keep their hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected stableService and canaryService")]
pub enum ArmBinding {
    /// One Service for each side. The selector of a Service binds it to a revision
    /// ([`crate::effect::Effect::BindService`]).
    Services {
        /// The Service of the stable side.
        #[serde(rename = "stableService")]
        stable: String,
        /// The Service of the canary side.
        #[serde(rename = "canaryService")]
        canary: String,
    },
}

impl ArmBinding {
    /// One Service for each side.
    pub fn services(stable: impl Into<String>, canary: impl Into<String>) -> Self {
        Self::Services {
            stable: stable.into(),
            canary: canary.into(),
        }
    }
}

impl Routing {
    /// The Service of a side.
    pub fn service(&self, side: Side) -> &String {
        let ArmBinding::Services { stable, canary } = &self.binding;
        match side {
            Side::Stable => stable,
            Side::Canary => canary,
        }
    }

    /// The Service of the stable side.
    pub fn stable_service(&self) -> &String {
        self.service(Side::Stable)
    }

    /// The Service of the canary side.
    pub fn canary_service(&self) -> &String {
        self.service(Side::Canary)
    }

    /// Both sides with their Services, stable first.
    pub fn services(&self) -> [(Side, &String); 2] {
        [Side::Stable, Side::Canary].map(|side| (side, self.service(side)))
    }

    /// The side of a Service. `None` if it is neither.
    pub fn side_of(&self, service: &str) -> Option<Side> {
        let mut services = self.services().into_iter();
        services
            .find(|(_, name)| *name == service)
            .map(|(side, _)| side)
    }
}

/// A route object in the Rollout's namespace, and the rule in it that is split.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRef {
    /// The kind of the route.
    pub kind: RouteKind,
    /// The object's name.
    pub name: String,
    /// The rule's name, or what it matches ([`crate::layer4_rule::Layer4Rule`]). `None` for every rule
    /// that has the stable Service as a backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// The kinds of route that Serin writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RouteKind {
    /// `gateway.networking.k8s.io` HTTPRoute.
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    /// `gateway.networking.k8s.io` GRPCRoute.
    #[serde(rename = "GRPCRoute")]
    GrpcRoute,
    /// `gateway.networking.k8s.io` TLSRoute.
    #[serde(rename = "TLSRoute")]
    TlsRoute,
    /// `gateway.networking.k8s.io` TCPRoute.
    #[serde(rename = "TCPRoute")]
    TcpRoute,
    /// `networking.istio.io` VirtualService.
    VirtualService,
    /// `networking.k8s.io` Ingress with the canary annotations of ingress-nginx.
    Ingress,
    /// `traefik.io` TraefikService.
    TraefikService,
    /// `traefik.io` IngressRoute.
    IngressRoute,
    /// `projectcontour.io` HTTPProxy.
    #[serde(rename = "HTTPProxy")]
    HttpProxy,
    /// `apisix.apache.org` ApisixRoute.
    ApisixRoute,
}

impl RouteKind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TlsRoute,
        Self::TcpRoute,
        Self::VirtualService,
        Self::Ingress,
        Self::TraefikService,
        Self::IngressRoute,
        Self::HttpProxy,
        Self::ApisixRoute,
    ];
}

//! The cached routes, one cache per kind.

use std::sync::Arc;

use serin_core::plan::RouteKind;
use serin_traffic::{ROUTERS, Router};

use super::object_cache::ObjectCache;
use super::objects::CachedRoute;
use super::optional_kinds::{KindState, OptionalKind};

/// The routes of one kind.
pub struct RouteCache {
    /// The router of the kind.
    pub router: &'static dyn Router,
    /// Whether the cluster serves the kind, and in which version.
    pub state: KindState,
    /// All routes of the kind.
    pub objects: ObjectCache<CachedRoute>,
}

/// The routes of all supported kinds.
pub struct RouteCaches(Vec<RouteCache>);

impl Default for RouteCaches {
    fn default() -> Self {
        let caches = ROUTERS.iter().map(|router| RouteCache {
            router: *router,
            state: KindState::new(OptionalKind::of_router(*router)),
            objects: ObjectCache::default(),
        });
        Self(caches.collect())
    }
}

impl<'a> IntoIterator for &'a RouteCaches {
    type Item = &'a RouteCache;
    type IntoIter = std::slice::Iter<'a, RouteCache>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl RouteCaches {
    /// The cache of a kind. Every kind has one.
    pub fn of_kind(&self, kind: RouteKind) -> &RouteCache {
        let mut caches = self.0.iter();
        caches
            .find(|cache| cache.router.route_kind() == kind)
            .unwrap_or(&self.0[0])
    }

    /// The cache of a kind as written in objects. `None` if it is not supported.
    pub fn of_name(&self, kind: &str) -> Option<&RouteCache> {
        self.0.iter().find(|cache| cache.router.kind() == kind)
    }

    /// All caches.
    pub fn iter(&self) -> std::slice::Iter<'_, RouteCache> {
        self.0.iter()
    }

    /// The routes of any kind with one of these backends, as joined names
    /// ([`serin_metrics_analysis::routes::backend_names`]), each once.
    pub fn with_backends(&self, backends: &[String]) -> Vec<(RouteKind, Arc<CachedRoute>)> {
        let keys: Vec<_> = backends
            .iter()
            .map(|backend| CachedRoute::backend_key(backend))
            .collect();
        let of_kind = |cache: &RouteCache| {
            let kind = cache.router.route_kind();
            let found = cache.objects.indexed(&keys);
            found.into_iter().map(move |route| (kind, route))
        };
        self.0.iter().flat_map(of_kind).collect()
    }
}

//! A cache of the cluster: the relevant fields of every object that belongs to a Rollout. Each kind
//! has its own watch with its own backoff.

pub mod container_ports;
mod convert;
mod object_cache;
mod objects;
mod optional_kinds;
mod pod_problem;
mod rollout_object;
mod watches;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use kube::runtime::reflector::{self, ObjectRef, Store};
use serin_core::plan::Plan;
use tokio::sync::watch;

pub use convert::CRASH_LOOP;
pub use object_cache::ObjectCache;
pub use objects::{
    CachedCommand, CachedEndpointSlice, CachedObject, CachedPod, CachedReplicaSet, CachedRoute,
    CachedService, ControllerRef, DeclaredPort, Identity, ReadyEndpoint, Restarts,
};
pub use optional_kinds::{Availability, Discovery, KindState, OptionalKind};
pub use rollout_object::RolloutObject;
pub use watches::{Trigger, Watches};

/// The namespace and name of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// A kube-runtime reference to the Rollout with this name.
    pub fn as_rollout(&self) -> ObjectRef<RolloutObject> {
        ObjectRef::new(&self.name).within(&self.namespace)
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The cached objects of all kinds.
pub struct ClusterCache {
    /// All Rollouts.
    pub rollouts: Store<RolloutObject>,
    /// ReplicaSets with our label.
    pub replica_sets: ObjectCache<CachedReplicaSet>,
    /// Pods with our label.
    pub pods: ObjectCache<CachedPod>,
    /// Services with our label, and Services of plans that were read individually.
    pub services: ObjectCache<CachedService>,
    /// EndpointSlices with our label.
    pub slices: ObjectCache<CachedEndpointSlice>,
    /// All HTTPRoutes, if the cluster serves that kind.
    pub routes: ObjectCache<CachedRoute>,
    /// Whether the cluster serves HTTPRoute, and in which version.
    pub route_kind: KindState,
    /// All RolloutCommands.
    pub commands: ObjectCache<CachedCommand>,
    /// Whether the cluster serves RolloutCommand.
    pub command_kind: KindState,
    /// The store's own `wait_until_ready` wakes only one of several waiting tasks.
    rollouts_listed: watch::Sender<bool>,
    route_index: RwLock<RouteIndex>,
}

/// The Rollouts that use each route. Routes have no Serin label.
#[derive(Default)]
struct RouteIndex {
    by_route: HashMap<Key, BTreeSet<Key>>,
    by_rollout: HashMap<Key, BTreeSet<Key>>,
}

impl ClusterCache {
    /// Creates an empty cache, and the writer for its Rollouts.
    pub fn new() -> (Arc<Self>, reflector::store::Writer<RolloutObject>) {
        let (rollouts, writer) = reflector::store();
        let cache = Self {
            rollouts,
            replica_sets: ObjectCache::default(),
            pods: ObjectCache::default(),
            services: ObjectCache::default(),
            slices: ObjectCache::default(),
            routes: ObjectCache::default(),
            route_kind: KindState::new(&optional_kinds::HTTP_ROUTE),
            commands: ObjectCache::default(),
            command_kind: KindState::new(&optional_kinds::ROLLOUT_COMMAND),
            rollouts_listed: watch::Sender::new(false),
            route_index: RwLock::default(),
        };
        (Arc::new(cache), writer)
    }

    /// Records the routes of a Rollout's plan, so that their changes trigger the Rollout.
    pub fn record_plan(&self, rollout: &Key, plan: &Plan) {
        let routes: BTreeSet<Key> = plan
            .routing()
            .map(|routing| {
                routing
                    .routes
                    .iter()
                    .map(|route| Key::new(&rollout.namespace, &route.name))
                    .collect()
            })
            .unwrap_or_default();
        let mut route_index = self
            .route_index
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if route_index
            .by_rollout
            .get(rollout)
            .map_or(routes.is_empty(), |before| *before == routes)
        {
            return;
        }
        route_index.remove(rollout);
        for route in &routes {
            route_index
                .by_route
                .entry(route.clone())
                .or_default()
                .insert(rollout.clone());
        }
        route_index.by_rollout.insert(rollout.clone(), routes);
    }

    /// Removes a deleted Rollout.
    pub fn forget(&self, rollout: &Key) {
        self.route_index
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(rollout);
    }

    /// The Rollouts whose plans contain this route.
    pub fn rollouts_using_route(&self, route: &Key) -> Vec<Key> {
        let route_index = self
            .route_index
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        route_index
            .by_route
            .get(route)
            .map(|rollouts| rollouts.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Whether a Rollout with this name exists.
    pub fn has_rollout(&self, key: &Key) -> bool {
        self.rollouts.get(&key.as_rollout()).is_some()
    }

    /// The kinds that have not been listed yet. No decision may be made until this is empty.
    pub fn unsynced_kinds(&self) -> Vec<&'static str> {
        [
            ("rollouts", *self.rollouts_listed.borrow()),
            ("replicasets", self.replica_sets.is_synced()),
            ("pods", self.pods.is_synced()),
            ("services", self.services.is_synced()),
            ("endpointslices", self.slices.is_synced()),
            ("httproutes", self.routes.is_synced()),
            ("rolloutcommands", self.commands.is_synced()),
        ]
        .into_iter()
        .filter_map(|(kind, synced)| (!synced).then_some(kind))
        .collect()
    }

    /// Waits until every kind has been listed once.
    pub async fn wait_until_synced(&self) {
        // The sender is a field of `self`, so waiting cannot fail.
        let _ = self
            .rollouts_listed
            .subscribe()
            .wait_for(|listed| *listed)
            .await;
        self.replica_sets.wait_until_synced().await;
        self.pods.wait_until_synced().await;
        self.services.wait_until_synced().await;
        self.slices.wait_until_synced().await;
        self.routes.wait_until_synced().await;
        self.commands.wait_until_synced().await;
    }
}

impl RouteIndex {
    fn remove(&mut self, rollout: &Key) {
        for route in self.by_rollout.remove(rollout).unwrap_or_default() {
            if let Some(rollouts) = self.by_route.get_mut(&route) {
                rollouts.remove(rollout);
                if rollouts.is_empty() {
                    self.by_route.remove(&route);
                }
            }
        }
    }
}

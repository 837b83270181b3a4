//! What this process knows of the cluster: small facts about every object that belongs to a
//! Rollout, kept fresh by one watch per kind with a backoff of its own.

mod cache;
mod convert;
mod facts;
mod kinds;
pub mod ports;
mod rollout;
mod watches;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use kube::runtime::reflector::{self, ObjectRef, Store};
use serin_core::plan::Plan;
use tokio::sync::watch;

pub use cache::Cache;
pub use convert::CRASH_LOOP;
pub use facts::{
    CommandFact, ContainerPortFact, EndpointFact, Fact, Identity, OwnerFact, PodFact,
    ReplicaSetFact, Restarts, RouteFact, ServiceFact, SliceFact,
};
pub use kinds::{Availability, Discovery, KindState, OptionalKind};
pub use rollout::RolloutObject;
pub use watches::{Trigger, Watches};

/// Names an object within the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// Names an object.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// As kube-runtime's reference to a Rollout.
    pub fn as_rollout(&self) -> ObjectRef<RolloutObject> {
        ObjectRef::new(&self.name).within(&self.namespace)
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Everything that is known.
pub struct World {
    /// The Rollouts.
    pub rollouts: Store<RolloutObject>,
    /// ReplicaSets that carry our label.
    pub replica_sets: Cache<ReplicaSetFact>,
    /// Pods that carry our label.
    pub pods: Cache<PodFact>,
    /// Services that carry our label, and those read by name.
    pub services: Cache<ServiceFact>,
    /// EndpointSlices that carry our label.
    pub slices: Cache<SliceFact>,
    /// All HTTPRoutes, where the cluster has that kind.
    pub routes: Cache<RouteFact>,
    /// Whether the cluster serves HTTPRoute, and in which version.
    pub route_kind: KindState,
    /// All RolloutCommands.
    pub commands: Cache<CommandFact>,
    /// Whether the cluster serves RolloutCommand.
    pub command_kind: KindState,
    /// Apart from the store's own `wait_until_ready`, which wakes only one of several that wait.
    rollouts_listed: watch::Sender<bool>,
    interests: RwLock<Interests>,
}

/// Which Rollouts an unlabelled object matters to.
#[derive(Default)]
struct Interests {
    by_route: HashMap<Key, BTreeSet<Key>>,
    of_rollout: HashMap<Key, BTreeSet<Key>>,
}

impl World {
    /// Knows nothing yet; what feeds the Rollouts is the second part.
    pub fn new() -> (Arc<Self>, reflector::store::Writer<RolloutObject>) {
        let (rollouts, writer) = reflector::store();
        let world = Self {
            rollouts,
            replica_sets: Cache::default(),
            pods: Cache::default(),
            services: Cache::default(),
            slices: Cache::default(),
            routes: Cache::default(),
            route_kind: KindState::new(&kinds::HTTP_ROUTE),
            commands: Cache::default(),
            command_kind: KindState::new(&kinds::ROLLOUT_COMMAND),
            rollouts_listed: watch::Sender::new(false),
            interests: RwLock::default(),
        };
        (Arc::new(world), writer)
    }

    /// Remembers which routes a Rollout's plan names, so that their changes trigger it.
    pub fn note_plan(&self, rollout: &Key, plan: &Plan) {
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
        let mut interests = self
            .interests
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if interests
            .of_rollout
            .get(rollout)
            .map_or(routes.is_empty(), |before| *before == routes)
        {
            return;
        }
        interests.remove(rollout);
        for route in &routes {
            interests
                .by_route
                .entry(route.clone())
                .or_default()
                .insert(rollout.clone());
        }
        interests.of_rollout.insert(rollout.clone(), routes);
    }

    /// Forgets a Rollout that is gone.
    pub fn forget(&self, rollout: &Key) {
        self.interests
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(rollout);
    }

    /// The Rollouts whose plans name a route.
    pub fn interested_in(&self, route: &Key) -> Vec<Key> {
        let interests = self
            .interests
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        interests
            .by_route
            .get(route)
            .map(|rollouts| rollouts.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Whether a Rollout of this name is known.
    pub fn has_rollout(&self, key: &Key) -> bool {
        self.rollouts.get(&key.as_rollout()).is_some()
    }

    /// The kinds whose first list is still awaited; nothing may be decided before this is empty.
    pub fn awaited(&self) -> Vec<&'static str> {
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

    /// Waits until every kind has been listed once, the Rollouts too.
    pub async fn synced(&self) {
        // The sender is a field of `self`, so that waiting cannot end early.
        let _ = self
            .rollouts_listed
            .subscribe()
            .wait_for(|listed| *listed)
            .await;
        self.replica_sets.synced().await;
        self.pods.synced().await;
        self.services.synced().await;
        self.slices.synced().await;
        self.routes.synced().await;
        self.commands.synced().await;
    }
}

impl Interests {
    fn remove(&mut self, rollout: &Key) {
        for route in self.of_rollout.remove(rollout).unwrap_or_default() {
            if let Some(rollouts) = self.by_route.get_mut(&route) {
                rollouts.remove(rollout);
                if rollouts.is_empty() {
                    self.by_route.remove(&route);
                }
            }
        }
    }
}

//! A cache of the cluster: the relevant fields of every object that belongs to a Rollout. Each kind
//! has its own watch with its own backoff.

mod checked_object;
mod claims;
pub mod container_ports;
mod convert;
mod namespaced_watch;
mod object_cache;
mod objects;
mod optional_kinds;
mod pod_object;
mod pod_problem;
pub mod policies;
mod policy_objects;
mod policy_view;
mod policy_watch;
mod replica_set_object;
mod rollout_object;
mod route_cache;
mod watch_backoff;
mod watches;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kube::runtime::reflector::{self, ObjectRef, Store};
use serin_core::plan::Plan;
use serin_core::state::Stage;
use serin_core::units::Weight;
use tokio::sync::watch;

use claims::{ClaimChange, Claims};

use crate::admission_policy::PolicyStatus;
use crate::queue::Lane;
use crate::workload::Adopters;

pub use checked_object::CheckedObject;
pub use claims::{Claimant, RouteKey};
pub(crate) use convert::STARTING;
pub use convert::{CRASH_LOOP, SERVICE_NAME_LABEL};
pub use object_cache::ObjectCache;
pub use objects::{
    CachedCommand, CachedEndpointSlice, CachedObject, CachedPod, CachedReplicaSet, CachedRoute,
    CachedService, ControllerRef, DeclaredPort, Identity, ReadyEndpoint, Restarts,
};
pub use optional_kinds::{ApiGroups, Availability, Discovery, KindState, OptionalKind};
pub use pod_object::PodObject;
pub(crate) use pod_object::lean_metadata;
pub use policies::PolicyCaches;
pub use policy_objects::{CachedPolicy, CachedTemplate, Selectors};
pub use policy_view::{PolicyProblem, PolicyView, shared_guardrails};
pub use replica_set_object::{ReplicaSetFields, ReplicaSetObject, TemplateSummary};
pub use rollout_object::RolloutObject;
pub use route_cache::{RouteCache, RouteCaches};
pub use watch_backoff::WatchBackoff;
pub use watches::Watches;

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
    /// All routes of the kinds that the cluster serves.
    pub routes: RouteCaches,
    /// All RolloutCommands.
    pub commands: ObjectCache<CachedCommand>,
    /// Whether the cluster serves RolloutCommand.
    pub command_kind: KindState,
    /// Whether the admission policy for commands is in force.
    pub command_policy: watch::Sender<PolicyStatus>,
    /// RolloutPolicies and what they need.
    pub policies: PolicyCaches,
    /// The Deployments that Rollouts name.
    pub adopters: Adopters,
    /// The kinds and namespaces that could not be listed yet, although others could.
    unlisted: RwLock<BTreeSet<(&'static str, String)>>,
    /// The store's own `wait_until_ready` wakes only one of several waiting tasks.
    rollouts_listed: watch::Sender<bool>,
    claims: RwLock<Claims>,
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
            routes: RouteCaches::default(),
            commands: ObjectCache::default(),
            command_kind: KindState::new(optional_kinds::ROLLOUT_COMMAND),
            command_policy: watch::Sender::default(),
            policies: PolicyCaches::default(),
            adopters: Adopters::default(),
            unlisted: RwLock::default(),
            rollouts_listed: watch::Sender::new(false),
            claims: RwLock::default(),
        };
        (Arc::new(cache), writer)
    }

    /// Records which Services and routes the spec of a Rollout names. Returns the other Rollouts that
    /// name the same Services.
    pub fn record_spec(&self, rollout: &RolloutObject) -> Vec<Key> {
        let name = rollout.metadata.name.as_deref().unwrap_or_default();
        let spec = rollout.spec.as_ref().ok();
        let deployment = spec.and_then(|spec| {
            let workload = spec.workload();
            let name = workload.adoption()?.deployment.clone();
            Some(Key::new(rollout.key().namespace, name))
        });
        self.adopters.record(rollout.key(), deployment);
        // A Rollout that only observes writes nothing, so it must not keep others from it.
        let managing = spec.filter(|spec| !spec.observes());
        let routing = managing.and_then(|spec| spec.routing(name));
        let change = self.claims_mut().set_spec(Claimant::new(rollout), routing);
        self.apply_change(change)
    }

    /// Records which Services and routes the active plan of a Rollout names.
    pub fn record_plan(&self, rollout: &RolloutObject, plan: &Plan) {
        let routing = plan.services().cloned();
        let change = self.claims_mut().set_plan(&Claimant::new(rollout), routing);
        self.apply_change(change);
    }

    /// Removes a deleted Rollout. Returns the other Rollouts that name its Services.
    pub fn forget(&self, rollout: &Key) -> Vec<Key> {
        self.adopters.record(rollout.clone(), None);
        let change = self.claims_mut().remove(rollout);
        self.apply_change(change)
    }

    /// A Service without our label is not watched, so it is dropped with the last claim to it.
    fn apply_change(&self, change: ClaimChange) -> Vec<Key> {
        for service in &change.unclaimed {
            let cached = self.services.get(service);
            if cached.is_some_and(|cached| cached.rollout.is_none()) {
                self.services.remove(service);
            }
        }
        change.rollouts.into_iter().collect()
    }

    /// The Rollouts whose specs or plans name this route.
    pub fn rollouts_using_route(&self, route: &RouteKey) -> Vec<Key> {
        self.claims().of_route(route).cloned().collect()
    }

    /// The Rollouts whose specs or plans name this Service, the oldest first.
    pub fn claimants(&self, service: &Key) -> Vec<Claimant> {
        self.claims().of_service(service).cloned().collect()
    }

    /// The Rollout that may write this Service, by the rule of [`claims`]. `None` if nobody claims
    /// it.
    pub fn holder(&self, service: &Key) -> Option<Key> {
        let cached = self.services.get(service);
        let labelled = cached.and_then(|cached| cached.rollout.clone());
        let labelled = labelled.map(|rollout| Key::new(&service.namespace, rollout));
        labelled
            .filter(|rollout| self.has_rollout(rollout))
            .or_else(|| {
                let claims = self.claims();
                let mut claimants = claims.of_service(service);
                claimants.next().map(|oldest| oldest.rollout.clone())
            })
    }

    /// The other Rollout that may write this Service, if it is not `rollout`.
    pub fn other_holder(&self, service: &Key, rollout: &Key) -> Option<Key> {
        self.holder(service).filter(|holder| holder != rollout)
    }

    /// The name of another Rollout that takes over the same Deployment and precedes this one: it has
    /// begun, or it is older.
    pub fn older_adopter(&self, deployment: &Key, rollout: &RolloutObject) -> Option<String> {
        let created = |rollout: &RolloutObject| {
            let at = rollout.metadata.creation_timestamp.as_ref();
            (at.map(|at| at.0), rollout.key())
        };
        let key = rollout.key();
        let others = self.adopters.rollouts_of(deployment).into_iter();
        let others = others.filter(|other| *other != key);
        let others = others.filter_map(|other| self.rollouts.get(&other.as_rollout()));
        let mut others = others.filter(|other| !other.observes());
        let precedes = |other: &Arc<RolloutObject>| {
            other.status.state.workload.is_some() || created(other) < created(rollout)
        };
        let other = others.find(precedes)?;
        other.metadata.name.clone()
    }

    /// Whether a Rollout splits a rule of a route ([`claims::Claims::splits_rule`]).
    pub fn splits_rule(
        &self,
        rollout: &Key,
        route: &RouteKey,
        is_rule: impl Fn(&str) -> bool,
    ) -> bool {
        self.claims().splits_rule(rollout, route, is_rule)
    }

    /// Number of Rollouts, Services and routes in the record of claims.
    pub fn claim_count(&self) -> usize {
        self.claims().entry_count()
    }

    fn claims(&self) -> RwLockReadGuard<'_, Claims> {
        self.claims.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn claims_mut(&self) -> RwLockWriteGuard<'_, Claims> {
        self.claims.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// How urgent a change of this Rollout is, by the state of its release.
    pub fn lane(&self, key: &Key) -> Lane {
        let Some(rollout) = self.rollouts.get(&key.as_rollout()) else {
            return Lane::Background;
        };
        let state = &rollout.status.state;
        match state.stage {
            Stage::Progressing | Stage::Promoting => Lane::Ongoing,
            // The traffic is still on its way back to stable.
            Stage::Aborted if state.weights.verified != Some(Weight::ZERO) => Lane::Urgent,
            Stage::Aborted | Stage::FirstDeploy | Stage::Stable => Lane::Background,
        }
    }

    /// Whether a Rollout with this name exists.
    pub fn has_rollout(&self, key: &Key) -> bool {
        self.rollouts.get(&key.as_rollout()).is_some()
    }

    /// Records whether the objects of a kind in one of several namespaces could be listed.
    fn record_access(&self, kind: &'static str, namespace: &str, listed: bool) {
        let mut unlisted = self
            .unlisted
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let entry = (kind, namespace.to_owned());
        let changed = if listed {
            unlisted.remove(&entry)
        } else {
            unlisted.insert(entry)
        };
        if changed && !listed {
            tracing::warn!(
                kind,
                namespace,
                "no permission to list; Rollouts in this namespace are not reconciled"
            );
        }
    }

    /// Records that the cluster does not serve a kind.
    fn forget_access(&self, kind: &'static str) {
        let mut unlisted = self
            .unlisted
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        unlisted.retain(|(unlisted, _)| *unlisted != kind);
    }

    /// Whether all kinds were listed in this namespace. No decision may be made for its Rollouts
    /// until then.
    pub fn is_listed(&self, namespace: &str) -> bool {
        let unlisted = self.unlisted.read().unwrap_or_else(PoisonError::into_inner);
        let is_needed = |kind: &str| kind != optional_kinds::ANALYSIS_TEMPLATE.plural();
        !unlisted
            .iter()
            .any(|(kind, unlisted)| unlisted == namespace && is_needed(kind))
    }

    /// Whether the AnalysisTemplates were listed in this namespace.
    pub fn are_templates_listed(&self, namespace: &str) -> bool {
        let unlisted = self.unlisted.read().unwrap_or_else(PoisonError::into_inner);
        let templates = optional_kinds::ANALYSIS_TEMPLATE.plural();
        !unlisted.contains(&(templates, namespace.to_owned()))
    }

    /// The kinds that have not been listed yet. No decision may be made until this is empty.
    pub fn unsynced_kinds(&self) -> Vec<&'static str> {
        let kinds = [
            ("rollouts", self.are_rollouts_listed()),
            ("replicasets", self.replica_sets.is_synced()),
            ("pods", self.pods.is_synced()),
            ("services", self.services.is_synced()),
            ("endpointslices", self.slices.is_synced()),
            ("rolloutcommands", self.commands.is_synced()),
            ("rolloutpolicies", self.policies.policies.is_synced()),
            ("analysistemplates", self.policies.templates.is_synced()),
        ];
        let routes = self.routes.iter();
        let routes = routes.map(|cache| (cache.router.plural(), cache.objects.is_synced()));
        kinds
            .into_iter()
            .chain(routes)
            .filter_map(|(kind, synced)| (!synced).then_some(kind))
            .collect()
    }

    /// Whether the Rollouts were listed once, so that a missing one does not exist.
    pub fn are_rollouts_listed(&self) -> bool {
        *self.rollouts_listed.borrow()
    }

    #[cfg(test)]
    pub(crate) fn mark_rollouts_listed(&self) {
        self.rollouts_listed.send_replace(true);
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
        for routes in &self.routes {
            routes.objects.wait_until_synced().await;
        }
        self.commands.wait_until_synced().await;
        self.policies.policies.wait_until_synced().await;
        self.policies.templates.wait_until_synced().await;
    }
}

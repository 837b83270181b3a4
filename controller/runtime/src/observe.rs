//! Converts cached objects into the input of [`serin_core::decide`]. Pure: the caller stores the
//! observation times in [`ObservationTimes`].

mod assignment;
mod object_holds;
mod times;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serin_core::guardrail::GuardrailReport;
use serin_core::hold::Hold;
use serin_core::managed_route::{ManagedRoute, managed_route_sets};
use serin_core::observed::{
    AnalysisReport, Observed, PodProblem, Programmed, ReplicaSetView, ReplicasSource, RestartPod,
    RouteView, ServiceView,
};
use serin_core::plan::{Plan, RouteKind, RouteRef, Routing};
use serin_core::release_analysis::AnalysisDocument;
use serin_core::state::{Restart, State};
use serin_core::units::Revision;
use serin_traffic::{ProgrammedStatus, Services, router_of};

use crate::admission_policy::{PolicyStatus, pending_commands};
use crate::cluster_cache::{
    Availability, CRASH_LOOP, CachedCommand, CachedEndpointSlice, CachedPod, CachedReplicaSet,
    CachedRoute, CachedService, ClusterCache, Key,
};
use crate::workload::WorkloadObjects;

pub use times::ObservationTimes;

/// The cached objects of one Rollout at one point in time.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The Rollout.
    pub rollout: Key,
    /// The ReplicaSets that the Rollout owns, by revision.
    pub replica_sets: BTreeMap<Revision, Arc<CachedReplicaSet>>,
    /// The pods of these ReplicaSets.
    pub pods: Vec<Arc<CachedPod>>,
    /// The EndpointSlices of its Services.
    pub slices: Vec<Arc<CachedEndpointSlice>>,
    /// The existing Services of its plan, by name.
    pub services: BTreeMap<String, Arc<CachedService>>,
    /// The existing routes of its plan, by kind and name.
    pub routes: BTreeMap<(RouteKind, String), Arc<CachedRoute>>,
    /// Why routes cannot be read, by kind, if the cluster does not serve it.
    pub unreadable_kinds: BTreeMap<RouteKind, String>,
    /// Why Services of its plan are not written, or less often, by name.
    pub service_holds: BTreeMap<String, Hold>,
    /// Why routes of its plan are not written, or less often.
    pub route_holds: BTreeMap<RouteRef, Hold>,
    /// The Deployment whose pods it takes over or gives back, if any.
    pub workload: Option<WorkloadObjects>,
    /// The commands of the Rollout, oldest first.
    pub commands: Vec<Arc<CachedCommand>>,
    /// Whether the admission policy for commands is in force.
    pub command_policy: PolicyStatus,
}

/// The inputs of [`observe`] besides the snapshot.
#[derive(Clone, Debug)]
pub struct ObserveInputs {
    /// The persisted state.
    pub state: State,
    /// `metadata.generation`.
    pub generation: i64,
    /// Why the spec is invalid. `None` if it is valid.
    pub spec_problem: Option<String>,
    /// `spec.replicas` as stored by the API server.
    pub spec_replicas: u32,
    /// Who set `spec.replicas`.
    pub replicas_source: ReplicasSource,
    /// The hash of the plan. `None` if the spec is invalid.
    pub plan_hash: Option<String>,
    /// `spec.analysis`. `None` if it is unset or cannot be decoded.
    pub spec_analysis: Option<AnalysisDocument>,
    /// The revision of the spec's template.
    pub target: Option<Revision>,
    /// The report of the metrics analysis.
    pub analysis: Option<AnalysisReport>,
    /// What the guardrails found about the revision of the spec's template.
    pub guardrails: GuardrailReport,
    pub incompatible_state: Option<String>,
    /// Whether the Rollout is quarantined, so that only an abort is carried out.
    pub is_quarantined: bool,
}

/// Numbers of pods, as reported in `.status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodCounts {
    /// Pods that stand for `spec.replicas`.
    pub replicas: u32,
    /// Active pods of the target revision.
    pub updated: u32,
    /// Ready pods of all revisions.
    pub ready: u32,
    /// Available pods of all revisions.
    pub available: u32,
}

impl Snapshot {
    /// Collects the objects of the Rollout `rollout` with UID `uid`. `plan` is the active plan, if
    /// any.
    pub fn from_cache(cache: &ClusterCache, rollout: &Key, uid: &str, plan: Option<&Plan>) -> Self {
        let mut replica_sets: BTreeMap<Revision, Arc<CachedReplicaSet>> = BTreeMap::new();
        for set in cache.replica_sets.for_rollout(rollout) {
            // Labels can be written by anybody who may create ReplicaSets. Of two with the same
            // revision, the older one counts.
            let is_own = set.owner_uid.as_deref() == Some(uid) && set.is_named_for(&rollout.name);
            let Some(revision) = set.revision.clone().filter(|_| is_own) else {
                continue;
            };
            let known = replica_sets.get(&revision);
            if known.is_none_or(|known| set.created_at < known.created_at) {
                replica_sets.insert(revision, set);
            }
        }
        let mut pods = cache.pods.for_rollout(rollout);
        pods.retain(|pod| {
            replica_sets
                .values()
                .any(|set| pod.owner_uid.as_ref() == Some(&set.identity.uid))
        });
        let mut commands = cache.commands.for_rollout(rollout);
        commands
            .sort_by(|a, b| (a.created_at, &a.identity.key).cmp(&(b.created_at, &b.identity.key)));
        let mut snapshot = Self {
            rollout: rollout.clone(),
            pods,
            slices: cache.slices.for_rollout(rollout),
            services: BTreeMap::new(),
            routes: BTreeMap::new(),
            unreadable_kinds: BTreeMap::new(),
            service_holds: BTreeMap::new(),
            route_holds: BTreeMap::new(),
            workload: None,
            commands,
            command_policy: cache.command_policy.borrow().clone(),
            replica_sets,
        };
        if let Some(routing) = plan.and_then(Plan::services) {
            snapshot.add_routing(cache, routing);
        }
        snapshot
    }

    fn add_routing(&mut self, cache: &ClusterCache, routing: &Routing) {
        let namespace = self.rollout.namespace.clone();
        for (_, name) in routing.services() {
            let service = cache.services.get(&Key::new(&namespace, name));
            self.services
                .extend(service.map(|service| (name.clone(), service)));
        }
        for RouteRef { kind, name, .. } in &routing.routes {
            let routes = cache.routes.of_kind(*kind);
            // This must be read before the routes: their cache is cleared only after the kind is
            // marked as absent.
            if routes.state.availability() == Availability::Absent {
                self.unreadable_kinds
                    .insert(*kind, routes.state.absent_message());
            }
            let route = routes.objects.get(&Key::new(&namespace, name));
            self.routes
                .extend(route.map(|route| ((*kind, name.clone()), route)));
        }
    }

    /// The object of a route. `None` if it does not exist or cannot be read.
    pub fn route_object(&self, route: &RouteRef) -> Option<&Arc<CachedRoute>> {
        self.routes.get(&(route.kind, route.name.clone()))
    }

    /// Whether pods of somebody else serve a Service that the Rollout has not bound.
    pub fn has_other_endpoints(&self) -> bool {
        let services = self.services.iter();
        let mut unbound = services.filter(|(_, service)| self.bound_revision(service).is_none());
        unbound.any(|(name, service)| {
            let mut pods = self.ready_pods(name, service).into_iter();
            pods.any(|pod| pod.and_then(|pod| self.revision_of_pod(pod)).is_none())
        })
    }

    /// The revision that a Service selects. A Service without our label is not bound, whatever it
    /// selects.
    fn bound_revision(&self, service: &CachedService) -> Option<Revision> {
        let is_ours = service.rollout.as_deref() == Some(&self.rollout.name);
        service.selects.clone().filter(|_| is_ours)
    }

    /// The pods behind the ready endpoints of a Service. `None` for an endpoint that is not a pod.
    fn ready_pods(&self, name: &str, service: &CachedService) -> BTreeSet<Option<&str>> {
        let slices = self.slices.iter().filter(|slice| {
            slice.service.as_deref() == Some(name)
                && slice.service_uid.as_deref() == Some(&service.identity.uid)
        });
        slices
            .flat_map(|slice| &slice.ready)
            .map(|endpoint| endpoint.pod.as_deref())
            .collect()
    }

    /// The numbers of pods, of which `standing` stand for `spec.replicas`
    /// ([`serin_core::scale::ScaleReport`]). Pods above `spec.replicas` of their ReplicaSet do not
    /// count: the ReplicaSet controller is about to delete them, unready pods first. Counting them
    /// until then would cost a write of the status after each scale-down.
    pub fn counts(&self, target: Option<&Revision>, standing: u32) -> PodCounts {
        let mut counts = PodCounts {
            replicas: standing,
            ..PodCounts::default()
        };
        for (revision, set) in &self.replica_sets {
            let active = || self.pods_of(set).filter(|pod| pod.active);
            if target == Some(revision) {
                counts.updated = count(active()).min(set.desired);
            }
            counts.ready += count(active().filter(|pod| pod.ready)).min(set.desired);
            counts.available += self.available(set).min(set.desired);
        }
        counts
    }

    /// The creation time of each pod, by name.
    pub fn pods_created_at(&self) -> BTreeMap<String, Timestamp> {
        self.pods
            .iter()
            .map(|pod| (pod.identity.key.name.clone(), pod.created_at))
            .collect()
    }

    /// The node of each pod that has one, by the name of the pod.
    pub fn pod_nodes(&self) -> BTreeMap<String, String> {
        self.pods
            .iter()
            .filter_map(|pod| Some((pod.identity.key.name.clone(), pod.node.clone()?)))
            .collect()
    }

    fn pods_of<'a>(&'a self, set: &'a CachedReplicaSet) -> impl Iterator<Item = &'a CachedPod> {
        let owned =
            move |pod: &&Arc<CachedPod>| pod.owner_uid.as_deref() == Some(&set.identity.uid);
        self.pods.iter().filter(owned).map(AsRef::as_ref)
    }

    /// The status of the ReplicaSet respects `minReadySeconds` but lags behind. Deleted and unready
    /// pods are known immediately.
    fn available(&self, set: &CachedReplicaSet) -> u32 {
        set.available.min(count(
            self.pods_of(set).filter(|pod| pod.active && pod.ready),
        ))
    }

    /// The pods of a ReplicaSet that a restart still has to replace, the unavailable ones first.
    fn restart_pods(&self, set: &CachedReplicaSet, restart: Option<&Restart>) -> Vec<RestartPod> {
        let Some(restart) = restart else {
            return Vec::new();
        };
        let pods = self.pods_of(set).filter(|pod| pod.active);
        let old = pods.filter(|pod| pod.created_at < restart.at);
        let mut old: Vec<RestartPod> = old
            .map(|pod| RestartPod {
                is_available: pod.ready,
                name: pod.identity.key.name.clone(),
            })
            .collect();
        old.sort_unstable();
        old
    }

    /// The view of a ReplicaSet, with the restarts of its pods since the release started, and the
    /// pods that `restart` still has to replace.
    fn replica_set(
        &self,
        set: &CachedReplicaSet,
        release_started_at: Option<Timestamp>,
        restart: Option<&Restart>,
    ) -> ReplicaSetView {
        let pods = || self.pods_of(set).filter(|pod| pod.active);
        let restarts =
            |pod: &CachedPod| release_started_at.map_or(0, |start| pod.restarts_since(start));
        // A pod that was already in a crash loop counts against this release only after it fails
        // again.
        let blocked: Vec<&str> = pods()
            .filter_map(|pod| pod.waiting_since(release_started_at))
            .collect();
        let crash = blocked
            .iter()
            .find(|reason| **reason == CRASH_LOOP)
            .or_else(|| blocked.first());
        ReplicaSetView {
            name: set.identity.key.name.clone(),
            desired: set.desired,
            current: count(pods()),
            available: self.available(set),
            restarts: pods().map(restarts).sum(),
            crash: crash.map(|reason| (*reason).to_owned()),
            problem: self.pod_problem(set, release_started_at),
            restart_pods: self.restart_pods(set, restart),
            created_at: set.created_at,
            // Other ReplicaSets have created all of their pods with the labels.
            unlabelled: set.deployment.as_ref().map_or(0, |_| set.unlabelled),
            is_stale: set.deployment.is_some() && set.is_status_stale,
        }
    }

    /// Why the ReplicaSet lacks pods: it cannot create them, or one of them cannot run.
    fn pod_problem(
        &self,
        set: &CachedReplicaSet,
        release_started_at: Option<Timestamp>,
    ) -> Option<PodProblem> {
        let mut pods: Vec<&CachedPod> = self
            .pods_of(set)
            .filter(|pod| pod.active && !pod.ready)
            .filter(|pod| pod.waiting.is_none() || pod.waiting_since(release_started_at).is_some())
            .collect();
        pods.sort_by_key(|pod| &pod.identity.key.name);
        let mut problems = pods.iter().filter_map(|pod| pod.problem.clone());
        set.problem.clone().or_else(|| problems.next())
    }

    /// The revision of a pod name, from the pod's label. If the pod is gone but an endpoint still
    /// refers to it, the revision is derived from the name of its ReplicaSet.
    fn revision_of_pod(&self, pod: &str) -> Option<&Revision> {
        let cached_pod = self
            .pods
            .iter()
            .find(|cached| cached.identity.key.name == pod);
        if let Some(cached_pod) = cached_pod {
            return cached_pod.revision.as_ref();
        }
        let is_named_after = |set: &CachedReplicaSet| {
            let name = &set.identity.key.name;
            pod.rsplit_once('-').is_some_and(|(set, _)| set == name)
                || serin_metrics_analysis::is_pod_name_of(name, pod)
        };
        let mut sets = self
            .replica_sets
            .iter()
            .filter(|(_, set)| is_named_after(set));
        let (revision, _) = sets.next()?;
        // A pod name contains only a prefix of a long ReplicaSet name, which can match two
        // ReplicaSets.
        sets.next().is_none().then_some(revision)
    }

    fn service(
        &self,
        name: &str,
        observation_times: &mut ObservationTimes,
        now: Timestamp,
    ) -> ServiceView {
        let Some(service) = self.services.get(name) else {
            observation_times.services.remove(name);
            return ServiceView {
                hold: self.service_holds.get(name).cloned(),
                ..ServiceView::default()
            };
        };
        let selects = self.bound_revision(service);
        let ready = self.ready_pods(name, service);
        let revision_of = |pod: Option<&str>| pod.and_then(|pod| self.revision_of_pod(pod));
        let others = ready.iter().filter(|pod| revision_of(**pod).is_none());
        let other_ready = if selects.is_none() { count(others) } else { 0 };
        let belongs = |pod: Option<&str>| selects.is_none() || revision_of(pod) == selects.as_ref();
        let (right, wrong): (Vec<_>, Vec<_>) = ready.into_iter().partition(|pod| belongs(*pod));
        let serving = !right.is_empty() && wrong.is_empty();
        ServiceView {
            exists: true,
            ready: u32::try_from(right.len()).unwrap_or(u32::MAX),
            other_ready,
            serving_since: observation_times.record_serving(name, selects.as_ref(), serving, now),
            selects,
            hold: self.service_holds.get(name).cloned(),
        }
    }

    /// Why a route is missing from the snapshot.
    fn missing_route(&self, route: &RouteRef) -> String {
        let (kind, name) = (router_of(route.kind).kind(), &route.name);
        match self.unreadable_kinds.get(&route.kind) {
            Some(why) => format!("{kind} {name} cannot be read: {why}"),
            None => format!("{kind} {name} does not exist"),
        }
    }

    /// The rules for chosen requests on a route. `None` if somebody else has changed one. None are
    /// known of a route that cannot be read.
    fn managed_routes(&self, plan: &Plan, route: &RouteRef) -> Option<Vec<ManagedRoute>> {
        let (Some(cached), Some(routing)) = (self.route_object(route), plan.routing()) else {
            return Some(Vec::new());
        };
        let (rule, services) = (route.rule.as_deref(), services_of(routing));
        let sets = managed_route_sets(plan);
        let router = router_of(route.kind);
        let found = router.managed_routes(&cached.object, rule, services, &sets);
        found.map(<[ManagedRoute]>::to_vec)
    }

    fn route(
        &self,
        plan: &Plan,
        route: &RouteRef,
        observation_times: &mut ObservationTimes,
        now: Timestamp,
    ) -> RouteView {
        let cached = self.route_object(route);
        let canary_weight = match (cached, plan.routing()) {
            (Some(cached), Some(routing)) => router_of(route.kind)
                .canary_weight(&cached.object, route.rule.as_deref(), services_of(routing))
                .map_err(|problem| problem.to_string()),
            _ => Err(self.missing_route(route)),
        };
        let reported = cached.map_or_else(
            || ProgrammedStatus::Pending(self.missing_route(route)),
            |cached| router_of(route.kind).programmed_status(&cached.object),
        );
        let managed_routes = self.managed_routes(plan, route);
        let written = (canary_weight.clone(), managed_routes.clone());
        let times = observation_times.record_route(route, written, now);
        let programmed = match reported {
            ProgrammedStatus::Programmed => {
                Programmed::Since(*times.programmed_since.get_or_insert(now))
            }
            // Another part of the route was edited. The confirmed split is in effect in both
            // generations.
            ProgrammedStatus::PreviousGeneration(why) => times
                .programmed_since
                .map_or(Programmed::Pending(why), Programmed::Since),
            ProgrammedStatus::Pending(why) => {
                times.programmed_since = None;
                Programmed::Pending(why)
            }
            ProgrammedStatus::UnknownGeneration => {
                times.programmed_since = None;
                Programmed::Unreported
            }
        };
        RouteView {
            route: route.clone(),
            canary_weight,
            managed_routes,
            written_since: times.written_since,
            programmed,
            hold: self.route_holds.get(route).cloned(),
        }
    }
}

/// Builds the input of [`serin_core::decide`] from a snapshot.
pub fn observe(
    snapshot: &Snapshot,
    plan: &Plan,
    inputs: ObserveInputs,
    observation_times: &mut ObservationTimes,
    now: Timestamp,
) -> Observed {
    let started_at = inputs.state.release_started_at;
    let restart = inputs.state.restart.as_ref();
    let view = |set: &CachedReplicaSet| snapshot.replica_set(set, started_at, restart);
    let replica_sets = snapshot.replica_sets.iter();
    let replica_sets = replica_sets.map(|(revision, set)| (revision.clone(), view(set)));
    let replica_sets = replica_sets.collect();
    let routing = plan.services();
    observation_times.retain_named(routing);
    let service = |name: &String, observation_times: &mut ObservationTimes| {
        snapshot.service(name, observation_times, now)
    };
    Observed {
        state: inputs.state,
        incompatible_state: inputs.incompatible_state,
        is_quarantined: inputs.is_quarantined,
        observed_since: *observation_times.first_at.get_or_insert(now),
        generation: inputs.generation,
        spec_problem: inputs.spec_problem,
        spec_problem_code: None,
        policies: Vec::new(),
        policy_guardrails: None,
        spec_replicas: inputs.spec_replicas,
        replicas_source: inputs.replicas_source,
        plan_hash: inputs.plan_hash,
        keeps_strategy: false,
        spec_analysis: inputs.spec_analysis,
        target_revision: inputs.target,
        replica_sets,
        stable_service: routing.map(|routing| service(routing.stable_service(), observation_times)),
        canary_service: routing.map(|routing| service(routing.canary_service(), observation_times)),
        routes: routing
            .map(|routing| {
                routing
                    .routes
                    .iter()
                    .map(|route| snapshot.route(plan, route, observation_times, now))
                    .collect()
            })
            .unwrap_or_default(),
        assignment_unit: snapshot.assignment_unit(plan),
        workload: snapshot.workload.as_ref().map(WorkloadObjects::view),
        commands: pending_commands(&snapshot.commands, &snapshot.command_policy),
        analysis: inputs.analysis,
        guardrails: inputs.guardrails,
        gate: None,
    }
}

fn services_of(routing: &Routing) -> Services<'_> {
    Services {
        stable: routing.stable_service(),
        canary: routing.canary_service(),
    }
}

fn count<T>(things: impl Iterator<Item = T>) -> u32 {
    u32::try_from(things.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;

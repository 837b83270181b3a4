//! From facts to what the planner looks at. Pure: what has been seen since when is kept by the
//! caller in [`Sightings`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serin_core::observed::{
    AnalysisReport, Observed, Programmed, ReplicaSetView, ReplicasSource, RouteView, ServiceView,
};
use serin_core::plan::{Plan, RouteRef};
use serin_core::state::State;
use serin_core::units::{Revision, Weight};
use serin_traffic::ProgrammedSeen;

use crate::world::{
    Availability, CRASH_LOOP, CommandFact, Key, PodFact, ReplicaSetFact, RouteFact, ServiceFact,
    SliceFact, World,
};

/// The facts about one Rollout at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The ReplicaSets that it owns, by revision.
    pub replica_sets: BTreeMap<Revision, Arc<ReplicaSetFact>>,
    /// The pods of those.
    pub pods: Vec<Arc<PodFact>>,
    /// The EndpointSlices of its Services.
    pub slices: Vec<Arc<SliceFact>>,
    /// The Services of its plan that exist, by name.
    pub services: BTreeMap<String, Arc<ServiceFact>>,
    /// The routes of its plan that exist, by name.
    pub routes: BTreeMap<String, Arc<RouteFact>>,
    /// Why its routes cannot be read, if the cluster does not serve their kind.
    pub routes_unreadable: Option<String>,
    /// Its commands, oldest first.
    pub commands: Vec<Arc<CommandFact>>,
}

/// What the planner is told beside the facts.
#[derive(Clone, Debug)]
pub struct Context {
    /// The persisted position.
    pub state: State,
    /// `metadata.generation`.
    pub generation: i64,
    /// Why the spec cannot be used.
    pub spec_problem: Option<String>,
    /// `spec.replicas` as the API server stores it.
    pub spec_replicas: u32,
    /// Who set it.
    pub replicas_source: ReplicasSource,
    /// The hash of the valid spec's plan.
    pub plan_hash: Option<String>,
    /// The revision of the spec's template.
    pub target: Option<Revision>,
    /// What the metrics say.
    pub judgement: AnalysisReport,
}

/// Pods as they are told in status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of all revisions.
    pub replicas: u32,
    /// Of the target revision.
    pub updated: u32,
    /// Ready, of all revisions.
    pub ready: u32,
    /// Available, of all revisions.
    pub available: u32,
}

/// Since when this process has seen what it sees now; a restarted one starts anew, so these times
/// are late, never early.
#[derive(Debug, Default)]
pub struct Sightings {
    first_at: Option<Timestamp>,
    services: BTreeMap<String, ServiceSighting>,
    routes: BTreeMap<RouteRef, RouteSighting>,
}

#[derive(Debug)]
struct ServiceSighting {
    selects: Option<Revision>,
    serving_since: Timestamp,
}

#[derive(Debug)]
struct RouteSighting {
    weight: Result<Weight, String>,
    written_since: Timestamp,
    programmed_since: Option<Timestamp>,
}

impl Snapshot {
    /// The facts about the Rollout `rollout` with UID `uid`, whose plan is `plan` (none: none is in
    /// force).
    pub fn of(world: &World, rollout: &Key, uid: &str, plan: Option<&Plan>) -> Self {
        let mut replica_sets: BTreeMap<Revision, Arc<ReplicaSetFact>> = BTreeMap::new();
        for set in world.replica_sets.of_rollout(rollout) {
            let Some(revision) = set
                .revision
                .clone()
                .filter(|_| set.owner_uid.as_deref() == Some(uid))
            else {
                continue;
            };
            replica_sets.insert(revision, set);
        }
        let mut pods = world.pods.of_rollout(rollout);
        pods.retain(|pod| {
            replica_sets
                .values()
                .any(|set| pod.owner_uid.as_ref() == Some(&set.identity.uid))
        });
        let mut commands = world.commands.of_rollout(rollout);
        commands
            .sort_by(|a, b| (a.created_at, &a.identity.key).cmp(&(b.created_at, &b.identity.key)));
        let mut snapshot = Self {
            pods,
            slices: world.slices.of_rollout(rollout),
            services: BTreeMap::new(),
            routes: BTreeMap::new(),
            routes_unreadable: None,
            commands,
            replica_sets,
        };
        if let Some(routing) = plan.and_then(Plan::routing) {
            for name in [&routing.stable_service, &routing.canary_service] {
                let service = world.services.get(&Key::new(&rollout.namespace, name));
                snapshot
                    .services
                    .extend(service.map(|service| (name.clone(), service)));
            }
            // Before the routes: their cache is emptied only after the kind is known to be absent.
            let absent = world.route_kind.availability() == Availability::Absent;
            snapshot.routes_unreadable = absent.then(|| world.route_kind.absent_message());
            for RouteRef { name, .. } in &routing.routes {
                let route = world.routes.get(&Key::new(&rollout.namespace, name));
                snapshot
                    .routes
                    .extend(route.map(|route| (name.clone(), route)));
            }
        }
        snapshot
    }

    /// Pods as they are told in status.
    pub fn counts(&self, target: Option<&Revision>) -> Counts {
        let active = || self.pods.iter().filter(|pod| pod.active);
        let of_target = |pod: &&Arc<PodFact>| target.is_some() && pod.revision.as_ref() == target;
        Counts {
            replicas: tally(active()),
            updated: tally(active().filter(of_target)),
            ready: tally(active().filter(|pod| pod.ready)),
            available: self
                .replica_sets
                .values()
                .map(|set| self.available(set))
                .sum(),
        }
    }

    /// When each pod was created, by name.
    pub fn pods_created_at(&self) -> BTreeMap<String, Timestamp> {
        self.pods
            .iter()
            .map(|pod| (pod.identity.key.name.clone(), pod.created_at))
            .collect()
    }

    fn of_set<'a>(&'a self, set: &'a ReplicaSetFact) -> impl Iterator<Item = &'a PodFact> {
        let owned = move |pod: &&Arc<PodFact>| pod.owner_uid.as_deref() == Some(&set.identity.uid);
        self.pods.iter().filter(owned).map(AsRef::as_ref)
    }

    /// The ReplicaSet's status knows `minReadySeconds` but comes late; pods that are gone or
    /// unready are known at once.
    fn available(&self, set: &ReplicaSetFact) -> u32 {
        set.available.min(tally(
            self.of_set(set).filter(|pod| pod.active && pod.ready),
        ))
    }

    /// What the planner sees of a ReplicaSet, with what its pods have done since the release began.
    fn replica_set(
        &self,
        set: &ReplicaSetFact,
        release_started_at: Option<Timestamp>,
    ) -> ReplicaSetView {
        let pods = || self.of_set(set).filter(|pod| pod.active);
        let restarts =
            |pod: &PodFact| release_started_at.map_or(0, |start| pod.restarts_since(start));
        // A pod that was in a crash loop before says nothing of this release until it has failed
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
            current: tally(pods()),
            available: self.available(set),
            restarts: pods().map(restarts).sum(),
            crash: crash.map(|reason| (*reason).to_owned()),
            created_at: set.created_at,
        }
    }

    /// The revision of a pod by its name: its label, or, where the pod is already gone and an
    /// endpoint still names it, the ReplicaSet that it was named after.
    fn revision_of_pod(&self, pod: &str) -> Option<&Revision> {
        let known = self.pods.iter().find(|fact| fact.identity.key.name == pod);
        if let Some(known) = known {
            return known.revision.as_ref();
        }
        let is_named_after = |set: &ReplicaSetFact| {
            let name = &set.identity.key.name;
            pod.rsplit_once('-').is_some_and(|(set, _)| set == name)
                || serin_metrics_analysis::is_pod_name_of(name, pod)
        };
        let mut sets = self
            .replica_sets
            .iter()
            .filter(|(_, set)| is_named_after(set));
        let (revision, _) = sets.next()?;
        // Of long names only the beginning is in a pod's name, and it can be the same of two
        // ReplicaSets.
        sets.next().is_none().then_some(revision)
    }

    fn service(&self, name: &str, sightings: &mut Sightings, now: Timestamp) -> ServiceView {
        let Some(service) = self.services.get(name) else {
            sightings.services.remove(name);
            return ServiceView::default();
        };
        // Without our label no watch brings its EndpointSlices: it counts as not bound, and is
        // bound anew.
        let selects = service
            .selects
            .clone()
            .filter(|_| service.rollout.is_some());
        let slices = self
            .slices
            .iter()
            .filter(|slice| slice.service.as_deref() == Some(name));
        let ready: BTreeSet<Option<&str>> = slices
            .flat_map(|slice| &slice.ready)
            .map(|endpoint| endpoint.pod.as_deref())
            .collect();
        let belongs = |pod: Option<&str>| {
            selects.is_none() || pod.and_then(|pod| self.revision_of_pod(pod)) == selects.as_ref()
        };
        let (right, wrong): (Vec<_>, Vec<_>) = ready.into_iter().partition(|pod| belongs(*pod));
        let serving = !right.is_empty() && wrong.is_empty();
        ServiceView {
            exists: true,
            ready: u32::try_from(right.len()).unwrap_or(u32::MAX),
            serving_since: sightings.serving(name, selects.as_ref(), serving, now),
            selects,
        }
    }

    /// Why a route is not among those that were read.
    fn missing_route(&self, name: &str) -> String {
        match &self.routes_unreadable {
            Some(why) => format!("HTTPRoute {name} cannot be read: {why}"),
            None => format!("HTTPRoute {name} does not exist"),
        }
    }

    fn route(
        &self,
        plan: &Plan,
        route: &RouteRef,
        sightings: &mut Sightings,
        now: Timestamp,
    ) -> RouteView {
        let fact = self.routes.get(&route.name);
        let canary_weight = match (fact, plan.routing()) {
            (Some(fact), Some(routing)) => serin_traffic::canary_weight(
                &fact.object,
                route.rule.as_deref(),
                &routing.stable_service,
                &routing.canary_service,
            )
            .map_err(|problem| problem.to_string()),
            _ => Err(self.missing_route(&route.name)),
        };
        let said = fact.map_or_else(
            || ProgrammedSeen::Pending(self.missing_route(&route.name)),
            |fact| serin_traffic::programmed(&fact.object),
        );
        let sighting = sightings.route(route, canary_weight.clone(), now);
        let programmed = match said {
            ProgrammedSeen::Yes => Programmed::Since(*sighting.programmed_since.get_or_insert(now)),
            // Somebody has edited another part of the route: the split that was confirmed before is
            // in effect in either generation.
            ProgrammedSeen::Earlier(why) => sighting
                .programmed_since
                .map_or(Programmed::Pending(why), Programmed::Since),
            ProgrammedSeen::Pending(why) => {
                sighting.programmed_since = None;
                Programmed::Pending(why)
            }
            ProgrammedSeen::Unreported => {
                sighting.programmed_since = None;
                Programmed::Unreported
            }
        };
        RouteView {
            route: route.clone(),
            canary_weight,
            written_since: sighting.written_since,
            programmed,
        }
    }
}

impl Sightings {
    fn serving(
        &mut self,
        name: &str,
        selects: Option<&Revision>,
        serving: bool,
        now: Timestamp,
    ) -> Option<Timestamp> {
        if !serving {
            self.services.remove(name);
            return None;
        }
        let fresh = || ServiceSighting {
            selects: selects.cloned(),
            serving_since: now,
        };
        let sighting = self.services.entry(name.to_owned()).or_insert_with(fresh);
        if sighting.selects.as_ref() != selects {
            *sighting = fresh();
        }
        Some(sighting.serving_since)
    }

    fn route(
        &mut self,
        route: &RouteRef,
        weight: Result<Weight, String>,
        now: Timestamp,
    ) -> &mut RouteSighting {
        let sighting = self
            .routes
            .entry(route.clone())
            .or_insert_with(|| RouteSighting {
                weight: weight.clone(),
                written_since: now,
                programmed_since: None,
            });
        if sighting.weight != weight {
            sighting.weight = weight;
            sighting.written_since = now;
            sighting.programmed_since = None;
        }
        sighting
    }
}

/// One look at everything, in the planner's words.
pub fn observe(
    snapshot: &Snapshot,
    plan: &Plan,
    context: Context,
    sightings: &mut Sightings,
    now: Timestamp,
) -> Observed {
    let replica_sets = snapshot.replica_sets.iter();
    let started_at = context.state.release_started_at;
    let pending = snapshot
        .commands
        .iter()
        .filter(|command| command.finished_at.is_none());
    let routing = plan.routing();
    let service = |name: &String, sightings: &mut Sightings| snapshot.service(name, sightings, now);
    Observed {
        state: context.state,
        observed_since: *sightings.first_at.get_or_insert(now),
        generation: context.generation,
        spec_problem: context.spec_problem,
        spec_replicas: context.spec_replicas,
        replicas_source: context.replicas_source,
        plan_hash: context.plan_hash,
        target_revision: context.target,
        replica_sets: replica_sets
            .map(|(revision, set)| (revision.clone(), snapshot.replica_set(set, started_at)))
            .collect(),
        stable_service: routing.map(|routing| service(&routing.stable_service, sightings)),
        canary_service: routing.map(|routing| service(&routing.canary_service, sightings)),
        routes: routing
            .map(|routing| {
                routing
                    .routes
                    .iter()
                    .map(|route| snapshot.route(plan, route, sightings, now))
                    .collect()
            })
            .unwrap_or_default(),
        commands: pending.map(|command| command.command.clone()).collect(),
        analysis: context.judgement,
    }
}

fn tally<T>(things: impl Iterator<Item = T>) -> u32 {
    u32::try_from(things.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;

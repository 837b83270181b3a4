//! What the planner observes of the world.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serin_core::assignment_unit::AssignmentUnit;
use serin_core::observed::{
    Observed, Programmed, ReplicaSetView, RestartPod, RouteView, ServiceView,
};
use serin_core::plan::RouteRef;
use serin_core::units::Revision;

use super::{POD_START, Pods, Set, World};

impl World {
    /// The pods that a restart still has to replace. A pod is named after the time at which it
    /// becomes available.
    fn restart_pods(&self, revision: &Revision, set: &Set) -> Vec<RestartPod> {
        let Some(restart) = &self.state.restart else {
            return Vec::new();
        };
        let start = self.pod_start.get(revision).copied().unwrap_or(POD_START);
        let old = set.ready_at.iter().filter(|ready_at| {
            let created_at = ready_at.checked_sub(start).unwrap();
            created_at < restart.at
        });
        let mut pods: Vec<RestartPod> = old
            .map(|ready_at| RestartPod {
                is_available: *ready_at <= self.now,
                name: ready_at.to_string(),
            })
            .collect();
        pods.sort();
        pods
    }

    /// Time of the last change of an observation, as the running controller process knows it.
    fn since(&mut self, key: &'static str, value: String) -> Timestamp {
        let entry = self
            .since
            .entry(key)
            .or_insert_with(|| (value.clone(), self.now));
        if entry.0 != value {
            *entry = (value, self.now);
        }
        entry.1
    }

    fn service(&mut self, key: &'static str, selects: Option<Revision>) -> ServiceView {
        let ready = selects
            .as_ref()
            .map_or(0, |revision| self.available(revision));
        let at = self.since(key, format!("{selects:?} {}", ready > 0));
        ServiceView {
            exists: selects.is_some(),
            selects,
            ready,
            serving_since: (ready > 0).then_some(at),
            ..ServiceView::default()
        }
    }

    fn replica_sets(&self) -> BTreeMap<Revision, ReplicaSetView> {
        let sets = self.sets.iter().map(|(revision, set)| {
            let crash_loops = self.pods.get(revision) == Some(&Pods::CrashLoop) && set.desired > 0;
            let seen = ReplicaSetView {
                name: format!("shop-{revision}"),
                desired: set.desired,
                current: u32::try_from(set.ready_at.len()).unwrap(),
                available: self.available(revision),
                restarts: self.restarts.get(revision).copied().unwrap_or(0),
                crash: crash_loops.then(|| "CrashLoopBackOff".to_owned()),
                problem: self.problems.get(revision).cloned(),
                restart_pods: self.restart_pods(revision, set),
                created_at: set.created_at,
                ..ReplicaSetView::default()
            };
            (revision.clone(), seen)
        });
        sets.collect()
    }

    pub fn observe(&mut self) -> Observed {
        let effective = self.effective_plan();
        let routed = effective.services().cloned();
        let observed_since = self.since("process", String::new());
        let written_since = self.since("route", format!("{:?} {:?}", self.route, self.managed));
        let mut stable_service = self.service("stable", self.stable_service.clone());
        if !stable_service.exists && self.other_ready > 0 {
            stable_service.exists = true;
            stable_service.ready = self.other_ready;
            stable_service.other_ready = self.other_ready;
        }
        stable_service.hold.clone_from(&self.stable_hold);
        let mut canary_service = self.service("canary", self.canary_service.clone());
        canary_service.hold.clone_from(&self.canary_hold);
        let programmed = match (self.unconfirmed, self.reports) {
            (true, _) => Programmed::Pending("reports Accepted for an earlier generation".into()),
            (false, true) => Programmed::Since(written_since),
            (false, false) => Programmed::Unreported,
        };
        let route_view = |route: &RouteRef| RouteView {
            route: route.clone(),
            canary_weight: self.route.clone(),
            managed_routes: self.managed.clone(),
            written_since,
            programmed: programmed.clone(),
            hold: self.route_hold.clone(),
        };
        let spec_replicas = self.plan.replicas;
        let plan_hash = self
            .spec_problem
            .is_none()
            .then(|| serde_json::to_string(&effective).unwrap());
        Observed {
            spec_replicas,
            replicas_source: self.replicas_source,
            state: self.state.clone(),
            incompatible_state: self.incompatible_state.clone(),
            is_quarantined: self.is_quarantined,
            observed_since,
            generation: 1,
            spec_problem: self.spec_problem.clone(),
            spec_problem_code: None,
            policies: Vec::new(),
            policy_guardrails: None,
            plan_hash,
            keeps_strategy: effective.strategy != self.plan.strategy
                || effective.exposure != self.plan.exposure,
            spec_analysis: self.spec_analysis.clone(),
            target_revision: self.target.clone(),
            replica_sets: self.replica_sets(),
            stable_service: routed.is_some().then_some(stable_service),
            canary_service: routed.is_some().then_some(canary_service),
            routes: routed
                .iter()
                .flat_map(|routing| &routing.routes)
                .map(route_view)
                .collect(),
            assignment_unit: AssignmentUnit::Request,
            workload: self.workload.clone(),
            commands: self.commands.clone(),
            analysis: self.report.clone(),
            guardrails: self.guardrails.clone(),
            gate: self.gate.clone(),
        }
    }
}

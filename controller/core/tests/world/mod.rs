//! A simulated cluster for the planner: pods, Services, one route and its gateway, in virtual time.
//!
//! It applies the effects, checks after every change whether a request could be lost, and can kill
//! the controller between any two writes.

#![allow(
    clippy::unnecessary_wraps,
    reason = "the reports are assigned to a field that may be empty"
)]
#![allow(
    dead_code,
    unused_imports,
    reason = "each test program uses a part of it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's world fails by panicking"
)]

mod effects;
mod plans;
mod reports;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serin_core::command::{Authorization, Command, CommandOutcome, CommandResult, Verb};
use serin_core::decide;
use serin_core::effect::{Decision, Effect, Level};
use serin_core::gate::GateReport;
use serin_core::guardrail::GuardrailReport;
use serin_core::hold::Hold;
use serin_core::managed_route::ManagedRoute;
use serin_core::observed::{AnalysisReport, PodProblem, ReplicasSource, WorkloadView};
use serin_core::plan::Plan;
use serin_core::release_analysis::AnalysisDocument;
use serin_core::replicas;
use serin_core::spec_change;
use serin_core::state::{Stage, State};
use serin_core::units::{Revision, Weight};

use effects::Config;
pub use plans::*;
pub use reports::*;

/// Maximum time until the gateway applies a change from the API server.
pub const GATEWAY_LAG: Duration = Duration::from_millis(1_500);
/// Time until a new pod becomes available.
pub const POD_START: Duration = Duration::from_secs(3);

/// Behavior of the pods of a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pods {
    Good,
    NeverReady,
    CrashLoop,
}

#[derive(Clone, Debug)]
pub struct Set {
    pub desired: u32,
    /// When each of its pods becomes available.
    pub ready_at: Vec<Timestamp>,
    pub created_at: Timestamp,
}

pub struct World {
    pub now: Timestamp,
    pub plan: Plan,
    pub spec_problem: Option<String>,
    pub spec_analysis: Option<AnalysisDocument>,
    pub target: Option<Revision>,
    pub state: State,
    pub incompatible_state: Option<String>,
    pub is_quarantined: bool,
    pub sets: BTreeMap<Revision, Set>,
    /// The Deployment that is taken over or given back.
    pub workload: Option<WorkloadView>,
    /// The effects on it.
    pub workload_effects: Vec<Effect>,
    pub pods: BTreeMap<Revision, Pods>,
    pub stable_service: Option<Revision>,
    pub canary_service: Option<Revision>,
    pub route: Result<Weight, String>,
    /// The rules for chosen requests on the route. `None` if somebody else changed one.
    pub managed: Option<Vec<ManagedRoute>>,
    /// Why the stable Service is not written.
    pub stable_hold: Option<Hold>,
    /// Why the canary Service is not written.
    pub canary_hold: Option<Hold>,
    /// Why the route is not written.
    pub route_hold: Option<Hold>,
    /// Ready endpoints of the stable Service, before it is first bound, that are pods of somebody
    /// else.
    pub other_ready: u32,
    pub commands: Vec<Command>,
    /// UIDs of commands whose outcome cannot be written.
    pub unwritable: BTreeSet<String>,
    pub outcomes: Vec<(String, CommandOutcome)>,
    pub report: Option<AnalysisReport>,
    /// What the guardrails found about the target revision.
    pub guardrails: GuardrailReport,
    /// What was read for the gate of the current step.
    pub gate: Option<GateReport>,
    /// Every decision with its time. `None` if decisions are not recorded.
    pub recording: Option<Vec<(Timestamp, Decision)>>,
    pub events: Vec<(Timestamp, &'static str, String)>,
    pub status_writes: usize,
    pub set_writes: usize,
    /// Every share that was written to the route, with the stage at that time.
    pub shares: Vec<(Timestamp, Weight, Stage)>,
    /// Whether the router reports the generation it has acted on.
    pub reports: bool,
    /// Whether the router has yet to confirm the route's newest generation.
    pub unconfirmed: bool,
    /// Delay between two pods of a scale-up.
    pub stagger: Duration,
    /// Time until a new pod of the revision becomes available. Defaults to [`POD_START`].
    pub pod_start: BTreeMap<Revision, Duration>,
    /// Container restarts since the release began.
    pub restarts: BTreeMap<Revision, u32>,
    /// Why the pods of a revision cannot run.
    pub problems: BTreeMap<Revision, PodProblem>,
    pub replicas_source: ReplicasSource,
    /// Descriptions of requests that would have been lost.
    pub lost: Vec<String>,
    since: BTreeMap<&'static str, (String, Timestamp)>,
    configs: Vec<(Timestamp, Config)>,
}

impl World {
    pub fn new(plan: Plan) -> Self {
        Self {
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            plan,
            spec_problem: None,
            spec_analysis: None,
            target: Some(rev("v1")),
            state: State::default(),
            incompatible_state: None,
            is_quarantined: false,
            sets: BTreeMap::new(),
            pods: BTreeMap::new(),
            stable_service: None,
            canary_service: None,
            route: Ok(Weight::ZERO),
            managed: Some(Vec::new()),
            stable_hold: None,
            canary_hold: None,
            route_hold: None,
            other_ready: 0,
            workload: None,
            workload_effects: Vec::new(),
            commands: Vec::new(),
            unwritable: BTreeSet::new(),
            outcomes: Vec::new(),
            report: None,
            guardrails: GuardrailReport::default(),
            gate: None,
            recording: None,
            events: Vec::new(),
            status_writes: 0,
            set_writes: 0,
            shares: Vec::new(),
            reports: true,
            unconfirmed: false,
            stagger: Duration::ZERO,
            pod_start: BTreeMap::new(),
            restarts: BTreeMap::new(),
            problems: BTreeMap::new(),
            replicas_source: ReplicasSource::Declared,
            lost: Vec::new(),
            since: BTreeMap::new(),
            configs: Vec::new(),
        }
    }

    /// A world whose first revision is stable.
    pub fn stable(plan: Plan) -> Self {
        let mut world = Self::new(plan);
        world.run_for(secs(120));
        assert_eq!(world.state.stage, Stage::Stable, "{}", world.state.message);
        world.status_writes = 0;
        world.set_writes = 0;
        world.events.clear();
        world.shares.clear();
        world
    }

    pub fn available(&self, revision: &Revision) -> u32 {
        let Some(set) = self.sets.get(revision) else {
            return 0;
        };
        if self
            .pods
            .get(revision)
            .is_some_and(|pods| *pods != Pods::Good)
        {
            return 0;
        }
        u32::try_from(set.ready_at.iter().filter(|at| **at <= self.now).count()).unwrap()
    }

    pub fn desired(&self, revision: &str) -> u32 {
        self.sets.get(&rev(revision)).map_or(0, |set| set.desired)
    }

    /// One reconcile that stops after `writes` writes. The status is the first write, each effect
    /// is another.
    pub fn reconcile_cut_after(&mut self, writes: usize) -> Decision {
        let seen = self.observe();
        let plan = self.effective_plan();
        let decision = decide(&plan, &seen, self.now).unwrap();
        assert_eq!(
            decision,
            decide(&plan, &seen, self.now).unwrap(),
            "the decision is a pure function"
        );
        if let Some(recording) = &mut self.recording {
            recording.push((self.now, decision.clone()));
        }
        let mut left = writes;
        if decision.state != self.state {
            if left == 0 {
                return decision;
            }
            left -= 1;
            // The status is stored as JSON.
            let json = serde_json::to_value(&decision.state).unwrap();
            self.state = serde_json::from_value(json).unwrap();
            assert_eq!(
                self.state, decision.state,
                "the state survives its JSON form"
            );
            self.status_writes += 1;
            for reason in decision
                .reasons
                .iter()
                .filter(|reason| reason.level > Level::Detail)
            {
                self.events
                    .push((self.now, reason.code, reason.message.to_string()));
            }
        }
        self.restore_removed_route(&plan);
        for effect in decision.effects.iter().take(left) {
            self.apply_effect(effect.clone());
            self.record_config();
            self.check();
        }
        decision
    }

    /// The runtime restores a route that the plan does not name any more, before all effects.
    fn restore_removed_route(&mut self, plan: &Plan) {
        let is_split = self.route.as_ref().is_ok_and(|share| !share.is_zero());
        if plan.services().is_some() && plan.routing().is_none() && is_split {
            self.route = Ok(Weight::ZERO);
            self.managed = Some(Vec::new());
            self.record_config();
        }
    }

    pub fn reconcile(&mut self) -> Decision {
        self.reconcile_cut_after(usize::MAX)
    }

    /// The plan with the effective number of pods, in case the manifest omits `replicas`.
    pub fn effective_plan(&self) -> Plan {
        let replicas = replicas::effective(
            self.plan.replicas,
            self.replicas_source,
            &self.state,
            self.now,
        );
        let mut plan = Plan {
            replicas,
            ..self.plan.clone()
        };
        spec_change::keep_strategy(&mut plan, &self.state, self.now);
        plan
    }

    /// Reconciles until nothing changes any more, without advancing the time.
    pub fn settle(&mut self) -> Decision {
        for _ in 0..50 {
            let before = (self.state.clone(), self.route.clone(), self.fingerprint());
            let decision = self.reconcile();
            if before == (self.state.clone(), self.route.clone(), self.fingerprint()) {
                return decision;
            }
        }
        panic!(
            "does not settle: {:?} {}",
            self.state.stage, self.state.message
        );
    }

    fn fingerprint(&self) -> String {
        let sets: Vec<_> = self
            .sets
            .iter()
            .map(|(revision, set)| (revision, set.desired))
            .collect();
        format!(
            "{sets:?} {:?} {:?} {:?} {}",
            self.stable_service,
            self.canary_service,
            self.managed,
            self.commands.len()
        )
    }

    /// Runs for `time`. Reconciles whenever something changes, as watches would trigger it.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now.checked_add(time).unwrap();
        loop {
            let wake_at = self.settle().wake_at;
            let pods = self
                .sets
                .values()
                .flat_map(|set| set.ready_at.iter().copied())
                .filter(|at| *at > self.now)
                .min();
            let next = [wake_at, pods]
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(end)
                .min(end);
            self.now = next;
            self.check();
            if self.now >= end {
                self.settle();
                return;
            }
        }
    }

    /// Replaces a pod of the revision. The new pod starts now.
    pub fn replace_pod(&mut self, revision: &str) {
        let ready = self
            .now
            .checked_add(
                self.pod_start
                    .get(&rev(revision))
                    .copied()
                    .unwrap_or(POD_START),
            )
            .unwrap();
        self.sets.get_mut(&rev(revision)).unwrap().ready_at[0] = ready;
    }

    pub fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..7_200 {
            if done(self) {
                return;
            }
            self.run_for(Duration::from_millis(500));
        }
        panic!(
            "never: {what}; {:?} {:?} {}",
            self.state.stage, self.state.weights, self.state.message
        );
    }

    /// Runs until the canary's share is observed to be `percent`.
    pub fn run_until_at(&mut self, percent: u32) {
        self.run_until(&format!("at {percent} %"), |world| {
            world.state.weights.verified == Some(Weight::percent(percent))
        });
    }

    /// Starts to release the revision, without a verdict, and runs until it has `percent`.
    pub fn release_to(&mut self, revision: &str, percent: u32) {
        self.report = undecided(self);
        self.release(revision);
        self.run_until_at(percent);
    }

    /// Runs until the release is paused.
    pub fn run_until_paused(&mut self) {
        self.run_until("paused", |world| world.state.pause.is_some());
    }

    /// Runs until the revision is stable.
    pub fn run_until_stable(&mut self, revision: &str) {
        self.run_until(&format!("{revision} is stable"), |world| {
            world.state.stable_revision == Some(rev(revision))
        });
    }

    /// The cause of the abort, if the release was aborted.
    pub fn abort_cause(&self) -> Option<&str> {
        self.state.abort.as_ref().map(|abort| abort.cause.as_str())
    }

    /// One reconcile of a controller that is killed if there are more than `writes` writes.
    pub fn reconcile_with_kill(&mut self, writes: usize) {
        let seen = self.observe();
        let decision = decide(&self.effective_plan(), &seen, self.now).unwrap();
        let wanted = usize::from(decision.state != self.state) + decision.effects.len();
        self.reconcile_cut_after(writes);
        if wanted > writes {
            self.restart();
        }
    }

    /// Restarts the controller. Its observation times are lost, the persisted state is not.
    pub fn restart(&mut self) {
        self.since.clear();
    }

    pub fn release(&mut self, revision: &str) {
        self.target = Some(rev(revision));
    }

    pub fn command(&mut self, uid: &str, verb: Verb) -> CommandOutcome {
        self.command_for(uid, verb, None, None)
    }

    pub fn command_for(
        &mut self,
        uid: &str,
        verb: Verb,
        revision: Option<&str>,
        step: Option<usize>,
    ) -> CommandOutcome {
        self.commands.push(Command {
            required_revision: revision.map(rev),
            required_step: step,
            ..self.new_command(uid, verb)
        });
        self.settle();
        let (_, outcome) = self
            .outcomes
            .iter()
            .rev()
            .find(|(done, _)| done == uid)
            .expect("an outcome");
        outcome.clone()
    }

    /// A command of `ada` that is created now.
    pub fn new_command(&self, uid: &str, verb: Verb) -> Command {
        Command {
            uid: uid.into(),
            name: format!("command-{uid}"),
            verb,
            required_revision: None,
            required_step: None,
            adopt_analysis: false,
            reason: Some("a test".into()),
            requested_by: Some("ada".into()),
            created_at: self.now,
            authorization: Authorization::Verified,
        }
    }

    pub fn refused(&mut self, uid: &str, verb: Verb) -> String {
        let outcome = self.command(uid, verb);
        assert_eq!(
            outcome.result,
            CommandResult::Refused,
            "{}",
            outcome.message
        );
        outcome.message.into()
    }

    pub fn events_of(&self, code: &str) -> Vec<String> {
        self.events
            .iter()
            .filter(|(_, found, _)| *found == code)
            .map(|(_, _, message)| message.clone())
            .collect()
    }

    pub fn share(&self) -> Weight {
        self.route.clone().unwrap()
    }

    pub fn assert_no_lost_requests(&self) {
        assert!(self.lost.is_empty(), "{:#?}", self.lost);
    }
}

impl World {
    /// Whether pods of the revision behind the canary Service are available.
    pub fn available_behind_canary(&self) -> bool {
        self.canary_service
            .as_ref()
            .is_some_and(|revision| self.available(revision) > 0)
    }

    /// Forgets requests that were lost because pods failed, not because of the controller.
    pub fn forget_lost_requests(&mut self) {
        self.lost.clear();
        self.configs.clear();
        self.record_config();
    }
}

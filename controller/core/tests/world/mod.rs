//! A simulated cluster for the planner: pods, Services, one route and its gateway, in virtual time.
//!
//! It applies the effects, checks after every change whether a request could be lost, and can kill
//! the controller between any two writes.

#![allow(
    clippy::unnecessary_wraps,
    reason = "the reports are assigned to a field that may be empty"
)]
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's world fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serin_core::command::{Command, CommandOutcome, CommandResult, Verb};
use serin_core::decide;
use serin_core::effect::{Decision, Effect, Level, Side};
use serin_core::hold::{Hold, HoldCode};
use serin_core::observed::{
    AnalysisReport, Observed, PodProblem, Programmed, ReplicaSetView, ReplicasSource, RouteView,
    SatisfiedRequirements, ServiceView,
};
use serin_core::plan::{
    Amount, Analysis, Canary, Exposure, Pace, Plan, Requirements, RouteKind, RouteRef, Routing,
    Step, Strategy, Workload,
};
use serin_core::replicas;
use serin_core::state::{AbortCause, Stage, State};
use serin_core::units::{Revision, Weight};

/// Maximum time until the gateway applies a change from the API server.
pub const GATEWAY_LAG: Duration = Duration::from_millis(1_500);
/// Time until a new pod becomes available.
pub const POD_START: Duration = Duration::from_secs(3);

pub fn rev(name: &str) -> Revision {
    Revision::new(name)
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn weight(percent: u32) -> Step {
    Step::SetWeight(Weight::percent(percent))
}

pub fn wait(seconds: u64) -> Step {
    Step::Pause(Some(secs(seconds)))
}

pub fn plan(replicas: u32, steps: Vec<Step>) -> Plan {
    let route = RouteRef {
        kind: RouteKind::HttpRoute,
        name: "shop".into(),
        rule: None,
    };
    Plan {
        replicas,
        progress_deadline: secs(600),
        revision_history_limit: 3,
        rollback_window: 0,
        paused: false,
        workload: Workload::Owned,
        exposure: Exposure::Weighted(Routing {
            stable_service: "shop".into(),
            canary_service: "shop-canary".into(),
            routes: vec![route],
            settle: secs(2),
            unverified_after: secs(10),
        }),
        strategy: Strategy::Canary(Canary {
            max_surge: Amount::Percent(25),
            max_unavailable: Amount::Percent(25),
            scale_down_delay: secs(30),
            abort_scale_down_delay: secs(30),
            dynamic_stable_scale: false,
            pace: Pace::Steps(steps),
            analysis: None,
            pod_restart_limit: 2,
        }),
    }
}

pub fn unrouted(replicas: u32, steps: Vec<Step>, surge: u32, unavailable: u32) -> Plan {
    let mut plan = plan(replicas, steps);
    plan.exposure = Exposure::ReplicaRatio;
    edit(plan, |canary| {
        canary.max_surge = Amount::Pods(surge);
        canary.max_unavailable = Amount::Pods(unavailable);
    })
}

pub fn edit(mut plan: Plan, change: impl FnOnce(&mut Canary)) -> Plan {
    let Strategy::Canary(canary) = &mut plan.strategy;
    change(canary);
    plan
}

pub fn analysed(plan: Plan) -> Plan {
    edit(plan, |canary| {
        canary.analysis = Some(Analysis {
            max_duration: secs(3600),
            warm_up: secs(10),
            checks: BTreeSet::new(),
            bake: None,
        });
    })
}

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

/// A configuration that the gateway may have applied.
#[derive(Clone, Debug, PartialEq)]
struct Config {
    weight: Weight,
    stable: Option<Revision>,
    canary: Option<Revision>,
}

pub struct World {
    pub now: Timestamp,
    pub plan: Plan,
    pub spec_problem: Option<String>,
    pub target: Option<Revision>,
    pub state: State,
    pub incompatible_state: Option<String>,
    pub sets: BTreeMap<Revision, Set>,
    pub pods: BTreeMap<Revision, Pods>,
    pub stable_service: Option<Revision>,
    pub canary_service: Option<Revision>,
    pub route: Result<Weight, String>,
    pub commands: Vec<Command>,
    pub outcomes: Vec<(String, CommandOutcome)>,
    pub report: Option<AnalysisReport>,
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
            target: Some(rev("v1")),
            state: State::default(),
            incompatible_state: None,
            sets: BTreeMap::new(),
            pods: BTreeMap::new(),
            stable_service: None,
            canary_service: None,
            route: Ok(Weight::ZERO),
            commands: Vec::new(),
            outcomes: Vec::new(),
            report: None,
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
        }
    }

    pub fn observe(&mut self) -> Observed {
        let routed = self.plan.routing().cloned();
        let observed_since = self.since("process", String::new());
        let written_since = self.since("route", format!("{:?}", self.route));
        let stable_service = self.service("stable", self.stable_service.clone());
        let canary_service = self.service("canary", self.canary_service.clone());
        let programmed = match (self.unconfirmed, self.reports) {
            (true, _) => Programmed::Pending("reports Accepted for an earlier generation".into()),
            (false, true) => Programmed::Since(written_since),
            (false, false) => Programmed::Unreported,
        };
        let route_view = |route: &RouteRef| RouteView {
            route: route.clone(),
            canary_weight: self.route.clone(),
            written_since,
            programmed: programmed.clone(),
        };
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
                created_at: set.created_at,
            };
            (revision.clone(), seen)
        });
        let spec_replicas = self.plan.replicas;
        let effective = self.effective_plan();
        let plan_hash = self
            .spec_problem
            .is_none()
            .then(|| serde_json::to_string(&effective).unwrap());
        Observed {
            spec_replicas,
            replicas_source: self.replicas_source,
            state: self.state.clone(),
            incompatible_state: self.incompatible_state.clone(),
            observed_since,
            generation: 1,
            spec_problem: self.spec_problem.clone(),
            plan_hash,
            target_revision: self.target.clone(),
            replica_sets: sets.collect(),
            stable_service: routed.is_some().then_some(stable_service),
            canary_service: routed.is_some().then_some(canary_service),
            routes: routed
                .iter()
                .flat_map(|routing| &routing.routes)
                .map(route_view)
                .collect(),
            commands: self.commands.clone(),
            analysis: self.report.clone(),
        }
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
                    .push((self.now, reason.code, reason.message.clone()));
            }
        }
        for effect in decision.effects.iter().take(left) {
            self.apply_effect(effect.clone());
            self.record_config();
            self.check();
        }
        decision
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
        Plan {
            replicas,
            ..self.plan.clone()
        }
    }

    fn apply_effect(&mut self, effect: Effect) {
        match effect {
            Effect::SetWeight { canary, .. } => {
                self.route = Ok(canary);
                self.shares.push((self.now, canary, self.state.stage));
            }
            Effect::BindService {
                side: Side::Stable,
                revision,
                ..
            } => self.stable_service = Some(revision),
            Effect::BindService {
                side: Side::Canary,
                revision,
                ..
            } => self.canary_service = Some(revision),
            Effect::CreateReplicaSet { revision, replicas } => {
                self.set_writes += 1;
                let created_at = self.now;
                self.sets.entry(revision.clone()).or_insert(Set {
                    desired: 0,
                    ready_at: Vec::new(),
                    created_at,
                });
                self.scale(&revision, replicas);
            }
            Effect::Scale {
                revision, replicas, ..
            } => {
                self.set_writes += 1;
                self.scale(&revision, replicas);
            }
            Effect::DeleteReplicaSet { revision, .. } => {
                assert_eq!(
                    self.sets[&revision].desired, 0,
                    "only empty ReplicaSets are deleted"
                );
                self.sets.remove(&revision);
            }
            Effect::FinishCommand { uid, outcome, .. } => {
                self.commands.retain(|command| command.uid != uid);
                self.outcomes.push((uid, outcome));
            }
        }
    }

    fn scale(&mut self, revision: &Revision, replicas: u32) {
        let mut ready = self
            .now
            .checked_add(self.pod_start.get(revision).copied().unwrap_or(POD_START))
            .unwrap();
        let set = self.sets.get_mut(revision).unwrap();
        set.desired = replicas;
        set.ready_at.sort();
        set.ready_at.truncate(replicas as usize);
        while set.ready_at.len() < replicas as usize {
            set.ready_at.push(ready);
            ready = ready.checked_add(self.stagger).unwrap();
        }
    }

    fn record_config(&mut self) {
        let Ok(weight) = self.route.clone() else {
            return;
        };
        let config = Config {
            weight,
            stable: self.stable_service.clone(),
            canary: self.canary_service.clone(),
        };
        if self.configs.last().is_none_or(|(_, last)| *last != config) {
            self.configs.push((self.now, config));
        }
    }

    /// Records requests that would be lost now under any configuration that the gateway may have
    /// applied.
    pub fn check(&mut self) {
        // With 0 desired replicas no pod serves, as intended.
        if self.plan.routing().is_none()
            || self.state.stage == Stage::FirstDeploy
            || self.plan.replicas == 0
        {
            return;
        }
        let horizon = self.now.checked_sub(GATEWAY_LAG).unwrap();
        let mut possible = Vec::new();
        for (index, (_, config)) in self.configs.iter().enumerate() {
            let replaced_at = self.configs.get(index + 1).map(|(at, _)| *at);
            if replaced_at.is_none_or(|at| at > horizon) {
                possible.push(config.clone());
            }
        }
        let served = |side: &Option<Revision>| {
            side.as_ref()
                .is_some_and(|revision| self.available(revision) > 0)
        };
        let mut lost = Vec::new();
        for config in possible {
            if !config.weight.is_zero() && !served(&config.canary) {
                lost.push(format!(
                    "{}: canary at {} has no pods ({config:?})",
                    self.now, config.weight
                ));
            }
            if config.weight < Weight::FULL && !served(&config.stable) {
                lost.push(format!("{}: stable has no pods ({config:?})", self.now));
            }
        }
        self.lost.extend(lost);
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
            "{sets:?} {:?} {:?} {}",
            self.stable_service,
            self.canary_service,
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
            uid: uid.into(),
            name: format!("command-{uid}"),
            verb,
            required_revision: revision.map(rev),
            required_step: step,
            reason: Some("a test".into()),
            requested_by: Some("ada".into()),
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

    pub fn refused(&mut self, uid: &str, verb: Verb) -> String {
        let outcome = self.command(uid, verb);
        assert_eq!(
            outcome.result,
            CommandResult::Refused,
            "{}",
            outcome.message
        );
        outcome.message
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

/// Fresh data without a verdict.
pub fn undecided(world: &World) -> Option<AnalysisReport> {
    Some(AnalysisReport::undecided("undecided", world.now))
}

/// The metrics hold the release.
pub fn hold(code: HoldCode) -> Option<AnalysisReport> {
    let message = format!("hold: {code}");
    Some(AnalysisReport::held(Hold::new(code, message)))
}

/// The metrics demand a lower weight.
pub fn lower(to: Weight) -> Option<AnalysisReport> {
    let hold = Hold::new(HoldCode::NoTraffic, "no requests");
    Some(AnalysisReport::held(hold.lowering_to(Some(to))))
}

/// The error budget freezes the release.
pub fn frozen(message: &str) -> Option<AnalysisReport> {
    let hold = Hold::new(HoldCode::BudgetSpent, message);
    Some(AnalysisReport::held(hold))
}

/// The evidence rolls the release back.
pub fn roll_back(message: &str) -> Option<AnalysisReport> {
    Some(AnalysisReport::breached(AbortCause::Evidence, message))
}

/// Fresh data that suffices to promote, with the requirements satisfied at a weight.
pub fn sound(world: &World, percent: u32, requirements: Requirements) -> Option<AnalysisReport> {
    let mut report = satisfied(world, percent, requirements)?;
    report.ready_to_promote = true;
    Some(report)
}

/// Fresh data without a verdict, with the requirements satisfied at a weight.
pub fn satisfied(
    world: &World,
    percent: u32,
    requirements: Requirements,
) -> Option<AnalysisReport> {
    let mut report = AnalysisReport::undecided("undecided", world.now);
    report.satisfied = SatisfiedRequirements {
        weight: Weight::percent(percent),
        requirements,
    };
    Some(report)
}

pub fn requirements(objectives: &[&str], checks: &[&str]) -> Requirements {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Requirements {
        objectives: owned(objectives),
        checks: owned(checks),
    }
}

//! Autoscalers are not misled by the pods that a release needs in addition.
//!
//! Argo-rollouts #2857, #3849 and #4847, keda #6058. The arithmetic is in
//! `docs/explanation/autoscaling.md`.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of pods in tests are small"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod autoscaler;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use autoscaler::{Autoscaler, MeasuredPod, Metric, Reading, SYNC_PERIOD};
use jiff::Timestamp;
use proptest::prelude::*;
use serin_core::command::Verb;
use serin_core::decide;
use serin_core::observed::ReplicasSource;
use serin_core::plan::{Plan, Step};
use serin_core::scale::{self, ScaleReport};
use serin_core::state::Stage;
use serin_core::units::{Revision, Weight};
use world::{Pods, World, edit, plan, rev, secs, unrouted, wait, weight};

/// Time until the metrics of a new pod are collected.
const METRICS_LAG: Duration = Duration::from_secs(15);
/// Time that an autoscaler needs for a load that has changed five-fold: it at most doubles the fleet
/// in a period, and waits for the metrics of the new pods.
const REACTION: Duration = Duration::from_secs(150);
const METRICS: [Metric; 3] = [Metric::PerPod, Metric::AverageValue, Metric::Value];

/// What the controller reports in `status`.
type Report = fn(&mut World) -> ScaleReport;

fn reported(world: &mut World) -> ScaleReport {
    let (plan, observed) = (world.effective_plan(), world.observe());
    let decision = decide(&plan, &observed, world.now).unwrap();
    scale::report(&plan, &observed, &decision.effects, world.now)
}

/// All pods, as a Rollout of other controllers reports them.
fn all_pods(world: &mut World) -> ScaleReport {
    ScaleReport {
        replicas: world.sets.values().map(|set| set.desired).sum(),
        revisions: None,
    }
}

/// The pods of stable alone.
fn stable_pods(world: &mut World) -> ScaleReport {
    let stable = world.state.stable_revision.clone().unwrap();
    ScaleReport {
        replicas: world.sets[&stable].desired,
        revisions: Some(BTreeSet::from([stable])),
    }
}

/// A World and the autoscaler that sets its `spec.replicas`.
struct Scene {
    world: World,
    autoscaler: Autoscaler,
    metric: Metric,
    report: Report,
    /// What the autoscaler has read, oldest first.
    periods: Vec<Period>,
}

/// One period of the autoscaler.
struct Period {
    at: Timestamp,
    /// The load in pods at the target.
    load: f64,
    /// The pods whose metrics are not collected yet. When an autoscaler scales down by the
    /// metrics of pods, it takes them for pods at the target.
    unmeasured: u32,
    /// The ready pods that the selector finds.
    ready: u32,
}

impl Scene {
    fn new(plan: Plan, metric: Metric, report: Report) -> Self {
        let mut world = World::stable(plan);
        world.replicas_source = ReplicasSource::Scaled;
        Self {
            world,
            autoscaler: Autoscaler::default(),
            metric,
            report,
            periods: Vec::new(),
        }
    }

    /// The canary's share of the requests, from 0 to 1.
    fn share(&self) -> f64 {
        let share = self.world.share().thousandths();
        f64::from(share) / f64::from(Weight::FULL.thousandths())
    }

    /// The load of each pod of a revision.
    fn load_of(&self, revision: &Revision, total: f64) -> f64 {
        let available = f64::from(self.world.available(revision));
        let share = self.share();
        let of_side = |service: &Option<Revision>, share: f64| {
            if service.as_ref() == Some(revision) && available > 0.0 {
                total * share / available
            } else {
                0.0
            }
        };
        of_side(&self.world.stable_service, 1.0 - share)
            + of_side(&self.world.canary_service, share)
    }

    fn read(&mut self, total: f64) -> Reading {
        let report = (self.report)(&mut self.world);
        let world = &self.world;
        let has_metrics = world.now.checked_sub(METRICS_LAG).unwrap();
        let is_measured = |revision: &Revision| {
            let revisions = report.revisions.as_ref();
            revisions.is_none_or(|revisions| revisions.contains(revision))
        };
        let mut pods = Vec::new();
        for (revision, set) in world.sets.iter().filter(|(name, _)| is_measured(name)) {
            let is_good = world
                .pods
                .get(revision)
                .is_none_or(|pods| *pods == Pods::Good);
            let usage = self.load_of(revision, total);
            pods.extend(set.ready_at.iter().map(|ready_at| MeasuredPod {
                is_ready: is_good && *ready_at <= world.now,
                usage: (is_good && *ready_at <= has_metrics).then_some(usage),
            }));
        }
        let ready = pods.iter().filter(|pod| pod.is_ready).count();
        Reading {
            spec_replicas: world.plan.replicas,
            status_replicas: report.replicas,
            pods,
            total,
            // An average over the pods, for example the share of the time in which they are busy.
            value: total / f64::from(u32::try_from(ready).unwrap()),
        }
    }

    /// Runs for one period of the autoscaler at this load, and lets it set the replicas.
    fn run_period(&mut self, total: f64) {
        self.world.run_for(SYNC_PERIOD);
        let reading = self.read(total);
        let ready = reading.pods.iter().filter(|pod| pod.is_ready).count();
        let unmeasured = match self.metric {
            Metric::PerPod => {
                let pods = reading.pods.iter();
                pods.filter(|pod| pod.usage.is_none()).count()
            }
            Metric::AverageValue | Metric::Value => 0,
        };
        self.periods.push(Period {
            at: self.world.now,
            load: total,
            unmeasured: u32::try_from(unmeasured).unwrap(),
            ready: u32::try_from(ready).unwrap(),
        });
        let next = self.autoscaler.next(self.world.now, &reading, self.metric);
        self.world.plan.replicas = next.clamp(2, 100);
    }

    fn run(&mut self, total: f64, periods: usize) {
        for _ in 0..periods {
            self.run_period(total);
        }
    }

    /// The periods since this time ago.
    fn recent(&self, time: Duration) -> impl Iterator<Item = &Period> + '_ {
        let begin = self.world.now.checked_sub(time).unwrap();
        self.periods.iter().filter(move |period| period.at >= begin)
    }

    /// The pods that carry the load are not for longer than the autoscaler needs to react fewer than
    /// the load asks for, and `spec.replicas` is no higher than the load has recently asked for. One
    /// pod is allowed for rounding.
    fn assert_within_band(&self) {
        let lowest = self.recent(REACTION).map(|period| period.load);
        let lowest = lowest.fold(f64::MAX, f64::min);
        let most = self.recent(REACTION).map(|period| period.ready).max();
        let most = f64::from(most.unwrap());
        let window = autoscaler::STABILIZATION + REACTION;
        let asked_for = |period: &Period| period.load + f64::from(period.unmeasured);
        let highest = self.recent(window).map(asked_for);
        let highest = highest.fold(0.0, f64::max);
        let replicas = f64::from(self.world.plan.replicas);
        let describe = || {
            let (stage, share) = (self.world.state.stage, self.world.share());
            format!("{:?} in {stage:?} at {share}", self.metric)
        };
        assert!(
            most >= lowest / (1.0 + autoscaler::TOLERANCE) - 1.0,
            "{most} pods carry a load of {lowest}: {}",
            describe()
        );
        assert!(
            replicas <= (highest / (1.0 - autoscaler::TOLERANCE)).ceil() + 1.0,
            "{replicas} replicas for a load of {highest}: {}",
            describe()
        );
    }
}

/// A release of two steps, with five minutes at each.
fn steps() -> Vec<Step> {
    vec![weight(20), wait(300), weight(50), wait(300)]
}

fn plan_of(replicas: u32, dynamic: bool) -> Plan {
    edit(plan(replicas, steps()), |canary| {
        canary.dynamic_stable_scale = dynamic;
    })
}

/// Loads with the number of periods for which each lasts.
fn any_loads() -> impl Strategy<Value = Vec<(f64, usize)>> {
    prop::collection::vec((5.0..25.0_f64, 14..26_usize), 5..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn replicas_never_leave_the_band_that_the_load_asks_for(
        loads in any_loads(),
        metric in prop::sample::select(METRICS.to_vec()),
        dynamic in any::<bool>(),
        starts_after in 0..20_usize,
        aborts_after in prop::option::of(2..60_usize),
    ) {
        let first = loads[0].0.ceil();
        let mut scene = Scene::new(plan_of(first as u32, dynamic), metric, reported);
        let periods = loads.iter().flat_map(|(load, count)| std::iter::repeat_n(*load, *count));
        for (index, load) in periods.enumerate() {
            if index == starts_after {
                scene.world.release("v2");
            }
            if aborts_after.map(|after| starts_after + after) == Some(index) {
                scene.world.command("stop", Verb::Abort);
            }
            scene.run_period(load);
            scene.assert_within_band();
        }
        scene.world.assert_no_lost_requests();
    }
}

#[test]
fn status_replicas_equal_spec_replicas_in_every_stage_of_a_release() {
    for dynamic in [false, true] {
        for aborts in [false, true] {
            let mut world = World::stable(plan_of(10, dynamic));
            world.release("v2");
            let mut shares = BTreeSet::new();
            for second in 0..900 {
                world.run_for(secs(1));
                shares.insert(world.share().thousandths());
                let report = reported(&mut world);
                assert_eq!(
                    report.replicas,
                    10,
                    "dynamic: {dynamic}, {:?} at {} after {second} s",
                    world.state.stage,
                    world.share()
                );
                if aborts && second == 400 {
                    world.command("stop", Verb::Abort);
                }
            }
            assert!(shares.contains(&50_000), "{shares:?}");
        }
    }
}

#[test]
fn status_replicas_never_exceed_spec_replicas_without_a_router() {
    let mut world = World::stable(unrouted(4, vec![weight(50), wait(30)], 2, 0));
    world.release("v2");
    let mut most = 0;
    for _ in 0..120 {
        world.run_for(secs(1));
        most = most.max(world.sets.values().map(|set| set.desired).sum());
        let report = reported(&mut world);
        assert_eq!(report.replicas, 4);
        assert_eq!(report.revisions, None, "every pod receives requests");
    }
    assert!(most > 4, "the surge was not observed");
}

#[test]
fn missing_pods_are_missing_in_status_replicas() {
    let mut world = World::stable(plan_of(10, false));
    world.plan.replicas = 12;
    let report = reported(&mut world);
    assert_eq!(report.replicas, 10, "the new pods do not exist yet");
    world.run_for(secs(10));
    assert_eq!(reported(&mut world).replicas, 12);
}

/// The sides that an autoscaler measures.
fn measured(world: &mut World) -> Vec<String> {
    let names =
        |revisions: &BTreeSet<Revision>| revisions.iter().map(ToString::to_string).collect();
    match reported(world).revisions {
        Some(revisions) => names(&revisions),
        None => world
            .sets
            .iter()
            .filter(|(_, set)| set.desired > 0)
            .map(|(revision, _)| revision.to_string())
            .collect(),
    }
}

#[test]
fn the_selector_finds_a_side_exactly_while_it_can_receive_requests() {
    let mut world = World::stable(plan_of(4, false));
    assert_eq!(reported(&mut world).revisions, None);
    world.pod_start.insert(rev("v2"), secs(60));
    world.release("v2");
    world.run_for(secs(30));
    assert_eq!(measured(&mut world), ["v1"], "the canary starts");
    world.run_until_at(20);
    assert_eq!(measured(&mut world), ["v1", "v2"]);
    world.run_until_at(50);
    assert_eq!(measured(&mut world), ["v1", "v2"]);
    world.run_until("all of the traffic", |world| world.share() == Weight::FULL);
    assert_eq!(measured(&mut world), ["v1", "v2"]);
    world.run_until_stable("v2");
    world.run_for(secs(5));
    assert_eq!(world.desired("v1"), 4, "the old pods drain");
    assert_eq!(measured(&mut world), ["v2"]);

    world.release("v3");
    world.run_until_at(50);
    world.command("stop", Verb::Abort);
    assert_eq!(measured(&mut world), ["v2", "v3"], "the traffic returns");
    world.run_for(secs(10));
    assert!(world.desired("v3") > 0, "the canary drains");
    assert_eq!(measured(&mut world), ["v2"]);
}

// The autoscaler reads the selector at any time: it must find a side before the first request.
#[test]
fn the_selector_finds_the_canary_before_the_effect_that_sends_requests_to_it() {
    let mut world = World::stable(plan_of(4, false));
    world.release("v2");
    for _ in 0..400 {
        let report = reported(&mut world);
        world.reconcile();
        if !world.share().is_zero() {
            assert_eq!(report.revisions, None, "both sides are measured");
            return;
        }
        world.now = world.now.checked_add(Duration::from_millis(100)).unwrap();
    }
    panic!("no requests to the canary");
}

#[test]
fn a_release_does_not_change_the_fleet_at_constant_load() {
    for dynamic in [false, true] {
        for load in [9.3, 9.8, 10.7] {
            for metric in METRICS {
                let mut scene = Scene::new(plan_of(10, dynamic), metric, reported);
                scene.run(load, 20);
                let before = scene.world.plan.replicas;
                scene.world.release("v2");
                for _ in 0..60 {
                    scene.run_period(load);
                    let replicas = scene.world.plan.replicas;
                    // With more pods than `spec.replicas`, the tolerance of a metric per pod does
                    // not apply to `spec.replicas`, and the number is exact.
                    let exact = load.ceil() as u32;
                    assert!(
                        replicas == before || (metric != Metric::AverageValue && replicas == exact),
                        "{metric:?}, load {load}, dynamic {dynamic}: {before} became {replicas}"
                    );
                }
                assert_eq!(scene.world.state.stage, Stage::Stable);
            }
        }
    }
}

// argo-rollouts #4847: the number that the autoscaler reads is the number that it sets.
#[test]
fn the_pods_of_both_sides_in_status_replicas_would_grow_the_fleet() {
    let grown = |report: Report| {
        let ten_percent = plan(10, vec![weight(10), Step::Pause(None)]);
        let mut scene = Scene::new(ten_percent, Metric::AverageValue, report);
        scene.world.release("v2");
        scene.run(10.5, 20);
        scene.world.plan.replicas
    };
    assert_eq!(grown(reported), 10);
    assert!(grown(all_pods) > 10);
}

#[test]
fn a_selector_of_stable_alone_would_halve_the_fleet() {
    let left = |report: Report| {
        let half = plan(10, vec![weight(50), Step::Pause(None)]);
        let mut scene = Scene::new(half, Metric::PerPod, report);
        scene.run(9.8, 20);
        scene.world.release("v2");
        scene.run(9.8, 40);
        scene.world.plan.replicas
    };
    assert_eq!(left(reported), 10);
    assert!(left(stable_pods) <= 5);
}

// An autoscaler takes unready pods for idle ones and would not scale up.
#[test]
fn a_canary_that_never_starts_does_not_prevent_a_scale_up() {
    let reached = |report: Report| {
        let half = plan(10, vec![weight(50), Step::Pause(None)]);
        let mut scene = Scene::new(half, Metric::PerPod, report);
        scene.world.pods.insert(rev("v2"), Pods::NeverReady);
        scene.world.release("v2");
        scene.run(9.8, 4);
        scene.run(13.8, 8);
        scene.world.plan.replicas
    };
    assert_eq!(reached(reported), 14);
    assert_eq!(reached(all_pods), 10);
}

/// The fleet that a load of 10 pods gets if the metric is an average over requests, for example a
/// latency, so that an idle pod does not lower it.
fn fleet_by_request_average(share: f64, stable: f64, canary: f64) -> f64 {
    let of_side = |share: f64, pods: f64| {
        if pods > 0.0 {
            share * share / pods
        } else {
            0.0
        }
    };
    let value = 10.0 * (of_side(1.0 - share, stable) + of_side(share, canary));
    value * (stable + canary)
}

// `docs/explanation/autoscaling.md` has these numbers.
#[test]
fn a_value_that_is_averaged_over_requests_needs_dynamic_stable_scale() {
    let full = |share: f64| fleet_by_request_average(share, 10.0, 10.0 * share);
    let dynamic = |share: f64| fleet_by_request_average(share, 10.0 * (1.0 - share), 10.0 * share);
    for (share, expected) in [
        (0.05, 10.0),
        (0.2, 10.1),
        (0.5, 11.3),
        (0.8, 15.1),
        (1.0, 20.0),
    ] {
        assert!(
            (full(share) - expected).abs() < 0.1,
            "{share}: {}",
            full(share)
        );
        assert!(
            (dynamic(share) - 10.0).abs() < 1e-9,
            "{share}: {}",
            dynamic(share)
        );
    }
}

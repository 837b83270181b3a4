//! Tests of the planner with baseline pods: pods of the stable revision that start together with
//! the canary's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use serin_core::baseline;
use serin_core::command::Verb;
use serin_core::hold::HoldCode;
use serin_core::plan::{Analysis, CanaryScale, Plan, Step};
use serin_core::state::Stage;
use serin_core::units::Weight;
use world::{World, analysed, edit, plan, rev, roll_back, secs, undecided, unrouted, wait, weight};

fn with_baseline(plan: Plan, pods: u32) -> Plan {
    edit(analysed(plan), |canary| {
        canary.analysis = canary.analysis.take().map(|analysis| Analysis {
            baseline_pods: Some(pods),
            ..analysis
        });
    })
}

fn two_steps() -> Vec<Step> {
    vec![weight(25), wait(60), weight(75), wait(60)]
}

/// Four stable pods, and at most two baseline pods.
fn stable_world() -> World {
    World::stable(with_baseline(plan(4, two_steps()), 2))
}

#[test]
fn baseline_pods_start_with_the_canary_and_grow_with_it_up_to_their_number() {
    let mut world = stable_world();
    world.pod_start.insert(rev("v1"), secs(20));
    world.report = undecided(&world);
    world.release("v2");
    world.settle();
    assert_eq!((world.desired("v1"), world.desired("v2")), (5, 1));
    assert_eq!(
        baseline::started_at(&world.plan, &world.state),
        Some(world.now)
    );
    world.run_for(secs(15));
    assert_eq!(world.available(&rev("v2")), 1);
    assert_eq!(
        world.share(),
        Weight::ZERO,
        "the first traffic waits for the baseline"
    );
    assert_eq!(world.state.holds[0].code, HoldCode::PodsNotAvailable);
    assert!(
        world.state.holds[0].message.contains("baseline pods"),
        "{}",
        world.state.holds[0].message
    );
    world.run_until_at(25);
    world.run_until_at(75);
    assert_eq!(
        (world.desired("v1"), world.desired("v2")),
        (6, 3),
        "two of the canary's three pods have a counterpart"
    );
    world.assert_no_lost_requests();
}

#[test]
fn baseline_pods_end_with_a_promotion() {
    let mut world = stable_world();
    world.release_to("v2", 75);
    assert_eq!(world.desired("v1"), 6);
    world.run_until_stable("v2");
    assert!(world.desired("v1") <= 4, "they end before the old pods");
    world.run_for(secs(120));
    assert_eq!((world.desired("v1"), world.desired("v2")), (0, 4));
    assert_eq!(world.state.stage, Stage::Stable);
    world.assert_no_lost_requests();
}

#[test]
fn baseline_pods_end_after_an_abort_once_stable_has_the_traffic() {
    let mut world = stable_world();
    world.release_to("v2", 75);
    world.report = roll_back("breach");
    world.settle();
    assert_eq!(world.state.stage, Stage::Aborted);
    assert_eq!(
        (world.share(), world.desired("v1")),
        (Weight::ZERO, 6),
        "the router has not been seen to act yet"
    );
    world.run_for(secs(3));
    assert_eq!(world.desired("v1"), 4);
    world.run_for(secs(120));
    assert_eq!((world.desired("v1"), world.desired("v2")), (4, 0));
    world.assert_no_lost_requests();
}

#[test]
fn the_next_release_has_new_baseline_pods() {
    let mut world = stable_world();
    world.release_to("v2", 75);
    let first = baseline::started_at(&world.plan, &world.state);
    world.release("v3");
    let superseded_at = world.now;
    world.settle();
    world.run_until_at(25);
    let second = baseline::started_at(&world.plan, &world.state);
    assert!(second > first && second >= Some(superseded_at));
    let young = world.sets[&rev("v1")]
        .ready_at
        .iter()
        .filter(|ready_at| **ready_at > superseded_at);
    assert_eq!(young.count(), 1, "the pods of the release before are gone");
    assert_eq!(world.desired("v1"), 5);

    // The same for another attempt of the same revision.
    world.command("1", Verb::Abort);
    world.command("2", Verb::Retry);
    let retried_at = world.now;
    world.run_until_at(25);
    let third = baseline::started_at(&world.plan, &world.state);
    assert!(third > second && third >= Some(retried_at));
    assert_eq!(world.desired("v1"), 5);
    world.assert_no_lost_requests();
}

#[test]
fn an_autoscaler_does_not_remove_baseline_pods() {
    let mut world = stable_world();
    world.release_to("v2", 75);
    world.plan.replicas = 3;
    world.run_for(secs(10));
    assert_eq!(
        world.desired("v1"),
        6,
        "the youngest pods would be removed first, and they are the baseline"
    );
    world.command("1", Verb::Abort);
    world.run_for(secs(120));
    assert_eq!(world.desired("v1"), 3);
    world.assert_no_lost_requests();
}

#[test]
fn baseline_pods_that_do_not_start_delay_a_release_but_do_not_stop_it() {
    let mut world = stable_world();
    world.pod_start.insert(rev("v1"), secs(100_000));
    world.report = undecided(&world);
    world.release("v2");
    world.run_for(secs(290));
    assert_eq!(world.share(), Weight::ZERO);
    world.run_for(secs(20));
    assert_eq!(world.share(), Weight::percent(25));
    world.run_until_stable("v2");
    world.assert_no_lost_requests();
}

#[test]
fn no_baseline_pods_start_where_they_could_not_be_compared() {
    let dynamic = edit(with_baseline(plan(4, two_steps()), 2), |canary| {
        canary.dynamic_stable_scale = true;
    });
    let without_router = with_baseline(unrouted(4, two_steps(), 1, 1), 2);
    for unsuitable in [dynamic, without_router] {
        let mut world = World::stable(unsuitable);
        world.release_to("v2", 25);
        assert_eq!(world.state.baseline_since, None);
        assert!(world.desired("v1") <= 4);
        world.run_until_stable("v2");
    }
}

#[test]
fn a_baseline_that_is_removed_from_the_plan_ends() {
    let mut world = stable_world();
    world.release_to("v2", 75);
    world.plan = analysed(plan(4, two_steps()));
    world.run_for(secs(5));
    assert_eq!(world.desired("v1"), 4);
    assert_eq!(baseline::started_at(&world.plan, &world.state), None);
    world.run_until_stable("v2");
    world.assert_no_lost_requests();
}

#[test]
fn a_controller_killed_between_any_two_writes_starts_and_ends_the_same_baseline() {
    let end = |kill_every: usize| {
        let mut world = stable_world();
        world.report = undecided(&world);
        world.release("v2");
        let mut most = 0;
        for _ in 0..4_000 {
            world.reconcile_with_kill(kill_every);
            world.now = world
                .now
                .checked_add(std::time::Duration::from_millis(250))
                .unwrap();
            world.check();
            most = most.max(world.desired("v1"));
        }
        world.assert_no_lost_requests();
        (
            world.state.stable_revision.clone(),
            most,
            world.desired("v1"),
            world.desired("v2"),
        )
    };
    let expected = (Some(rev("v2")), 6, 0, 4);
    for kill_every in [1, 2, 3, usize::MAX] {
        assert_eq!(
            end(kill_every),
            expected,
            "killed after {kill_every} writes"
        );
    }
}

#[test]
fn the_part_of_stable_that_is_compared_follows_from_the_plan() {
    let is_part = |plan: &Plan, scale, percent, expected: f64| {
        let part = baseline::compared_part_of_stable(plan, scale, Weight::percent(percent));
        assert!((part - expected).abs() < 1e-12, "{part} at {percent} %");
    };
    let by_weight = CanaryScale::MatchTrafficWeight;
    let with = with_baseline(plan(4, two_steps()), 2);
    is_part(&with, by_weight, 25, 1.0 / 5.0);
    // At most two baseline pods.
    is_part(&with, by_weight, 75, 2.0 / 6.0);
    is_part(&with, CanaryScale::Replicas(2), 25, 2.0 / 6.0);
    is_part(&plan(4, two_steps()), by_weight, 25, 1.0);
    // Without a router, the number of pods sets the split.
    let unrouted = with_baseline(unrouted(4, two_steps(), 1, 1), 2);
    is_part(&unrouted, by_weight, 25, 1.0);
}

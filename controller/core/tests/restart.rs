//! Restarts: all pods are replaced, without a release and without too few of them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod world;

use std::time::Duration;

use serin_core::command::{CommandResult, Verb};
use serin_core::plan::{Amount, Plan, Step};
use serin_core::state::{Phase, Stage};
use world::{World, edit, plan, rev, secs, unrouted, wait, weight};

/// Requests a restart a minute after the pods were created.
fn restart(world: &mut World) {
    world.run_for(secs(60));
    let outcome = world.command("again", Verb::Restart);
    assert_eq!(outcome.result, CommandResult::Done, "{}", outcome.message);
}

fn limited(plan: Plan, surge: u32, unavailable: u32) -> Plan {
    edit(plan, |canary| {
        canary.max_surge = Amount::Pods(surge);
        canary.max_unavailable = Amount::Pods(unavailable);
    })
}

/// Runs until the restart has ended. Returns the fewest available and the most existing pods.
fn run_restart(world: &mut World) -> (u32, u32) {
    let stable = world.state.stable_revision.clone().unwrap();
    let (mut fewest, mut most) = (u32::MAX, 0);
    for _ in 0..10_000 {
        fewest = fewest.min(world.available(&stable));
        most = most.max(world.sets[&stable].desired);
        if world.state.restart.is_none() {
            world.run_for(secs(5));
            return (fewest, most);
        }
        world.run_for(Duration::from_millis(250));
    }
    panic!("the restart does not end: {}", world.state.message);
}

#[test]
fn a_restart_replaces_every_pod_within_max_surge_and_max_unavailable() {
    for replicas in 1..=9 {
        for (surge, unavailable) in [(1, 0), (2, 0), (0, 1), (1, 1), (20, 0), (0, 20), (3, 2)] {
            for is_routed in [true, false] {
                let steps = vec![weight(50), wait(10)];
                let wanted = if is_routed {
                    plan(replicas, steps)
                } else {
                    unrouted(replicas, steps, 1, 0)
                };
                let mut world = World::stable(limited(wanted, surge, unavailable));
                let case = format!("{replicas} replicas, {surge}, {unavailable}, {is_routed}");
                restart(&mut world);
                let requested_at = world.state.restart.as_ref().unwrap().at;
                let (fewest, most) = run_restart(&mut world);
                assert!(
                    fewest >= replicas.saturating_sub(unavailable),
                    "{case}: {fewest}"
                );
                assert!(most <= replicas + surge, "{case}: {most}");
                let set = &world.sets[&rev("v1")];
                assert_eq!(set.desired, replicas, "{case}");
                let is_new = |ready_at| ready_at > requested_at;
                assert!(set.ready_at.iter().copied().all(is_new), "{case}");
                assert_eq!(world.state.phase, Phase::Healthy, "{case}");
                if replicas > unavailable {
                    world.assert_no_lost_requests();
                }
            }
        }
    }
}

#[test]
fn a_restart_is_not_a_release() {
    let mut world = World::stable(plan(4, vec![weight(50), wait(10)]));
    restart(&mut world);
    assert_eq!(world.state.phase, Phase::Progressing);
    assert!(
        world.state.message.contains("replacing the pods"),
        "{}",
        world.state.message
    );
    while world.state.restart.is_some() {
        assert_eq!(world.state.stage, Stage::Stable);
        assert!(world.share().is_zero());
        world.run_for(secs(1));
    }
    assert_eq!(world.state.stable_revision, Some(rev("v1")));
    assert_eq!(world.sets.len(), 1);
    assert!(world.events_of("ReleaseStarted").is_empty());
    assert_eq!(
        world.events_of("Restarted"),
        ["all pods have been replaced"]
    );
}

#[test]
fn pods_that_are_not_ready_are_replaced_first_and_at_once() {
    let mut world = World::stable(limited(plan(4, vec![weight(50)]), 1, 0));
    world.pod_start.insert(rev("v1"), secs(30));
    world.run_for(secs(60));
    world.sets.get_mut(&rev("v1")).unwrap().ready_at[2] = world.now + secs(29);
    world.command("again", Verb::Restart);
    world.run_for(secs(1));
    let pods = &world.sets[&rev("v1")].ready_at;
    let starting = pods.iter().filter(|at| **at > world.now);
    assert_eq!(starting.count(), 2, "its successor, and the surge");
    assert_eq!(world.available(&rev("v1")), 3);
}

#[test]
fn a_restart_survives_a_controller_that_is_killed_after_any_write() {
    for writes in 0..4 {
        let mut world = World::stable(plan(3, vec![weight(50)]));
        restart(&mut world);
        for _ in 0..200 {
            if world.state.restart.is_none() {
                break;
            }
            world.reconcile_with_kill(writes);
            world.run_for(secs(1));
        }
        assert_eq!(world.state.restart, None, "killed after {writes} writes");
        assert_eq!(world.desired("v1"), 3);
    }
}

#[test]
fn a_restart_is_refused_during_a_release_and_suspended_by_one() {
    let mut world = World::stable(plan(4, vec![weight(50), Step::Pause(None)]));
    restart(&mut world);
    world.release("v2");
    world.run_for(secs(1));
    let left = world.observe().replica_sets[&rev("v1")].restart_pods.len();
    world.run_until_paused();
    assert_eq!(
        world.observe().replica_sets[&rev("v1")].restart_pods.len(),
        left,
        "a release suspends the restart"
    );
    let refusal = world.refused("twice", Verb::Restart);
    assert!(refusal.contains("a release is in progress"), "{refusal}");
    world.command("stop", Verb::Abort);
    run_restart(&mut world);
    assert_eq!(world.state.stage, Stage::Aborted);
    assert!(
        world.observe().replica_sets[&rev("v1")]
            .restart_pods
            .is_empty()
    );
}

#[test]
fn a_promotion_ends_a_restart_that_it_suspended() {
    let mut world = World::stable(plan(4, vec![weight(50), wait(10)]));
    restart(&mut world);
    world.release("v2");
    world.run_until_stable("v2");
    world.run_for(secs(10));
    assert_eq!(world.state.restart, None);
    assert!(world.state.stage == Stage::Stable && world.state.phase == Phase::Healthy);
}

#[test]
fn a_restart_without_pods_ends_at_once() {
    let mut world = World::stable(plan(3, vec![weight(50)]));
    world.plan.replicas = 0;
    world.run_for(secs(60));
    world.command("again", Verb::Restart);
    world.run_for(secs(1));
    assert_eq!(world.state.restart, None);
    assert_eq!(world.desired("v1"), 0);
}

/// Declares a restart of all pods that were created before `seconds` from now.
fn declare_restart(world: &mut World, seconds: u64) {
    let at = world.now + secs(seconds);
    world.plan.restart_at = Some(at);
    world.settle();
}

#[test]
fn a_declared_restart_begins_at_its_time_and_happens_once() {
    let mut world = World::stable(limited(plan(4, vec![weight(50)]), 1, 0));
    world.run_for(secs(60));
    declare_restart(&mut world, 30);
    world.run_for(secs(29));
    assert_eq!(world.state.restart, None, "before its time");
    world.run_for(secs(2));
    assert_eq!(
        world.state.restart.as_ref().unwrap().at,
        world.plan.restart_at.unwrap()
    );
    let (fewest, most) = run_restart(&mut world);
    assert_eq!((fewest, most), (4, 5));
    assert_eq!(world.state.restarted_at, world.plan.restart_at);
    world.run_for(secs(600));
    assert_eq!(world.events_of("Restarted").len(), 1);

    // The next time is another restart, and an earlier one is none.
    declare_restart(&mut world, 1);
    world.run_for(secs(2));
    run_restart(&mut world);
    assert_eq!(world.events_of("Restarted").len(), 2);
    world.plan.restart_at = Some("2026-01-01T00:00:00Z".parse().unwrap());
    world.run_for(secs(60));
    assert_eq!(world.events_of("Restarted").len(), 2);
}

#[test]
fn a_declared_restart_waits_for_a_release_whose_pods_need_none() {
    let mut world = World::stable(plan(4, vec![weight(50), Step::Pause(None)]));
    world.run_for(secs(60));
    world.release("v2");
    world.run_until_paused();
    declare_restart(&mut world, 0);
    world.run_for(secs(60));
    assert_eq!(world.state.restart, None, "a release is in progress");
    // After an abort the old pods serve, and they are older than the declared time.
    world.command("stop", Verb::Abort);
    world.run_for(secs(1));
    run_restart(&mut world);
    assert_eq!(world.state.restarted_at, world.plan.restart_at);

    // All pods of the next revision are younger.
    let restarts = world.events_of("Restarted").len();
    let declared = world.now;
    world.release("v3");
    world.run_until_paused();
    world.plan.restart_at = Some(declared);
    world.command("go on", Verb::PromoteFull);
    world.run_until_stable("v3");
    world.run_for(secs(60));
    assert_eq!(world.state.restarted_at, Some(declared));
    assert_eq!(world.events_of("Restarted").len(), restarts);
}

#[test]
fn a_first_deployment_needs_no_declared_restart() {
    let mut declared = plan(3, vec![weight(50)]);
    declared.restart_at = Some("2025-12-31T00:00:00Z".parse().unwrap());
    let world = World::stable(declared);
    assert_eq!(world.state.restart, None);
    assert!(world.events_of("Restarting").is_empty());
    assert_eq!(world.state.restarted_at, world.plan.restart_at);
}

#[test]
fn a_command_covers_a_declared_restart_and_a_declared_restart_extends_a_command() {
    let mut world = World::stable(limited(plan(4, vec![weight(50)]), 1, 0));
    restart(&mut world);
    let requested_at = world.state.restart.as_ref().unwrap().at;
    world.plan.restart_at = Some(requested_at);
    run_restart(&mut world);
    assert_eq!(world.state.restarted_at, Some(requested_at));
    assert_eq!(world.events_of("Restarted").len(), 1);

    restart(&mut world);
    declare_restart(&mut world, 1);
    world.run_for(secs(2));
    assert_eq!(
        world.state.restart.as_ref().unwrap().at,
        world.plan.restart_at.unwrap()
    );
    run_restart(&mut world);
    let created_after = |ready_at| ready_at > world.plan.restart_at.unwrap();
    assert!(
        world.sets[&rev("v1")]
            .ready_at
            .iter()
            .copied()
            .all(created_after)
    );
}

#[test]
fn a_declared_restart_survives_a_controller_that_is_killed_after_any_write() {
    for writes in 0..4 {
        let mut world = World::stable(plan(3, vec![weight(50)]));
        world.run_for(secs(60));
        world.plan.restart_at = Some(world.now);
        for _ in 0..200 {
            if world.state.restarted_at.is_some() {
                break;
            }
            world.reconcile_with_kill(writes);
            world.run_for(secs(1));
        }
        assert_eq!(
            world.state.restarted_at, world.plan.restart_at,
            "killed after {writes} writes"
        );
        assert_eq!(world.desired("v1"), 3);
    }
}

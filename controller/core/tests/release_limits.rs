//! Fields that limit what a release waits for, and for how long.

mod world;

use serin_core::plan::{Amount, Plan, Step};
use serin_core::state::{Phase, Stage};
use serin_core::units::Weight;
use world::{Pods, World, edit, plan, rev, secs, unrouted, wait, weight};

/// Keeps one pod of v2 from becoming available.
fn block_one_pod(world: &mut World) {
    let never = world.now + secs(1_000_000);
    if let Some(set) = world.sets.get_mut(&rev("v2")) {
        set.ready_at.sort();
        if let Some(pod) = set.ready_at.last_mut() {
            *pod = never;
        }
    }
}

/// Runs for this number of seconds while one pod of v2 cannot be scheduled.
fn run_with_one_blocked_pod(world: &mut World, seconds: u32) {
    for _ in 0..seconds {
        block_one_pod(world);
        world.run_for(secs(1));
    }
}

fn with_threshold(plan: Plan, threshold: Option<Amount>) -> Plan {
    edit(plan, |canary| canary.replica_progress_threshold = threshold)
}

// argo-rollouts #3928
#[test]
fn one_unschedulable_pod_does_not_stop_a_release_of_500() {
    for is_routed in [true, false] {
        for (threshold, is_promoted) in [
            (Some(Amount::Percent(99)), true),
            (Some(Amount::Percent(90)), true),
            (None, false),
        ] {
            let steps = vec![weight(50), wait(10)];
            let wanted = if is_routed {
                plan(500, steps)
            } else {
                // Without a router an old pod stays for each missing one, up to this number.
                unrouted(500, steps, 50, 5)
            };
            let mut world = World::stable(with_threshold(wanted, threshold));
            world.release("v2");
            run_with_one_blocked_pod(&mut world, 900);
            let stage = if is_promoted {
                Stage::Stable
            } else {
                Stage::Aborted
            };
            assert_eq!(
                world.state.stage, stage,
                "{threshold:?}, routed {is_routed}: {}",
                world.state.message
            );
            if is_promoted {
                assert_eq!(world.state.stable_revision, Some(rev("v2")));
                assert_eq!(world.state.phase, Phase::Healthy, "{}", world.state.message);
                assert_eq!(world.desired("v2"), 500);
            }
            world.assert_no_lost_requests();
        }
    }
}

#[test]
fn at_least_one_pod_is_always_waited_for() {
    let canary = |threshold| {
        let plan = with_threshold(plan(4, vec![]), Some(threshold));
        plan.canary().clone()
    };
    assert_eq!(canary(Amount::Pods(0)).sufficient_pods(4), 1);
    assert_eq!(canary(Amount::Percent(1)).sufficient_pods(4), 1);
    assert_eq!(canary(Amount::Percent(50)).sufficient_pods(5), 3);
    assert_eq!(canary(Amount::Pods(100)).sufficient_pods(4), 4);
    assert_eq!(canary(Amount::Percent(50)).sufficient_pods(0), 0);
}

#[test]
fn a_canary_without_an_available_pod_gets_no_requests_whatever_the_threshold() {
    let wanted = with_threshold(plan(4, vec![weight(50)]), Some(Amount::Percent(1)));
    let mut world = World::stable(wanted);
    world.pods.insert(rev("v2"), Pods::NeverReady);
    world.release("v2");
    world.run_for(secs(300));
    assert!(world.share().is_zero());
}

#[test]
fn each_side_with_requests_has_the_minimum_of_pods() {
    let wanted = edit(
        plan(10, vec![weight(5), Step::Pause(None), weight(95), wait(60)]),
        |canary| {
            canary.min_pods_per_replica_set = 3;
            canary.dynamic_stable_scale = true;
        },
    );
    let mut world = World::stable(wanted);
    world.release("v2");
    world.run_until_at(5);
    assert_eq!(world.desired("v2"), 3);
    world.command("go", serin_core::command::Verb::Promote);
    world.run_until_at(95);
    world.run_for(secs(10));
    assert_eq!((world.desired("v1"), world.desired("v2")), (3, 10));
    world.run_until_stable("v2");
    world.run_for(secs(60));
    assert_eq!((world.desired("v1"), world.desired("v2")), (0, 10));
    world.assert_no_lost_requests();
}

#[test]
fn the_minimum_of_pods_is_at_most_replicas() {
    let wanted = edit(plan(2, vec![weight(5), Step::Pause(None)]), |canary| {
        canary.min_pods_per_replica_set = 3;
    });
    let mut world = World::stable(wanted);
    world.release("v2");
    world.run_until_at(5);
    assert_eq!((world.desired("v1"), world.desired("v2")), (2, 2));
}

#[test]
fn a_release_without_progress_is_reported_and_waits_if_it_is_not_to_be_aborted() {
    let mut wanted = plan(4, vec![weight(50), wait(10)]);
    wanted.progress_deadline_abort = false;
    let mut world = World::stable(wanted);
    world.pods.insert(rev("v2"), Pods::NeverReady);
    world.release("v2");
    world.run_for(secs(590));
    assert_eq!(world.state.phase, Phase::Progressing);
    world.run_for(secs(3_600));
    assert_eq!(
        (world.state.stage, world.state.phase),
        (Stage::Progressing, Phase::Degraded)
    );
    assert!(
        world
            .state
            .message
            .contains("not within the progress deadline of 600 s"),
        "{}",
        world.state.message
    );
    assert_eq!(world.events_of("ProgressDeadlineExceeded").len(), 1);
    assert_eq!(world.share(), Weight::ZERO);

    world.pods.remove(&rev("v2"));
    world.run_until_stable("v2");
    world.run_for(secs(60));
    assert_eq!(world.state.phase, Phase::Healthy);
}

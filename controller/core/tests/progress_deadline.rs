//! Tests of the progress deadline, for problems that users of other controllers reported. Tests cite
//! their source.

mod world;

use std::time::Duration;

use serin_core::plan::{EvidencePace, Pace};
use serin_core::state::{Phase, Stage};
use serin_core::units::Weight;
use world::{Pods, World, analysed, edit, plan, rev, secs, unrouted, wait, weight};

const HALF: Weight = Weight::percent(50);

/// A release at 50 % without a verdict, paced by evidence, with a progress deadline of 20 s.
fn paced_release(replicas: u32) -> World {
    let pace = EvidencePace {
        first_weight: HALF,
        max_weight: HALF,
    };
    let mut wanted = edit(analysed(plan(replicas, vec![])), |canary| {
        canary.pace = Pace::Evidence(pace);
    });
    wanted.progress_deadline = secs(20);
    let mut world = World::stable(wanted);
    world.release_to("v2", 50);
    world.run_for(secs(40));
    world.shares.clear();
    world
}

// flagger #944: an autoscaler raises the number of pods, and the deadline rolls a good canary back.
#[test]
fn raising_replicas_does_not_make_a_release_overdue() {
    let mut world = paced_release(4);
    for replicas in [8, 12, 40] {
        world.plan.replicas = replicas;
        world.run_for(secs(25));
        assert_eq!(
            (world.state.stage, world.abort_cause()),
            (Stage::Progressing, None),
            "{}",
            world.state.message
        );
    }
    assert_eq!(world.desired("v2"), 20);
    assert!(
        world.shares.is_empty(),
        "the verified pods still serve the traffic: {:?}",
        world.shares
    );
    // Pods that never start do not hold a step that was complete without them.
    world.pod_start.insert(rev("v2"), secs(100_000));
    world.plan.replicas = 80;
    world.run_for(secs(300));
    assert_eq!(
        (world.state.stage, world.share()),
        (Stage::Progressing, HALF),
        "{}",
        world.state.message
    );
    world.assert_no_lost_requests();
}

// argo-rollouts #1624, #2068: long after the last progress a pod is replaced.
#[test]
fn a_pod_replaced_long_after_the_last_progress_is_not_overdue() {
    let mut world = paced_release(4);
    world.replace_pod("v2");
    world.settle();
    assert_eq!(
        (world.state.stage, world.share()),
        (Stage::Progressing, Weight::percent(25)),
        "{}",
        world.state.message
    );
    world.run_for(secs(10));
    assert_eq!(
        (world.state.stage, world.share()),
        (Stage::Progressing, HALF)
    );
    world.assert_no_lost_requests();
}

// The same problem in a release with steps: the step has been complete for an hour when the
// controller restarts and a pod is deleted.
#[test]
fn a_disturbance_after_a_controller_restart_is_not_overdue() {
    let mut world = paced_release(4);
    world.run_for(secs(3_600));
    world.restart();
    world.run_for(secs(60));
    world.replace_pod("v2");
    world.run_for(secs(60));
    assert_eq!(
        world.state.stage,
        Stage::Progressing,
        "{}",
        world.state.message
    );
}

// gatewayapi plugin PR #164: somebody edits the route, so its newest generation is briefly
// unconfirmed.
#[test]
fn a_route_that_is_confirmed_again_is_not_overdue() {
    let mut world = paced_release(4);
    world.unconfirmed = true;
    world.run_for(secs(5));
    world.unconfirmed = false;
    world.run_for(secs(30));
    assert_eq!(
        world.state.stage,
        Stage::Progressing,
        "{}",
        world.state.message
    );
    world.route = Ok(Weight::percent(10));
    world.run_for(secs(30));
    assert_eq!(
        (world.state.stage, world.share()),
        (Stage::Progressing, HALF),
        "restored: {}",
        world.state.message
    );
    assert_eq!(world.events_of("RouteDrift").len(), 1);
}

#[test]
fn a_lasting_disturbance_has_the_full_deadline_and_no_more() {
    let mut world = paced_release(4);
    world.pod_start.insert(rev("v2"), secs(100_000));
    world.replace_pod("v2");
    world.run_for(secs(19));
    assert_eq!(world.state.stage, Stage::Progressing);
    world.run_for(secs(2));
    assert_eq!(world.abort_cause(), Some("ProgressDeadline"));
}

// Kubernetes' progressDeadlineSeconds: each pod that becomes available is progress.
#[test]
fn progress_renews_the_deadline() {
    let mut wanted = plan(4, vec![weight(100)]);
    wanted.progress_deadline = secs(20);
    let mut world = World::stable(wanted);
    world.stagger = secs(15);
    world.release("v2");
    world.run_until_stable("v2");
    world.assert_no_lost_requests();
}

#[test]
fn a_promotion_that_keeps_advancing_may_exceed_the_deadline() {
    for routed in [true, false] {
        let steps = vec![weight(25), wait(5)];
        let mut wanted = if routed {
            plan(8, steps)
        } else {
            unrouted(8, steps, 1, 0)
        };
        wanted.progress_deadline = secs(20);
        let mut world = World::stable(wanted);
        world.stagger = secs(15);
        world.pod_start.insert(rev("v2"), secs(15));
        world.release("v2");
        world.run_until_stable("v2");
        world.assert_no_lost_requests();
    }
}

// Documentation of argo-rollouts and behavior of a Deployment: flapping pods are no progress.
#[test]
fn flapping_pods_do_not_renew_the_deadline() {
    let mut wanted = plan(4, vec![weight(50), wait(600)]);
    wanted.progress_deadline = secs(60);
    let mut world = World::stable(wanted);
    world.release("v2");
    let began = world.now;
    for _ in 0..100 {
        world.pods.insert(rev("v2"), Pods::NeverReady);
        world.run_for(secs(2));
        world.pods.remove(&rev("v2"));
        world.run_for(Duration::from_millis(1_500));
        if world.state.stage != Stage::Progressing {
            break;
        }
    }
    assert_eq!(
        world.abort_cause(),
        Some("ProgressDeadline"),
        "{}",
        world.state.message
    );
    let took = world.now.duration_since(began).as_secs();
    assert!((60..140).contains(&took), "{took} s");
}

#[test]
fn a_state_that_flaps_after_it_was_reached_becomes_overdue() {
    let mut world = paced_release(4);
    for _ in 0..10 {
        world.pods.insert(rev("v2"), Pods::NeverReady);
        world.run_for(secs(3));
        world.pods.remove(&rev("v2"));
        world.run_for(secs(3));
    }
    assert_eq!(
        world.abort_cause(),
        Some("ProgressDeadline"),
        "{}",
        world.state.message
    );
}

#[test]
fn a_manual_hold_does_not_exceed_the_deadline() {
    let mut wanted = plan(4, vec![weight(100), wait(5)]);
    wanted.progress_deadline = secs(20);
    let mut world = World::stable(wanted);
    world.pod_start.insert(rev("v2"), secs(100));
    world.release("v2");
    world.run_for(secs(10));
    world.plan.paused = true;
    world.run_for(secs(85));
    world.plan.paused = false;
    world.run_for(secs(10));
    assert_eq!(world.abort_cause(), None, "{}", world.state.message);
    world.run_until_stable("v2");
}

#[test]
fn the_first_deploy_is_overdue_only_without_progress() {
    let mut wanted = plan(4, vec![weight(50)]);
    wanted.progress_deadline = secs(20);
    let mut world = World::new(wanted);
    world.stagger = secs(15);
    for _ in 0..40 {
        world.run_for(secs(1));
        assert_ne!(
            world.state.phase,
            Phase::Degraded,
            "{}",
            world.state.message
        );
    }
}

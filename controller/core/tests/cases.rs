//! Tests of the planner on a simulated cluster.

mod world;

use serin_core::command::{CommandResult, Verb};
use serin_core::hold::HoldCode;
use serin_core::plan::{CanaryScale, Step};
use serin_core::state::{Phase, ReleaseResult, Stage};
use serin_core::units::Weight;
use world::{
    Pods, World, analysed, edit, hold, plan, rev, roll_back, secs, undecided, unrouted, wait,
    weight,
};

#[test]
fn first_deploy_is_stable_without_steps_once_available() {
    let mut world = World::new(plan(3, vec![weight(5), Step::Pause(None)]));
    world.run_for(secs(2));
    assert_eq!(world.state.stage, Stage::FirstDeploy);
    assert_eq!(world.state.stable_revision, None);
    world.run_for(secs(10));
    assert_eq!(
        (world.state.stage, world.state.phase),
        (Stage::Stable, Phase::Healthy)
    );
    assert_eq!(world.desired("v1"), 3);
    assert!(
        world.shares.is_empty(),
        "the first deploy does not write the route"
    );
}

#[test]
fn broken_first_revision_is_fixed_forward() {
    let mut world = World::new(plan(2, vec![weight(50)]));
    world.pods.insert(rev("v1"), Pods::CrashLoop);
    world.pods.insert(rev("v2"), Pods::NeverReady);
    world.run_for(secs(700));
    assert_eq!(world.state.phase, Phase::Degraded);
    world.release("v2");
    world.run_for(secs(60));
    world.release("v3");
    world.run_for(secs(60));
    assert_eq!(world.state.stable_revision, Some(rev("v3")));
    assert_eq!(
        (
            world.desired("v1"),
            world.desired("v2"),
            world.desired("v3")
        ),
        (0, 0, 2)
    );
}

#[test]
fn a_good_release_goes_through_its_steps_and_is_promoted() {
    let mut world = World::stable(plan(4, vec![weight(25), wait(60), weight(50), wait(60)]));
    world.release("v2");
    world.run_until("at 25 %", |world| {
        world.state.weights.verified == Some(Weight::percent(25))
    });
    assert_eq!(world.desired("v2"), 1);
    world.run_until("at 50 %", |world| {
        world.state.weights.verified == Some(Weight::percent(50))
    });
    assert_eq!((world.desired("v1"), world.desired("v2")), (4, 2));
    world.run_until("promoted", |world| {
        world.state.stable_revision == Some(rev("v2"))
    });
    world.run_for(secs(20));
    assert_eq!(world.state.phase, Phase::Healthy);
    assert_eq!(
        world.share(),
        Weight::ZERO,
        "the route has its original weights"
    );
    assert_eq!(world.stable_service, Some(rev("v2")));
    assert_eq!(world.desired("v1"), 4, "old pods stay for their delay");
    world.run_for(secs(40));
    assert_eq!((world.desired("v1"), world.desired("v2")), (0, 4));
    world.assert_no_lost_requests();
    let shares: Vec<_> = world.shares.iter().map(|(_, share, _)| *share).collect();
    assert_eq!(shares, [25, 50, 100, 0].map(Weight::percent));
}

#[test]
fn a_release_needs_few_writes() {
    let mut world = World::stable(edit(
        unrouted(1, vec![weight(20), wait(5), weight(50), wait(5)], 1, 0),
        |_| {},
    ));
    world.release("v2");
    world.run_until("stable", |world| {
        world.state.stable_revision == Some(rev("v2"))
    });
    world.run_for(secs(120));
    let events = world.events.len();
    let writes = world.status_writes + world.set_writes + events;
    assert!(
        writes <= 14,
        "{} status, {} ReplicaSets, {events} Events",
        world.status_writes,
        world.set_writes
    );
}

#[test]
fn a_breach_rolls_back_with_the_reason_and_scales_down_after_the_drain() {
    let mut world = World::stable(analysed(plan(4, vec![weight(25), wait(600)])));
    world.report = undecided(&world);
    world.release("v2");
    world.run_until("at 25 %", |world| {
        world.state.weights.verified == Some(Weight::percent(25))
    });
    world.report = roll_back("the canary failed 24 of 3,000.");
    world.settle();
    assert_eq!(world.share(), Weight::ZERO, "within the same reconcile");
    assert_eq!(world.state.phase, Phase::Degraded);
    assert!(
        world
            .state
            .message
            .contains("24 of 3,000. Stable v1 serves"),
        "{}",
        world.state.message
    );
    assert_eq!(world.events_of("RolledBack").len(), 1);
    assert_eq!(world.desired("v2"), 1);
    world.run_for(secs(60));
    assert_eq!((world.desired("v1"), world.desired("v2")), (4, 0));
    world.assert_no_lost_requests();
}

#[test]
fn a_canary_that_never_becomes_ready_times_out_and_gets_no_request() {
    let mut world = World::stable(plan(4, vec![weight(25), wait(60)]));
    world.pods.insert(rev("v2"), Pods::NeverReady);
    world.release("v2");
    world.run_for(secs(599));
    assert_eq!(world.state.stage, Stage::Progressing);
    world.run_for(secs(60));
    assert_eq!(
        world.state.abort.as_ref().map(|abort| abort.cause.as_str()),
        Some("ProgressDeadline")
    );
    assert!(
        world.shares.is_empty(),
        "it never got a request: {:?}",
        world.shares
    );
    assert_eq!(world.desired("v2"), 0);
}

// argo-rollouts #4642: a `setCanaryScale` after a `setWeight` briefly sent all traffic to stable.
#[test]
fn a_canary_scale_after_a_weight_keeps_the_split() {
    let scale = |percent| Step::SetCanaryScale(CanaryScale::Weight(Weight::percent(percent)));
    let steps = vec![
        scale(50),
        weight(50),
        wait(5),
        scale(100),
        Step::Pause(None),
    ];
    let mut world = World::stable(plan(4, steps));
    world.release("v2");
    world.run_until("at 50 %", |world| {
        world.state.weights.verified == Some(Weight::percent(50))
    });
    assert_eq!(world.desired("v2"), 2);
    world.run_until("at the pause", |world| {
        world.state.step.is_some_and(|step| step.index == 4)
    });
    world.run_for(secs(30));
    assert_eq!((world.desired("v1"), world.desired("v2")), (4, 4));
    let shares: Vec<_> = world.shares.iter().map(|(_, share, _)| *share).collect();
    assert_eq!(shares, [Weight::percent(50)], "the split is written once");
    assert_eq!(world.state.weights.verified, Some(Weight::percent(50)));
    world.assert_no_lost_requests();
}

#[test]
fn a_crash_loop_aborts_through_the_pods_alone() {
    let mut world = World::stable(plan(5, vec![weight(20), wait(600)]));
    world.release("v2");
    world.run_until("at 20 %", |world| {
        world.state.weights.verified == Some(Weight::percent(20))
    });
    world.pods.insert(rev("v2"), Pods::CrashLoop);
    world.settle();
    assert_eq!(
        world.state.abort.as_ref().map(|abort| abort.cause.as_str()),
        Some("PodCrash")
    );
    assert_eq!(world.share(), Weight::ZERO);
}

#[test]
fn v3_during_v2_starts_at_step_0_after_v2_has_lost_its_traffic() {
    let mut world = World::stable(plan(4, vec![weight(50), wait(600)]));
    world.release("v2");
    world.run_until("at 50 %", |world| {
        world.state.weights.verified == Some(Weight::percent(50))
    });
    world.release("v3");
    world.settle();
    assert_eq!(world.share(), Weight::ZERO);
    assert_eq!(
        world.canary_service,
        Some(rev("v2")),
        "the canary Service is bound to v3 when v2 has no traffic"
    );
    assert_eq!(world.desired("v2"), 2, "its pods are removed afterwards");
    assert_eq!(world.state.step.map(|step| step.index), Some(0));
    assert_eq!(world.state.stable_revision, Some(rev("v1")));
    world.run_until("v3 at 50 %", |world| {
        world.state.weights.verified == Some(Weight::percent(50))
    });
    assert_eq!(world.canary_service, Some(rev("v3")));
    world.run_for(secs(60));
    assert_eq!(world.desired("v2"), 0);
    assert_eq!(
        world.state.history.last().map(|release| release.result),
        Some(ReleaseResult::Superseded)
    );
    world.assert_no_lost_requests();
}

#[test]
fn git_revert_to_stable_aborts_at_once_without_analysis() {
    let mut world = World::stable(analysed(plan(4, vec![weight(50), wait(600)])));
    world.report = undecided(&world);
    world.release("v2");
    world.run_until("at 50 %", |world| {
        world.state.weights.verified == Some(Weight::percent(50))
    });
    world.report = hold(HoldCode::Unreachable);
    world.release("v1");
    world.settle();
    assert_eq!(
        (world.state.stage, world.share()),
        (Stage::Stable, Weight::ZERO)
    );
    world.run_for(secs(60));
    assert_eq!(world.state.phase, Phase::Healthy);
    assert_eq!(world.desired("v2"), 0);
    world.assert_no_lost_requests();
}

#[test]
fn a_return_inside_the_rollback_window_skips_the_steps_and_outside_runs_them() {
    let mut wanted = plan(2, vec![weight(50), Step::Pause(None)]);
    wanted.rollback_window = 1;
    let mut world = World::stable(wanted);
    for version in ["v2", "v3"] {
        world.release(version);
        world.run_until("paused", |world| world.state.pause.is_some());
        assert_eq!(
            world.command(version, Verb::Promote).result,
            CommandResult::Done
        );
        world.run_until("stable", |world| {
            world.state.stable_revision == Some(rev(version))
        });
        world.run_for(secs(60));
    }
    world.release("v1");
    world.run_for(secs(60));
    assert_eq!(
        world.state.stage,
        Stage::Progressing,
        "two revisions back is outside of a window of one"
    );
    world.release("v3");
    world.run_for(secs(60));
    world.release("v2");
    world.run_until("v2 again", |world| {
        world.state.stable_revision == Some(rev("v2"))
    });
    world.assert_no_lost_requests();
}

#[test]
fn edited_steps_restart_from_a_weight_that_is_no_higher() {
    let mut world = World::stable(plan(10, vec![weight(20), wait(600)]));
    world.release("v2");
    world.run_until("at 20 %", |world| {
        world.state.weights.verified == Some(Weight::percent(20))
    });
    world.shares.clear();
    world.plan = plan(10, vec![weight(10), wait(600)]);
    world.run_for(secs(30));
    assert_eq!(world.state.weights.verified, Some(Weight::percent(10)));
    world.plan = plan(10, vec![weight(80), wait(600)]);
    world.run_for(secs(60));
    assert_eq!(world.state.weights.verified, Some(Weight::percent(80)));
    let shares: Vec<_> = world.shares.iter().map(|(_, share, _)| *share).collect();
    assert_eq!(
        shares,
        [10, 0, 80].map(Weight::percent),
        "a higher weight is reached from zero"
    );
    world.assert_no_lost_requests();
}

#[test]
fn template_and_replicas_changed_in_one_apply_both_take_effect() {
    let mut world = World::stable(plan(2, vec![weight(50), Step::Pause(None)]));
    world.plan = plan(6, vec![weight(50), Step::Pause(None)]);
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    assert_eq!((world.desired("v1"), world.desired("v2")), (6, 3));
}

#[test]
fn scaling_while_paused_keeps_the_traffic_and_the_step() {
    let mut world = World::stable(plan(4, vec![weight(25), Step::Pause(None)]));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    let step = world.state.step;
    world.plan = plan(12, vec![weight(25), Step::Pause(None)]);
    world.run_for(secs(30));
    assert_eq!((world.desired("v1"), world.desired("v2")), (12, 3));
    assert_eq!(
        (world.state.step, world.share()),
        (step, Weight::percent(25))
    );
    let lowest = world.shares.iter().map(|(_, share, _)| *share).min();
    assert_eq!(
        lowest,
        Some(Weight::percent(25)),
        "a scale change takes no traffic from the canary"
    );
    world.assert_no_lost_requests();
}

#[test]
fn without_a_router_weights_are_approximated_within_surge_and_availability() {
    let mut world = World::stable(unrouted(10, vec![weight(30), Step::Pause(None)], 0, 5));
    world.release("v2");
    world.reconcile();
    assert_eq!(
        (world.desired("v2"), world.desired("v1")),
        (0, 7),
        "3/7 is reached through 0/7"
    );
    world.run_until("paused", |world| world.state.pause.is_some());
    assert_eq!((world.desired("v2"), world.desired("v1")), (3, 7));

    let mut world = World::stable(unrouted(10, vec![weight(30), Step::Pause(None)], 3, 0));
    world.release("v2");
    world.settle();
    assert_eq!(
        (world.desired("v2"), world.desired("v1")),
        (3, 10),
        "3/10 in between"
    );
    world.run_until("paused", |world| world.state.pause.is_some());
    assert_eq!((world.desired("v2"), world.desired("v1")), (3, 7));

    let mut world = World::stable(unrouted(1, vec![weight(5), Step::Pause(None)], 1, 0));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    assert_eq!((world.desired("v2"), world.desired("v1")), (1, 1));
}

#[test]
fn zero_replicas_is_an_explicit_state() {
    let mut world = World::stable(plan(2, vec![weight(50), Step::Pause(None)]));
    world.plan = plan(0, vec![weight(50), Step::Pause(None)]);
    world.run_for(secs(10));
    assert_eq!(world.desired("v1"), 0);
    world.release("v2");
    world.run_for(secs(60));
    assert_eq!(world.state.stable_revision, Some(rev("v2")));
    assert!(
        world
            .events_of("PromotedWithoutTraffic")
            .iter()
            .any(|event| event.contains("without analysis"))
    );
}

#[test]
fn descending_steps_lower_the_weight_before_the_canary_shrinks() {
    let mut world = World::stable(plan(
        10,
        vec![weight(50), wait(10), weight(20), Step::Pause(None)],
    ));
    world.release("v2");
    world.run_until("at 50 %", |world| {
        world.state.weights.verified == Some(Weight::percent(50))
    });
    world.run_until("desired 20 %", |world| world.share() == Weight::percent(20));
    assert_eq!(world.desired("v2"), 5);
    world.run_until("paused", |world| {
        world
            .state
            .pause
            .as_ref()
            .is_some_and(|pause| pause.until.is_none())
    });
    assert_eq!(world.desired("v2"), 2);
}

#[test]
fn stable_scales_up_before_traffic_returns_to_it() {
    let wanted = edit(plan(10, vec![weight(60), wait(600)]), |canary| {
        canary.dynamic_stable_scale = true;
    });
    let mut world = World::stable(wanted);
    world.release("v2");
    world.run_until("stable has shrunk", |world| world.desired("v1") == 4);
    assert_eq!(world.command("1", Verb::Abort).result, CommandResult::Done);
    assert_eq!(world.desired("v1"), 10, "stable scales up at once");
    assert_eq!(
        world.share(),
        Weight::percent(60),
        "four of ten pods carry forty percent"
    );
    world.run_for(secs(10));
    assert_eq!(world.share(), Weight::ZERO);
    world.assert_no_lost_requests();
}

#[test]
fn canary_scale_is_independent_of_the_weight() {
    let scale = Step::SetCanaryScale(CanaryScale::Replicas(3));
    let mut world = World::stable(plan(10, vec![scale, weight(10), Step::Pause(None)]));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    assert_eq!(
        (world.desired("v2"), world.share()),
        (3, Weight::percent(10))
    );
}

#[test]
fn a_route_changed_by_someone_else_is_restored_and_reported_once() {
    let mut world = World::stable(plan(4, vec![weight(25), Step::Pause(None)]));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    world.route = Ok(Weight::percent(90));
    world.settle();
    assert_eq!(world.share(), Weight::percent(25));
    assert_eq!(world.events_of("RouteDrift").len(), 1);
    world.run_for(secs(10));
    assert_eq!(world.state.weights.verified, Some(Weight::percent(25)));
}

#[test]
fn an_unreported_generation_is_trusted_after_the_deadline() {
    let mut world = World::stable(plan(4, vec![weight(25), Step::Pause(None)]));
    world.reports = false;
    world.run_for(secs(20));
    world.release("v2");
    world.run_until("written", |world| world.share() == Weight::percent(25));
    world.run_for(secs(8));
    assert_eq!(world.state.weights.verified, None);
    world.run_for(secs(4));
    assert_eq!(world.state.weights.verified, Some(Weight::percent(25)));
}

#[test]
fn old_replica_sets_are_kept_up_to_the_history_limit() {
    let mut world = World::stable(plan(1, vec![weight(50)]));
    for version in ["v2", "v3", "v4", "v5", "v6", "v7"] {
        world.release(version);
        world.run_until("stable", |world| {
            world.state.stable_revision == Some(rev(version))
        });
        world.run_for(secs(60));
    }
    let left: Vec<_> = world.sets.keys().map(ToString::to_string).collect();
    assert_eq!(
        left,
        ["v4", "v5", "v6", "v7"],
        "three old ReplicaSets and the stable one"
    );
    world.assert_no_lost_requests();
}

// Each release is superseded or aborted, so that the Rollout never becomes stable again.
#[test]
fn old_replica_sets_do_not_accumulate_while_no_release_is_completed() {
    let mut world = World::stable(plan(1, vec![weight(50), Step::Pause(None)]));
    for number in 2..12 {
        let version = format!("v{number}");
        world.release(&version);
        world.run_until("paused", |world| world.state.pause.is_some());
        if number % 2 == 0 {
            world.command(&version, Verb::Abort);
        }
        world.run_for(secs(60));
        let sets = world.sets.len();
        assert!(
            sets <= 5,
            "three old ReplicaSets, the stable and the current one, not {sets}"
        );
    }
    assert!(world.sets.contains_key(&rev("v1")), "v1 is stable");
    world.assert_no_lost_requests();
}

// The oldest ReplicaSet is that of the current revision, which was aborted.
#[test]
fn the_replica_set_of_an_aborted_revision_is_kept_for_a_retry() {
    let mut world = World::stable(plan(1, vec![weight(50), Step::Pause(None)]));
    for (uid, version) in ["v2", "v3", "v4", "v5", "v2"].into_iter().enumerate() {
        world.release(version);
        world.run_until("paused", |world| world.state.pause.is_some());
        world.command(&uid.to_string(), Verb::Abort);
        world.run_for(secs(60));
    }
    assert!(
        world.sets.contains_key(&rev("v2")),
        "{:?}",
        world.sets.keys()
    );
}

#[test]
fn a_release_is_not_overdue_right_after_a_controller_restart() {
    let mut world = World::stable(plan(4, vec![weight(50), wait(5)]));
    world.release("v2");
    world.run_until("written", |world| world.share() == Weight::percent(50));
    world.now = world.now.checked_add(secs(3_600)).unwrap();
    world.restart();
    world.run_for(secs(60));
    assert_eq!(
        world.state.stable_revision,
        Some(rev("v2")),
        "{}",
        world.state.message
    );
}

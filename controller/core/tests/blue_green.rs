//! Blue/green: the new side is complete before the switch, the old one stays for its delay, and no
//! request is lost at any moment.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use serin_core::command::{CommandResult, Verb};
use serin_core::hold::HoldCode;
use serin_core::plan::{Plan, Step};
use serin_core::state::{Phase, Stage};
use serin_core::units::Weight;
use world::{
    POD_START, Pods, World, all_pods, baked, blue_green_kinds, frozen, preview, rev, roll_back,
    secs, strategies, undecided, wait,
};

fn active(world: &World) -> &str {
    world.stable_service.as_ref().unwrap().as_str()
}

fn shown(world: &World) -> &str {
    world.canary_service.as_ref().unwrap().as_str()
}

/// Whether the requests reach this revision: by the route if it is at 100 %, or by the Service.
fn serves(world: &World, revision: &str) -> bool {
    let by_route = world.plan.routing().is_some() && world.share() == Weight::FULL;
    if by_route {
        shown(world) == revision
    } else {
        active(world) == revision
    }
}

fn run_until_switched(world: &mut World, revision: &str) {
    world.run_until(&format!("{revision} has the traffic"), |world| {
        serves(world, revision)
    });
}

/// Runs until the release bakes after the switch.
fn run_until_baking(world: &mut World) {
    world.run_until("baking", |world| world.state.bake.is_some());
}

/// A release of v2 in its bake of this number of seconds, undecided.
fn baking(plan: Plan, bake_seconds: u64) -> World {
    let mut world = World::stable(baked(plan, bake_seconds));
    world.report = undecided(&world);
    world.release("v2");
    run_until_baking(&mut world);
    world
}

/// One of the pods is not ready for a long time.
fn lose_a_pod(world: &mut World, revision: &str) {
    let set = world.sets.get_mut(&rev(revision)).unwrap();
    set.ready_at[0] = set.ready_at[0].checked_add(secs(100_000)).unwrap();
}

fn assert_only_whole_shares(world: &World) {
    let is_whole = |share: &Weight| share.is_zero() || *share == Weight::FULL;
    assert!(
        world.shares.iter().all(|(_, share, _)| is_whole(share)),
        "{:?}",
        world.shares
    );
}

#[test]
fn the_preview_is_complete_before_the_switch_and_the_old_side_stays_for_its_delay() {
    for plan in blue_green_kinds(4, &[all_pods()]) {
        let mut world = World::stable(plan);
        world.stagger = secs(5);
        world.release("v2");
        run_until_switched(&mut world, "v2");
        assert_eq!(world.available(&rev("v2")), 4);
        assert_eq!(world.desired("v1"), 4);
        world.run_until_stable("v2");
        world.run_for(secs(25));
        assert_eq!((world.desired("v1"), active(&world)), (4, "v2"));
        world.run_for(secs(20));
        assert_eq!((world.desired("v1"), world.desired("v2")), (0, 4));
        assert_eq!((active(&world), shown(&world)), ("v2", "v2"));
        assert_only_whole_shares(&world);
        world.assert_no_lost_requests();
    }
}

#[test]
fn a_smaller_preview_gets_all_of_its_pods_before_the_switch() {
    for plan in blue_green_kinds(5, &[preview(1), Step::Pause(None), all_pods()]) {
        let mut world = World::stable(plan);
        world.release("v2");
        world.run_until_paused();
        world.run_for(secs(300));
        assert_eq!((world.desired("v2"), active(&world)), (1, "v1"));
        world.command("p", Verb::Promote);
        run_until_switched(&mut world, "v2");
        assert_eq!(world.available(&rev("v2")), 5);
        world.run_until_stable("v2");
        world.assert_no_lost_requests();
    }
}

#[test]
fn a_preview_never_has_more_pods_than_replicas() {
    for plan in blue_green_kinds(3, &[preview(5), Step::Pause(None), all_pods()]) {
        let mut world = World::stable(plan);
        world.release("v2");
        world.run_until_paused();
        assert_eq!(world.desired("v2"), 3);
        // An autoscaler changes `replicas` while the preview waits.
        world.plan.replicas = 2;
        world.run_for(secs(30));
        assert_eq!(world.desired("v2"), 2);
        world.command("p", Verb::Promote);
        world.run_until_stable("v2");
        world.assert_no_lost_requests();
    }
}

#[test]
fn a_service_without_error_budget_is_not_switched_until_it_recovers_or_somebody_decides() {
    for lifts in [true, false] {
        for plan in blue_green_kinds(3, &[all_pods()]) {
            let mut world = World::stable(baked(plan, 60));
            world.report = frozen("the active revision is burning the error budget");
            world.release("v2");
            world.run_for(secs(300));
            assert_eq!((active(&world), world.available(&rev("v2"))), ("v1", 3));
            assert!(
                world.state.message.contains("is burning"),
                "{}",
                world.state.message
            );
            let codes: Vec<_> = world.state.holds.iter().map(|hold| hold.code).collect();
            assert_eq!(codes, [world.report.as_ref().unwrap().holds[0].code]);
            assert!(world.refused("p", Verb::PromoteFull).contains("frozen"));
            if lifts {
                let lifted = world.command("o", Verb::Override);
                assert_eq!(lifted.result, CommandResult::Done, "{}", lifted.message);
            }
            world.report = undecided(&world);
            run_until_switched(&mut world, "v2");
            world.assert_no_lost_requests();
        }
    }
}

#[test]
fn the_preview_service_selects_the_new_revision_from_its_first_pod_on() {
    for plan in blue_green_kinds(3, &[all_pods(), Step::Pause(None)]) {
        let mut world = World::stable(plan);
        assert_eq!(shown(&world), "v1", "without a release");
        world.stagger = secs(30);
        world.release("v2");
        world.run_for(POD_START + secs(4));
        assert_eq!(world.available(&rev("v2")), 1);
        assert_eq!((active(&world), shown(&world)), ("v1", "v2"));
        world.run_for(secs(120));
        world.command("a", Verb::Abort);
        world.run_for(secs(20));
        assert_eq!(shown(&world), "v1", "after an abort");
        world.assert_no_lost_requests();
    }
}

#[test]
fn it_waits_for_a_person_or_for_a_time() {
    for plan in blue_green_kinds(2, &[all_pods(), Step::Pause(None)]) {
        let mut world = World::stable(plan);
        world.release("v2");
        world.run_for(secs(7_200));
        assert_eq!((world.state.phase, active(&world)), (Phase::Paused, "v1"));
        assert!(
            world.state.message.contains("waiting for promotion"),
            "{}",
            world.state.message
        );
        world.command("full", Verb::PromoteFull);
        world.run_until_stable("v2");
        world.assert_no_lost_requests();
    }
    for plan in blue_green_kinds(2, &[all_pods(), wait(60)]) {
        let mut world = World::stable(plan);
        world.release("v2");
        world.run_for(secs(55));
        assert_eq!(active(&world), "v1");
        world.run_until_stable("v2");
        world.assert_no_lost_requests();
    }
}

#[test]
fn an_abort_before_the_switch_removes_the_preview_after_its_delay() {
    for plan in blue_green_kinds(3, &[all_pods(), Step::Pause(None)]) {
        let mut world = World::stable(plan);
        world.release("v2");
        world.run_until_paused();
        world.command("a", Verb::Abort);
        world.run_for(secs(25));
        assert_eq!((world.desired("v2"), active(&world)), (3, "v1"));
        world.run_for(secs(20));
        assert_eq!((world.desired("v2"), world.desired("v1")), (0, 3));
        assert!(world.shares.is_empty(), "the traffic never moved");
        world.assert_no_lost_requests();
    }
}

#[test]
fn a_preview_that_never_becomes_ready_is_aborted_with_the_active_side_untouched() {
    for plan in blue_green_kinds(3, &[all_pods()]) {
        let mut world = World::stable(plan);
        world.pods.insert(rev("v2"), Pods::NeverReady);
        world.release("v2");
        world.run_until("aborted", |world| world.state.stage == Stage::Aborted);
        assert_eq!(world.abort_cause(), Some("ProgressDeadline"));
        assert_eq!((active(&world), world.desired("v1")), ("v1", 3));
        world.assert_no_lost_requests();
    }
}

#[test]
fn a_breach_in_the_bake_switches_back_at_once() {
    for plan in blue_green_kinds(4, &[all_pods()]) {
        let mut world = baking(plan, 600);
        assert!(serves(&world, "v2") && world.desired("v1") == 4);
        assert!(
            world.state.message.contains("after the switch"),
            "{}",
            world.state.message
        );
        world.report = roll_back("breach");
        world.settle();
        assert!(serves(&world, "v1"), "in the same decision");
        world.run_for(secs(120));
        assert_eq!((world.desired("v1"), world.desired("v2")), (4, 0));
        assert_eq!((active(&world), shown(&world)), ("v1", "v1"));
        assert_only_whole_shares(&world);
        world.assert_no_lost_requests();
    }
}

#[test]
fn an_abort_while_the_old_side_is_kept_switches_back() {
    for plan in blue_green_kinds(4, &[all_pods()]) {
        let mut world = World::stable(plan);
        world.release("v2");
        world.run_until_stable("v2");
        world.run_for(secs(10));
        assert!(
            world.state.message.contains("an abort switches back"),
            "{}",
            world.state.message
        );
        world.command("a", Verb::Abort);
        assert_eq!((active(&world), world.state.stage), ("v1", Stage::Aborted));
        assert_eq!(world.state.stable_revision, Some(rev("v1")));
        world.run_for(secs(300));
        assert_eq!((world.desired("v1"), world.desired("v2")), (4, 0));
        assert_eq!((active(&world), shown(&world)), ("v1", "v1"));
        world.command("r", Verb::Retry);
        world.run_until_stable("v2");
        world.assert_no_lost_requests();
    }
}

/// More often than the history has entries.
#[test]
fn each_of_many_aborts_switches_back_to_the_side_that_was_replaced() {
    for plan in blue_green_kinds(2, &[all_pods()]) {
        let mut world = World::stable(plan);
        for (number, version) in ["v2", "v3", "v4", "v5", "v6", "v7", "v8"]
            .into_iter()
            .enumerate()
        {
            world.release(version);
            world.run_until_stable(version);
            world.command(&number.to_string(), Verb::Abort);
            world.run_for(secs(2));
            assert_eq!((active(&world), shown(&world)), ("v1", "v1"), "{version}");
            assert_eq!(world.state.stable_revision, Some(rev("v1")));
        }
        world.assert_no_lost_requests();
    }
}

#[test]
fn an_abort_after_the_old_side_is_gone_changes_nothing() {
    for plan in blue_green_kinds(2, &[all_pods()]) {
        let mut world = World::stable(plan);
        world.release("v2");
        world.run_until_stable("v2");
        world.run_for(secs(60));
        let outcome = world.command("a", Verb::Abort);
        assert_eq!(outcome.result, CommandResult::Done);
        assert!(
            outcome.message.contains("nothing to abort"),
            "{}",
            outcome.message
        );
        assert_eq!((active(&world), world.desired("v2")), ("v2", 2));
    }
}

#[test]
fn the_old_side_is_complete_before_it_is_switched_back_to() {
    for plan in blue_green_kinds(4, &[all_pods()]) {
        let mut world = baking(plan, 600);
        // Somebody scaled it down.
        let set = world.sets.get_mut(&rev("v1")).unwrap();
        set.desired = 1;
        set.ready_at.truncate(1);
        world.report = roll_back("breach");
        world.settle();
        assert!(
            serves(&world, "v2"),
            "one pod cannot carry the requests of four"
        );
        assert_eq!(world.desired("v1"), 4);
        world.run_for(POD_START + secs(1));
        assert!(serves(&world, "v1"));
        world.assert_no_lost_requests();
    }
}

#[test]
fn a_failed_side_that_loses_its_pods_is_left_without_waiting() {
    for plan in blue_green_kinds(4, &[all_pods()]) {
        let mut world = baking(plan, 600);
        lose_a_pod(&mut world, "v1");
        world.report = roll_back("breach");
        world.settle();
        assert!(serves(&world, "v2"), "a pod of v1 is missing");
        lose_a_pod(&mut world, "v2");
        world.settle();
        assert!(serves(&world, "v1"), "it has as many pods as v2");
        world.assert_no_lost_requests();
    }
}

#[test]
fn a_missing_pod_delays_the_way_back_no_longer_than_the_progress_deadline() {
    for plan in blue_green_kinds(4, &[all_pods()]) {
        let mut world = baking(plan, 3_600);
        lose_a_pod(&mut world, "v1");
        world.report = roll_back("breach");
        world.run_for(secs(590));
        assert!(serves(&world, "v2"));
        world.run_for(secs(20));
        assert!(serves(&world, "v1"));
        world.assert_no_lost_requests();
    }
}

#[test]
fn a_newer_revision_during_the_bake_starts_from_the_stable_one() {
    for plan in blue_green_kinds(3, &[all_pods(), wait(5)]) {
        let mut world = baking(plan, 600);
        world.release("v3");
        world.report = undecided(&world);
        world.run_for(secs(4));
        assert!(serves(&world, "v1"), "v2 is superseded");
        run_until_switched(&mut world, "v3");
        world.run_for(secs(60));
        assert_eq!(world.desired("v2"), 0);
        world.run_until_stable("v3");
        assert_only_whole_shares(&world);
        world.assert_no_lost_requests();
    }
}

#[test]
fn a_return_to_the_old_revision_uses_the_pods_that_are_kept() {
    for plan in blue_green_kinds(3, &[all_pods()]) {
        let mut world = World::stable(plan);
        world.release("v2");
        world.run_until_stable("v2");
        let writes = world.set_writes;
        world.release("v1");
        world.run_until_stable("v1");
        assert_eq!(world.set_writes, writes, "no pod was created");
        world.run_for(secs(60));
        assert_eq!((world.desired("v1"), world.desired("v2")), (3, 0));
        world.assert_no_lost_requests();
    }
}

#[test]
fn missing_metrics_hold_the_bake_and_never_end_it() {
    for plan in blue_green_kinds(2, &[all_pods()]) {
        let mut world = baking(plan, 60);
        world.report = world::hold(HoldCode::Stale);
        world.run_for(secs(3_600));
        assert!(world.state.bake.is_some() && world.desired("v1") == 2);
        world.report = undecided(&world);
        world.run_until_stable("v2");
    }
}

#[test]
fn a_change_of_the_strategy_between_releases_loses_nothing() {
    for from in strategies(4) {
        for to in strategies(4) {
            // Seconds between the change and the next release. With 0 both come in one edit.
            for pause in [0, 30] {
                let mut world = World::stable(from.clone());
                world.plan = to.clone();
                world.run_for(secs(pause));
                assert_eq!((active(&world), world.desired("v1")), ("v1", 4));
                world.release("v2");
                world.run_until_stable("v2");
                assert_eq!(world.state.plan.as_ref().unwrap().spec, to);
                world.run_for(secs(60));
                assert_eq!((world.desired("v1"), world.desired("v2")), (0, 4));
                world.assert_no_lost_requests();
            }
        }
    }
}

#[test]
fn a_release_goes_on_with_its_strategy_and_the_change_counts_when_it_has_ended() {
    for from in strategies(4) {
        for to in strategies(4) {
            if from.is_blue_green() == to.is_blue_green() {
                continue;
            }
            for seconds in [0, 2, 6, 12, 20, 26, 30, 34, 40] {
                let mut world = World::stable(from.clone());
                world.release("v2");
                world.run_for(secs(seconds));
                let is_releasing = world.state.is_releasing();
                world.plan = to.clone();
                world.settle();
                if is_releasing && world.state.is_releasing() {
                    let active = &world.state.plan.as_ref().unwrap().spec;
                    assert_eq!(active.strategy, from.strategy, "after {seconds} s");
                    let message = &world.state.message;
                    assert!(message.contains("change of spec.strategy"), "{message}");
                }
                world.run_until_stable("v2");
                world.run_for(secs(60));
                assert_eq!(world.state.plan.as_ref().unwrap().spec, to);
                assert_eq!((world.desired("v1"), world.desired("v2")), (0, 4));
                world.assert_no_lost_requests();
            }
        }
    }
}

#[test]
fn an_abort_of_a_release_that_keeps_its_strategy_returns_its_traffic_first() {
    for from in strategies(4) {
        for to in strategies(4) {
            if from.is_blue_green() == to.is_blue_green() {
                continue;
            }
            for seconds in [2, 6, 12, 20, 26] {
                let mut world = World::stable(from.clone());
                world.release("v2");
                world.run_for(secs(seconds));
                if !world.state.is_releasing() {
                    continue;
                }
                world.plan = to.clone();
                world.command("a", Verb::Abort);
                world.run_for(secs(120));
                assert_eq!(world.state.plan.as_ref().unwrap().spec, to);
                assert_eq!((active(&world), world.desired("v1")), ("v1", 4));
                assert_eq!(world.desired("v2"), 0, "after {seconds} s");
                world.assert_no_lost_requests();
            }
        }
    }
}

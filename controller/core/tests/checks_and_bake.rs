//! Tests of the planner with checks: before a promotion, at a step, and during the bake after it.

mod world;

use serin_core::command::{CommandResult, Verb};
use serin_core::hold::HoldCode;
use serin_core::plan::{Analysis, BakePlan, Plan, Step};
use serin_core::state::Stage;
use serin_core::units::Weight;
use world::{
    World, analysed, edit, hold, plan, requirements, rev, roll_back, satisfied, secs, undecided,
    wait, weight,
};

fn with_checks(plan: Plan, checks: &[&str]) -> Plan {
    edit(analysed(plan), |canary| {
        canary.analysis = canary.analysis.take().map(|analysis| Analysis {
            checks: requirements(&[], checks).checks,
            ..analysis
        });
    })
}

fn with_bake(plan: Plan, seconds: u64, checks: &[&str]) -> Plan {
    edit(analysed(plan), |canary| {
        let bake = Some(BakePlan {
            duration: secs(seconds),
            checks: requirements(&[], checks).checks,
        });
        canary.analysis = canary
            .analysis
            .take()
            .map(|analysis| Analysis { bake, ..analysis });
    })
}

#[test]
fn promotion_waits_for_checks_at_the_last_weight() {
    let mut world = World::stable(with_checks(
        plan(4, vec![weight(25), wait(5), weight(50), wait(5)]),
        &["errors"],
    ));
    world.report = satisfied(&world, 25, requirements(&[], &["errors"]));
    world.release("v2");
    world.run_for(secs(120));
    assert_eq!(
        world.share(),
        Weight::percent(50),
        "missing checks do not hold steps"
    );
    assert!(
        world.state.message.contains("waiting for check errors"),
        "{}",
        world.state.message
    );
    world.report = satisfied(&world, 50, requirements(&[], &[]));
    world.run_for(secs(700));
    assert_eq!(
        world.state.stage,
        Stage::Progressing,
        "the progress deadline does not apply"
    );
    world.report = satisfied(&world, 50, requirements(&[], &["errors"]));
    world.run_until_stable("v2");
}

#[test]
fn a_require_step_waits_only_for_its_own_requirements() {
    let step = Step::Require(requirements(&["availability"], &["errors"]));
    let mut world = World::stable(analysed(plan(
        4,
        vec![weight(25), step, weight(50), Step::Pause(None)],
    )));
    world.report = satisfied(&world, 25, requirements(&["latency"], &["errors"]));
    world.release("v2");
    world.run_for(secs(60));
    assert_eq!(world.state.step.map(|step| step.index), Some(1));
    assert!(
        world
            .state
            .message
            .contains("waiting for objective availability"),
        "{}",
        world.state.message
    );
    world.report = hold(HoldCode::Stale);
    world.run_for(secs(60));
    world.report = satisfied(&world, 20, requirements(&["availability"], &["errors"]));
    world.run_for(secs(60));
    assert_eq!(
        world.state.step.map(|step| step.index),
        Some(1),
        "a result at another weight does not count"
    );
    world.report = satisfied(&world, 25, requirements(&["availability"], &["errors"]));
    world.run_until_at(50);
}

#[test]
fn a_promoted_release_bakes_before_it_becomes_stable() {
    let mut world = World::stable(with_bake(
        plan(4, vec![weight(50), wait(5)]),
        700,
        &["errors"],
    ));
    world.report = undecided(&world);
    world.release("v2");
    world.run_until("all traffic", |world| world.state.bake.is_some());
    assert_eq!(world.share(), Weight::FULL);
    let since = world.state.bake.unwrap().since;
    // Longer than the progress deadline, and across a restart.
    world.run_for(secs(690));
    world.restart();
    world.run_for(secs(5));
    assert_eq!(world.state.bake.unwrap().since, since);
    assert_eq!(
        (world.stable_service.clone(), world.desired("v1")),
        (Some(rev("v1")), 4),
        "stable keeps its pods for a rollback"
    );
    world.report = hold(HoldCode::Stale);
    world.run_for(secs(60));
    assert_eq!(
        world.state.stage,
        Stage::Promoting,
        "missing data does not end the bake"
    );
    world.report = undecided(&world);
    world.run_for(secs(60));
    assert!(
        world.state.message.contains("check errors"),
        "{}",
        world.state.message
    );
    world.report = satisfied(&world, 100, requirements(&[], &["errors"]));
    world.run_until_stable("v2");
    world.run_for(secs(60));
    assert_eq!(
        (world.stable_service.clone(), world.desired("v1")),
        (Some(rev("v2")), 0)
    );
    world.assert_no_lost_requests();
}

#[test]
fn a_breach_during_the_bake_moves_traffic_back_at_once() {
    let mut world = World::stable(with_bake(plan(4, vec![weight(50), wait(5)]), 600, &[]));
    world.report = undecided(&world);
    world.release("v2");
    world.run_until("all traffic", |world| world.state.bake.is_some());
    world.run_for(secs(300));
    world.report = roll_back("breach");
    world.settle();
    assert_eq!(
        (world.share(), world.state.stage),
        (Weight::ZERO, Stage::Aborted),
        "in the same reconcile"
    );
    assert_eq!(world.state.bake, None);
    world.run_for(secs(60));
    assert_eq!((world.desired("v1"), world.desired("v2")), (4, 0));
    world.assert_no_lost_requests();
}

#[test]
fn promote_ends_the_bake_and_abort_ends_the_release() {
    for (verb, stable) in [(Verb::Promote, "v2"), (Verb::Abort, "v1")] {
        let mut world = World::stable(with_bake(
            plan(4, vec![weight(50), wait(5)]),
            600,
            &["errors"],
        ));
        world.report = undecided(&world);
        world.release("v2");
        world.run_until("all traffic", |world| world.state.bake.is_some());
        assert_eq!(world.command("1", verb).result, CommandResult::Done);
        world.run_for(secs(60));
        assert_eq!(world.state.stable_revision, Some(rev(stable)));
        world.assert_no_lost_requests();
    }
}

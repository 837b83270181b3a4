//! Tests of commands, pauses and deadlines in the planner.

mod world;

use serin_core::command::{CommandResult, Verb};
use serin_core::plan::Step;
use serin_core::state::{Phase, Stage};
use serin_core::units::Weight;
use world::{World, plan, rev, secs, wait, weight};

#[test]
fn timed_pauses_count_from_their_persisted_start_across_restarts() {
    let mut world = World::stable(plan(
        2,
        vec![weight(50), wait(600), weight(80), Step::Pause(None)],
    ));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    let until = world
        .state
        .pause
        .as_ref()
        .and_then(|pause| pause.until)
        .unwrap();
    for _ in 0..5 {
        world.restart();
        world.run_for(secs(10));
    }
    assert_eq!(
        world.state.pause.as_ref().and_then(|pause| pause.until),
        Some(until)
    );
    // The controller does not run until long after the pause.
    world.now = until.checked_add(secs(3600)).unwrap();
    world.restart();
    world.settle();
    assert_eq!(world.state.step.map(|step| step.index), Some(2));
}

#[test]
fn an_indefinite_pause_never_runs_into_the_progress_deadline() {
    let mut world = World::stable(plan(2, vec![weight(50), Step::Pause(None)]));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    world.run_for(secs(7_200));
    assert_eq!(world.state.stage, Stage::Progressing);
    assert_eq!(
        world.command("1", Verb::Promote).result,
        CommandResult::Done
    );
    world.run_for(secs(60));
    assert_eq!(world.state.stable_revision, Some(rev("v2")));
}

#[test]
fn commands_for_another_revision_or_step_are_refused_and_repeats_are_harmless() {
    let mut world = World::stable(plan(
        2,
        vec![weight(50), Step::Pause(None), weight(80), Step::Pause(None)],
    ));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    let stale = world.command_for("1", Verb::Promote, Some("v1"), None);
    assert_eq!(stale.result, CommandResult::Refused);
    assert!(
        stale.message.contains("v1") && stale.message.contains("v2"),
        "{}",
        stale.message
    );
    assert_eq!(
        world
            .command_for("2", Verb::Promote, Some("v2"), Some(3))
            .result,
        CommandResult::Refused
    );
    assert_eq!(
        world
            .command_for("3", Verb::Promote, Some("v2"), Some(1))
            .result,
        CommandResult::Done
    );
    world.run_until("paused again", |world| {
        world.state.step.is_some_and(|step| step.index == 3)
    });
    // The same command again, as after a crash before its outcome was written.
    assert_eq!(
        world
            .command_for("3", Verb::Promote, Some("v2"), Some(1))
            .result,
        CommandResult::Done
    );
    assert_eq!(
        world.state.step.map(|step| step.index),
        Some(3),
        "it ran only once"
    );
}

#[test]
fn abort_works_in_every_state_and_is_a_no_op_when_healthy() {
    let mut world = World::stable(plan(2, vec![weight(50), Step::Pause(None)]));
    assert_eq!(world.command("1", Verb::Abort).result, CommandResult::Done);
    assert_eq!(world.state.phase, Phase::Healthy);
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    assert_eq!(
        world.command("2", Verb::PromoteFull).result,
        CommandResult::Done
    );
    world.run_until("all traffic", |world| world.share() == Weight::FULL);
    world.spec_problem = Some("spec.strategy: broken".into());
    assert_eq!(world.command("3", Verb::Abort).result, CommandResult::Done);
    world.run_for(secs(10));
    assert_eq!(
        (world.state.stage, world.share()),
        (Stage::Aborted, Weight::ZERO)
    );
    assert_eq!(
        world
            .state
            .abort
            .as_ref()
            .and_then(|abort| abort.by.as_deref()),
        Some("ada")
    );
    world.assert_no_lost_requests();
}

#[test]
fn an_abort_while_the_stable_service_is_switched_loses_no_request() {
    let mut world = World::stable(plan(2, vec![weight(50)]));
    world.release("v2");
    world.run_until("the stable Service is switched", |world| {
        world.stable_service == Some(rev("v2"))
    });
    assert_eq!(world.state.stage, Stage::Promoting);
    assert_eq!(world.command("1", Verb::Abort).result, CommandResult::Done);
    world.run_for(secs(60));
    assert_eq!(world.stable_service, Some(rev("v1")));
    assert_eq!(world.share(), Weight::ZERO);
    assert_eq!((world.desired("v1"), world.desired("v2")), (2, 0));
    world.assert_no_lost_requests();
}

#[test]
fn an_abort_is_cleared_by_the_next_commit_and_retry_starts_again() {
    let mut world = World::stable(plan(2, vec![weight(50), Step::Pause(None)]));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    world.command("1", Verb::Abort);
    assert!(
        world.state.message.contains("v2"),
        "the revision that Git still declares: {}",
        world.state.message
    );
    world.run_for(secs(300));
    assert_eq!(world.state.stage, Stage::Aborted, "the spec is not changed");
    assert_eq!(world.command("2", Verb::Retry).result, CommandResult::Done);
    world.run_until("paused", |world| world.state.pause.is_some());
    world.command("3", Verb::Abort);
    world.release("v3");
    world.run_until("paused", |world| world.state.pause.is_some());
    assert_eq!(
        (
            world.state.current_revision.clone(),
            world.state.abort.clone()
        ),
        (Some(rev("v3")), None)
    );
}

#[test]
fn pause_and_resume_by_command_and_skip() {
    let mut world = World::stable(plan(
        2,
        vec![weight(50), wait(10), weight(80), Step::Pause(None)],
    ));
    assert!(world.refused("0", Verb::Pause).contains("no release"));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    assert_eq!(world.command("1", Verb::Pause).result, CommandResult::Done);
    world.run_for(secs(600));
    assert_eq!(world.state.step.map(|step| step.index), Some(1));
    assert_eq!(world.command("2", Verb::Resume).result, CommandResult::Done);
    world.run_until("the last pause", |world| {
        world.state.step.is_some_and(|step| step.index == 3)
    });
    assert_eq!(
        world.command("3", Verb::SkipStep).result,
        CommandResult::Done
    );
    world.run_until("stable", |world| {
        world.state.stable_revision == Some(rev("v2"))
    });
}

#[test]
fn a_pause_in_the_spec_stops_everything_except_aborts() {
    let mut wanted = plan(2, vec![weight(50), wait(10)]);
    wanted.paused = true;
    let mut world = World::stable(wanted);
    world.release("v2");
    world.run_for(secs(300));
    assert_eq!(
        (world.state.phase, world.state.step.map(|step| step.index)),
        (Phase::Paused, Some(0))
    );
    assert!(world.refused("1", Verb::Promote).contains("spec.paused"));
    assert_eq!(world.command("2", Verb::Abort).result, CommandResult::Done);
    assert_eq!(world.state.stage, Stage::Aborted);
}

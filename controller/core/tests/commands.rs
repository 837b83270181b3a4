//! Tests of commands, pauses and deadlines in the planner.

mod world;

use jiff::Timestamp;
use serin_core::command::{Authorization, Command, CommandOutcome, CommandResult, Verb};
use serin_core::commands::{EXPIRES_AFTER, PENDING_LIMIT, over_pending_limit};
use serin_core::plan::Step;
use serin_core::state::{COMMANDS_LIMIT, Phase, Stage};
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

fn paused_at_50() -> World {
    let mut world = World::stable(plan(2, vec![weight(50), Step::Pause(None)]));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    world
}

fn outcome_of<'a>(world: &'a World, uid: &str) -> Option<&'a CommandOutcome> {
    let found = world.outcomes.iter().rev().find(|(done, _)| done == uid);
    found.map(|(_, outcome)| outcome)
}

#[test]
fn an_abort_comes_before_a_flood_of_older_commands() {
    let mut world = paused_at_50();
    for index in 0..5_000 {
        let mut command = world.new_command(&format!("pause-{index}"), Verb::Pause);
        command.requested_by = Some(format!("user-{index}").into());
        world.commands.push(command);
    }
    let abort = world.new_command("abort", Verb::Abort);
    world.commands.push(abort);
    world.reconcile();
    assert_eq!(world.state.stage, Stage::Aborted);
    assert_eq!(
        outcome_of(&world, "abort").map(|outcome| outcome.result),
        Some(CommandResult::Done)
    );
    assert_eq!(
        world.outcomes.len(),
        COMMANDS_LIMIT,
        "one decision handles a bounded number of commands"
    );
    let wake_at = world.reconcile().wake_at.unwrap();
    assert!(
        wake_at <= world.now.checked_add(secs(1)).unwrap(),
        "the others are handled soon"
    );
}

#[test]
fn a_command_is_carried_out_once_however_long_its_outcome_cannot_be_written() {
    let mut world = World::stable(plan(
        2,
        vec![weight(20), Step::Pause(None), weight(50), Step::Pause(None)],
    ));
    world.release("v2");
    world.run_until("paused", |world| world.state.pause.is_some());
    world.unwritable.insert("skip".to_owned());
    assert_eq!(
        world.command("skip", Verb::SkipStep).result,
        CommandResult::Done
    );
    world.run_until("the second pause", |world| {
        world.state.step.is_some_and(|step| step.index == 3)
    });
    for index in 0..2 * COMMANDS_LIMIT {
        world.command(&format!("{index}-pause"), Verb::Pause);
        world.command(&format!("{index}-resume"), Verb::Resume);
    }
    assert_eq!(world.state.step.map(|step| step.index), Some(3));
    assert!(world.state.commands.len() <= COMMANDS_LIMIT);
    // Once the object is gone, it need not be remembered.
    world.commands.clear();
    for index in 0..COMMANDS_LIMIT {
        world.command(&format!("{index}-another"), Verb::Pause);
    }
    let remembered = &world.state.commands;
    assert!(remembered.iter().all(|handled| handled.uid != "skip"));
}

#[test]
fn an_abort_works_while_the_outcomes_of_many_commands_cannot_be_written() {
    let mut world = paused_at_50();
    for index in 0..4 * COMMANDS_LIMIT {
        let uid = format!("pause-{index}");
        world.unwritable.insert(uid.clone());
        let command = world.new_command(&uid, Verb::Pause);
        world.commands.push(command);
        world.reconcile();
    }
    let handled = world.state.commands.len();
    assert_eq!(handled, COMMANDS_LIMIT, "no more than can be remembered");
    let abort = world.new_command("abort", Verb::Abort);
    world.commands.push(abort);
    world.reconcile();
    assert_eq!(world.state.stage, Stage::Aborted);
}

#[test]
fn a_command_that_was_not_handled_in_time_is_refused_unless_it_is_an_abort() {
    let mut world = paused_at_50();
    let promote = world.new_command("promote", Verb::Promote);
    world.commands.push(promote);
    world.now = world.now.checked_add(EXPIRES_AFTER).unwrap();
    world.settle();
    let outcome = outcome_of(&world, "promote").unwrap();
    assert_eq!(outcome.result, CommandResult::Refused);
    assert!(outcome.message.contains("expired"), "{}", outcome.message);
    assert_eq!(world.state.step.map(|step| step.index), Some(1));
    let abort = world.new_command("abort", Verb::Abort);
    world.commands.push(abort);
    world.now = world.now.checked_add(EXPIRES_AFTER).unwrap();
    world.settle();
    assert_eq!(world.state.stage, Stage::Aborted);
}

#[test]
fn a_command_without_a_verified_permission_is_refused() {
    let mut world = paused_at_50();
    let mut abort = world.new_command("abort", Verb::Abort);
    abort.authorization = Authorization::Missing("the admission policy is missing".into());
    world.commands.push(abort);
    world.settle();
    assert_eq!(world.state.stage, Stage::Progressing);
    let outcome = outcome_of(&world, "abort").unwrap();
    assert_eq!(outcome.result, CommandResult::Refused);
    assert_eq!(outcome.message, "the admission policy is missing");
}

#[test]
fn a_requester_that_nothing_has_verified_is_reported_as_unverified() {
    let mut world = paused_at_50();
    let mut abort = world.new_command("abort", Verb::Abort);
    abort.authorization = Authorization::Unverified;
    world.commands.push(abort);
    world.settle();
    let by = world
        .state
        .abort
        .as_ref()
        .and_then(|abort| abort.by.clone());
    assert_eq!(by.as_deref(), Some("ada (unverified)"));
    let mut long = world.new_command("long", Verb::Abort);
    long.authorization = Authorization::Unverified;
    long.requested_by = Some("a".repeat(600).into());
    let name = long.requester().unwrap();
    assert!(name.ends_with(" (unverified)"), "{name}");
}

/// Commands of one requester, with the second of their creation and of their outcome.
fn submissions(times: &[(u64, Option<u64>)], verb: Verb) -> Vec<(Command, Option<Timestamp>)> {
    let world = World::new(plan(1, Vec::new()));
    let at = |second| world.now + secs(second);
    let submission = |(index, (created, finished)): (usize, &(u64, Option<u64>))| {
        let mut command = world.new_command(&index.to_string(), verb);
        command.created_at = at(*created);
        (command, finished.map(at))
    };
    times.iter().enumerate().map(submission).collect()
}

fn count_over_limit(submissions: &[(Command, Option<Timestamp>)]) -> usize {
    let submissions = submissions.iter();
    over_pending_limit(submissions.map(|(command, finished)| (command, *finished)))
        .into_iter()
        .filter(|over| *over)
        .count()
}

#[test]
fn a_requester_may_have_only_a_few_commands_pending() {
    let pending = submissions(&[(0, None); 2 * PENDING_LIMIT], Verb::Pause);
    assert_eq!(count_over_limit(&pending), PENDING_LIMIT);
    // Each is finished before the next one is created.
    let mut times = Vec::new();
    for second in 0..100 {
        times.push((2 * second, Some(2 * second + 1)));
    }
    assert_eq!(count_over_limit(&submissions(&times, Verb::Pause)), 0);
    // Aborts and other commands, and different requesters, do not count together.
    let mut mixed = submissions(&[(0, None); PENDING_LIMIT], Verb::Pause);
    mixed.extend(submissions(&[(0, None); PENDING_LIMIT], Verb::Abort));
    let mut others = submissions(&[(0, None); PENDING_LIMIT], Verb::Pause);
    for (command, _) in &mut others {
        command.requested_by = Some("grace".into());
    }
    mixed.extend(others);
    assert_eq!(count_over_limit(&mixed), 0);
}

#[test]
fn a_command_over_the_limit_stays_refused_after_the_others_end() {
    let before = submissions(&[(0, None); PENDING_LIMIT + 1], Verb::Pause);
    let mut after = submissions(&[(0, Some(9)); PENDING_LIMIT + 1], Verb::Pause);
    after[PENDING_LIMIT].1 = None;
    for submissions in [before, after] {
        let over = over_pending_limit(submissions.iter().map(|(command, at)| (command, *at)));
        assert_eq!(over.iter().rposition(|over| *over), Some(PENDING_LIMIT));
        assert_eq!(over.iter().position(|over| *over), Some(PENDING_LIMIT));
    }
}

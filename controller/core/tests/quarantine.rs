//! Tests of quarantined Rollouts: only an abort changes anything.

mod world;

use serin_core::command::{CommandResult, Verb};
use serin_core::plan::Step;
use serin_core::state::{AbortCause, Stage};
use serin_core::units::Weight;
use world::{World, plan, rev, secs, wait, weight};

/// A quarantined release at 50 % whose next step is due.
fn at_half() -> World {
    let mut world = World::stable(plan(4, vec![weight(50), wait(5), weight(80)]));
    world.release("v2");
    world.run_until("at 50 %", |world| {
        world.state.weights.verified == Some(Weight::percent(50))
    });
    world.is_quarantined = true;
    world
}

#[test]
fn a_quarantined_release_does_not_advance() {
    let mut world = at_half();
    let before = world.state.clone();
    world.run_for(secs(3_600));
    assert_eq!(world.state, before);
    assert_eq!(world.share(), Weight::percent(50));
    world.assert_no_lost_requests();
}

#[test]
fn a_quarantined_release_can_be_aborted_and_returns_to_stable() {
    let mut world = at_half();
    let outcome = world.command("1", Verb::Abort);
    assert_eq!(outcome.result, CommandResult::Done, "{}", outcome.message);
    let abort = world.state.abort.clone().unwrap();
    assert_eq!(
        (abort.revision, abort.cause),
        (rev("v2"), AbortCause::Command)
    );
    world.run_for(secs(120));
    assert_eq!(world.state.stage, Stage::Aborted);
    assert_eq!(world.share(), Weight::ZERO);
    assert_eq!((world.desired("v1"), world.desired("v2")), (4, 0));
    // A second abort changes nothing.
    let abort = world.state.abort.clone();
    let outcome = world.command("2", Verb::Abort);
    assert_eq!(outcome.result, CommandResult::Done, "{}", outcome.message);
    assert_eq!(world.state.abort, abort);
    world.assert_no_lost_requests();
}

#[test]
fn an_abort_of_a_quarantined_promotion_loses_no_request() {
    let mut world = World::stable(plan(4, vec![weight(50), Step::Pause(Some(secs(5)))]));
    world.release("v2");
    world.run_until("promoting", |world| {
        world.state.stage == Stage::Promoting && world.share() == Weight::FULL
    });
    world.is_quarantined = true;
    world.command("1", Verb::Abort);
    world.run_for(secs(120));
    assert_eq!(world.state.stage, Stage::Aborted);
    assert_eq!(world.share(), Weight::ZERO);
    assert_eq!((world.desired("v1"), world.desired("v2")), (4, 0));
    world.assert_no_lost_requests();
}

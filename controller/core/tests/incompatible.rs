//! Tests of a status that another version of the controller wrote: only abort changes anything.

mod world;

use serin_core::command::{CommandResult, Verb};
use serin_core::plan::Step;
use serin_core::state::{AbortCause, Stage};
use serin_core::units::Weight;
use world::{World, plan, rev, secs, wait, weight};

/// A release at 50 % whose stage is one that this version does not know.
fn at_half() -> World {
    let mut world = World::stable(plan(4, vec![weight(50), Step::Pause(None), wait(5)]));
    world.release("v2");
    world.run_until("at 50 %", |world| {
        world.state.weights.verified == Some(Weight::percent(50))
    });
    world.state.stage = Stage::default();
    world.state.step = None;
    world.incompatible_state = Some("status.stage: unknown variant `Previewing`".into());
    world
}

#[test]
fn a_status_of_a_newer_version_changes_nothing() {
    let mut world = at_half();
    let before = world.state.clone();
    world.run_for(secs(3_600));
    assert_eq!(world.state, before);
    assert_eq!(world.share(), Weight::percent(50));
    assert_eq!((world.desired("v1"), world.desired("v2")), (4, 2));
    world.assert_no_lost_requests();
}

#[test]
fn abort_works_on_a_status_of_a_newer_version() {
    let mut world = at_half();
    let outcome = world.command("1", Verb::Abort);
    assert_eq!(outcome.result, CommandResult::Done, "{}", outcome.message);
    assert_eq!(world.state.stage, Stage::Aborted);
    let abort = world.state.abort.clone().unwrap();
    assert_eq!(
        (abort.revision, abort.cause),
        (rev("v2"), AbortCause::Command)
    );
    assert_eq!(world.share(), Weight::ZERO);
    // From now on the state was written by this version.
    world.incompatible_state = None;
    world.run_for(secs(120));
    assert_eq!(world.desired("v2"), 0);
    world.assert_no_lost_requests();
}

#[test]
fn other_commands_are_refused_on_a_status_of_a_newer_version() {
    for verb in [
        Verb::Promote,
        Verb::PromoteFull,
        Verb::Pause,
        Verb::SkipStep,
        Verb::Retry,
    ] {
        let mut world = at_half();
        let refusal = world.refused("1", verb);
        assert!(
            refusal.contains("only abort works") && refusal.contains("Previewing"),
            "{refusal}"
        );
        assert_eq!(world.share(), Weight::percent(50));
    }
}

//! Tests of the rollback window, for problems that users of other controllers reported. Tests cite
//! their source.

mod world;

use serin_core::command::Verb;
use serin_core::plan::Step;
use serin_core::state::{Phase, Stage};
use serin_core::units::Weight;
use world::{World, analysed, plan, rev, roll_back, secs, undecided, weight};

/// v1 stable, a rollback window of three.
fn with_rollback_window() -> World {
    let mut wanted = plan(2, vec![weight(20), Step::Pause(None)]);
    wanted.rollback_window = 3;
    World::stable(analysed(wanted))
}

fn promote(world: &mut World, version: &str) {
    world.report = undecided(world);
    world.release(version);
    world.settle();
    world.run_until_paused();
    world.command(&format!("promote-{version}"), Verb::PromoteFull);
    world.run_until_stable(version);
    world.run_for(secs(60));
}

fn assert_runs_its_steps(world: &mut World, version: &str) {
    world.report = undecided(world);
    world.release(version);
    world.run_for(secs(60));
    assert_eq!(
        (world.state.stage, world.share()),
        (Stage::Progressing, Weight::percent(20)),
        "{}",
        world.state.message
    );
    assert!(world.events_of("RollbackWindow").is_empty());
}

// argo-rollouts #3039: the window lets an aborted revision go to 100 % without a step.
#[test]
fn an_aborted_revision_inside_the_rollback_window_runs_its_steps() {
    for fix_forward in [false, true] {
        let mut world = with_rollback_window();
        world.report = undecided(&world);
        world.release("v2");
        world.run_until_paused();
        world.report = roll_back("breach");
        world.settle();
        if fix_forward {
            promote(&mut world, "v3");
        } else {
            world.release("v1");
            world.run_for(secs(60));
            assert_eq!(world.state.phase, Phase::Healthy);
        }
        assert_runs_its_steps(&mut world, "v2");
    }
}

#[test]
fn a_superseded_revision_inside_the_rollback_window_runs_its_steps() {
    let mut world = with_rollback_window();
    world.report = undecided(&world);
    world.release("v2");
    world.run_until_paused();
    promote(&mut world, "v3");
    assert_runs_its_steps(&mut world, "v2");
}

#[test]
fn a_revision_aborted_after_an_earlier_promotion_runs_its_steps() {
    let mut world = with_rollback_window();
    promote(&mut world, "v2");
    world.report = undecided(&world);
    world.release("v1");
    world.settle();
    assert_eq!(
        world.state.stage,
        Stage::Promoting,
        "a promoted revision skips the steps"
    );
    world.report = roll_back("breach");
    world.settle();
    world.release("v2");
    world.run_for(secs(60));
    world.events.clear();
    assert_runs_its_steps(&mut world, "v1");
}

#[test]
fn a_return_inside_the_rollback_window_waits_during_a_manual_hold() {
    let mut world = with_rollback_window();
    promote(&mut world, "v2");
    world.plan.paused = true;
    world.release("v1");
    world.run_for(secs(60));
    assert_eq!(
        (world.state.stage, world.state.step.map(|step| step.index)),
        (Stage::Progressing, Some(0))
    );
    assert_eq!(world.state.stable_revision, Some(rev("v2")));
}

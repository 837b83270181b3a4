//! Tests that the cause is reported if canary pods cannot run: in the message, in the holds and in
//! one Event.

mod world;

use serin_core::hold::HoldCode;
use serin_core::observed::PodProblem;
use serin_core::state::{AbortCause, Stage};
use world::{Pods, World, plan, rev, secs, wait, weight};

fn with_problem(code: HoldCode, starts_late: bool) -> World {
    let mut world = World::stable(plan(4, vec![weight(50), wait(5)]));
    world.pods.insert(rev("v2"), Pods::NeverReady);
    world.release("v2");
    world.run_for(secs(1));
    let problem = PodProblem {
        code,
        object: "pod shop-v2-x".into(),
        detail: "has a problem".into(),
        since: starts_late.then_some(world.now),
    };
    world.problems.insert(rev("v2"), problem);
    world
}

#[test]
fn the_cause_is_named_with_object_reason_and_fix() {
    for code in HoldCode::ALL.iter().filter(|code| code.is_pod_problem()) {
        let mut world = with_problem(*code, false);
        world.run_for(secs(300));
        let fix = code.fix().trim_end_matches('.');
        let message = &world.state.message;
        assert!(
            message.contains("pod shop-v2-x has a problem") && message.contains(fix),
            "{message}"
        );
        assert_eq!(world.state.holds[0].code, *code);
        assert_eq!(world.events_of(code.as_str()).len(), 1, "one Event");
        world.run_for(secs(600));
        let abort = world.state.abort.clone().unwrap();
        assert_eq!(abort.cause, AbortCause::ProgressDeadline);
        assert!(abort.message.contains("has a problem"), "{}", abort.message);
    }
}

#[test]
fn a_pod_that_may_only_be_starting_is_reported_after_some_time() {
    let mut world = with_problem(HoldCode::ProbeFailing, true);
    world.run_for(secs(20));
    assert_eq!(world.state.holds[0].code, HoldCode::PodsNotAvailable);
    world.run_for(secs(15));
    assert_eq!(world.state.holds[0].code, HoldCode::ProbeFailing);
}

#[test]
fn a_problem_that_is_solved_is_no_longer_reported() {
    let mut world = with_problem(HoldCode::ImagePullFailed, false);
    world.run_for(secs(30));
    world.problems.clear();
    world.pods.clear();
    world.run_for(secs(120));
    assert_eq!(world.state.stage, Stage::Stable, "{}", world.state.message);
    assert_eq!(world.state.holds, []);
}

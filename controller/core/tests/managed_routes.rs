//! Rules for chosen requests: set and removed by steps, never without a pod to serve them, and gone
//! at the end of every release.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use serin_core::command::Verb;
use serin_core::managed_route::{
    HeaderMatch, ManagedAction, ManagedRoute, RequestMatch, StringMatch,
};
use serin_core::plan::Step;
use serin_core::state::Stage;
use serin_core::units::Weight;
use world::{POD_START, Pods, World, plan, rev, secs, wait, weight};

fn route(name: &str, precedence: u32) -> ManagedRoute {
    ManagedRoute {
        precedence,
        name: name.into(),
        action: ManagedAction::ToCanary,
        matches: vec![RequestMatch {
            headers: vec![HeaderMatch {
                name: "x-user".into(),
                value: StringMatch::Exact(name.into()),
            }],
            ..RequestMatch::default()
        }],
    }
}

fn set(name: &str) -> Step {
    Step::SetManagedRoute(route(name, 0))
}

fn remove(name: &str) -> Step {
    Step::SetManagedRoute(ManagedRoute {
        matches: Vec::new(),
        ..route(name, 0)
    })
}

fn pause() -> Step {
    Step::Pause(None)
}

/// A world whose v2 is released with these steps.
fn releasing(steps: Vec<Step>) -> World {
    let mut world = World::stable(plan(4, steps));
    world.release("v2");
    world
}

/// The names of the rules on the route.
fn names(world: &World) -> Vec<&str> {
    let managed = world.managed.as_ref().unwrap();
    managed.iter().map(|route| route.name.as_str()).collect()
}

fn step_index(world: &World) -> usize {
    world.state.step.unwrap().index
}

fn run_until_has_rule(world: &mut World) {
    world.run_until("the rule is on the route", |world| {
        world
            .managed
            .as_ref()
            .is_some_and(|managed| !managed.is_empty())
    });
}

#[test]
fn a_rule_waits_for_a_pod_and_its_step_for_the_router() {
    let mut world = releasing(vec![set("staff"), pause()]);
    world.settle();
    assert_eq!(world.desired("v2"), 1, "chosen requests need a pod");
    assert!(names(&world).is_empty());
    run_until_has_rule(&mut world);
    assert!(world.available(&rev("v2")) > 0);
    assert_eq!((step_index(&world), world.share()), (0, Weight::ZERO));
    world.unconfirmed = true;
    world.run_for(secs(60));
    assert_eq!(step_index(&world), 0, "{}", world.state.message);
    world.unconfirmed = false;
    world.run_until("the next step", |world| step_index(world) == 1);
    world.assert_no_lost_requests();
}

#[test]
fn a_rule_is_kept_across_steps_until_a_step_removes_it() {
    let steps = vec![set("staff"), weight(20), wait(10), remove("staff"), pause()];
    let mut world = releasing(steps);
    run_until_has_rule(&mut world);
    world.run_until("removed", |world| names(world).is_empty());
    assert_eq!(step_index(&world), 3);
    world.run_until_paused();
    assert_eq!(world.share(), Weight::percent(20));
    world.assert_no_lost_requests();
}

#[test]
fn a_removed_rule_keeps_its_pod_until_the_router_has_removed_it() {
    let steps = vec![set("staff"), wait(10), remove("staff"), pause()];
    let mut world = releasing(steps);
    run_until_has_rule(&mut world);
    world.run_until("removed", |world| names(world).is_empty());
    world.unconfirmed = true;
    world.run_for(secs(60));
    assert_eq!(world.desired("v2"), 1);
    world.unconfirmed = false;
    world.run_until_paused();
    assert_eq!(world.desired("v2"), 0);
    world.assert_no_lost_requests();
}

#[test]
fn a_promotion_keeps_the_rule_until_the_canary_has_all_of_the_traffic() {
    let mut world = releasing(vec![set("staff"), weight(20), pause()]);
    world.run_until_paused();
    world.command("go", Verb::Promote);
    for _ in 0..400 {
        world.run_for(POD_START / 10);
        let has_rule = !names(&world).is_empty();
        assert_eq!(
            has_rule,
            world.share() > Weight::ZERO && world.share() < Weight::FULL
        );
        if world.state.stage == Stage::Stable {
            break;
        }
    }
    assert_eq!(world.state.stable_revision, Some(rev("v2")));
    assert!(names(&world).is_empty());
    world.assert_no_lost_requests();
}

#[test]
fn an_abort_removes_the_rule_at_once_and_drains_the_pod_that_served_it() {
    let mut world = releasing(vec![set("staff"), pause()]);
    world.run_until_paused();
    assert_eq!(names(&world), ["staff"]);
    world.command("stop", Verb::Abort);
    assert!(names(&world).is_empty());
    world.unconfirmed = true;
    world.run_for(secs(300));
    assert_eq!(world.desired("v2"), 1, "the router may still send requests");
    world.unconfirmed = false;
    world.run_for(secs(20));
    assert_eq!(world.desired("v2"), 1, "the pod drains");
    world.run_for(secs(60));
    assert_eq!(world.desired("v2"), 0);
    world.assert_no_lost_requests();
}

#[test]
fn chosen_requests_go_back_to_stable_when_no_pod_can_serve_them() {
    let mut world = releasing(vec![set("staff"), pause()]);
    world.run_until_paused();
    world.pods.insert(rev("v2"), Pods::NeverReady);
    world.settle();
    assert!(names(&world).is_empty());
    world.pods.insert(rev("v2"), Pods::Good);
    run_until_has_rule(&mut world);
}

#[test]
fn a_superseded_revision_loses_the_chosen_requests_before_its_service_is_bound_again() {
    let mut world = releasing(vec![set("staff"), pause()]);
    world.run_until_paused();
    world.release("v3");
    world.run_until("v3 is behind the canary Service", |world| {
        world.canary_service == Some(rev("v3"))
    });
    assert!(names(&world).is_empty());
    run_until_has_rule(&mut world);
    assert!(world.available(&rev("v3")) > 0);
    world.assert_no_lost_requests();
}

#[test]
fn a_rule_that_somebody_else_changed_is_put_back() {
    let mut world = releasing(vec![set("staff"), pause()]);
    world.run_until_paused();
    for changed in [None, Some(Vec::new()), Some(vec![route("other", 0)])] {
        world.managed = changed;
        world.settle();
        assert_eq!(names(&world), ["staff"]);
    }
}

#[test]
fn a_restarted_controller_keeps_the_rule() {
    let mut world = releasing(vec![set("staff"), weight(20), pause()]);
    world.run_until_paused();
    let writes = world.shares.len();
    world.restart();
    world.run_for(secs(60));
    assert_eq!((names(&world), world.shares.len()), (vec!["staff"], writes));
}

#[test]
fn a_step_with_all_of_the_traffic_needs_no_rule() {
    let mut world = releasing(vec![set("staff"), weight(100), pause()]);
    world.run_until_paused();
    assert!(names(&world).is_empty());
    assert_eq!(world.share(), Weight::FULL);
}

#[test]
fn rules_are_written_by_precedence() {
    let second = Step::SetManagedRoute(route("testers", 1));
    let mut world = releasing(vec![second, set("staff"), pause()]);
    world.run_until_paused();
    assert_eq!(names(&world), ["staff", "testers"]);
}

#[test]
fn a_controller_that_is_killed_at_any_write_continues_with_the_rule() {
    for kill_at in (0..40).step_by(4) {
        let mut world = releasing(vec![set("staff"), weight(20), wait(5), remove("staff")]);
        for round in 0..600 {
            if round == kill_at {
                world.reconcile_with_kill(usize::try_from(kill_at % 3).unwrap());
            }
            world.run_for(secs(1));
            if world.state.stable_revision == Some(rev("v2")) {
                break;
            }
        }
        assert_eq!(world.state.stable_revision, Some(rev("v2")), "{kill_at}");
        assert!(names(&world).is_empty());
        world.assert_no_lost_requests();
    }
}

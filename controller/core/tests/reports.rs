//! Tests of the planner for problems that users of other controllers reported. Each test cites its
//! source.

mod world;

use serin_core::command::Verb;
use serin_core::plan::Step;
use serin_core::state::Phase;
use world::{World, edit, plan, rev, secs, wait, weight};

// argo-rollouts #2939 and node restarts: problems of both sides are not the canary's fault.
#[test]
fn restarts_of_both_sides_do_not_abort() {
    let mut world = World::stable(plan(10, vec![weight(50), Step::Pause(None)]));
    world.release("v2");
    world.run_until_paused();
    world.restarts.extend([(rev("v1"), 10), (rev("v2"), 5)]);
    world.run_for(secs(5));
    assert_eq!(world.abort_cause(), None);
    world.restarts.insert(rev("v2"), 7);
    world.run_for(secs(5));
    assert_eq!(world.abort_cause(), Some("PodCrash"));
}

#[test]
fn a_retry_counts_restarts_from_zero() {
    let mut world = World::stable(plan(4, vec![weight(50), Step::Pause(None)]));
    world.release("v2");
    world.run_until_paused();
    let first = world.state.release_started_at.expect("a start");
    world.command("a", Verb::Abort);
    assert_eq!(world.state.release_started_at, None);
    world.run_for(secs(10));
    world.command("r", Verb::Retry);
    assert!(
        world
            .state
            .release_started_at
            .is_some_and(|second| second > first)
    );
}

// traefik #9158: a route that refers to a canary Service that does not exist yet.
#[test]
fn the_canary_service_exists_from_the_first_deploy() {
    let mut world = World::new(plan(2, vec![weight(50), wait(5)]));
    world.settle();
    assert_eq!(world.canary_service, Some(rev("v1")));
    world.run_for(secs(60));
    assert_eq!(world.state.phase, Phase::Healthy);
    world.canary_service = None;
    world.run_for(secs(5));
    assert_eq!(
        world.canary_service,
        Some(rev("v1")),
        "created again after somebody deletes it"
    );
    world.release("v2");
    world.run_until_stable("v2");
    world.assert_no_lost_requests();
}

// Related to argo-rollouts #1838: the traffic share of a superseded revision does not pass to the
// new one. It loses its share even if the stable revision first has to scale up.
#[test]
fn a_superseded_canary_loses_its_traffic_even_if_stable_had_shrunk() {
    let wanted = edit(plan(5, vec![weight(20), Step::Pause(None)]), |canary| {
        canary.dynamic_stable_scale = true;
    });
    let mut world = World::stable(wanted);
    world.release("v2");
    world.run_until("stable has shrunk", |world| world.desired("v1") == 4);
    world.release("v3");
    world.settle();
    assert_eq!(world.desired("v1"), 5);
    assert_eq!(
        world.state.weights.verified, None,
        "the share of v2 is not the share of v3"
    );
    world.run_until_at(20);
    assert_eq!(world.canary_service, Some(rev("v3")));
    world.assert_no_lost_requests();
}

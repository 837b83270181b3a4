//! Tests of a stable and a canary Service without a router: they follow their revision, and the
//! stable Service has ready endpoints at all times.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use serin_core::command::Verb;
use serin_core::plan::{Exposure, Plan, Routing, Step};
use world::{World, plan, rev, secs, unrouted, wait, weight};

/// A plan without a router, with the Services of the routed one.
fn with_services(replicas: u32, steps: Vec<Step>, surge: u32, unavailable: u32) -> Plan {
    let services = plan(replicas, Vec::new()).routing().cloned();
    let services = services.map(|services| Routing {
        routes: Vec::new(),
        ..services
    });
    Plan {
        exposure: Exposure::ReplicaRatioServices(services.unwrap()),
        ..unrouted(replicas, steps, surge, unavailable)
    }
}

fn selected(world: &World) -> (Option<&str>, Option<&str>) {
    let name = |service: &'_ Option<serin_core::units::Revision>| {
        service.as_ref().map(|revision| match revision.as_str() {
            "v1" => "v1",
            "v2" => "v2",
            _ => "another",
        })
    };
    (name(&world.stable_service), name(&world.canary_service))
}

#[test]
fn each_service_selects_the_pods_of_its_side() {
    let steps = vec![weight(30), Step::Pause(None)];
    let mut world = World::stable(with_services(10, steps, 2, 0));
    assert_eq!(selected(&world), (Some("v1"), Some("v1")));
    world.release("v2");
    world.run_until_paused();
    assert_eq!(selected(&world), (Some("v1"), Some("v2")));
    assert_eq!((world.desired("v2"), world.desired("v1")), (3, 7));
    world.command("p", Verb::Promote);
    world.run_until_stable("v2");
    world.run_for(secs(60));
    assert_eq!(selected(&world), (Some("v2"), Some("v2")));
    assert_eq!((world.desired("v2"), world.desired("v1")), (10, 0));
    world.assert_no_lost_requests();
}

#[test]
fn after_an_abort_the_canary_service_selects_the_stable_pods() {
    let steps = vec![weight(30), Step::Pause(None)];
    let mut world = World::stable(with_services(10, steps, 2, 0));
    world.release("v2");
    world.run_until_paused();
    world.command("a", Verb::Abort);
    world.run_for(secs(120));
    assert_eq!(selected(&world), (Some("v1"), Some("v1")));
    assert_eq!((world.desired("v2"), world.desired("v1")), (0, 10));
    world.assert_no_lost_requests();
}

#[test]
fn the_stable_service_never_loses_all_of_its_pods() {
    for (replicas, surge, unavailable) in [
        (1, 1, 0),
        (2, 1, 0),
        (2, 0, 1),
        (4, 0, 1),
        (5, 5, 0),
        (10, 0, 5),
        (3, 1, 1),
    ] {
        let steps = vec![weight(20), wait(5), weight(60), wait(5)];
        let mut world = World::stable(with_services(replicas, steps, surge, unavailable));
        world.release("v2");
        world.run_until_stable("v2");
        world.run_for(secs(60));
        assert_eq!(
            selected(&world),
            (Some("v2"), Some("v2")),
            "{replicas} replicas"
        );
        assert_eq!((world.desired("v2"), world.desired("v1")), (replicas, 0));
        world.assert_no_lost_requests();
    }
}

#[test]
fn an_abort_of_a_promotion_keeps_pods_behind_the_stable_service() {
    for seconds in 0..30 {
        let mut world = World::stable(with_services(4, vec![weight(25)], 1, 0));
        world.release("v2");
        world.run_for(secs(seconds));
        if world.state.stable_revision == Some(rev("v2")) {
            break;
        }
        world.command("a", Verb::Abort);
        world.run_for(secs(120));
        assert_eq!(
            selected(&world),
            (Some("v1"), Some("v1")),
            "after {seconds} s"
        );
        world.assert_no_lost_requests();
    }
}

#[test]
fn a_single_pod_without_room_for_another_is_still_replaced() {
    let mut world = World::stable(with_services(1, vec![weight(50)], 0, 1));
    world.release("v2");
    world.run_until_stable("v2");
    assert_eq!(world.desired("v2"), 1);
}

#[test]
fn a_step_with_all_of_the_traffic_keeps_a_pod_behind_the_stable_service() {
    for (surge, unavailable) in [(2, 0), (0, 2)] {
        let steps = vec![weight(100), Step::Pause(None)];
        let mut world = World::stable(with_services(4, steps, surge, unavailable));
        world.release("v2");
        world.run_until_paused();
        assert_eq!(selected(&world), (Some("v1"), Some("v2")));
        assert_eq!(world.desired("v1"), 1);
        world.command("p", Verb::Promote);
        world.run_until_stable("v2");
        world.run_for(secs(60));
        assert_eq!((world.desired("v2"), world.desired("v1")), (4, 0));
        world.assert_no_lost_requests();
    }
}

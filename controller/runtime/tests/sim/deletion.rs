//! A Rollout that goes gives back what it has changed.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Service;
use serde_json::json;
use serin_crds::Rollout;
use serin_sim::{Fault, World};

use crate::stage::*;

/// Answers the running controller and the route as it was before.
async fn in_mid_release(world: &World) -> (Running, serde_json::Value) {
    with_route(world, "checkout");
    let before = spec_of_route(world);
    apply(
        world,
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "checkout", "namespace": SHOP, "labels": {"team": "shop"}},
            "spec": {"selector": {"app": "checkout"}, "ports": [{"port": 80, "targetPort": 8080}]},
        }),
    );
    let running = start(world, "serin");
    let steps = || json!([{"setWeight": 20}, {"pause": {}}]);
    apply(world, routed("checkout", "v1", 4, steps()));
    healthy(world, "checkout", "v1").await;
    apply(world, routed("checkout", "v2", 4, steps()));
    reaches(world, "checkout", "Paused/Stepping/1").await;
    (running, before)
}

fn spec_of_route(world: &World) -> serde_json::Value {
    world.get_json("httproutes", SHOP, "checkout").unwrap()["spec"].clone()
}

fn is_gone(world: &World) -> bool {
    world.get::<Rollout>(SHOP, "checkout").is_none()
}

#[tokio::test(start_paused = true)]
async fn the_route_and_the_users_service_are_as_they_were() {
    let world = World::new(21);
    let (_running, before) = in_mid_release(&world).await;
    world.delete::<Rollout>(SHOP, "checkout").unwrap();
    world.until(is_gone, MINUTE).await.unwrap();
    assert_eq!(spec_of_route(&world), before);
    let service = world.get::<Service>(SHOP, "checkout").unwrap();
    assert_eq!(service.metadata.labels, Some([("team".to_owned(), "shop".to_owned())].into()));
    assert_eq!(service.spec.unwrap().selector, Some([("app".to_owned(), "checkout".to_owned())].into()));
    let is_clean = |world: &World| {
        world.objects::<ReplicaSet>().is_empty() && world.get::<Service>(SHOP, "checkout-canary").is_none()
    };
    world.until(is_clean, MINUTE).await.expect("what the Rollout has made goes with it");
}

#[tokio::test(start_paused = true)]
async fn it_waits_until_the_route_can_be_restored() {
    let world = World::new(22);
    let (_running, before) = in_mid_release(&world).await;
    world.inject(Fault::on("patch", "httproutes").times(3).status(503));
    world.delete::<Rollout>(SHOP, "checkout").unwrap();
    world.until(is_gone, MINUTE).await.unwrap();
    assert_eq!(spec_of_route(&world), before);
}

#[tokio::test(start_paused = true)]
async fn a_route_that_is_gone_holds_nothing_up() {
    let world = World::new(23);
    let (_running, _) = in_mid_release(&world).await;
    let gone = json!({"spec": {"rules": []}});
    let mut route = world.get_json("httproutes", SHOP, "checkout").unwrap();
    route["spec"]["rules"] = gone["spec"]["rules"].clone();
    apply(&world, route);
    world.delete::<Rollout>(SHOP, "checkout").unwrap();
    world.until(is_gone, MINUTE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_rollout_without_a_router_needs_no_finalizer() {
    let world = World::new(24);
    let _running = start(&world, "serin");
    apply(&world, plain("checkout", "v1", 2, json!([])));
    healthy(&world, "checkout", "v1").await;
    assert_eq!(world.get::<Rollout>(SHOP, "checkout").unwrap().metadata.finalizers, None);
}

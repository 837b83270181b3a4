//! A Rollout that goes gives back what it has changed.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Service;
use serde_json::json;
use serin_crds::Rollout;
use serin_fake_cluster::{Fault, World};

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
    reaches(world, "checkout", "Paused/Progressing/1").await;
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
    assert_eq!(
        service.metadata.labels,
        Some([("team".to_owned(), "shop".to_owned())].into())
    );
    assert_eq!(
        service.spec.unwrap().selector,
        Some([("app".to_owned(), "checkout".to_owned())].into())
    );
    let is_clean = |world: &World| {
        world.objects::<ReplicaSet>().is_empty()
            && world.get::<Service>(SHOP, "checkout-canary").is_none()
    };
    world
        .until(is_clean, MINUTE)
        .await
        .expect("what the Rollout has made goes with it");
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
    assert_eq!(
        world
            .get::<Rollout>(SHOP, "checkout")
            .unwrap()
            .metadata
            .finalizers,
        None
    );
}

// iter8 PR #250, flagger #1357: with the controller gone, namespaces hang on a finalizer that
// nobody removes.
#[tokio::test(start_paused = true)]
async fn a_rollout_at_rest_that_has_changed_nothing_of_others_is_deleted_without_a_controller() {
    let world = World::new(25);
    with_route(&world, "checkout");
    let before = spec_of_route(&world);
    let running = start(&world, "serin");
    let steps = || json!([{"setWeight": 20}, {"pause": {}}]);
    apply(&world, routed("checkout", "v1", 4, steps()));
    healthy(&world, "checkout", "v1").await;
    let held = |world: &World| {
        world
            .get::<Rollout>(SHOP, "checkout")
            .unwrap()
            .metadata
            .finalizers
            .unwrap_or_default()
    };
    assert_eq!(
        held(&world),
        Vec::<String>::new(),
        "its Services are its own"
    );
    apply(&world, routed("checkout", "v2", 4, steps()));
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    assert_eq!(
        held(&world),
        ["serin.dev/routes"],
        "the route is not as its user wrote it"
    );
    command(&world, "go", "checkout", "promote");
    healthy(&world, "checkout", "v2").await;
    world
        .until(|world| held(world).is_empty(), MINUTE)
        .await
        .expect("the route is as it was");
    assert_eq!(spec_of_route(&world), before);
    running.stop().await;
    world.delete::<Rollout>(SHOP, "checkout").unwrap();
    world
        .until(is_gone, SECOND)
        .await
        .expect("nothing holds it");
    world
        .until(|world| world.objects::<ReplicaSet>().is_empty(), MINUTE)
        .await
        .unwrap();
    assert_eq!(spec_of_route(&world), before);
}

async fn release_finalizers(
    world: &World,
) -> Result<usize, serin_runtime::uninstall::UninstallError> {
    let candidate = serin_runtime::election::Candidate {
        namespace: "serin".into(),
        lease: "serin".into(),
        identity: "uninstall".into(),
        timing: serin_core::lease::Timing::default(),
    };
    let clock = serin_runtime::clock::Clock::tokio_from(world.now());
    serin_runtime::uninstall::release_finalizers(
        &world.client_of("uninstall"),
        None,
        Some(candidate),
        &clock,
    )
    .await
}

// iter8 PR #250, flagger #1357.
#[tokio::test(start_paused = true)]
async fn without_a_controller_the_finalizers_are_released_and_the_route_is_as_it_was() {
    let world = World::new(26);
    let (running, before) = in_mid_release(&world).await;
    running.stop().await;
    let pods = |world: &World| world.objects::<k8s_openapi::api::core::v1::Pod>().len();
    let pods_before = pods(&world);
    assert_eq!(release_finalizers(&world).await.unwrap(), 1);
    assert_eq!(spec_of_route(&world), before);
    let rollout = world.get::<Rollout>(SHOP, "checkout").unwrap();
    assert_eq!(
        rollout.metadata.finalizers.unwrap_or_default(),
        Vec::<String>::new()
    );
    let selector = world
        .get::<Service>(SHOP, "checkout")
        .unwrap()
        .spec
        .unwrap()
        .selector
        .unwrap();
    assert!(
        selector.contains_key("serin.dev/revision"),
        "the canary's pods get nothing by the stable Service"
    );
    world.pass(MINUTE).await;
    assert_eq!(
        pods(&world),
        pods_before,
        "nothing else happens to the fleet"
    );
    assert_eq!(
        release_finalizers(&world).await.unwrap(),
        0,
        "once is enough"
    );
    // The controller comes back: the release goes on where it was.
    let running = start(&world, "serin-again");
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    command(&world, "go", "checkout", "promote");
    healthy(&world, "checkout", "v2").await;
    world.pass(MINUTE).await;
    running.stop().await;
    // At rest the user's Service is given back as well, and everything can be deleted.
    assert_eq!(release_finalizers(&world).await.unwrap(), 1);
    let service = world.get::<Service>(SHOP, "checkout").unwrap();
    assert_eq!(
        service.spec.unwrap().selector,
        Some([("app".to_owned(), "checkout".to_owned())].into())
    );
    world.delete::<Rollout>(SHOP, "checkout").unwrap();
    world
        .until(is_gone, SECOND)
        .await
        .expect("nothing holds it");
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_still_runs_is_not_worked_against() {
    let world = World::new(27);
    with_route(&world, "checkout");
    let _running = start_elected(&world, "serin");
    apply(&world, routed("checkout", "v1", 2, json!([])));
    healthy(&world, "checkout", "v1").await;
    let refused = release_finalizers(&world).await.unwrap_err();
    assert!(
        refused.to_string().contains("still holds the Lease"),
        "{refused}"
    );
}

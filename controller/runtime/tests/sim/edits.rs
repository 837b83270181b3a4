//! Edits of fields that are not the template, at rest and in the middle of a release.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use serin_crds::Rollout;
use serin_fake_cluster::World;

use crate::stage::*;

fn steps() -> Value {
    json!([{"setWeight": 25}, {"pause": {}}])
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": SHOP},
        "spec": {"selector": {"app": "checkout"}, "ports": [{"port": 80, "targetPort": 8080}]},
    })
}

fn selector(world: &World, name: &str) -> Value {
    world.get_json("services", SHOP, name).unwrap()["spec"]["selector"].clone()
}

fn label(world: &World, name: &str) -> Value {
    world.get_json("services", SHOP, name).unwrap()["metadata"]["labels"]["serin.dev/rollout"]
        .clone()
}

fn pods(world: &World) -> Vec<String> {
    world
        .objects::<Pod>()
        .iter()
        .filter_map(|pod| pod.metadata.uid.clone())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_change_of_min_ready_seconds_is_no_revision_and_reaches_every_replica_set_with_pods() {
    let world = World::new(321);
    with_route(&world, "checkout");
    let _running = start(&world, "serin");
    apply(&world, routed("checkout", "v1", 4, steps()));
    healthy(&world, "checkout", "v1").await;
    apply(&world, routed("checkout", "v2", 4, steps()));
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    let before = status(&world, "checkout").current_revision;
    let mut slower = routed("checkout", "v2", 4, steps());
    slower["spec"]["minReadySeconds"] = json!(7);
    apply(&world, slower.clone());
    let all_follow = |world: &World| {
        sets(world, "checkout")
            .iter()
            .all(|set| set.spec.as_ref().unwrap().min_ready_seconds == Some(7))
    };
    world
        .until(all_follow, 10 * SECOND)
        .await
        .expect("both sides");
    world.pass(MINUTE).await;
    assert_eq!(status(&world, "checkout").current_revision, before);
    assert_eq!(sets(&world, "checkout").len(), 2);
    world.forget_requests();
    world.pass(60 * MINUTE).await;
    assert_eq!(world.writes(), []);
    // Left out again: the default.
    apply(&world, routed("checkout", "v2", 4, steps()));
    let none = |world: &World| {
        sets(world, "checkout")
            .iter()
            .all(|set| set.spec.as_ref().unwrap().min_ready_seconds.unwrap_or(0) == 0)
    };
    world.until(none, 10 * SECOND).await.expect("the default");
}

#[tokio::test(start_paused = true)]
async fn a_router_that_is_taken_away_in_mid_release_leaves_the_route_as_it_was_and_services_that_select_all_pods()
 {
    let world = World::new(322);
    with_route(&world, "checkout");
    apply(&world, service("checkout"));
    let before = world.get_json("httproutes", SHOP, "checkout").unwrap()["spec"].clone();
    let _running = start(&world, "serin");
    apply(&world, routed("checkout", "v1", 4, steps()));
    healthy(&world, "checkout", "v1").await;
    apply(&world, routed("checkout", "v2", 4, steps()));
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    apply(&world, plain("checkout", "v2", 4, steps()));
    let is_back =
        |world: &World| world.get_json("httproutes", SHOP, "checkout").unwrap()["spec"] == before;
    world
        .until(is_back, 10 * SECOND)
        .await
        .expect("the route is given back");
    let is_free = |world: &World| selector(world, "checkout") == json!({"app": "checkout"});
    world
        .until(is_free, 10 * SECOND)
        .await
        .expect("the user's Service is given back");
    assert_eq!(label(&world, "checkout"), Value::Null);
    let selects_all = |world: &World| {
        selector(world, "checkout-canary")
            == json!({"app": "checkout", "serin.dev/rollout": "checkout"})
    };
    world
        .until(selects_all, 10 * SECOND)
        .await
        .expect("Serin's own goes on for whoever uses it");
    command(&world, "go", "checkout", "promote");
    healthy(&world, "checkout", "v2").await;
    world.pass(MINUTE).await;
    assert_eq!(status(&world, "checkout").original_routes, []);
    assert_eq!(
        world.get::<Rollout>(SHOP, "checkout").unwrap().finalizers(),
        Vec::<String>::new()
    );
}

#[tokio::test(start_paused = true)]
async fn a_router_that_is_added_to_an_idle_rollout_or_in_mid_release_takes_part_from_then_on() {
    for (seed, releasing) in [(323, false), (324, true)] {
        let world = World::new(seed);
        with_route(&world, "checkout");
        let _running = start(&world, "serin");
        apply(&world, plain("checkout", "v1", 4, steps()));
        healthy(&world, "checkout", "v1").await;
        if releasing {
            apply(&world, plain("checkout", "v2", 4, steps()));
            reaches(&world, "checkout", "Paused/Progressing/1").await;
        } else {
            apply(&world, routed("checkout", "v1", 4, steps()));
            world.pass(MINUTE).await;
            healthy(&world, "checkout", "v1").await;
        }
        apply(&world, routed("checkout", "v2", 4, steps()));
        let split = |world: &World| weights(world, "checkout") == (Some(75), Some(25));
        world
            .until(split, MINUTE)
            .await
            .unwrap_or_else(|_| panic!("{:?}", status(&world, "checkout")));
        assert!(no_request_is_lost(&world, "checkout"));
        reaches(&world, "checkout", "Paused/Progressing/1").await;
        command(&world, "go", "checkout", "promote");
        healthy(&world, "checkout", "v2").await;
    }
}

#[tokio::test(start_paused = true)]
async fn services_with_other_names_are_taken_up_and_the_old_ones_given_back() {
    for (seed, releasing) in [(325, false), (326, true)] {
        let world = World::new(seed);
        with_route(&world, "checkout");
        apply(&world, service("checkout"));
        let _running = start(&world, "serin");
        apply(&world, routed("checkout", "v1", 4, steps()));
        healthy(&world, "checkout", "v1").await;
        if releasing {
            apply(&world, routed("checkout", "v2", 4, steps()));
            reaches(&world, "checkout", "Paused/Progressing/1").await;
        }
        let version = if releasing { "v2" } else { "v1" };
        let mut renamed = routed("checkout", version, 4, steps());
        let canary = &mut renamed["spec"]["strategy"]["canary"];
        canary["stableService"] = json!("front");
        canary["canaryService"] = json!("front-next");
        apply(&world, renamed);
        let is_whole = |world: &World| weights(world, "checkout") == (Some(1), None);
        world
            .until(is_whole, 10 * SECOND)
            .await
            .expect("no share is left with Services that nobody looks after");
        // Then the user moves the route.
        let mut moved = route("checkout");
        moved["spec"]["rules"][1]["backendRefs"][0]["name"] = json!("front");
        apply(&world, moved);
        if releasing {
            reaches(&world, "checkout", "Paused/Progressing/1").await;
            command(&world, "go", "checkout", "promote");
        }
        healthy(&world, "checkout", version).await;
        world.pass(MINUTE).await;
        assert_eq!(
            selector(&world, "checkout"),
            json!({"app": "checkout"}),
            "it is its user's again"
        );
        assert_eq!(label(&world, "checkout"), Value::Null);
        assert_eq!(
            selector(&world, "front")["serin.dev/revision"],
            json!(status(&world, "checkout").stable_revision.unwrap())
        );
    }
}

/// Deletes the Rollout and lets go what it owns.
async fn orphan(world: &World) {
    let api: Api<Rollout> = Api::namespaced(world.client_of("user"), SHOP);
    api.delete("checkout", &DeleteParams::orphan())
        .await
        .unwrap();
    world
        .until(
            |world| world.get::<Rollout>(SHOP, "checkout").is_none(),
            MINUTE,
        )
        .await
        .expect("it is gone");
}

#[tokio::test(start_paused = true)]
async fn a_rollout_that_is_created_again_takes_over_what_its_deletion_has_orphaned() {
    let world = World::new(327);
    with_route(&world, "checkout");
    let _running = start(&world, "serin");
    apply(&world, routed("checkout", "v1", 4, steps()));
    healthy(&world, "checkout", "v1").await;
    apply(&world, routed("checkout", "v2", 4, steps()));
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    command(&world, "go", "checkout", "promote");
    healthy(&world, "checkout", "v2").await;
    world.pass(MINUTE).await;
    let (before, address) = (
        pods(&world),
        world.get_json("services", SHOP, "checkout").unwrap()["metadata"]["uid"].clone(),
    );
    let vigil = Vigil::over(&world, "checkout");
    orphan(&world).await;
    world.pass(5 * MINUTE).await;
    assert_eq!(pods(&world), before, "they go on serving");
    apply(&world, routed("checkout", "v2", 4, steps()));
    healthy(&world, "checkout", "v2").await;
    world.pass(5 * MINUTE).await;
    assert_eq!(pods(&world), before, "the same pods");
    assert_eq!(
        world.get_json("services", SHOP, "checkout").unwrap()["metadata"]["uid"],
        address
    );
    let uid = world.get::<Rollout>(SHOP, "checkout").unwrap().metadata.uid;
    let owned = |set: &ReplicaSet| {
        set.owner_references()
            .first()
            .map(|owner| owner.uid.clone())
            == uid
    };
    assert!(sets(&world, "checkout").iter().all(owned));
    // And releases as before.
    apply(&world, routed("checkout", "v3", 4, steps()));
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    vigil.ends_well().await;
}

// flagger #1363: a CRD that is replaced deletes every object of it; what is applied again must come
// up.
#[tokio::test(start_paused = true)]
async fn a_rollout_that_is_applied_again_before_its_garbage_is_collected_comes_up() {
    for (seed, garbage) in [(328, SECOND), (329, 10 * MINUTE)] {
        let world = World::new(seed);
        with_route(&world, "checkout");
        let _running = start(&world, "serin");
        apply(&world, routed("checkout", "v1", 4, steps()));
        healthy(&world, "checkout", "v1").await;
        world.pass(10 * SECOND).await;
        world.tune(|tuning| tuning.garbage = garbage);
        let before = pods(&world);
        world.delete::<Rollout>(SHOP, "checkout").unwrap();
        world
            .until(
                |world| world.get::<Rollout>(SHOP, "checkout").is_none(),
                MINUTE,
            )
            .await
            .unwrap();
        apply(&world, routed("checkout", "v1", 4, steps()));
        healthy(&world, "checkout", "v1").await;
        world.pass(30 * MINUTE).await;
        assert_eq!(sizes(&world, "checkout"), [("v1".into(), 4)].into());
        if garbage > MINUTE {
            assert_eq!(
                pods(&world),
                before,
                "it was there before the garbage collector"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_somebody_else_has_is_not_waited_for() {
    let world = World::new(330);
    let running = start(&world, "serin");
    apply(&world, plain("checkout", "v1", 2, steps()));
    healthy(&world, "checkout", "v1").await;
    let name = sets(&world, "checkout")[0].name_any();
    world.delete::<Rollout>(SHOP, "checkout").unwrap();
    world
        .until(
            |world| world.objects::<Pod>().is_empty() && sets(world, "checkout").is_empty(),
            MINUTE,
        )
        .await
        .unwrap();
    running.stop().await;
    let foreign = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name, "namespace": SHOP},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "other"}}, "template": {
            "metadata": {"labels": {"app": "other"}}, "spec": {"containers": [{"name": "app", "image": "other:1"}]},
        }},
    });
    apply(&world, foreign);
    let _running = start(&world, "serin");
    apply(&world, plain("checkout", "v1", 2, steps()));
    healthy(&world, "checkout", "v1").await;
    let theirs = world.get::<ReplicaSet>(SHOP, &name).unwrap();
    assert_eq!(theirs.owner_references(), [], "it is left alone");
    assert_eq!(sets(&world, "checkout").len(), 2);
}

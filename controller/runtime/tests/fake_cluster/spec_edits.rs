//! Changes of fields outside the template, when idle and during a release.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use serin_crds::Rollout;
use serin_fake_cluster::FakeCluster;

use crate::fixtures::*;
use crate::harness::*;

fn steps() -> Value {
    json!([{"setWeight": 25}, {"pause": {}}])
}

fn selector(cluster: &FakeCluster, name: &str) -> Value {
    cluster.get_json("services", SHOP, name).unwrap()["spec"]["selector"].clone()
}

fn label(cluster: &FakeCluster, name: &str) -> Value {
    cluster.get_json("services", SHOP, name).unwrap()["metadata"]["labels"]["serin.dev/rollout"]
        .clone()
}

fn pods(cluster: &FakeCluster) -> Vec<String> {
    cluster
        .objects::<Pod>()
        .iter()
        .filter_map(|pod| pod.metadata.uid.clone())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_changed_min_ready_seconds_updates_both_replica_sets_without_a_new_revision() {
    let cluster = FakeCluster::new(321);
    create_route(&cluster, "checkout");
    let _running = start_controller(&cluster, "serin");
    apply(&cluster, routed_rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    let before = status(&cluster, "checkout").state.current_revision;
    let mut slower = routed_rollout("checkout", "v2", 4, steps());
    slower["spec"]["minReadySeconds"] = json!(7);
    apply(&cluster, slower.clone());
    let all_follow = |cluster: &FakeCluster| {
        replica_sets(cluster, "checkout")
            .iter()
            .all(|set| set.spec.as_ref().unwrap().min_ready_seconds == Some(7))
    };
    cluster
        .wait_until(all_follow, 10 * SECOND)
        .await
        .expect("both ReplicaSets are updated");
    cluster.sleep(MINUTE).await;
    assert_eq!(status(&cluster, "checkout").state.current_revision, before);
    assert_eq!(replica_sets(&cluster, "checkout").len(), 2);
    cluster.clear_requests();
    cluster.sleep(60 * MINUTE).await;
    assert_eq!(cluster.writes(), []);
    // Removing the field restores the default.
    apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
    let all_default = |cluster: &FakeCluster| {
        replica_sets(cluster, "checkout")
            .iter()
            .all(|set| set.spec.as_ref().unwrap().min_ready_seconds.unwrap_or(0) == 0)
    };
    cluster
        .wait_until(all_default, 10 * SECOND)
        .await
        .expect("the default is restored");
}

#[tokio::test(start_paused = true)]
async fn removing_the_router_during_a_release_restores_the_route_and_the_service_selectors() {
    let cluster = FakeCluster::new(322);
    create_route(&cluster, "checkout");
    apply(&cluster, stable_service("checkout"));
    let before = route_spec(&cluster, "checkout");
    let _running = start_controller(&cluster, "serin");
    apply(&cluster, routed_rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    apply(&cluster, unrouted_rollout("checkout", "v2", 4, steps()));
    let route_is_restored = |cluster: &FakeCluster| route_spec(cluster, "checkout") == before;
    cluster
        .wait_until(route_is_restored, 10 * SECOND)
        .await
        .expect("the route is restored");
    let is_restored =
        |cluster: &FakeCluster| selector(cluster, "checkout") == json!({"app": "checkout"});
    cluster
        .wait_until(is_restored, 10 * SECOND)
        .await
        .expect("the user's Service is restored");
    assert_eq!(label(&cluster, "checkout"), Value::Null);
    let selects_all = |cluster: &FakeCluster| {
        selector(cluster, "checkout-canary")
            == json!({"app": "checkout", "serin.dev/rollout": "checkout"})
    };
    cluster
        .wait_until(selects_all, 10 * SECOND)
        .await
        .expect("the Service created by Serin selects all pods");
    create_command(&cluster, "go", "checkout", "promote");
    wait_until_healthy(&cluster, "checkout", "v2").await;
    cluster.sleep(MINUTE).await;
    assert_eq!(status(&cluster, "checkout").original_routes, []);
    assert_eq!(
        cluster
            .get::<Rollout>(SHOP, "checkout")
            .unwrap()
            .finalizers(),
        Vec::<String>::new()
    );
}

#[tokio::test(start_paused = true)]
async fn a_router_added_when_idle_or_during_a_release_is_used_from_then_on() {
    for (seed, releasing) in [(323, false), (324, true)] {
        let cluster = FakeCluster::new(seed);
        create_route(&cluster, "checkout");
        let _running = start_controller(&cluster, "serin");
        apply(&cluster, unrouted_rollout("checkout", "v1", 4, steps()));
        wait_until_healthy(&cluster, "checkout", "v1").await;
        if releasing {
            apply(&cluster, unrouted_rollout("checkout", "v2", 4, steps()));
            wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
        } else {
            apply(&cluster, routed_rollout("checkout", "v1", 4, steps()));
            cluster.sleep(MINUTE).await;
            wait_until_healthy(&cluster, "checkout", "v1").await;
        }
        apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
        let is_split =
            |cluster: &FakeCluster| route_weights(cluster, "checkout") == (Some(75), Some(25));
        cluster
            .wait_until(is_split, MINUTE)
            .await
            .unwrap_or_else(|_| panic!("{:?}", status(&cluster, "checkout")));
        assert!(traffic_has_endpoints(&cluster, "checkout"));
        wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
        create_command(&cluster, "go", "checkout", "promote");
        wait_until_healthy(&cluster, "checkout", "v2").await;
    }
}

#[tokio::test(start_paused = true)]
async fn changed_service_names_bind_the_new_services_and_restore_the_old_ones() {
    for (seed, releasing) in [(325, false), (326, true)] {
        let cluster = FakeCluster::new(seed);
        create_route(&cluster, "checkout");
        apply(&cluster, stable_service("checkout"));
        let _running = start_controller(&cluster, "serin");
        apply(&cluster, routed_rollout("checkout", "v1", 4, steps()));
        wait_until_healthy(&cluster, "checkout", "v1").await;
        if releasing {
            apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
            wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
        }
        let version = if releasing { "v2" } else { "v1" };
        let mut renamed = routed_rollout("checkout", version, 4, steps());
        let canary = &mut renamed["spec"]["strategy"]["canary"];
        canary["stableService"] = json!("front");
        canary["canaryService"] = json!("front-next");
        apply(&cluster, renamed);
        let has_no_canary =
            |cluster: &FakeCluster| route_weights(cluster, "checkout") == (Some(1), None);
        cluster
            .wait_until(has_no_canary, 10 * SECOND)
            .await
            .expect("no traffic goes to unmanaged Services");
        // Then the user changes the route.
        let mut moved = http_route("checkout");
        moved["spec"]["rules"][1]["backendRefs"][0]["name"] = json!("front");
        apply(&cluster, moved);
        if releasing {
            wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
            create_command(&cluster, "go", "checkout", "promote");
        }
        wait_until_healthy(&cluster, "checkout", version).await;
        cluster.sleep(MINUTE).await;
        assert_eq!(
            selector(&cluster, "checkout"),
            json!({"app": "checkout"}),
            "the old Service is restored"
        );
        assert_eq!(label(&cluster, "checkout"), Value::Null);
        assert_eq!(
            selector(&cluster, "front")["serin.dev/revision"],
            json!(status(&cluster, "checkout").state.stable_revision.unwrap())
        );
    }
}

/// Deletes the Rollout and orphans its dependents.
async fn delete_and_orphan(cluster: &FakeCluster) {
    let api: Api<Rollout> = Api::namespaced(cluster.client_for("user"), SHOP);
    api.delete("checkout", &DeleteParams::orphan())
        .await
        .unwrap();
    cluster
        .wait_until(
            |cluster| cluster.get::<Rollout>(SHOP, "checkout").is_none(),
            MINUTE,
        )
        .await
        .expect("the Rollout is deleted");
}

#[tokio::test(start_paused = true)]
async fn a_recreated_rollout_adopts_its_orphaned_objects() {
    let cluster = FakeCluster::new(327);
    create_route(&cluster, "checkout");
    let _running = start_controller(&cluster, "serin");
    apply(&cluster, routed_rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    create_command(&cluster, "go", "checkout", "promote");
    wait_until_healthy(&cluster, "checkout", "v2").await;
    cluster.sleep(MINUTE).await;
    let (before, address) = (
        pods(&cluster),
        cluster.get_json("services", SHOP, "checkout").unwrap()["metadata"]["uid"].clone(),
    );
    let monitor = TrafficMonitor::start(&cluster, "checkout");
    delete_and_orphan(&cluster).await;
    cluster.sleep(5 * MINUTE).await;
    assert_eq!(pods(&cluster), before, "the orphaned pods keep running");
    apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
    wait_until_healthy(&cluster, "checkout", "v2").await;
    cluster.sleep(5 * MINUTE).await;
    assert_eq!(pods(&cluster), before, "the same pods");
    assert_eq!(
        cluster.get_json("services", SHOP, "checkout").unwrap()["metadata"]["uid"],
        address
    );
    let uid = cluster
        .get::<Rollout>(SHOP, "checkout")
        .unwrap()
        .metadata
        .uid;
    let owned = |set: &ReplicaSet| {
        set.owner_references()
            .first()
            .map(|owner| owner.uid.clone())
            == uid
    };
    assert!(replica_sets(&cluster, "checkout").iter().all(owned));
    // The next release works as before.
    apply(&cluster, routed_rollout("checkout", "v3", 4, steps()));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    monitor.finish().await;
}

// flagger #1363: replacing a CRD deletes all its objects; objects that are applied again must
// become healthy.
#[tokio::test(start_paused = true)]
async fn a_rollout_applied_again_before_garbage_collection_becomes_healthy() {
    for (seed, garbage) in [(328, SECOND), (329, 10 * MINUTE)] {
        let cluster = FakeCluster::new(seed);
        create_route(&cluster, "checkout");
        let _running = start_controller(&cluster, "serin");
        apply(&cluster, routed_rollout("checkout", "v1", 4, steps()));
        wait_until_healthy(&cluster, "checkout", "v1").await;
        cluster.sleep(10 * SECOND).await;
        cluster.tune(|tuning| tuning.garbage = garbage);
        let before = pods(&cluster);
        cluster.delete::<Rollout>(SHOP, "checkout").unwrap();
        cluster
            .wait_until(
                |cluster| cluster.get::<Rollout>(SHOP, "checkout").is_none(),
                MINUTE,
            )
            .await
            .unwrap();
        apply(&cluster, routed_rollout("checkout", "v1", 4, steps()));
        wait_until_healthy(&cluster, "checkout", "v1").await;
        cluster.sleep(30 * MINUTE).await;
        assert_eq!(
            replicas_by_version(&cluster, "checkout"),
            [("v1".into(), 4)].into()
        );
        if garbage > MINUTE {
            assert_eq!(
                pods(&cluster),
                before,
                "the pods were adopted before garbage collection"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_set_name_owned_by_another_client_is_avoided() {
    let cluster = FakeCluster::new(330);
    let running = start_controller(&cluster, "serin");
    apply(&cluster, unrouted_rollout("checkout", "v1", 2, steps()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let name = replica_sets(&cluster, "checkout")[0].name_any();
    cluster.delete::<Rollout>(SHOP, "checkout").unwrap();
    cluster
        .wait_until(
            |cluster| {
                cluster.objects::<Pod>().is_empty() && replica_sets(cluster, "checkout").is_empty()
            },
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
    apply(&cluster, foreign);
    let _running = start_controller(&cluster, "serin");
    apply(&cluster, unrouted_rollout("checkout", "v1", 2, steps()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let foreign_set = cluster.get::<ReplicaSet>(SHOP, &name).unwrap();
    assert_eq!(
        foreign_set.owner_references(),
        [],
        "the foreign ReplicaSet is not changed"
    );
    assert_eq!(replica_sets(&cluster, "checkout").len(), 2);
}

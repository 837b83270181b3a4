//! The pods are given back to a Deployment, or left as orphans, without a restart.

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::DeleteParams;

use super::*;

#[tokio::test(start_paused = true)]
async fn available_pods_never_fall_below_replicas_during_takeover_and_give_back() {
    let cluster = cluster_with_deployment(204).await;
    let monitor = FleetMonitor::start(&cluster);
    let running = start_controller(&cluster, "serin");
    apply(&cluster, referring(json!([])));
    for round in 0..2 {
        wait_until_taken_over(&cluster).await;
        cluster.sleep(MINUTE).await;
        let name = format!("back-{round}");
        create_command(&cluster, &name, "checkout", "giveBack");
        let (result, message) = command_outcome(&cluster, &name).await;
        assert_eq!(result, "Done", "{message}");
        wait_for_phase(&cluster, WorkloadPhase::GivenBack).await;
        cluster.sleep(MINUTE).await;
        let deployment = cluster.get::<Deployment>(SHOP, "checkout").unwrap();
        assert_ne!(deployment.spec.unwrap().paused, Some(true));
        assert_eq!(deployment.status.unwrap().updated_replicas, Some(3));
        let sets = active_sets(&cluster);
        assert_eq!(
            (sets.len(), sets[0].owner_references()[0].kind.as_str()),
            (1, "Deployment")
        );
        let name = format!("again-{round}");
        create_command(&cluster, &name, "checkout", "resume");
        let (result, message) = command_outcome(&cluster, &name).await;
        assert_eq!(result, "Done", "{message}");
    }
    wait_until_taken_over(&cluster).await;
    monitor.finish().await;
    running.stop().await;
}

/// The labels and annotations of a side are changed in place, also around a takeover.
#[tokio::test(start_paused = true)]
async fn the_metadata_of_a_side_does_not_prevent_a_return_without_a_restart() {
    let cluster = cluster_with_deployment(221).await;
    let monitor = FleetMonitor::start(&cluster);
    let running = start_controller(&cluster, "serin");
    let mut rollout = referring(json!([]));
    rollout["spec"]["strategy"]["canary"]["stableMetadata"] =
        json!({"labels": {"role": "stable"}, "annotations": {"note": "x"}});
    apply(&cluster, rollout);
    wait_until_taken_over(&cluster).await;
    let have_role = |cluster: &FakeCluster| {
        let pods = cluster.objects::<Pod>();
        pods.iter().all(|pod| {
            pod.labels()
                .get("role")
                .is_some_and(|role| role == "stable")
        })
    };
    cluster.wait_until(have_role, MINUTE).await.unwrap();
    create_command(&cluster, "back", "checkout", "giveBack");
    wait_for_phase(&cluster, WorkloadPhase::GivenBack).await;
    cluster.sleep(MINUTE).await;
    let sets = active_sets(&cluster);
    assert_eq!(sets.len(), 1, "the Deployment recognizes its ReplicaSet");
    assert_eq!(sets[0].owner_references()[0].kind, "Deployment");
    let template = sets[0]
        .spec
        .clone()
        .unwrap()
        .template
        .unwrap()
        .metadata
        .unwrap();
    assert!(!template.labels.unwrap().contains_key("role"));
    assert!(
        template
            .annotations
            .is_none_or(|annotations| annotations.is_empty())
    );
    monitor.finish().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn give_back_restores_services_byte_for_byte() {
    let cluster = cluster_with_deployment(205).await;
    let spec = |plural: &str| {
        let object = cluster.get_json(plural, SHOP, "checkout").unwrap();
        (object["spec"].clone(), object["metadata"]["labels"].clone())
    };
    let before = (spec("services"), spec("httproutes"), spec("deployments"));
    let running = take_over(&cluster, "serin").await;
    create_command(&cluster, "back", "checkout", "giveBack");
    wait_for_phase(&cluster, WorkloadPhase::GivenBack).await;
    assert_eq!(
        (spec("services"), spec("httproutes"), spec("deployments")),
        before
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_point_of_the_give_back_is_finished_by_the_next_controller() {
    let mut writes = usize::MAX;
    let mut killed_after = 0;
    // The first round counts the writes.
    while killed_after <= writes {
        let cluster = cluster_with_deployment(207).await;
        let monitor = FleetMonitor::start(&cluster);
        let first = take_over(&cluster, "serin-0").await;
        cluster.clear_requests();
        if killed_after > 0 {
            cluster.kill_after_writes("serin-0", killed_after);
        }
        create_command(&cluster, "back", "checkout", "giveBack");
        cluster.sleep(20 * SECOND).await;
        if killed_after == 0 {
            wait_for_phase(&cluster, WorkloadPhase::GivenBack).await;
            let made = cluster.writes();
            writes = made
                .iter()
                .filter(|write| write.client == "serin-0")
                .count();
            assert!(writes >= 5, "{writes}");
        }
        first.kill(&cluster);
        let second = start_controller(&cluster, "serin-1");
        wait_for_phase(&cluster, WorkloadPhase::GivenBack).await;
        cluster.sleep(MINUTE).await;
        let sets = active_sets(&cluster);
        assert_eq!(sets.len(), 1, "{killed_after}");
        assert_eq!(sets[0].owner_references()[0].kind, "Deployment");
        monitor.finish().await;
        second.stop().await;
        killed_after += 1;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_rollout_gives_its_pods_back() {
    let cluster = cluster_with_deployment(216).await;
    let monitor = FleetMonitor::start(&cluster);
    let running = take_over(&cluster, "serin").await;
    cluster.delete::<Rollout>(SHOP, "checkout").unwrap();
    wait_until_gone(&cluster).await;
    cluster.sleep(MINUTE).await;
    let deployment = cluster.get::<Deployment>(SHOP, "checkout").unwrap();
    assert_ne!(deployment.spec.unwrap().paused, Some(true));
    assert_eq!(service_selector(&cluster), json!({"app": "checkout"}));
    monitor.finish().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rollout_becomes_a_deployment_that_did_not_exist() {
    let cluster = FakeCluster::new(217);
    create_route(&cluster, "checkout");
    apply(&cluster, stable_service("checkout"));
    let running = start_controller(&cluster, "serin");
    let mut rollout = routed_rollout("checkout", "v1", REPLICAS, json!([]));
    rollout["spec"]["onDelete"] = json!("GiveBack");
    apply(&cluster, rollout);
    wait_until_healthy(&cluster, "checkout", "v1").await;
    cluster.sleep(MINUTE).await;
    let monitor = FleetMonitor::start(&cluster);
    cluster.delete::<Rollout>(SHOP, "checkout").unwrap();
    wait_until_gone(&cluster).await;
    cluster.sleep(MINUTE).await;
    let deployment = cluster.get::<Deployment>(SHOP, "checkout").unwrap();
    assert_ne!(deployment.spec.as_ref().unwrap().paused, Some(true));
    assert_eq!(deployment.status.unwrap().updated_replicas, Some(3));
    monitor.finish().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rollout_that_was_orphaned_and_created_again_takes_its_pods_over() {
    let cluster = FakeCluster::new(218);
    create_route(&cluster, "checkout");
    apply(&cluster, stable_service("checkout"));
    let running = start_controller(&cluster, "serin");
    let rollout = || {
        let steps = json!([{"setWeight": 50}, {"pause": {"duration": "5s"}}]);
        routed_rollout("checkout", "v1", REPLICAS, steps)
    };
    apply(&cluster, rollout());
    wait_until_healthy(&cluster, "checkout", "v1").await;
    cluster.sleep(MINUTE).await;
    let monitor = FleetMonitor::start(&cluster);
    for _ in 0..5 {
        let api: Api<Rollout> = Api::namespaced(cluster.client_for("user"), SHOP);
        api.delete("checkout", &DeleteParams::orphan())
            .await
            .unwrap();
        wait_until_gone(&cluster).await;
        apply(&cluster, rollout());
        wait_until_healthy(&cluster, "checkout", "v1").await;
        assert_eq!(active_sets(&cluster).len(), 1);
    }
    cluster.sleep(MINUTE).await;
    monitor.finish().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn services_are_given_to_the_deployment_with_its_pods() {
    let cluster = cluster_with_deployment(220).await;
    let running = take_over(&cluster, "serin").await;
    create_command(&cluster, "back", "checkout", "giveBack");
    wait_for_phase(&cluster, WorkloadPhase::GivenBack).await;
    let service = cluster.get::<Service>(SHOP, "checkout").unwrap();
    assert_eq!(service.owner_references(), []);
    assert_eq!(service_selector(&cluster), json!({"app": "checkout"}));
    // The Deployment rolls out as before.
    apply(&cluster, deployment("v2"));
    cluster.sleep(MINUTE).await;
    assert_eq!(ready_endpoints(&cluster), 3);
    let pods = cluster.objects::<Pod>();
    for pod in pods {
        let image = pod.spec.unwrap().containers[0].image.clone().unwrap();
        assert!(image.ends_with("v2"), "{image}");
    }
    running.stop().await;
}

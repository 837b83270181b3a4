//! The pods of a Deployment are taken over without a restart.

use kube::Api;
use kube::api::DeleteParams;

use super::*;

#[tokio::test(start_paused = true)]
async fn no_pod_is_restarted_by_a_takeover() {
    let cluster = cluster_with_deployment(201).await;
    let monitor = FleetMonitor::start(&cluster);
    let running = take_over(&cluster, "serin").await;
    cluster.sleep(5 * MINUTE).await;
    let sets = active_sets(&cluster);
    assert_eq!(sets.len(), 1, "{:?}", revision_template(&cluster));
    let owners = sets[0].owner_references();
    assert_eq!((owners.len(), owners[0].kind.as_str()), (1, "Rollout"));
    assert_eq!(status(&cluster, "checkout").replicas, 3);
    for pod in cluster.objects::<Pod>() {
        assert!(pod.labels().contains_key("serin.dev/revision"));
    }
    monitor.finish().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_template_of_the_deployment_is_a_release() {
    release_of_a_changed_template(cluster_with_deployment(202).await).await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_template_of_the_deployment_is_a_release_under_a_policy() {
    let cluster = cluster_with_deployment(212).await;
    let defaults = json!({"progressDeadlineSeconds": 300});
    let policy = json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "RolloutPolicy",
        "metadata": {"name": "platform"}, "spec": {"defaults": defaults},
    });
    apply(&cluster, policy);
    release_of_a_changed_template(cluster).await;
}

async fn release_of_a_changed_template(cluster: FakeCluster) {
    let running = start_controller(&cluster, "serin");
    apply(
        &cluster,
        referring(json!([{"setWeight": 50}, {"pause": {"duration": "5s"}}])),
    );
    wait_until_taken_over(&cluster).await;
    let monitor = TrafficMonitor::start(&cluster, "checkout");
    // As GitOps applies it: `spec.paused` is not in the manifest, and stays.
    cluster
        .edit::<Deployment>(SHOP, "checkout", |deployment| {
            let template = &mut deployment["spec"]["template"];
            template["spec"]["containers"][0]["image"] = json!("shop/checkout:v2");
        })
        .unwrap();
    wait_until_healthy(&cluster, "checkout", "v2").await;
    cluster.sleep(5 * MINUTE).await;
    let deployment = cluster.get::<Deployment>(SHOP, "checkout").unwrap();
    assert_eq!(deployment.spec.unwrap().paused, Some(true));
    assert_eq!(pod_uids(&cluster).len(), 3);
    monitor.finish().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn only_spec_paused_of_the_deployment_is_written() {
    let cluster = cluster_with_deployment(203).await;
    let before = cluster.get_json("deployments", SHOP, "checkout").unwrap();
    let running = take_over(&cluster, "serin").await;
    cluster.sleep(MINUTE).await;
    let mut after = cluster.get_json("deployments", SHOP, "checkout").unwrap();
    assert_eq!(after["spec"]["paused"], true);
    after["spec"].as_object_mut().unwrap().remove("paused");
    assert_eq!(after["spec"], before["spec"]);
    for part in ["labels", "annotations", "finalizers", "ownerReferences"] {
        assert_eq!(after["metadata"][part], before["metadata"][part], "{part}");
    }
    let writes = cluster.writes();
    let to_deployments = writes
        .iter()
        .filter(|write| write.plural == "deployments" && write.client == "serin");
    assert_eq!(to_deployments.count(), 1);
    running.stop().await;
}

/// The number of writes of a takeover or a return.
async fn count_writes(cluster: &FakeCluster, work: impl Future<Output = ()>) -> usize {
    cluster.clear_requests();
    work.await;
    let writes = cluster.writes();
    writes
        .iter()
        .filter(|write| write.client == "serin-0")
        .count()
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_point_of_the_takeover_is_finished_by_the_next_controller() {
    let cluster = cluster_with_deployment(206).await;
    let first = start_controller(&cluster, "serin-0");
    apply(&cluster, referring(json!([])));
    let writes = count_writes(&cluster, wait_until_taken_over(&cluster)).await;
    first.stop().await;
    assert!(writes >= 7, "{writes}");
    for killed_after in 1..=writes {
        let cluster = cluster_with_deployment(206).await;
        let monitor = FleetMonitor::start(&cluster);
        let first = start_controller(&cluster, "serin-0");
        cluster.kill_after_writes("serin-0", killed_after);
        apply(&cluster, referring(json!([])));
        cluster.sleep(10 * SECOND).await;
        first.kill(&cluster);
        let second = start_controller(&cluster, "serin-1");
        wait_until_taken_over(&cluster).await;
        cluster.sleep(MINUTE).await;
        assert_eq!(active_sets(&cluster).len(), 1, "{killed_after}");
        monitor.finish().await;
        second.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rollout_carries_on_after_its_deployment_was_deleted() {
    let cluster = cluster_with_deployment(208).await;
    let monitor = FleetMonitor::start(&cluster);
    let running = take_over(&cluster, "serin-0").await;
    cluster.delete::<Deployment>(SHOP, "checkout").unwrap();
    let message = wait_for_hold(&cluster, HoldCode::WorkloadMissing).await;
    assert!(message.contains("checkout does not exist"), "{message}");
    running.kill(&cluster);
    // A new controller finds the template in the ReplicaSet.
    let running = start_controller(&cluster, "serin-1");
    cluster.sleep(MINUTE).await;
    wait_until_healthy(&cluster, "checkout", "v1").await;
    // The template moves into the Rollout.
    let mut own = adopting("v1");
    own["spec"].as_object_mut().unwrap().remove("adopt");
    apply(&cluster, own);
    cluster.sleep(MINUTE).await;
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let holds = status(&cluster, "checkout").state.holds;
    assert!(holds.is_empty(), "{holds:?}");
    monitor.finish().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_commit_that_replaces_the_kind_keeps_every_pod() {
    let cluster = cluster_with_deployment(209).await;
    let monitor = FleetMonitor::start(&cluster);
    let running = start_controller(&cluster, "serin");
    apply(&cluster, adopting("v1"));
    wait_until_taken_over(&cluster).await;
    // The prune after the sync.
    cluster.delete::<Deployment>(SHOP, "checkout").unwrap();
    cluster.sleep(5 * MINUTE).await;
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let holds = status(&cluster, "checkout").state.holds;
    assert!(holds.is_empty(), "{holds:?}");
    monitor.finish().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_prune_that_orphans_before_the_rollout_exists_keeps_every_pod() {
    let cluster = cluster_with_deployment(210).await;
    let monitor = FleetMonitor::start(&cluster);
    let running = start_controller(&cluster, "serin");
    let api: Api<Deployment> = Api::namespaced(cluster.client_for("user"), SHOP);
    api.delete("checkout", &DeleteParams::orphan())
        .await
        .unwrap();
    cluster.sleep(5 * SECOND).await;
    apply(&cluster, adopting("v1"));
    wait_until_taken_over(&cluster).await;
    cluster.sleep(MINUTE).await;
    monitor.finish().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn another_template_is_released_after_the_takeover() {
    let cluster = cluster_with_deployment(211).await;
    let running = start_controller(&cluster, "serin");
    let before = pod_uids(&cluster);
    apply(&cluster, adopting("v2"));
    wait_for_position(&cluster, "checkout", "Progressing/Progressing").await;
    assert!(before.is_subset(&pod_uids(&cluster)));
    wait_until_healthy(&cluster, "checkout", "v2").await;
    let reasons = event_reasons(&cluster, "checkout");
    let at = |reason: &str| reasons.iter().position(|other| other == reason);
    assert!(at("TakenOver").is_some(), "{reasons:?}");
    assert!(at("TakenOver") < at("ReleaseStarted"), "{reasons:?}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_fleet_scales_the_deployment_down_when_it_serves() {
    let cluster = cluster_with_deployment(219).await;
    let running = start_controller(&cluster, "serin");
    let mut rollout = referring(json!([]));
    rollout["spec"]["workloadRef"]["takeover"] = json!("SecondFleet");
    rollout["spec"]["workloadRef"]["scaleDown"] = json!("onSuccess");
    rollout["spec"]["replicas"] = json!(REPLICAS);
    apply(&cluster, rollout);
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let is_scaled_down = |cluster: &FakeCluster| {
        assert!(ready_endpoints(cluster) >= REPLICAS as usize);
        let deployment = cluster.get::<Deployment>(SHOP, "checkout").unwrap();
        deployment.spec.unwrap().replicas == Some(0)
    };
    cluster.wait_until(is_scaled_down, MINUTE).await.unwrap();
    running.stop().await;
}

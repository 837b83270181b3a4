//! Deployments that are not taken over, or not yet.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_deployment_that_cannot_be_taken_over_is_left_as_it_is() {
    let cluster = cluster_with_deployment(212).await;
    let running = start_controller(&cluster, "serin");
    let before = cluster.get_json("deployments", SHOP, "checkout").unwrap();
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web", "namespace": SHOP},
        "spec": {"maxReplicas": 9, "scaleTargetRef":
            {"apiVersion": "apps/v1", "kind": "Deployment", "name": "checkout"}},
    });
    apply(&cluster, autoscaler.clone());
    apply(&cluster, referring(json!([])));
    let message = wait_for_hold(&cluster, HoldCode::WorkloadAutoscaled).await;
    assert!(
        message.contains("web scales Deployment checkout"),
        "{message}"
    );
    let after = cluster.get_json("deployments", SHOP, "checkout").unwrap();
    assert_eq!(before["spec"], after["spec"]);
    assert_eq!(active_sets(&cluster).len(), 1);
    // The autoscaler scales the Rollout now.
    let mut moved = autoscaler;
    moved["spec"]["scaleTargetRef"] =
        json!({"apiVersion": "serin.dev/v1alpha1", "kind": "Rollout", "name": "checkout"});
    apply(&cluster, moved);
    wait_until_taken_over(&cluster).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deployment_with_strategy_recreate_is_refused() {
    let cluster = cluster_with_deployment(213).await;
    let mut recreate = deployment("v1");
    recreate["spec"]["strategy"] = json!({"type": "Recreate"});
    apply(&cluster, recreate);
    let running = start_controller(&cluster, "serin");
    apply(&cluster, referring(json!([])));
    let message = wait_for_hold(&cluster, HoldCode::WorkloadUnsupported).await;
    assert!(
        message.contains("spec.strategy.type: Recreate"),
        "{message}"
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deployment_in_the_middle_of_an_update_is_awaited() {
    let cluster = cluster_with_deployment(214).await;
    cluster
        .set_pod_behavior("version=v2", serin_fake_cluster::PodBehavior::NeverReady)
        .unwrap();
    let with_version = |version: &str| {
        let mut next = deployment(version);
        next["spec"]["template"]["metadata"]["labels"]["version"] = json!(version);
        next
    };
    apply(&cluster, with_version("v2"));
    let running = start_controller(&cluster, "serin");
    apply(&cluster, referring(json!([])));
    let message = wait_for_hold(&cluster, HoldCode::WorkloadProgressing).await;
    assert!(message.contains("checkout"), "{message}");
    cluster.sleep(MINUTE).await;
    assert_eq!(workload_phase(&cluster), None);
    // The update is undone.
    apply(&cluster, deployment("v1"));
    wait_until_taken_over(&cluster).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn of_two_rollouts_the_oldest_takes_the_deployment_over() {
    let cluster = cluster_with_deployment(215).await;
    let running = take_over(&cluster, "serin").await;
    let mut other = referring(json!([]));
    other["metadata"]["name"] = json!("other");
    other["spec"]["strategy"] = json!({"canary": {}});
    apply(&cluster, other);
    let is_refused = |cluster: &FakeCluster| {
        let holds = status(cluster, "other").state.holds;
        holds
            .iter()
            .any(|hold| hold.code == HoldCode::WorkloadClaimed)
    };
    let refused = cluster.wait_until(is_refused, MINUTE).await;
    assert!(refused.is_ok(), "{:?}", status(&cluster, "other"));
    assert_eq!(active_sets(&cluster).len(), 1);
    running.stop().await;
}

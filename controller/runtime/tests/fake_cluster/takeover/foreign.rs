//! Deployments of somebody else, and Deployments that are too large.

use super::*;

/// Whoever may create Rollouts could otherwise pause every Deployment of the namespace.
#[tokio::test(start_paused = true)]
async fn a_deployment_that_was_never_taken_over_is_not_paused_for_a_deleted_rollout() {
    let cluster = cluster_with_deployment(221).await;
    let running = start_controller(&cluster, "serin");
    let mut rollout = unrouted_rollout("checkout", "v9", 1, json!([]));
    rollout["spec"]["onDelete"] = json!("GiveBack");
    apply(&cluster, rollout);
    wait_until_healthy(&cluster, "checkout", "v9").await;
    let before = cluster.get_json("deployments", SHOP, "checkout").unwrap();
    cluster.clear_requests();
    cluster.delete::<Rollout>(SHOP, "checkout").unwrap();
    let is_gone = |cluster: &FakeCluster| cluster.get::<Rollout>(SHOP, "checkout").is_none();
    cluster
        .wait_until(is_gone, 60 * MINUTE)
        .await
        .expect("the finalizer does not stay forever");
    let writes = cluster.writes().into_iter();
    let of_deployments: Vec<_> = writes
        .filter(|write| write.client == "serin" && write.plural == "deployments")
        .collect();
    assert_eq!(of_deployments, []);
    let after = cluster.get_json("deployments", SHOP, "checkout").unwrap();
    assert_eq!(before["spec"], after["spec"]);
    running.stop().await;
}

/// Every Rollout with a workload keeps its Deployment in memory.
#[tokio::test(start_paused = true)]
async fn a_deployment_that_is_too_large_is_refused_with_limit_and_fix() {
    let cluster = FakeCluster::new(222);
    create_route(&cluster, "checkout");
    let mut large = deployment("v1");
    large["spec"]["template"]["spec"]["containers"][0]["args"] = json!(vec![""; 25_000]);
    apply(&cluster, large);
    let running = start_controller(&cluster, "serin");
    apply(&cluster, adopting("v1"));
    let message = wait_for_hold(&cluster, HoldCode::WorkloadUnsupported).await;
    assert!(
        message.contains("Deployment checkout is not taken over")
            && message.contains("more than 20000 values"),
        "{message}"
    );
    let mut other = referring(json!([]));
    other["metadata"]["name"] = json!("other");
    other["spec"]["strategy"] = json!({"canary": {}});
    apply(&cluster, other);
    let is_refused = |cluster: &FakeCluster| {
        condition(cluster, "other", "InvalidSpec").is_some_and(|(holds, _, message)| {
            holds == "True" && message.contains("more than 20000 values")
        })
    };
    let refused = cluster.wait_until(is_refused, MINUTE).await;
    assert!(refused.is_ok(), "{:?}", status(&cluster, "other"));
    running.stop().await;
}

//! The command `restart`, and `spec.restartAt`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;
use serin_fake_cluster::{FakeCluster, Fault};

use crate::fixtures::*;
use crate::harness::*;

fn pod_names(cluster: &FakeCluster) -> BTreeSet<String> {
    let pods = cluster.objects::<Pod>();
    let active = pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none());
    active.map(ResourceExt::name_any).collect()
}

async fn stable_rollout(cluster: &FakeCluster) -> RunningController {
    create_route(cluster, "checkout");
    let running = start_controller(cluster, "serin");
    let rollout = routed_rollout("checkout", "v1", 4, json!([{"setWeight": 50}]));
    apply(cluster, rollout);
    wait_until_healthy(cluster, "checkout", "v1").await;
    cluster.sleep(MINUTE).await;
    running
}

#[tokio::test(start_paused = true)]
async fn a_restart_replaces_all_pods_under_traffic() {
    let cluster = FakeCluster::new(81);
    let _running = stable_rollout(&cluster).await;
    let monitor = TrafficMonitor::start(&cluster, "checkout");
    let before = pod_names(&cluster);
    create_command(&cluster, "again", "checkout", "restart");
    let (outcome, message) = command_outcome(&cluster, "again").await;
    assert_eq!(outcome, "Done", "{message}");
    wait_for_position(&cluster, "checkout", "Progressing/Stable").await;
    wait_until_healthy(&cluster, "checkout", "v1").await;
    cluster.sleep(MINUTE).await;
    let after = pod_names(&cluster);
    assert_eq!(after.len(), 4);
    assert!(before.is_disjoint(&after), "{before:?} {after:?}");
    assert_eq!(
        replica_sets(&cluster, "checkout").len(),
        1,
        "no new revision"
    );
    assert_eq!(
        event_reasons(&cluster, "checkout")
            .last()
            .map(String::as_str),
        Some("Restarted")
    );
    monitor.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_waits_for_the_disruption_budget() {
    let cluster = FakeCluster::new(82);
    let _running = stable_rollout(&cluster).await;
    let before = pod_names(&cluster);
    let budget = Fault::on("create", "pods").subresource("eviction");
    cluster.inject(budget.status(429).always());
    create_command(&cluster, "again", "checkout", "restart");
    cluster.sleep(5 * MINUTE).await;
    assert!(before.is_subset(&pod_names(&cluster)), "a pod was evicted");
    let message = condition(&cluster, "checkout", "Reconciling").unwrap().2;
    assert!(message.contains("EvictPod"), "{message}");
    cluster.clear_faults();
    wait_until_healthy(&cluster, "checkout", "v1").await;
    cluster.sleep(MINUTE).await;
    assert!(before.is_disjoint(&pod_names(&cluster)));
}

#[tokio::test(start_paused = true)]
async fn a_restart_time_in_the_spec_replaces_all_pods_once() {
    let cluster = FakeCluster::new(83);
    let _running = stable_rollout(&cluster).await;
    let before = pod_names(&cluster);
    let declared = |cluster: &FakeCluster| {
        let mut rollout = routed_rollout("checkout", "v1", 4, json!([{"setWeight": 50}]));
        let at = cluster
            .now()
            .checked_add(jiff::SignedDuration::from_secs(30))
            .unwrap();
        rollout["spec"]["restartAt"] = json!(at.to_string());
        rollout
    };
    let monitor = TrafficMonitor::start(&cluster, "checkout");
    apply(&cluster, declared(&cluster));
    cluster.sleep(20 * SECOND).await;
    assert_eq!(pod_names(&cluster), before, "before its time");
    wait_for_position(&cluster, "checkout", "Progressing/Stable").await;
    wait_until_healthy(&cluster, "checkout", "v1").await;
    wait_for_event(&cluster, "checkout", "Restarted").await;
    // The additional pod of the restart ends.
    cluster.sleep(MINUTE).await;
    let after = pod_names(&cluster);
    assert!(before.is_disjoint(&after), "{before:?} {after:?}");
    cluster.sleep(10 * MINUTE).await;
    assert_eq!(pod_names(&cluster), after, "once");
    assert!(status(&cluster, "checkout").state.restarted_at.is_some());
    assert_eq!(
        replica_sets(&cluster, "checkout").len(),
        1,
        "no new revision"
    );
    monitor.finish().await;
}

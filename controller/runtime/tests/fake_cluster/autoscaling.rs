//! What autoscalers read through the `scale` subresource.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;
use serin_crds::names::REVISION_LABEL;
use serin_fake_cluster::FakeCluster;

use crate::fixtures::*;
use crate::harness::*;

/// `spec.replicas`, `status.replicas`, and the selector of the Rollout.
fn scale(cluster: &FakeCluster) -> (u64, u64, String) {
    let rollout = cluster.get_json("rollouts", SHOP, "checkout").unwrap();
    let count = |pointer: &str| rollout.pointer(pointer).unwrap().as_u64().unwrap();
    let selector = rollout["status"]["selector"].as_str().unwrap();
    (
        count("/spec/replicas"),
        count("/status/replicas"),
        selector.to_owned(),
    )
}

/// The number of pods that the selector finds.
fn selected_pods(cluster: &FakeCluster, selector: &str) -> usize {
    let revisions = selector
        .split_once(&format!("{REVISION_LABEL} in ("))
        .map(|(_, rest)| rest.trim_end_matches(')'));
    let pods = cluster.objects::<Pod>().into_iter();
    let is_selected = |pod: &Pod| {
        let revision = pod.labels().get(REVISION_LABEL);
        let is_found = |revisions: &str| {
            let mut names = revisions.split(',');
            names.any(|name| revision.is_some_and(|revision| revision == name))
        };
        revisions.is_none_or(is_found)
    };
    pods.filter(is_selected).count()
}

#[tokio::test(start_paused = true)]
async fn an_autoscaler_reads_spec_replicas_and_the_sides_with_requests() {
    let cluster = FakeCluster::new(71);
    create_route(&cluster, "checkout");
    let _running = start_controller(&cluster, "serin");
    let steps = || json!([{"setWeight": 0}, {"setCanaryScale": {"replicas": 2}}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}]);
    apply(&cluster, routed_rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    cluster.sleep(MINUTE).await;
    assert_eq!(scale(&cluster), (4, 4, "app=checkout".to_owned()));

    apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/2").await;
    cluster.sleep(MINUTE).await;
    let (spec, status, selector) = scale(&cluster);
    assert_eq!((spec, status), (4, 4));
    assert_eq!(cluster.objects::<Pod>().len(), 6);
    assert_eq!(selected_pods(&cluster, &selector), 4, "{selector}");

    create_command(&cluster, "go", "checkout", "promote");
    wait_for_position(&cluster, "checkout", "Paused/Progressing/4").await;
    cluster.sleep(MINUTE).await;
    assert_eq!(scale(&cluster), (4, 4, "app=checkout".to_owned()));
    assert_eq!(cluster.objects::<Pod>().len(), 6);

    create_command(&cluster, "stop", "checkout", "abort");
    wait_for_position(&cluster, "checkout", "Degraded/Aborted").await;
    cluster.sleep(MINUTE).await;
    assert_eq!(scale(&cluster), (4, 4, "app=checkout".to_owned()));
    assert_eq!(cluster.objects::<Pod>().len(), 4);
}

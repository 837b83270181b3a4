//! Labels and annotations of one side of a release are changed in place, without a restart.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use serin_fake_cluster::FakeCluster;

use crate::fixtures::*;
use crate::harness::*;

const NAME: &str = "checkout";

fn rollout(version: &str, replicas: u32) -> Value {
    let mut rollout = routed_rollout(
        NAME,
        version,
        replicas,
        json!([{"setWeight": 50}, {"pause": {}}]),
    );
    let canary = &mut rollout["spec"]["strategy"]["canary"];
    canary["scaleDownDelaySeconds"] = json!(60);
    canary["canaryMetadata"] =
        json!({"labels": {"role": "canary", "trial": "yes"}, "annotations": {"note": "new"}});
    canary["stableMetadata"] = json!({"labels": {"role": "stable"}});
    rollout
}

fn active_pods(cluster: &FakeCluster) -> Vec<Pod> {
    let mut pods = cluster.objects::<Pod>();
    pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    pods
}

/// The values of a label of the pods of each version.
fn labels(cluster: &FakeCluster, label: &str) -> BTreeMap<String, BTreeSet<Option<String>>> {
    let mut found: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for pod in active_pods(cluster) {
        let image = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.containers[0].image.clone());
        let image = image.unwrap();
        let version = image.rsplit(':').next().unwrap().to_owned();
        let value = pod.labels().get(label).cloned();
        found.entry(version).or_default().insert(value);
    }
    found
}

/// Each version with the only value that its pods should have.
fn expected(values: &[(&str, Option<&str>)]) -> BTreeMap<String, BTreeSet<Option<String>>> {
    let values = values.iter();
    values
        .map(|(version, value)| ((*version).to_owned(), [value.map(str::to_owned)].into()))
        .collect()
}

fn uids(cluster: &FakeCluster) -> BTreeSet<String> {
    active_pods(cluster)
        .iter()
        .filter_map(ResourceExt::uid)
        .collect()
}

async fn wait_for_labels(cluster: &FakeCluster, label: &str, values: &[(&str, Option<&str>)]) {
    let expected = expected(values);
    let are_set = |cluster: &FakeCluster| labels(cluster, label) == expected;
    let waited = cluster.wait_until(are_set, 2 * MINUTE).await;
    assert!(
        waited.is_ok(),
        "{:?} instead of {expected:?}",
        labels(cluster, label)
    );
}

/// A Rollout whose release of v2 is paused at 50 %.
async fn paused_release(cluster: &FakeCluster, replicas: u32) -> RunningController {
    create_route(cluster, NAME);
    let running = start_controller(cluster, "serin");
    apply(cluster, rollout("v1", replicas));
    wait_until_healthy(cluster, NAME, "v1").await;
    apply(cluster, rollout("v2", replicas));
    wait_for_position(cluster, NAME, "Paused/Progressing/1").await;
    running
}

#[tokio::test(start_paused = true)]
async fn a_promotion_changes_the_labels_of_pods_without_restarting_them() {
    let cluster = FakeCluster::new(601);
    let running = paused_release(&cluster, 4).await;
    let sides = [("v1", Some("stable")), ("v2", Some("canary"))];
    assert_eq!(labels(&cluster, "role"), expected(&sides));
    assert_eq!(
        labels(&cluster, "trial"),
        expected(&[("v1", None), ("v2", Some("yes"))])
    );
    let before = uids(&cluster);
    create_command(&cluster, "go-on", NAME, "promote");
    // The old pods drain for a minute, and are on no side.
    wait_for_labels(&cluster, "role", &[("v1", None), ("v2", Some("stable"))]).await;
    assert_eq!(
        labels(&cluster, "trial"),
        expected(&[("v1", None), ("v2", None)])
    );
    assert!(before.is_subset(&uids(&cluster)), "a pod was restarted");
    let notes = active_pods(&cluster).into_iter();
    let mut notes = notes.filter_map(|pod| pod.annotations().get("note").cloned());
    assert_eq!(notes.next(), None, "an annotation of the canary is left");
    cluster.sleep(2 * MINUTE).await;

    // The metadata is no part of the revision: the return to v1 finds its ReplicaSet.
    apply(&cluster, rollout("v1", 4));
    wait_for_position(&cluster, NAME, "Paused/Progressing/1").await;
    let sides = [("v1", Some("canary")), ("v2", Some("stable"))];
    assert_eq!(labels(&cluster, "role"), expected(&sides));
    assert_eq!(replica_sets(&cluster, NAME).len(), 2);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_edit_of_the_metadata_starts_no_release_and_reaches_every_pod() {
    let cluster = FakeCluster::new(602);
    create_route(&cluster, NAME);
    let running = start_controller(&cluster, "serin");
    // More pods than one reconcile patches.
    apply(&cluster, rollout("v1", 150));
    wait_until_healthy(&cluster, NAME, "v1").await;
    let before = uids(&cluster);
    let mut edited = rollout("v1", 150);
    edited["spec"]["strategy"]["canary"]["stableMetadata"] = json!({"labels": {"tier": "web"}});
    apply(&cluster, edited);
    wait_for_labels(&cluster, "tier", &[("v1", Some("web"))]).await;
    assert_eq!(labels(&cluster, "role"), expected(&[("v1", None)]));
    assert_eq!(uids(&cluster), before);
    assert!(!event_reasons(&cluster, NAME).contains(&"ReleaseStarted".to_owned()));

    // Without a setting everything is as it was, and nothing is written any more.
    apply(
        &cluster,
        routed_rollout(NAME, "v1", 150, json!([{"setWeight": 50}, {"pause": {}}])),
    );
    wait_for_labels(&cluster, "tier", &[("v1", None)]).await;
    cluster.sleep(MINUTE).await;
    cluster.clear_requests();
    cluster.sleep(10 * MINUTE).await;
    assert!(
        cluster
            .writes()
            .iter()
            .all(|write| write.plural == "leases")
    );
    let added = |pod: &Pod| {
        pod.annotations()
            .keys()
            .any(|key| key.starts_with("serin.dev/added"))
    };
    assert!(!active_pods(&cluster).iter().any(added));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn metadata_that_would_take_pods_away_is_refused_and_never_written() {
    let cluster = FakeCluster::new(603);
    let running = paused_release(&cluster, 2).await;
    let before = labels(&cluster, "app");
    let mut broken = rollout("v2", 2);
    broken["spec"]["strategy"]["canary"]["stableMetadata"] = json!({"labels": {"app": "other"}});
    apply(&cluster, broken);
    let is_refused = |cluster: &FakeCluster| {
        let message = status(cluster, NAME).state.message;
        message.contains("spec.selector uses this label")
    };
    cluster.wait_until(is_refused, MINUTE).await.unwrap();
    // Pods that are created meanwhile are created without it, too.
    create_command(&cluster, "stop", NAME, "abort");
    cluster.sleep(MINUTE).await;
    assert_eq!(labels(&cluster, "app").get("v1"), before.get("v1"));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_write_of_a_promotion_is_finished_by_the_next_controller() {
    for killed_after in 1..14 {
        let cluster = FakeCluster::new(604);
        let first = paused_release(&cluster, 2).await;
        let before = uids(&cluster);
        cluster.clear_requests();
        cluster.kill_after_writes("serin", killed_after);
        create_command(&cluster, "go-on", NAME, "promote");
        cluster.sleep(20 * SECOND).await;
        first.kill(&cluster);
        let second = start_controller(&cluster, "serin-1");
        wait_for_labels(&cluster, "role", &[("v1", None), ("v2", Some("stable"))]).await;
        assert!(before.is_subset(&uids(&cluster)), "{killed_after}");
        second.stop().await;
    }
}

//! Volumes that cannot be mounted, which only Events report.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;
use serin_crds::names::REVISION_LABEL;
use serin_fake_cluster::{FakeCluster, Fault, PodBehavior, RequestRecord};

use crate::fixtures::*;
use crate::harness::*;
use crate::situations::status_json;

fn steps() -> serde_json::Value {
    json!([{"setWeight": 20}, {"pause": {"duration": "10s"}}])
}

/// A release of `v2` whose pods cannot mount a volume.
async fn start_release_with_missing_config_map(cluster: &FakeCluster) -> RunningController {
    create_route(cluster, "checkout");
    let running = start_controller(cluster, "serin");
    apply(cluster, routed_rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(cluster, "checkout", "v1").await;
    assert_eq!(event_lists(cluster), 0, "a healthy Rollout reads no Events");
    let stable = status_json(cluster)["stableRevision"].clone();
    let stable = stable.as_str().unwrap();
    let canary = format!("{REVISION_LABEL}!={stable}");
    cluster
        .set_pod_behavior(&canary, PodBehavior::ContainerCreating)
        .unwrap();
    apply(cluster, routed_rollout("checkout", "v2", 4, steps()));
    let pods = || {
        let all = cluster.objects::<Pod>().into_iter();
        all.filter(|pod| pod.labels().get(REVISION_LABEL).map(String::as_str) != Some(stable))
            .collect::<Vec<_>>()
    };
    cluster
        .wait_until(|_| !pods().is_empty(), MINUTE)
        .await
        .unwrap();
    for pod in pods() {
        let message = "MountVolume.SetUp failed for volume \"config\" : configmap \"missing\" not \
                       found";
        apply(
            cluster,
            json!({
                "apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": "FailedMount",
                "metadata": {"name": format!("{}.1", pod.name_any()), "namespace": SHOP},
                "involvedObject": {"kind": "Pod", "name": pod.name_any(), "uid": pod.uid()},
                "lastTimestamp": cluster.now().to_string(), "message": message,
            }),
        );
    }
    running
}

fn event_lists(cluster: &FakeCluster) -> usize {
    let requests = cluster.requests();
    let is_list = |request: &&RequestRecord| request.plural == "events" && request.verb == "list";
    requests.iter().filter(is_list).count()
}

fn first_hold(cluster: &FakeCluster) -> (String, String) {
    let first = status_json(cluster)["holds"][0].clone();
    let text = |field: &str| first[field].as_str().unwrap_or_default().to_owned();
    (text("code"), text("message"))
}

async fn ensure_release_completes_once_mounted(cluster: &FakeCluster) {
    cluster
        .set_pod_behavior("app=checkout", PodBehavior::Ready(SECOND))
        .unwrap();
    wait_until_healthy(cluster, "checkout", "v2").await;
    cluster.sleep(MINUTE).await;
    let before = event_lists(cluster);
    cluster.sleep(10 * MINUTE).await;
    assert_eq!(event_lists(cluster), before, "nothing waits for pods");
}

#[tokio::test(start_paused = true)]
async fn a_missing_config_map_of_a_volume_is_reported_as_the_cause() {
    let cluster = FakeCluster::new(91);
    let _running = start_release_with_missing_config_map(&cluster).await;
    let is_reported = |cluster: &FakeCluster| first_hold(cluster).0 == "VolumeMountFailed";
    cluster.wait_until(is_reported, MINUTE).await.unwrap();
    let (_, message) = first_hold(&cluster);
    for part in [
        "pod checkout-",
        "cannot mount volume config: configmap \"missing\" not found",
        "Create what is missing",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let is_published = |cluster: &FakeCluster| {
        event_reasons(cluster, "checkout").contains(&"VolumeMountFailed".to_owned())
    };
    cluster.wait_until(is_published, MINUTE).await.unwrap();
    let before = event_lists(&cluster);
    cluster.sleep(5 * MINUTE).await;
    let lists = event_lists(&cluster) - before;
    assert!((9..=11).contains(&lists), "one list per 30 s: {lists}");
    assert_eq!(first_hold(&cluster).0, "VolumeMountFailed");
    ensure_release_completes_once_mounted(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_may_not_list_events_continues_without_the_cause() {
    let cluster = FakeCluster::new(92);
    cluster.inject(Fault::on("list", "events").always().status(403));
    let _running = start_release_with_missing_config_map(&cluster).await;
    cluster.sleep(2 * MINUTE).await;
    assert!(event_lists(&cluster) > 0);
    assert_eq!(first_hold(&cluster).0, "PodsNotAvailable");
    assert_eq!(position(&cluster, "checkout"), "Progressing/Progressing/0");
    ensure_release_completes_once_mounted(&cluster).await;
}

/// An abort is not delayed by a list that gets no answer.
#[tokio::test(start_paused = true)]
async fn a_hanging_list_of_events_does_not_hold_up_the_release() {
    let cluster = FakeCluster::new(93);
    cluster.inject(Fault::on("list", "events").always().hangs());
    let _running = start_release_with_missing_config_map(&cluster).await;
    cluster.sleep(2 * MINUTE).await;
    assert!(event_lists(&cluster) > 0);
    create_command(&cluster, "stop", "checkout", "abort");
    wait_for_position(&cluster, "checkout", "Degraded/Aborted").await;
    apply(&cluster, routed_rollout("checkout", "v3", 4, steps()));
    cluster
        .set_pod_behavior("app=checkout", PodBehavior::Ready(SECOND))
        .unwrap();
    wait_until_healthy(&cluster, "checkout", "v3").await;
}

//! Baseline pods: stable pods that start together with the canary's.

use serde_json::{Value, json};
use serin_fake_cluster::FakeCluster;
use tokio::task::JoinHandle;

use crate::crash::{Crash, crash_at_any_write};
use crate::fixtures::*;
use crate::harness::*;

/// Four pods, of which two are the canary's, and two baseline pods.
fn rollout_with_baseline(version: &str, steps: Value) -> Value {
    let mut rollout = analyzed_rollout("checkout", version, 4, steps);
    rollout["spec"]["analysis"] = json!({
        "baseline": {"replicas": 2},
        "objectives": [{"name": "availability", "objective": 99.9, "indicator": "pod"}],
    });
    rollout
}

fn timed_steps() -> Value {
    json!([{"setWeight": 50}, {"pause": {"duration": "20s"}}])
}

async fn deploy_v1(cluster: &FakeCluster) -> RunningController {
    create_route(cluster, "checkout");
    let running = start_controller(cluster, "serin-0");
    apply(cluster, rollout_with_baseline("v1", timed_steps()));
    wait_until_healthy(cluster, "checkout", "v1").await;
    running
}

fn has_baseline(cluster: &FakeCluster) -> bool {
    replicas_by_version(cluster, "checkout").get("v1") == Some(&6)
}

/// Whether the baseline starts, once it is known.
struct BaselineStarted(JoinHandle<bool>);

#[tokio::test(start_paused = true)]
async fn baseline_pods_start_and_end_with_a_release_after_a_crash_at_any_write() {
    let prepare = async |cluster: &FakeCluster| {
        let first = deploy_v1(cluster).await;
        let monitor = TrafficMonitor::start(cluster, "checkout");
        cluster.sleep(10 * SECOND).await;
        (first, monitor)
    };
    let begin = async |cluster: &FakeCluster| {
        let started = tokio::spawn({
            let cluster = cluster.clone();
            async move { cluster.wait_until(has_baseline, 5 * MINUTE).await.is_ok() }
        });
        apply(cluster, rollout_with_baseline("v2", timed_steps()));
        BaselineStarted(started)
    };
    let check = async |crash: &Crash, BaselineStarted(started): BaselineStarted| {
        let (cluster, writes) = (&crash.cluster, crash.writes);
        wait_until_healthy(cluster, "checkout", "v2").await;
        cluster.sleep(30 * SECOND).await;
        assert_eq!(
            replicas_by_version(cluster, "checkout"),
            [("v1".into(), 0), ("v2".into(), 4)].into(),
            "killed at write {writes}"
        );
        assert!(started.await.unwrap(), "killed at write {writes}");
    };
    let writes = crash_at_any_write(700, prepare, begin, check).await;
    assert!(writes > 8, "{writes}");
}

#[tokio::test(start_paused = true)]
async fn baseline_pods_end_with_an_abort_after_a_crash_at_any_write() {
    let prepare = async |cluster: &FakeCluster| {
        let first = deploy_v1(cluster).await;
        let monitor = TrafficMonitor::start(cluster, "checkout");
        let paused = json!([{"setWeight": 50}, {"pause": {}}]);
        apply(cluster, rollout_with_baseline("v2", paused));
        wait_for_position(cluster, "checkout", "Paused/Progressing/1").await;
        cluster.sleep(MINUTE).await;
        assert!(has_baseline(cluster));
        let request = first.analyzer.last_request("checkout").unwrap();
        let since = request.baseline_since.unwrap();
        assert!(since < cluster.now() && request.pods_created_at.len() == 8);
        let young = request
            .pods_created_at
            .values()
            .filter(|created_at| created_at.as_second() >= since.as_second());
        assert_eq!(young.count(), 4, "two of each side");
        (first, monitor)
    };
    let begin = async |cluster: &FakeCluster| create_command(cluster, "stop", "checkout", "abort");
    let check = async |crash: &Crash, ()| {
        let (cluster, writes) = (&crash.cluster, crash.writes);
        let (result, message) = command_outcome(cluster, "stop").await;
        assert_eq!(result, "Done", "killed at write {writes}: {message}");
        cluster.sleep(MINUTE).await;
        assert_eq!(
            replicas_by_version(cluster, "checkout"),
            [("v1".into(), 4), ("v2".into(), 0)].into(),
            "killed at write {writes}"
        );
        let request = crash.second.analyzer.last_request("checkout");
        assert!(request.is_none_or(|request| request.baseline_since.is_none()));
    };
    let writes = crash_at_any_write(800, prepare, begin, check).await;
    assert!(writes >= 5, "{writes}");
}

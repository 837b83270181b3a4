//! Limits for the number of writes to the API server. An idle fleet must not write at all.

use std::collections::BTreeMap;

use serde_json::json;
use serin_fake_cluster::{FakeCluster, RequestRecord};

use crate::fixtures::*;
use crate::harness::*;

/// Counts the successful writes by verb and resource.
fn count_writes(cluster: &FakeCluster) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for write in cluster
        .writes()
        .into_iter()
        .filter(|write| !is_rejected(write))
    {
        let part = write
            .subresource
            .map(|part| format!("/{part}"))
            .unwrap_or_default();
        *counts
            .entry(format!("{} {}{part}", write.verb, write.plural))
            .or_default() += 1;
    }
    counts
}

/// Whether a write conflicted with another controller. It has no effect and is retried after the
/// next watch event. The number of such writes depends on a race of some milliseconds.
fn is_rejected(write: &RequestRecord) -> bool {
    [409, 422].contains(&write.code)
}

/// All writes in order, for assertion messages.
fn list_writes(cluster: &FakeCluster) -> Vec<String> {
    let lines = cluster.writes().into_iter().map(|write| {
        let part = write
            .subresource
            .map(|part| format!("/{part}"))
            .unwrap_or_default();
        format!(
            "{} {} {}{part} {} ({})",
            write.at, write.verb, write.plural, write.object, write.code
        )
    });
    lines.collect()
}

/// Writes of a release with two steps and two timed pauses, without a router, of which at most this
/// number are of the status.
async fn measure_unrouted_release(
    seed: u64,
    replicas: u32,
    max_status_writes: usize,
) -> (BTreeMap<String, usize>, Vec<String>) {
    let cluster = FakeCluster::new(seed);
    let _running = start_controller(&cluster, "serin");
    let steps = || json!([{"setWeight": 20}, {"pause": {"duration": "5s"}}, {"setWeight": 50}, {"pause": {"duration": "5s"}}]);
    apply(
        &cluster,
        unrouted_rollout("checkout", "v1", replicas, steps()),
    );
    wait_until_healthy(&cluster, "checkout", "v1").await;
    cluster.sleep(MINUTE).await;
    cluster.clear_requests();
    apply(
        &cluster,
        unrouted_rollout("checkout", "v2", replicas, steps()),
    );
    wait_until_healthy(&cluster, "checkout", "v2").await;
    cluster.sleep(5 * MINUTE).await;
    let (counts, writes) = (count_writes(&cluster), list_writes(&cluster));
    // The counts leave out pods that are about to be deleted, so that nothing is left to report
    // after the last transition.
    assert!(
        counts["patch rollouts/status"] <= max_status_writes,
        "one per transition: {writes:#?}"
    );
    let dry_runs = cluster.requests().into_iter();
    let dry_runs = dry_runs.filter(|request| request.dry_run).count();
    assert_eq!(dry_runs, 1, "the template is new");
    let refused = cluster
        .writes()
        .iter()
        .filter(|write| is_rejected(write))
        .count();
    assert!(refused <= 2, "{writes:#?}");
    (counts, writes)
}

#[tokio::test(start_paused = true)]
async fn a_release_with_two_steps_and_two_timed_pauses_needs_at_most_ten_writes() {
    let (counts, writes) = measure_unrouted_release(41, 1, 5).await;
    let dry_run = 1;
    assert!(
        counts.values().sum::<usize>() + dry_run <= 10,
        "{writes:#?}"
    );
}

/// For a list by label, the API server visits every ReplicaSet of the namespace.
#[tokio::test(start_paused = true)]
async fn a_new_template_causes_no_list_of_replica_sets() {
    let cluster = FakeCluster::new(46);
    let _running = start_controller(&cluster, "serin");
    apply(&cluster, unrouted_rollout("checkout", "v1", 2, json!([])));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    cluster.clear_requests();
    apply(&cluster, unrouted_rollout("checkout", "v2", 2, json!([])));
    wait_until_healthy(&cluster, "checkout", "v2").await;
    let count = |matches: fn(&RequestRecord) -> bool| {
        let requests = cluster.requests().into_iter();
        let of_sets = requests.filter(|request| request.plural == "replicasets");
        of_sets.filter(matches).count()
    };
    assert_eq!(count(|request| request.dry_run), 1, "the template is new");
    assert_eq!(count(|request| request.verb == "list"), 0);
}

#[tokio::test(start_paused = true)]
async fn more_pods_add_only_scaling_writes() {
    let (counts, writes) = measure_unrouted_release(45, 4, 6).await;
    let scaling = counts["patch replicasets"] + counts["create replicasets"];
    assert!(
        scaling <= 8,
        "three sizes per side and the surge in between: {writes:#?}"
    );
    assert!(
        counts.values().sum::<usize>() - scaling <= 8,
        "six status writes, because the second step waits for pods, and two Events: {writes:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_routed_release_with_two_steps_and_two_timed_pauses_needs_few_writes() {
    let cluster = FakeCluster::new(44);
    create_route(&cluster, "checkout");
    let _running = start_controller(&cluster, "serin");
    let steps = || json!([{"setWeight": 25}, {"pause": {"duration": "60s"}}, {"setWeight": 50}, {"pause": {"duration": "60s"}}]);
    apply(&cluster, routed_rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    cluster.sleep(MINUTE).await;
    cluster.clear_requests();
    apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
    wait_until_healthy(&cluster, "checkout", "v2").await;
    cluster.sleep(5 * MINUTE).await;
    let counts = count_writes(&cluster);
    assert_eq!(
        counts["patch httproutes"], 4,
        "25, 50, 100, and restored: {counts:#?}"
    );
    assert!(counts["patch rollouts/status"] <= 9, "{counts:#?}");
    assert_eq!(
        counts["patch rollouts"], 2,
        "add and remove the finalizer: {counts:#?}"
    );
    assert!(
        counts.values().sum::<usize>() - counts["patch httproutes"] <= 19,
        "{counts:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_rollout_causes_no_writes() {
    let cluster = FakeCluster::new(42);
    create_route(&cluster, "checkout");
    let _running = start_controller(&cluster, "serin");
    apply(
        &cluster,
        routed_rollout(
            "checkout",
            "v1",
            4,
            json!([{"setWeight": 20}, {"pause": {}}]),
        ),
    );
    wait_until_healthy(&cluster, "checkout", "v1").await;
    cluster.sleep(MINUTE).await;
    cluster.clear_requests();
    cluster.sleep(60 * MINUTE).await;
    assert_eq!(cluster.writes(), []);
    apply(
        &cluster,
        routed_rollout(
            "checkout",
            "v2",
            4,
            json!([{"setWeight": 20}, {"pause": {}}]),
        ),
    );
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    cluster.sleep(MINUTE).await;
    cluster.clear_requests();
    cluster.sleep(60 * MINUTE).await;
    assert_eq!(cluster.writes(), [], "a manual pause causes no writes");
}

#[tokio::test(start_paused = true)]
async fn stale_caches_cause_no_repeated_writes() {
    let cluster = FakeCluster::new(43);
    cluster.tune(|tuning| tuning.watch_lag = SECOND..2 * SECOND);
    create_route(&cluster, "checkout");
    let _running = start_controller(&cluster, "serin");
    apply(
        &cluster,
        routed_rollout(
            "checkout",
            "v1",
            4,
            json!([{"setWeight": 20}, {"pause": {"duration": "10s"}}]),
        ),
    );
    wait_until_healthy(&cluster, "checkout", "v1").await;
    cluster.sleep(MINUTE).await;
    cluster.clear_requests();
    apply(
        &cluster,
        routed_rollout(
            "checkout",
            "v2",
            4,
            json!([{"setWeight": 20}, {"pause": {"duration": "10s"}}]),
        ),
    );
    wait_until_healthy(&cluster, "checkout", "v2").await;
    cluster.sleep(MINUTE).await;
    let counts = count_writes(&cluster);
    assert_eq!(counts["create replicasets"], 1, "{counts:#?}");
    assert_eq!(
        counts["patch httproutes"], 3,
        "20, 100, and restored: {counts:#?}"
    );
    let conflicts = cluster
        .writes()
        .iter()
        .filter(|write| is_rejected(write))
        .count();
    assert!(conflicts <= 2, "{conflicts} conflicts: {counts:#?}");
}

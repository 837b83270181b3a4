//! Clusters without the Gateway API, and clusters in which it is installed or removed at run time.
//! Source: on a cluster without its CRDs the controller never started; kube-rs reports the API
//! server's plain-text 404 with an unknown reason.

use serde_json::json;
use serin_fake_cluster::{FakeCluster, Fault};

use crate::fixtures::*;
use crate::harness::*;

const ROUTES: &str = "httproutes";
/// Longer than the interval between two lookups of a missing kind.
const DISCOVERY_TIMEOUT: std::time::Duration = MINUTE;

fn message(cluster: &FakeCluster, name: &str) -> String {
    status(cluster, name).state.message.into()
}

fn steps() -> serde_json::Value {
    json!([{"setWeight": 20}, {"pause": {"duration": "30s"}}])
}

/// Waits until the status reports that the Gateway API is not installed.
async fn wait_for_install_hint(cluster: &FakeCluster, name: &str) {
    let reported = cluster
        .wait_until(
            |cluster| message(cluster, name).contains("install the CRDs of the Gateway API"),
            DISCOVERY_TIMEOUT,
        )
        .await;
    assert!(reported.is_ok(), "{}", message(cluster, name));
}

#[tokio::test(start_paused = true)]
async fn rollouts_without_a_router_run_immediately_without_the_gateway_api() {
    let cluster = FakeCluster::new(70);
    cluster.set_served_versions(ROUTES, &[]);
    let _running = start_controller(&cluster, "serin-0");
    apply(&cluster, unrouted_rollout("plain", "v1", 2, json!([])));
    cluster
        .wait_until(
            |cluster| !replica_sets(cluster, "plain").is_empty(),
            2 * SECOND,
        )
        .await
        .expect("the controller does not start");
    wait_until_healthy(&cluster, "plain", "v1").await;
    apply(&cluster, unrouted_rollout("plain", "v2", 2, steps()));
    wait_until_healthy(&cluster, "plain", "v2").await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_route_kind_is_reported_and_the_rollout_continues_once_it_is_installed() {
    let cluster = FakeCluster::new(71);
    cluster.set_served_versions(ROUTES, &[]);
    let _running = start_controller(&cluster, "serin-0");
    apply(&cluster, static_service());
    apply(&cluster, routed_rollout("checkout", "v1", 2, json!([])));
    wait_for_install_hint(&cluster, "checkout").await;
    cluster.set_served_versions(ROUTES, &["v1"]);
    apply(&cluster, http_route("checkout"));
    cluster
        .wait_until(|cluster| is_healthy(cluster, "checkout", "v1"), 3 * MINUTE)
        .await
        .expect("the kind is not discovered");
    apply(&cluster, routed_rollout("checkout", "v2", 2, steps()));
    wait_until_healthy(&cluster, "checkout", "v2").await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_removed_during_a_release_holds_it_without_scaling_or_promotion() {
    let cluster = FakeCluster::new(72);
    create_route(&cluster, "checkout");
    let _running = start_controller(&cluster, "serin-0");
    apply(&cluster, routed_rollout("checkout", "v1", 4, json!([])));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    let before = replicas_by_version(&cluster, "checkout");
    let saved = cluster.get_json(ROUTES, SHOP, "checkout").unwrap();
    cluster.set_served_versions(ROUTES, &[]);
    wait_for_install_hint(&cluster, "checkout").await;
    let held = |cluster: &FakeCluster| {
        replicas_by_version(cluster, "checkout") == before
            && position(cluster, "checkout").contains("Progressing")
    };
    cluster
        .holds_for(held, 5 * MINUTE)
        .await
        .expect("the release continued while the routes could not be read");
    assert_eq!(
        status(&cluster, "checkout").original_routes.len(),
        1,
        "the original route stays recorded"
    );
    // The CRDs are installed again, and GitOps restores the route.
    cluster.set_served_versions(ROUTES, &["v1"]);
    let mut route = http_route("checkout");
    route["spec"]["rules"][0] = saved["spec"]["rules"][0].clone();
    apply(&cluster, route);
    wait_until_healthy(&cluster, "checkout", "v2").await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_served_version_is_followed_during_a_release() {
    let cluster = FakeCluster::new(73);
    create_route(&cluster, "checkout");
    let _running = start_controller(&cluster, "serin-0");
    apply(&cluster, routed_rollout("checkout", "v1", 4, json!([])));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let monitor = TrafficMonitor::start(&cluster, "checkout");
    for (index, versions) in [&["v1beta1"][..], &["v1", "v1beta1"], &["v1"]]
        .into_iter()
        .enumerate()
    {
        let version = format!("v{}", index + 2);
        apply(&cluster, routed_rollout("checkout", &version, 4, steps()));
        wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
        cluster.set_served_versions(ROUTES, versions);
        wait_until_healthy(&cluster, "checkout", &version).await;
    }
    monitor.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_serves_only_v1beta1_is_supported() {
    let cluster = FakeCluster::new(74);
    cluster.set_served_versions(ROUTES, &["v1beta1"]);
    let mut beta = http_route("checkout");
    beta["apiVersion"] = "gateway.networking.k8s.io/v1beta1".into();
    apply(&cluster, static_service());
    apply(&cluster, beta);
    let _running = start_controller(&cluster, "serin-0");
    apply(&cluster, routed_rollout("checkout", "v1", 2, json!([])));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    apply(&cluster, routed_rollout("checkout", "v2", 2, steps()));
    wait_until_healthy(&cluster, "checkout", "v2").await;
}

#[tokio::test(start_paused = true)]
async fn a_rollout_can_be_deleted_after_the_route_kind_is_removed() {
    let cluster = FakeCluster::new(75);
    create_route(&cluster, "checkout");
    let _running = start_controller(&cluster, "serin-0");
    apply(&cluster, routed_rollout("checkout", "v1", 2, json!([])));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    apply(&cluster, routed_rollout("checkout", "v2", 2, steps()));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    cluster.set_served_versions(ROUTES, &[]);
    cluster
        .delete::<serin_crds::Rollout>(SHOP, "checkout")
        .unwrap();
    let deleted = cluster
        .wait_until(
            |cluster| cluster.get_json("rollouts", SHOP, "checkout").is_none(),
            3 * MINUTE,
        )
        .await;
    assert!(deleted.is_ok(), "the finalizer is never removed");
}

/// A load balancer or a starting API server may respond with 404 to any request.
#[tokio::test(start_paused = true)]
async fn a_spurious_404_does_not_empty_the_cache_of_a_built_in_kind() {
    let cluster = FakeCluster::new(76);
    let _running = start_controller(&cluster, "serin-0");
    apply(&cluster, unrouted_rollout("plain", "v1", 3, json!([])));
    wait_until_healthy(&cluster, "plain", "v1").await;
    let sets_before = replica_sets(&cluster, "plain").len();
    for plural in ["replicasets", "pods", "services", "endpointslices"] {
        cluster.inject(Fault::on("list", plural).times(3).status(404));
        cluster.inject(Fault::on("watch", plural).times(3).status(404));
    }
    cluster.compact();
    cluster.break_watches();
    cluster
        .holds_for(
            |cluster| replica_sets(cluster, "plain").len() == sets_before,
            2 * MINUTE,
        )
        .await
        .expect("the number of ReplicaSets changed");
    assert_eq!(
        replicas_by_version(&cluster, "plain"),
        [("v1".into(), 3)].into()
    );
    apply(&cluster, unrouted_rollout("plain", "v2", 3, json!([])));
    wait_until_healthy(&cluster, "plain", "v2").await;
}

#[tokio::test(start_paused = true)]
async fn commands_work_once_their_kind_is_installed() {
    let cluster = FakeCluster::new(77);
    cluster.set_served_versions("rolloutcommands", &[]);
    let _running = start_controller(&cluster, "serin-0");
    apply(&cluster, unrouted_rollout("plain", "v1", 2, json!([])));
    wait_until_healthy(&cluster, "plain", "v1").await;
    apply(
        &cluster,
        unrouted_rollout("plain", "v2", 2, json!([{"setWeight": 50}, {"pause": {}}])),
    );
    wait_for_position(&cluster, "plain", "Paused/Progressing/1").await;
    cluster.set_served_versions("rolloutcommands", &["v1alpha1"]);
    create_command(&cluster, "go-on", "plain", "promote");
    wait_until_healthy(&cluster, "plain", "v2").await;
}

#[tokio::test(start_paused = true)]
async fn the_controller_waits_until_its_own_crds_are_installed() {
    let cluster = FakeCluster::new(78);
    cluster.set_served_versions("rollouts", &[]);
    cluster.set_served_versions("rolloutcommands", &[]);
    let _running = start_controller(&cluster, "serin-0");
    cluster.sleep(MINUTE).await;
    cluster.set_served_versions("rollouts", &["v1alpha1"]);
    cluster.set_served_versions("rolloutcommands", &["v1alpha1"]);
    apply(&cluster, unrouted_rollout("plain", "v1", 2, json!([])));
    wait_until_healthy(&cluster, "plain", "v1").await;
}

//! A deleted Rollout restores the objects that it has changed.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Service;
use serde_json::json;
use serin_crds::Rollout;
use serin_fake_cluster::{FakeCluster, Fault};

use crate::fixtures::*;
use crate::harness::*;

/// Starts a release. Returns the controller and the original route spec.
async fn start_release(cluster: &FakeCluster) -> (RunningController, serde_json::Value) {
    create_route(cluster, "checkout");
    let before = route_spec(cluster, "checkout");
    let mut service = stable_service("checkout");
    service["metadata"]["labels"] = json!({"team": "shop"});
    apply(cluster, service);
    let running = start_controller(cluster, "serin");
    let steps = || json!([{"setWeight": 20}, {"pause": {}}]);
    apply(cluster, routed_rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(cluster, "checkout", "v1").await;
    apply(cluster, routed_rollout("checkout", "v2", 4, steps()));
    wait_for_position(cluster, "checkout", "Paused/Progressing/1").await;
    (running, before)
}

fn is_gone(cluster: &FakeCluster) -> bool {
    cluster.get::<Rollout>(SHOP, "checkout").is_none()
}

#[tokio::test(start_paused = true)]
async fn deletion_restores_the_route_and_the_users_service() {
    let cluster = FakeCluster::new(21);
    let (_running, before) = start_release(&cluster).await;
    cluster.delete::<Rollout>(SHOP, "checkout").unwrap();
    cluster.wait_until(is_gone, MINUTE).await.unwrap();
    assert_eq!(route_spec(&cluster, "checkout"), before);
    let service = cluster.get::<Service>(SHOP, "checkout").unwrap();
    assert_eq!(
        service.metadata.labels,
        Some([("team".to_owned(), "shop".to_owned())].into())
    );
    assert_eq!(
        service.spec.unwrap().selector,
        Some([("app".to_owned(), "checkout".to_owned())].into())
    );
    let is_clean = |cluster: &FakeCluster| {
        cluster.objects::<ReplicaSet>().is_empty()
            && cluster.get::<Service>(SHOP, "checkout-canary").is_none()
    };
    cluster
        .wait_until(is_clean, MINUTE)
        .await
        .expect("the objects of the Rollout are deleted");
}

#[tokio::test(start_paused = true)]
async fn deletion_waits_until_the_route_is_restored() {
    let cluster = FakeCluster::new(22);
    let (_running, before) = start_release(&cluster).await;
    cluster.inject(Fault::on("patch", "httproutes").times(3).status(503));
    cluster.delete::<Rollout>(SHOP, "checkout").unwrap();
    cluster.wait_until(is_gone, MINUTE).await.unwrap();
    assert_eq!(route_spec(&cluster, "checkout"), before);
}

#[tokio::test(start_paused = true)]
async fn a_route_without_rules_does_not_block_the_deletion() {
    let cluster = FakeCluster::new(23);
    let (_running, _) = start_release(&cluster).await;
    let no_rules = json!({"spec": {"rules": []}});
    let mut route = cluster.get_json("httproutes", SHOP, "checkout").unwrap();
    route["spec"]["rules"] = no_rules["spec"]["rules"].clone();
    apply(&cluster, route);
    cluster.delete::<Rollout>(SHOP, "checkout").unwrap();
    cluster.wait_until(is_gone, MINUTE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_rollout_without_a_router_needs_no_finalizer() {
    let cluster = FakeCluster::new(24);
    let _running = start_controller(&cluster, "serin");
    apply(&cluster, unrouted_rollout("checkout", "v1", 2, json!([])));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    assert_eq!(
        cluster
            .get::<Rollout>(SHOP, "checkout")
            .unwrap()
            .metadata
            .finalizers,
        None
    );
}

// iter8 PR #250, flagger #1357: without the controller, a namespace cannot be deleted, because
// nothing removes a finalizer.
#[tokio::test(start_paused = true)]
async fn an_idle_rollout_without_foreign_changes_can_be_deleted_without_a_controller() {
    let cluster = FakeCluster::new(25);
    create_route(&cluster, "checkout");
    let before = route_spec(&cluster, "checkout");
    let running = start_controller(&cluster, "serin");
    let steps = || json!([{"setWeight": 20}, {"pause": {}}]);
    apply(&cluster, routed_rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let rollout_finalizers = |cluster: &FakeCluster| {
        cluster
            .get::<Rollout>(SHOP, "checkout")
            .unwrap()
            .metadata
            .finalizers
            .unwrap_or_default()
    };
    assert_eq!(
        rollout_finalizers(&cluster),
        Vec::<String>::new(),
        "the Rollout owns its Services"
    );
    apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    assert_eq!(
        rollout_finalizers(&cluster),
        ["serin.dev/routes"],
        "the route has changed weights"
    );
    create_command(&cluster, "go", "checkout", "promote");
    wait_until_healthy(&cluster, "checkout", "v2").await;
    cluster
        .wait_until(|cluster| rollout_finalizers(cluster).is_empty(), MINUTE)
        .await
        .expect("the route is restored");
    assert_eq!(route_spec(&cluster, "checkout"), before);
    running.stop().await;
    cluster.delete::<Rollout>(SHOP, "checkout").unwrap();
    cluster
        .wait_until(is_gone, SECOND)
        .await
        .expect("the Rollout has no finalizer");
    cluster
        .wait_until(|cluster| cluster.objects::<ReplicaSet>().is_empty(), MINUTE)
        .await
        .unwrap();
    assert_eq!(route_spec(&cluster, "checkout"), before);
}

async fn release_finalizers(
    cluster: &FakeCluster,
) -> Result<usize, serin_runtime::uninstall::UninstallError> {
    let candidate = serin_runtime::election::Candidate {
        namespace: "serin".into(),
        lease: "serin".into(),
        identity: "uninstall".into(),
        timing: serin_core::lease::Timing::default(),
    };
    let clock = serin_runtime::clock::Clock::tokio_from(cluster.now());
    serin_runtime::uninstall::release_finalizers(
        &cluster.client_for("uninstall"),
        &serin_runtime::scope::Scope::All,
        Some(candidate),
        &clock,
    )
    .await
}

// iter8 PR #250, flagger #1357.
#[tokio::test(start_paused = true)]
async fn releasing_finalizers_without_a_controller_restores_the_route() {
    let cluster = FakeCluster::new(26);
    let (running, before) = start_release(&cluster).await;
    running.stop().await;
    let pods = |cluster: &FakeCluster| cluster.objects::<k8s_openapi::api::core::v1::Pod>().len();
    let pods_before = pods(&cluster);
    assert_eq!(release_finalizers(&cluster).await.unwrap(), 1);
    assert_eq!(route_spec(&cluster, "checkout"), before);
    let rollout = cluster.get::<Rollout>(SHOP, "checkout").unwrap();
    assert_eq!(
        rollout.metadata.finalizers.unwrap_or_default(),
        Vec::<String>::new()
    );
    let selector = cluster
        .get::<Service>(SHOP, "checkout")
        .unwrap()
        .spec
        .unwrap()
        .selector
        .unwrap();
    assert!(
        selector.contains_key("serin.dev/revision"),
        "the stable Service does not select canary pods"
    );
    cluster.sleep(MINUTE).await;
    assert_eq!(pods(&cluster), pods_before, "pods are not changed");
    assert_eq!(
        release_finalizers(&cluster).await.unwrap(),
        0,
        "a second run changes nothing"
    );
    // A new controller continues the release.
    let running = start_controller(&cluster, "serin-again");
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    create_command(&cluster, "go", "checkout", "promote");
    wait_until_healthy(&cluster, "checkout", "v2").await;
    cluster.sleep(MINUTE).await;
    running.stop().await;
    // When idle, the user's Service is restored too, and everything can be deleted.
    assert_eq!(release_finalizers(&cluster).await.unwrap(), 1);
    let service = cluster.get::<Service>(SHOP, "checkout").unwrap();
    assert_eq!(
        service.spec.unwrap().selector,
        Some([("app".to_owned(), "checkout".to_owned())].into())
    );
    cluster.delete::<Rollout>(SHOP, "checkout").unwrap();
    cluster
        .wait_until(is_gone, SECOND)
        .await
        .expect("the Rollout has no finalizer");
}

#[tokio::test(start_paused = true)]
async fn finalizers_are_not_released_while_a_controller_runs() {
    let cluster = FakeCluster::new(27);
    create_route(&cluster, "checkout");
    let _running = start_elected_controller(&cluster, "serin");
    apply(&cluster, routed_rollout("checkout", "v1", 2, json!([])));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let refused = release_finalizers(&cluster).await.unwrap_err();
    assert!(
        refused.to_string().contains("still holds the Lease"),
        "{refused}"
    );
}

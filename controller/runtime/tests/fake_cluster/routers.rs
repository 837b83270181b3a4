//! Releases through every kind of route.

use serde_json::{Value, json};
use serin_core::units::Weight;
use serin_crds::Rollout;
use serin_fake_cluster::{FakeCluster, Fault};
use serin_traffic::{ROUTERS, Router, Services};

use crate::fixtures::*;
use crate::harness::*;

const NAME: &str = "checkout";

fn canary_weight(cluster: &FakeCluster, router: &dyn Router) -> Option<Weight> {
    let route = cluster.get_json(router.plural(), SHOP, NAME)?;
    let services = Services {
        stable: NAME,
        canary: "checkout-canary",
    };
    router.canary_weight(&route, None, services).ok()
}

/// What a user writes into a route: its spec and its annotations.
fn written(cluster: &FakeCluster, router: &dyn Router) -> Value {
    let route = cluster.get_json(router.plural(), SHOP, NAME).unwrap();
    json!({"spec": route["spec"], "annotations": route["metadata"]["annotations"]})
}

fn paused() -> Value {
    json!([{"setWeight": 20}, {"pause": {}}, {"setWeight": 50}])
}

/// A Rollout whose v2 is paused at 20 %, and its route before the release.
async fn pause_at_20(cluster: &FakeCluster, router: &dyn Router) -> (RunningController, Value) {
    apply(cluster, static_service());
    apply(cluster, route_of_kind(router, NAME));
    let before = written(cluster, router);
    let running = start_controller(cluster, "serin");
    apply(cluster, rollout_of_kind(router, NAME, "v1", 4, json!([])));
    wait_until_healthy(cluster, NAME, "v1").await;
    assert_eq!(written(cluster, router), before, "{}", router.kind());
    apply(cluster, rollout_of_kind(router, NAME, "v2", 4, paused()));
    wait_for_position(cluster, NAME, "Paused/Progressing/1").await;
    assert_eq!(canary_weight(cluster, router), Some(Weight::percent(20)));
    (running, before)
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_route_is_split_and_restored_byte_for_byte() {
    for (seed, router) in (500..).zip(ROUTERS) {
        let cluster = FakeCluster::new(seed);
        let (running, before) = pause_at_20(&cluster, *router).await;
        create_command(&cluster, "go", NAME, "promote");
        wait_until_healthy(&cluster, NAME, "v2").await;
        assert_eq!(written(&cluster, *router), before, "{}", router.kind());
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn drift_of_every_kind_of_route_is_put_back() {
    for (seed, router) in (520..).zip(ROUTERS) {
        let cluster = FakeCluster::new(seed);
        let (running, before) = pause_at_20(&cluster, *router).await;
        let mut edited = cluster.get_json(router.plural(), SHOP, NAME).unwrap();
        edited["spec"] = before["spec"].clone();
        edited["metadata"]["annotations"] = before["annotations"].clone();
        apply(&cluster, edited);
        let is_back =
            |cluster: &FakeCluster| canary_weight(cluster, *router) == Some(Weight::percent(20));
        cluster
            .wait_until(is_back, 10 * SECOND)
            .await
            .unwrap_or_else(|_| panic!("the drift of {} stays", router.kind()));
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_rollout_restores_every_kind_of_route() {
    for (seed, router) in (540..).zip(ROUTERS) {
        let cluster = FakeCluster::new(seed);
        let (running, before) = pause_at_20(&cluster, *router).await;
        cluster.inject(Fault::on("patch", router.plural()).status(409));
        cluster.delete::<Rollout>(SHOP, NAME).unwrap();
        let is_gone = |cluster: &FakeCluster| cluster.get::<Rollout>(SHOP, NAME).is_none();
        cluster.wait_until(is_gone, MINUTE).await.unwrap();
        assert_eq!(written(&cluster, *router), before, "{}", router.kind());
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_kind_of_route_names_the_kind_and_what_to_install() {
    for (seed, router) in (560..).zip(ROUTERS) {
        let cluster = FakeCluster::new(seed);
        cluster.set_served_versions(router.plural(), &[]);
        let running = start_controller(&cluster, "serin");
        apply(&cluster, rollout_of_kind(*router, NAME, "v1", 1, json!([])));
        let is_reported = |cluster: &FakeCluster| {
            let message = status(cluster, NAME).state.message.to_string();
            message.contains(router.kind()) && message.contains(router.installed_by())
        };
        cluster
            .wait_until(is_reported, MINUTE)
            .await
            .unwrap_or_else(|_| panic!("{}", status(&cluster, NAME).state.message));
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_oldest_served_version_of_every_kind_of_route_suffices() {
    for (seed, router) in (580..).zip(ROUTERS) {
        let cluster = FakeCluster::new(seed);
        let oldest = router.versions()[router.versions().len() - 1];
        cluster.set_served_versions(router.plural(), &[oldest]);
        let running = start_controller(&cluster, "serin");
        let mut route = route_of_kind(*router, NAME);
        route["apiVersion"] = json!(format!("{}/{oldest}", router.group()));
        apply(&cluster, static_service());
        apply(&cluster, route);
        apply(&cluster, rollout_of_kind(*router, NAME, "v1", 1, json!([])));
        wait_until_healthy(&cluster, NAME, "v1").await;
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn routes_of_several_kinds_get_the_same_weight() {
    let cluster = FakeCluster::new(600);
    apply(&cluster, static_service());
    for router in ROUTERS {
        apply(&cluster, route_of_kind(*router, NAME));
    }
    let rollout = |version: &str, steps: Value| {
        let mut rollout = unrouted_rollout(NAME, version, 4, steps);
        let routes = json!([{"name": NAME}]);
        rollout["spec"]["strategy"]["canary"]["trafficRouting"] = json!({
            "gatewayAPI": {"httpRoute": NAME, "grpcRoutes": routes, "tlsRoutes": routes, "tcpRoutes": routes},
            "istio": {"virtualServices": routes},
            "nginx": {"canaryIngress": NAME},
            "traefik": {"traefikServices": routes, "ingressRoutes": routes},
            "contour": {"httpProxies": routes},
            "apisix": {"apisixRoutes": routes},
        });
        rollout
    };
    let weights = |cluster: &FakeCluster| {
        let weights = ROUTERS.iter().map(|router| canary_weight(cluster, *router));
        weights.collect::<Vec<_>>()
    };
    let running = start_controller(&cluster, "serin");
    apply(&cluster, rollout("v1", json!([])));
    wait_until_healthy(&cluster, NAME, "v1").await;
    apply(&cluster, rollout("v2", paused()));
    wait_for_position(&cluster, NAME, "Paused/Progressing/1").await;
    assert_eq!(
        weights(&cluster),
        vec![Some(Weight::percent(20)); ROUTERS.len()]
    );
    create_command(&cluster, "stop", NAME, "abort");
    wait_for_position(&cluster, NAME, "Degraded/Aborted").await;
    let is_back =
        |cluster: &FakeCluster| weights(cluster) == vec![Some(Weight::ZERO); ROUTERS.len()];
    cluster.wait_until(is_back, MINUTE).await.unwrap();
    running.stop().await;
}

//! Complete releases.

use kube::ResourceExt;
use serde_json::json;
use serin_core::observed::AnalysisReport;
use serin_core::state::AbortCause;
use serin_fake_cluster::{FakeCluster, PodBehavior};
use serin_metrics_analysis::ReleasePhase;

use crate::fixtures::*;
use crate::harness::*;

fn steps() -> serde_json::Value {
    json!([{"setWeight": 20}, {"pause": {"duration": "10s"}}, {"setWeight": 50}, {"pause": {"duration": "10s"}}])
}

async fn deploy_v1(
    cluster: &FakeCluster,
    rollout: fn(&str, &str, u32, serde_json::Value) -> serde_json::Value,
) -> RunningController {
    create_route(cluster, "checkout");
    let running = start_controller(cluster, "serin");
    apply(cluster, rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(cluster, "checkout", "v1").await;
    running
}

#[tokio::test(start_paused = true)]
async fn the_first_revision_becomes_stable_without_steps() {
    let cluster = FakeCluster::new(1);
    let _running = deploy_v1(&cluster, routed_rollout).await;
    assert_eq!(
        replicas_by_version(&cluster, "checkout"),
        [("v1".into(), 4)].into()
    );
    assert_eq!(
        route_weights(&cluster, "checkout"),
        (Some(1), None),
        "the route is restored"
    );
    assert_eq!(condition(&cluster, "checkout", "Ready").unwrap().0, "True");
}

#[tokio::test(start_paused = true)]
async fn a_good_release_passes_all_steps_and_loses_no_request() {
    let cluster = FakeCluster::new(2);
    let _running = deploy_v1(&cluster, routed_rollout).await;
    let monitor = TrafficMonitor::start(&cluster, "checkout");
    let began = cluster.now();
    apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    assert_eq!(route_weights(&cluster, "checkout"), (Some(80), Some(20)));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/3").await;
    assert_eq!(route_weights(&cluster, "checkout"), (Some(50), Some(50)));
    wait_until_healthy(&cluster, "checkout", "v2").await;
    assert!(
        cluster.now().duration_since(began).as_secs() >= 20,
        "neither pause was skipped"
    );
    cluster.sleep(MINUTE).await;
    assert_eq!(
        replicas_by_version(&cluster, "checkout"),
        [("v1".into(), 0), ("v2".into(), 4)].into()
    );
    assert_eq!(
        route_weights(&cluster, "checkout"),
        (Some(1), None),
        "the route is restored"
    );
    monitor.finish().await;
    assert!(
        event_reasons(&cluster, "checkout").contains(&"Promoted".to_owned()),
        "{:?}",
        event_reasons(&cluster, "checkout")
    );
}

/// Asserts that the analysis request identifies the route rule and the pods of both sides.
fn assert_analysis_request(cluster: &FakeCluster, running: &RunningController) {
    let request = running
        .analyzer
        .last_request("checkout")
        .expect("the release is analyzed");
    assert_eq!(request.weight.to_string(), "20 %");
    let split: Vec<_> = request
        .rules
        .split
        .iter()
        .map(|rule| (rule.route.as_str(), rule.index))
        .collect();
    assert_eq!(
        (split, request.rules.others.len()),
        (vec![("checkout", Some(1))], 0),
        "the rule is identified by its index"
    );
    let sides: std::collections::BTreeSet<_> = request.pod_sides.values().collect();
    assert_eq!(
        sides.len(),
        2,
        "pods of both sides are identified by their owners: {:?}",
        request.pod_sides
    );
    assert_eq!(
        request.stable_replica_set.as_deref(),
        status(cluster, "checkout")
            .state
            .stable_revision
            .map(|revision| format!("checkout-{revision}"))
            .as_deref()
    );
}

/// Asserts the order of the logged writes: position, route, pods.
fn assert_traffic_changed_before_pods(cluster: &FakeCluster) {
    let writes: Vec<_> = cluster
        .writes()
        .into_iter()
        .map(|write| write.plural)
        .collect();
    assert_eq!(
        &writes[..2],
        ["rollouts", "httproutes"],
        "the position is stored before the traffic changes"
    );
    let first_route = writes
        .iter()
        .position(|plural| plural == "httproutes")
        .unwrap();
    let first_set = writes
        .iter()
        .position(|plural| plural == "replicasets")
        .unwrap_or(writes.len());
    assert!(
        first_route < first_set,
        "traffic is removed before pods: {writes:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_rollback_removes_the_traffic_first_and_reports_the_reason() {
    let cluster = FakeCluster::new(3);
    let running = deploy_v1(&cluster, analyzed_rollout).await;
    let monitor = TrafficMonitor::start(&cluster, "checkout");
    apply(&cluster, analyzed_rollout("checkout", "v2", 4, steps()));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    assert_analysis_request(&cluster, &running);
    cluster.sleep(SECOND).await;
    cluster.clear_requests();
    let message = "31 of 1,000 requests failed".to_owned();
    running.analyzer.set_report(
        "checkout",
        AnalysisReport::breached(AbortCause::Evidence, message.clone()),
    );
    let reported_at = cluster.now();
    cluster
        .wait_until(
            |cluster| route_weights(cluster, "checkout").1.is_none(),
            SECOND,
        )
        .await
        .unwrap();
    assert!(
        cluster.now().duration_since(reported_at).as_millis() < 100,
        "the traffic is removed immediately"
    );
    wait_for_position(&cluster, "checkout", "Degraded/Aborted").await;
    let abort = status(&cluster, "checkout").state.abort.unwrap();
    assert_eq!(abort.message, message.as_str());
    assert_traffic_changed_before_pods(&cluster);
    cluster.sleep(MINUTE).await;
    assert_eq!(
        replicas_by_version(&cluster, "checkout"),
        [("v1".into(), 4), ("v2".into(), 0)].into()
    );
    wait_for_event(&cluster, "checkout", "RolledBack").await;
    assert_eq!(
        running.analyzer.last_request("checkout").unwrap().phase,
        ReleasePhase::Idle,
        "the analysis ended"
    );
    monitor.finish().await;
}

#[tokio::test(start_paused = true)]
async fn invariant_09_the_users_spec_is_never_written() {
    let cluster = FakeCluster::new(18);
    let _running = deploy_v1(&cluster, routed_rollout).await;
    let v2 = routed_rollout("checkout", "v2", 4, steps());
    apply(&cluster, v2.clone());
    let user_fields = |cluster: &FakeCluster| {
        let rollout = cluster.get_json("rollouts", SHOP, "checkout").unwrap();
        (
            rollout["spec"].clone(),
            rollout["metadata"]["generation"].clone(),
            rollout["metadata"]["labels"].clone(),
        )
    };
    let before = user_fields(&cluster);
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    create_command(&cluster, "go", "checkout", "promote");
    wait_for_position(&cluster, "checkout", "Paused/Progressing/3").await;
    assert_eq!(user_fields(&cluster), before, "during the release");
    wait_until_healthy(&cluster, "checkout", "v2").await;
    cluster.sleep(MINUTE).await;
    assert_eq!(user_fields(&cluster), before, "after the release");
    let on_spec = |write: &serin_fake_cluster::RequestRecord| {
        write.plural == "rollouts" && write.subresource.is_none()
    };
    let patches: Vec<_> = cluster
        .writes()
        .into_iter()
        .filter(on_spec)
        .map(|write| write.client)
        .collect();
    assert!(
        patches.len() <= 2,
        "only the finalizer is added and removed: {patches:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_crashing_canary_is_aborted() {
    let cluster = FakeCluster::new(4);
    let _running = deploy_v1(&cluster, routed_rollout).await;
    cluster
        .set_pod_behavior("app=checkout", PodBehavior::CrashesAfter(5 * SECOND))
        .unwrap();
    apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
    wait_for_position(&cluster, "checkout", "Degraded/Aborted").await;
    assert_eq!(
        status(&cluster, "checkout").state.abort.unwrap().cause,
        AbortCause::PodCrash
    );
    cluster
        .wait_until(
            |cluster| route_weights(cluster, "checkout").1.is_none(),
            SECOND,
        )
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_canary_that_never_becomes_ready_gets_no_traffic_and_is_aborted_at_the_deadline() {
    let cluster = FakeCluster::new(5);
    let _running = deploy_v1(&cluster, routed_rollout).await;
    cluster
        .set_pod_behavior("app=checkout", PodBehavior::NeverReady)
        .unwrap();
    let mut v2 = routed_rollout("checkout", "v2", 4, steps());
    v2["spec"]["progressDeadlineSeconds"] = json!(60);
    apply(&cluster, v2);
    let monitored = cluster.clone();
    let monitor = tokio::spawn(async move {
        monitored
            .holds_for(
                |cluster| route_weights(cluster, "checkout").1.is_none(),
                2 * MINUTE,
            )
            .await
    });
    wait_for_position(&cluster, "checkout", "Degraded/Aborted").await;
    assert_eq!(
        status(&cluster, "checkout").state.abort.unwrap().cause,
        AbortCause::ProgressDeadline
    );
    monitor.await.unwrap().expect("the canary got traffic");
}

#[tokio::test(start_paused = true)]
async fn a_route_changed_by_another_client_is_corrected() {
    let cluster = FakeCluster::new(6);
    let _running = deploy_v1(&cluster, routed_rollout).await;
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
    let mut edited = cluster.get_json("httproutes", SHOP, "checkout").unwrap();
    edited["spec"]["rules"][1]["backendRefs"][0]["weight"] = json!(10);
    edited["spec"]["rules"][1]["backendRefs"][1]["weight"] = json!(90);
    apply(&cluster, edited);
    cluster
        .wait_until(
            |cluster| route_weights(cluster, "checkout") == (Some(80), Some(20)),
            SECOND,
        )
        .await
        .unwrap();
    let drift_reported = |cluster: &FakeCluster| {
        event_reasons(cluster, "checkout").contains(&"RouteDrift".to_owned())
    };
    cluster
        .wait_until(drift_reported, SECOND)
        .await
        .expect("the drift is reported");
}

/// Regression test from a real cluster: Serin's own weight reduction was reported as drift once the
/// pods were ready again.
#[tokio::test(start_paused = true)]
async fn a_weight_reduced_for_missing_pods_is_not_drift() {
    let cluster = FakeCluster::new(17);
    let _running = deploy_v1(&cluster, routed_rollout).await;
    apply(
        &cluster,
        routed_rollout(
            "checkout",
            "v2",
            4,
            json!([{"setWeight": 50}, {"pause": {}}]),
        ),
    );
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    cluster.sleep(MINUTE).await;
    let revision = status(&cluster, "checkout").state.current_revision.unwrap();
    let pods = cluster.objects::<k8s_openapi::api::core::v1::Pod>();
    let pod = pods
        .iter()
        .find(|pod| pod.name_any().contains(revision.as_str()))
        .unwrap();
    cluster
        .delete::<k8s_openapi::api::core::v1::Pod>(SHOP, &pod.name_any())
        .unwrap();
    cluster
        .wait_until(
            |cluster| route_weights(cluster, "checkout") == (Some(75), Some(25)),
            MINUTE,
        )
        .await
        .expect("the weight follows half of the pods");
    cluster
        .wait_until(
            |cluster| route_weights(cluster, "checkout") == (Some(50), Some(50)),
            MINUTE,
        )
        .await
        .expect("the full weight is restored");
    cluster.sleep(MINUTE).await;
    assert!(!event_reasons(&cluster, "checkout").contains(&"RouteDrift".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_route_removed_from_the_spec_is_restored_during_a_release() {
    let cluster = FakeCluster::new(10);
    let _running = deploy_v1(&cluster, routed_rollout).await;
    let mut other = http_route("checkout");
    other["metadata"]["name"] = json!("other");
    apply(&cluster, other);
    let paused = || json!([{"setWeight": 20}, {"pause": {}}]);
    apply(&cluster, routed_rollout("checkout", "v2", 4, paused()));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    let mut moved = routed_rollout("checkout", "v2", 4, paused());
    moved["spec"]["strategy"]["canary"]["trafficRouting"]["gatewayAPI"]["httpRoute"] =
        json!("other");
    apply(&cluster, moved);
    cluster
        .wait_until(
            |cluster| route_weights(cluster, "checkout") == (Some(1), None),
            10 * SECOND,
        )
        .await
        .expect("the route is restored");
    let named = |cluster: &FakeCluster| {
        let routes = status(cluster, "checkout").original_routes;
        routes
            .iter()
            .map(|route| route.name.clone())
            .collect::<Vec<_>>()
    };
    cluster
        .wait_until(|cluster| named(cluster) == ["other"], MINUTE)
        .await
        .expect("the original route is no longer recorded");
}

#[tokio::test(start_paused = true)]
async fn equivalent_templates_are_the_same_revision() {
    let cluster = FakeCluster::new(7);
    let running = start_controller(&cluster, "serin");
    let with_cpu = |cpu: serde_json::Value| {
        let mut rollout = unrouted_rollout("checkout", "v1", 2, json!([]));
        rollout["spec"]["template"]["spec"]["containers"][0]["resources"] =
            json!({"requests": {"cpu": cpu}});
        rollout
    };
    apply(&cluster, with_cpu(json!("1000m")));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let before = status(&cluster, "checkout").state.current_revision;
    apply(&cluster, with_cpu(json!("1")));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    assert_eq!(status(&cluster, "checkout").state.current_revision, before);
    assert_eq!(replica_sets(&cluster, "checkout").len(), 1);
    running.stop().await;
    // A new process without memory reaches the same result.
    let _running = start_controller(&cluster, "another");
    cluster.sleep(MINUTE).await;
    assert_eq!(status(&cluster, "checkout").state.current_revision, before);
    assert_eq!(replica_sets(&cluster, "checkout").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_newer_revision_replaces_a_release_and_a_revert_ends_it() {
    let cluster = FakeCluster::new(8);
    let _running = deploy_v1(&cluster, routed_rollout).await;
    let monitor = TrafficMonitor::start(&cluster, "checkout");
    apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    apply(&cluster, routed_rollout("checkout", "v3", 4, steps()));
    cluster
        .wait_until(
            |cluster| replicas_by_version(cluster, "checkout").contains_key("v3"),
            MINUTE,
        )
        .await
        .unwrap();
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    apply(&cluster, routed_rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    cluster.sleep(MINUTE).await;
    assert_eq!(
        replicas_by_version(&cluster, "checkout"),
        [("v1".into(), 4), ("v2".into(), 0), ("v3".into(), 0)].into()
    );
    assert_eq!(route_weights(&cluster, "checkout"), (Some(1), None));
    monitor.finish().await;
}

#[tokio::test(start_paused = true)]
async fn existing_services_are_bound_but_not_owned() {
    let cluster = FakeCluster::new(9);
    create_route(&cluster, "checkout");
    apply(&cluster, stable_service("checkout"));
    let _running = start_controller(&cluster, "serin");
    apply(&cluster, routed_rollout("checkout", "v1", 2, steps()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let stable = cluster
        .get::<k8s_openapi::api::core::v1::Service>(SHOP, "checkout")
        .unwrap();
    assert_eq!(stable.metadata.owner_references, None);
    let selector = stable.spec.unwrap().selector.unwrap();
    assert_eq!(selector["app"], "checkout");
    assert_eq!(
        selector["serin.dev/revision"],
        status(&cluster, "checkout")
            .state
            .stable_revision
            .unwrap()
            .as_str()
    );
    apply(&cluster, routed_rollout("checkout", "v2", 2, steps()));
    wait_until_healthy(&cluster, "checkout", "v2").await;
    let canary = cluster
        .get::<k8s_openapi::api::core::v1::Service>(SHOP, "checkout-canary")
        .unwrap();
    assert_eq!(canary.metadata.owner_references.unwrap().len(), 1);
    assert_eq!(
        canary.spec.unwrap().ports.unwrap()[0].port,
        80,
        "the ports are copied from the stable Service"
    );
}

//! Blue/green against the API server: switches with and without a router, crashes, and changes of the
//! strategy of a live Rollout.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use serin_core::observed::AnalysisReport;
use serin_core::state::AbortCause;
use serin_crds::names::REVISION_LABEL;
use serin_fake_cluster::FakeCluster;

use crate::crash::crash_at_any_write;
use crate::fixtures::*;
use crate::harness::*;

const NAME: &str = "checkout";
const PREVIEW: &str = "checkout-canary";

/// How the traffic is switched.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Switch {
    /// By the selector of the active Service. The route of the test is not that of the Rollout.
    Service,
    /// By the route.
    Route,
}

const SWITCHES: [Switch; 2] = [Switch::Service, Switch::Route];

/// A Rollout that bakes for 20 s after the switch.
fn blue_green(version: &str, switch: Switch) -> Value {
    let mut rollout = unrouted_rollout(NAME, version, 3, json!([]));
    let mut strategy = json!({
        "activeService": NAME, "previewService": PREVIEW, "scaleDownDelaySeconds": 15,
        "abortScaleDownDelaySeconds": 5,
    });
    if switch == Switch::Route {
        strategy["trafficRouting"] = json!({"gatewayAPI": {"httpRoute": NAME}});
    }
    rollout["spec"]["strategy"] = json!({"blueGreen": strategy});
    rollout["spec"]["analysis"] = json!({
        "objectives": [{"name": "availability", "objective": 99.9, "indicator": "pod"}],
        "bakeTime": "20s",
    });
    rollout
}

/// The same Rollout as a canary at 50 %.
fn canary(version: &str) -> Value {
    let steps = json!([{"setWeight": 50}, {"pause": {}}]);
    routed_rollout(NAME, version, 3, steps)
}

async fn start(cluster: &FakeCluster, rollout: Value) -> (RunningController, TrafficMonitor) {
    create_route(cluster, NAME);
    let first = start_controller(cluster, "serin-0");
    apply(cluster, rollout);
    wait_until_healthy(cluster, NAME, "v1").await;
    (first, TrafficMonitor::start(cluster, NAME))
}

/// The version of the pods that a Service selects.
fn selected(cluster: &FakeCluster, service: &str) -> String {
    let service = cluster.get::<Service>(SHOP, service);
    let selector = service.and_then(|service| service.spec?.selector);
    let revision = selector.and_then(|selector| selector.get(REVISION_LABEL).cloned());
    let sets = replica_sets(cluster, NAME);
    let set = sets.into_iter().find(|set| {
        let labels = set.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(REVISION_LABEL)) == revision.as_ref()
    });
    let image = || {
        let pod = set?.spec?.template?.spec?;
        pod.containers.into_iter().next()?.image
    };
    let image = image().unwrap_or_default();
    image.rsplit(':').next().unwrap_or_default().to_owned()
}

async fn wait_until_baking(cluster: &FakeCluster) {
    let is_baking = |cluster: &FakeCluster| status(cluster, NAME).state.bake.is_some();
    let baking = cluster.wait_until(is_baking, 10 * MINUTE).await;
    assert!(baking.is_ok(), "no bake: {:?}", status(cluster, NAME).state);
}

async fn wait_until_scaled(cluster: &FakeCluster, expected: &[(&str, i32)]) {
    let expected: HashMap<String, i32> = expected
        .iter()
        .map(|(version, replicas)| ((*version).to_owned(), *replicas))
        .collect();
    let is_scaled = |cluster: &FakeCluster| replicas_by_version(cluster, NAME) == expected;
    let scaled = cluster.wait_until(is_scaled, 10 * MINUTE).await;
    assert!(scaled.is_ok(), "{:?}", replicas_by_version(cluster, NAME));
}

#[tokio::test(start_paused = true)]
async fn all_traffic_moves_at_once_and_the_old_pods_are_removed_after_their_delay() {
    for (seed, switch) in (4_001..).zip(SWITCHES) {
        let cluster = FakeCluster::new(seed);
        let (_running, monitor) = start(&cluster, blue_green("v1", switch)).await;
        assert_eq!(selected(&cluster, PREVIEW), "v1");
        apply(&cluster, blue_green("v2", switch));
        wait_until_baking(&cluster).await;
        assert_eq!(selected(&cluster, PREVIEW), "v2");
        match switch {
            Switch::Service => assert_eq!(selected(&cluster, NAME), "v2"),
            Switch::Route => assert_eq!(route_weights(&cluster, NAME), (Some(0), Some(100))),
        }
        wait_until_healthy(&cluster, NAME, "v2").await;
        wait_until_scaled(&cluster, &[("v1", 0), ("v2", 3)]).await;
        assert_eq!(
            (selected(&cluster, NAME), selected(&cluster, PREVIEW)),
            ("v2".into(), "v2".into())
        );
        monitor.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_breach_in_the_bake_switches_back() {
    for (seed, switch) in (4_011..).zip(SWITCHES) {
        let cluster = FakeCluster::new(seed);
        let (running, monitor) = start(&cluster, blue_green("v1", switch)).await;
        apply(&cluster, blue_green("v2", switch));
        wait_until_baking(&cluster).await;
        let breach = AnalysisReport::breached(AbortCause::Evidence, "worse than before");
        running.analyzer.set_report(NAME, breach);
        wait_for_position(&cluster, NAME, "Degraded/Aborted").await;
        wait_until_scaled(&cluster, &[("v1", 3), ("v2", 0)]).await;
        assert_eq!(
            (selected(&cluster, NAME), selected(&cluster, PREVIEW)),
            ("v1".into(), "v1".into())
        );
        monitor.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_abort_while_the_old_pods_are_kept_switches_back() {
    for (seed, switch) in (4_021..).zip(SWITCHES) {
        let cluster = FakeCluster::new(seed);
        let (_running, monitor) = start(&cluster, blue_green("v1", switch)).await;
        apply(&cluster, blue_green("v2", switch));
        wait_until_healthy(&cluster, NAME, "v2").await;
        create_command(&cluster, "back", NAME, "abort");
        let (outcome, message) = command_outcome(&cluster, "back").await;
        assert_eq!(outcome, "Done", "{message}");
        wait_until_scaled(&cluster, &[("v1", 3), ("v2", 0)]).await;
        assert_eq!(selected(&cluster, NAME), "v1");
        monitor.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_newer_revision_supersedes_the_preview() {
    for (seed, switch) in (4_031..).zip(SWITCHES) {
        let cluster = FakeCluster::new(seed);
        let (_running, monitor) = start(&cluster, blue_green("v1", switch)).await;
        apply(&cluster, blue_green("v2", switch));
        wait_until_baking(&cluster).await;
        apply(&cluster, blue_green("v3", switch));
        wait_until_healthy(&cluster, NAME, "v3").await;
        wait_until_scaled(&cluster, &[("v1", 0), ("v2", 0), ("v3", 3)]).await;
        monitor.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_controller_killed_at_any_write_of_a_switch_is_continued() {
    for (seed, switch) in [(4_100, Switch::Service), (4_200, Switch::Route)] {
        let crashes = crash_at_any_write(
            seed,
            async |cluster| start(cluster, blue_green("v1", switch)).await,
            async |cluster| apply(cluster, blue_green("v2", switch)),
            async |crash, ()| {
                wait_until_healthy(&crash.cluster, NAME, "v2").await;
                wait_until_scaled(&crash.cluster, &[("v1", 0), ("v2", 3)]).await;
            },
        );
        assert!(crashes.await >= 5);
    }
}

#[tokio::test(start_paused = true)]
async fn a_controller_killed_at_any_write_of_an_abort_is_continued() {
    for (seed, switch) in [(4_300, Switch::Service), (4_400, Switch::Route)] {
        let crashes = crash_at_any_write(
            seed,
            async |cluster| {
                let started = start(cluster, blue_green("v1", switch)).await;
                apply(cluster, blue_green("v2", switch));
                wait_until_baking(cluster).await;
                started
            },
            async |cluster| create_command(cluster, "back", NAME, "abort"),
            async |crash, ()| {
                let cluster = &crash.cluster;
                wait_until_scaled(cluster, &[("v1", 3), ("v2", 0)]).await;
                assert_eq!(selected(cluster, NAME), "v1");
            },
        );
        assert!(crashes.await >= 2);
    }
}

#[tokio::test(start_paused = true)]
async fn the_strategy_of_a_live_rollout_changes_in_both_directions() {
    for (seed, switch) in (4_501..).zip(SWITCHES) {
        let cluster = FakeCluster::new(seed);
        let (_running, monitor) = start(&cluster, canary("v1")).await;
        apply(&cluster, blue_green("v1", switch));
        cluster.sleep(MINUTE).await;
        assert_eq!(
            replicas_by_version(&cluster, NAME),
            HashMap::from([("v1".to_owned(), 3)])
        );
        apply(&cluster, blue_green("v2", switch));
        wait_until_healthy(&cluster, NAME, "v2").await;
        apply(&cluster, canary("v2"));
        cluster.sleep(MINUTE).await;
        apply(&cluster, canary("v3"));
        wait_for_position(&cluster, NAME, "Paused/Progressing/1").await;
        create_command(&cluster, "promote", NAME, "promote");
        wait_until_healthy(&cluster, NAME, "v3").await;
        wait_until_scaled(&cluster, &[("v1", 0), ("v2", 0), ("v3", 3)]).await;
        monitor.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_in_progress_keeps_its_strategy() {
    for (seed, switch) in (4_511..).zip(SWITCHES) {
        let cluster = FakeCluster::new(seed);
        let (_running, monitor) = start(&cluster, canary("v1")).await;
        apply(&cluster, canary("v2"));
        wait_for_position(&cluster, NAME, "Paused/Progressing/1").await;
        apply(&cluster, blue_green("v2", switch));
        let is_reported = |cluster: &FakeCluster| {
            status(cluster, NAME)
                .state
                .message
                .contains("change of spec.strategy")
        };
        cluster
            .wait_until(is_reported, MINUTE)
            .await
            .expect("the change is not reported");
        assert_eq!(route_weights(&cluster, NAME), (Some(50), Some(50)));
        create_command(&cluster, "promote", NAME, "promote");
        wait_until_healthy(&cluster, NAME, "v2").await;
        apply(&cluster, blue_green("v3", switch));
        wait_until_baking(&cluster).await;
        apply(&cluster, canary("v3"));
        cluster.sleep(5 * SECOND).await;
        assert!(status(&cluster, NAME).state.bake.is_some());
        wait_until_healthy(&cluster, NAME, "v3").await;
        wait_until_scaled(&cluster, &[("v1", 0), ("v2", 0), ("v3", 3)]).await;
        monitor.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn other_services_take_over_when_the_strategy_changes() {
    let cluster = FakeCluster::new(4_521);
    let (_running, monitor) = start(&cluster, canary("v1")).await;
    let mut other = blue_green("v1", Switch::Service);
    other["spec"]["strategy"]["blueGreen"]["activeService"] = json!("other");
    other["spec"]["strategy"]["blueGreen"]["previewService"] = json!("other-preview");
    apply(&cluster, other.clone());
    let is_bound = |cluster: &FakeCluster| {
        selected(cluster, "other") == "v1" && selected(cluster, "other-preview") == "v1"
    };
    cluster
        .wait_until(is_bound, MINUTE)
        .await
        .expect("the Services are not bound");
    // The former Services select pods of every revision, so their clients lose nothing either.
    other["spec"]["template"]["spec"]["containers"][0]["image"] = json!("shop/checkout:v2");
    apply(&cluster, other);
    wait_until_healthy(&cluster, NAME, "v2").await;
    wait_until_scaled(&cluster, &[("v1", 0), ("v2", 3)]).await;
    drop(monitor);
}

//! A Rollout writes only the Services and routes that it holds, takes no Service away from other
//! pods, and does not fight with another writer.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use serde_json::{Value, json};
use serin_core::hold::HoldCode;
use serin_crds::Rollout;
use serin_fake_cluster::{FakeCluster, Fault};
use tokio::task::JoinHandle;

use crate::fixtures::*;
use crate::harness::*;

fn pausing_steps() -> Value {
    json!([{"setWeight": 20}, {"pause": {}}])
}

/// A Rollout of another name with the Services and the route of `checkout`.
fn copy_of_checkout(version: &str) -> Value {
    let mut copy = routed_rollout("checkout", version, 2, pausing_steps());
    copy["metadata"]["name"] = json!("copy");
    let canary = &mut copy["spec"]["strategy"]["canary"];
    canary["stableService"] = json!("checkout");
    canary["canaryService"] = json!("checkout-canary");
    copy
}

fn generation(cluster: &FakeCluster) -> i64 {
    let route = cluster.get_json("httproutes", SHOP, "checkout").unwrap();
    route["metadata"]["generation"].as_i64().unwrap()
}

fn hold_message(cluster: &FakeCluster, name: &str, code: HoldCode) -> Option<String> {
    let holds = status(cluster, name).state.holds;
    let hold = holds.iter().find(|hold| hold.code == code)?;
    Some(hold.message.to_string())
}

async fn wait_for_hold(cluster: &FakeCluster, name: &str, code: HoldCode) -> String {
    let is_held = |cluster: &FakeCluster| hold_message(cluster, name, code).is_some();
    let held = cluster.wait_until(is_held, MINUTE).await;
    assert!(held.is_ok(), "no {code}: {:?}", status(cluster, name));
    hold_message(cluster, name, code).unwrap()
}

/// A healthy `checkout` and its copy, which is younger.
async fn start_both(cluster: &FakeCluster) -> RunningController {
    create_route(cluster, "checkout");
    let running = start_controller(cluster, "serin");
    apply(
        cluster,
        routed_rollout("checkout", "v1", 4, pausing_steps()),
    );
    wait_until_healthy(cluster, "checkout", "v1").await;
    cluster.sleep(2 * SECOND).await;
    apply(cluster, copy_of_checkout("v1"));
    let message = wait_for_hold(cluster, "copy", HoldCode::OwnershipConflict).await;
    assert!(
        message.contains("Service checkout") && message.contains("Rollout checkout"),
        "{message}"
    );
    running
}

#[tokio::test(start_paused = true)]
async fn the_second_rollout_of_a_route_writes_nothing_and_takes_over_after_the_first_is_deleted() {
    let cluster = FakeCluster::new(401);
    let _running = start_both(&cluster).await;
    let before = generation(&cluster);
    apply(
        &cluster,
        routed_rollout("checkout", "v2", 4, pausing_steps()),
    );
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    cluster.sleep(MINUTE).await;
    create_command(&cluster, "go", "checkout", "promote");
    wait_until_healthy(&cluster, "checkout", "v2").await;
    cluster.sleep(MINUTE).await;
    assert_eq!(generation(&cluster) - before, 3, "20 %, 100 %, restored");

    let copy = cluster.get::<Rollout>(SHOP, "copy").unwrap();
    assert_eq!(copy.finalizers(), Vec::<String>::new());
    assert!(replica_sets(&cluster, "copy").is_empty());
    assert!(status(&cluster, "copy").original_routes.is_empty());
    assert_eq!(position(&cluster, "copy"), "Degraded/FirstDeploy");
    wait_for_event(&cluster, "copy", "OwnershipConflict").await;

    cluster.delete::<Rollout>(SHOP, "checkout").unwrap();
    wait_until_healthy(&cluster, "copy", "v1").await;
    let service = cluster.get::<Service>(SHOP, "checkout").unwrap();
    assert_eq!(service.labels()["serin.dev/rollout"], "copy");
    assert_eq!(
        hold_message(&cluster, "copy", HoldCode::OwnershipConflict),
        None
    );
}

#[tokio::test(start_paused = true)]
async fn deleting_the_second_rollout_during_a_release_of_the_first_changes_nothing() {
    let cluster = FakeCluster::new(402);
    let _running = start_both(&cluster).await;
    apply(
        &cluster,
        routed_rollout("checkout", "v2", 4, pausing_steps()),
    );
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    let (route, before) = (route_spec(&cluster, "checkout"), generation(&cluster));
    let selectors = || {
        ["checkout", "checkout-canary"].map(|name| {
            let service = cluster.get::<Service>(SHOP, name).unwrap();
            service.spec.unwrap().selector
        })
    };
    let selected = selectors();
    cluster.delete::<Rollout>(SHOP, "copy").unwrap();
    let is_gone = |cluster: &FakeCluster| cluster.get::<Rollout>(SHOP, "copy").is_none();
    cluster.wait_until(is_gone, MINUTE).await.unwrap();
    cluster.sleep(MINUTE).await;
    assert_eq!(route_spec(&cluster, "checkout"), route);
    assert_eq!(generation(&cluster), before);
    assert_eq!(selectors(), selected);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_controller_knows_the_holder_before_it_reconciles_anything() {
    let cluster = FakeCluster::new(403);
    let running = start_both(&cluster).await;
    running.stop().await;
    // Not even the labels of the Services name their holder.
    for name in ["checkout", "checkout-canary"] {
        cluster.delete::<Service>(SHOP, name).unwrap();
    }
    let _running = start_controller(&cluster, "serin-again");
    let is_created = |cluster: &FakeCluster| cluster.get::<Service>(SHOP, "checkout").is_some();
    cluster.wait_until(is_created, MINUTE).await.unwrap();
    let service = cluster.get::<Service>(SHOP, "checkout").unwrap();
    assert_eq!(service.labels()["serin.dev/rollout"], "checkout");
}

#[tokio::test(start_paused = true)]
async fn the_rollout_that_has_bound_a_service_keeps_it_although_another_is_older() {
    let cluster = FakeCluster::new(404);
    create_route(&cluster, "checkout");
    apply(&cluster, stable_service("checkout"));
    let _running = start_controller(&cluster, "serin");
    let mut older = copy_of_checkout("v1");
    older["metadata"]["name"] = json!("older");
    let mut elsewhere = older.clone();
    elsewhere["spec"]["paused"] = json!(true);
    elsewhere["spec"]["strategy"]["canary"] = json!({"steps": pausing_steps()});
    apply(&cluster, elsewhere);
    cluster.sleep(2 * SECOND).await;
    apply(
        &cluster,
        routed_rollout("checkout", "v1", 4, pausing_steps()),
    );
    wait_until_healthy(&cluster, "checkout", "v1").await;
    apply(&cluster, older);
    let message = wait_for_hold(&cluster, "older", HoldCode::OwnershipConflict).await;
    assert!(message.contains("has bound it"), "{message}");
    cluster.sleep(MINUTE).await;
    let service = cluster.get::<Service>(SHOP, "checkout").unwrap();
    assert_eq!(service.labels()["serin.dev/rollout"], "checkout");
    // The label of a Rollout that is gone decides nothing.
    cluster.delete::<Rollout>(SHOP, "checkout").unwrap();
    let is_taken = |cluster: &FakeCluster| {
        let service = cluster.get::<Service>(SHOP, "checkout").unwrap();
        service
            .labels()
            .get("serin.dev/rollout")
            .map(String::as_str)
            == Some("older")
    };
    cluster.wait_until(is_taken, MINUTE).await.unwrap();
}

/// A ReplicaSet that the user created, with the labels of the template of `checkout`.
fn users_pods(replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "legacy", "namespace": SHOP},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "checkout", "legacy": "yes"}},
            "template": {
                "metadata": {"labels": {"app": "checkout", "legacy": "yes"}},
                "spec": {"containers": [{"name": "app", "image": "shop/legacy:v0"}]},
            },
        },
    })
}

/// The pods behind the ready endpoints of a Service.
fn ready_pods(cluster: &FakeCluster, service: &str) -> BTreeSet<String> {
    let slices = cluster.objects::<EndpointSlice>().into_iter();
    let of_service = slices.filter(|slice| {
        let name = slice.labels().get("kubernetes.io/service-name");
        name.map(String::as_str) == Some(service)
    });
    let ready = of_service
        .flat_map(|slice| slice.endpoints)
        .filter(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            conditions.and_then(|conditions| conditions.ready) == Some(true)
        });
    ready
        .filter_map(|endpoint| endpoint.target_ref?.name)
        .collect()
}

fn selected_revision(cluster: &FakeCluster) -> Option<String> {
    let service = cluster.get::<Service>(SHOP, "checkout")?;
    service.spec?.selector?.get("serin.dev/revision").cloned()
}

#[tokio::test(start_paused = true)]
async fn a_service_with_running_pods_is_bound_only_once_the_revision_has_all_of_its_pods() {
    let cluster = FakeCluster::new(405);
    create_route(&cluster, "checkout");
    apply(&cluster, stable_service("checkout"));
    apply(&cluster, users_pods(3));
    let has_pods = |cluster: &FakeCluster| ready_pods(cluster, "checkout").len() == 3;
    cluster.wait_until(has_pods, MINUTE).await.unwrap();
    let _running = start_controller(&cluster, "serin");
    let monitored = cluster.clone();
    let monitor: JoinHandle<()> = tokio::spawn(async move {
        let is_empty = |cluster: &FakeCluster| ready_pods(cluster, "checkout").is_empty();
        let violated = monitored.wait_until(is_empty, 60 * MINUTE).await;
        assert!(violated.is_err(), "the Service has no ready endpoint");
    });
    apply(
        &cluster,
        routed_rollout("checkout", "v1", 4, pausing_steps()),
    );
    let message = wait_for_hold(&cluster, "checkout", HoldCode::ServiceInUse).await;
    assert!(message.contains("3 ready endpoints"), "{message}");
    assert_eq!(selected_revision(&cluster), None);
    let is_bound = |cluster: &FakeCluster| selected_revision(cluster).is_some();
    cluster.wait_until(is_bound, MINUTE).await.unwrap();
    let sets = replica_sets(&cluster, "checkout");
    let available = sets[0]
        .status
        .as_ref()
        .and_then(|status| status.available_replicas);
    assert_eq!(available, Some(4));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    cluster.delete::<ReplicaSet>(SHOP, "legacy").unwrap();
    cluster.sleep(MINUTE).await;
    assert!(!monitor.is_finished(), "it always has ready endpoints");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_must_not_be_taken_is_left_alone_until_it_is_corrected() {
    let cluster = FakeCluster::new(406);
    create_route(&cluster, "checkout");
    let mut payments = stable_service("checkout");
    payments["spec"]["selector"] = json!({"app": "payments"});
    apply(&cluster, payments);
    let _running = start_controller(&cluster, "serin");
    apply(
        &cluster,
        routed_rollout("checkout", "v1", 4, pausing_steps()),
    );
    let message = wait_for_hold(&cluster, "checkout", HoldCode::ServiceRefused).await;
    assert!(
        message.starts_with("spec.strategy.canary.stableService: Service checkout")
            && message.contains("app=payments"),
        "{message}"
    );
    cluster.sleep(5 * MINUTE).await;
    let writes = cluster.writes().into_iter();
    let mut of_services = writes.filter(|write| write.plural == "services");
    assert_eq!(of_services.next(), None);
    assert!(replica_sets(&cluster, "checkout").is_empty());
    // No watch delivers a Service without the label.
    apply(&cluster, stable_service("checkout"));
    wait_until_healthy(&cluster, "checkout", "v1").await;
}

/// Puts the backends of the route of `checkout` back whenever they differ, after a delay, until it is
/// dropped.
struct RouteFight(JoinHandle<()>);

impl RouteFight {
    fn start(cluster: &FakeCluster, backends: Value, delay: Duration) -> Self {
        let cluster = cluster.clone();
        let mut wanted = http_route("checkout");
        wanted["spec"]["rules"][1]["backendRefs"] = backends;
        Self(tokio::spawn(async move {
            loop {
                apply(&cluster, wanted.clone());
                let spec = route_spec(&cluster, "checkout");
                let differs = |cluster: &FakeCluster| route_spec(cluster, "checkout") != spec;
                let _ = cluster.wait_until(differs, 60 * MINUTE).await;
                cluster.sleep(delay).await;
            }
        }))
    }
}

impl Drop for RouteFight {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The writes of the controller to routes in the next 10 seconds.
async fn count_route_writes(cluster: &FakeCluster) -> usize {
    cluster.clear_requests();
    cluster.sleep(10 * SECOND).await;
    let writes = cluster.writes().into_iter();
    writes.filter(|write| write.plural == "httproutes").count()
}

async fn start_release(cluster: &FakeCluster) -> RunningController {
    create_route(cluster, "checkout");
    let running = start_controller(cluster, "serin");
    apply(
        cluster,
        routed_rollout("checkout", "v1", 4, pausing_steps()),
    );
    wait_until_healthy(cluster, "checkout", "v1").await;
    apply(
        cluster,
        routed_rollout("checkout", "v2", 4, pausing_steps()),
    );
    wait_for_position(cluster, "checkout", "Paused/Progressing/1").await;
    running
}

#[tokio::test(start_paused = true)]
async fn a_route_that_another_client_keeps_resetting_is_put_back_with_a_backoff() {
    let cluster = FakeCluster::new(407);
    let _running = start_release(&cluster).await;
    let stable_only = json!([{"name": "checkout", "port": 80}]);
    let fight = RouteFight::start(&cluster, stable_only, Duration::ZERO);
    let first = count_route_writes(&cluster).await;
    assert!((2..=10).contains(&first), "{first} writes in 10 s");
    cluster.sleep(MINUTE).await;
    let later = count_route_writes(&cluster).await;
    assert!(later <= 1, "{later} writes in 10 s");
    let message = wait_for_hold(&cluster, "checkout", HoldCode::Contested).await;
    assert!(message.contains("HTTPRoute checkout"), "{message}");
    wait_for_event(&cluster, "checkout", "Contested").await;
    drop(fight);
    let is_put_back = |cluster: &FakeCluster| {
        route_weights(cluster, "checkout") == (Some(80), Some(20))
            && hold_message(cluster, "checkout", HoldCode::Contested).is_none()
    };
    cluster.wait_until(is_put_back, 5 * MINUTE).await.unwrap();
    create_command(&cluster, "go", "checkout", "promote");
    wait_until_healthy(&cluster, "checkout", "v2").await;
}

#[tokio::test(start_paused = true)]
async fn an_aborted_canary_loses_its_traffic_within_a_second_whoever_gives_it_back() {
    let cluster = FakeCluster::new(408);
    let _running = start_release(&cluster).await;
    let both = json!([
        {"name": "checkout", "port": 80, "weight": 50},
        {"name": "checkout-canary", "port": 80, "weight": 50},
    ]);
    let _fight = RouteFight::start(&cluster, both, SECOND / 5);
    cluster.sleep(MINUTE).await;
    create_command(&cluster, "stop", "checkout", "abort");
    let is_lowered = |cluster: &FakeCluster| route_weights(cluster, "checkout").1.unwrap_or(0) == 0;
    cluster
        .wait_until(is_lowered, 2 * SECOND)
        .await
        .expect("the abort is at once");
    cluster.sleep(MINUTE).await;
    let writes = count_route_writes(&cluster).await;
    assert!((8..=22).contains(&writes), "{writes} writes in 10 s");
}

#[tokio::test(start_paused = true)]
async fn a_deletion_gives_up_on_a_route_that_a_policy_does_not_let_restore() {
    let cluster = FakeCluster::new(409);
    let _running = start_release(&cluster).await;
    cluster.inject(Fault::on("patch", "httproutes").always().status(403));
    cluster.delete::<Rollout>(SHOP, "checkout").unwrap();
    cluster.sleep(10 * SECOND).await;
    assert!(
        cluster.get::<Rollout>(SHOP, "checkout").is_some(),
        "it retries"
    );
    let is_gone = |cluster: &FakeCluster| cluster.get::<Rollout>(SHOP, "checkout").is_none();
    cluster.wait_until(is_gone, 5 * MINUTE).await.unwrap();
    wait_for_event(&cluster, "checkout", "RestoreAbandoned").await;
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_api_server_is_no_reason_to_give_up_the_restoration() {
    let cluster = FakeCluster::new(410);
    let _running = start_release(&cluster).await;
    cluster.inject(Fault::on("patch", "httproutes").times(20).status(503));
    cluster.delete::<Rollout>(SHOP, "checkout").unwrap();
    let is_gone = |cluster: &FakeCluster| cluster.get::<Rollout>(SHOP, "checkout").is_none();
    cluster.wait_until(is_gone, 20 * MINUTE).await.unwrap();
    let backends = route_spec(&cluster, "checkout")["rules"][1]["backendRefs"].clone();
    assert_eq!(backends.as_array().map(Vec::len), Some(1), "{backends}");
}

//! The pods of a Deployment are taken over and given back without a restart.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use serin_core::hold::HoldCode;
use serin_core::state::WorkloadPhase;
use serin_crds::Rollout;
use serin_fake_cluster::FakeCluster;
use tokio::task::JoinHandle;

use crate::fixtures::*;
use crate::harness::*;

const REPLICAS: u32 = 3;

fn deployment(version: &str) -> Value {
    let rollout = unrouted_rollout("checkout", version, REPLICAS, json!([]));
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "checkout", "namespace": SHOP, "labels": {"team": "shop"}},
        "spec": {
            "replicas": REPLICAS,
            "selector": rollout["spec"]["selector"],
            "template": rollout["spec"]["template"],
        },
    })
}

/// A Rollout that refers to the Deployment.
fn referring(steps: Value) -> Value {
    let mut rollout = routed_rollout("checkout", "v1", REPLICAS, steps);
    let spec = rollout["spec"].as_object_mut().unwrap();
    for field in ["selector", "template", "replicas"] {
        spec.remove(field);
    }
    rollout["spec"]["workloadRef"] =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "checkout"});
    rollout
}

/// A Rollout with a template of its own that replaces the Deployment.
fn adopting(version: &str) -> Value {
    let steps = json!([{"setWeight": 50}, {"pause": {"duration": "5s"}}]);
    let mut rollout = routed_rollout("checkout", version, REPLICAS, steps);
    rollout["spec"]["adopt"] = json!({"deployment": "checkout"});
    rollout
}

/// A cluster with a Deployment that serves behind a route.
async fn cluster_with_deployment(seed: u64) -> FakeCluster {
    let cluster = FakeCluster::new(seed);
    create_route(&cluster, "checkout");
    let mut service = stable_service("checkout");
    service["metadata"]["labels"] = json!({"team": "shop"});
    apply(&cluster, service);
    // It has a history: an empty ReplicaSet that its controller could scale up.
    for version in ["v0", "v1"] {
        apply(&cluster, deployment(version));
        let is_serving = |cluster: &FakeCluster| {
            let pods = cluster.objects::<Pod>();
            let is_of_version = |pod: &Pod| {
                let image = pod
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.containers[0].image.clone());
                image.is_some_and(|image| image.ends_with(version))
            };
            pods.len() == REPLICAS as usize
                && pods.iter().all(is_of_version)
                && ready_endpoints(cluster) == REPLICAS as usize
        };
        cluster.wait_until(is_serving, MINUTE).await.unwrap();
    }
    cluster.sleep(SECOND).await;
    cluster
}

/// The ReplicaSets with pods.
fn active_sets(cluster: &FakeCluster) -> Vec<ReplicaSet> {
    let mut sets = cluster.objects::<ReplicaSet>();
    sets.retain(|set| {
        set.spec
            .as_ref()
            .is_some_and(|spec| spec.replicas != Some(0))
    });
    sets
}

fn ready_endpoints(cluster: &FakeCluster) -> usize {
    let slices = cluster.objects::<EndpointSlice>();
    let of_service = slices.iter().filter(|slice| {
        let service = slice.labels().get("kubernetes.io/service-name");
        service.map(String::as_str) == Some("checkout")
    });
    let endpoints = of_service.flat_map(|slice| &slice.endpoints);
    endpoints
        .filter(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            conditions.and_then(|conditions| conditions.ready) == Some(true)
        })
        .count()
}

fn pod_uids(cluster: &FakeCluster) -> BTreeSet<String> {
    let pods = cluster.objects::<Pod>().into_iter();
    pods.filter_map(|pod| pod.metadata.uid).collect()
}

/// Checks all the time that every pod that serves at the beginning exists, and that the Service has
/// an endpoint for each.
struct FleetMonitor {
    pods: BTreeSet<String>,
    cluster: FakeCluster,
    task: JoinHandle<()>,
}

impl FleetMonitor {
    fn start(cluster: &FakeCluster) -> Self {
        let (pods, watched) = (pod_uids(cluster), cluster.clone());
        let expected = pods.clone();
        let task = tokio::spawn(async move {
            let is_violated = |cluster: &FakeCluster| {
                !expected.is_subset(&pod_uids(cluster))
                    || ready_endpoints(cluster) < REPLICAS as usize
            };
            let violated = watched.wait_until(is_violated, 600 * MINUTE).await;
            assert!(
                violated.is_err(),
                "pods or endpoints are missing at {}: {} endpoints, position {}",
                watched.now(),
                ready_endpoints(&watched),
                position(&watched, "checkout")
            );
        });
        Self {
            pods,
            cluster: cluster.clone(),
            task,
        }
    }

    /// The pods are those of the beginning, and no others.
    async fn finish(self) {
        if self.task.is_finished() {
            self.task.await.unwrap();
        } else {
            self.task.abort();
        }
        assert_eq!(pod_uids(&self.cluster), self.pods, "other pods exist");
    }
}

fn workload_phase(cluster: &FakeCluster) -> Option<WorkloadPhase> {
    let workload = status(cluster, "checkout").state.workload;
    workload.map(|workload| workload.phase)
}

async fn wait_for_phase(cluster: &FakeCluster, phase: WorkloadPhase) {
    let reached = cluster
        .wait_until(|cluster| workload_phase(cluster) == Some(phase), 2 * MINUTE)
        .await;
    assert!(
        reached.is_ok(),
        "not {phase:?}: {:?} {}",
        status(cluster, "checkout"),
        json!(cluster.objects::<Deployment>())
    );
}

/// Waits until the pods are taken over and the Service selects their revision.
async fn wait_until_taken_over(cluster: &FakeCluster) {
    wait_for_phase(cluster, WorkloadPhase::TakenOver).await;
    let is_bound = |cluster: &FakeCluster| {
        let selector = service_selector(cluster);
        selector["serin.dev/revision"].is_string()
    };
    let bound = cluster.wait_until(is_bound, MINUTE).await;
    assert!(bound.is_ok(), "{:?}", status(cluster, "checkout"));
    wait_until_healthy(cluster, "checkout", "v1").await;
}

fn service_selector(cluster: &FakeCluster) -> Value {
    cluster
        .get_json("services", SHOP, "checkout")
        .map(|service| service["spec"]["selector"].clone())
        .unwrap_or_default()
}

async fn wait_for_hold(cluster: &FakeCluster, code: HoldCode) -> String {
    let hold = |cluster: &FakeCluster| {
        let holds = status(cluster, "checkout").state.holds;
        holds.into_iter().find(|hold| hold.code == code)
    };
    let reached = cluster
        .wait_until(|cluster| hold(cluster).is_some(), MINUTE)
        .await;
    assert!(reached.is_ok(), "{:?}", status(cluster, "checkout"));
    hold(cluster).unwrap().message.to_string()
}

fn revision_template(cluster: &FakeCluster) -> Vec<(String, i32)> {
    let sets = cluster.objects::<ReplicaSet>().into_iter();
    let mut sets: Vec<_> = sets
        .map(|set| {
            let spec = set.spec.clone().unwrap();
            (set.name_any(), spec.replicas.unwrap())
        })
        .collect();
    sets.sort();
    sets
}

#[tokio::test(start_paused = true)]
async fn no_pod_is_restarted_by_a_takeover() {
    let cluster = cluster_with_deployment(201).await;
    let monitor = FleetMonitor::start(&cluster);
    let running = start_controller(&cluster, "serin");
    apply(&cluster, referring(json!([])));
    wait_until_taken_over(&cluster).await;
    cluster.sleep(5 * MINUTE).await;
    let sets = active_sets(&cluster);
    assert_eq!(sets.len(), 1, "{:?}", revision_template(&cluster));
    let owners = sets[0].owner_references();
    assert_eq!((owners.len(), owners[0].kind.as_str()), (1, "Rollout"));
    assert_eq!(status(&cluster, "checkout").replicas, 3);
    for pod in cluster.objects::<Pod>() {
        assert!(pod.labels().contains_key("serin.dev/revision"));
    }
    monitor.finish().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_template_of_the_deployment_is_a_release() {
    let cluster = cluster_with_deployment(202).await;
    let running = start_controller(&cluster, "serin");
    apply(
        &cluster,
        referring(json!([{"setWeight": 50}, {"pause": {"duration": "5s"}}])),
    );
    wait_until_taken_over(&cluster).await;
    let monitor = TrafficMonitor::start(&cluster, "checkout");
    // As GitOps applies it: `spec.paused` is not in the manifest, and stays.
    cluster
        .edit::<Deployment>(SHOP, "checkout", |deployment| {
            let template = &mut deployment["spec"]["template"];
            template["spec"]["containers"][0]["image"] = json!("shop/checkout:v2");
        })
        .unwrap();
    wait_until_healthy(&cluster, "checkout", "v2").await;
    cluster.sleep(5 * MINUTE).await;
    let deployment = cluster.get::<Deployment>(SHOP, "checkout").unwrap();
    assert_eq!(deployment.spec.unwrap().paused, Some(true));
    assert_eq!(pod_uids(&cluster).len(), 3);
    monitor.finish().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn only_spec_paused_of_the_deployment_is_written() {
    let cluster = cluster_with_deployment(203).await;
    let before = cluster.get_json("deployments", SHOP, "checkout").unwrap();
    let running = start_controller(&cluster, "serin");
    apply(&cluster, referring(json!([])));
    wait_until_taken_over(&cluster).await;
    cluster.sleep(MINUTE).await;
    let mut after = cluster.get_json("deployments", SHOP, "checkout").unwrap();
    assert_eq!(after["spec"]["paused"], true);
    after["spec"].as_object_mut().unwrap().remove("paused");
    assert_eq!(after["spec"], before["spec"]);
    for part in ["labels", "annotations", "finalizers", "ownerReferences"] {
        assert_eq!(after["metadata"][part], before["metadata"][part], "{part}");
    }
    let writes = cluster.writes();
    let to_deployments = writes
        .iter()
        .filter(|write| write.plural == "deployments" && write.client == "serin");
    assert_eq!(to_deployments.count(), 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn available_pods_never_fall_below_replicas_during_takeover_and_give_back() {
    let cluster = cluster_with_deployment(204).await;
    let monitor = FleetMonitor::start(&cluster);
    let running = start_controller(&cluster, "serin");
    apply(&cluster, referring(json!([])));
    for round in 0..2 {
        wait_until_taken_over(&cluster).await;
        cluster.sleep(MINUTE).await;
        let name = format!("back-{round}");
        create_command(&cluster, &name, "checkout", "giveBack");
        let (result, message) = command_outcome(&cluster, &name).await;
        assert_eq!(result, "Done", "{message}");
        wait_for_phase(&cluster, WorkloadPhase::GivenBack).await;
        cluster.sleep(MINUTE).await;
        let deployment = cluster.get::<Deployment>(SHOP, "checkout").unwrap();
        assert_ne!(deployment.spec.unwrap().paused, Some(true));
        assert_eq!(deployment.status.unwrap().updated_replicas, Some(3));
        let sets = active_sets(&cluster);
        assert_eq!(
            (sets.len(), sets[0].owner_references()[0].kind.as_str()),
            (1, "Deployment")
        );
        let name = format!("again-{round}");
        create_command(&cluster, &name, "checkout", "resume");
        let (result, message) = command_outcome(&cluster, &name).await;
        assert_eq!(result, "Done", "{message}");
    }
    wait_until_taken_over(&cluster).await;
    monitor.finish().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn give_back_restores_services_byte_for_byte() {
    let cluster = cluster_with_deployment(205).await;
    let spec = |plural: &str| {
        let object = cluster.get_json(plural, SHOP, "checkout").unwrap();
        (object["spec"].clone(), object["metadata"]["labels"].clone())
    };
    let before = (spec("services"), spec("httproutes"), spec("deployments"));
    let running = start_controller(&cluster, "serin");
    apply(&cluster, referring(json!([])));
    wait_until_taken_over(&cluster).await;
    create_command(&cluster, "back", "checkout", "giveBack");
    wait_for_phase(&cluster, WorkloadPhase::GivenBack).await;
    assert_eq!(
        (spec("services"), spec("httproutes"), spec("deployments")),
        before
    );
    running.stop().await;
}

/// The number of writes of a takeover or a return.
async fn count_writes(cluster: &FakeCluster, work: impl Future<Output = ()>) -> usize {
    cluster.clear_requests();
    work.await;
    let writes = cluster.writes();
    writes
        .iter()
        .filter(|write| write.client == "serin-0")
        .count()
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_point_of_the_takeover_is_finished_by_the_next_controller() {
    let cluster = cluster_with_deployment(206).await;
    let first = start_controller(&cluster, "serin-0");
    apply(&cluster, referring(json!([])));
    let writes = count_writes(&cluster, wait_until_taken_over(&cluster)).await;
    first.stop().await;
    assert!(writes >= 7, "{writes}");
    for killed_after in 1..=writes {
        let cluster = cluster_with_deployment(206).await;
        let monitor = FleetMonitor::start(&cluster);
        let first = start_controller(&cluster, "serin-0");
        cluster.kill_after_writes("serin-0", killed_after);
        apply(&cluster, referring(json!([])));
        cluster.sleep(10 * SECOND).await;
        first.kill(&cluster);
        let second = start_controller(&cluster, "serin-1");
        wait_until_taken_over(&cluster).await;
        cluster.sleep(MINUTE).await;
        assert_eq!(active_sets(&cluster).len(), 1, "{killed_after}");
        monitor.finish().await;
        second.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_point_of_the_give_back_is_finished_by_the_next_controller() {
    let mut writes = usize::MAX;
    let mut killed_after = 0;
    // The first round counts the writes.
    while killed_after <= writes {
        let cluster = cluster_with_deployment(207).await;
        let monitor = FleetMonitor::start(&cluster);
        let first = start_controller(&cluster, "serin-0");
        apply(&cluster, referring(json!([])));
        wait_until_taken_over(&cluster).await;
        cluster.clear_requests();
        if killed_after > 0 {
            cluster.kill_after_writes("serin-0", killed_after);
        }
        create_command(&cluster, "back", "checkout", "giveBack");
        cluster.sleep(20 * SECOND).await;
        if killed_after == 0 {
            wait_for_phase(&cluster, WorkloadPhase::GivenBack).await;
            let made = cluster.writes();
            writes = made
                .iter()
                .filter(|write| write.client == "serin-0")
                .count();
            assert!(writes >= 5, "{writes}");
        }
        first.kill(&cluster);
        let second = start_controller(&cluster, "serin-1");
        wait_for_phase(&cluster, WorkloadPhase::GivenBack).await;
        cluster.sleep(MINUTE).await;
        let sets = active_sets(&cluster);
        assert_eq!(sets.len(), 1, "{killed_after}");
        assert_eq!(sets[0].owner_references()[0].kind, "Deployment");
        monitor.finish().await;
        second.stop().await;
        killed_after += 1;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rollout_carries_on_after_its_deployment_was_deleted() {
    let cluster = cluster_with_deployment(208).await;
    let monitor = FleetMonitor::start(&cluster);
    let running = start_controller(&cluster, "serin-0");
    apply(&cluster, referring(json!([])));
    wait_until_taken_over(&cluster).await;
    cluster.delete::<Deployment>(SHOP, "checkout").unwrap();
    let message = wait_for_hold(&cluster, HoldCode::WorkloadMissing).await;
    assert!(message.contains("checkout does not exist"), "{message}");
    running.kill(&cluster);
    // A new controller finds the template in the ReplicaSet.
    let running = start_controller(&cluster, "serin-1");
    cluster.sleep(MINUTE).await;
    wait_until_healthy(&cluster, "checkout", "v1").await;
    // The template moves into the Rollout.
    let mut own = adopting("v1");
    own["spec"].as_object_mut().unwrap().remove("adopt");
    apply(&cluster, own);
    cluster.sleep(MINUTE).await;
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let holds = status(&cluster, "checkout").state.holds;
    assert!(holds.is_empty(), "{holds:?}");
    monitor.finish().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_commit_that_replaces_the_kind_keeps_every_pod() {
    let cluster = cluster_with_deployment(209).await;
    let monitor = FleetMonitor::start(&cluster);
    let running = start_controller(&cluster, "serin");
    apply(&cluster, adopting("v1"));
    wait_until_taken_over(&cluster).await;
    // The prune after the sync.
    cluster.delete::<Deployment>(SHOP, "checkout").unwrap();
    cluster.sleep(5 * MINUTE).await;
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let holds = status(&cluster, "checkout").state.holds;
    assert!(holds.is_empty(), "{holds:?}");
    monitor.finish().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_prune_that_orphans_before_the_rollout_exists_keeps_every_pod() {
    let cluster = cluster_with_deployment(210).await;
    let monitor = FleetMonitor::start(&cluster);
    let running = start_controller(&cluster, "serin");
    let api: Api<Deployment> = Api::namespaced(cluster.client_for("user"), SHOP);
    api.delete("checkout", &DeleteParams::orphan())
        .await
        .unwrap();
    cluster.sleep(5 * SECOND).await;
    apply(&cluster, adopting("v1"));
    wait_until_taken_over(&cluster).await;
    cluster.sleep(MINUTE).await;
    monitor.finish().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn another_template_is_released_after_the_takeover() {
    let cluster = cluster_with_deployment(211).await;
    let running = start_controller(&cluster, "serin");
    let before = pod_uids(&cluster);
    apply(&cluster, adopting("v2"));
    wait_for_position(&cluster, "checkout", "Progressing/Progressing").await;
    assert!(before.is_subset(&pod_uids(&cluster)));
    wait_until_healthy(&cluster, "checkout", "v2").await;
    let reasons = event_reasons(&cluster, "checkout");
    let at = |reason: &str| reasons.iter().position(|other| other == reason);
    assert!(at("TakenOver").is_some(), "{reasons:?}");
    assert!(at("TakenOver") < at("ReleaseStarted"), "{reasons:?}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_cannot_be_taken_over_is_left_as_it_is() {
    let cluster = cluster_with_deployment(212).await;
    let running = start_controller(&cluster, "serin");
    let before = cluster.get_json("deployments", SHOP, "checkout").unwrap();
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web", "namespace": SHOP},
        "spec": {"maxReplicas": 9, "scaleTargetRef":
            {"apiVersion": "apps/v1", "kind": "Deployment", "name": "checkout"}},
    });
    apply(&cluster, autoscaler.clone());
    apply(&cluster, referring(json!([])));
    let message = wait_for_hold(&cluster, HoldCode::WorkloadAutoscaled).await;
    assert!(
        message.contains("web scales Deployment checkout"),
        "{message}"
    );
    let after = cluster.get_json("deployments", SHOP, "checkout").unwrap();
    assert_eq!(before["spec"], after["spec"]);
    assert_eq!(active_sets(&cluster).len(), 1);
    // The autoscaler scales the Rollout now.
    let mut moved = autoscaler;
    moved["spec"]["scaleTargetRef"] =
        json!({"apiVersion": "serin.dev/v1alpha1", "kind": "Rollout", "name": "checkout"});
    apply(&cluster, moved);
    wait_until_taken_over(&cluster).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deployment_with_strategy_recreate_is_refused() {
    let cluster = cluster_with_deployment(213).await;
    let mut recreate = deployment("v1");
    recreate["spec"]["strategy"] = json!({"type": "Recreate"});
    apply(&cluster, recreate);
    let running = start_controller(&cluster, "serin");
    apply(&cluster, referring(json!([])));
    let message = wait_for_hold(&cluster, HoldCode::WorkloadUnsupported).await;
    assert!(
        message.contains("spec.strategy.type: Recreate"),
        "{message}"
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deployment_in_the_middle_of_an_update_is_awaited() {
    let cluster = cluster_with_deployment(214).await;
    cluster
        .set_pod_behavior("version=v2", serin_fake_cluster::PodBehavior::NeverReady)
        .unwrap();
    let with_version = |version: &str| {
        let mut next = deployment(version);
        next["spec"]["template"]["metadata"]["labels"]["version"] = json!(version);
        next
    };
    apply(&cluster, with_version("v2"));
    let running = start_controller(&cluster, "serin");
    apply(&cluster, referring(json!([])));
    let message = wait_for_hold(&cluster, HoldCode::WorkloadProgressing).await;
    assert!(message.contains("checkout"), "{message}");
    cluster.sleep(MINUTE).await;
    assert_eq!(workload_phase(&cluster), None);
    // The update is undone.
    apply(&cluster, deployment("v1"));
    wait_until_taken_over(&cluster).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn of_two_rollouts_the_oldest_takes_the_deployment_over() {
    let cluster = cluster_with_deployment(215).await;
    let running = start_controller(&cluster, "serin");
    apply(&cluster, referring(json!([])));
    wait_until_taken_over(&cluster).await;
    let mut other = referring(json!([]));
    other["metadata"]["name"] = json!("other");
    other["spec"]["strategy"] = json!({"canary": {}});
    apply(&cluster, other);
    let is_refused = |cluster: &FakeCluster| {
        let holds = status(cluster, "other").state.holds;
        holds
            .iter()
            .any(|hold| hold.code == HoldCode::WorkloadClaimed)
    };
    let refused = cluster.wait_until(is_refused, MINUTE).await;
    assert!(refused.is_ok(), "{:?}", status(&cluster, "other"));
    assert_eq!(active_sets(&cluster).len(), 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_rollout_gives_its_pods_back() {
    let cluster = cluster_with_deployment(216).await;
    let monitor = FleetMonitor::start(&cluster);
    let running = start_controller(&cluster, "serin");
    apply(&cluster, referring(json!([])));
    wait_until_taken_over(&cluster).await;
    cluster.delete::<Rollout>(SHOP, "checkout").unwrap();
    let is_gone = |cluster: &FakeCluster| cluster.get::<Rollout>(SHOP, "checkout").is_none();
    cluster.wait_until(is_gone, MINUTE).await.unwrap();
    cluster.sleep(MINUTE).await;
    let deployment = cluster.get::<Deployment>(SHOP, "checkout").unwrap();
    assert_ne!(deployment.spec.unwrap().paused, Some(true));
    assert_eq!(service_selector(&cluster), json!({"app": "checkout"}));
    monitor.finish().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rollout_becomes_a_deployment_that_did_not_exist() {
    let cluster = FakeCluster::new(217);
    create_route(&cluster, "checkout");
    apply(&cluster, stable_service("checkout"));
    let running = start_controller(&cluster, "serin");
    let mut rollout = routed_rollout("checkout", "v1", REPLICAS, json!([]));
    rollout["spec"]["onDelete"] = json!("GiveBack");
    apply(&cluster, rollout);
    wait_until_healthy(&cluster, "checkout", "v1").await;
    cluster.sleep(MINUTE).await;
    let monitor = FleetMonitor::start(&cluster);
    cluster.delete::<Rollout>(SHOP, "checkout").unwrap();
    let is_gone = |cluster: &FakeCluster| cluster.get::<Rollout>(SHOP, "checkout").is_none();
    cluster.wait_until(is_gone, MINUTE).await.unwrap();
    cluster.sleep(MINUTE).await;
    let deployment = cluster.get::<Deployment>(SHOP, "checkout").unwrap();
    assert_ne!(deployment.spec.as_ref().unwrap().paused, Some(true));
    assert_eq!(deployment.status.unwrap().updated_replicas, Some(3));
    monitor.finish().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rollout_that_was_orphaned_and_created_again_takes_its_pods_over() {
    let cluster = FakeCluster::new(218);
    create_route(&cluster, "checkout");
    apply(&cluster, stable_service("checkout"));
    let running = start_controller(&cluster, "serin");
    let rollout = || {
        let steps = json!([{"setWeight": 50}, {"pause": {"duration": "5s"}}]);
        routed_rollout("checkout", "v1", REPLICAS, steps)
    };
    apply(&cluster, rollout());
    wait_until_healthy(&cluster, "checkout", "v1").await;
    cluster.sleep(MINUTE).await;
    let monitor = FleetMonitor::start(&cluster);
    for _ in 0..5 {
        let api: Api<Rollout> = Api::namespaced(cluster.client_for("user"), SHOP);
        api.delete("checkout", &DeleteParams::orphan())
            .await
            .unwrap();
        let is_gone = |cluster: &FakeCluster| cluster.get::<Rollout>(SHOP, "checkout").is_none();
        cluster.wait_until(is_gone, MINUTE).await.unwrap();
        apply(&cluster, rollout());
        wait_until_healthy(&cluster, "checkout", "v1").await;
        assert_eq!(active_sets(&cluster).len(), 1);
    }
    cluster.sleep(MINUTE).await;
    monitor.finish().await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_fleet_scales_the_deployment_down_when_it_serves() {
    let cluster = cluster_with_deployment(219).await;
    let running = start_controller(&cluster, "serin");
    let mut rollout = referring(json!([]));
    rollout["spec"]["workloadRef"]["takeover"] = json!("SecondFleet");
    rollout["spec"]["workloadRef"]["scaleDown"] = json!("onSuccess");
    rollout["spec"]["replicas"] = json!(REPLICAS);
    apply(&cluster, rollout);
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let is_scaled_down = |cluster: &FakeCluster| {
        assert!(ready_endpoints(cluster) >= REPLICAS as usize);
        let deployment = cluster.get::<Deployment>(SHOP, "checkout").unwrap();
        deployment.spec.unwrap().replicas == Some(0)
    };
    cluster.wait_until(is_scaled_down, MINUTE).await.unwrap();
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn services_are_given_to_the_deployment_with_its_pods() {
    let cluster = cluster_with_deployment(220).await;
    let running = start_controller(&cluster, "serin");
    apply(&cluster, referring(json!([])));
    wait_until_taken_over(&cluster).await;
    create_command(&cluster, "back", "checkout", "giveBack");
    wait_for_phase(&cluster, WorkloadPhase::GivenBack).await;
    let service = cluster.get::<Service>(SHOP, "checkout").unwrap();
    assert_eq!(service.owner_references(), []);
    assert_eq!(service_selector(&cluster), json!({"app": "checkout"}));
    // The Deployment rolls out as before.
    apply(&cluster, deployment("v2"));
    cluster.sleep(MINUTE).await;
    assert_eq!(ready_endpoints(&cluster), 3);
    let pods = cluster.objects::<Pod>();
    for pod in pods {
        let image = pod.spec.unwrap().containers[0].image.clone().unwrap();
        assert!(image.ends_with("v2"), "{image}");
    }
    running.stop().await;
}

//! The pods of a Deployment are taken over and given back without a restart.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use serde_json::{Value, json};
use serin_core::hold::HoldCode;
use serin_core::state::WorkloadPhase;
use serin_crds::Rollout;
use serin_fake_cluster::FakeCluster;
use tokio::task::JoinHandle;

use crate::fixtures::*;
use crate::harness::*;

mod foreign;
mod give_back;
mod refusals;
mod take_over;

const REPLICAS: u32 = 3;

fn deployment(version: &str) -> Value {
    let mut deployment = crate::fixtures::deployment("checkout", version, REPLICAS);
    deployment["metadata"]["labels"] = json!({"team": "shop"});
    deployment
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

/// Starts a controller and waits until it has taken the pods of the Deployment over.
async fn take_over(cluster: &FakeCluster, client: &str) -> RunningController {
    let running = start_controller(cluster, client);
    apply(cluster, referring(json!([])));
    wait_until_taken_over(cluster).await;
    running
}

/// Waits until the Rollout no longer exists.
async fn wait_until_gone(cluster: &FakeCluster) {
    let is_gone = |cluster: &FakeCluster| cluster.get::<Rollout>(SHOP, "checkout").is_none();
    cluster.wait_until(is_gone, MINUTE).await.unwrap();
}

//! The controllers of the fake cluster and their timing.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly, as tests may"
)]

use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use serde_json::{Value, json};
use serin_fake_cluster::{FakeCluster, GatewayReporting, PodBehavior};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn replica_set(name: &str, replicas: u32, image: &str) -> Value {
    let labels = json!({"app": "checkout", "revision": name});
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": image}]}},
        },
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "checkout", "namespace": "shop", "labels": {"serin.dev/rollout": "checkout"}},
        "spec": {"selector": {"app": "checkout"}, "ports": [{"port": 80, "targetPort": 8080}]},
    })
}

fn route(backend: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "checkout", "namespace": "shop"},
        "spec": {"parentRefs": [{"name": "public"}], "rules": [{"backendRefs": [{"name": backend, "port": 80}]}]},
    })
}

fn available(cluster: &FakeCluster, name: &str) -> i32 {
    let status = cluster
        .get::<ReplicaSet>("shop", name)
        .unwrap()
        .status
        .unwrap_or_default();
    status.available_replicas.unwrap_or(0)
}

fn ready_endpoints(cluster: &FakeCluster) -> Vec<String> {
    let slices = cluster.objects::<EndpointSlice>();
    let endpoints = slices.into_iter().flat_map(|slice| slice.endpoints);
    let ready = endpoints.filter(|endpoint| {
        endpoint
            .conditions
            .as_ref()
            .is_some_and(|c| c.ready == Some(true))
    });
    ready
        .map(|endpoint| endpoint.target_ref.unwrap().name.unwrap())
        .collect()
}

fn pod_names(cluster: &FakeCluster) -> Vec<String> {
    cluster
        .objects::<Pod>()
        .iter()
        .map(ResourceExt::name_any)
        .collect()
}

/// Restart count and waiting reason of the container.
fn container(cluster: &FakeCluster) -> (i32, Option<String>) {
    let pod = cluster.objects::<Pod>().remove(0);
    let status = pod.status.unwrap().container_statuses.unwrap().remove(0);
    (
        status.restart_count,
        status
            .state
            .unwrap()
            .waiting
            .and_then(|waiting| waiting.reason),
    )
}

fn condition(cluster: &FakeCluster, kind: &str) -> Option<Value> {
    let route = cluster.get_json("httproutes", "shop", "checkout")?;
    let conditions = route
        .pointer("/status/parents/0/conditions")?
        .as_array()?
        .clone();
    conditions
        .into_iter()
        .find(|condition| condition["type"] == kind)
}

#[tokio::test(start_paused = true)]
async fn a_replica_set_gets_pods_and_a_service_gets_endpoints() {
    let cluster = FakeCluster::new(7);
    let started = Instant::now();
    cluster.apply_object(service()).unwrap();
    cluster
        .apply_object(replica_set("one", 3, "shop/checkout:1"))
        .unwrap();
    cluster
        .wait_until(|cluster| available(cluster, "one") == 3, 10 * SECOND)
        .await
        .unwrap();
    let took = started.elapsed();
    assert!(took >= 1_300 * MS && took < 1_500 * MS, "{took:?}");
    assert!(ready_endpoints(&cluster).is_empty());
    cluster
        .wait_until(
            |cluster| ready_endpoints(cluster) == pod_names(cluster),
            SECOND,
        )
        .await
        .unwrap();
    let slice = cluster.objects::<EndpointSlice>().remove(0);
    assert_eq!(slice.labels()["serin.dev/rollout"], "checkout");
    assert_eq!(slice.labels()["kubernetes.io/service-name"], "checkout");
    assert_eq!(slice.ports.unwrap()[0].port, Some(8080));
    let set = cluster
        .get::<ReplicaSet>("shop", "one")
        .unwrap()
        .status
        .unwrap();
    assert_eq!(
        (set.replicas, set.ready_replicas, set.observed_generation),
        (3, Some(3), Some(1))
    );
}

#[tokio::test(start_paused = true)]
async fn scaling_down_deletes_unready_pods_first_and_terminates_them_gracefully() {
    let cluster = FakeCluster::new(7);
    cluster.apply_object(service()).unwrap();
    cluster
        .apply_object(replica_set("one", 1, "shop/checkout:1"))
        .unwrap();
    cluster
        .wait_until(|cluster| ready_endpoints(cluster).len() == 1, 10 * SECOND)
        .await
        .unwrap();
    let first = pod_names(&cluster).remove(0);
    cluster
        .apply_object(replica_set("one", 2, "shop/checkout:1"))
        .unwrap();
    cluster
        .wait_until(|cluster| pod_names(cluster).len() == 2, SECOND)
        .await
        .unwrap();
    cluster
        .apply_object(replica_set("one", 1, "shop/checkout:1"))
        .unwrap();
    cluster
        .wait_until(|cluster| pod_names(cluster).len() == 1, 10 * SECOND)
        .await
        .unwrap();
    assert_eq!(pod_names(&cluster), [first.as_str()]);

    cluster
        .apply_object(replica_set("one", 0, "shop/checkout:1"))
        .unwrap();
    cluster
        .wait_until(|cluster| ready_endpoints(cluster).is_empty(), SECOND)
        .await
        .unwrap();
    assert_eq!(
        pod_names(&cluster).len(),
        1,
        "the pod terminates gracefully"
    );
    let set = cluster
        .get::<ReplicaSet>("shop", "one")
        .unwrap()
        .status
        .unwrap();
    assert_eq!((set.replicas, set.available_replicas), (0, None));
    cluster
        .wait_until(|cluster| pod_names(cluster).is_empty(), 3 * SECOND)
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_available_after_min_ready_seconds() {
    let cluster = FakeCluster::new(7);
    let mut set = replica_set("one", 1, "shop/checkout:1");
    set["spec"]["minReadySeconds"] = 5.into();
    cluster.apply_object(set).unwrap();
    let ready = |cluster: &FakeCluster| {
        cluster
            .get::<ReplicaSet>("shop", "one")
            .unwrap()
            .status
            .unwrap_or_default()
            .ready_replicas
    };
    cluster
        .wait_until(|cluster| ready(cluster) == Some(1), 10 * SECOND)
        .await
        .unwrap();
    cluster
        .holds_for(|cluster| available(cluster, "one") == 0, 4 * SECOND)
        .await
        .unwrap();
    cluster
        .wait_until(|cluster| available(cluster, "one") == 1, 2 * SECOND)
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_image_or_a_rule_sets_the_behavior_of_a_pod() {
    let cluster = FakeCluster::new(7);
    cluster
        .apply_object(replica_set("slow", 1, "shop/checkout:never-ready"))
        .unwrap();
    cluster
        .wait_until(|cluster| pod_names(cluster).len() == 1, SECOND)
        .await
        .unwrap();
    cluster
        .holds_for(|cluster| available(cluster, "slow") == 0, 600 * SECOND)
        .await
        .unwrap();
    assert_eq!(container(&cluster), (0, None));
    cluster
        .set_pod_behavior("revision=slow", PodBehavior::Ready(2 * SECOND))
        .unwrap();
    cluster
        .wait_until(|cluster| available(cluster, "slow") == 1, 3 * SECOND)
        .await
        .unwrap();
    cluster
        .set_pod_behavior("revision=slow", PodBehavior::ImagePullBackOff)
        .unwrap();
    cluster
        .wait_until(|cluster| available(cluster, "slow") == 0, SECOND)
        .await
        .unwrap();
    assert_eq!(container(&cluster), (0, Some("ImagePullBackOff".into())));
    cluster
        .set_pod_behavior("revision=slow", PodBehavior::ContainerCreating)
        .unwrap();
    let is_creating =
        |cluster: &FakeCluster| container(cluster) == (0, Some("ContainerCreating".to_owned()));
    cluster.wait_until(is_creating, SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_crashing_pod_restarts_immediately_and_then_with_a_doubling_back_off() {
    let cluster = FakeCluster::new(7);
    cluster
        .apply_object(replica_set("bad", 1, "shop/checkout:1"))
        .unwrap();
    cluster
        .wait_until(|cluster| available(cluster, "bad") == 1, 10 * SECOND)
        .await
        .unwrap();
    cluster
        .set_pod_behavior("revision=bad", PodBehavior::CrashesAfter(3 * SECOND))
        .unwrap();
    cluster
        .holds_for(|cluster| available(cluster, "bad") == 1, 2_900 * MS)
        .await
        .unwrap();
    let backing_off = Some("CrashLoopBackOff".to_owned());
    let reaches = async |restarts: i32, waiting: Option<String>, within: Duration| {
        cluster
            .wait_until(
                |cluster| container(cluster) == (restarts, waiting.clone()),
                within,
            )
            .await
            .unwrap();
    };
    reaches(1, None, 200 * MS).await;
    assert_eq!(available(&cluster, "bad"), 0);
    reaches(1, backing_off.clone(), 3_100 * MS).await;
    cluster
        .holds_for(|cluster| container(cluster).0 == 1, 9_500 * MS)
        .await
        .unwrap();
    reaches(2, None, SECOND).await;
    reaches(2, backing_off.clone(), 3_100 * MS).await;
    cluster
        .holds_for(|cluster| container(cluster).0 == 2, 19_500 * MS)
        .await
        .unwrap();
    reaches(3, None, SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_gateway_reports_the_generation_that_it_has_programmed() {
    let cluster = FakeCluster::new(7);
    cluster.apply_object(service()).unwrap();
    cluster.apply_object(route("checkout")).unwrap();
    assert_eq!(condition(&cluster, "Accepted"), None);
    let programmed = |cluster: &FakeCluster, generation: i64| {
        condition(cluster, "ResolvedRefs")
            .is_some_and(|c| c["observedGeneration"] == generation && c["status"] == "True")
    };
    cluster
        .wait_until(|cluster| programmed(cluster, 1), SECOND)
        .await
        .unwrap();
    cluster.apply_object(route("missing")).unwrap();
    assert!(
        programmed(&cluster, 1),
        "the gateway has not seen the change yet"
    );
    cluster
        .wait_until(
            |cluster| condition(cluster, "ResolvedRefs").unwrap()["reason"] == "BackendNotFound",
            SECOND,
        )
        .await
        .unwrap();
    cluster.tune(|tuning| tuning.gateway_reporting = GatewayReporting::WithoutGeneration);
    cluster
        .wait_until(
            |cluster| condition(cluster, "Accepted").unwrap()["observedGeneration"].is_null(),
            SECOND,
        )
        .await
        .unwrap();
    cluster.tune(|tuning| tuning.gateway_reporting = GatewayReporting::Disabled);
    cluster.apply_object(route("checkout")).unwrap();
    cluster
        .holds_for(
            |cluster| condition(cluster, "ResolvedRefs").unwrap()["status"] == "False",
            60 * SECOND,
        )
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn endpoints_follow_a_changed_service_selector() {
    let cluster = FakeCluster::new(7);
    for revision in ["one", "two"] {
        cluster
            .apply_object(replica_set(revision, 1, "shop/checkout:1"))
            .unwrap();
    }
    let mut bound = service();
    bound["spec"]["selector"]["revision"] = "one".into();
    cluster.apply_object(bound.clone()).unwrap();
    let serves = |cluster: &FakeCluster, prefix: &str| {
        let ready = ready_endpoints(cluster);
        ready.len() == 1 && ready[0].starts_with(prefix)
    };
    cluster
        .wait_until(|cluster| serves(cluster, "one-"), 10 * SECOND)
        .await
        .unwrap();
    bound["spec"]["selector"]["revision"] = "two".into();
    cluster.apply_object(bound).unwrap();
    cluster
        .wait_until(|cluster| serves(cluster, "two-"), SECOND)
        .await
        .unwrap();
    cluster.delete::<Service>("shop", "checkout").unwrap();
    cluster
        .wait_until(
            |cluster| cluster.objects::<EndpointSlice>().is_empty(),
            SECOND,
        )
        .await
        .unwrap();
}

/// The pods after a run, and all watch events and requests of the run.
async fn run_history(seed: u64) -> (Vec<Value>, String) {
    let cluster = FakeCluster::new(seed);
    cluster.apply_object(service()).unwrap();
    cluster.apply_object(route("checkout")).unwrap();
    cluster
        .apply_object(replica_set("one", 5, "shop/checkout:1"))
        .unwrap();
    let sets: kube::Api<ReplicaSet> = kube::Api::namespaced(cluster.client(), "shop");
    let watched = kube::runtime::watcher(sets.clone(), kube::runtime::watcher::Config::default());
    let mut watched = std::pin::pin!(watched);
    let mut events = Vec::new();
    let until = Instant::now() + 5 * SECOND;
    while let Ok(Some(event)) =
        tokio::time::timeout_at(until, futures::StreamExt::next(&mut watched)).await
    {
        events.push(format!("{:?} {:?}", until - Instant::now(), event.unwrap()));
        if events.len() == 4 {
            let smaller = kube::api::Patch::Merge(json!({"spec": {"replicas": 2}}));
            sets.patch("one", &kube::api::PatchParams::default(), &smaller)
                .await
                .unwrap();
        }
    }
    let pods = cluster
        .objects::<Pod>()
        .iter()
        .map(|pod| serde_json::to_value(pod).unwrap())
        .collect();
    (pods, format!("{events:#?} {:#?}", cluster.requests()))
}

#[tokio::test(start_paused = true)]
async fn a_seed_determines_the_history() {
    let (one, again, other) = (
        run_history(42).await,
        run_history(42).await,
        run_history(43).await,
    );
    assert_eq!(one, again);
    assert_eq!(one.0.len(), 2);
    assert_ne!(one.1, other.1);
}

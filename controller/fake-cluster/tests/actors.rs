//! The controllers of the world: what becomes of a workload, and when.

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
use serin_fake_cluster::{Fate, GatewayReports, World};
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

fn available(world: &World, name: &str) -> i32 {
    let status = world
        .get::<ReplicaSet>("shop", name)
        .unwrap()
        .status
        .unwrap_or_default();
    status.available_replicas.unwrap_or(0)
}

fn ready_endpoints(world: &World) -> Vec<String> {
    let slices = world.objects::<EndpointSlice>();
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

fn pod_names(world: &World) -> Vec<String> {
    world
        .objects::<Pod>()
        .iter()
        .map(ResourceExt::name_any)
        .collect()
}

/// Restarts and the reason for which the container waits.
fn container(world: &World) -> (i32, Option<String>) {
    let pod = world.objects::<Pod>().remove(0);
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

fn condition(world: &World, kind: &str) -> Option<Value> {
    let route = world.get_json("httproutes", "shop", "checkout")?;
    let conditions = route
        .pointer("/status/parents/0/conditions")?
        .as_array()?
        .clone();
    conditions
        .into_iter()
        .find(|condition| condition["type"] == kind)
}

#[tokio::test(start_paused = true)]
async fn a_replica_set_gets_its_pods_and_its_service_their_endpoints() {
    let world = World::new(7);
    let started = Instant::now();
    world.apply_object(service()).unwrap();
    world
        .apply_object(replica_set("one", 3, "shop/checkout:1"))
        .unwrap();
    world
        .until(|world| available(world, "one") == 3, 10 * SECOND)
        .await
        .unwrap();
    let took = started.elapsed();
    assert!(took >= 1_300 * MS && took < 1_500 * MS, "{took:?}");
    assert!(ready_endpoints(&world).is_empty());
    world
        .until(|world| ready_endpoints(world) == pod_names(world), SECOND)
        .await
        .unwrap();
    let slice = world.objects::<EndpointSlice>().remove(0);
    assert_eq!(slice.labels()["serin.dev/rollout"], "checkout");
    assert_eq!(slice.labels()["kubernetes.io/service-name"], "checkout");
    assert_eq!(slice.ports.unwrap()[0].port, Some(8080));
    let set = world
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
async fn scaling_down_takes_pods_that_are_not_ready_first_and_lets_them_finish() {
    let world = World::new(7);
    world.apply_object(service()).unwrap();
    world
        .apply_object(replica_set("one", 1, "shop/checkout:1"))
        .unwrap();
    world
        .until(|world| ready_endpoints(world).len() == 1, 10 * SECOND)
        .await
        .unwrap();
    let first = pod_names(&world).remove(0);
    world
        .apply_object(replica_set("one", 2, "shop/checkout:1"))
        .unwrap();
    world
        .until(|world| pod_names(world).len() == 2, SECOND)
        .await
        .unwrap();
    world
        .apply_object(replica_set("one", 1, "shop/checkout:1"))
        .unwrap();
    world
        .until(|world| pod_names(world).len() == 1, 10 * SECOND)
        .await
        .unwrap();
    assert_eq!(pod_names(&world), [first.as_str()]);

    world
        .apply_object(replica_set("one", 0, "shop/checkout:1"))
        .unwrap();
    world
        .until(|world| ready_endpoints(world).is_empty(), SECOND)
        .await
        .unwrap();
    assert_eq!(
        pod_names(&world).len(),
        1,
        "it still answers what is under way"
    );
    let set = world
        .get::<ReplicaSet>("shop", "one")
        .unwrap()
        .status
        .unwrap();
    assert_eq!((set.replicas, set.available_replicas), (0, None));
    world
        .until(|world| pod_names(world).is_empty(), 3 * SECOND)
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_available_after_min_ready_seconds() {
    let world = World::new(7);
    let mut set = replica_set("one", 1, "shop/checkout:1");
    set["spec"]["minReadySeconds"] = 5.into();
    world.apply_object(set).unwrap();
    let ready = |world: &World| {
        world
            .get::<ReplicaSet>("shop", "one")
            .unwrap()
            .status
            .unwrap_or_default()
            .ready_replicas
    };
    world
        .until(|world| ready(world) == Some(1), 10 * SECOND)
        .await
        .unwrap();
    world
        .holds(|world| available(world, "one") == 0, 4 * SECOND)
        .await
        .unwrap();
    world
        .until(|world| available(world, "one") == 1, 2 * SECOND)
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_image_or_a_decree_decides_what_becomes_of_a_pod() {
    let world = World::new(7);
    world
        .apply_object(replica_set("slow", 1, "shop/checkout:never-ready"))
        .unwrap();
    world
        .until(|world| pod_names(world).len() == 1, SECOND)
        .await
        .unwrap();
    world
        .holds(|world| available(world, "slow") == 0, 600 * SECOND)
        .await
        .unwrap();
    assert_eq!(container(&world), (0, None));
    world
        .fate("revision=slow", Fate::Ready(2 * SECOND))
        .unwrap();
    world
        .until(|world| available(world, "slow") == 1, 3 * SECOND)
        .await
        .unwrap();
    world.fate("revision=slow", Fate::ImagePullBackOff).unwrap();
    world
        .until(|world| available(world, "slow") == 0, SECOND)
        .await
        .unwrap();
    assert_eq!(container(&world), (0, Some("ImagePullBackOff".into())));
}

#[tokio::test(start_paused = true)]
async fn a_crashing_pod_restarts_at_once_and_then_backs_off_twice_as_long_each_time() {
    let world = World::new(7);
    world
        .apply_object(replica_set("bad", 1, "shop/checkout:1"))
        .unwrap();
    world
        .until(|world| available(world, "bad") == 1, 10 * SECOND)
        .await
        .unwrap();
    world
        .fate("revision=bad", Fate::CrashesAfter(3 * SECOND))
        .unwrap();
    world
        .holds(|world| available(world, "bad") == 1, 2_900 * MS)
        .await
        .unwrap();
    let backing_off = Some("CrashLoopBackOff".to_owned());
    let reaches = async |restarts: i32, waiting: Option<String>, within: Duration| {
        world
            .until(
                |world| container(world) == (restarts, waiting.clone()),
                within,
            )
            .await
            .unwrap();
    };
    reaches(1, None, 200 * MS).await;
    assert_eq!(available(&world, "bad"), 0);
    reaches(1, backing_off.clone(), 3_100 * MS).await;
    world
        .holds(|world| container(world).0 == 1, 9_500 * MS)
        .await
        .unwrap();
    reaches(2, None, SECOND).await;
    reaches(2, backing_off.clone(), 3_100 * MS).await;
    world
        .holds(|world| container(world).0 == 2, 19_500 * MS)
        .await
        .unwrap();
    reaches(3, None, SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_gateway_tells_the_generation_that_it_has_taken_over() {
    let world = World::new(7);
    world.apply_object(service()).unwrap();
    world.apply_object(route("checkout")).unwrap();
    assert_eq!(condition(&world, "Accepted"), None);
    let taken_over = |world: &World, generation: i64| {
        condition(world, "ResolvedRefs")
            .is_some_and(|c| c["observedGeneration"] == generation && c["status"] == "True")
    };
    world
        .until(|world| taken_over(world, 1), SECOND)
        .await
        .unwrap();
    world.apply_object(route("nobody")).unwrap();
    assert!(taken_over(&world, 1), "it has not heard of the change");
    world
        .until(
            |world| condition(world, "ResolvedRefs").unwrap()["reason"] == "BackendNotFound",
            SECOND,
        )
        .await
        .unwrap();
    world.tune(|tuning| tuning.gateway_reports = GatewayReports::WithoutGeneration);
    world
        .until(
            |world| condition(world, "Accepted").unwrap()["observedGeneration"].is_null(),
            SECOND,
        )
        .await
        .unwrap();
    world.tune(|tuning| tuning.gateway_reports = GatewayReports::Nothing);
    world.apply_object(route("checkout")).unwrap();
    world
        .holds(
            |world| condition(world, "ResolvedRefs").unwrap()["status"] == "False",
            60 * SECOND,
        )
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_service_that_selects_another_revision_moves_its_endpoints() {
    let world = World::new(7);
    for revision in ["one", "two"] {
        world
            .apply_object(replica_set(revision, 1, "shop/checkout:1"))
            .unwrap();
    }
    let mut bound = service();
    bound["spec"]["selector"]["revision"] = "one".into();
    world.apply_object(bound.clone()).unwrap();
    let serves = |world: &World, prefix: &str| {
        let ready = ready_endpoints(world);
        ready.len() == 1 && ready[0].starts_with(prefix)
    };
    world
        .until(|world| serves(world, "one-"), 10 * SECOND)
        .await
        .unwrap();
    bound["spec"]["selector"]["revision"] = "two".into();
    world.apply_object(bound).unwrap();
    world
        .until(|world| serves(world, "two-"), SECOND)
        .await
        .unwrap();
    world.delete::<Service>("shop", "checkout").unwrap();
    world
        .until(|world| world.objects::<EndpointSlice>().is_empty(), SECOND)
        .await
        .unwrap();
}

/// The whole state after a run, and everything that was asked on the way.
async fn run(seed: u64) -> (Vec<Value>, String) {
    let world = World::new(seed);
    world.apply_object(service()).unwrap();
    world.apply_object(route("checkout")).unwrap();
    world
        .apply_object(replica_set("one", 5, "shop/checkout:1"))
        .unwrap();
    let sets: kube::Api<ReplicaSet> = kube::Api::namespaced(world.client(), "shop");
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
    let pods = world
        .objects::<Pod>()
        .iter()
        .map(|pod| serde_json::to_value(pod).unwrap())
        .collect();
    (pods, format!("{events:#?} {:#?}", world.requests()))
}

#[tokio::test(start_paused = true)]
async fn one_seed_is_one_history_and_another_is_another() {
    let (one, again, other) = (run(42).await, run(42).await, run(43).await);
    assert_eq!(one, again);
    assert_eq!(one.0.len(), 2);
    assert_ne!(one.1, other.1);
}

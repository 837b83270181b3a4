//! The controller manages some namespaces only.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::ResourceExt;
use serde_json::{Value, json};
use serin_crds::Rollout;
use serin_fake_cluster::{FakeCluster, RequestRecord};
use serin_runtime::scope::Scope;

use crate::fixtures::*;
use crate::harness::*;

fn rollout_in(namespace: &str, version: &str) -> Value {
    let mut rollout = unrouted_rollout("web", version, 1, json!([]));
    rollout["metadata"]["namespace"] = namespace.into();
    rollout
}

fn create_namespace(cluster: &FakeCluster, name: &str, labels: Value) {
    let metadata = json!({"name": name, "labels": labels});
    apply(
        cluster,
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}),
    );
}

fn listed(namespaces: &[&str]) -> Scope {
    let names = namespaces.iter().map(|name| (*name).to_owned());
    Scope::Namespaces(names.collect())
}

/// Number of revisions of the Rollout in a namespace.
fn revisions(cluster: &FakeCluster, namespace: &str) -> usize {
    let sets = cluster.objects::<ReplicaSet>().into_iter();
    sets.filter(|set| set.namespace().as_deref() == Some(namespace))
        .count()
}

async fn wait_for_revisions(cluster: &FakeCluster, namespace: &str, count: usize) {
    let done = cluster
        .wait_until(|cluster| revisions(cluster, namespace) == count, 2 * MINUTE)
        .await;
    assert!(
        done.is_ok(),
        "{namespace} has {} revisions",
        revisions(cluster, namespace)
    );
}

/// Empty if the request is not for a namespace.
fn namespace_of(request: &RequestRecord) -> String {
    let (namespace, _) = request.object.split_once('/').unwrap();
    namespace.to_owned()
}

fn namespaces_of(requests: Vec<RequestRecord>) -> BTreeSet<String> {
    let requests = requests
        .into_iter()
        .filter(|request| request.client == "serin");
    requests.map(|request| namespace_of(&request)).collect()
}

#[tokio::test(start_paused = true)]
async fn only_the_listed_namespaces_are_read_and_written() {
    let cluster = FakeCluster::new(101);
    for namespace in ["shop", "pay", "other"] {
        apply(&cluster, rollout_in(namespace, "v1"));
    }
    let running = start_controller_in_scope(&cluster, "serin", listed(&["shop", "pay"]));
    for namespace in ["shop", "pay"] {
        wait_for_revisions(&cluster, namespace, 1).await;
    }
    apply(&cluster, rollout_in("other", "v2"));
    apply(&cluster, rollout_in("pay", "v2"));
    wait_for_revisions(&cluster, "pay", 2).await;
    cluster.sleep(10 * MINUTE).await;
    assert_eq!(revisions(&cluster, "other"), 0);
    let other = cluster.get_json("rollouts", "other", "web").unwrap();
    assert_eq!(other["status"], Value::Null, "it was never touched");
    let mut namespaces = namespaces_of(cluster.requests());
    namespaces.remove("");
    assert_eq!(
        namespaces,
        BTreeSet::from(["pay".to_owned(), "shop".to_owned()])
    );
    // RolloutPolicies belong to no namespace.
    let is_wide = |request: &RequestRecord| {
        let is_of_controller = request.client == "serin" && request.plural != "rolloutpolicies";
        is_of_controller && namespace_of(request).is_empty()
    };
    let wide: Vec<_> = cluster.requests().into_iter().filter(is_wide).collect();
    assert_eq!(wide.len(), 0, "{wide:?}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_listed_namespace_continues_after_its_watches_were_interrupted() {
    let cluster = FakeCluster::new(102);
    for namespace in ["shop", "pay"] {
        apply(&cluster, rollout_in(namespace, "v1"));
    }
    let running = start_controller_in_scope(&cluster, "serin", listed(&["shop", "pay"]));
    for namespace in ["shop", "pay"] {
        wait_for_revisions(&cluster, namespace, 1).await;
    }
    for round in 2..5 {
        cluster.break_watches();
        cluster.delete::<Rollout>("pay", "web").unwrap();
        apply(&cluster, rollout_in("shop", &format!("v{round}")));
        cluster.compact();
        wait_for_revisions(&cluster, "shop", round).await;
        wait_for_revisions(&cluster, "pay", 0).await;
        apply(&cluster, rollout_in("pay", "v1"));
        wait_for_revisions(&cluster, "pay", 1).await;
    }
    assert_eq!(running.state_sizes.counts()["local states"], 2);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_namespace_counts_as_soon_as_its_labels_match_and_no_longer() {
    let cluster = FakeCluster::new(103);
    create_namespace(&cluster, "shop", json!({"managed": "yes"}));
    create_namespace(&cluster, "pay", json!({"managed": "no"}));
    for namespace in ["shop", "pay"] {
        apply(&cluster, rollout_in(namespace, "v1"));
    }
    let scope = Scope::Selected("managed=yes".to_owned());
    let running = start_controller_in_scope(&cluster, "serin", scope);
    wait_for_revisions(&cluster, "shop", 1).await;
    cluster.sleep(MINUTE).await;
    assert_eq!(revisions(&cluster, "pay"), 0);

    create_namespace(&cluster, "pay", json!({"managed": "yes"}));
    wait_for_revisions(&cluster, "pay", 1).await;

    create_namespace(&cluster, "shop", json!({"managed": "no"}));
    cluster.sleep(SECOND).await;
    cluster.clear_requests();
    apply(&cluster, rollout_in("shop", "v2"));
    apply(&cluster, rollout_in("pay", "v2"));
    wait_for_revisions(&cluster, "pay", 2).await;
    cluster.sleep(5 * MINUTE).await;
    assert_eq!(revisions(&cluster, "shop"), 1, "no release begins");
    let written = namespaces_of(cluster.writes());
    assert!(!written.contains("shop"), "{written:?}");

    create_namespace(&cluster, "new", json!({"managed": "yes"}));
    apply(&cluster, rollout_in("new", "v1"));
    wait_for_revisions(&cluster, "new", 1).await;
    create_namespace(&cluster, "shop", json!({"managed": "yes"}));
    wait_for_revisions(&cluster, "shop", 2).await;
    running.stop().await;
}

//! The lists of objects that guardrails look at: a release never begins by one that was read before
//! it was seen, and Rollouts that are released together share them.

use serde_json::{Value, json};
use serin_core::hold::HoldCode;
use serin_fake_cluster::FakeCluster;

use crate::fixtures::*;
use crate::guardrails::*;
use crate::harness::*;

/// Number of Rollouts that are released together.
const ROLLOUTS: usize = 60;

/// Number of requests that listed a kind.
fn list_count(cluster: &FakeCluster, plural: &str) -> usize {
    let requests = cluster.requests().into_iter();
    requests
        .filter(|request| request.plural == plural && request.verb == "list")
        .count()
}

fn app(name: &str, version: &str) -> Value {
    unrouted_rollout(name, version, 1, json!([]))
}

/// A Rollout that takes its template from the Deployment with its name.
fn referring(name: &str) -> Value {
    let mut rollout = app(name, "v1");
    let spec = rollout["spec"].as_object_mut().unwrap();
    spec.remove("selector");
    spec.remove("template");
    rollout["spec"]["workloadRef"] =
        json!({"kind": "Deployment", "name": name, "takeover": "SecondFleet"});
    rollout
}

/// A cluster with a network policy, which a RolloutPolicy demands.
fn cluster_with_network_policy(seed: u64) -> FakeCluster {
    let cluster = FakeCluster::new(seed);
    serve_network_policies(&cluster);
    apply(&cluster, network_policy());
    apply(
        &cluster,
        policy(json!({"networkPolicy": {"mode": "Enforce"}})),
    );
    cluster
}

/// Lets the controller read the lists for the release of another Rollout, and then deletes the
/// network policy.
async fn delete_network_policy_after_a_read(cluster: &FakeCluster) {
    apply(cluster, app("other", "v1"));
    wait_until_healthy(cluster, "other", "v1").await;
    cluster.clear_requests();
    apply(cluster, app("other", "v2"));
    let is_read = |cluster: &FakeCluster| list_count(cluster, "networkpolicies") > 0;
    cluster.wait_until(is_read, MINUTE).await.unwrap();
    cluster.sleep(SECOND).await;
    let deleted = cluster.delete_json("networkpolicies", SHOP, "default-deny");
    deleted.unwrap();
}

async fn ensure_held_before_its_first_pod(cluster: &FakeCluster, version: &str) {
    wait_for_hold(cluster, HoldCode::NetworkPolicyMissing).await;
    let pods = replicas_by_version(cluster, "checkout");
    assert!(!pods.contains_key(version), "{pods:?}");
}

#[tokio::test(start_paused = true)]
async fn a_network_policy_that_was_deleted_right_before_a_release_holds_its_first_pods() {
    let cluster = cluster_with_network_policy(1521);
    let running = start_controller(&cluster, "serin-0");
    apply(&cluster, app("checkout", "v1"));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    delete_network_policy_after_a_read(&cluster).await;
    apply(&cluster, app("checkout", "v2"));
    ensure_held_before_its_first_pod(&cluster, "v2").await;
    apply(&cluster, network_policy());
    wait_until_healthy(&cluster, "checkout", "v2").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_network_policy_that_was_deleted_during_a_release_holds_the_next_one() {
    let cluster = cluster_with_network_policy(1522);
    create_route(&cluster, "checkout");
    let running = start_controller(&cluster, "serin-0");
    let release = |version: &str| {
        let steps = json!([{"setWeight": 20}, {"pause": {}}]);
        routed_rollout("checkout", version, 2, steps)
    };
    apply(&cluster, release("v1"));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    cluster.clear_requests();
    apply(&cluster, release("v2"));
    let has_begun =
        |cluster: &FakeCluster| replicas_by_version(cluster, "checkout").contains_key("v2");
    cluster.wait_until(has_begun, MINUTE).await.unwrap();
    let deleted = cluster.delete_json("networkpolicies", SHOP, "default-deny");
    deleted.unwrap();
    apply(&cluster, release("v3"));
    ensure_held_before_its_first_pod(&cluster, "v3").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_network_policy_that_was_deleted_right_before_a_deployment_changed_holds_its_release() {
    let cluster = cluster_with_network_policy(1523);
    let running = start_controller(&cluster, "serin-0");
    apply(&cluster, deployment("checkout", "v1", 1));
    apply(&cluster, referring("checkout"));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    delete_network_policy_after_a_read(&cluster).await;
    apply(&cluster, deployment("checkout", "v2", 1));
    wait_for_hold(&cluster, HoldCode::NetworkPolicyMissing).await;
    let revisions = status(&cluster, "checkout").state;
    assert_eq!(revisions.current_revision, revisions.stable_revision);
    apply(&cluster, network_policy());
    wait_until_healthy(&cluster, "checkout", "v2").await;
    running.stop().await;
}

/// Five policies, each with guardrails that look at other objects.
fn policies() -> Vec<Value> {
    let namespace_is_shop = json!([{
        "name": "shop", "mode": "Enforce",
        "expression": "namespaceObject.metadata.name == 'shop'",
        "message": "the namespace is not shop", "fix": "use shop",
    }]);
    let guardrails = [
        json!({"networkPolicy": {"mode": "Enforce"}}),
        json!({"custom": namespace_is_shop}),
        json!({"observability": {"mode": "Warn"}}),
        json!({"resources": {"mode": "Warn"}}),
        json!({"secretsManager": {"mode": "Warn"}, "disruptionBudget": {"mode": "Warn"}}),
    ];
    let named = guardrails.into_iter().zip(0..);
    named
        .map(|(guardrails, index): (Value, u32)| {
            let mut policy = policy(guardrails);
            policy["metadata"]["name"] = json!(format!("platform-{index}"));
            policy
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn rollouts_that_are_released_together_share_their_lists() {
    let cluster = FakeCluster::new(1524);
    serve_network_policies(&cluster);
    let (group, plural) = ("monitoring.coreos.com", "podmonitors");
    apply(&cluster, definition(group, "v1", "PodMonitor", plural));
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SHOP}});
    apply(&cluster, namespace);
    apply(&cluster, network_policy());
    let running = start_controller(&cluster, "serin-0");
    let names: Vec<String> = (0..ROLLOUTS).map(|index| format!("app-{index}")).collect();
    let is_referring = |index: usize| index.is_multiple_of(3);
    let release = |version: &str| {
        for (index, name) in names.iter().enumerate() {
            if is_referring(index) {
                apply(&cluster, deployment(name, version, 1));
            } else {
                apply(&cluster, app(name, version));
            }
        }
    };
    release("v1");
    for name in names.iter().step_by(3) {
        apply(&cluster, referring(name));
    }
    for name in &names {
        wait_until_healthy(&cluster, name, "v1").await;
    }
    for policy in policies() {
        apply(&cluster, policy);
    }
    cluster.sleep(2 * SECOND).await;
    cluster.clear_requests();
    release("v2");
    for name in &names {
        wait_until_healthy(&cluster, name, "v2").await;
    }
    for plural in ["networkpolicies", "podmonitors", "namespaces"] {
        let count = list_count(&cluster, plural);
        assert!((1..=4).contains(&count), "{plural}: {count}");
    }
    running.stop().await;
}

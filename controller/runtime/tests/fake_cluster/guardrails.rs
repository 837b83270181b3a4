//! Guardrails: a release that does not meet them gets no pod or no request, says why, and goes on by
//! itself once the cause is gone.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use serin_core::hold::HoldCode;
use serin_crds::names::REVISION_LABEL;
use serin_fake_cluster::{FakeCluster, Fault};

use crate::fixtures::*;
use crate::harness::*;

/// A CustomResourceDefinition, so that the cluster serves a kind.
pub fn definition(group: &str, version: &str, kind: &str, plural: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced", "names": {"kind": kind, "plural": plural},
            "versions": [{"name": version, "served": true, "storage": true}],
        },
    })
}

/// Lets the cluster serve NetworkPolicies.
pub fn serve_network_policies(cluster: &FakeCluster) {
    let kind = definition(
        "networking.k8s.io",
        "v1",
        "NetworkPolicy",
        "networkpolicies",
    );
    apply(cluster, kind);
}

/// A RolloutPolicy with these guardrails.
pub fn policy(guardrails: Value) -> Value {
    json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "RolloutPolicy",
        "metadata": {"name": "platform"},
        "spec": {"guardrails": guardrails},
    })
}

/// A network policy that denies everything.
pub fn network_policy() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "default-deny", "namespace": SHOP},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    })
}

fn steps() -> Value {
    json!([{"setWeight": 20}, {"pause": {"duration": "5s"}}])
}

fn rollout(version: &str) -> Value {
    routed_rollout("checkout", version, 2, steps())
}

/// The Rollout with a memory limit and the requests that the guardrail demands.
fn with_resources(version: &str) -> Value {
    let mut rollout = rollout(version);
    rollout["spec"]["template"]["spec"]["containers"][0]["resources"] =
        json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "16Mi"}});
    rollout
}

/// A stable Rollout, and then a policy with these guardrails.
async fn start(cluster: &FakeCluster, guardrails: Value) -> RunningController {
    create_route(cluster, "checkout");
    let running = start_controller(cluster, "serin-0");
    apply(cluster, rollout("v1"));
    wait_until_healthy(cluster, "checkout", "v1").await;
    apply(cluster, policy(guardrails));
    cluster.sleep(2 * SECOND).await;
    running
}

fn codes(cluster: &FakeCluster) -> Vec<HoldCode> {
    let holds = status(cluster, "checkout").state.holds;
    holds.iter().map(|hold| hold.code).collect()
}

/// Waits until a guardrail holds the Rollout `checkout` with this code.
pub async fn wait_for_hold(cluster: &FakeCluster, code: HoldCode) {
    let held = cluster
        .wait_until(|cluster| codes(cluster).contains(&code), 5 * MINUTE)
        .await;
    assert!(held.is_ok(), "no {code}: {:?}", status(cluster, "checkout"));
}

/// Status and reason of the condition.
fn passed(cluster: &FakeCluster) -> (String, String) {
    let condition = condition(cluster, "checkout", "GuardrailsPassed");
    let (status, reason, _) = condition.unwrap_or_default();
    (status, reason)
}

fn reason(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

fn message(cluster: &FakeCluster) -> String {
    status(cluster, "checkout").state.message.into()
}

#[tokio::test(start_paused = true)]
async fn a_release_without_limits_gets_no_pod_and_the_next_commit_that_has_them_goes_on() {
    let cluster = FakeCluster::new(1501);
    let running = start(&cluster, json!({"resources": {"mode": "Enforce"}})).await;
    apply(&cluster, rollout("v2"));
    wait_for_hold(&cluster, HoldCode::ResourcesMissing).await;
    cluster.sleep(20 * MINUTE).await;
    assert!(!replicas_by_version(&cluster, "checkout").contains_key("v2"));
    for part in [
        "container app",
        "no memory limit",
        "resources.limits.memory",
    ] {
        assert!(message(&cluster).contains(part), "{}", message(&cluster));
    }
    assert_eq!(passed(&cluster), reason("False", "ResourcesMissing"));
    let events = event_reasons(&cluster, "checkout");
    assert_eq!(
        events
            .iter()
            .filter(|found| *found == "ResourcesMissing")
            .count(),
        1
    );
    apply(&cluster, with_resources("v3"));
    wait_until_healthy(&cluster, "checkout", "v3").await;
    assert_eq!(passed(&cluster), reason("True", "Passed"));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_network_policy_that_is_added_later_lets_the_release_go_on_by_itself() {
    let cluster = FakeCluster::new(1502);
    serve_network_policies(&cluster);
    let running = start(&cluster, json!({"networkPolicy": {"mode": "Enforce"}})).await;
    apply(&cluster, rollout("v2"));
    wait_for_hold(&cluster, HoldCode::NetworkPolicyMissing).await;
    assert!(!replicas_by_version(&cluster, "checkout").contains_key("v2"));
    apply(&cluster, network_policy());
    wait_until_healthy(&cluster, "checkout", "v2").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_canary_gets_no_request_before_its_vulnerability_report_exists() {
    let cluster = FakeCluster::new(1503);
    let (group, plural) = ("aquasecurity.github.io", "vulnerabilityreports");
    apply(
        &cluster,
        definition(group, "v1alpha1", "VulnerabilityReport", plural),
    );
    let running = start(&cluster, json!({"vulnerabilities": {"mode": "Enforce"}})).await;
    apply(&cluster, rollout("v2"));
    wait_for_hold(&cluster, HoldCode::VulnerabilityReportMissing).await;
    cluster.sleep(5 * MINUTE).await;
    assert!(
        replicas_by_version(&cluster, "checkout")["v2"] > 0,
        "the pods are scanned"
    );
    assert_eq!(route_weights(&cluster, "checkout").1.unwrap_or(0), 0);
    apply(&cluster, report_of_canary(&cluster, 1));
    wait_for_hold(&cluster, HoldCode::Vulnerable).await;
    assert_eq!(route_weights(&cluster, "checkout").1.unwrap_or(0), 0);
    apply(&cluster, report_of_canary(&cluster, 0));
    wait_until_healthy(&cluster, "checkout", "v2").await;
    running.stop().await;
}

/// A report as the Trivy operator writes it about the ReplicaSet of the newest revision.
fn report_of_canary(cluster: &FakeCluster, critical: usize) -> Value {
    let pods = cluster.objects::<Pod>();
    let newest = pods
        .iter()
        .max_by_key(|pod| pod.creation_timestamp().map(|time| time.0));
    let revision = newest.unwrap().labels()[REVISION_LABEL].clone();
    let vulnerability = |number: usize| {
        json!({
            "vulnerabilityID": format!("CVE-2026-{number}"), "severity": "CRITICAL",
            "resource": "openssl", "installedVersion": "3.0.1", "fixedVersion": "3.0.2",
        })
    };
    let found: Vec<Value> = (0..critical).map(vulnerability).collect();
    json!({
        "apiVersion": "aquasecurity.github.io/v1alpha1", "kind": "VulnerabilityReport",
        "metadata": {
            "name": "replicaset-checkout-app", "namespace": SHOP,
            "labels": {
                "trivy-operator.container.name": "app",
                "trivy-operator.resource.kind": "ReplicaSet",
                "trivy-operator.resource.name": format!("checkout-{revision}"),
            },
        },
        "report": {
            "updateTimestamp": cluster.now().to_string(),
            "artifact": {"repository": "shop/checkout", "tag": "v2", "digest": "sha256:12"},
            "summary": {"criticalCount": critical, "highCount": 0, "mediumCount": 0},
            "vulnerabilities": found,
        },
    })
}

#[tokio::test(start_paused = true)]
async fn a_guardrail_that_warns_holds_nothing_and_is_reported() {
    let cluster = FakeCluster::new(1504);
    let running = start(&cluster, json!({"resources": {"mode": "Warn"}})).await;
    apply(&cluster, rollout("v2"));
    wait_until_healthy(&cluster, "checkout", "v2").await;
    let events = event_reasons(&cluster, "checkout");
    assert!(
        events.contains(&"GuardrailWarning".to_owned()),
        "{events:?}"
    );
    assert_eq!(passed(&cluster), reason("True", "Warnings"));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_never_passes_and_is_named() {
    let cluster = FakeCluster::new(1505);
    serve_network_policies(&cluster);
    let running = start(&cluster, json!({"networkPolicy": {"mode": "Enforce"}})).await;
    cluster.inject(Fault::on("list", "networkpolicies").status(403).always());
    apply(&cluster, network_policy());
    apply(&cluster, rollout("v2"));
    wait_for_hold(&cluster, HoldCode::GuardrailUnknown).await;
    assert!(
        message(&cluster).contains("NetworkPolicies"),
        "{}",
        message(&cluster)
    );
    cluster.clear_faults();
    wait_until_healthy(&cluster, "checkout", "v2").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_the_cluster_does_not_serve_is_found_soon_after_it_was_installed() {
    let cluster = FakeCluster::new(1506);
    let running = start(&cluster, json!({"vulnerabilities": {"mode": "Enforce"}})).await;
    apply(&cluster, rollout("v2"));
    wait_for_hold(&cluster, HoldCode::GuardrailUnknown).await;
    let (group, plural) = ("aquasecurity.github.io", "vulnerabilityreports");
    apply(
        &cluster,
        definition(group, "v1alpha1", "VulnerabilityReport", plural),
    );
    wait_for_hold(&cluster, HoldCode::VulnerabilityReportMissing).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_exception_lets_the_release_pass_until_it_ends() {
    let cluster = FakeCluster::new(1507);
    let running = start(&cluster, json!({"resources": {"mode": "Enforce"}})).await;
    let day = cluster.now().to_string()[..10].to_owned();
    let excepted = |version: &str, expires: &str| {
        let mut rollout = rollout(version);
        rollout["spec"]["guardrailExceptions"] =
            json!([{"guardrail": "resources", "reason": "migration", "expires": expires}]);
        rollout
    };
    apply(&cluster, excepted("v2", &day));
    wait_until_healthy(&cluster, "checkout", "v2").await;
    apply(&cluster, excepted("v3", "2020-01-01"));
    wait_for_hold(&cluster, HoldCode::ResourcesMissing).await;
    assert!(
        message(&cluster).contains("the exception ended"),
        "{}",
        message(&cluster)
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_edited_policy_reaches_a_release_in_progress_only_if_it_says_so() {
    let cluster = FakeCluster::new(1508);
    let running = start(&cluster, json!({"resources": {"mode": "Warn"}})).await;
    let paused = |version: &str| {
        let steps = json!([{"setWeight": 20}, {"pause": {}}, {"setWeight": 50}]);
        routed_rollout("checkout", version, 2, steps)
    };
    apply(&cluster, paused("v2"));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    apply(&cluster, policy(json!({"resources": {"mode": "Enforce"}})));
    cluster.sleep(3 * MINUTE).await;
    assert!(!codes(&cluster).contains(&HoldCode::ResourcesMissing));
    let ongoing = json!({"resources": {"mode": "Enforce", "applyToOngoing": true}});
    apply(&cluster, policy(ongoing));
    wait_for_hold(&cluster, HoldCode::ResourcesMissing).await;
    assert_eq!(
        route_weights(&cluster, "checkout").1,
        Some(20),
        "it keeps its share"
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn guardrails_that_are_off_and_stable_rollouts_cost_no_request() {
    let cluster = FakeCluster::new(1509);
    serve_network_policies(&cluster);
    let running = start(&cluster, json!({"networkPolicy": {"mode": "Off"}})).await;
    apply(&cluster, rollout("v2"));
    wait_until_healthy(&cluster, "checkout", "v2").await;
    apply(
        &cluster,
        policy(json!({"networkPolicy": {"mode": "Enforce"}})),
    );
    cluster.sleep(20 * MINUTE).await;
    let lists = |cluster: &FakeCluster| {
        let requests = cluster.requests();
        let of_policies = requests
            .iter()
            .filter(|request| request.plural == "networkpolicies");
        of_policies.filter(|request| !request.is_write()).count()
    };
    assert_eq!(lists(&cluster), 0);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_held_rollout_does_not_affect_another_one() {
    let cluster = FakeCluster::new(1510);
    let running = start(&cluster, json!({"resources": {"mode": "Enforce"}})).await;
    apply(&cluster, rollout("v2"));
    wait_for_hold(&cluster, HoldCode::ResourcesMissing).await;
    let mut other = unrouted_rollout("other", "v1", 2, json!([]));
    other["spec"]["template"] = with_resources("v1")["spec"]["template"].clone();
    other["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
    apply(&cluster, other);
    wait_for_position(&cluster, "other", "Healthy").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_revision_waits_for_the_guardrails_as_well() {
    let cluster = FakeCluster::new(1511);
    apply(&cluster, policy(json!({"resources": {"mode": "Enforce"}})));
    create_route(&cluster, "checkout");
    let running = start_controller(&cluster, "serin-0");
    apply(&cluster, rollout("v1"));
    wait_for_hold(&cluster, HoldCode::ResourcesMissing).await;
    cluster.sleep(MINUTE).await;
    assert!(replica_sets(&cluster, "checkout").is_empty());
    apply(&cluster, with_resources("v2"));
    wait_until_healthy(&cluster, "checkout", "v2").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_in_a_version_that_serin_does_not_read_is_no_pass_and_its_versions_are_named() {
    let cluster = FakeCluster::new(1512);
    let running = start(&cluster, json!({"vulnerabilities": {"mode": "Enforce"}})).await;
    let (group, plural) = ("aquasecurity.github.io", "vulnerabilityreports");
    apply(
        &cluster,
        definition(group, "v2", "VulnerabilityReport", plural),
    );
    apply(&cluster, rollout("v2"));
    wait_for_hold(&cluster, HoldCode::GuardrailUnknown).await;
    let message = message(&cluster);
    for part in ["the cluster serves", "in v2, and Serin reads v1alpha1"] {
        assert!(message.contains(part), "{message}");
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_monitor_in_another_namespace_that_selects_the_pods_counts() {
    let cluster = FakeCluster::new(1513);
    let (group, plural) = ("monitoring.coreos.com", "podmonitors");
    apply(&cluster, definition(group, "v1", "PodMonitor", plural));
    let running = start(&cluster, json!({"observability": {"mode": "Enforce"}})).await;
    apply(&cluster, rollout("v2"));
    wait_for_hold(&cluster, HoldCode::NotObserved).await;
    apply(
        &cluster,
        json!({
            "apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor",
            "metadata": {"name": "all", "namespace": "monitoring"},
            "spec": {
                "namespaceSelector": {"any": true}, "selector": {},
                "podMetricsEndpoints": [{"portNumber": 8080}],
            },
        }),
    );
    wait_until_healthy(&cluster, "checkout", "v2").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_holds_a_release_is_read_soon_again_after_something_has_changed() {
    let cluster = FakeCluster::new(1514);
    serve_network_policies(&cluster);
    let guardrails = json!({"networkPolicy": {"mode": "Enforce", "defaultDeny": true}});
    let running = start(&cluster, guardrails).await;
    apply(&cluster, rollout("v2"));
    wait_for_hold(&cluster, HoldCode::NetworkPolicyMissing).await;
    assert!(message(&cluster).contains("no network policy restricts"));
    // By now it is read once a minute.
    cluster.sleep(10 * MINUTE).await;
    let mut allowing = network_policy();
    allowing["spec"]["ingress"] = json!([{"ports": [{"port": 8080}]}]);
    apply(&cluster, allowing);
    let is_changed =
        |cluster: &FakeCluster| message(cluster).contains("no policy denies ingress traffic");
    cluster.wait_until(is_changed, 2 * MINUTE).await.unwrap();
    apply(&cluster, network_policy());
    let is_met = |cluster: &FakeCluster| !codes(cluster).contains(&HoldCode::NetworkPolicyMissing);
    cluster.wait_until(is_met, 10 * SECOND).await.unwrap();
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_tag_that_moved_is_found_soon_after_its_pod_has_started() {
    let cluster = FakeCluster::new(1515);
    let running = start(&cluster, json!({"imagePinned": {"mode": "Enforce"}})).await;
    let steps = json!([{"setWeight": 50}, {"pause": {}}]);
    apply(&cluster, routed_rollout("checkout", "v2", 4, steps));
    let canary_pods = |cluster: &FakeCluster| -> Vec<String> {
        let pods = cluster.objects::<Pod>();
        let is_canary = |pod: &&Pod| {
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            let mut images = containers.filter_map(|container| container.image.as_deref());
            images.any(|image| image.ends_with(":v2"))
        };
        pods.iter().filter(is_canary).map(Pod::name_any).collect()
    };
    let has_two = |cluster: &FakeCluster| canary_pods(cluster).len() == 2;
    cluster.wait_until(has_two, MINUTE).await.unwrap();
    // The simulated kubelet has started them by then, and names no image.
    cluster.sleep(3 * SECOND).await;
    for (pod, digest) in canary_pods(&cluster).iter().zip(["aa", "bb"]) {
        let image = format!("registry.example/app@sha256:{digest}");
        let edited = cluster.edit::<Pod>(SHOP, pod, |pod| {
            pod["status"]["containerStatuses"][0]["imageID"] = json!(image);
        });
        edited.unwrap();
    }
    let is_found = |cluster: &FakeCluster| codes(cluster).contains(&HoldCode::ImageChanged);
    cluster.wait_until(is_found, 15 * SECOND).await.unwrap();
    assert!(message(&cluster).contains("2 different images"));
    running.stop().await;
}

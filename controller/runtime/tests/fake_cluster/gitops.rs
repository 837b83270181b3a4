//! What GitOps tools see: health by the rules of kstatus, and fields that differ from Git.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};
use serin_core::observed::AnalysisReport;
use serin_core::state::AbortCause;
use serin_crds::Rollout;
use serin_fake_cluster::FakeCluster;

use crate::fixtures::*;
use crate::harness::*;

const NAME: &str = "checkout";

/// The rules of kstatus for kinds that it does not know, as Flux and Helm apply them.
fn kstatus(object: &Value) -> &'static str {
    let status = &object["status"];
    let generation = &object["metadata"]["generation"];
    if !object["metadata"]["deletionTimestamp"].is_null() {
        return "Terminating";
    }
    let observed = &status["observedGeneration"];
    if !observed.is_null() && observed != generation {
        return "InProgress";
    }
    let condition = |name: &str| {
        let mut conditions = status["conditions"].as_array().into_iter().flatten();
        let found = conditions.find(|condition| condition["type"] == name)?;
        found["status"].as_str()
    };
    if condition("Reconciling") == Some("True") {
        return "InProgress";
    }
    if condition("Stalled") == Some("True") {
        return "Failed";
    }
    match condition("Ready") {
        Some("True") | None => "Current",
        Some(_) => "InProgress",
    }
}

fn health(cluster: &FakeCluster) -> &'static str {
    kstatus(&cluster.get_json("rollouts", SHOP, NAME).unwrap())
}

async fn wait_for_health(cluster: &FakeCluster, expected: &str) {
    let reached = cluster
        .wait_until(|cluster| health(cluster) == expected, 5 * MINUTE)
        .await;
    assert!(reached.is_ok(), "{} is not {expected}", health(cluster));
}

#[tokio::test(start_paused = true)]
async fn flux_reads_the_health_of_a_release_by_kstatus() {
    let cluster = FakeCluster::new(401);
    let running = start_controller(&cluster, "serin");
    create_route(&cluster, NAME);
    let steps = json!([{"setWeight": 50}, {"pause": {}}]);
    apply(&cluster, analyzed_rollout(NAME, "v1", 2, steps.clone()));
    // kstatus takes an object without a status for Current: Flux needs healthCheckExprs for the time
    // before the controller has written one.
    assert_eq!(health(&cluster), "Current");
    wait_for_health(&cluster, "InProgress").await;
    wait_until_healthy(&cluster, NAME, "v1").await;
    assert_eq!(health(&cluster), "Current");
    // A paused release is in progress.
    apply(&cluster, analyzed_rollout(NAME, "v2", 2, steps.clone()));
    wait_for_position(&cluster, NAME, "Paused/Progressing/1").await;
    assert_eq!(health(&cluster), "InProgress");
    let breach = AnalysisReport::breached(AbortCause::Evidence, "worse than stable");
    running.analyzer.set_report(NAME, breach);
    wait_for_position(&cluster, NAME, "Degraded/Aborted").await;
    wait_for_health(&cluster, "Failed").await;
    let undecided = AnalysisReport::undecided("early", cluster.now());
    running.analyzer.set_report(NAME, undecided);
    apply(&cluster, analyzed_rollout(NAME, "v1", 2, steps));
    wait_for_health(&cluster, "Current").await;
    cluster
        .edit::<Rollout>(SHOP, NAME, |rollout| {
            rollout["spec"]["strategy"] = json!({});
        })
        .unwrap();
    wait_for_health(&cluster, "Failed").await;
    running.stop().await;
}

/// The fields of the live object that are not as in Git.
fn differences(git: &Value, live: &Value) -> Vec<String> {
    let parts = |object: &Value| {
        let metadata = ["labels", "annotations"].map(|field| object["metadata"][field].clone());
        json!({"spec": object["spec"], "metadata": {"labels": metadata[0], "annotations": metadata[1]}})
    };
    let changes = json_patch::diff(&parts(git), &parts(live));
    let paths = changes.0.iter().map(|change| change.path().to_string());
    paths.collect()
}

#[tokio::test(start_paused = true)]
async fn only_the_documented_fields_differ_from_git_during_a_release() {
    let cluster = FakeCluster::new(402);
    let running = start_controller(&cluster, "serin");
    create_route(&cluster, NAME);
    apply(&cluster, stable_service(NAME));
    // With the defaults of the API server.
    let route = cluster.get_json("httproutes", SHOP, NAME).unwrap();
    let service = cluster.get_json("services", SHOP, NAME).unwrap();
    let steps = json!([{"setWeight": 50}, {"pause": {"duration": "30s"}}]);
    apply(&cluster, routed_rollout(NAME, "v1", 2, steps.clone()));
    wait_until_healthy(&cluster, NAME, "v1").await;
    apply(&cluster, routed_rollout(NAME, "v2", 2, steps));
    let mut seen = BTreeSet::new();
    for _ in 0..120 {
        cluster.sleep(SECOND).await;
        let live = cluster.get_json("httproutes", SHOP, NAME).unwrap();
        seen.extend(differences(&route, &live));
        let live = cluster.get_json("services", SHOP, NAME).unwrap();
        seen.extend(differences(&service, &live));
    }
    assert!(is_healthy(&cluster, NAME, "v2"));
    let documented = [
        "/metadata/labels",
        "/spec/rules/1/backendRefs",
        "/spec/selector/serin.dev~1revision",
    ];
    let is_documented = |path: &&String| documented.iter().any(|field| path.starts_with(field));
    let others: Vec<&String> = seen.iter().filter(|path| !is_documented(path)).collect();
    assert_eq!(others, Vec::<&String>::new(), "{seen:?}");
    for field in documented {
        let is_seen = seen.iter().any(|path| path.starts_with(field));
        assert!(is_seen, "{field} need not be ignored: {seen:?}");
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn only_spec_paused_of_a_deployment_differs_from_git() {
    let cluster = FakeCluster::new(403);
    let running = start_controller(&cluster, "serin");
    let source = unrouted_rollout(NAME, "v1", 2, json!([]));
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": SHOP},
        "spec": {"replicas": 2, "selector": source["spec"]["selector"], "template": source["spec"]["template"]},
    });
    apply(&cluster, deployment);
    cluster.sleep(MINUTE).await;
    let before = cluster.get_json("deployments", SHOP, NAME).unwrap();
    let mut rollout = source;
    for field in ["selector", "template", "replicas"] {
        rollout["spec"].as_object_mut().unwrap().remove(field);
    }
    rollout["spec"]["workloadRef"] = json!({"kind": "Deployment", "name": NAME});
    apply(&cluster, rollout);
    wait_until_healthy(&cluster, NAME, "v1").await;
    let mut after = cluster.get_json("deployments", SHOP, NAME).unwrap();
    assert!(cluster.get::<Deployment>(SHOP, NAME).is_some());
    after["metadata"]["annotations"] = before["metadata"]["annotations"].clone();
    assert_eq!(differences(&before, &after), ["/spec/paused"]);
    running.stop().await;
}

//! Checks by HTTP and by a Job, and gates on objects, with the real analysis. The tests run in real
//! time, because they use real sockets.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use serde::Deserialize;
use serde_json::{Value, json};
use serin_core::hold::HoldCode;
use serin_core::state::Stage;
use serin_fake_cluster::{FakeCluster, Fault};
use serin_metrics_analysis::prometheus::Limits;

use crate::credentials::{install_tls, start_analyzing_controller};
use crate::fixtures::*;
use crate::harness::*;

/// The ClusterRole for checks and gates.
const ACCESS: &str = include_str!("../../../../charts/serin/templates/checks-access.yaml");

/// An endpoint with a status that a test sets, which counts the requests with the right token.
struct Endpoint {
    url: String,
    status: Arc<AtomicU16>,
    authorized: Arc<AtomicUsize>,
}

async fn endpoint(status: u16) -> Endpoint {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let status = Arc::new(AtomicU16::new(status));
    let authorized = Arc::new(AtomicUsize::new(0));
    let (current, counted) = (Arc::clone(&status), Arc::clone(&authorized));
    let answer = async move |headers: HeaderMap| {
        if headers
            .get("authorization")
            .is_some_and(|value| value == "Bearer s3cret")
        {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        let status = StatusCode::from_u16(current.load(Ordering::Relaxed)).unwrap();
        (status, "{\"ready\":true}")
    };
    let router = Router::new().route("/healthz", get(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Endpoint {
        url,
        status,
        authorized,
    }
}

fn quick_cluster(seed: u64) -> FakeCluster {
    install_tls();
    let cluster = FakeCluster::new(seed);
    cluster.tune(|tuning| (tuning.pods_ready, tuning.pods_stop) = (SECOND / 20, SECOND / 20));
    create_route(&cluster, "checkout");
    cluster
}

/// A Rollout whose check `smoke` runs at one pod before the first traffic.
fn rollout_with(version: &str, check: &Value) -> Value {
    let steps = json!([
        {"setCanaryScale": {"replicas": 1}},
        {"analysis": {"checks": ["smoke"]}},
        {"setWeight": 20},
        {"pause": {}},
    ]);
    let mut rollout = routed_rollout("checkout", version, 2, steps);
    let mut written = json!({"name": "smoke", "phase": "step"});
    written
        .as_object_mut()
        .unwrap()
        .extend(check.as_object().unwrap().clone());
    rollout["spec"]["analysis"] = json!({"checks": [written]});
    rollout
}

/// Releases v2 with this check, up to the step that waits for it.
async fn release_to_check(cluster: &FakeCluster, check: &Value) {
    apply(cluster, rollout_with("v1", check));
    wait_until_healthy(cluster, "checkout", "v1").await;
    apply(cluster, rollout_with("v2", check));
    wait_for_position(cluster, "checkout", "Progressing/Progressing/1").await;
}

fn first_hold(cluster: &FakeCluster) -> Option<HoldCode> {
    status(cluster, "checkout")
        .state
        .holds
        .first()
        .map(|hold| hold.code)
}

async fn wait_for_hold(cluster: &FakeCluster, code: HoldCode) -> String {
    let is_held = |cluster: &FakeCluster| first_hold(cluster) == Some(code);
    let result = cluster.wait_until(is_held, MINUTE).await;
    assert!(
        result.is_ok(),
        "{:?}",
        status(cluster, "checkout").state.holds
    );
    status(cluster, "checkout").state.holds[0]
        .message
        .to_string()
}

async fn wait_until_aborted(cluster: &FakeCluster) -> String {
    let is_aborted =
        |cluster: &FakeCluster| status(cluster, "checkout").state.stage == Stage::Aborted;
    let result = cluster.wait_until(is_aborted, MINUTE).await;
    assert!(result.is_ok(), "{:?}", status(cluster, "checkout"));
    let abort = status(cluster, "checkout").state.abort.unwrap();
    abort.message.to_string()
}

fn http_check(endpoint: &Endpoint) -> Value {
    json!({
        "interval": "1s",
        "condition": "status == 200 && body.ready",
        "http": {
            "url": format!("{}/healthz?service={{{{args.canaryService}}}}", endpoint.url),
            "headers": [{"name": "Authorization", "valueFrom": {"secretKeyRef": {"name": "test-token", "key": "token"}}}],
            "allowInsecureHeaders": true,
        },
    })
}

#[tokio::test]
async fn a_request_opens_the_first_traffic_with_a_token_from_a_secret() {
    let cluster = quick_cluster(211);
    let endpoint = endpoint(200).await;
    start_analyzing_controller(&cluster, Limits::default());
    let check = http_check(&endpoint);
    release_to_check(&cluster, &check).await;
    let message = wait_for_hold(&cluster, HoldCode::SecretNotFound).await;
    assert!(message.contains("Secret shop/test-token"), "{message}");
    assert_eq!(route_weights(&cluster, "checkout").1.unwrap_or(0), 0);
    let data = json!({"token": ByteString(b"Bearer s3cret".to_vec())});
    apply(
        &cluster,
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "test-token", "namespace": SHOP}, "data": data}),
    );
    wait_for_position(&cluster, "checkout", "Paused/Progressing/3").await;
    assert!(endpoint.authorized.load(Ordering::Relaxed) > 0);
    let visible = format!("{:?}", cluster.get_json("rollouts", SHOP, "checkout"));
    assert!(!visible.contains("s3cret"), "{visible}");
}

#[tokio::test]
async fn a_failed_request_aborts_before_the_first_traffic() {
    let cluster = quick_cluster(212);
    let endpoint = endpoint(503).await;
    start_analyzing_controller(&cluster, Limits::default());
    let mut check = http_check(&endpoint);
    check["http"]["headers"] = json!([]);
    apply(&cluster, rollout_with("v1", &check));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    apply(&cluster, rollout_with("v2", &check));
    let message = wait_until_aborted(&cluster).await;
    assert!(message.contains("Check smoke has failed once"), "{message}");
    assert!(message.contains("status 503 with"), "{message}");
    assert_eq!(route_weights(&cluster, "checkout").1.unwrap_or(0), 0);
    // The next release is tested again.
    endpoint.status.store(200, Ordering::Relaxed);
    create_command(&cluster, "again", "checkout", "retry");
    wait_for_position(&cluster, "checkout", "Paused/Progressing/3").await;
}

fn job_check() -> Value {
    json!({"failureLimit": 1, "job": {
        "serviceAccountName": "smoke",
        "template": {"spec": {"containers": [
            {"name": "test", "image": "registry.example/smoke:1", "args": ["{{args.canaryService}}"]},
        ]}},
    }})
}

/// Sets the condition of a Job, as its controller does.
fn end_job(cluster: &FakeCluster, name: &str, kind: &str) {
    let condition =
        json!({"type": kind, "status": "True", "reason": "Tested", "message": "by a test"});
    let ended = |job: &mut Value| job["status"] = json!({"conditions": [condition]});
    cluster.edit::<Job>(SHOP, name, ended).unwrap();
}

fn jobs(cluster: &FakeCluster) -> BTreeSet<String> {
    let jobs = cluster.objects::<Job>();
    jobs.iter().map(ResourceExt::name_any).collect()
}

async fn wait_for_jobs(cluster: &FakeCluster, count: usize) -> BTreeSet<String> {
    let has_jobs = |cluster: &FakeCluster| jobs(cluster).len() == count;
    let result = cluster.wait_until(has_jobs, MINUTE).await;
    assert!(
        result.is_ok(),
        "{:?} {:?}",
        jobs(cluster),
        status(cluster, "checkout")
    );
    jobs(cluster)
}

#[tokio::test]
async fn a_job_runs_again_after_a_failure_that_is_tolerated() {
    let cluster = quick_cluster(213);
    start_analyzing_controller(&cluster, Limits::default());
    release_to_check(&cluster, &job_check()).await;
    let first = wait_for_jobs(&cluster, 1).await.pop_first().unwrap();
    let job = cluster.get_json("jobs", SHOP, &first).unwrap();
    let pods = &job["spec"]["template"]["spec"];
    assert_eq!(pods["serviceAccountName"], "smoke");
    assert_eq!(pods["restartPolicy"], "Never");
    assert_eq!(pods["containers"][0]["args"], json!(["checkout-canary"]));
    assert_eq!(job["metadata"]["labels"]["serin.dev/rollout"], "checkout");
    assert_eq!(job["metadata"]["ownerReferences"][0]["kind"], "Rollout");
    assert_eq!(job["spec"]["activeDeadlineSeconds"], 600);
    end_job(&cluster, &first, "Failed");
    let second = wait_for_jobs(&cluster, 2).await;
    let second = second.into_iter().find(|name| *name != first).unwrap();
    end_job(&cluster, &second, "Complete");
    wait_for_position(&cluster, "checkout", "Paused/Progressing/3").await;
    let check = &status(&cluster, "checkout").checks[0];
    let message = check.message.as_ref().unwrap();
    assert_eq!((check.failures, check.result.as_str()), (1, "Succeeded"));
    assert!(
        message.contains(&format!("kubectl -n shop logs job/{second}")),
        "{message}"
    );
    assert_eq!(jobs(&cluster).len(), 2);
    ensure_access(&cluster);
}

#[tokio::test]
async fn a_job_that_fails_too_often_aborts() {
    let cluster = quick_cluster(214);
    start_analyzing_controller(&cluster, Limits::default());
    release_to_check(&cluster, &job_check()).await;
    for count in 1..=2 {
        for name in wait_for_jobs(&cluster, count).await {
            end_job(&cluster, &name, "Failed");
        }
    }
    let message = wait_until_aborted(&cluster).await;
    assert!(
        message.contains("Check smoke has failed 2 times"),
        "{message}"
    );
    assert!(message.contains("Tested: by a test"), "{message}");
    cluster.sleep(5 * SECOND).await;
    assert_eq!(jobs(&cluster).len(), 2);
}

/// Kills the controller after each of its writes, up to the first that comes after the Job.
#[tokio::test]
async fn a_controller_that_dies_does_not_run_a_job_twice() {
    for writes in 1..=4 {
        let cluster = quick_cluster(215 + writes);
        let first = start_analyzing_controller(&cluster, Limits::default());
        release_to_check(&cluster, &job_check()).await;
        let before = wait_for_jobs(&cluster, 1).await;
        // The checkpoint may or may not contain the failure that follows.
        if writes > 2 {
            let name = before.first().unwrap();
            end_job(&cluster, name, "Failed");
            wait_for_jobs(&cluster, 2).await;
        }
        let known = jobs(&cluster);
        cluster.sleep(SECOND / u32::try_from(writes).unwrap()).await;
        first.abort();
        start_analyzing_controller(&cluster, Limits::default());
        cluster.sleep(4 * SECOND).await;
        assert_eq!(jobs(&cluster), known, "after {writes}");
        for name in &known {
            end_job(&cluster, name, "Complete");
        }
        wait_for_position(&cluster, "checkout", "Paused/Progressing/3").await;
        assert_eq!(jobs(&cluster), known, "after {writes}");
    }
}

#[tokio::test]
async fn a_job_that_cannot_be_created_holds_the_release_and_no_other() {
    let cluster = quick_cluster(221);
    // A quota refuses the Job until somebody raises it.
    cluster.inject(Fault::on("create", "jobs").status(403).always());
    start_analyzing_controller(&cluster, Limits::default());
    release_to_check(&cluster, &job_check()).await;
    let message = wait_for_hold(&cluster, HoldCode::CheckUnavailable).await;
    assert!(
        message.contains("spec.analysis.checks[smoke].job"),
        "{message}"
    );
    apply(&cluster, unrouted_rollout("other", "v1", 2, json!([])));
    wait_until_healthy(&cluster, "other", "v1").await;
    cluster.clear_faults();
    let created = wait_for_jobs(&cluster, 1).await;
    end_job(&cluster, created.first().unwrap(), "Complete");
    wait_for_position(&cluster, "checkout", "Paused/Progressing/3").await;
}

#[tokio::test]
async fn a_job_whose_creation_was_not_answered_is_found() {
    let cluster = quick_cluster(222);
    cluster.inject(Fault::on("create", "jobs").loses_response());
    start_analyzing_controller(&cluster, Limits::default());
    release_to_check(&cluster, &job_check()).await;
    let created = wait_for_jobs(&cluster, 1).await;
    end_job(&cluster, created.first().unwrap(), "Complete");
    wait_for_position(&cluster, "checkout", "Paused/Progressing/3").await;
    assert_eq!(jobs(&cluster), created);
}

fn gated(version: &str, gate: &Value) -> Value {
    let steps = json!([{"gate": {"object": gate}}, {"setWeight": 20}, {"pause": {}}]);
    routed_rollout("checkout", version, 2, steps)
}

#[tokio::test(start_paused = true)]
async fn a_gate_opens_when_its_object_meets_the_condition() {
    let cluster = FakeCluster::new(223);
    create_route(&cluster, "checkout");
    let running = start_controller(&cluster, "serin");
    let gate = json!({
        "apiVersion": "v1", "resource": "configmaps", "name": "releases",
        "condition": "object.data.state == 'open'",
    });
    apply(&cluster, gated("v1", &gate));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    apply(&cluster, gated("v2", &gate));
    wait_for_position(&cluster, "checkout", "Progressing/Progressing/0").await;
    let message = wait_for_hold(&cluster, HoldCode::GateClosed).await;
    let set = |state: &str| {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "releases", "namespace": SHOP}, "data": {"state": state},
        });
        apply(&cluster, object);
    };
    cluster.sleep(MINUTE).await;
    let holds = &status(&cluster, "checkout").state.holds;
    assert!(
        holds[0]
            .message
            .contains("configmaps releases does not exist"),
        "{message} {holds:?}"
    );
    set("closed");
    cluster.sleep(MINUTE).await;
    let holds = &status(&cluster, "checkout").state.holds;
    assert!(holds[0].message.contains("does not meet"), "{holds:?}");
    assert_eq!(route_weights(&cluster, "checkout").1.unwrap_or(0), 0);
    set("open");
    wait_for_position(&cluster, "checkout", "Paused/Progressing/2").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_gate_on_an_unreadable_kind_is_held_with_its_fix() {
    let cluster = FakeCluster::new(224);
    create_route(&cluster, "checkout");
    let running = start_controller(&cluster, "serin");
    let gate = |resource: &str| {
        json!({
            "apiVersion": "v1", "resource": resource, "name": "releases",
            "condition": "object.data.state == 'open'",
        })
    };
    apply(&cluster, gated("v1", &gate("configmaps")));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    cluster.inject(Fault::on("get", "configmaps").status(403).always());
    apply(&cluster, gated("v2", &gate("configmaps")));
    let message = wait_for_hold(&cluster, HoldCode::GateUnreadable).await;
    assert!(message.contains("gates.readableKinds"), "{message}");
    apply(&cluster, gated("v2", &gate("configs")));
    let is_unserved = |cluster: &FakeCluster| {
        let holds = status(cluster, "checkout").state.holds;
        holds
            .iter()
            .any(|hold| hold.message.contains("does not serve configs in v1"))
    };
    assert!(
        cluster.wait_until(is_unserved, MINUTE).await.is_ok(),
        "{:?}",
        status(&cluster, "checkout")
    );
    running.stop().await;
}

#[derive(Deserialize)]
struct Rule {
    resources: Vec<String>,
    verbs: Vec<String>,
}

/// Checks that the ClusterRole for checks grants exactly what is done with Jobs.
fn ensure_access(cluster: &FakeCluster) {
    let (_, rest) = ACCESS
        .split_once("{{- if .Values.checks.jobs }}\n")
        .unwrap();
    let (rules, _) = rest.split_once("  {{- end }}").unwrap();
    let rules: Vec<Rule> = serde_saphyr::from_str(rules).unwrap();
    assert_eq!(rules.len(), 1);
    assert_eq!(rules[0].resources, ["jobs"]);
    let granted: BTreeSet<&str> = rules[0].verbs.iter().map(String::as_str).collect();
    let requests = cluster.requests();
    let used: BTreeSet<&str> = requests
        .iter()
        .filter(|request| request.plural == "jobs")
        .map(|request| request.verb)
        .collect();
    assert_eq!(used, granted);
}

//! `verdict` against the in-memory API server.

#![expect(clippy::unwrap_used, reason = "a test fails at the first error")]

use std::ffi::OsString;
use std::time::Duration;

use serde_json::{Value, json};
use serin_crds::Rollout;
use serin_fake_cluster::FakeCluster;
use serin_kubectl::connect::Connection;
use serin_kubectl::exit::{CliError, Exit};

/// A cluster with the Rollout `shop/checkout`.
struct Scene(FakeCluster);

impl Scene {
    fn new(status: Value) -> Self {
        let cluster = FakeCluster::new(7);
        let rollout = json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout",
            "metadata": {"name": "checkout", "namespace": "shop"},
            "spec": {
                "selector": {"matchLabels": {"app": "checkout"}},
                "template": {"metadata": {"labels": {"app": "checkout"}}, "spec": {"containers": []}},
                "strategy": {"canary": {}},
            },
        });
        cluster.apply_object(rollout).unwrap();
        let scene = Self(cluster);
        scene.set_status(status);
        scene
    }

    fn set_status(&self, status: Value) {
        self.0
            .edit::<Rollout>("shop", "checkout", |rollout| rollout["status"] = status)
            .unwrap();
    }

    /// Runs a command line. Returns its exit code, output and error.
    async fn run(&self, line: &str) -> (Exit, String, Option<CliError>) {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let invocation = serin_kubectl::cli::parse("kubectl-serin", arguments).unwrap();
        let connection = Connection {
            client: self.0.client_for("kubectl"),
            namespace: "shop".to_owned(),
        };
        let mut out = Vec::new();
        let ended = serin_kubectl::run(&connection, &invocation.task, &|_| None, &mut out).await;
        let text = String::from_utf8(out).unwrap();
        match ended {
            Ok(exit) => (exit, text, None),
            Err(failure) => (failure.exit, text, Some(failure)),
        }
    }
}

fn status(stage: &str, phase: &str) -> Value {
    json!({
        "observedGeneration": 1, "phase": phase, "stage": stage, "stableRevision": "v1",
        "currentRevision": "v2", "message": "step 1", "weights": {"desired": 20.0},
        "replicas": 0, "updatedReplicas": 0, "readyReplicas": 0, "availableReplicas": 0,
    })
}

fn at_20_percent() -> Value {
    status("Progressing", "Progressing")
}

fn aborted() -> Value {
    let mut status = status("Aborted", "Degraded");
    status["abort"] = json!({"revision": "v2", "at": "2026-03-01T12:00:00Z", "cause": "Evidence", "message": "m"});
    status
}

fn promoted() -> Value {
    let mut status = status("Stable", "Healthy");
    status["stableRevision"] = json!("v2");
    status["history"] = json!([{"revision": "v2", "result": "Promoted",
        "at": "2026-03-01T12:00:00Z", "message": "m"}]);
    status
}

#[tokio::test(start_paused = true)]
async fn the_exit_code_of_a_verdict_is_its_result() {
    let scene = Scene::new(at_20_percent());
    let (exit, text, _) = scene.run("kubectl-serin verdict checkout").await;
    assert_eq!(exit, Exit::TimedOut, "{text}");
    assert_eq!(text, "checkout v2: undecided: step 1\n");
    scene.set_status(aborted());
    let (exit, text, _) = scene.run("kubectl-serin verdict checkout").await;
    assert_eq!(exit, Exit::Refused);
    let expected = "checkout v2: rolled back (Evidence) at 2026-03-01T12:00:00Z: m\n";
    assert_eq!(text, expected);
    scene.set_status(promoted());
    let (exit, text, _) = scene.run("kubectl-serin verdict checkout -o json").await;
    assert_eq!(exit, Exit::Done);
    let verdict: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(verdict["verdict"], "Promoted");
    assert_eq!(verdict["revision"], "v2");
    let line = "kubectl-serin verdict checkout --revision v3";
    assert_eq!(scene.run(line).await.0, Exit::TimedOut);
    let (exit, ..) = scene.run("kubectl-serin verdict unknown").await;
    assert_eq!(exit, Exit::Usage);
}

#[tokio::test(start_paused = true)]
async fn a_verdict_waits_until_the_release_is_decided() {
    let scene = Scene::new(at_20_percent());
    let line = "kubectl-serin verdict checkout --wait --timeout 10m";
    let later = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        scene.set_status(promoted());
    };
    let ((exit, text, _), ()) = tokio::join!(scene.run(line), later);
    assert_eq!(exit, Exit::Done, "{text}");
    scene.set_status(at_20_percent());
    let (exit, text, _) = scene.run(line).await;
    assert_eq!(exit, Exit::TimedOut, "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_verdict_on_a_deleted_rollout_is_an_error() {
    let scene = Scene::new(at_20_percent());
    let later = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        scene.0.delete::<Rollout>("shop", "checkout").unwrap();
    };
    let line = "kubectl-serin verdict checkout --wait";
    let ((exit, _, error), ()) = tokio::join!(scene.run(line), later);
    assert_eq!(exit, Exit::Usage);
    assert!(error.unwrap().message.contains("was deleted"));
}

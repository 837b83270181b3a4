//! `history`, `undo` and `set image` against the in-memory API server.

#![expect(clippy::unwrap_used, reason = "a test fails at the first error")]

use std::ffi::OsString;

use serde_json::{Value, json};
use serin_crds::Rollout;
use serin_fake_cluster::FakeCluster;
use serin_kubectl::connect::Connection;
use serin_kubectl::exit::{CliError, Exit};

fn template(image: &str, added_labels: &Value) -> Value {
    let mut labels = json!({"app": "checkout"});
    for (label, value) in added_labels.as_object().into_iter().flatten() {
        labels[label] = value.clone();
    }
    json!({
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "app", "image": image}, {"name": "proxy", "image": "p:1"}]},
    })
}

/// A ReplicaSet as the controller creates it.
fn replica_set(revision: &str, image: &str, owner: &str) -> Value {
    let labels = json!({
        "app": "checkout", "serin.dev/rollout": "checkout", "serin.dev/revision": revision,
        "pod-template-hash": revision,
    });
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": format!("checkout-{revision}"), "namespace": "shop", "labels": labels,
            "ownerReferences": [{"apiVersion": "serin.dev/v1alpha1", "kind": "Rollout",
                "name": "checkout", "uid": owner, "controller": true}],
        },
        "spec": {"replicas": 0, "selector": {"matchLabels": {"pod-template-hash": revision}},
            "template": template(image, &labels)},
    })
}

/// A Rollout whose revisions `v1`, `v2` and `v3` were promoted, in this order.
async fn cluster(spec: Value) -> FakeCluster {
    let world = FakeCluster::new(5);
    let mut rollout = json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout",
        "metadata": {"name": "checkout", "namespace": "shop"},
        "spec": {"strategy": {"canary": {}}},
    });
    for (field, value) in spec.as_object().unwrap() {
        rollout["spec"][field] = value.clone();
    }
    let made = world.apply_object(rollout).unwrap();
    let owner = made["metadata"]["uid"].as_str().unwrap();
    for (revision, image) in [("v1", "shop:1"), ("v2", "shop:2"), ("v3", "shop:3")] {
        world
            .apply_object(replica_set(revision, image, owner))
            .unwrap();
        world.sleep(std::time::Duration::from_secs(60)).await;
    }
    let promoted = |revision: &str| json!({"revision": revision, "result": "Promoted", "at": "2026-03-01T12:00:00Z", "message": ""});
    let status = json!({
        "phase": "Healthy", "stage": "Stable", "message": "", "stableRevision": "v3",
        "currentRevision": "v3", "weights": {"desired": 0.0},
        "history": [promoted("v1"), promoted("v2"), promoted("v3")],
    });
    set_status(&world, &status);
    world
}

fn set_status(world: &FakeCluster, status: &Value) {
    world
        .edit::<Rollout>("shop", "checkout", |rollout| {
            rollout["status"] = status.clone();
        })
        .unwrap();
}

fn own_template() -> Value {
    json!({
        "selector": {"matchLabels": {"app": "checkout"}},
        "template": template("shop:3", &json!({})),
    })
}

/// Runs a command line. Returns its output, or its error.
async fn run(world: &FakeCluster, line: &str) -> Result<String, CliError> {
    let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
    let invocation = serin_kubectl::cli::parse("kubectl-serin", arguments).unwrap();
    let connection = Connection {
        client: world.client_for("kubectl"),
        namespace: "shop".into(),
    };
    let mut out = Vec::new();
    serin_kubectl::run(&connection, &invocation.task, &|_| None, &mut out).await?;
    let text = String::from_utf8(out).unwrap();
    Ok(anstream::adapter::strip_str(&text).to_string())
}

fn images(world: &FakeCluster, plural: &str) -> Vec<String> {
    let object = world.get_json(plural, "shop", "checkout").unwrap();
    let containers = object["spec"]["template"]["spec"]["containers"].as_array();
    let images = containers
        .unwrap()
        .iter()
        .map(|one| one["image"].as_str().unwrap());
    images.map(ToOwned::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn history_lists_the_revisions_and_shows_what_a_return_changes() {
    let world = cluster(own_template()).await;
    let text = run(&world, "kubectl-serin history checkout").await.unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("REVISION"), "{text}");
    assert!(
        lines[1].starts_with("v3") && lines[1].contains("stable, current"),
        "{text}"
    );
    assert!(
        lines[3].starts_with("v1") && lines[3].ends_with("shop:1, p:1"),
        "{text}"
    );

    let text = run(&world, "kubectl-serin history checkout --revision v1")
        .await
        .unwrap();
    assert!(text.starts_with("--- v3\n+++ v1\n"), "{text}");
    assert!(
        text.contains("- ") && text.contains("image: shop:3"),
        "{text}"
    );
    assert!(
        text.contains("+ ") && text.contains("image: shop:1"),
        "{text}"
    );
    assert!(
        !text.contains("serin.dev"),
        "labels of the controller: {text}"
    );

    let text = run(&world, "kubectl-serin history checkout --revision v3")
        .await
        .unwrap();
    assert!(text.starts_with("--- v2\n+++ v3\n"), "{text}");

    let error = run(&world, "kubectl-serin history checkout --revision x")
        .await
        .unwrap_err();
    assert_eq!(error.exit, Exit::Usage);
}

#[tokio::test(start_paused = true)]
async fn undo_sets_the_template_of_the_revision_that_was_promoted_before() {
    let world = cluster(own_template()).await;
    let text = run(&world, "kubectl-serin undo checkout --dry-run")
        .await
        .unwrap();
    assert!(
        text.contains("revision v2 would be set again (dry run)"),
        "{text}"
    );
    assert_eq!(images(&world, "rollouts")[0], "shop:3");

    let text = run(&world, "kubectl-serin undo checkout").await.unwrap();
    assert!(
        text.contains("the template of revision v2 is set again"),
        "{text}"
    );
    let rollout = world.get_json("rollouts", "shop", "checkout").unwrap();
    let template = &rollout["spec"]["template"];
    assert_eq!(template["metadata"], json!({"labels": {"app": "checkout"}}));
    assert_eq!(images(&world, "rollouts"), ["shop:2", "p:1"]);

    run(&world, "kubectl-serin undo checkout --to-revision v1")
        .await
        .unwrap();
    assert_eq!(images(&world, "rollouts")[0], "shop:1");
    let text = run(&world, "kubectl-serin undo checkout --to-revision v3")
        .await
        .unwrap();
    assert!(text.contains("is current already"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn undo_during_a_release_returns_to_stable() {
    let world = cluster(own_template()).await;
    let releasing = json!({
        "phase": "Progressing", "stage": "Progressing", "message": "", "stableRevision": "v2",
        "currentRevision": "v3", "weights": {"desired": 20.0},
    });
    set_status(&world, &releasing);
    let text = run(&world, "kubectl-serin undo checkout").await.unwrap();
    assert!(
        text.contains("revision v2") && text.contains("the release ends"),
        "{text}"
    );
    assert_eq!(images(&world, "rollouts")[0], "shop:2");
}

#[tokio::test(start_paused = true)]
async fn with_a_workload_ref_the_template_of_the_deployment_is_changed() {
    let reference =
        json!({"workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "checkout"}});
    let world = cluster(reference).await;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "checkout", "namespace": "shop"},
        "spec": {"paused": true, "selector": {"matchLabels": {"app": "checkout"}},
            "template": template("shop:3", &json!({}))},
    });
    world.apply_object(deployment).unwrap();
    let text = run(&world, "kubectl-serin undo checkout").await.unwrap();
    assert!(text.starts_with("deployment.apps/checkout:"), "{text}");
    assert_eq!(images(&world, "deployments")[0], "shop:2");
    run(&world, "kubectl-serin set image checkout app=shop:9")
        .await
        .unwrap();
    assert_eq!(images(&world, "deployments"), ["shop:9", "p:1"]);
}

#[tokio::test(start_paused = true)]
async fn set_image_changes_the_containers_that_are_named() {
    let world = cluster(own_template()).await;
    let text = run(&world, "kubectl-serin set image checkout app=shop:4")
        .await
        .unwrap();
    assert_eq!(text, "rollout.serin.dev/checkout: image updated\n");
    assert_eq!(images(&world, "rollouts"), ["shop:4", "p:1"]);
    let text = run(&world, "kubectl-serin set image checkout app=shop:4")
        .await
        .unwrap();
    assert!(text.contains("set already"), "{text}");
    run(&world, "kubectl-serin set image checkout *=x:1")
        .await
        .unwrap();
    assert_eq!(images(&world, "rollouts"), ["x:1", "x:1"]);
    let error = run(&world, "kubectl-serin set image checkout web=x")
        .await
        .unwrap_err();
    assert_eq!(error.exit, Exit::Usage);
    assert!(error.hints[0].contains("app, proxy"), "{error}");
    let error = run(&world, "kubectl-serin set image chekcout app=x")
        .await
        .unwrap_err();
    assert!(error.hints[0].contains("checkout"), "{error}");
}

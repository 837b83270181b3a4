//! A Rollout in observe mode follows another controller and changes nothing.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};
use serin_analysis::Arm;
use serin_core::observation::{HypotheticalResult, ObservedRelease};
use serin_core::observed::AnalysisReport;
use serin_core::state::{AbortCause, Phase, ReleaseResult, Stage, WorkloadPhase};
use serin_core::units::Weight;
use serin_crds::{Rollout, RolloutCommand};
use serin_fake_cluster::{FakeCluster, PodBehavior};

use crate::fixtures::*;
use crate::harness::*;

const NAME: &str = "checkout";

/// A Rollout that observes the Deployment.
fn observing() -> Value {
    json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "Rollout",
        "metadata": {"name": NAME, "namespace": SHOP},
        "spec": {
            "mode": "Observe",
            "selector": {"matchLabels": {"app": NAME}},
            "strategy": {"canary": {}},
            "analysis": {"objectives": [{"name": "availability", "objective": 99.9, "indicator": "pod"}]},
        },
    })
}

/// A cluster with a Deployment whose new pods take a minute to become ready.
async fn cluster_with_deployment(seed: u64) -> FakeCluster {
    let cluster = FakeCluster::new(seed);
    apply(&cluster, deployment(NAME, "v1", 3));
    cluster.sleep(MINUTE).await;
    let slow = PodBehavior::Ready(MINUTE);
    cluster.set_pod_behavior("app=checkout", slow).unwrap();
    cluster
}

fn set_image(cluster: &FakeCluster, name: &str, version: &str) {
    let image = json!(format!("shop/checkout:{version}"));
    cluster
        .edit::<Deployment>(SHOP, name, |deployment| {
            deployment["spec"]["template"]["spec"]["containers"][0]["image"] = image;
        })
        .unwrap();
}

fn observed_release(cluster: &FakeCluster) -> Option<ObservedRelease> {
    status(cluster, NAME).state.observation?.release
}

async fn wait_for_stage(cluster: &FakeCluster, stage: Stage, patience: Duration) {
    let is_reached = |cluster: &FakeCluster| {
        let reported = status(cluster, NAME).state;
        reported.observation.is_some() && reported.stage == stage
    };
    let reached = cluster.wait_until(is_reached, patience).await;
    assert!(
        reached.is_ok(),
        "not {stage:?}: {:?}",
        status(cluster, NAME)
    );
}

/// What a controller wrote, for example `patch rollouts/status`.
fn writes_of(cluster: &FakeCluster, client: &str) -> Vec<String> {
    let writes = cluster.writes().into_iter();
    let writes = writes.filter(|write| write.client == client);
    writes
        .map(|write| {
            let subresource = write.subresource.map(|name| format!("/{name}"));
            let subresource = subresource.unwrap_or_default();
            format!("{} {}{subresource}", write.verb, write.plural)
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn observe_mode_writes_nothing_but_reports() {
    let cluster = cluster_with_deployment(301).await;
    let running = start_controller(&cluster, "serin");
    create_route(&cluster, NAME);
    apply(&cluster, stable_service(NAME));
    apply(&cluster, observing());
    wait_for_stage(&cluster, Stage::Stable, MINUTE).await;
    // A bad release that everything asks to be rolled back.
    set_image(&cluster, NAME, "v2");
    wait_for_stage(&cluster, Stage::Progressing, MINUTE).await;
    let breach = AnalysisReport::breached(AbortCause::Evidence, "worse than stable");
    running.analyzer.set_report(NAME, breach);
    for verb in ["abort", "promoteFull", "giveBack"] {
        create_command(&cluster, &verb.to_lowercase(), NAME, verb);
    }
    cluster.sleep(10 * MINUTE).await;
    set_image(&cluster, NAME, "v3");
    cluster.sleep(10 * MINUTE).await;
    set_image(&cluster, NAME, "v1");
    cluster.sleep(10 * MINUTE).await;
    cluster.delete::<Rollout>(SHOP, NAME).unwrap();
    cluster.sleep(MINUTE).await;
    assert!(cluster.get::<Rollout>(SHOP, NAME).is_none());
    let permitted = [
        "patch rollouts/status",
        "patch rolloutcommands/status",
        "create events",
    ];
    let writes = writes_of(&cluster, "serin");
    assert!(
        writes.iter().any(|write| write == permitted[0]),
        "{writes:?}"
    );
    for write in &writes {
        // Finished commands are deleted after some time.
        let is_permitted = permitted.contains(&write.as_str()) || write == "delete rolloutcommands";
        assert!(is_permitted, "{write} in {writes:?}");
    }
    let deployment = cluster.get::<Deployment>(SHOP, NAME).unwrap();
    assert_eq!(deployment.status.unwrap().ready_replicas, Some(3));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rolling_update_that_serin_would_have_rolled_back_is_reported() {
    let cluster = cluster_with_deployment(302).await;
    let running = start_controller(&cluster, "serin");
    apply(&cluster, observing());
    wait_for_stage(&cluster, Stage::Stable, MINUTE).await;
    assert_eq!(status(&cluster, NAME).state.phase, Phase::Healthy);
    assert_eq!(observed_release(&cluster), None);
    set_image(&cluster, NAME, "v2");
    wait_for_stage(&cluster, Stage::Progressing, MINUTE).await;
    let request = running.analyzer.last_request(NAME).unwrap();
    let stable = request.stable_replica_set.clone().unwrap();
    assert_ne!(stable, request.canary_replica_set);
    let sides: Vec<Arm> = request.pod_sides.values().copied().collect();
    assert!(sides.contains(&Arm::Stable) && sides.contains(&Arm::Canary));
    let breach = AnalysisReport::breached(AbortCause::Evidence, "worse than stable");
    running.analyzer.set_report(NAME, breach);
    wait_for_stage(&cluster, Stage::Stable, 10 * MINUTE).await;
    let release = observed_release(&cluster).unwrap();
    assert_eq!(release.result, Some(ReleaseResult::Promoted));
    let decision = release.would_have.unwrap();
    assert_eq!(decision.result, HypotheticalResult::RolledBack);
    assert_eq!(decision.cause, Some(AbortCause::Evidence));
    assert!(decision.at < release.ended_at.unwrap());
    let state = status(&cluster, NAME).state;
    assert_eq!(state.stable_revision, Some(release.revision));
    let message = state.history[0].message.to_string();
    assert!(
        message.contains("was promoted; Serin would have rolled it back"),
        "{message}"
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_services_of_another_controller_tell_the_revisions_apart() {
    let cluster = cluster_with_deployment(303).await;
    // As Flagger: the pods of a second Deployment serve, and those of the first are the canary.
    let mut primary = deployment("checkout-primary", "v1", 3);
    primary["spec"]["replicas"] = json!(4);
    apply(&cluster, primary);
    for name in ["checkout-primary", NAME] {
        apply(&cluster, stable_service(name));
    }
    cluster
        .edit::<Deployment>(SHOP, NAME, |deployment| {
            deployment["spec"]["replicas"] = json!(0);
        })
        .unwrap();
    let mut rollout = observing();
    rollout["spec"]["selector"] = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": [NAME, "checkout-primary"]}]});
    rollout["spec"]["strategy"]["canary"] =
        json!({"stableService": "checkout-primary", "canaryService": NAME});
    let running = start_controller(&cluster, "serin");
    apply(&cluster, rollout);
    wait_for_stage(&cluster, Stage::Stable, MINUTE).await;
    cluster
        .edit::<Deployment>(SHOP, NAME, |deployment| {
            deployment["spec"]["replicas"] = json!(1);
        })
        .unwrap();
    wait_for_stage(&cluster, Stage::Progressing, MINUTE).await;
    let share = status(&cluster, NAME).state.weights.desired;
    assert_eq!(share, Weight::percent(20));
    cluster
        .edit::<Deployment>(SHOP, NAME, |deployment| {
            deployment["spec"]["replicas"] = json!(0);
        })
        .unwrap();
    wait_for_stage(&cluster, Stage::Stable, MINUTE).await;
    let release = observed_release(&cluster).unwrap();
    assert_eq!(release.result, Some(ReleaseResult::Aborted));
    assert_eq!(release.would_have, None);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pods_that_cannot_be_told_apart_are_reported() {
    let cluster = cluster_with_deployment(304).await;
    let running = start_controller(&cluster, "serin");
    let mut rollout = observing();
    rollout["spec"]["strategy"]["canary"] =
        json!({"stableService": "absent", "canaryService": "absent-canary"});
    apply(&cluster, rollout);
    let is_reported = |cluster: &FakeCluster| {
        let state = status(cluster, NAME).state;
        state.phase == Phase::Degraded && state.message.contains("Service absent does not exist")
    };
    let reported = cluster.wait_until(is_reported, MINUTE).await;
    assert!(reported.is_ok(), "{:?}", status(&cluster, NAME));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn commands_are_refused_in_observe_mode() {
    let cluster = cluster_with_deployment(305).await;
    let running = start_controller(&cluster, "serin");
    apply(&cluster, observing());
    wait_for_stage(&cluster, Stage::Stable, MINUTE).await;
    create_command(&cluster, "abort", NAME, "abort");
    let outcome = |cluster: &FakeCluster| {
        let command = cluster.get::<RolloutCommand>(SHOP, "abort")?;
        command.status?.message
    };
    let answered = |cluster: &FakeCluster| outcome(cluster).is_some();
    cluster.wait_until(answered, MINUTE).await.unwrap();
    let message = outcome(&cluster).unwrap();
    assert!(message.contains("spec.mode is Observe"), "{message}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rollout_that_stops_observing_takes_the_pods_over() {
    let cluster = cluster_with_deployment(306).await;
    let running = start_controller(&cluster, "serin");
    let mut rollout = observing();
    rollout["spec"].as_object_mut().unwrap().remove("selector");
    rollout["spec"]["workloadRef"] =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME});
    apply(&cluster, rollout);
    wait_for_stage(&cluster, Stage::Stable, MINUTE).await;
    cluster
        .edit::<Rollout>(SHOP, NAME, |rollout| {
            rollout["spec"].as_object_mut().unwrap().remove("mode");
        })
        .unwrap();
    let is_taken_over = |cluster: &FakeCluster| {
        let state = status(cluster, NAME).state;
        let phase = state.workload.map(|workload| workload.phase);
        phase == Some(WorkloadPhase::TakenOver) && state.observation.is_none()
    };
    let taken_over = cluster.wait_until(is_taken_over, 2 * MINUTE).await;
    assert!(taken_over.is_ok(), "{:?}", status(&cluster, NAME));
    wait_until_healthy(&cluster, NAME, "v1").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_observing_rollout_does_not_keep_others_from_its_services() {
    let cluster = FakeCluster::new(307);
    let running = start_controller(&cluster, "serin");
    let mut rollout = observing();
    rollout["metadata"]["name"] = json!("observer");
    rollout["spec"]["strategy"]["canary"] =
        json!({"stableService": NAME, "canaryService": "checkout-canary"});
    apply(&cluster, rollout);
    cluster.sleep(MINUTE).await;
    create_route(&cluster, NAME);
    apply(&cluster, routed_rollout(NAME, "v1", 2, json!([])));
    wait_until_healthy(&cluster, NAME, "v1").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rollout_that_manages_pods_cannot_begin_to_observe() {
    let cluster = FakeCluster::new(308);
    let running = start_controller(&cluster, "serin");
    apply(&cluster, unrouted_rollout(NAME, "v1", 2, json!([])));
    wait_until_healthy(&cluster, NAME, "v1").await;
    // As with a CustomResourceDefinition that lacks the rule.
    cluster
        .edit::<Rollout>(SHOP, NAME, |rollout| {
            rollout["spec"]["mode"] = json!("Observe");
        })
        .unwrap();
    let is_refused = |cluster: &FakeCluster| {
        let state = status(cluster, NAME).state;
        state.phase == Phase::Degraded && state.message.contains("spec.mode")
    };
    cluster.wait_until(is_refused, MINUTE).await.unwrap();
    assert!(
        status(&cluster, NAME).state.plan.is_some(),
        "nothing else changes"
    );
    running.stop().await;
}

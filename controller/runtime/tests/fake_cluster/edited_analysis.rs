//! The analysis is fixed with the release: an edit counts from the next one, or by a command.

use serde_json::{Value, json};
use serin_core::observed::AnalysisReport;
use serin_core::state::{AbortCause, Stage};
use serin_fake_cluster::FakeCluster;

use crate::fixtures::*;
use crate::harness::*;

fn with_objective(version: &str, objective: Option<f64>) -> Value {
    let steps = json!([{"setWeight": 20}, {"setWeight": 50}, {"pause": {}}]);
    let mut rollout = analyzed_rollout("checkout", version, 4, steps);
    match objective {
        Some(objective) => {
            rollout["spec"]["analysis"]["objectives"][0]["objective"] = json!(objective);
        }
        None => {
            rollout["spec"].as_object_mut().unwrap().remove("analysis");
        }
    }
    rollout
}

/// Starts a release of v2 with the objective 99.9 % and waits until its steps are complete.
async fn start_release(cluster: &FakeCluster) -> RunningController {
    create_route(cluster, "checkout");
    let running = start_controller(cluster, "serin");
    apply(cluster, with_objective("v1", Some(99.9)));
    wait_until_healthy(cluster, "checkout", "v1").await;
    apply(cluster, with_objective("v2", Some(99.9)));
    wait_for_position(cluster, "checkout", "Paused/Progressing/2").await;
    running
}

fn requested_objective(running: &RunningController) -> Option<f64> {
    let request = running.analyzer.last_request("checkout")?;
    request
        .analysis
        .objectives
        .first()
        .map(|objective| objective.objective)
}

/// Reports a canary with 1 % errors: a breach of a strict objective, and no breach of a weak one.
fn report_bad_canary(cluster: &FakeCluster, running: &RunningController) {
    let is_breach = requested_objective(running).is_some_and(|objective| objective > 99.0);
    let report = if is_breach {
        AnalysisReport::breached(AbortCause::Evidence, "1 % errors")
    } else {
        AnalysisReport::undecided("undecided", cluster.now())
    };
    running.analyzer.set_report("checkout", report);
}

async fn wait_until_edit_is_reported(cluster: &FakeCluster) {
    let is_edited = |cluster: &FakeCluster| {
        let fixed = status(cluster, "checkout").state.release_analysis;
        fixed.is_some_and(|fixed| fixed.edited)
    };
    cluster
        .wait_until(is_edited, MINUTE)
        .await
        .expect("the edit is reported");
}

#[tokio::test(start_paused = true)]
async fn an_analysis_that_is_weakened_or_removed_during_a_release_still_rolls_it_back() {
    for (seed, objective, restarts) in [
        (341, Some(10.0), false),
        (342, Some(10.0), true),
        (343, None, false),
        (344, None, true),
    ] {
        let cluster = FakeCluster::new(seed);
        let mut running = start_release(&cluster).await;
        if restarts {
            // The new controller has never observed the analysis with which the release began.
            running.stop().await;
            apply(&cluster, with_objective("v2", objective));
            running = start_controller(&cluster, "another");
        } else {
            apply(&cluster, with_objective("v2", objective));
        }
        wait_until_edit_is_reported(&cluster).await;
        wait_for_event(&cluster, "checkout", "AnalysisEdited").await;
        assert_eq!(requested_objective(&running), Some(99.9), "seed {seed}");
        report_bad_canary(&cluster, &running);
        create_command(&cluster, "go", "checkout", "promote");
        let is_aborted =
            |cluster: &FakeCluster| status(cluster, "checkout").state.stage == Stage::Aborted;
        cluster
            .wait_until(is_aborted, MINUTE)
            .await
            .unwrap_or_else(|_| {
                panic!(
                    "seed {seed}: not rolled back: {:?}",
                    status(&cluster, "checkout").state
                )
            });
        assert_eq!(status(&cluster, "checkout").state.release_analysis, None);
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_edited_analysis_counts_after_an_override_or_from_the_next_release() {
    let cluster = FakeCluster::new(345);
    let running = start_release(&cluster).await;
    apply(&cluster, with_objective("v2", Some(99.5)));
    wait_until_edit_is_reported(&cluster).await;
    create_command(&cluster, "lift", "checkout", "override");
    assert_eq!(command_outcome(&cluster, "lift").await.0, "Refused");
    assert_eq!(requested_objective(&running), Some(99.9));
    apply(
        &cluster,
        json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "RolloutCommand",
            "metadata": {"name": "adopt", "namespace": SHOP},
            "spec": {"rolloutRef": {"name": "checkout"}, "verb": "override", "adoptAnalysis": true, "reason": "a typo"},
        }),
    );
    let (result, message) = command_outcome(&cluster, "adopt").await;
    assert_eq!(result, "Done", "{message}");
    wait_for_event(&cluster, "checkout", "AnalysisAdopted").await;
    cluster.sleep(SECOND).await;
    assert_eq!(requested_objective(&running), Some(99.5));
    // A whole number is returned by the API server without its fraction.
    apply(&cluster, with_objective("v2", Some(90.0)));
    wait_until_edit_is_reported(&cluster).await;
    apply(&cluster, with_objective("v3", Some(90.0)));
    let is_unedited = |cluster: &FakeCluster| {
        let fixed = status(cluster, "checkout").state.release_analysis;
        fixed.is_some_and(|fixed| !fixed.edited)
    };
    let next = cluster.wait_until(is_unedited, MINUTE).await;
    next.expect("the next release begins with the edited analysis");
    wait_for_position(&cluster, "checkout", "Paused/Progressing/2").await;
    assert_eq!(requested_objective(&running), Some(90.0));
    cluster.sleep(MINUTE).await;
    cluster.clear_requests();
    cluster.sleep(10 * MINUTE).await;
    assert_eq!(
        cluster.writes(),
        [],
        "the stored analysis equals the spec's"
    );
}

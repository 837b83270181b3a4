//! Checks and the bake, from the Prometheus queries to the report.

use super::*;
use serin_core::hold::HoldCode;
use serin_core::observed::Breach;
use serin_core::observed::ReportKind;
use serin_core::state::AbortCause;

const QUERY: &str = "max(queue_length{queue=\"orders\",pod=~\"checkout-bbb-.*\"})";

/// A release with an objective and the check `queue` with an interval of one second.
fn request_with_check(check: &Value) -> AnalysisRequest {
    let mut written = json!({
        "name": "queue",
        "query": "max(queue_length{queue=\"{{args.queue}}\",pod=~\"{{args.canaryReplicaSet}}-.*\"})",
        "args": [{"name": "queue", "value": "orders"}],
        "condition": "result[0] < 100",
        "interval": "1s",
    });
    written
        .as_object_mut()
        .unwrap()
        .extend(check.as_object().unwrap().clone());
    let analysis = json!({
        "prometheus": {"scrapeInterval": "1s"},
        "objectives": [{"name": "availability", "objective": 99.9, "indicator": "traefik"}],
        "checks": [written],
        "bakeTime": "10m",
    });
    AnalysisRequest {
        analysis: serde_json::from_value(analysis).unwrap(),
        ..request()
    }
}

fn result(snapshot: &AnalysisSnapshot) -> &'static str {
    snapshot
        .checks
        .first()
        .map_or("", |check| check.result.as_str())
}

#[tokio::test]
async fn a_check_renders_its_arguments_and_rolls_back_above_its_failure_limit() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    prometheus.set_values(QUERY, &[12.0]);
    let running = resume_at(
        &prometheus,
        &request_with_check(&json!({"failureLimit": 1})),
        60,
    )
    .await;
    let succeeded = |snapshot: &AnalysisSnapshot| {
        let satisfied = &snapshot.report.satisfied.requirements;
        snapshot.report.kind() == ReportKind::Undecided && satisfied.checks.contains("queue")
    };
    let snapshot = running.wait_until("a success", succeeded).await;
    assert_eq!(
        (result(&snapshot), snapshot.checks[0].failures),
        ("Succeeded", 0)
    );
    prometheus.set_values(QUERY, &[120.0]);
    let snapshot = running
        .wait_until("a rollback", |snapshot| {
            snapshot.report.kind() == ReportKind::Breach
        })
        .await;
    let Some(Breach { cause, message }) = &snapshot.report.breach else {
        panic!()
    };
    assert_eq!(*cause, AbortCause::Check);
    assert!(
        message.contains("queue has failed 2 times") && message.contains("the last result 120"),
        "{message}"
    );
    assert_eq!(
        (result(&snapshot), snapshot.checks[0].failures),
        ("Failed", 2)
    );
}

#[tokio::test]
async fn a_check_without_data_or_with_a_query_error_holds_the_release() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    prometheus.set_values(QUERY, &[]);
    let running = resume_at(&prometheus, &request_with_check(&json!({})), 60).await;
    let message = running.wait_for_hold(HoldCode::CheckEmpty).await;
    assert!(
        message.contains("Check queue found nothing. This is not success."),
        "{message}"
    );
    prometheus.set_values(QUERY, &[f64::NAN]);
    running.wait_for_hold(HoldCode::CheckNotANumber).await;
    prometheus.set_values(QUERY, &[12.0]);
    running
        .wait_until("continuing", |snapshot| {
            snapshot.report.kind() == ReportKind::Undecided
        })
        .await;
}

#[tokio::test]
async fn a_failed_dry_run_check_does_not_affect_the_release() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    prometheus.set_values(QUERY, &[120.0]);
    let running = resume_at(
        &prometheus,
        &request_with_check(&json!({"dryRun": true})),
        60,
    )
    .await;
    let failed = |snapshot: &AnalysisSnapshot| {
        snapshot
            .checks
            .first()
            .is_some_and(|check| check.failures >= 2 && check.dry_run)
    };
    running.wait_until("two failures", failed).await;
    running
        .wait_until("continuing", |snapshot| {
            failed(snapshot) && snapshot.report.kind() == ReportKind::Undecided
        })
        .await;
}

#[tokio::test]
async fn a_check_after_promotion_is_not_queried_before_promotion() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    prometheus.set_values(QUERY, &[120.0]);
    let request = request_with_check(&json!({"phase": "bake"}));
    let running = resume_at(&prometheus, &request, 60).await;
    let snapshot = running
        .wait_until("the evidence", |snapshot| !snapshot.evidence.is_empty())
        .await;
    assert_eq!(result(&snapshot), "Pending");
    running.manager.start_or_update(AnalysisRequest {
        weight: Weight::FULL,
        phase: ReleasePhase::Bake,
        ..request
    });
    running
        .wait_until("a rollback", |snapshot| {
            snapshot.report.breach_cause() == Some(AbortCause::Check)
        })
        .await;
}

#[tokio::test]
async fn a_canary_that_fails_during_the_bake_is_compared_with_the_previous_stable_error_rate() {
    let scenario = TrafficScenario {
        canary: (300.0, 9.0),
        bad_from_seconds: 200,
        until_seconds: 400,
        ..TrafficScenario::default()
    };
    let prometheus = start_prometheus(&scenario).await;
    prometheus.set_values(QUERY, &[12.0]);
    let request = request_with_check(&json!({"dryRun": true}));
    let running = resume_at(&prometheus, &request, 190).await;
    let checkpoint = Some(running.wait_for_evidence_until(180).await);
    let baking = AnalysisRequest {
        weight: Weight::FULL,
        phase: ReleasePhase::Bake,
        ..request
    };
    running.manager.start_or_update(baking.clone());
    let begun = |snapshot: &AnalysisSnapshot| {
        snapshot
            .checkpoint
            .as_ref()
            .is_some_and(|at| at.checkpoint["phase"][0] == "bake")
    };
    let begun = running.wait_until("the watch", begun).await.checkpoint;
    assert_ne!(begun, checkpoint);
    let running = start_manager(&prometheus, at(300));
    running.manager.start_or_update(AnalysisRequest {
        resume_from: begun,
        ..baking
    });
    let snapshot = running
        .wait_until("a rollback", |snapshot| {
            snapshot.report.kind() == ReportKind::Breach
        })
        .await;
    let Some(Breach { cause, message }) = &snapshot.report.breach else {
        panic!()
    };
    assert_eq!(*cause, AbortCause::Evidence);
    assert!(
        message.starts_with("Rolled back from 100 %: with all of the traffic"),
        "{message}"
    );
    assert!(
        message.contains("no stable side left to compare with"),
        "{message}"
    );
}

#[tokio::test]
async fn a_preview_without_traffic_is_checked() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    prometheus.set_values(QUERY, &[12.0]);
    let mut request = request_with_check(&json!({"phase": "beforePromotion"}));
    request.analysis.warm_up = Some("1s".into());
    let running = start_manager(&prometheus, start());
    running.manager.start_or_update(AnalysisRequest {
        weight: Weight::ZERO,
        is_blue_green: true,
        phase: ReleasePhase::Preview,
        ..request
    });
    let succeeded = |snapshot: &AnalysisSnapshot| {
        let satisfied = &snapshot.report.satisfied;
        satisfied.weight.is_zero() && satisfied.requirements.checks.contains("queue")
    };
    running.wait_until("a success", succeeded).await;
}

#[tokio::test]
async fn after_a_switch_the_new_revision_is_compared_with_the_error_rate_before_it() {
    let scenario = TrafficScenario {
        canary: (300.0, 9.0),
        bad_from_seconds: 200,
        until_seconds: 400,
        ..TrafficScenario::default()
    };
    let prometheus = start_prometheus(&scenario).await;
    prometheus.set_values(QUERY, &[12.0]);
    let request = AnalysisRequest {
        is_blue_green: true,
        ..request_with_check(&json!({"dryRun": true}))
    };
    let running = resume_at(&prometheus, &request, 190).await;
    running.wait_for_evidence_until(180).await;
    let baking = AnalysisRequest {
        weight: Weight::FULL,
        phase: ReleasePhase::Bake,
        ..request
    };
    running.manager.start_or_update(baking.clone());
    let begun = |snapshot: &AnalysisSnapshot| {
        let checkpoint = snapshot.checkpoint.as_ref();
        checkpoint.is_some_and(|at| at.checkpoint["phase"][0] == "bake")
    };
    let begun = running.wait_until("the bake", begun).await.checkpoint;
    let running = start_manager(&prometheus, at(300));
    running.manager.start_or_update(AnalysisRequest {
        resume_from: begun,
        ..baking
    });
    let is_breached = |snapshot: &AnalysisSnapshot| snapshot.report.kind() == ReportKind::Breach;
    let snapshot = running.wait_until("a rollback", is_breached).await;
    let Some(Breach { cause, message }) = &snapshot.report.breach else {
        panic!()
    };
    assert_eq!(*cause, AbortCause::Evidence);
    let says = |text: &str| message.contains(text);
    assert!(
        says("the active revision before the switch") && says("a heuristic"),
        "{message}"
    );
}

// argo-rollouts #3258, PR #4864
#[tokio::test]
async fn a_check_without_objectives_is_queried_after_its_initial_delay() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    prometheus.set_values(QUERY, &[12.0]);
    let mut request = request_with_check(&json!({"initialDelay": "2s"}));
    request.analysis.objectives.clear();
    request.analysis.warm_up = Some("1s".into());
    let running = start_manager(&prometheus, start());
    running.manager.start_or_update(request);
    let snapshot = running
        .wait_until("the beginning", |snapshot| !snapshot.checks.is_empty())
        .await;
    assert!(
        snapshot.report.kind() == ReportKind::Undecided,
        "{:?}",
        snapshot.report
    );
    let message = snapshot.checks[0].message.clone().unwrap();
    assert!(
        message.starts_with("Starts at ") && message.ends_with("(initialDelay)."),
        "{message}"
    );
    let snapshot = running
        .wait_until("a success", |snapshot| {
            snapshot.report.kind() == ReportKind::Sufficient
        })
        .await;
    assert_eq!(result(&snapshot), "Succeeded");
}

#[tokio::test]
async fn failures_of_an_aborted_attempt_do_not_count_against_a_retry() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    prometheus.set_values(QUERY, &[120.0]);
    let request = request_with_check(&json!({}));
    let running = resume_at(&prometheus, &request, 60).await;
    running
        .wait_until("a rollback", |snapshot| {
            snapshot.report.breach_cause() == Some(AbortCause::Check)
        })
        .await;
    let resume_from = running.snapshot().checkpoint;
    prometheus.set_values(QUERY, &[12.0]);
    // One reconcile aborts and retries, so the task never sees the end of the first attempt.
    running.manager.start_or_update(AnalysisRequest {
        previous_ended_at: Some(at(61)),
        resume_from,
        ..request
    });
    let begun = |snapshot: &AnalysisSnapshot| {
        snapshot
            .checkpoint
            .as_ref()
            .is_some_and(|at| at.checkpoint["previousEndedSecond"] != json!(0))
    };
    running.wait_until("another attempt", begun).await;
    let is_undecided =
        |snapshot: &AnalysisSnapshot| snapshot.report.kind() == ReportKind::Undecided;
    let snapshot = running.wait_until("no verdict", is_undecided).await;
    assert_eq!(snapshot.checks[0].failures, 0);
    let ticks = objective(&snapshot.checkpoint.unwrap())["evidence"]["ticks"]
        .as_u64()
        .unwrap();
    assert!(
        ticks < 30,
        "the {ticks} ticks of this attempt, without the 60 before it"
    );
}

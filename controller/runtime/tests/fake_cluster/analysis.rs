//! Effects of the analysis on the route and the status.

use serin_core::hold::Hold;
use serin_core::hold::HoldCode;
use serin_core::state::AbortCause;
use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use serin_analysis::claim::RoutedUnit;
use serin_core::observed::{AnalysisReport, SatisfiedRequirements};
use serin_core::plan::Requirements;
use serin_core::units::Weight;
use serin_crds::status::{
    AnalysisStatus, BudgetLevel, BudgetStatus, CheckOutcome, CheckStatus, EvidenceStatus,
};
use serin_fake_cluster::FakeCluster;
use serin_metrics_analysis::{AnalysisSnapshot, ReleasePhase};

use crate::fixtures::*;
use crate::harness::*;

/// Starts a release of v2 that is analyzed by an objective and by the check `queue`.
async fn start_analyzed_release(
    cluster: &FakeCluster,
    steps: Value,
    bake_time: Option<&str>,
) -> RunningController {
    create_route(cluster, "checkout");
    let running = start_controller(cluster, "serin");
    let rollout = |version: &str| {
        let mut rollout = analyzed_rollout("checkout", version, 4, steps.clone());
        rollout["spec"]["analysis"]["checks"] = json!([{"name": "queue", "query": "max(queue_length)", "condition": "result[0] < 100"}]);
        if let Some(bake_time) = bake_time {
            rollout["spec"]["analysis"]["bakeTime"] = json!(bake_time);
        }
        rollout
    };
    apply(cluster, rollout("v1"));
    wait_until_healthy(cluster, "checkout", "v1").await;
    apply(cluster, rollout("v2"));
    running
}

/// An undecided snapshot with the result of the check at this weight.
fn undecided_with_check(
    cluster: &FakeCluster,
    weight: Weight,
    result: CheckOutcome,
    message: &str,
) -> AnalysisSnapshot {
    let succeeded = (result == CheckOutcome::Succeeded).then(|| "queue".to_owned());
    let satisfied = Requirements {
        checks: succeeded.into_iter().collect(),
        objectives: BTreeSet::new(),
    };
    let check = CheckStatus {
        name: "queue".into(),
        result,
        at: Some(cluster.now()),
        message: Some(message.into()),
        ..CheckStatus::default()
    };
    let mut report = AnalysisReport::undecided("undecided", cluster.now());
    report.satisfied = SatisfiedRequirements {
        weight,
        requirements: satisfied,
    };
    AnalysisSnapshot {
        checks: vec![check],
        ..AnalysisSnapshot::from_report(report)
    }
}

#[tokio::test(start_paused = true)]
async fn a_low_budget_reduces_the_canary_weight_and_never_raises_it() {
    let cluster = FakeCluster::new(41);
    let running = start_analyzed_release(
        &cluster,
        json!([{"setWeight": 20}, {"setWeight": 50}, {"pause": {}}]),
        None,
    )
    .await;
    wait_for_position(&cluster, "checkout", "Paused/Progressing/2").await;
    let monitor = TrafficMonitor::start(&cluster, "checkout");
    let message = "This rollout has used 95 of its 100 allotted errors (95 %). Lowering the weight \
        from 50 % to 5 %.";
    let low = |to: u32| {
        let hold = Hold::new(HoldCode::BudgetLeft, message);
        AnalysisReport::held(hold.lowering_to(Some(Weight::percent(to))))
    };
    running.analyzer.set_report("checkout", low(5));
    cluster
        .wait_until(
            |cluster| route_weights(cluster, "checkout") == (Some(95), Some(5)),
            MINUTE,
        )
        .await
        .unwrap();
    cluster
        .wait_until(
            |cluster| {
                let weights = status(cluster, "checkout").state.weights;
                weights.verified == Some(Weight::percent(5))
            },
            MINUTE,
        )
        .await
        .unwrap();
    let weights = status(&cluster, "checkout").state.weights;
    assert_eq!(
        (weights.desired, weights.cap),
        (Weight::percent(5), Some(Weight::percent(5)))
    );
    wait_for_event(&cluster, "checkout", "SteppedDown").await;
    let (ready, ..) = condition(&cluster, "checkout", "MetricsReady").unwrap();
    assert_eq!(ready, "True", "the metrics are available");
    running.analyzer.set_report("checkout", low(0));
    cluster
        .wait_until(
            |cluster| {
                route_weights(cluster, "checkout")
                    .1
                    .is_none_or(|weight| weight == 0)
            },
            MINUTE,
        )
        .await
        .unwrap();
    cluster
        .holds_for(
            |cluster| {
                route_weights(cluster, "checkout")
                    .1
                    .is_none_or(|weight| weight == 0)
            },
            5 * MINUTE,
        )
        .await
        .unwrap();
    monitor.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_check_is_reported_and_blocks_promotion_until_it_succeeds() {
    let cluster = FakeCluster::new(42);
    let running = start_analyzed_release(
        &cluster,
        json!([{"setWeight": 20}, {"pause": {"duration": "5s"}}]),
        None,
    )
    .await;
    running.analyzer.set_snapshot(
        "checkout",
        undecided_with_check(
            &cluster,
            Weight::percent(20),
            CheckOutcome::Inconclusive,
            "Found nothing.",
        ),
    );
    wait_for_position(&cluster, "checkout", "Progressing/Progressing/2").await;
    cluster.sleep(5 * MINUTE).await;
    assert_eq!(position(&cluster, "checkout"), "Progressing/Progressing/2");
    let status = status(&cluster, "checkout");
    assert_eq!(status.checks[0].result, CheckOutcome::Inconclusive);
    assert!(status.state.message.contains("waiting for check queue"));
    assert_eq!(
        running.analyzer.last_request("checkout").unwrap().phase,
        ReleasePhase::BeforePromotion
    );
    running.analyzer.set_snapshot(
        "checkout",
        undecided_with_check(
            &cluster,
            Weight::percent(20),
            CheckOutcome::Succeeded,
            "Found 12.",
        ),
    );
    wait_until_healthy(&cluster, "checkout", "v2").await;
}

#[tokio::test(start_paused = true)]
async fn a_check_that_fails_too_often_aborts_the_release_with_its_message() {
    let cluster = FakeCluster::new(43);
    let running =
        start_analyzed_release(&cluster, json!([{"setWeight": 20}, {"pause": {}}]), None).await;
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    let message = "Check queue has failed once, and no failure is tolerated: the last result 120 \
        does not meet result[0] < 100.";
    let failed = undecided_with_check(
        &cluster,
        Weight::percent(20),
        CheckOutcome::Failed,
        "Found 120; it must be result[0] < 100.",
    );
    let breach = AnalysisReport::breached(AbortCause::Check, message);
    running.analyzer.set_snapshot(
        "checkout",
        AnalysisSnapshot {
            report: breach,
            ..failed
        },
    );
    cluster
        .wait_until(
            |cluster| route_weights(cluster, "checkout").1.is_none(),
            SECOND,
        )
        .await
        .unwrap();
    wait_for_position(&cluster, "checkout", "Degraded/Aborted").await;
    let status = status(&cluster, "checkout");
    let abort = status.state.abort.unwrap();
    assert_eq!(
        (abort.cause, abort.message.as_str()),
        (AbortCause::Check, message)
    );
    assert_eq!(
        status.checks[0].result,
        CheckOutcome::Failed,
        "the result stays in the status"
    );
    wait_for_event(&cluster, "checkout", "RolledBack").await;
}

#[tokio::test(start_paused = true)]
async fn a_baking_release_becomes_stable_after_the_bake_time_or_is_rolled_back() {
    for fails in [false, true] {
        let cluster = FakeCluster::new(44);
        let running = start_analyzed_release(
            &cluster,
            json!([{"setWeight": 20}, {"pause": {"duration": "5s"}}]),
            Some("10m"),
        )
        .await;
        running.analyzer.set_snapshot(
            "checkout",
            undecided_with_check(
                &cluster,
                Weight::percent(20),
                CheckOutcome::Succeeded,
                "Found 12.",
            ),
        );
        let monitor = TrafficMonitor::start(&cluster, "checkout");
        cluster
            .wait_until(
                |cluster| status(cluster, "checkout").state.bake.is_some(),
                10 * MINUTE,
            )
            .await
            .unwrap();
        assert_eq!(route_weights(&cluster, "checkout").1, Some(100));
        wait_for_event(&cluster, "checkout", "Baking").await;
        cluster.sleep(9 * MINUTE).await;
        assert_eq!(
            replicas_by_version(&cluster, "checkout"),
            [("v1".into(), 4), ("v2".into(), 4)].into(),
            "the old version still runs"
        );
        assert_eq!(
            running.analyzer.last_request("checkout").unwrap().phase,
            ReleasePhase::Bake
        );
        if fails {
            let message = "the canary failed 31 of 1,000 requests".to_owned();
            running.analyzer.set_report(
                "checkout",
                AnalysisReport::breached(AbortCause::Evidence, message),
            );
            cluster
                .wait_until(
                    |cluster| route_weights(cluster, "checkout").1.is_none(),
                    SECOND,
                )
                .await
                .unwrap();
            wait_for_position(&cluster, "checkout", "Degraded/Aborted").await;
        } else {
            wait_until_healthy(&cluster, "checkout", "v2").await;
        }
        monitor.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_reported_before_and_during_a_release() {
    let cluster = FakeCluster::new(45);
    create_route(&cluster, "checkout");
    let running = start_controller(&cluster, "serin");
    let steps = || json!([{"setWeight": 20}, {"analysis": {}}]);
    apply(&cluster, analyzed_rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let request = running.analyzer.last_request("checkout").unwrap();
    assert_eq!(
        (request.phase, request.weight, request.evidence_required_at),
        (ReleasePhase::Idle, Weight::ZERO, Some(Weight::percent(20)))
    );
    let slow = "Objective availability: At 2 requests/s this objective needs 9.2 days; choose 99 % \
        or a longer duration.";
    let tight = || BudgetStatus {
        objective: "availability".into(),
        state: BudgetLevel::Tight,
        infeasible: Some(slow.into()),
        ..BudgetStatus::default()
    };
    let undecided = undecided_with_check(&cluster, Weight::ZERO, CheckOutcome::Pending, "").report;
    let snapshot = AnalysisSnapshot {
        budgets: vec![tight()],
        ..AnalysisSnapshot::from_report(undecided)
    };
    running.analyzer.set_snapshot("checkout", snapshot.clone());
    wait_for_event(&cluster, "checkout", "NotFeasible").await;
    cluster
        .wait_until(
            |cluster| !status(cluster, "checkout").budgets.is_empty(),
            MINUTE,
        )
        .await
        .unwrap();
    assert_eq!(status(&cluster, "checkout").budgets, [tight()]);
    let (feasible, reason, message) = condition(&cluster, "checkout", "Feasible").unwrap();
    assert_eq!(
        (feasible.as_str(), reason.as_str(), message.as_str()),
        ("False", "NotFeasible", slow)
    );
    assert!(
        is_healthy(&cluster, "checkout", "v1"),
        "a warning does not affect the phase"
    );
    // The known budgets stay in the status while the analysis of the release starts.
    running.analyzer.set_snapshot(
        "checkout",
        AnalysisSnapshot {
            budgets: Vec::new(),
            ..snapshot
        },
    );
    apply(&cluster, analyzed_rollout("checkout", "v2", 4, steps()));
    wait_for_position(&cluster, "checkout", "Progressing/Progressing/1").await;
    assert_eq!(status(&cluster, "checkout").budgets, [tight()]);
    let published = event_reasons(&cluster, "checkout")
        .into_iter()
        .filter(|reason| reason == "NotFeasible")
        .count();
    assert_eq!(published, 1, "the Event is published once");
}

#[tokio::test(start_paused = true)]
async fn a_service_with_affinity_is_reported_before_and_during_a_release_until_it_is_removed() {
    let cluster = FakeCluster::new(47_001);
    create_route(&cluster, "checkout");
    let service = |affinity: &str| {
        let mut service = stable_service("checkout");
        service["spec"]["sessionAffinity"] = json!(affinity);
        service
    };
    apply(&cluster, service("ClientIP"));
    let running = start_controller(&cluster, "serin");
    let rollout = |version| {
        let steps = json!([{"setWeight": 20}, {"pause": {}}]);
        analyzed_rollout("checkout", version, 4, steps)
    };
    apply(&cluster, rollout("v1"));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let note = || condition(&cluster, "checkout", "RoutedPerRequest");
    cluster
        .wait_until(|_| note().is_some(), MINUTE)
        .await
        .unwrap();
    let (is_true, reason, message) = note().unwrap();
    assert_eq!((is_true.as_str(), reason.as_str()), ("False", "ByClient"));
    let why = "Service checkout: spec.sessionAffinity is ClientIP";
    assert!(message.starts_with(why), "{message}");

    apply(&cluster, rollout("v2"));
    let wait_for_unit = async |unit| {
        let is_requested = |_: &FakeCluster| {
            let request = running.analyzer.last_request("checkout");
            request.is_some_and(|request| {
                request.phase == ReleasePhase::Release && request.routed_unit == unit
            })
        };
        cluster.wait_until(is_requested, MINUTE).await.unwrap();
    };
    wait_for_unit(RoutedUnit::Client).await;
    assert!(
        note().is_some(),
        "the note is there from the beginning of the release"
    );

    for name in ["checkout", "checkout-canary"] {
        let mut live = serde_json::to_value(cluster.get::<Service>(SHOP, name).unwrap()).unwrap();
        live["apiVersion"] = json!("v1");
        live["kind"] = json!("Service");
        live["spec"]["sessionAffinity"] = json!("None");
        apply(&cluster, live);
    }
    wait_for_unit(RoutedUnit::Request).await;
    cluster
        .wait_until(|_| note().is_none(), MINUTE)
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_broken_assumption_is_reported_once_for_each_objective_of_a_release() {
    let cluster = FakeCluster::new(48);
    let running =
        start_analyzed_release(&cluster, json!([{"setWeight": 20}, {"pause": {}}]), None).await;
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    let revision = status(&cluster, "checkout").state.current_revision.unwrap();
    let publish = async |round: f64, broken: [bool; 2]| {
        let names = ["availability", "latency"];
        let evidence = names
            .iter()
            .zip(broken)
            .map(|(name, is_broken)| EvidenceStatus {
                objective: (*name).to_owned(),
                e_value: Some(round),
                assumption: Some("No bound on false rollbacks is claimed.".into()),
                assumption_broken: is_broken,
                ..EvidenceStatus::default()
            });
        let undecided =
            undecided_with_check(&cluster, Weight::percent(20), CheckOutcome::Succeeded, "");
        let snapshot = AnalysisSnapshot {
            checkpoint: Some(AnalysisStatus {
                revision: revision.to_string(),
                started_at: cluster.now(),
                checkpoint: json!({"round": round}),
            }),
            evidence: evidence.collect(),
            ..undecided
        };
        running.analyzer.set_snapshot("checkout", snapshot);
        let is_stored = |cluster: &FakeCluster| {
            let evidence = status(cluster, "checkout").evidence;
            evidence.first().and_then(|first| first.e_value) == Some(round)
        };
        cluster.wait_until(is_stored, 10 * MINUTE).await.unwrap();
        status(&cluster, "checkout")
            .evidence
            .iter()
            .map(|evidence| evidence.assumption_broken)
            .collect::<Vec<_>>()
    };
    assert_eq!(publish(1.0, [false, false]).await, [false, false]);
    assert_eq!(publish(2.0, [true, false]).await, [true, false]);
    wait_for_event(&cluster, "checkout", "AssumptionBroken").await;
    assert_eq!(
        publish(3.0, [false, false]).await,
        [true, false],
        "it stays in the status until the release ends"
    );
    assert_eq!(publish(4.0, [true, false]).await, [true, false]);
    assert_eq!(publish(5.0, [true, true]).await, [true, true]);
    let events = || {
        let reasons = event_reasons(&cluster, "checkout").into_iter();
        reasons
            .filter(|reason| reason == "AssumptionBroken")
            .count()
    };
    cluster.wait_until(|_| events() >= 2, MINUTE).await.unwrap();
    assert_eq!(publish(6.0, [true, true]).await, [true, true]);
    assert_eq!(events(), 2, "once for each objective");
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_analyzed_with_its_own_evidence() {
    let cluster = FakeCluster::new(46);
    let running =
        start_analyzed_release(&cluster, json!([{"setWeight": 20}, {"pause": {}}]), None).await;
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    let revision = status(&cluster, "checkout").state.current_revision.unwrap();
    let checkpoint = Some(AnalysisStatus {
        revision: revision.to_string(),
        started_at: cluster.now(),
        checkpoint: json!({"decided": true}),
    });
    let breach = AnalysisReport::breached(AbortCause::Evidence, "31 of 1,000 requests failed");
    running.analyzer.set_snapshot(
        "checkout",
        AnalysisSnapshot {
            checkpoint,
            ..AnalysisSnapshot::from_report(breach)
        },
    );
    wait_for_position(&cluster, "checkout", "Degraded/Aborted").await;
    running.analyzer.set_snapshot(
        "checkout",
        undecided_with_check(
            &cluster,
            Weight::percent(20),
            CheckOutcome::Succeeded,
            "Found 12.",
        ),
    );
    create_command(&cluster, "again", "checkout", "retry");
    assert_eq!(command_outcome(&cluster, "again").await.0, "Done");
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    assert_eq!(
        running
            .analyzer
            .last_request("checkout")
            .unwrap()
            .resume_from,
        None
    );
}

#[tokio::test(start_paused = true)]
async fn evidence_is_discarded_by_a_retry_in_the_same_reconcile_as_the_abort() {
    let cluster = FakeCluster::new(47);
    let running =
        start_analyzed_release(&cluster, json!([{"setWeight": 20}, {"pause": {}}]), None).await;
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    let revision = status(&cluster, "checkout").state.current_revision.unwrap();
    let checkpoint = Some(AnalysisStatus {
        revision: revision.to_string(),
        started_at: cluster.now(),
        checkpoint: json!({"decided": false}),
    });
    let snapshot = AnalysisSnapshot {
        checkpoint,
        ..undecided_with_check(
            &cluster,
            Weight::percent(20),
            CheckOutcome::Failed,
            "Found 120.",
        )
    };
    running.analyzer.set_snapshot("checkout", snapshot);
    let stored = |cluster: &FakeCluster| {
        status(cluster, "checkout")
            .analysis
            .is_some_and(|analysis| analysis.checkpoint != json!({}))
    };
    cluster.wait_until(stored, MINUTE).await.unwrap();
    let before = running
        .analyzer
        .last_request("checkout")
        .unwrap()
        .previous_ended_at;
    running.analyzer.set_snapshot(
        "checkout",
        undecided_with_check(
            &cluster,
            Weight::percent(20),
            CheckOutcome::Pending,
            "Not yet queried.",
        ),
    );
    create_command(&cluster, "stop", "checkout", "abort");
    create_command(&cluster, "stop-again", "checkout", "retry");
    assert_eq!(command_outcome(&cluster, "stop").await.0, "Done");
    assert_eq!(command_outcome(&cluster, "stop-again").await.0, "Done");
    let is_new_attempt = |_: &FakeCluster| {
        running
            .analyzer
            .last_request("checkout")
            .is_some_and(|request| request.previous_ended_at != before)
    };
    assert!(
        cluster.wait_until(is_new_attempt, MINUTE).await.is_ok(),
        "the analysis request is for a new attempt"
    );
    assert_eq!(
        running
            .analyzer
            .last_request("checkout")
            .unwrap()
            .resume_from,
        None
    );
}

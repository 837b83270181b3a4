//! The decisions and their messages.

use super::*;
use serin_core::hold::HoldCode;
use serin_core::observed::Breach;
use serin_core::observed::ReportKind;
use serin_core::state::AbortCause;

#[tokio::test]
async fn a_bad_canary_is_rolled_back_with_counts_in_the_message() {
    let prometheus = start_prometheus(&TrafficScenario {
        canary: (60.0, 1.8),
        ..TrafficScenario::default()
    })
    .await;
    let running = resume_at(&prometheus, &request(), 120).await;
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
        message.starts_with("Rolled back at 20 %: the canary failed "),
        "{message}"
    );
    assert!(message.contains("at most 1 time in 100"), "{message}");
    let evidence = &snapshot.evidence[0];
    assert!(
        evidence.canary.errors > 100.0 && evidence.e_value.unwrap() >= 100.0,
        "{evidence:?}"
    );
    assert!(snapshot.summary.unwrap().starts_with("E "));
}

#[tokio::test]
async fn a_rollback_persists_if_the_canary_recovers() {
    let prometheus = start_prometheus(&TrafficScenario {
        canary: (60.0, 1.8),
        ..TrafficScenario::default()
    })
    .await;
    let running = resume_at(&prometheus, &request(), 120).await;
    let snapshot = running
        .wait_until("a rollback", |snapshot| {
            snapshot.report.kind() == ReportKind::Breach
        })
        .await;
    prometheus.set_mode(Mode::Warns);
    let again = start_manager(&prometheus, at(300));
    again.manager.start_or_update(AnalysisRequest {
        resume_from: snapshot.checkpoint,
        ..request()
    });
    again
        .wait_until("the same rollback", |again| again.report == snapshot.report)
        .await;
}

#[tokio::test]
async fn a_good_canary_is_sound_with_sufficient_evidence() {
    let prometheus = start_prometheus(&TrafficScenario {
        until_seconds: 5_000,
        canary: (600.0, 0.0),
        stable: (600.0, 0.3),
        ..TrafficScenario::default()
    })
    .await;
    prometheus.set_service(&[
        ("total", 1e9),
        ("errors", 2e5),
        ("age0", 2.6e6),
        ("total3600", 4e6),
        ("total300", 4e5),
    ]);
    let request = AnalysisRequest {
        weight: Weight::percent(50),
        ..request()
    };
    let running = resume_at(&prometheus, &request, 600).await;
    let snapshot = running
        .wait_until("sound", |snapshot| {
            snapshot.report.kind() == ReportKind::Sufficient
        })
        .await;
    let evidence = &snapshot.evidence[0];
    assert!(evidence.upper.unwrap() < 0.000_5, "{evidence:?}");
    assert!(
        (evidence.budget_allotment.unwrap() - 2e4).abs() < 1e-6,
        "{evidence:?}"
    );
    assert!(snapshot.summary.unwrap().starts_with("budget 0 % · E 0"));
}

#[tokio::test]
async fn a_spent_budget_freezes_and_a_spent_allotment_steps_down_to_zero() {
    let prometheus = start_prometheus(&TrafficScenario {
        canary: (60.0, 0.01),
        stable: (240.0, 0.0),
        ..TrafficScenario::default()
    })
    .await;
    prometheus.set_service(&[("total", 1e6), ("errors", 2e3), ("age0", 2.6e6)]);
    let running = resume_at(&prometheus, &request(), 200).await;
    let frozen =
        |snapshot: &AnalysisSnapshot| snapshot.report.hold_code() == Some(HoldCode::BudgetSpent);
    let checkpoint = running.wait_until("a freeze", frozen).await.checkpoint;
    // An override lets the release continue, immediately and after a restart.
    let lifted = AnalysisRequest {
        freeze_lifted: true,
        resume_from: checkpoint,
        ..request()
    };
    running.manager.start_or_update(lifted.clone());
    let continues = |snapshot: &AnalysisSnapshot| {
        snapshot.report.kind() == ReportKind::Undecided && snapshot.checkpoint.is_some()
    };
    running.wait_until("continuing", continues).await;
    let again = start_manager(&prometheus, at(210));
    again.manager.start_or_update(lifted);
    again
        .wait_until("continuing after a restart", continues)
        .await;
    // 2 % of the errors that 100,000 requests allow is an allotment of two errors, which the canary
    // has already used.
    prometheus.set_service(&[("total", 1e5), ("errors", 10.0), ("age0", 2.6e6)]);
    let running = resume_at(&prometheus, &request(), 200).await;
    let message = running.wait_for_hold(HoldCode::BudgetLeft).await;
    assert!(
        message.contains("Lowering the weight from 20 % to 0 %"),
        "{message}"
    );
    // Without traffic, it stays stepped down: with traffic, it would immediately be stepped down
    // again.
    let lowered = |snapshot: &AnalysisSnapshot| {
        snapshot
            .report
            .holds
            .iter()
            .any(|hold| hold.lower_to == Some(Weight::ZERO))
    };
    let AnalysisSnapshot {
        report: at_20,
        checkpoint,
        ..
    } = running.wait_until("a step down", lowered).await;
    running.manager.start_or_update(AnalysisRequest {
        weight: Weight::ZERO,
        ..request()
    });
    running
        .wait_until("held", |snapshot| {
            lowered(snapshot) && snapshot.report != at_20
        })
        .await;
    let again = start_manager(&prometheus, at(210));
    again.manager.start_or_update(AnalysisRequest {
        weight: Weight::ZERO,
        resume_from: checkpoint,
        ..request()
    });
    again.wait_until("held after a restart", lowered).await;
}

#[tokio::test]
async fn the_evidence_pace_suggests_the_next_weight() {
    let prometheus = start_prometheus(&TrafficScenario {
        until_seconds: 5_000,
        canary: (60.0, 0.0),
        stable: (1_140.0, 0.3),
        ..TrafficScenario::default()
    })
    .await;
    let pace = EvidencePace {
        first_weight: Weight::percent(5),
        max_weight: Weight::percent(50),
    };
    let request = AnalysisRequest {
        weight: Weight::percent(5),
        pace: Some(pace),
        ..request()
    };
    let running = resume_at(&prometheus, &request, 200).await;
    let stepped =
        |snapshot: &AnalysisSnapshot| snapshot.report.next_weight == Some(Weight::percent(20));
    running.wait_until("a step", stepped).await;
}

#[tokio::test]
async fn the_first_poll_with_the_decisive_sample_decides() {
    let scenario = TrafficScenario {
        canary: (60.0, 12.0),
        bad_from_seconds: 103,
        ..TrafficScenario::default()
    };
    let prometheus = start_prometheus(&scenario).await;
    let resume_from = Some(checkpoint_with_traffic(&prometheus, &request()).await);
    let running = start_manager(&prometheus, at(102));
    running.manager.start_or_update(AnalysisRequest {
        resume_from,
        ..request()
    });
    let snapshot = running
        .wait_until("a rollback", |snapshot| {
            snapshot.report.kind() == ReportKind::Breach
        })
        .await;
    let decided_ms = running.manager.inner.deps.clock.now().as_millisecond();
    let completed_ms = round_at(snapshot.checkpoint.as_ref());
    // There are four polls per second. Two of them, with two queries each, take half a second on an
    // idle machine.
    let polled = prometheus
        .queried_at_ms()
        .into_iter()
        .filter(|at_ms| (completed_ms..decided_ms).contains(at_ms))
        .count();
    assert!(
        polled <= 4,
        "{polled} queries after the sample that completed the evidence"
    );
    let seconds = (completed_ms - start().as_millisecond()) / 1_000;
    assert!(
        (104..=107).contains(&seconds),
        "decided by the scrape of second {seconds}"
    );
}

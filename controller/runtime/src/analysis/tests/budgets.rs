//! The error budget of the service: reported before and during a release, and the effect of a spent
//! budget.

use super::*;
use serin_core::hold::HoldCode;

/// A month with one million requests, of which `bad` failed and 1000 were allowed to fail.
fn set_month(prometheus: &ScriptedPrometheus, bad: f64) {
    prometheus.set_service(&[
        ("total", 1e6),
        ("errors", bad),
        ("age0", 2.6e6),
        ("total3600", 7.2e5),
        ("total300", 6e4),
    ]);
}

fn state(snapshot: &AnalysisSnapshot) -> &'static str {
    snapshot
        .budgets
        .first()
        .map_or("", |budget| budget.state.as_str())
}

#[tokio::test]
async fn the_error_budget_is_reported_without_a_release() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    set_month(&prometheus, 950.0);
    let running = start_manager(&prometheus, at(0));
    let idle = AnalysisRequest {
        phase: ReleasePhase::Idle,
        weight: Weight::ZERO,
        ..request()
    };
    running.manager.start_or_update(idle.clone());
    let snapshot = running
        .wait_until("a budget", |snapshot| state(snapshot) == "Tight")
        .await;
    assert_eq!(
        (
            snapshot.checkpoint,
            snapshot.evidence.len(),
            running.manager.len()
        ),
        (None, 0, 0)
    );
    assert!(
        snapshot.budgets[0]
            .message
            .as_ref()
            .unwrap()
            .contains("5 % of the error budget remain")
    );
    // A new attempt of the same revision after an abort starts a new analysis.
    running.manager.start_or_update(AnalysisRequest {
        phase: ReleasePhase::Release,
        ..idle
    });
    running
        .wait_until("a new analysis", |snapshot| state(snapshot) == "Tight")
        .await;
    assert_eq!(running.manager.len(), 1);
}

#[tokio::test]
async fn the_error_budget_is_reported_before_and_after_the_canary_gets_traffic() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    set_month(&prometheus, 100.0);
    let running = start_manager(&prometheus, at(0));
    running.manager.start_or_update(AnalysisRequest {
        weight: Weight::ZERO,
        ..request()
    });
    let snapshot = running
        .wait_until("a budget", |snapshot| state(snapshot) == "Healthy")
        .await;
    assert_eq!(snapshot.checkpoint, None);
    let running = resume_at(&prometheus, &request(), 60).await;
    running
        .wait_until("a budget", |snapshot| {
            state(snapshot) == "Healthy" && !snapshot.evidence.is_empty()
        })
        .await;
}

#[tokio::test]
async fn a_spent_budget_freezes_a_release_unless_it_fixes_the_errors() {
    let prometheus = start_prometheus(&TrafficScenario {
        canary: (60.0, 0.0),
        stable: (240.0, 0.5),
        ..TrafficScenario::default()
    })
    .await;
    set_month(&prometheus, 2e3);
    let begun = checkpoint_with_traffic(&prometheus, &request()).await;
    let early = start_manager(&prometheus, at(4));
    early.manager.start_or_update(AnalysisRequest {
        resume_from: Some(begun.clone()),
        ..request()
    });
    let frozen =
        |snapshot: &AnalysisSnapshot| snapshot.report.hold_code() == Some(HoldCode::BudgetSpent);
    let snapshot = early.wait_until("a freeze", frozen).await;
    assert_eq!(state(&snapshot), "Spent");
    assert!(
        snapshot.budgets[0]
            .message
            .as_ref()
            .unwrap()
            .starts_with("The error budget is spent: 2,000 errors")
    );
    let later = start_manager(&prometheus, at(590));
    later.manager.start_or_update(AnalysisRequest {
        resume_from: Some(begun),
        ..request()
    });
    let cures = |snapshot: &AnalysisSnapshot| {
        let report = &snapshot.report;
        report.is_fresh() && report.message.contains("is the fix")
    };
    later.wait_until("continuing", cures).await;
}

#[tokio::test]
async fn an_infeasible_objective_is_reported_before_the_release() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    prometheus.set_service(&[
        ("total", 5e6),
        ("errors", 2e3),
        ("age0", 2.6e6),
        ("total3600", 7_200.0),
        ("total300", 600.0),
    ]);
    let running = start_manager(&prometheus, at(0));
    let evidence_required_at = Some(Weight::percent(50));
    running.manager.start_or_update(AnalysisRequest {
        phase: ReleasePhase::Idle,
        weight: Weight::ZERO,
        evidence_required_at,
        ..request()
    });
    let state = |snapshot: &AnalysisSnapshot| {
        snapshot
            .budgets
            .first()
            .and_then(|budget| budget.infeasible.clone())
    };
    let message = state(
        &running
            .wait_until("a warning", |snapshot| state(snapshot).is_some())
            .await,
    )
    .unwrap();
    assert!(
        message.starts_with("Objective availability: At 2 requests/s this objective needs "),
        "{message}"
    );
}

/// A preview has no requests, but the service that would be switched to it has.
#[tokio::test]
async fn a_switch_is_held_while_the_service_has_no_error_budget_unless_somebody_decides() {
    let prometheus = start_prometheus(&TrafficScenario::default()).await;
    let preview = |phase, freeze_lifted| AnalysisRequest {
        is_blue_green: true,
        weight: Weight::ZERO,
        phase,
        freeze_lifted,
        ..request()
    };
    let code = |snapshot: &AnalysisSnapshot| snapshot.report.hold_code();
    let cases = [
        (
            HoldCode::BudgetSpent,
            [("total300", 6e4), ("errors300", 0.0)],
        ),
        (
            HoldCode::ServiceBurning,
            [("total300", 6e4), ("errors300", 6e3)],
        ),
    ];
    for (expected, recent) in cases {
        let month = [("total", 1e6), ("errors", 2e3), ("age0", 2.6e6)];
        let hour = [("total3600", 7.2e5), ("errors3600", 7.2e4)];
        prometheus.set_service(&[&month[..], &hour[..], &recent[..]].concat());
        for phase in [ReleasePhase::Release, ReleasePhase::Preview] {
            let running = start_manager(&prometheus, at(0));
            running.manager.start_or_update(preview(phase, false));
            let held = |snapshot: &AnalysisSnapshot| code(snapshot) == Some(expected);
            let snapshot = running.wait_until("a hold", held).await;
            let message = &snapshot.report.message;
            assert!(message.starts_with("availability: "), "{message}");
            assert!(
                snapshot.report.freeze().is_some(),
                "an override can lift it"
            );
            running.manager.start_or_update(preview(phase, true));
            let lifted = |snapshot: &AnalysisSnapshot| snapshot.report.is_fresh();
            running.wait_until("a lifted freeze", lifted).await;
        }
    }
    // A canary without traffic is not held: the freeze counts when it has some.
    let running = start_manager(&prometheus, at(0));
    running.manager.start_or_update(AnalysisRequest {
        is_blue_green: false,
        ..preview(ReleasePhase::Release, false)
    });
    let known = |snapshot: &AnalysisSnapshot| state(snapshot) == "Spent";
    let snapshot = running.wait_until("a budget", known).await;
    assert_eq!(code(&snapshot), None);
}

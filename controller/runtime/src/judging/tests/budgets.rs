//! The service's error budget: told before a release and during it, and what a spent one stops.

use super::*;

/// A month with so many bad requests of a million, a thousand of which are allowed.
fn month(script: &Script, bad: f64) {
    script.set_service(&[
        ("total", 1e6),
        ("errors", bad),
        ("age0", 2.6e6),
        ("total3600", 7.2e5),
        ("total300", 6e4),
    ]);
}

fn state(look: &Look) -> &str {
    look.budgets
        .first()
        .map_or("", |budget| budget.state.as_str())
}

#[tokio::test]
async fn a_budget_is_told_while_nothing_is_released() {
    let script = script(&Story::default()).await;
    month(&script, 950.0);
    let life = live(&script, at(0));
    let idle = JudgeRequest {
        phase: Phase::Idle,
        weight: Weight::ZERO,
        ..request()
    };
    life.judges.watch(idle.clone());
    let look = life.until("a budget", |look| state(look) == "Tight").await;
    assert_eq!(
        (look.checkpoint, look.evidence.len(), life.judges.len()),
        (None, 0, 0)
    );
    assert!(
        look.budgets[0]
            .message
            .as_ref()
            .unwrap()
            .contains("5 % of the error budget remain")
    );
    // The release of the same revision again, after it was given up, is another question.
    life.judges.watch(JudgeRequest {
        phase: Phase::Release,
        ..idle
    });
    life.until("its own judge", |look| state(look) == "Tight")
        .await;
    assert_eq!(life.judges.len(), 1);
}

#[tokio::test]
async fn a_budget_is_told_before_the_canary_gets_traffic_and_while_it_has_some() {
    let script = script(&Story::default()).await;
    month(&script, 100.0);
    let life = live(&script, at(0));
    life.judges.watch(JudgeRequest {
        weight: Weight::ZERO,
        ..request()
    });
    let look = life
        .until("a budget", |look| state(look) == "Healthy")
        .await;
    assert_eq!(look.checkpoint, None);
    let life = gone_on(&script, &request(), 60).await;
    life.until("a budget", |look| {
        state(look) == "Healthy" && !look.evidence.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_spent_budget_freezes_a_release_but_never_the_cure() {
    let script = script(&Story {
        canary: (60.0, 0.0),
        stable: (240.0, 0.5),
        ..Story::default()
    })
    .await;
    month(&script, 2e3);
    let begun = begun(&script, &request()).await;
    let early = live(&script, at(4));
    early.judges.watch(JudgeRequest {
        resume_from: Some(begun.clone()),
        ..request()
    });
    let frozen = |look: &Look| matches!(&look.judgement, AnalysisReport::Frozen { cause, .. } if cause == "BudgetSpent");
    let look = early.until("a freeze", frozen).await;
    assert_eq!(state(&look), "Spent");
    assert!(
        look.budgets[0]
            .message
            .as_ref()
            .unwrap()
            .starts_with("The error budget is spent: 2,000 errors")
    );
    let later = live(&script, at(590));
    later.judges.watch(JudgeRequest {
        resume_from: Some(begun),
        ..request()
    });
    let cures = |look: &Look| match &look.judgement {
        AnalysisReport::Undecided { message, .. } | AnalysisReport::Sound { message, .. } => {
            message.contains("is the cure")
        }
        _ => false,
    };
    later.until("going on", cures).await;
}

#[tokio::test]
async fn what_the_traffic_cannot_decide_in_time_is_told_before_it_is_tried() {
    let script = script(&Story::default()).await;
    script.set_service(&[
        ("total", 5e6),
        ("errors", 2e3),
        ("age0", 2.6e6),
        ("total3600", 7_200.0),
        ("total300", 600.0),
    ]);
    let life = live(&script, at(0));
    let proven_at = Some(Weight::percent(50));
    life.judges.watch(JudgeRequest {
        phase: Phase::Idle,
        weight: Weight::ZERO,
        proven_at,
        ..request()
    });
    let told = |look: &Look| {
        look.budgets
            .first()
            .and_then(|budget| budget.infeasible.clone())
    };
    let why = told(&life.until("a warning", |look| told(look).is_some()).await).unwrap();
    assert!(
        why.starts_with("Objective availability: At 2 requests/s this objective needs "),
        "{why}"
    );
}

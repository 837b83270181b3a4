//! What is decided, and what is said.

use super::*;

#[tokio::test]
async fn a_bad_canary_is_rolled_back_and_the_message_says_why_in_counts() {
    let script = script(&Story {
        canary: (60.0, 1.8),
        ..Story::default()
    })
    .await;
    let life = gone_on(&script, &request(), 120).await;
    let look = life
        .until("a rollback", |look| {
            matches!(look.judgement, AnalysisReport::RollBack { .. })
        })
        .await;
    let AnalysisReport::RollBack { cause, message } = &look.judgement else {
        panic!()
    };
    assert_eq!(cause, "Evidence");
    assert!(
        message.starts_with("Rolled back at 20 %: the canary failed "),
        "{message}"
    );
    assert!(message.contains("at most 1 time in 100"), "{message}");
    let evidence = &look.evidence[0];
    assert!(
        evidence.canary.errors > 100.0 && evidence.e_value.unwrap() >= 100.0,
        "{evidence:?}"
    );
    assert!(look.summary.unwrap().starts_with("E "));
}

#[tokio::test]
async fn a_rollback_stands_even_when_the_canary_recovers() {
    let script = script(&Story {
        canary: (60.0, 1.8),
        ..Story::default()
    })
    .await;
    let life = gone_on(&script, &request(), 120).await;
    let look = life
        .until("a rollback", |look| {
            matches!(look.judgement, AnalysisReport::RollBack { .. })
        })
        .await;
    script.set_mode(Mode::Warns);
    let again = live(&script, at(300));
    again.judges.watch(JudgeRequest {
        resume_from: look.checkpoint,
        ..request()
    });
    again
        .until("the same rollback", |again| {
            again.judgement == look.judgement
        })
        .await;
}

#[tokio::test]
async fn a_good_canary_is_sound_once_the_evidence_suffices() {
    let script = script(&Story {
        until_seconds: 5_000,
        canary: (600.0, 0.0),
        stable: (600.0, 0.3),
        ..Story::default()
    })
    .await;
    script.set_service(&[
        ("total", 1e9),
        ("errors", 2e5),
        ("age0", 2.6e6),
        ("total3600", 4e6),
        ("total300", 4e5),
    ]);
    let request = JudgeRequest {
        weight: Weight::percent(50),
        ..request()
    };
    let life = gone_on(&script, &request, 600).await;
    let look = life
        .until("sound", |look| {
            matches!(look.judgement, AnalysisReport::Sound { .. })
        })
        .await;
    let evidence = &look.evidence[0];
    assert!(evidence.upper.unwrap() < 0.000_5, "{evidence:?}");
    assert!(
        (evidence.budget_allotment.unwrap() - 2e4).abs() < 1e-6,
        "{evidence:?}"
    );
    assert!(look.summary.unwrap().starts_with("budget 0 % · E 0"));
}

#[tokio::test]
async fn a_spent_budget_freezes_until_that_is_lifted_and_a_spent_allotment_takes_the_traffic_off() {
    let script = script(&Story {
        canary: (60.0, 0.01),
        stable: (240.0, 0.0),
        ..Story::default()
    })
    .await;
    script.set_service(&[("total", 1e6), ("errors", 2e3), ("age0", 2.6e6)]);
    let life = gone_on(&script, &request(), 200).await;
    let frozen = |look: &Look| matches!(&look.judgement, AnalysisReport::Frozen { cause, .. } if cause == "BudgetSpent");
    let checkpoint = life.until("a freeze", frozen).await.checkpoint;
    // A person's word lets it go on, at once and after a restart.
    let lifted = JudgeRequest {
        freeze_lifted: true,
        resume_from: checkpoint,
        ..request()
    };
    life.judges.watch(lifted.clone());
    let goes_on = |look: &Look| {
        matches!(look.judgement, AnalysisReport::Undecided { .. }) && look.checkpoint.is_some()
    };
    life.until("going on", goes_on).await;
    let again = live(&script, at(210));
    again.judges.watch(lifted);
    again.until("going on after a restart", goes_on).await;
    // 2 % of what 100,000 requests allow is an allotment of two errors, which the canary has had.
    script.set_service(&[("total", 1e5), ("errors", 10.0), ("age0", 2.6e6)]);
    let life = gone_on(&script, &request(), 200).await;
    let message = life.held_for("BudgetLeft").await;
    assert!(
        message.contains("Progressing down from 20 % to 0 %"),
        "{message}"
    );
    // Off the traffic it stays there: back on it, it would only be taken off again.
    let lowered = |look: &Look| {
        matches!(
            &look.judgement,
            AnalysisReport::Hold {
                lower_to: Some(Weight::ZERO),
                ..
            }
        )
    };
    let Look {
        judgement: at_20,
        checkpoint,
        ..
    } = life.until("a step down", lowered).await;
    life.judges.watch(JudgeRequest {
        weight: Weight::ZERO,
        ..request()
    });
    life.until("held", |look| lowered(look) && look.judgement != at_20)
        .await;
    let again = live(&script, at(210));
    again.judges.watch(JudgeRequest {
        weight: Weight::ZERO,
        resume_from: checkpoint,
        ..request()
    });
    again.until("held after a restart", lowered).await;
}

#[tokio::test]
async fn the_pace_of_evidence_names_the_next_weight() {
    let script = script(&Story {
        until_seconds: 5_000,
        canary: (60.0, 0.0),
        stable: (1_140.0, 0.3),
        ..Story::default()
    })
    .await;
    let pace = EvidencePace {
        first_weight: Weight::percent(5),
        max_weight: Weight::percent(50),
    };
    let request = JudgeRequest {
        weight: Weight::percent(5),
        pace: Some(pace),
        ..request()
    };
    let life = gone_on(&script, &request, 200).await;
    let stepped = |look: &Look| matches!(&look.judgement, AnalysisReport::Undecided { next_weight: Some(next), .. } if *next == Weight::percent(20));
    life.until("a step", stepped).await;
}

#[tokio::test]
async fn the_first_polls_that_see_the_completing_sample_decide() {
    let story = Story {
        canary: (60.0, 12.0),
        bad_from_seconds: 103,
        ..Story::default()
    };
    let script = script(&story).await;
    let resume_from = Some(begun(&script, &request()).await);
    let life = live(&script, at(102));
    life.judges.watch(JudgeRequest {
        resume_from,
        ..request()
    });
    let look = life
        .until("a rollback", |look| {
            matches!(look.judgement, AnalysisReport::RollBack { .. })
        })
        .await;
    let decided_ms = life.judges.inner.bench.clock.now().as_millisecond();
    let completed_ms = round_at(look.checkpoint.as_ref());
    // Polls are four a second here: two of them, of two queries each, are half a second of an idle
    // machine.
    let polled = script
        .asked()
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

//! Checks and the watch, from the queries that Prometheus gets to what the judge says.

use super::*;

const QUERY: &str = "max(queue_length{queue=\"orders\",pod=~\"checkout-bbb-.*\"})";

/// A release with an objective and the check `queue`, asked every second.
fn checked(check: &Value) -> JudgeRequest {
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
    JudgeRequest {
        analysis: serde_json::from_value(analysis).unwrap(),
        ..request()
    }
}

fn result(look: &Look) -> &str {
    look.checks
        .first()
        .map_or("", |check| check.result.as_str())
}

#[tokio::test]
async fn a_check_is_asked_with_its_arguments_and_rolls_back_past_its_limit() {
    let script = script(&Story::default()).await;
    script.set_values(QUERY, &[12.0]);
    let life = gone_on(&script, &checked(&json!({"failureLimit": 1})), 60).await;
    let succeeded = |look: &Look| match &look.judgement {
        AnalysisReport::Undecided { satisfied, .. } => {
            satisfied.requirements.checks.contains("queue")
        }
        _ => false,
    };
    let look = life.until("a success", succeeded).await;
    assert_eq!((result(&look), look.checks[0].failures), ("Succeeded", 0));
    script.set_values(QUERY, &[120.0]);
    let look = life
        .until("a rollback", |look| {
            matches!(look.judgement, AnalysisReport::RollBack { .. })
        })
        .await;
    let AnalysisReport::RollBack { cause, message } = &look.judgement else {
        panic!()
    };
    assert_eq!(cause, "Check");
    assert!(
        message.contains("queue has failed 2 times") && message.contains("found 120"),
        "{message}"
    );
    assert_eq!((result(&look), look.checks[0].failures), ("Failed", 2));
}

#[tokio::test]
async fn a_check_that_finds_nothing_or_cannot_be_asked_holds_the_release() {
    let script = script(&Story::default()).await;
    script.set_values(QUERY, &[]);
    let life = gone_on(&script, &checked(&json!({})), 60).await;
    let message = life.held_for("CheckEmpty").await;
    assert!(
        message.contains("Check queue found nothing. This is not success."),
        "{message}"
    );
    script.set_values(QUERY, &[f64::NAN]);
    life.held_for("CheckNotANumber").await;
    script.set_values(QUERY, &[12.0]);
    life.until("going on", |look| {
        matches!(look.judgement, AnalysisReport::Undecided { .. })
    })
    .await;
}

#[tokio::test]
async fn a_dry_run_fails_and_decides_nothing() {
    let script = script(&Story::default()).await;
    script.set_values(QUERY, &[120.0]);
    let life = gone_on(&script, &checked(&json!({"dryRun": true})), 60).await;
    let failed = |look: &Look| {
        look.checks
            .first()
            .is_some_and(|check| check.failures >= 2 && check.dry_run)
    };
    life.until("two failures", failed).await;
    life.until("going on", |look| {
        failed(look) && matches!(look.judgement, AnalysisReport::Undecided { .. })
    })
    .await;
}

#[tokio::test]
async fn a_check_after_promotion_is_asked_then_and_not_before() {
    let script = script(&Story::default()).await;
    script.set_values(QUERY, &[120.0]);
    let request = checked(&json!({"phase": "bake"}));
    let life = gone_on(&script, &request, 60).await;
    let looked = life
        .until("the evidence", |look| !look.evidence.is_empty())
        .await;
    assert_eq!(result(&looked), "Pending");
    life.judges.watch(JudgeRequest {
        weight: Weight::FULL,
        phase: Phase::AfterPromotion,
        ..request
    });
    life.until(
        "a rollback",
        |look| matches!(&look.judgement, AnalysisReport::RollBack { cause, .. } if cause == "Check"),
    )
    .await;
}

#[tokio::test]
async fn a_canary_that_fails_in_the_watch_is_rolled_back_against_what_stable_failed() {
    let story = Story {
        canary: (300.0, 9.0),
        bad_from_seconds: 200,
        until_seconds: 400,
        ..Story::default()
    };
    let script = script(&story).await;
    script.set_values(QUERY, &[12.0]);
    let request = checked(&json!({"dryRun": true}));
    let life = gone_on(&script, &request, 190).await;
    let checkpoint = Some(life.judged_until(180).await);
    let watched = JudgeRequest {
        weight: Weight::FULL,
        phase: Phase::AfterPromotion,
        ..request
    };
    life.judges.watch(watched.clone());
    let begun = |look: &Look| {
        look.checkpoint
            .as_ref()
            .is_some_and(|at| at.checkpoint["phase"][0] == "bake")
    };
    let begun = life.until("the watch", begun).await.checkpoint;
    assert_ne!(begun, checkpoint);
    let life = live(&script, at(300));
    life.judges.watch(JudgeRequest {
        resume_from: begun,
        ..watched
    });
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
        message.starts_with("Rolled back from 100 %: since it has all of the traffic"),
        "{message}"
    );
    assert!(
        message.contains("no stable side is left to compare with"),
        "{message}"
    );
}

// argo-rollouts #3258, PR #4864
#[tokio::test]
async fn a_check_without_objectives_is_asked_once_its_initial_delay_has_passed() {
    let script = script(&Story::default()).await;
    script.set_values(QUERY, &[12.0]);
    let mut request = checked(&json!({"initialDelay": "2s"}));
    request.analysis.objectives.clear();
    request.analysis.warm_up = Some("1s".into());
    let life = live(&script, start());
    life.judges.watch(request);
    let look = life
        .until("the beginning", |look| !look.checks.is_empty())
        .await;
    assert!(
        matches!(look.judgement, AnalysisReport::Undecided { .. }),
        "{:?}",
        look.judgement
    );
    let message = look.checks[0].message.clone().unwrap();
    assert!(
        message.starts_with("Begins at ") && message.ends_with(", by initialDelay."),
        "{message}"
    );
    let look = life
        .until("a success", |look| {
            matches!(look.judgement, AnalysisReport::Sound { .. })
        })
        .await;
    assert_eq!(result(&look), "Succeeded");
}

#[tokio::test]
async fn failures_of_an_aborted_attempt_do_not_count_against_a_retry() {
    let script = script(&Story::default()).await;
    script.set_values(QUERY, &[120.0]);
    let request = checked(&json!({}));
    let life = gone_on(&script, &request, 60).await;
    life.until(
        "a rollback",
        |look| matches!(&look.judgement, AnalysisReport::RollBack { cause, .. } if cause == "Check"),
    )
    .await;
    let resume_from = life.look().checkpoint;
    script.set_values(QUERY, &[12.0]);
    // An abort and a retry in one reconcile: the task never sees that the release was over in
    // between.
    life.judges.watch(JudgeRequest {
        previous_ended_at: Some(at(61)),
        resume_from,
        ..request
    });
    let begun = |look: &Look| {
        look.checkpoint
            .as_ref()
            .is_some_and(|at| at.checkpoint["previousEndedSecond"] != json!(0))
    };
    let look = life.until("another attempt", begun).await;
    assert!(
        matches!(look.judgement, AnalysisReport::Undecided { .. }),
        "{:?}",
        look.judgement
    );
    assert_eq!(look.checks[0].failures, 0);
    let ticks = objective(&look.checkpoint.unwrap())["evidence"]["ticks"]
        .as_u64()
        .unwrap();
    assert!(
        ticks < 30,
        "the {ticks} ticks of this attempt, without the 60 before it"
    );
}

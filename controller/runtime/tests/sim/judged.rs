//! What the metrics say, from the judge to the route and the status.

use std::collections::BTreeSet;

use serde_json::json;
use serin_core::observed::{AnalysisReport, SatisfiedRequirements};
use serin_core::plan::Requirements;
use serin_core::units::Weight;
use serin_crds::status::{AnalysisStatus, BudgetStatus, CheckStatus};
use serin_fake_cluster::World;
use serin_metrics_analysis::{Look, Phase};

use crate::stage::*;

/// A release of v2 that an objective and the check `queue` judge, at its first step.
async fn released(world: &World, steps: serde_json::Value, watch: Option<&str>) -> Running {
    with_route(world, "checkout");
    let running = start(world, "serin");
    let rollout = |version: &str| {
        let mut rollout = judged("checkout", version, 4, steps.clone());
        rollout["spec"]["analysis"]["checks"] = json!([{"name": "queue", "query": "max(queue_length)", "condition": "result[0] < 100"}]);
        if let Some(watch) = watch {
            rollout["spec"]["analysis"]["bakeTime"] = json!(watch);
        }
        rollout
    };
    apply(world, rollout("v1"));
    healthy(world, "checkout", "v1").await;
    apply(world, rollout("v2"));
    running
}

/// Undecided, with the check's answer at this weight.
fn with_check(world: &World, weight: Weight, result: &str, message: &str) -> Look {
    let succeeded = (result == "Succeeded").then(|| "queue".to_owned());
    let answers = Requirements {
        checks: succeeded.into_iter().collect(),
        objectives: BTreeSet::new(),
    };
    let check = CheckStatus {
        name: "queue".into(),
        result: result.into(),
        at: Some(world.now()),
        message: Some(message.into()),
        ..CheckStatus::default()
    };
    let judgement = AnalysisReport::Undecided {
        message: "undecided".into(),
        fresh_since: world.now(),
        next_weight: None,
        satisfied: SatisfiedRequirements {
            weight,
            requirements: answers,
        },
    };
    Look {
        checks: vec![check],
        ..Look::of(judgement)
    }
}

/// Waits for an Event with this reason.
async fn is_told(world: &World, reason: &str) {
    let told = world
        .until(
            |world| events(world, "checkout").iter().any(|told| told == reason),
            MINUTE,
        )
        .await;
    assert!(
        told.is_ok(),
        "no Event {reason}: {:?}",
        events(world, "checkout")
    );
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_runs_low_takes_traffic_off_the_canary_and_gives_none_back() {
    let world = World::new(41);
    let running = released(
        &world,
        json!([{"setWeight": 20}, {"setWeight": 50}, {"pause": {}}]),
        None,
    )
    .await;
    reaches(&world, "checkout", "Paused/Progressing/2").await;
    let vigil = Vigil::over(&world, "checkout");
    let message = "This rollout has used 95 of its 100 allotted errors (95 %). Progressing down from 50 % to 5 %.";
    let low = |to: u32| AnalysisReport::Hold {
        cause: "BudgetLeft".into(),
        message: message.into(),
        lower_to: Some(Weight::percent(to)),
    };
    running.judge.say("checkout", low(5));
    world
        .until(
            |world| weights(world, "checkout") == (Some(95), Some(5)),
            MINUTE,
        )
        .await
        .unwrap();
    world
        .until(
            |world| status(world, "checkout").weights.unwrap().verified == Some(5.0),
            MINUTE,
        )
        .await
        .unwrap();
    let told = status(&world, "checkout").weights.unwrap();
    assert_eq!((told.desired, told.cap), (5.0, Some(5.0)));
    is_told(&world, "SteppedDown").await;
    let (ready, ..) = condition(&world, "checkout", "MetricsReady").unwrap();
    assert_eq!(ready, "True", "nothing is wrong with the metrics");
    running.judge.say("checkout", low(0));
    world
        .until(
            |world| {
                weights(world, "checkout")
                    .1
                    .is_none_or(|weight| weight == 0)
            },
            MINUTE,
        )
        .await
        .unwrap();
    world
        .holds(
            |world| {
                weights(world, "checkout")
                    .1
                    .is_none_or(|weight| weight == 0)
            },
            5 * MINUTE,
        )
        .await
        .unwrap();
    vigil.ends_well().await;
}

#[tokio::test(start_paused = true)]
async fn a_check_is_told_and_promotes_no_release_before_it_has_succeeded() {
    let world = World::new(42);
    let running = released(
        &world,
        json!([{"setWeight": 20}, {"pause": {"duration": "5s"}}]),
        None,
    )
    .await;
    running.judge.show(
        "checkout",
        with_check(
            &world,
            Weight::percent(20),
            "Inconclusive",
            "Found nothing.",
        ),
    );
    reaches(&world, "checkout", "Progressing/Progressing/2").await;
    world.pass(5 * MINUTE).await;
    assert_eq!(position(&world, "checkout"), "Progressing/Progressing/2");
    let told = status(&world, "checkout");
    assert_eq!(told.checks[0].result, "Inconclusive");
    assert!(told.message.unwrap().contains("waiting for check queue"));
    assert_eq!(
        running.judge.asked("checkout").unwrap().phase,
        Phase::BeforePromotion
    );
    running.judge.show(
        "checkout",
        with_check(&world, Weight::percent(20), "Succeeded", "Found 12."),
    );
    healthy(&world, "checkout", "v2").await;
}

#[tokio::test(start_paused = true)]
async fn a_check_that_fails_too_often_ends_the_release_with_its_sentence() {
    let world = World::new(43);
    let running = released(&world, json!([{"setWeight": 20}, {"pause": {}}]), None).await;
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    let message = "Check queue has failed 1 times, and may 0 times: it found 120.";
    let failed = with_check(
        &world,
        Weight::percent(20),
        "Failed",
        "Found 120; it must be result[0] < 100.",
    );
    let breach = AnalysisReport::RollBack {
        cause: "Check".into(),
        message: message.into(),
    };
    running.judge.show(
        "checkout",
        Look {
            judgement: breach,
            ..failed
        },
    );
    world
        .until(|world| weights(world, "checkout").1.is_none(), SECOND)
        .await
        .unwrap();
    reaches(&world, "checkout", "Degraded/Aborted").await;
    let told = status(&world, "checkout");
    let abort = told.abort.unwrap();
    assert_eq!(
        (abort.cause.as_str(), abort.message.as_str()),
        ("Check", message)
    );
    assert_eq!(
        told.checks[0].result, "Failed",
        "what it found stays for people to read"
    );
    is_told(&world, "RolledBack").await;
}

#[tokio::test(start_paused = true)]
async fn a_watched_release_becomes_stable_after_the_watch_or_goes_back() {
    for breaks in [false, true] {
        let world = World::new(44);
        let running = released(
            &world,
            json!([{"setWeight": 20}, {"pause": {"duration": "5s"}}]),
            Some("10m"),
        )
        .await;
        running.judge.show(
            "checkout",
            with_check(&world, Weight::percent(20), "Succeeded", "Found 12."),
        );
        let vigil = Vigil::over(&world, "checkout");
        world
            .until(
                |world| status(world, "checkout").bake.is_some(),
                10 * MINUTE,
            )
            .await
            .unwrap();
        assert_eq!(weights(&world, "checkout").1, Some(100));
        is_told(&world, "Watching").await;
        world.pass(9 * MINUTE).await;
        assert_eq!(
            sizes(&world, "checkout"),
            [("v1".into(), 4), ("v2".into(), 4)].into(),
            "the way back is open"
        );
        assert_eq!(
            running.judge.asked("checkout").unwrap().phase,
            Phase::AfterPromotion
        );
        if breaks {
            let message = "the canary failed 31 of 1,000 requests".to_owned();
            running.judge.say(
                "checkout",
                AnalysisReport::RollBack {
                    cause: "Evidence".into(),
                    message,
                },
            );
            world
                .until(|world| weights(world, "checkout").1.is_none(), SECOND)
                .await
                .unwrap();
            reaches(&world, "checkout", "Degraded/Aborted").await;
        } else {
            healthy(&world, "checkout", "v2").await;
        }
        vigil.ends_well().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_told_before_a_release_and_during_it() {
    let world = World::new(45);
    with_route(&world, "checkout");
    let running = start(&world, "serin");
    let steps = || json!([{"setWeight": 20}, {"analysis": {}}]);
    apply(&world, judged("checkout", "v1", 4, steps()));
    healthy(&world, "checkout", "v1").await;
    let asked = running.judge.asked("checkout").unwrap();
    assert_eq!(
        (asked.phase, asked.weight, asked.proven_at),
        (Phase::Idle, Weight::ZERO, Some(Weight::percent(20)))
    );
    let slow = "Objective availability: At 2 requests/s this objective needs 9.2 days; choose 99 % or a longer duration.";
    let tight = || BudgetStatus {
        objective: "availability".into(),
        state: "Tight".into(),
        infeasible: Some(slow.into()),
        ..BudgetStatus::default()
    };
    let undecided = with_check(&world, Weight::ZERO, "Pending", "").judgement;
    let look = Look {
        budgets: vec![tight()],
        ..Look::of(undecided)
    };
    running.judge.show("checkout", look.clone());
    is_told(&world, "NotFeasible").await;
    world
        .until(
            |world| !status(world, "checkout").budgets.is_empty(),
            MINUTE,
        )
        .await
        .unwrap();
    assert_eq!(status(&world, "checkout").budgets, [tight()]);
    let (feasible, reason, message) = condition(&world, "checkout", "Feasible").unwrap();
    assert_eq!(
        (feasible.as_str(), reason.as_str(), message.as_str()),
        ("False", "NotFeasible", slow)
    );
    assert!(
        is_healthy(&world, "checkout", "v1"),
        "a warning is no trouble of what runs"
    );
    // What is known stays while the release's own judge begins.
    running.judge.show(
        "checkout",
        Look {
            budgets: Vec::new(),
            ..look
        },
    );
    apply(&world, judged("checkout", "v2", 4, steps()));
    reaches(&world, "checkout", "Progressing/Progressing/1").await;
    assert_eq!(status(&world, "checkout").budgets, [tight()]);
    let told = events(&world, "checkout")
        .into_iter()
        .filter(|reason| reason == "NotFeasible")
        .count();
    assert_eq!(told, 1, "it is told once");
}

#[tokio::test(start_paused = true)]
async fn a_second_attempt_is_judged_by_its_own_evidence() {
    let world = World::new(46);
    let running = released(&world, json!([{"setWeight": 20}, {"pause": {}}]), None).await;
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    let revision = status(&world, "checkout").current_revision.unwrap();
    let checkpoint = Some(AnalysisStatus {
        revision,
        started_at: world.now(),
        checkpoint: json!({"decided": true}),
    });
    let breach = AnalysisReport::RollBack {
        cause: "Evidence".into(),
        message: "31 of 1,000 requests failed".into(),
    };
    running.judge.show(
        "checkout",
        Look {
            checkpoint,
            ..Look::of(breach)
        },
    );
    reaches(&world, "checkout", "Degraded/Aborted").await;
    running.judge.show(
        "checkout",
        with_check(&world, Weight::percent(20), "Succeeded", "Found 12."),
    );
    command(&world, "again", "checkout", "retry");
    assert_eq!(outcome(&world, "again").await.0, "Done");
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    assert_eq!(running.judge.asked("checkout").unwrap().resume_from, None);
}

#[tokio::test(start_paused = true)]
async fn evidence_does_not_count_against_a_retry_in_the_same_reconcile_as_the_abort() {
    let world = World::new(47);
    let running = released(&world, json!([{"setWeight": 20}, {"pause": {}}]), None).await;
    reaches(&world, "checkout", "Paused/Progressing/1").await;
    let revision = status(&world, "checkout").current_revision.unwrap();
    let checkpoint = Some(AnalysisStatus {
        revision,
        started_at: world.now(),
        checkpoint: json!({"decided": false}),
    });
    let look = Look {
        checkpoint,
        ..with_check(&world, Weight::percent(20), "Failed", "Found 120.")
    };
    running.judge.show("checkout", look);
    let stored = |world: &World| {
        status(world, "checkout")
            .analysis
            .is_some_and(|of| of.checkpoint != json!({}))
    };
    world.until(stored, MINUTE).await.unwrap();
    let before = running.judge.asked("checkout").unwrap().previous_ended_at;
    running.judge.show(
        "checkout",
        with_check(&world, Weight::percent(20), "Pending", "Not yet asked."),
    );
    command(&world, "stop", "checkout", "abort");
    command(&world, "stop-again", "checkout", "retry");
    assert_eq!(outcome(&world, "stop").await.0, "Done");
    assert_eq!(outcome(&world, "stop-again").await.0, "Done");
    let is_another = |_: &World| {
        running
            .judge
            .asked("checkout")
            .is_some_and(|asked| asked.previous_ended_at != before)
    };
    assert!(
        world.until(is_another, MINUTE).await.is_ok(),
        "it is another attempt"
    );
    assert_eq!(running.judge.asked("checkout").unwrap().resume_from, None);
}

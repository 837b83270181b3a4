//! What people ask for.

use serde_json::json;
use serin_core::observed::AnalysisReport;
use serin_crds::RolloutCommand;
use serin_fake_cluster::{Fault, World};

use crate::stage::*;

async fn paused_at_20(world: &World) -> Running {
    with_route(world, "checkout");
    let running = start(world, "serin");
    let steps = || json!([{"setWeight": 20}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}]);
    apply(world, routed("checkout", "v1", 4, steps()));
    healthy(world, "checkout", "v1").await;
    apply(world, routed("checkout", "v2", 4, steps()));
    reaches(world, "checkout", "Paused/Progressing/1").await;
    running
}

#[tokio::test(start_paused = true)]
async fn promote_goes_on_from_the_pause_and_no_further() {
    let world = World::new(11);
    let _running = paused_at_20(&world).await;
    command(&world, "go", "checkout", "promote");
    let (result, message) = outcome(&world, "go").await;
    assert_eq!(result, "Done", "{message}");
    reaches(&world, "checkout", "Paused/Progressing/3").await;
    world
        .holds(
            |world| position(world, "checkout") == "Paused/Progressing/3",
            MINUTE,
        )
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn abort_is_quick_and_told() {
    let world = World::new(12);
    let _running = paused_at_20(&world).await;
    let vigil = Vigil::over(&world, "checkout");
    let asked = world.now();
    command(&world, "stop", "checkout", "abort");
    world
        .until(|world| weights(world, "checkout").1.is_none(), SECOND)
        .await
        .unwrap();
    assert!(world.now().duration_since(asked).as_millis() < 150);
    assert_eq!(outcome(&world, "stop").await.0, "Done");
    assert_eq!(status(&world, "checkout").abort.unwrap().cause, "Command");
    vigil.ends_well().await;
}

#[tokio::test(start_paused = true)]
async fn abort_works_while_the_spec_cannot_be_used() {
    let world = World::new(13);
    let _running = paused_at_20(&world).await;
    let broken = |replicas: serde_json::Value| {
        let mut rollout = routed(
            "checkout",
            "v2",
            4,
            json!([{"setWeight": 20}, {"pause": {}}]),
        );
        rollout["spec"]["replicas"] = replicas;
        rollout
    };
    // Not even readable as a Rollout: the CRD would refuse it, but a CRD can be changed.
    apply(&world, broken(json!("many")));
    world
        .until(
            |world| {
                condition(world, "checkout", "InvalidSpec")
                    .is_some_and(|(holds, ..)| holds == "True")
            },
            MINUTE,
        )
        .await
        .unwrap();
    assert_eq!(
        weights(&world, "checkout"),
        (Some(80), Some(20)),
        "what is in force goes on"
    );
    command(&world, "stop", "checkout", "abort");
    assert_eq!(outcome(&world, "stop").await.0, "Done");
    world
        .until(|world| weights(world, "checkout").1.is_none(), SECOND)
        .await
        .unwrap();
    world.pass(MINUTE).await;
    assert_eq!(
        sizes(&world, "checkout"),
        [("v1".into(), 4), ("v2".into(), 0)].into()
    );
}

#[tokio::test(start_paused = true)]
async fn a_command_for_another_revision_is_refused_with_the_reason() {
    let world = World::new(14);
    let _running = paused_at_20(&world).await;
    apply(
        &world,
        json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "RolloutCommand", "metadata": {"name": "old", "namespace": SHOP},
            "spec": {"rolloutRef": {"name": "checkout"}, "verb": "promote", "preconditions": {"revision": "another"}},
        }),
    );
    let (result, message) = outcome(&world, "old").await;
    assert_eq!(result, "Refused");
    assert!(message.contains("another"), "{message}");
    assert_eq!(position(&world, "checkout"), "Paused/Progressing/1");
}

/// Found by chance: the sweep ran before the Rollouts were listed, and refused a command that had
/// waited for a controller.
#[tokio::test(start_paused = true)]
async fn a_command_that_waited_for_a_controller_is_carried_out() {
    let world = World::new(16);
    let running = paused_at_20(&world).await;
    running.stop().await;
    command(&world, "stop", "checkout", "abort");
    world.pass(MINUTE).await;
    world.inject(Fault::on("list", "rollouts").delayed(5 * SECOND));
    let _running = start(&world, "another");
    let (result, message) = outcome(&world, "stop").await;
    assert_eq!(result, "Done", "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_command_that_nobody_can_carry_out_is_refused_and_all_go_after_an_hour() {
    let world = World::new(15);
    let _running = paused_at_20(&world).await;
    command(&world, "nobody", "no-such-rollout", "promote");
    let (result, message) = outcome(&world, "nobody").await;
    assert_eq!(result, "Refused");
    assert!(message.contains("no-such-rollout"), "{message}");
    command(&world, "stop", "checkout", "abort");
    assert_eq!(outcome(&world, "stop").await.0, "Done");
    world.pass(55 * MINUTE).await;
    assert_eq!(world.objects::<RolloutCommand>().len(), 2);
    world
        .until(
            |world| world.objects::<RolloutCommand>().is_empty(),
            10 * MINUTE,
        )
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_freeze_is_told_and_lifted_and_the_judge_hears_of_it() {
    let world = World::new(17);
    with_route(&world, "checkout");
    let running = start(&world, "serin");
    let steps = || json!([{"setWeight": 20}, {"setWeight": 50}, {"pause": {}}]);
    apply(&world, judged("checkout", "v1", 4, steps()));
    healthy(&world, "checkout", "v1").await;
    running.judge.say(
        "checkout",
        AnalysisReport::Frozen {
            cause: "BudgetSpent".into(),
            message: "nothing to spend".into(),
        },
    );
    apply(&world, judged("checkout", "v2", 4, steps()));
    let told = |world: &World| {
        condition(world, "checkout", "Frozen")
            .is_some_and(|(holds, reason, _)| holds == "True" && reason == "BudgetSpent")
    };
    world.until(told, MINUTE).await.unwrap();
    assert!(!running.judge.asked("checkout").unwrap().freeze_lifted);
    command(&world, "go", "checkout", "override");
    let (result, message) = outcome(&world, "go").await;
    assert_eq!(result, "Done", "{message}");
    let lifted = status(&world, "checkout").freeze_override.unwrap();
    assert_eq!(lifted.reason, "a test asks for it");
    world.pass(SECOND).await;
    assert!(events(&world, "checkout").contains(&"FreezeLifted".to_owned()));
    assert!(running.judge.asked("checkout").unwrap().freeze_lifted);
    let (holds, reason, _) = condition(&world, "checkout", "Frozen").unwrap();
    assert_eq!((holds.as_str(), reason.as_str()), ("False", "Overridden"));
}

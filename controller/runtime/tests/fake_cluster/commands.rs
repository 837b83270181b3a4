//! RolloutCommands.

use serde_json::json;
use serin_core::hold::Hold;
use serin_core::hold::HoldCode;
use serin_core::observed::AnalysisReport;
use serin_core::state::{AbortCause, Stage};
use serin_crds::RolloutCommand;
use serin_crds::command::{CommandResult, CommandVerb};
use serin_fake_cluster::{FakeCluster, Fault};

use crate::fixtures::*;
use crate::harness::*;

async fn pause_at_20_percent(cluster: &FakeCluster) -> RunningController {
    create_route(cluster, "checkout");
    let running = start_controller(cluster, "serin");
    let steps = || json!([{"setWeight": 20}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}]);
    apply(cluster, routed_rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(cluster, "checkout", "v1").await;
    apply(cluster, routed_rollout("checkout", "v2", 4, steps()));
    wait_for_position(cluster, "checkout", "Paused/Progressing/1").await;
    running
}

#[tokio::test(start_paused = true)]
async fn promote_continues_to_the_next_pause() {
    let cluster = FakeCluster::new(11);
    let _running = pause_at_20_percent(&cluster).await;
    create_command(&cluster, "go", "checkout", "promote");
    let (result, message) = command_outcome(&cluster, "go").await;
    assert_eq!(result, "Done", "{message}");
    wait_for_position(&cluster, "checkout", "Paused/Progressing/3").await;
    cluster
        .holds_for(
            |cluster| position(cluster, "checkout") == "Paused/Progressing/3",
            MINUTE,
        )
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn abort_is_fast_and_reported() {
    let cluster = FakeCluster::new(12);
    let _running = pause_at_20_percent(&cluster).await;
    let monitor = TrafficMonitor::start(&cluster, "checkout");
    let requested_at = cluster.now();
    create_command(&cluster, "stop", "checkout", "abort");
    cluster
        .wait_until(
            |cluster| route_weights(cluster, "checkout").1.is_none(),
            SECOND,
        )
        .await
        .unwrap();
    assert!(cluster.now().duration_since(requested_at).as_millis() < 150);
    assert_eq!(command_outcome(&cluster, "stop").await.0, "Done");
    assert_eq!(
        status(&cluster, "checkout").state.abort.unwrap().cause,
        AbortCause::Command
    );
    monitor.finish().await;
}

#[tokio::test(start_paused = true)]
async fn abort_works_while_the_spec_is_invalid() {
    let cluster = FakeCluster::new(13);
    let _running = pause_at_20_percent(&cluster).await;
    let broken = |replicas: serde_json::Value| {
        let mut rollout = routed_rollout(
            "checkout",
            "v2",
            4,
            json!([{"setWeight": 20}, {"pause": {}}]),
        );
        rollout["spec"]["replicas"] = replicas;
        rollout
    };
    // Cannot be decoded as a Rollout. The CRD would reject it, but a CRD can be changed.
    apply(&cluster, broken(json!("many")));
    cluster
        .wait_until(
            |cluster| {
                condition(cluster, "checkout", "InvalidSpec")
                    .is_some_and(|(holds, ..)| holds == "True")
            },
            MINUTE,
        )
        .await
        .unwrap();
    assert_eq!(
        route_weights(&cluster, "checkout"),
        (Some(80), Some(20)),
        "the active plan continues"
    );
    create_command(&cluster, "stop", "checkout", "abort");
    assert_eq!(command_outcome(&cluster, "stop").await.0, "Done");
    cluster
        .wait_until(
            |cluster| route_weights(cluster, "checkout").1.is_none(),
            SECOND,
        )
        .await
        .unwrap();
    cluster.sleep(MINUTE).await;
    assert_eq!(
        replicas_by_version(&cluster, "checkout"),
        [("v1".into(), 4), ("v2".into(), 0)].into()
    );
}

#[tokio::test(start_paused = true)]
async fn a_command_for_another_revision_is_refused_with_a_reason() {
    let cluster = FakeCluster::new(14);
    let _running = pause_at_20_percent(&cluster).await;
    apply(
        &cluster,
        json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "RolloutCommand", "metadata": {"name": "old", "namespace": SHOP},
            "spec": {"rolloutRef": {"name": "checkout"}, "verb": "promote", "preconditions": {"revision": "another"}},
        }),
    );
    let (result, message) = command_outcome(&cluster, "old").await;
    assert_eq!(result, "Refused");
    assert!(message.contains("another"), "{message}");
    assert_eq!(position(&cluster, "checkout"), "Paused/Progressing/1");
}

/// Regression test: the cleanup of commands ran before the Rollouts were listed, and refused a
/// command that was created while no controller ran.
#[tokio::test(start_paused = true)]
async fn a_command_created_without_a_controller_is_executed_later() {
    let cluster = FakeCluster::new(16);
    let running = pause_at_20_percent(&cluster).await;
    running.stop().await;
    create_command(&cluster, "stop", "checkout", "abort");
    cluster.sleep(MINUTE).await;
    cluster.inject(Fault::on("list", "rollouts").delayed(5 * SECOND));
    let _running = start_controller(&cluster, "another");
    let (result, message) = command_outcome(&cluster, "stop").await;
    assert_eq!(result, "Done", "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_command_for_a_missing_rollout_is_refused_and_all_commands_are_deleted_after_an_hour() {
    let cluster = FakeCluster::new(15);
    let _running = pause_at_20_percent(&cluster).await;
    create_command(&cluster, "missing-rollout", "no-such-rollout", "promote");
    let (result, message) = command_outcome(&cluster, "missing-rollout").await;
    assert_eq!(result, "Refused");
    assert!(message.contains("no-such-rollout"), "{message}");
    create_command(&cluster, "stop", "checkout", "abort");
    assert_eq!(command_outcome(&cluster, "stop").await.0, "Done");
    cluster.sleep(55 * MINUTE).await;
    assert_eq!(cluster.objects::<RolloutCommand>().len(), 2);
    cluster
        .wait_until(
            |cluster| cluster.objects::<RolloutCommand>().is_empty(),
            10 * MINUTE,
        )
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_freeze_is_reported_and_can_be_overridden() {
    let cluster = FakeCluster::new(17);
    create_route(&cluster, "checkout");
    let running = start_controller(&cluster, "serin");
    let steps = || json!([{"setWeight": 20}, {"setWeight": 50}, {"pause": {}}]);
    apply(&cluster, analyzed_rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    running.analyzer.set_report(
        "checkout",
        AnalysisReport::held(Hold::new(HoldCode::BudgetSpent, "nothing to spend")),
    );
    apply(&cluster, analyzed_rollout("checkout", "v2", 4, steps()));
    let frozen = |cluster: &FakeCluster| {
        condition(cluster, "checkout", "Frozen")
            .is_some_and(|(holds, reason, _)| holds == "True" && reason == "BudgetSpent")
    };
    cluster.wait_until(frozen, MINUTE).await.unwrap();
    assert!(
        !running
            .analyzer
            .last_request("checkout")
            .unwrap()
            .freeze_lifted
    );
    create_command(&cluster, "go", "checkout", "override");
    let (result, message) = command_outcome(&cluster, "go").await;
    assert_eq!(result, "Done", "{message}");
    let lifted = status(&cluster, "checkout").state.freeze_override.unwrap();
    assert_eq!(lifted.reason, "requested by a test");
    cluster.sleep(SECOND).await;
    wait_for_event(&cluster, "checkout", "FreezeLifted").await;
    assert!(
        running
            .analyzer
            .last_request("checkout")
            .unwrap()
            .freeze_lifted
    );
    let (holds, reason, _) = condition(&cluster, "checkout", "Frozen").unwrap();
    assert_eq!((holds.as_str(), reason.as_str()), ("False", "Overridden"));
}

#[tokio::test(start_paused = true)]
async fn an_abort_is_carried_out_before_thousands_of_pending_commands() {
    let cluster = FakeCluster::new(18);
    let running = pause_at_20_percent(&cluster).await;
    running.stop().await;
    for index in 0..1_500 {
        create_command(&cluster, &format!("pause-{index}"), "checkout", "pause");
    }
    create_command(&cluster, "stop", "checkout", "abort");
    cluster.clear_requests();
    let _running = start_controller(&cluster, "another");
    assert_eq!(command_outcome(&cluster, "stop").await.0, "Done");
    let outcomes = cluster.requests().into_iter().filter(|request| {
        request.plural == "rolloutcommands" && request.subresource.as_deref() == Some("status")
    });
    let position = outcomes
        .map(|request| request.object)
        .position(|object| object == "shop/stop");
    // Meanwhile, the sweep refuses the commands beyond the limit.
    assert!(
        position.is_some_and(|position| position < 100),
        "{position:?}"
    );
    assert_eq!(status(&cluster, "checkout").state.stage, Stage::Aborted);
    cluster.sleep(2 * SECOND).await;
    let was_carried_out = |command: &RolloutCommand| {
        let outcome = command.status.as_ref().and_then(|status| status.outcome);
        command.spec.verb == CommandVerb::Pause && outcome == Some(CommandResult::Done)
    };
    let commands = cluster.objects::<RolloutCommand>();
    assert!(
        !commands.iter().any(was_carried_out),
        "no pause comes before the abort"
    );
    // The sweep refuses and deletes the flood. The few commands within the limit are kept longer.
    cluster.sleep(5 * MINUTE).await;
    assert!(cluster.objects::<RolloutCommand>().len() <= 10);
}

#[tokio::test(start_paused = true)]
async fn a_pending_command_expires_but_an_abort_does_not() {
    let cluster = FakeCluster::new(19);
    let running = pause_at_20_percent(&cluster).await;
    running.stop().await;
    create_command(&cluster, "go", "checkout", "promote");
    cluster.sleep(MINUTE).await;
    let running = start_controller(&cluster, "another");
    let (result, message) = command_outcome(&cluster, "go").await;
    assert_eq!(result, "Refused");
    assert!(message.contains("expired"), "{message}");
    assert_eq!(position(&cluster, "checkout"), "Paused/Progressing/1");
    running.stop().await;
    create_command(&cluster, "stop", "checkout", "abort");
    cluster.sleep(MINUTE).await;
    let _running = start_controller(&cluster, "third");
    assert_eq!(command_outcome(&cluster, "stop").await.0, "Done");
}

/// Regression test: after ten further commands, a command whose outcome could not be written was
/// carried out again.
#[tokio::test(start_paused = true)]
async fn a_command_is_carried_out_once_even_if_its_outcome_cannot_be_written() {
    let cluster = FakeCluster::new(20);
    let _running = pause_at_20_percent(&cluster).await;
    let unwritable = Fault::on("patch", "rolloutcommands")
        .named("go")
        .subresource("status")
        .status(500);
    cluster.inject(unwritable.always());
    create_command(&cluster, "go", "checkout", "skipStep");
    wait_for_position(&cluster, "checkout", "Paused/Progressing/3").await;
    for index in 0..12 {
        create_command(&cluster, &format!("pause-{index}"), "checkout", "pause");
        command_outcome(&cluster, &format!("pause-{index}")).await;
        cluster.sleep(2 * SECOND).await;
    }
    assert_eq!(position(&cluster, "checkout"), "Paused/Progressing/3");
    cluster.clear_faults();
    assert_eq!(command_outcome(&cluster, "go").await.0, "Done");
    assert_eq!(position(&cluster, "checkout"), "Paused/Progressing/3");
}

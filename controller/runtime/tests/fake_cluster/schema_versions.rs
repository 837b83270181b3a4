//! A status that another version of the controller wrote: it is reported, abort works, and the
//! Rollout can be deleted.

use serde_json::json;
use serin_core::state::{AbortCause, Phase};
use serin_crds::Rollout;
use serin_fake_cluster::FakeCluster;

use crate::fixtures::*;
use crate::harness::*;

/// A release at 50 % that a newer version of the controller left behind, and the route before it.
async fn left_by_a_newer_version(cluster: &FakeCluster) -> serde_json::Value {
    create_route(cluster, "checkout");
    let route = route_spec(cluster, "checkout");
    let steps = || json!([{"setWeight": 50}, {"pause": {}}]);
    let newer = start_controller(cluster, "newer");
    apply(cluster, routed_rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(cluster, "checkout", "v1").await;
    apply(cluster, routed_rollout("checkout", "v2", 4, steps()));
    wait_for_position(cluster, "checkout", "Paused/Progressing/1").await;
    newer.kill(cluster);
    cluster
        .edit::<Rollout>(SHOP, "checkout", |rollout| {
            let status = &mut rollout["status"];
            status["schemaVersion"] = json!(2);
            status["stage"] = json!("Previewing");
            status["pause"] = json!({"reason": "Approval", "since": "2026-01-01T00:00:00Z"});
        })
        .unwrap();
    route
}

async fn wait_until_reported(cluster: &FakeCluster) {
    let is_reported = |cluster: &FakeCluster| {
        condition(cluster, "checkout", "Ready")
            .is_some_and(|(_, reason, _)| reason == "IncompatibleStatus")
    };
    cluster.wait_until(is_reported, MINUTE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_status_of_a_newer_version_is_reported_and_nothing_changes() {
    let cluster = FakeCluster::new(51);
    left_by_a_newer_version(&cluster).await;
    let weights = route_weights(&cluster, "checkout");
    let _running = start_controller(&cluster, "serin");
    wait_until_reported(&cluster).await;
    cluster.sleep(5 * SECOND).await;
    cluster.clear_requests();
    cluster.sleep(30 * MINUTE).await;
    assert_eq!(cluster.writes(), [], "it is reported once");
    let status = status(&cluster, "checkout");
    assert_eq!(status.state.phase, Phase::Degraded);
    let stored = cluster.get_json("rollouts", SHOP, "checkout").unwrap();
    assert_eq!(
        (
            &stored["status"]["stage"],
            &stored["status"]["schemaVersion"]
        ),
        (&json!("Previewing"), &json!(2)),
        "what the newer version wrote stays"
    );
    let message = status.state.message;
    for part in [
        "incompatible version",
        "schemaVersion is 2",
        "Previewing",
        "abort",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(route_weights(&cluster, "checkout"), weights);
    assert_eq!(replicas_by_version(&cluster, "checkout")["v2"], 2);
}

#[tokio::test(start_paused = true)]
async fn abort_works_on_a_status_of_a_newer_version_and_other_commands_are_refused() {
    let cluster = FakeCluster::new(52);
    left_by_a_newer_version(&cluster).await;
    let _running = start_controller(&cluster, "serin");
    wait_until_reported(&cluster).await;
    create_command(&cluster, "promote-1", "checkout", "promote");
    let (outcome, message) = command_outcome(&cluster, "promote-1").await;
    assert_eq!(outcome, "Refused");
    assert!(message.contains("incompatible version"), "{message}");
    create_command(&cluster, "abort-1", "checkout", "abort");
    let (outcome, message) = command_outcome(&cluster, "abort-1").await;
    assert_eq!(outcome, "Done", "{message}");
    wait_for_position(&cluster, "checkout", "Degraded/Aborted").await;
    cluster.sleep(MINUTE).await;
    assert_eq!(route_weights(&cluster, "checkout").1.unwrap_or(0), 0);
    assert_eq!(replicas_by_version(&cluster, "checkout")["v2"], 0);
    let status = status(&cluster, "checkout");
    assert_eq!(status.state.schema_version, 1);
    assert_eq!(status.state.abort.unwrap().cause, AbortCause::Command);
}

#[tokio::test(start_paused = true)]
async fn a_rollout_with_a_status_of_a_newer_version_can_be_deleted() {
    let cluster = FakeCluster::new(53);
    let route = left_by_a_newer_version(&cluster).await;
    let _running = start_controller(&cluster, "serin");
    wait_until_reported(&cluster).await;
    cluster.delete::<Rollout>(SHOP, "checkout").unwrap();
    let is_gone = |cluster: &FakeCluster| cluster.get_json("rollouts", SHOP, "checkout").is_none();
    cluster.wait_until(is_gone, MINUTE).await.unwrap();
    assert_eq!(route_spec(&cluster, "checkout"), route);
}

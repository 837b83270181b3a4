//! What happens if something does not fit into the status of a Rollout.

use serde_json::json;
use serin_core::observed::AnalysisReport;
use serin_core::state::AbortCause;
use serin_crds::status::{AnalysisStatus, CHECKPOINT_BYTES, CheckStatus};
use serin_fake_cluster::{FakeCluster, Fault, RequestRecord};
use serin_metrics_analysis::AnalysisSnapshot;

use crate::fixtures::*;
use crate::harness::*;

fn steps() -> serde_json::Value {
    json!([{"setWeight": 20}, {"pause": {}}, {"analysis": {"duration": "10s"}}])
}

/// Deploys v1, and releases v2 up to its pause at 20 %.
async fn pause_analyzed_release(cluster: &FakeCluster) -> RunningController {
    create_route(cluster, "checkout");
    let running = start_controller(cluster, "serin");
    apply(cluster, analyzed_rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(cluster, "checkout", "v1").await;
    apply(cluster, analyzed_rollout("checkout", "v2", 4, steps()));
    wait_for_position(cluster, "checkout", "Paused/Progressing/1").await;
    running
}

#[tokio::test(start_paused = true)]
async fn a_status_that_is_refused_as_too_large_never_stops_an_abort() {
    let cluster = FakeCluster::new(61);
    let running = pause_analyzed_release(&cluster).await;
    let report_checks = |text: &str| {
        let checks = (0..16).map(|number| CheckStatus {
            name: format!("check-{number}"),
            message: Some(text.repeat(1_000).into()),
            ..CheckStatus::default()
        });
        running.analyzer.set_snapshot(
            "checkout",
            AnalysisSnapshot {
                checks: checks.collect(),
                ..AnalysisSnapshot::undecided("undecided", cluster.now())
            },
        );
    };
    report_checks("x");
    let has_checks = |cluster: &FakeCluster| status(cluster, "checkout").checks.len() == 16;
    cluster.wait_until(has_checks, MINUTE).await.unwrap();
    let revision = status(&cluster, "checkout").state.current_revision;
    let too_large = Fault::on("patch", "rollouts")
        .subresource("status")
        .larger_than(12_000)
        .status(413);
    cluster.inject(too_large.always());
    // Only changes are sent, so all checks change.
    report_checks("y");
    create_command(&cluster, "stop", "checkout", "abort");
    cluster
        .wait_until(
            |cluster| route_weights(cluster, "checkout").1.is_none(),
            SECOND,
        )
        .await
        .unwrap();
    assert_eq!(command_outcome(&cluster, "stop").await.0, "Done");
    let is_refused = |request: &RequestRecord| request.plural == "rollouts" && request.code == 413;
    assert!(cluster.requests().iter().any(is_refused));
    wait_for_position(&cluster, "checkout", "Degraded/Aborted").await;
    let written = status(&cluster, "checkout");
    let abort = written.state.abort.unwrap();
    assert_eq!(
        (abort.cause, Some(abort.revision)),
        (AbortCause::Command, revision)
    );
    assert_eq!(written.original_routes.len(), 1);
    assert_eq!(written.checks, []);
    cluster.sleep(MINUTE).await;
    assert_eq!(
        replicas_by_version(&cluster, "checkout"),
        [("v1".into(), 4), ("v2".into(), 0)].into()
    );
    // The next release is reported in full again.
    cluster.clear_faults();
    create_command(&cluster, "again", "checkout", "retry");
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    cluster.wait_until(has_checks, MINUTE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_release_whose_evidence_does_not_fit_into_the_status_is_held_and_can_be_aborted() {
    let cluster = FakeCluster::new(62);
    let running = pause_analyzed_release(&cluster).await;
    let revision = status(&cluster, "checkout").state.current_revision.unwrap();
    let snapshot = |report| AnalysisSnapshot {
        checkpoint: Some(AnalysisStatus {
            revision: revision.to_string(),
            started_at: cluster.now(),
            checkpoint: json!({"objectives": "x".repeat(CHECKPOINT_BYTES)}),
        }),
        ..AnalysisSnapshot::from_report(report)
    };
    let fresh = AnalysisReport::undecided("undecided", cluster.now());
    running.analyzer.set_snapshot("checkout", snapshot(fresh));
    create_command(&cluster, "go", "checkout", "promote");
    wait_for_position(&cluster, "checkout", "Progressing/Progressing/2").await;
    cluster.sleep(5 * MINUTE).await;
    assert_eq!(position(&cluster, "checkout"), "Progressing/Progressing/2");
    let (ready, reason, message) = condition(&cluster, "checkout", "MetricsReady").unwrap();
    assert_eq!((&*ready, &*reason), ("False", "InvalidSpec"));
    assert!(message.contains("more than the 256 KiB"), "{message}");
    let stored = status(&cluster, "checkout").analysis.unwrap();
    assert!(stored.checkpoint["objectives"].is_null());
    let breach = AnalysisReport::breached(AbortCause::Evidence, "31 of 1,000 requests failed");
    running.analyzer.set_snapshot("checkout", snapshot(breach));
    wait_for_position(&cluster, "checkout", "Degraded/Aborted").await;
}

#[tokio::test(start_paused = true)]
async fn a_route_whose_backends_do_not_fit_into_the_status_is_not_changed() {
    let cluster = FakeCluster::new(63);
    apply(&cluster, static_service());
    let mut route = http_route("checkout");
    let backends = route["spec"]["rules"][1]["backendRefs"]
        .as_array_mut()
        .unwrap();
    let unused = json!({"name": "static", "port": 80, "weight": 0});
    backends.extend(std::iter::repeat_n(unused, 300));
    apply(&cluster, route);
    let before = route_spec(&cluster, "checkout");
    let _running = start_controller(&cluster, "serin");
    let steps = || json!([{"setWeight": 20}, {"pause": {}}]);
    apply(&cluster, routed_rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
    let is_reported = |cluster: &FakeCluster| {
        condition(cluster, "checkout", "Reconciling").is_some_and(|(_, reason, message)| {
            reason == "EffectFailing" && message.contains("must fit into 12 KiB")
        })
    };
    cluster.wait_until(is_reported, MINUTE).await.unwrap();
    assert_eq!(route_spec(&cluster, "checkout"), before);
    cluster
        .wait_until(
            |cluster| position(cluster, "checkout") == "Degraded/Aborted",
            15 * MINUTE,
        )
        .await
        .unwrap();
    assert_eq!(route_spec(&cluster, "checkout"), before);
}

//! Invalid Rollouts and panics affect only their own Rollout.

use serde_json::json;
use serin_core::observed::AnalysisReport;
use serin_core::state::Phase;
use serin_fake_cluster::{FakeCluster, Fault};

use crate::fixtures::*;
use crate::harness::*;

async fn wait_for_invalid_spec(cluster: &FakeCluster, name: &str) -> String {
    let invalid = |cluster: &FakeCluster| {
        condition(cluster, name, "InvalidSpec").filter(|(holds, ..)| holds == "True")
    };
    cluster
        .wait_until(|cluster| invalid(cluster).is_some(), MINUTE)
        .await
        .expect("the condition InvalidSpec is not reported");
    invalid(cluster).unwrap().2
}

#[tokio::test(start_paused = true)]
async fn invariant_11_malformed_rollouts_are_reported_while_a_valid_one_proceeds() {
    let cluster = FakeCluster::new(31);
    let _running = start_controller(&cluster, "serin");
    let mut unreadable = unrouted_rollout("unreadable", "v1", 2, json!([]));
    unreadable["spec"]["replicas"] = json!("many");
    let mut wrong = unrouted_rollout("wrong", "v1", 2, json!([{"pause": {"duration": "soon"}}]));
    wrong["spec"]["minReadySeconds"] = json!(700);
    apply(&cluster, unreadable);
    apply(&cluster, wrong);
    apply(&cluster, unrouted_rollout("good", "v1", 2, json!([])));
    assert!(
        wait_for_invalid_spec(&cluster, "unreadable")
            .await
            .contains("many")
    );
    let problems = wait_for_invalid_spec(&cluster, "wrong").await;
    assert!(
        problems.contains("spec.strategy.canary.steps[0].pause.duration"),
        "{problems}"
    );
    assert!(
        problems.contains("spec.progressDeadlineSeconds"),
        "all problems are reported together: {problems}"
    );
    assert_eq!(status(&cluster, "wrong").state.phase, Phase::Degraded);
    wait_until_healthy(&cluster, "good", "v1").await;
    cluster.sleep(5 * SECOND).await;
    cluster.clear_requests();
    cluster.sleep(10 * MINUTE).await;
    assert_eq!(cluster.writes(), [], "problems are reported once");

    apply(&cluster, unrouted_rollout("wrong", "v1", 2, json!([])));
    wait_until_healthy(&cluster, "wrong", "v1").await;
    assert_eq!(
        condition(&cluster, "wrong", "InvalidSpec").unwrap().0,
        "False"
    );
}

#[tokio::test(start_paused = true)]
async fn a_template_that_the_api_server_rejects_is_reported() {
    let cluster = FakeCluster::new(32);
    let _running = start_controller(&cluster, "serin");
    cluster.inject(Fault::on("create", "replicasets").times(1).status(422));
    apply(&cluster, unrouted_rollout("checkout", "v1", 2, json!([])));
    wait_for_invalid_spec(&cluster, "checkout").await;
    // The rejection may be caused by a policy that can change, so the request is retried.
    wait_until_healthy(&cluster, "checkout", "v1").await;
}

#[tokio::test(start_paused = true)]
async fn invariant_11_a_panic_quarantines_only_its_rollout_until_it_stops() {
    let cluster = FakeCluster::new(33);
    create_route(&cluster, "bad");
    create_route(&cluster, "good");
    let running = start_controller(&cluster, "serin");
    let steps = || json!([{"setWeight": 50}, {"pause": {"duration": "5s"}}]);
    for name in ["bad", "good"] {
        apply(&cluster, analyzed_rollout(name, "v1", 2, steps()));
        wait_until_healthy(&cluster, name, "v1").await;
    }
    running.analyzer.panic_for("bad");
    for name in ["bad", "good"] {
        apply(&cluster, analyzed_rollout(name, "v2", 2, steps()));
    }
    wait_until_healthy(&cluster, "good", "v2").await;
    let (holds, reason, message) = condition(&cluster, "bad", "Stalled").unwrap();
    assert_eq!((holds.as_str(), reason.as_str()), ("True", "Quarantined"));
    assert!(message.contains("the analyzer panics"), "{message}");
    running.analyzer.clear_panics();
    wait_until_healthy(&cluster, "bad", "v2").await;
    assert_eq!(condition(&cluster, "bad", "Stalled").unwrap().0, "False");
}

#[tokio::test(start_paused = true)]
async fn a_rollout_that_is_quarantined_after_a_panic_can_be_aborted() {
    let cluster = FakeCluster::new(34);
    create_route(&cluster, "bad");
    let running = start_controller(&cluster, "serin");
    let steps = || json!([{"setWeight": 50}, {"pause": {}}]);
    apply(&cluster, analyzed_rollout("bad", "v1", 2, steps()));
    wait_until_healthy(&cluster, "bad", "v1").await;
    apply(&cluster, analyzed_rollout("bad", "v2", 2, steps()));
    wait_for_position(&cluster, "bad", "Paused/Progressing/1").await;
    let monitor = TrafficMonitor::start(&cluster, "bad");
    // Every reconcile that analyzes the release panics from now on.
    running.analyzer.panic_for("bad");
    let undecided = AnalysisReport::undecided("undecided", cluster.now());
    running.analyzer.set_report("bad", undecided);
    let is_quarantined = |cluster: &FakeCluster| {
        condition(cluster, "bad", "Stalled").is_some_and(|(status, reason, message)| {
            status == "True" && reason == "Quarantined" && message.contains("`abort` works")
        })
    };
    cluster
        .wait_until(is_quarantined, 10 * SECOND)
        .await
        .expect("the quarantine is not reported");
    cluster.sleep(5 * MINUTE).await;
    let began = cluster.now();
    create_command(&cluster, "stop", "bad", "abort");
    let (result, message) = command_outcome(&cluster, "stop").await;
    assert_eq!(result, "Done", "{message}");
    let took = cluster.now().duration_since(began).as_secs();
    assert!(took < 5, "the abort waited for {took} s");
    cluster.sleep(MINUTE).await;
    assert_eq!(position(&cluster, "bad"), "Degraded/Aborted");
    assert_eq!(route_weights(&cluster, "bad"), (Some(1), None));
    assert_eq!(
        replicas_by_version(&cluster, "bad"),
        [("v1".into(), 2), ("v2".into(), 0)].into()
    );
    monitor.finish().await;
    running.analyzer.clear_panics();
    apply(&cluster, analyzed_rollout("bad", "v3", 2, json!([])));
    wait_until_healthy(&cluster, "bad", "v3").await;
    assert_eq!(condition(&cluster, "bad", "Stalled").unwrap().0, "False");
}

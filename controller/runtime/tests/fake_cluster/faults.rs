//! Faults of the API server and of the controller.

use serde_json::json;
use serin_core::observed::AnalysisReport;
use serin_core::state::AbortCause;
use serin_fake_cluster::{FakeCluster, Fault};

use crate::crash::{Crash, crash_at_any_write};
use crate::fixtures::*;
use crate::harness::*;

fn steps() -> serde_json::Value {
    json!([{"setWeight": 20}, {"pause": {"duration": "20s"}}, {"setWeight": 50}, {"pause": {"duration": "20s"}}])
}

async fn deploy_v1(cluster: &FakeCluster) -> RunningController {
    create_route(cluster, "checkout");
    let running = start_controller(cluster, "serin-0");
    apply(cluster, routed_rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(cluster, "checkout", "v1").await;
    running
}

/// A release that another controller continues must end in the same state.
#[tokio::test(start_paused = true)]
async fn a_release_ends_in_the_same_state_after_a_crash_at_any_write() {
    let prepare = async |cluster: &FakeCluster| {
        let first = deploy_v1(cluster).await;
        let monitor = TrafficMonitor::start(cluster, "checkout");
        cluster.sleep(10 * SECOND).await;
        (first, monitor)
    };
    let begin = async |cluster: &FakeCluster| {
        apply(cluster, routed_rollout("checkout", "v2", 4, steps()));
    };
    let check = async |crash: &Crash, ()| {
        let (cluster, writes) = (&crash.cluster, crash.writes);
        wait_until_healthy(cluster, "checkout", "v2").await;
        let took = cluster.now().duration_since(crash.began_at).as_secs();
        assert!(
            (40..75).contains(&took),
            "killed at write {writes}: no pause is skipped or restarted: {took} s"
        );
        cluster.sleep(15 * SECOND).await;
        assert_eq!(
            replicas_by_version(cluster, "checkout"),
            [("v1".into(), 0), ("v2".into(), 4)].into(),
            "killed at write {writes}"
        );
        assert_eq!(
            route_weights(cluster, "checkout"),
            (Some(1), None),
            "killed at write {writes}"
        );
    };
    let writes = crash_at_any_write(100, prepare, begin, check).await;
    assert!(writes > 10, "{writes}");
}

#[tokio::test(start_paused = true)]
async fn an_abort_survives_a_crash_at_any_write() {
    let prepare = async |cluster: &FakeCluster| {
        let first = deploy_v1(cluster).await;
        let monitor = TrafficMonitor::start(cluster, "checkout");
        let paused = json!([{"setWeight": 20}, {"pause": {}}]);
        apply(cluster, routed_rollout("checkout", "v2", 4, paused));
        wait_for_position(cluster, "checkout", "Paused/Progressing/1").await;
        cluster.sleep(MINUTE).await;
        (first, monitor)
    };
    let begin = async |cluster: &FakeCluster| create_command(cluster, "stop", "checkout", "abort");
    let check = async |crash: &Crash, ()| {
        let (cluster, writes) = (&crash.cluster, crash.writes);
        let (result, message) = command_outcome(cluster, "stop").await;
        assert_eq!(result, "Done", "killed at write {writes}: {message}");
        cluster.sleep(MINUTE).await;
        assert_eq!(
            position(cluster, "checkout"),
            "Degraded/Aborted",
            "killed at write {writes}"
        );
        assert_eq!(
            route_weights(cluster, "checkout"),
            (Some(1), None),
            "killed at write {writes}"
        );
        assert_eq!(
            replicas_by_version(cluster, "checkout"),
            [("v1".into(), 4), ("v2".into(), 0)].into(),
            "killed at write {writes}"
        );
    };
    let writes = crash_at_any_write(200, prepare, begin, check).await;
    assert!(writes >= 5, "{writes}");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_outage_of_a_minute_only_delays_a_release() {
    let cluster = FakeCluster::new(51);
    let _running = deploy_v1(&cluster).await;
    let monitor = TrafficMonitor::start(&cluster, "checkout");
    apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    cluster.take_api_down_for(MINUTE);
    cluster.sleep(59 * SECOND).await;
    assert_eq!(route_weights(&cluster, "checkout"), (Some(80), Some(20)));
    wait_until_healthy(&cluster, "checkout", "v2").await;
    monitor.finish().await;
}

#[tokio::test(start_paused = true)]
async fn errors_conflicts_and_lost_responses_are_retried() {
    let faults: [fn() -> Fault; 7] = [
        || Fault::on("patch", "rollouts").times(3).status(409),
        || Fault::on("patch", "rollouts").times(3).status(500),
        || {
            Fault::on("patch", "rollouts")
                .skip_first(1)
                .loses_response()
        },
        || Fault::on("patch", "httproutes").times(2).status(409),
        || Fault::on("patch", "httproutes").loses_response(),
        || {
            Fault::on("create", "replicasets")
                .skip_first(1)
                .loses_response()
        },
        || Fault::on("patch", "services").times(2).status(409),
    ];
    for (index, fault) in faults.into_iter().enumerate() {
        let cluster = FakeCluster::new(300 + index as u64);
        let _running = deploy_v1(&cluster).await;
        let monitor = TrafficMonitor::start(&cluster, "checkout");
        cluster.inject(fault());
        apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
        wait_until_healthy(&cluster, "checkout", "v2").await;
        cluster.sleep(MINUTE).await;
        assert_eq!(
            replicas_by_version(&cluster, "checkout"),
            [("v1".into(), 0), ("v2".into(), 4)].into(),
            "fault {index}"
        );
        monitor.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_hanging_write_does_not_delay_other_rollouts() {
    let cluster = FakeCluster::new(52);
    for name in ["slow", "quick"] {
        create_route(&cluster, name);
    }
    let running = start_controller(&cluster, "serin-0");
    let steps = || json!([{"setWeight": 20}, {"pause": {}}]);
    for name in ["slow", "quick"] {
        apply(&cluster, analyzed_rollout(name, "v1", 2, steps()));
        wait_until_healthy(&cluster, name, "v1").await;
        apply(&cluster, analyzed_rollout(name, "v2", 2, steps()));
        wait_for_position(&cluster, name, "Paused/Progressing/1").await;
    }
    cluster.inject(Fault::on("patch", "httproutes").named("slow").hangs());
    let breach = || AnalysisReport::breached(AbortCause::Evidence, "bad");
    running.analyzer.set_report("slow", breach());
    running.analyzer.set_report("quick", breach());
    cluster
        .wait_until(
            |cluster| route_weights(cluster, "quick").1.is_none(),
            SECOND / 2,
        )
        .await
        .expect("the rollback waited for another Rollout");
    cluster
        .wait_until(
            |cluster| route_weights(cluster, "slow").1.is_none(),
            20 * SECOND,
        )
        .await
        .expect("the write is retried");
}

#[tokio::test(start_paused = true)]
async fn one_of_two_controllers_is_active_and_the_other_takes_over() {
    let cluster = FakeCluster::new(53);
    create_route(&cluster, "checkout");
    let first = start_elected_controller(&cluster, "serin-a");
    cluster.sleep(2 * SECOND).await;
    let second = start_elected_controller(&cluster, "serin-b");
    apply(&cluster, routed_rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let monitor = TrafficMonitor::start(&cluster, "checkout");
    apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    let write_count = |who: &str| {
        cluster
            .writes()
            .iter()
            .filter(|write| write.client == who && write.plural != "leases")
            .count()
    };
    assert_eq!(write_count("serin-b"), 0, "the standby does not write");
    let (killed_at, before) = (cluster.now(), write_count("serin-a"));
    first.kill(&cluster);
    wait_until_healthy(&cluster, "checkout", "v2").await;
    assert_eq!(write_count("serin-a"), before);
    let mut requests = cluster
        .writes()
        .into_iter()
        .filter(|write| write.client == "serin-b");
    let taken_over = requests
        .find(|write| write.verb == "update" && write.plural == "leases" && write.code == 200)
        .unwrap();
    assert!(
        taken_over.at.duration_since(killed_at).as_secs() < 2,
        "{} after {killed_at}",
        taken_over.at
    );
    monitor.finish().await;
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_is_fast_even_if_the_initial_lists_failed() {
    let cluster = FakeCluster::new(54);
    cluster.take_api_down_for(60 * MINUTE);
    let running = start_controller(&cluster, "serin-0");
    cluster.sleep(5 * SECOND).await;
    let started_at = cluster.now();
    running.stop().await;
    assert!(cluster.now().duration_since(started_at).as_secs() < 2);
}

#[tokio::test(start_paused = true)]
async fn a_missing_kind_does_not_block_other_rollouts() {
    let cluster = FakeCluster::new(55);
    let missing = || Fault::on("list", "httproutes").always().status(404);
    cluster.inject(missing());
    create_route(&cluster, "routed");
    let _running = start_controller(&cluster, "serin-0");
    apply(&cluster, unrouted_rollout("plain", "v1", 2, json!([])));
    wait_until_healthy(&cluster, "plain", "v1").await;
    apply(&cluster, routed_rollout("routed", "v1", 2, json!([])));
    wait_for_position(&cluster, "routed", "Progressing").await;
    cluster.clear_faults();
    wait_until_healthy(&cluster, "routed", "v1").await;
}

/// The Events of a reconcile are written while the next reconciles of its Rollout already run.
#[tokio::test(start_paused = true)]
async fn a_slow_events_api_does_not_delay_a_reconcile() {
    let cluster = FakeCluster::new(56);
    let running = deploy_v1(&cluster).await;
    cluster.sleep(MINUTE).await;
    cluster.inject(Fault::on("create", "events").always().delayed(2 * SECOND));
    let before = event_reasons(&cluster, "checkout").len();
    apply(
        &cluster,
        routed_rollout(
            "checkout",
            "v2",
            4,
            json!([{"setWeight": 20}, {"pause": {}}]),
        ),
    );
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    create_command(&cluster, "stop", "checkout", "abort");
    cluster
        .wait_until(
            |cluster| position(cluster, "checkout").ends_with("/Aborted"),
            SECOND / 2,
        )
        .await
        .expect("the abort waited for an Event");
    assert!(
        !event_reasons(&cluster, "checkout").contains(&"RolledBack".to_owned()),
        "the Events API is slow"
    );
    cluster.sleep(MINUTE).await;
    let published = event_reasons(&cluster, "checkout").split_off(before);
    assert!(published.len() > 1, "{published:?}");
    let rolled_back = published.iter().position(|reason| reason == "RolledBack");
    assert!(
        rolled_back.is_some_and(|index| index > 0),
        "the Events keep their order: {published:?}"
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn queued_events_are_written_at_shutdown_but_a_hanging_events_api_does_not_prevent_it() {
    let last_event = |cluster: &FakeCluster| event_reasons(cluster, "checkout").pop();
    let release_and_stop = async |seed: u64, fault: Fault| {
        let cluster = FakeCluster::new(seed);
        let running = start_controller(&cluster, "serin-0");
        apply(&cluster, unrouted_rollout("checkout", "v1", 2, json!([])));
        wait_until_healthy(&cluster, "checkout", "v1").await;
        cluster.sleep(MINUTE).await;
        cluster.inject(fault);
        apply(&cluster, unrouted_rollout("checkout", "v2", 2, json!([])));
        wait_until_healthy(&cluster, "checkout", "v2").await;
        let before = event_reasons(&cluster, "checkout").len();
        let stopped_at = cluster.now();
        running.stop().await;
        let took = cluster.now().duration_since(stopped_at);
        let written = event_reasons(&cluster, "checkout").len() - before;
        (cluster, took, written)
    };
    let slow = Fault::on("create", "events").always().delayed(SECOND / 2);
    let (cluster, _, written) = release_and_stop(57, slow).await;
    assert!(written > 0, "an Event was waiting");
    assert_eq!(last_event(&cluster).as_deref(), Some("Promoted"));
    let hanging = Fault::on("create", "events").always().hangs();
    let (_, took, written) = release_and_stop(58, hanging).await;
    assert_eq!(written, 0);
    assert!(took.as_secs() < 2, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_write_of_a_former_leader_does_not_arrive_after_those_of_the_next_leader() {
    let cluster = FakeCluster::new(57);
    create_route(&cluster, "checkout");
    let _first = start_elected_controller(&cluster, "serin-a");
    cluster.sleep(2 * SECOND).await;
    let _second = start_elected_controller(&cluster, "serin-b");
    let steps = || json!([{"setWeight": 20}, {"pause": {}}]);
    apply(&cluster, routed_rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    let monitor = TrafficMonitor::start(&cluster, "checkout");
    // The leader cannot renew the Lease any more, and its write of the route would arrive after a
    // standby has taken over, but before the timeout of a write.
    let of_leader = |verb, plural| Fault::on(verb, plural).from_client("serin-a");
    cluster.inject(of_leader("update", "leases").always().hangs());
    cluster.inject(of_leader("patch", "httproutes").delayed(4_700 * SECOND / 1_000));
    create_command(&cluster, "stop", "checkout", "abort");
    let (result, message) = command_outcome(&cluster, "stop").await;
    assert_eq!(result, "Done", "{message}");
    cluster.sleep(MINUTE).await;
    let writes = cluster.writes();
    let of = |client: &str, plural: &str| {
        let mut of = writes.clone();
        of.retain(|write| write.client == client && write.plural == plural && write.code != 0);
        of
    };
    let taken_over = of("serin-b", "leases").first().unwrap().at;
    let mut late = of("serin-a", "httproutes");
    late.retain(|write| write.at >= taken_over);
    assert_eq!(late, [], "the next leader acts since {taken_over}");
    assert!(!of("serin-b", "httproutes").is_empty());
    assert_eq!(position(&cluster, "checkout"), "Degraded/Aborted");
    assert_eq!(route_weights(&cluster, "checkout"), (Some(1), None));
    monitor.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_write_of_a_leader_is_waited_for_while_it_renews_the_lease() {
    let cluster = FakeCluster::new(58);
    create_route(&cluster, "checkout");
    let _running = start_elected_controller(&cluster, "serin-a");
    let steps = || json!([{"setWeight": 20}, {"pause": {}}]);
    apply(&cluster, routed_rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    cluster.clear_requests();
    let delay = 4_500 * SECOND / 1_000;
    cluster.inject(Fault::on("patch", "httproutes").delayed(delay));
    apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    let mut writes = cluster.writes();
    writes.retain(|write| write.plural == "httproutes");
    let codes: Vec<u16> = writes.iter().map(|write| write.code).collect();
    assert_eq!(codes, [200], "the write is not repeated");
}

//! A Rollout that blocks a thread or ends the process affects only itself.

use std::path::Path;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use serde_json::{Value, json};
use serin_core::observed::AnalysisReport;
use serin_core::state::AbortCause;
use serin_crds::Rollout;
use serin_fake_cluster::{FakeCluster, Fault};
use serin_runtime::journal::{Admission, Journal, Subject};
use serin_runtime::planner::{Planner, PlannerLimits};
use serin_runtime::reconcile::Safeguards;

use crate::fixtures::*;
use crate::harness::*;

fn steps() -> Value {
    json!([{"setWeight": 50}, {"pause": {}}])
}

/// A planner whose conversion of the generation of `bad` with this number of replicas does not end
/// until the sender is dropped.
fn hanging_planner(bad: &'static str, replicas: i32) -> (mpsc::Sender<()>, Planner) {
    let (release, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let limits = PlannerLimits {
        deadline: Duration::from_millis(200),
        max_threads: 2,
    };
    let planner = Planner::new(limits, move |spec, name| {
        if name == bad && spec.replicas == Some(replicas) {
            let _ = wait.lock().unwrap().recv();
        }
        spec.plan(name).map_err(|problems| problems.to_string())
    });
    (release, planner)
}

fn journal(cluster: &FakeCluster, directory: &Path) -> Journal {
    Journal::open(directory, cluster.now()).unwrap()
}

fn subject(cluster: &FakeCluster, name: &str) -> Subject {
    let metadata = cluster.get::<Rollout>(SHOP, name).unwrap().metadata;
    Subject {
        namespace: SHOP.to_owned(),
        name: name.to_owned(),
        uid: metadata.uid.unwrap(),
        generation: metadata.generation.unwrap(),
    }
}

/// Leaves the journal as a process does that dies during the first attempts of these Rollouts.
fn die_during_first_attempts(cluster: &FakeCluster, directory: &Path, names: &[&str]) {
    let journal = journal(cluster, directory);
    for name in names {
        let admission = journal.begin(&subject(cluster, name), cluster.now());
        let is_tried = matches!(admission, Admission::Start(_));
        assert!(is_tried, "{name} is not tried: {admission:?}");
        std::mem::forget(admission);
    }
}

fn is_quarantined(cluster: &FakeCluster, name: &str) -> bool {
    condition(cluster, name, "Stalled").is_some_and(|(status, reason, message)| {
        status == "True" && reason == "Quarantined" && message.contains("process died")
    })
}

#[tokio::test(start_paused = true)]
async fn invariant_11_a_spec_that_never_ends_to_be_checked_stops_no_other_rollout() {
    let cluster = FakeCluster::new(71);
    create_route(&cluster, "bad");
    create_route(&cluster, "good");
    let (release, planner) = hanging_planner("bad", 3);
    let safeguards = Safeguards {
        planner,
        ..Safeguards::default()
    };
    let running = start_controller_with_safeguards(&cluster, "serin", safeguards);
    for name in ["bad", "good"] {
        apply(&cluster, analyzed_rollout(name, "v1", 2, steps()));
        wait_until_healthy(&cluster, name, "v1").await;
        apply(&cluster, analyzed_rollout(name, "v2", 2, steps()));
        wait_for_position(&cluster, name, "Paused/Progressing/1").await;
    }
    // The edit of a release under way cannot be checked.
    apply(&cluster, analyzed_rollout("bad", "v2", 3, steps()));
    let is_reported = |cluster: &FakeCluster| {
        condition(cluster, "bad", "InvalidSpec").is_some_and(|(status, _, message)| {
            status == "True" && message.contains("takes longer than 200 ms to check")
        })
    };
    cluster
        .wait_until(is_reported, MINUTE)
        .await
        .expect("the deadline is not reported");
    // Both releases can still be aborted, the one of the broken spec with its active plan.
    for name in ["bad", "good"] {
        let breach = AnalysisReport::breached(AbortCause::Evidence, "the canary is worse");
        running.analyzer.set_report(name, breach);
        wait_for_position(&cluster, name, "Degraded/Aborted").await;
        let is_restored = |cluster: &FakeCluster| route_weights(cluster, name) == (Some(1), None);
        let restored = cluster.wait_until(is_restored, 10 * SECOND).await;
        assert!(restored.is_ok(), "the canary of {name} still has traffic");
    }
    // New Rollouts are planned while the conversion runs.
    apply(&cluster, unrouted_rollout("new", "v1", 2, json!([])));
    wait_until_healthy(&cluster, "new", "v1").await;
    // A conversion that ends late is used.
    drop(release);
    let is_valid = |cluster: &FakeCluster| {
        condition(cluster, "bad", "InvalidSpec").is_some_and(|(status, ..)| status == "False")
    };
    cluster
        .wait_until(is_valid, 60 * MINUTE)
        .await
        .expect("the late plan is not used");
}

#[tokio::test(start_paused = true)]
async fn invariant_11_rollouts_that_may_have_ended_the_process_are_quarantined_and_released() {
    let cluster = FakeCluster::new(72);
    let directory = tempfile::tempdir().unwrap();
    let names = ["poison", "innocent", "good"];
    for name in names {
        apply(&cluster, unrouted_rollout(name, "v1", 2, json!([])));
    }
    die_during_first_attempts(&cluster, directory.path(), &["poison", "innocent"]);
    let safeguards = || Safeguards {
        journal: journal(&cluster, directory.path()),
        ..Safeguards::default()
    };
    let running = start_controller_with_safeguards(&cluster, "serin-0", safeguards());
    for name in ["poison", "innocent"] {
        cluster
            .wait_until(|cluster| is_quarantined(cluster, name), 4 * SECOND)
            .await
            .expect("the quarantine is not reported");
        let has_event = |cluster: &FakeCluster| event_reasons(cluster, name) == ["Quarantined"];
        let published = cluster.wait_until(has_event, SECOND).await;
        assert!(published.is_ok(), "no Event names {name}");
        assert_eq!(replica_sets(&cluster, name).len(), 0, "{name}");
    }
    wait_until_healthy(&cluster, "good", "v1").await;
    // Nothing was wrong with them after all.
    for name in ["poison", "innocent"] {
        wait_until_healthy(&cluster, name, "v1").await;
        assert_eq!(condition(&cluster, name, "Stalled").unwrap().0, "False");
    }
    running.stop().await;

    // Now one of them ends the process twice.
    die_during_first_attempts(&cluster, directory.path(), &["poison", "innocent"]);
    let mut records = std::fs::read_to_string(directory.path().join("attempts")).unwrap();
    records = records.replace("\"deaths\":0", "\"deaths\":1");
    let lone: Vec<&str> = records
        .lines()
        .filter(|line| line.contains("poison"))
        .collect();
    assert!(lone[0].contains("\"deaths\":1"), "{lone:?}");
    std::fs::write(directory.path().join("attempts"), lone.join("\n")).unwrap();
    cluster.clear_requests();
    let _running = start_controller_with_safeguards(&cluster, "serin-1", safeguards());
    cluster.sleep(50 * SECOND).await;
    assert!(is_quarantined(&cluster, "poison"));
    assert!(!is_quarantined(&cluster, "innocent"));
    // A changed spec ends the quarantine.
    apply(&cluster, unrouted_rollout("poison", "v2", 2, json!([])));
    wait_until_healthy(&cluster, "poison", "v2").await;
    assert!(!is_quarantined(&cluster, "poison"));
}

#[tokio::test(start_paused = true)]
async fn a_first_attempt_is_recorded_until_the_check_of_its_spec_has_ended() {
    let cluster = FakeCluster::new(73);
    let directory = tempfile::tempdir().unwrap();
    let (_release, planner) = hanging_planner("bad", 2);
    let safeguards = Safeguards {
        planner,
        journal: journal(&cluster, directory.path()),
        ..Safeguards::default()
    };
    let _running = start_controller_with_safeguards(&cluster, "serin", safeguards);
    apply(&cluster, unrouted_rollout("bad", "v1", 2, json!([])));
    apply(&cluster, unrouted_rollout("good", "v1", 2, json!([])));
    wait_until_healthy(&cluster, "good", "v1").await;
    let recorded = std::fs::read_to_string(directory.path().join("attempts")).unwrap();
    let recorded: Vec<&str> = recorded
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    assert!(
        recorded[0].contains(&subject(&cluster, "bad").uid),
        "{recorded:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn slow_reconciles_of_one_namespace_leave_room_for_the_others() {
    let cluster = FakeCluster::new(74);
    let _running = start_controller(&cluster, "serin");
    for number in 0..64 {
        let name = format!("slow-{number}");
        // Each reconcile waits for this response until its timeout.
        let hanging = Fault::on("get", "services").named(&name).always().hangs();
        cluster.inject(hanging);
        let mut rollout = routed_rollout(&name, "v1", 1, json!([]));
        rollout["metadata"]["namespace"] = json!("slow");
        apply(&cluster, rollout);
    }
    cluster.sleep(10 * SECOND).await;
    let began = cluster.now();
    apply(&cluster, unrouted_rollout("good", "v1", 1, json!([])));
    wait_until_healthy(&cluster, "good", "v1").await;
    let took = cluster.now().duration_since(began).as_secs();
    assert!(took < 20, "{took} s");
}

#[tokio::test(start_paused = true)]
async fn a_quarantined_rollout_can_be_aborted() {
    let cluster = FakeCluster::new(75);
    let directory = tempfile::tempdir().unwrap();
    create_route(&cluster, "checkout");
    let first = start_controller(&cluster, "serin-0");
    apply(&cluster, routed_rollout("checkout", "v1", 4, steps()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    apply(&cluster, routed_rollout("checkout", "v2", 4, steps()));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    let monitor = TrafficMonitor::start(&cluster, "checkout");
    first.kill(&cluster);
    die_during_first_attempts(&cluster, directory.path(), &["checkout"]);
    // It has ended the process four times, so it is quarantined for half an hour.
    let path = directory.path().join("attempts");
    let records = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, records.replace("\"deaths\":0", "\"deaths\":3")).unwrap();
    let safeguards = Safeguards {
        journal: journal(&cluster, directory.path()),
        ..Safeguards::default()
    };
    let _running = start_controller_with_safeguards(&cluster, "serin-1", safeguards);
    cluster
        .wait_until(|cluster| is_quarantined(cluster, "checkout"), 10 * SECOND)
        .await
        .expect("the quarantine is not reported");
    create_command(&cluster, "go-on", "checkout", "promote");
    cluster.sleep(20 * SECOND).await;
    assert_eq!(
        position(&cluster, "checkout"),
        "Paused/Progressing/1",
        "only an abort is carried out"
    );
    create_command(&cluster, "stop", "checkout", "abort");
    let (result, message) = command_outcome(&cluster, "stop").await;
    assert_eq!(result, "Done", "{message}");
    cluster.sleep(MINUTE).await;
    assert_eq!(position(&cluster, "checkout"), "Degraded/Aborted");
    assert_eq!(route_weights(&cluster, "checkout"), (Some(1), None));
    assert_eq!(
        replicas_by_version(&cluster, "checkout"),
        [("v1".into(), 4), ("v2".into(), 0)].into()
    );
    let (_, _, message) = condition(&cluster, "checkout", "Stalled").unwrap();
    assert!(is_quarantined(&cluster, "checkout"), "{message}");
    assert!(message.contains("`abort` works"), "{message}");
    let (result, message) = command_outcome(&cluster, "go-on").await;
    assert_eq!(result, "Refused");
    assert!(message.contains("expired"), "{message}");
    monitor.finish().await;
}

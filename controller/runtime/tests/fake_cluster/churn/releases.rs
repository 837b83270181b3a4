//! Well-behaved Rollouts: each releases a new version at regular intervals.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use serin_core::observed::AnalysisReport;
use serin_core::state::AbortCause;
use serin_fake_cluster::FakeCluster;
use tokio::time::Instant;

use crate::fixtures::*;
use crate::harness::*;

/// Number of well-behaved Rollouts.
pub const ROLLOUTS: usize = 10;
/// Interval of the checks whether a release has reached a position.
const POLL: Duration = Duration::from_millis(250);
/// Time after which a release counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(30 * 60);

/// How a release ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The new version becomes stable.
    Promoted,
    /// The analysis reports a breach.
    RolledBack,
    /// A person aborts it.
    Aborted,
}

impl Outcome {
    pub const ALL: [Self; 3] = [Self::Promoted, Self::RolledBack, Self::Aborted];
}

/// A release that has ended as planned.
#[derive(Clone, Debug)]
pub struct Release {
    pub rollout: String,
    pub outcome: Outcome,
    /// Simulated time from the change of the spec until the traffic and the status are final.
    pub took: Duration,
}

/// The releases that have ended, in order.
pub type ReleaseLog = Arc<Mutex<Vec<Release>>>;

/// The name of a well-behaved Rollout, its Service and its route.
pub fn name(index: usize) -> String {
    format!("shop-{index}")
}

/// Releases one Rollout at this interval, without an end.
pub async fn release_forever(
    cluster: FakeCluster,
    analyzer: Arc<ScriptedAnalyzer>,
    index: usize,
    interval: Duration,
    log: ReleaseLog,
) {
    let name = name(index);
    create_route(&cluster, &name);
    apply(&cluster, rollout(&name, 0));
    reach(&cluster, &name, "the first version", |object| {
        is_stable(object, &Value::Null)
    })
    .await;
    // The releases do not begin at the same time.
    cluster
        .sleep(7 * SECOND * u32::try_from(index).unwrap())
        .await;
    for version in 1.. {
        let outcome = Outcome::ALL[(index + version) % Outcome::ALL.len()];
        let began = Instant::now();
        release(&cluster, &analyzer, &name, version, outcome).await;
        let took = began.elapsed();
        log.lock().unwrap().push(Release {
            rollout: name.clone(),
            outcome,
            took,
        });
        cluster.sleep(interval.saturating_sub(took)).await;
    }
}

fn rollout(name: &str, version: usize) -> Value {
    let pause = json!({"pause": {"duration": "20s"}});
    let steps = json!([{"setWeight": 20}, pause, {"setWeight": 50}, pause]);
    analyzed_rollout(name, &format!("v{version}"), 2, steps)
}

async fn release(
    cluster: &FakeCluster,
    analyzer: &ScriptedAnalyzer,
    name: &str,
    version: usize,
    outcome: Outcome,
) {
    let fresh = AnalysisReport::undecided("undecided", cluster.now());
    analyzer.set_report(name, fresh);
    let before = cluster.get_json("rollouts", SHOP, name).unwrap();
    apply(cluster, rollout(name, version));
    if outcome != Outcome::Promoted {
        let is_paused = |object: &Value| {
            object["status"]["phase"] == "Paused" && object["status"]["step"]["index"] == 1
        };
        reach(cluster, name, "its first pause", is_paused).await;
    }
    match outcome {
        Outcome::Promoted => {
            let stable = &before["status"]["stableRevision"];
            let is_released = |object: &Value| is_stable(object, stable);
            return reach(cluster, name, "its new version", is_released).await;
        }
        Outcome::RolledBack => {
            let breach = AnalysisReport::breached(AbortCause::Evidence, "31 of 1,000 failed");
            analyzer.set_report(name, breach);
        }
        Outcome::Aborted => {
            create_command(cluster, &format!("{name}-stop-{version}"), name, "abort");
        }
    }
    reach(cluster, name, "the abort", is_rolled_back).await;
}

/// Whether a revision other than `before` is stable.
fn is_stable(object: &Value, before: &Value) -> bool {
    let (status, generation) = (&object["status"], &object["metadata"]["generation"]);
    let current = &status["currentRevision"];
    status["observedGeneration"] == *generation
        && status["phase"] == "Healthy"
        && status["stableRevision"] == *current
        && current != before
        && !current.is_null()
}

/// Whether the release is aborted and the canary has no traffic.
fn is_rolled_back(object: &Value) -> bool {
    let status = &object["status"];
    status["stage"] == "Aborted" && status["weights"]["verified"].as_f64() == Some(0.0)
}

async fn reach(cluster: &FakeCluster, name: &str, what: &str, is_reached: impl Fn(&Value) -> bool) {
    let began = Instant::now();
    loop {
        let object = cluster.get_json("rollouts", SHOP, name).unwrap_or_default();
        if is_reached(&object) {
            return;
        }
        assert!(
            began.elapsed() < STUCK_AFTER,
            "{name} does not reach {what}: {:#}",
            object["status"]
        );
        cluster.sleep(POLL).await;
    }
}

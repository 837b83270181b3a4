//! Situations in which a controller may be replaced by another version.

use futures::future::LocalBoxFuture;
use serde_json::{Value, json};
use serin_core::hold::{Hold, HoldCode};
use serin_core::observed::AnalysisReport;
use serin_core::units::Weight;
use serin_crds::names::REVISION_LABEL;
use serin_fake_cluster::FakeCluster;

use crate::fixtures::*;
use crate::harness::*;

/// The name of the controller that reaches the situation.
pub const BEFORE: &str = "before";

/// A situation of the Rollout `checkout`.
pub struct Situation {
    /// The name of its recorded status.
    pub name: &'static str,
    /// Reaches the situation on a new cluster.
    reach: for<'a> fn(&'a FakeCluster, &'a RunningController) -> LocalBoxFuture<'a, ()>,
    /// What the analysis reports until a command. `None` for fresh data that decides nothing.
    report: Option<fn() -> AnalysisReport>,
    /// How the situation ends.
    pub outcome: Outcome,
}

/// How a situation ends without an abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The first revision becomes stable.
    FirstDeployed,
    /// The release of `v2` completes without a person.
    Completes,
    /// The release of `v2` keeps its position until this command, and then completes.
    CompletesAfter(&'static str),
    /// The release of `v2` stays aborted.
    Aborted,
    /// This version stays stable.
    Stable(&'static str),
}

impl Situation {
    /// A new cluster in this situation, whose controller was killed.
    pub async fn cluster(&self, seed: u64) -> FakeCluster {
        let cluster = FakeCluster::new(seed);
        create_route(&cluster, "checkout");
        let running = start_controller(&cluster, BEFORE);
        (self.reach)(&cluster, &running).await;
        running.kill(&cluster);
        cluster.sleep(3 * SECOND).await;
        cluster
    }

    /// Starts the controller that takes over.
    pub fn take_over(&self, cluster: &FakeCluster) -> RunningController {
        let running = start_controller(cluster, "after");
        if let Some(report) = self.report {
            running.analyzer.set_report("checkout", report());
        }
        running
    }
}

macro_rules! situations {
    ($($name:ident: $outcome:expr, $report:expr;)+) => {
        /// All situations.
        pub const SITUATIONS: &[Situation] = &[
            $(Situation {
                name: stringify!($name),
                reach: |cluster, running| Box::pin($name(cluster, running)),
                report: $report,
                outcome: $outcome,
            },)+
        ];
    };
}

situations! {
    first_deploy: Outcome::FirstDeployed, None;
    starting_canary: Outcome::Completes, None;
    paused_at_20: Outcome::Completes, None;
    raising_to_50: Outcome::Completes, None;
    paused_at_50: Outcome::Completes, None;
    raising_to_100: Outcome::Completes, None;
    paused_at_100: Outcome::Completes, None;
    pause_step: Outcome::CompletesAfter("promote"), None;
    paused_by_command: Outcome::CompletesAfter("resume"), None;
    inconclusive: Outcome::CompletesAfter("promote"), Some(no_data);
    growing: Outcome::CompletesAfter("promote"), None;
    stepped_down: Outcome::CompletesAfter("promote"), None;
    restarting_steps: Outcome::Completes, None;
    frozen: Outcome::CompletesAfter("override"), Some(budget_spent);
    overridden: Outcome::Completes, None;
    promoting: Outcome::Completes, None;
    promoting_after_service_switch: Outcome::Completes, None;
    baking: Outcome::Completes, None;
    draining: Outcome::Stable("v2"), None;
    stable: Outcome::Stable("v1"), None;
    aborting: Outcome::Aborted, None;
    aborted: Outcome::Aborted, None;
    without_router: Outcome::Completes, None;
}

fn no_data() -> AnalysisReport {
    AnalysisReport::held(Hold::new(HoldCode::NoData, "no samples"))
}

fn budget_spent() -> AnalysisReport {
    AnalysisReport::held(Hold::new(HoldCode::BudgetSpent, "no errors left to spend"))
}

fn budget_low() -> AnalysisReport {
    let hold = Hold::new(HoldCode::BudgetLeft, "few errors left to spend");
    AnalysisReport::held(hold.lowering_to(Some(Weight::percent(5))))
}

fn timed_steps() -> Value {
    let pause = json!({"pause": {"duration": "20s"}});
    json!([
        {"setWeight": 20}, pause, {"setWeight": 50}, pause, {"setWeight": 100}, pause,
    ])
}

fn manual_steps() -> Value {
    json!([{"setWeight": 50}, {"pause": {}}])
}

/// Makes `v1` stable and starts the release of `v2`.
async fn start_release(cluster: &FakeCluster, rollout: impl Fn(&str) -> Value) {
    apply(cluster, rollout("v1"));
    wait_until_healthy(cluster, "checkout", "v1").await;
    apply(cluster, rollout("v2"));
}

async fn reach_position(cluster: &FakeCluster, steps: Value, expected: &str) {
    let rollout = |version: &str| routed_rollout("checkout", version, 4, steps.clone());
    start_release(cluster, rollout).await;
    wait_for_position(cluster, "checkout", expected).await;
}

/// The status as a client of any version sees it.
pub fn status_json(cluster: &FakeCluster) -> Value {
    let rollout = cluster.get_json("rollouts", SHOP, "checkout");
    rollout.unwrap_or_default()["status"].clone()
}

async fn wait_for_status(cluster: &FakeCluster, is_reached: impl Fn(&Value) -> bool) {
    let result = cluster
        .wait_until(|cluster| is_reached(&status_json(cluster)), 10 * MINUTE)
        .await;
    assert!(result.is_ok(), "{:#}", status_json(cluster));
}

async fn first_deploy(cluster: &FakeCluster, _: &RunningController) {
    apply(cluster, routed_rollout("checkout", "v1", 4, timed_steps()));
    let has_pods = |cluster: &FakeCluster| !replica_sets(cluster, "checkout").is_empty();
    cluster.wait_until(has_pods, MINUTE).await.unwrap();
}

async fn starting_canary(cluster: &FakeCluster, _: &RunningController) {
    reach_position(cluster, timed_steps(), "Progressing/Progressing/0").await;
    let has_pods = |cluster: &FakeCluster| replica_sets(cluster, "checkout").len() == 2;
    cluster.wait_until(has_pods, MINUTE).await.unwrap();
}

async fn paused_at_20(cluster: &FakeCluster, _: &RunningController) {
    reach_position(cluster, timed_steps(), "Paused/Progressing/1").await;
}

async fn raising_to_50(cluster: &FakeCluster, _: &RunningController) {
    reach_position(cluster, timed_steps(), "Progressing/Progressing/2").await;
}

async fn paused_at_50(cluster: &FakeCluster, _: &RunningController) {
    reach_position(cluster, timed_steps(), "Paused/Progressing/3").await;
}

async fn raising_to_100(cluster: &FakeCluster, _: &RunningController) {
    reach_position(cluster, timed_steps(), "Progressing/Progressing/4").await;
}

async fn paused_at_100(cluster: &FakeCluster, _: &RunningController) {
    reach_position(cluster, timed_steps(), "Paused/Progressing/5").await;
}

async fn pause_step(cluster: &FakeCluster, _: &RunningController) {
    reach_position(cluster, manual_steps(), "Paused/Progressing/1").await;
}

async fn paused_by_command(cluster: &FakeCluster, running: &RunningController) {
    paused_at_20(cluster, running).await;
    create_command(cluster, "hold-on", "checkout", "pause");
    wait_for_status(cluster, |status| status["pause"]["reason"] == "Command").await;
}

async fn inconclusive(cluster: &FakeCluster, running: &RunningController) {
    let rollout = |version: &str| {
        let steps = json!([{"setWeight": 20}, {"analysis": {}}]);
        let mut rollout = analyzed_rollout("checkout", version, 4, steps);
        rollout["spec"]["analysis"]["maxDuration"] = json!("2m");
        rollout
    };
    start_release(cluster, rollout).await;
    wait_for_position(cluster, "checkout", "Progressing/Progressing/1").await;
    running.analyzer.set_report("checkout", no_data());
    wait_for_status(cluster, |status| {
        status["pause"]["reason"] == "Inconclusive"
    })
    .await;
}

async fn growing(cluster: &FakeCluster, running: &RunningController) {
    pause_step(cluster, running).await;
    apply(cluster, routed_rollout("checkout", "v2", 8, manual_steps()));
    wait_for_status(cluster, |status| status["growingSince"].is_string()).await;
}

async fn stepped_down(cluster: &FakeCluster, running: &RunningController) {
    let rollout = |version: &str| analyzed_rollout("checkout", version, 4, manual_steps());
    start_release(cluster, rollout).await;
    wait_for_position(cluster, "checkout", "Paused/Progressing/1").await;
    running.analyzer.set_report("checkout", budget_low());
    wait_for_status(cluster, |status| status["weights"]["cap"].is_number()).await;
}

async fn restarting_steps(cluster: &FakeCluster, running: &RunningController) {
    pause_step(cluster, running).await;
    let steps = json!([{"setWeight": 75}, {"pause": {"duration": "20s"}}]);
    apply(cluster, routed_rollout("checkout", "v2", 4, steps));
    wait_for_status(cluster, |status| status["restarting"] == true).await;
}

async fn frozen(cluster: &FakeCluster, running: &RunningController) {
    let rollout = |version: &str| analyzed_rollout("checkout", version, 4, timed_steps());
    start_release(cluster, rollout).await;
    wait_for_position(cluster, "checkout", "Paused/Progressing/1").await;
    running.analyzer.set_report("checkout", budget_spent());
    // The pause ends, and the freeze stops the release at its weight.
    cluster.sleep(30 * SECOND).await;
    let is_frozen = |status: &Value| {
        let mut holds = status["holds"].as_array().into_iter().flatten();
        holds.any(|hold| hold["code"] == "BudgetSpent")
    };
    wait_for_status(cluster, is_frozen).await;
}

async fn overridden(cluster: &FakeCluster, running: &RunningController) {
    frozen(cluster, running).await;
    create_command(cluster, "go-on", "checkout", "override");
    wait_for_status(cluster, |status| status["freezeOverride"].is_object()).await;
}

/// The revision that the stable Service selects.
fn stable_binding(cluster: &FakeCluster) -> Value {
    let service = cluster.get_json("services", SHOP, "checkout");
    service.unwrap_or_default()["spec"]["selector"][REVISION_LABEL].clone()
}

async fn promoting(cluster: &FakeCluster, _: &RunningController) {
    reach_position(cluster, timed_steps(), "Progressing/Promoting").await;
    let stable = status_json(cluster)["stableRevision"].clone();
    assert_eq!(stable_binding(cluster), stable, "before the switch");
}

async fn promoting_after_service_switch(cluster: &FakeCluster, running: &RunningController) {
    promoting(cluster, running).await;
    let is_switched =
        |cluster: &FakeCluster| stable_binding(cluster) == status_json(cluster)["currentRevision"];
    cluster.wait_until(is_switched, MINUTE).await.unwrap();
    assert_eq!(status_json(cluster)["stage"], "Promoting");
}

async fn baking(cluster: &FakeCluster, _: &RunningController) {
    let rollout = |version: &str| {
        let mut rollout = analyzed_rollout("checkout", version, 4, timed_steps());
        rollout["spec"]["analysis"]["bakeTime"] = json!("1m");
        rollout
    };
    start_release(cluster, rollout).await;
    wait_for_status(cluster, |status| status["bake"].is_object()).await;
}

async fn draining(cluster: &FakeCluster, running: &RunningController) {
    promoting(cluster, running).await;
    wait_until_healthy(cluster, "checkout", "v2").await;
    wait_for_status(cluster, |status| status["draining"].is_array()).await;
}

async fn stable(cluster: &FakeCluster, _: &RunningController) {
    apply(cluster, routed_rollout("checkout", "v1", 4, timed_steps()));
    wait_until_healthy(cluster, "checkout", "v1").await;
    cluster.sleep(20 * SECOND).await;
}

/// The abort is in the status, and the controller is killed before it writes the route.
async fn aborting(cluster: &FakeCluster, running: &RunningController) {
    pause_step(cluster, running).await;
    cluster.sleep(20 * SECOND).await;
    cluster.kill_after_writes(BEFORE, 1);
    create_command(cluster, "stop", "checkout", "abort");
    let is_dead = |cluster: &FakeCluster| cluster.is_dead(BEFORE);
    cluster.wait_until(is_dead, MINUTE).await.unwrap();
    assert_eq!(position(cluster, "checkout"), "Degraded/Aborted");
    assert_eq!(route_weights(cluster, "checkout"), (Some(50), Some(50)));
}

async fn aborted(cluster: &FakeCluster, running: &RunningController) {
    pause_step(cluster, running).await;
    create_command(cluster, "stop", "checkout", "abort");
    wait_for_position(cluster, "checkout", "Degraded/Aborted").await;
    cluster.sleep(20 * SECOND).await;
}

async fn without_router(cluster: &FakeCluster, _: &RunningController) {
    let steps = json!([{"setWeight": 50}, {"pause": {"duration": "20s"}}]);
    let rollout = |version: &str| unrouted_rollout("checkout", version, 4, steps.clone());
    start_release(cluster, rollout).await;
    wait_for_position(cluster, "checkout", "Paused/Progressing/1").await;
}

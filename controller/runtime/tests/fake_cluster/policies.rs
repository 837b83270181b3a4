//! Releases under RolloutPolicies and AnalysisTemplates: what applies, when an edit counts, and
//! what a missing or broken policy does.

use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};
use serin_core::hold::HoldCode;
use serin_core::observed::AnalysisReport;
use serin_core::state::Stage;
use serin_crds::{RolloutPolicy, RolloutPolicyStatus};
use serin_fake_cluster::{FakeCluster, Fault};

use crate::fixtures::*;
use crate::harness::*;

const POLICIES: &str = "rolloutpolicies";
const TEMPLATES: &str = "analysistemplates";
/// Longer than the time after which an edit has reached every Rollout.
const SPREAD: std::time::Duration = std::time::Duration::from_secs(30);

fn policy(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "serin.dev/v1alpha1", "kind": "RolloutPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
}

/// Steps with one pause, and an objective.
fn platform(weight: u32, objective: f64) -> Value {
    policy(
        "platform",
        json!({
            "defaults": {
                "strategy": {"canary": {"steps": [{"setWeight": weight}, {"pause": {}}]}},
                "analysis": {"objectives": [{"ref": "availability"}]},
            },
            "objectives": [
                {"name": "availability", "objective": objective, "indicator": "traefik"},
            ],
        }),
    )
}

/// A Rollout that leaves steps and analysis to its policies.
fn short_rollout(name: &str, version: &str) -> Value {
    let mut rollout = routed_rollout(name, version, 4, json!([]));
    let canary = rollout["spec"]["strategy"]["canary"].as_object_mut();
    canary.unwrap().remove("steps");
    rollout
}

fn hold_codes(cluster: &FakeCluster) -> Vec<String> {
    let holds = status(cluster, "checkout").state.holds;
    holds
        .iter()
        .map(|hold| hold.code.as_str().to_owned())
        .collect()
}

async fn wait_for_hold(cluster: &FakeCluster, code: HoldCode) {
    let has_hold = |cluster: &FakeCluster| hold_codes(cluster).contains(&code.as_str().to_owned());
    let held = cluster.wait_until(has_hold, MINUTE).await;
    assert!(
        held.is_ok(),
        "no hold {}: {:?}",
        code.as_str(),
        status(cluster, "checkout").state
    );
}

fn policy_status(cluster: &FakeCluster, name: &str) -> RolloutPolicyStatus {
    let object = cluster.get_json(POLICIES, "", name).unwrap();
    serde_json::from_value(object["status"].clone()).unwrap_or_default()
}

/// Starts a controller with a policy, and a stable Rollout.
async fn start_with_policy(cluster: &FakeCluster) -> RunningController {
    create_route(cluster, "checkout");
    apply(cluster, platform(20, 99.9));
    let running = start_controller(cluster, "serin");
    apply(cluster, short_rollout("checkout", "v1"));
    wait_until_healthy(cluster, "checkout", "v1").await;
    running
}

fn report_undecided(cluster: &FakeCluster, running: &RunningController) {
    let report = AnalysisReport::undecided("undecided", cluster.now());
    running.analyzer.set_report("checkout", report);
}

fn requested_objective(running: &RunningController) -> Option<f64> {
    let request = running.analyzer.last_request("checkout")?;
    let mut objectives = request.analysis.objectives.iter();
    objectives.next().map(|objective| objective.objective)
}

#[tokio::test(start_paused = true)]
async fn a_short_rollout_gets_steps_and_analysis_from_its_policy() {
    let cluster = FakeCluster::new(351);
    let running = start_with_policy(&cluster).await;
    report_undecided(&cluster, &running);
    apply(&cluster, short_rollout("checkout", "v2"));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    assert_eq!(requested_objective(&running), Some(99.9));
    assert_eq!(route_weights(&cluster, "checkout").1, Some(20));
    // The stored Rollout stays as it was written.
    let stored = cluster.get_json("rollouts", SHOP, "checkout").unwrap();
    assert!(stored["spec"].get("analysis").is_none(), "{stored}");
    assert!(stored["spec"]["strategy"]["canary"].get("steps").is_none());
    let state = status(&cluster, "checkout").state;
    assert_eq!(state.release_policies.len(), 1);
    assert_eq!(state.release_policies[0].name.as_str(), "platform");
    assert!(state.release_policies[0].required);
    create_command(&cluster, "go", "checkout", "promoteFull");
    wait_until_healthy(&cluster, "checkout", "v2").await;
    // The names stay, the defaults are of no use any more.
    let state = status(&cluster, "checkout").state;
    assert_eq!(state.release_policies.len(), 1);
    assert_eq!(state.release_policies[0].defaults, None);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_edit_of_a_policy_never_changes_a_release_in_progress() {
    for (seed, restarts) in [(352, false), (353, true)] {
        let cluster = FakeCluster::new(seed);
        let mut running = start_with_policy(&cluster).await;
        report_undecided(&cluster, &running);
        apply(&cluster, short_rollout("checkout", "v2"));
        wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
        if restarts {
            running.stop().await;
            apply(&cluster, platform(60, 50.0));
            running = start_controller(&cluster, "another");
            report_undecided(&cluster, &running);
        } else {
            apply(&cluster, platform(60, 50.0));
        }
        let is_unchanged = |cluster: &FakeCluster| {
            position(cluster, "checkout") == "Paused/Progressing/1"
                && route_weights(cluster, "checkout").1 == Some(20)
        };
        cluster
            .holds_for(is_unchanged, SPREAD)
            .await
            .unwrap_or_else(|_| panic!("seed {seed}: {:?}", status(&cluster, "checkout").state));
        assert_eq!(requested_objective(&running), Some(99.9), "seed {seed}");
        // The next release begins with the edited policy.
        apply(&cluster, short_rollout("checkout", "v3"));
        let is_next = |cluster: &FakeCluster| route_weights(cluster, "checkout").1 == Some(60);
        cluster
            .wait_until(is_next, 3 * MINUTE)
            .await
            .unwrap_or_else(|_| panic!("seed {seed}: {:?}", status(&cluster, "checkout").state));
        assert_eq!(requested_objective(&running), Some(50.0), "seed {seed}");
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_matches_later_gives_nothing_to_a_release_in_progress() {
    let cluster = FakeCluster::new(354);
    create_route(&cluster, "checkout");
    let running = start_controller(&cluster, "serin");
    let steps = json!([{"setWeight": 30}, {"pause": {}}]);
    apply(&cluster, routed_rollout("checkout", "v1", 4, steps.clone()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    apply(&cluster, routed_rollout("checkout", "v2", 4, steps));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    let before = status(&cluster, "checkout").state;
    apply(&cluster, platform(60, 99.9));
    let is_unchanged = |cluster: &FakeCluster| {
        let state = status(cluster, "checkout").state;
        state.release_analysis.is_none() && state.plan == before.plan
    };
    cluster
        .holds_for(is_unchanged, SPREAD)
        .await
        .expect("the release in progress has changed");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_policy_holds_the_next_release_and_the_correction_starts_it() {
    let cluster = FakeCluster::new(355);
    let running = start_with_policy(&cluster).await;
    report_undecided(&cluster, &running);
    let broken = policy(
        "platform",
        json!({"defaults": {"analysis": {"objectives": [{"ref": "availability"}]}}}),
    );
    apply(&cluster, broken);
    // A Rollout without a release is not changed.
    let is_healthy = |cluster: &FakeCluster| is_healthy(cluster, "checkout", "v1");
    cluster.holds_for(is_healthy, SPREAD).await.unwrap();
    let mut scaled = short_rollout("checkout", "v1");
    scaled["spec"]["replicas"] = json!(6);
    apply(&cluster, scaled);
    let is_scaled =
        |cluster: &FakeCluster| replicas_by_version(cluster, "checkout").get("v1") == Some(&6);
    cluster.wait_until(is_scaled, MINUTE).await.unwrap();
    apply(&cluster, short_rollout("checkout", "v2"));
    wait_for_hold(&cluster, HoldCode::PolicyReferenceInvalid).await;
    let message = status(&cluster, "checkout").state.message;
    assert!(
        message.contains("RolloutPolicy platform") && message.contains("availability"),
        "{message}"
    );
    assert!(!replicas_by_version(&cluster, "checkout").contains_key("v2"));
    // The policy itself says so, too.
    let is_reported = |cluster: &FakeCluster| {
        let status = policy_status(cluster, "platform");
        status.problems.len() == 1 && status.conditions[0].status == "False"
    };
    cluster.wait_until(is_reported, MINUTE).await.unwrap();
    apply(&cluster, platform(20, 99.9));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_policy_during_a_release_does_not_change_it_and_the_way_back_stays_open() {
    let cluster = FakeCluster::new(356);
    let running = start_with_policy(&cluster).await;
    report_undecided(&cluster, &running);
    apply(&cluster, short_rollout("checkout", "v2"));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    cluster.delete_json(POLICIES, "", "platform").unwrap();
    let is_unchanged = |cluster: &FakeCluster| {
        position(cluster, "checkout") == "Paused/Progressing/1"
            && route_weights(cluster, "checkout").1 == Some(20)
    };
    cluster
        .holds_for(is_unchanged, SPREAD)
        .await
        .expect("the release in progress has changed");
    assert_eq!(requested_objective(&running), Some(99.9));
    // Back to the stable revision, in Git.
    apply(&cluster, short_rollout("checkout", "v1"));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_policy_holds_the_next_release_unless_it_may_be_ignored() {
    for (seed, failure_policy, is_held) in [(357, "Fail", true), (358, "Ignore", false)] {
        let cluster = FakeCluster::new(seed);
        create_route(&cluster, "checkout");
        let with_failure_policy = |failure_policy: &str| {
            let mut object = platform(20, 99.9);
            object["spec"]["failurePolicy"] = json!(failure_policy);
            object
        };
        apply(&cluster, with_failure_policy(failure_policy));
        let running = start_controller(&cluster, "serin");
        report_undecided(&cluster, &running);
        apply(&cluster, short_rollout("checkout", "v1"));
        wait_until_healthy(&cluster, "checkout", "v1").await;
        cluster.delete_json(POLICIES, "", "platform").unwrap();
        apply(&cluster, short_rollout("checkout", "v2"));
        if is_held {
            wait_for_hold(&cluster, HoldCode::PolicyUnavailable).await;
            let message = status(&cluster, "checkout").state.message;
            assert!(message.contains("was deleted"), "{message}");
            apply(&cluster, with_failure_policy("Ignore"));
            wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
        } else {
            wait_until_healthy(&cluster, "checkout", "v2").await;
        }
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_aborted_release_is_not_retried_under_a_broken_policy() {
    let cluster = FakeCluster::new(359);
    let running = start_with_policy(&cluster).await;
    report_undecided(&cluster, &running);
    apply(&cluster, short_rollout("checkout", "v2"));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    create_command(&cluster, "stop", "checkout", "abort");
    let is_aborted =
        |cluster: &FakeCluster| status(cluster, "checkout").state.stage == Stage::Aborted;
    cluster.wait_until(is_aborted, MINUTE).await.unwrap();
    cluster.delete_json(POLICIES, "", "platform").unwrap();
    wait_for_hold(&cluster, HoldCode::PolicyUnavailable).await;
    create_command(&cluster, "again", "checkout", "retry");
    let (outcome, message) = command_outcome(&cluster, "again").await;
    assert_eq!(outcome, "Refused");
    assert!(message.contains("PolicyUnavailable"), "{message}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn policies_select_namespaces_by_their_current_labels() {
    let cluster = FakeCluster::new(360);
    create_route(&cluster, "checkout");
    let namespace = |team: &str| -> Value {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SHOP, "labels": {"team": team}}})
    };
    if cluster.get_json("namespaces", "", SHOP).is_some() {
        cluster.delete::<Namespace>("", SHOP).unwrap();
    }
    apply(&cluster, namespace("pay"));
    let mut selecting = platform(20, 99.9);
    selecting["spec"]["namespaceSelector"] = json!({"matchLabels": {"team": "shop"}});
    apply(&cluster, selecting);
    let running = start_controller(&cluster, "serin");
    report_undecided(&cluster, &running);
    apply(&cluster, short_rollout("checkout", "v1"));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let count = |cluster: &FakeCluster| policy_status(cluster, "platform").matched_rollouts;
    assert_eq!(count(&cluster), 0);
    apply(&cluster, namespace("shop"));
    let is_counted = |cluster: &FakeCluster| count(cluster) == 1;
    cluster.wait_until(is_counted, 6 * MINUTE).await.unwrap();
    apply(&cluster, short_rollout("checkout", "v2"));
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_template_that_appears_ends_the_hold_of_a_rollout_that_refers_to_it() {
    let cluster = FakeCluster::new(361);
    create_route(&cluster, "checkout");
    cluster.set_served_versions(TEMPLATES, &[]);
    let running = start_controller(&cluster, "serin");
    report_undecided(&cluster, &running);
    let steps = json!([{"setWeight": 20}, {"pause": {}}]);
    apply(&cluster, routed_rollout("checkout", "v1", 4, steps.clone()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    let mut referring = routed_rollout("checkout", "v2", 4, steps);
    referring["spec"]["analysis"] =
        json!({"objectives": [{"ref": "availability", "analysisTemplate": "team"}]});
    apply(&cluster, referring);
    wait_for_hold(&cluster, HoldCode::PolicyUnavailable).await;
    let message = status(&cluster, "checkout").state.message;
    assert!(
        message.contains("does not serve AnalysisTemplate"),
        "{message}"
    );
    cluster.set_served_versions(TEMPLATES, &["v1alpha1"]);
    wait_for_hold(&cluster, HoldCode::PolicyReferenceInvalid).await;
    apply(
        &cluster,
        json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "AnalysisTemplate",
            "metadata": {"name": "team", "namespace": SHOP},
            "spec": {"objectives": [
                {"name": "availability", "objective": 99.5, "indicator": "traefik"},
            ]},
        }),
    );
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    assert_eq!(requested_objective(&running), Some(99.5));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_may_not_list_policies_starts_no_release() {
    let cluster = FakeCluster::new(362);
    create_route(&cluster, "checkout");
    let running = start_controller(&cluster, "serin");
    let steps = json!([{"setWeight": 20}, {"pause": {}}]);
    apply(&cluster, routed_rollout("checkout", "v1", 4, steps.clone()));
    wait_until_healthy(&cluster, "checkout", "v1").await;
    running.stop().await;
    cluster.inject(Fault::on("list", POLICIES).always().status(403));
    let running = start_controller(&cluster, "another");
    let is_healthy = |cluster: &FakeCluster| is_healthy(cluster, "checkout", "v1");
    cluster.holds_for(is_healthy, SPREAD).await.unwrap();
    apply(&cluster, routed_rollout("checkout", "v2", 4, steps));
    wait_for_hold(&cluster, HoldCode::PolicyUnavailable).await;
    let message = status(&cluster, "checkout").state.message;
    assert!(
        message.contains("may not list RolloutPolicies"),
        "{message}"
    );
    cluster.clear_faults();
    wait_for_position(&cluster, "checkout", "Paused/Progressing/1").await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_edit_is_worked_off_at_a_limited_rate_and_resolves_each_rollout_once() {
    const ROLLOUTS: usize = 20;
    let cluster = FakeCluster::new(363);
    let running = start_controller(&cluster, "serin");
    for number in 0..5 {
        let weight = json!({"rolloutSelector": {}, "precedence": number, "defaults": {
            "progressDeadlineSeconds": 300 + number,
        }});
        apply(&cluster, policy(&format!("policy-{number}"), weight));
    }
    for number in 0..ROLLOUTS {
        let name = format!("web-{number}");
        apply(&cluster, unrouted_rollout(&name, "v1", 1, json!([])));
    }
    let all_healthy = |cluster: &FakeCluster| {
        (0..ROLLOUTS).all(|number| is_healthy(cluster, &format!("web-{number}"), "v1"))
    };
    cluster.wait_until(all_healthy, 10 * MINUTE).await.unwrap();
    cluster.sleep(SPREAD).await;
    let resolved = running.metrics.policy_resolutions();
    cluster.sleep(MINUTE).await;
    assert_eq!(
        running.metrics.policy_resolutions(),
        resolved,
        "a Rollout is resolved again only if something has changed"
    );
    let versions = |cluster: &FakeCluster| -> Vec<String> {
        let version = |number: usize| {
            let name = format!("web-{number}");
            let object = cluster.get_json("rollouts", SHOP, &name).unwrap();
            object["metadata"]["resourceVersion"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        (0..ROLLOUTS).map(version).collect()
    };
    // The policy with the lowest precedence contributes nothing that counts.
    let before = versions(&cluster);
    let edited = json!({"rolloutSelector": {}, "precedence": 0, "defaults": {
        "progressDeadlineSeconds": 299,
    }});
    apply(&cluster, policy("policy-0", edited));
    cluster.sleep(SPREAD).await;
    let after = running.metrics.policy_resolutions();
    assert_eq!(after - resolved, ROLLOUTS as u64, "each is resolved once");
    assert_eq!(versions(&cluster), before, "nothing is written");
}

#[tokio::test(start_paused = true)]
async fn the_status_of_a_policy_is_written_rarely() {
    let cluster = FakeCluster::new(364);
    let running = start_with_policy(&cluster).await;
    let is_counted =
        |cluster: &FakeCluster| policy_status(cluster, "platform").matched_rollouts == 1;
    cluster.wait_until(is_counted, 6 * MINUTE).await.unwrap();
    let policy: RolloutPolicy =
        serde_json::from_value(cluster.get_json(POLICIES, "", "platform").unwrap()).unwrap();
    let reported = policy.status.unwrap();
    assert_eq!(reported.observed_generation, 1);
    assert_eq!(reported.conditions[0].type_, "Ready");
    assert_eq!(reported.conditions[0].status, "True");
    let version = policy.metadata.resource_version;
    let is_same = |cluster: &FakeCluster| {
        let object = cluster.get_json(POLICIES, "", "platform").unwrap();
        object["metadata"]["resourceVersion"].as_str() == version.as_deref()
    };
    cluster.holds_for(is_same, 10 * MINUTE).await.unwrap();
    running.stop().await;
}

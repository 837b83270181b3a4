//! The admission policy for commands: without it, commands are refused.

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use serde_json::json;
use serin_fake_cluster::{FakeCluster, Fault};

use crate::fixtures::*;
use crate::harness::*;

const POLICY: &str = "serin-commands";

fn create_policy(cluster: &FakeCluster) {
    apply(
        cluster,
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": POLICY},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": ["serin.dev"], "apiVersions": ["*"], "operations": ["CREATE"],
                    "resources": ["rolloutcommands"],
                }]},
                "validations": [{"expression": "true"}],
            },
        }),
    );
    create_binding(cluster);
}

fn create_binding(cluster: &FakeCluster) {
    apply(
        cluster,
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": POLICY},
            "spec": {"policyName": POLICY, "validationActions": ["Deny"]},
        }),
    );
}

async fn start_release(cluster: &FakeCluster) -> RunningController {
    create_route(cluster, "checkout");
    let running = start_controller_with_policy(cluster, "serin", POLICY);
    let steps = || json!([{"setWeight": 20}, {"pause": {}}]);
    apply(cluster, routed_rollout("checkout", "v1", 2, steps()));
    wait_until_healthy(cluster, "checkout", "v1").await;
    apply(cluster, routed_rollout("checkout", "v2", 2, steps()));
    wait_for_position(cluster, "checkout", "Paused/Progressing/1").await;
    running
}

#[tokio::test(start_paused = true)]
async fn commands_are_refused_without_the_policy() {
    let cluster = FakeCluster::new(61);
    let _running = start_release(&cluster).await;
    create_command(&cluster, "stop", "checkout", "abort");
    let (result, message) = command_outcome(&cluster, "stop").await;
    assert_eq!(result, "Refused");
    assert!(
        message.contains("ValidatingAdmissionPolicy serin-commands does not exist"),
        "{message}"
    );
    assert_eq!(position(&cluster, "checkout"), "Paused/Progressing/1");
}

#[tokio::test(start_paused = true)]
async fn commands_are_carried_out_with_the_policy_and_refused_once_its_binding_is_deleted() {
    let cluster = FakeCluster::new(62);
    create_policy(&cluster);
    let _running = start_release(&cluster).await;
    create_command(&cluster, "stop", "checkout", "abort");
    let (result, message) = command_outcome(&cluster, "stop").await;
    assert_eq!(result, "Done", "{message}");
    cluster
        .delete::<ValidatingAdmissionPolicyBinding>("", POLICY)
        .unwrap();
    cluster.sleep(MINUTE / 2).await;
    create_command(&cluster, "again", "checkout", "retry");
    let (result, message) = command_outcome(&cluster, "again").await;
    assert_eq!(result, "Refused");
    assert!(
        message.contains("Binding serin-commands does not exist"),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_command_that_was_created_before_the_policy_is_refused() {
    let cluster = FakeCluster::new(63);
    create_policy(&cluster);
    let running = start_release(&cluster).await;
    cluster
        .delete::<ValidatingAdmissionPolicyBinding>("", POLICY)
        .unwrap();
    running.stop().await;
    create_command(&cluster, "stop", "checkout", "abort");
    cluster.sleep(MINUTE).await;
    create_binding(&cluster);
    let _running = start_controller_with_policy(&cluster, "another", POLICY);
    let (result, message) = command_outcome(&cluster, "stop").await;
    assert_eq!(result, "Refused");
    assert!(message.contains("create it again"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn commands_wait_until_the_policy_was_looked_up() {
    let cluster = FakeCluster::new(64);
    create_policy(&cluster);
    let lost = Fault::on("get", "validatingadmissionpolicies").status(503);
    cluster.inject(lost.clone().always());
    let _running = start_release(&cluster).await;
    create_command(&cluster, "stop", "checkout", "abort");
    cluster.sleep(MINUTE).await;
    assert_eq!(position(&cluster, "checkout"), "Paused/Progressing/1");
    cluster.clear_faults();
    let (result, message) = command_outcome(&cluster, "stop").await;
    assert_eq!(result, "Done", "{message}");
}

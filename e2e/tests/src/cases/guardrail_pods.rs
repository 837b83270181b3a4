//! Guardrails that need pods: they start, and no request reaches them.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use serin_core::hold::HoldCode;
use serin_crds::Rollout;

use super::commands::run_plugin;
use super::guardrails::{KIND_IS_FOUND, LOAD_PER_SECOND, PATIENCE, options, rollout};
use crate::env::Env;
use crate::guardrails::{
    ForeignKind, apply_policy, apply_to_cluster, constraint, ensure_message, policy, policy_report,
    remove_from_cluster, vulnerability_report,
};
use crate::manifests::SampleRelease;
use crate::note;
use crate::shop::{Shop, is_stable, stop_and_ensure_no_loss};

const POD_CONSTRAINT: &str = "serin-e2e-owner";

fn pod_policy(shop: &Shop) -> serde_json::Value {
    let guardrails = json!({
        "vulnerabilities": {"mode": "Enforce"},
        "policyReports": {"mode": "Enforce"},
        "imageSignature": {"mode": "Enforce", "verifiers": ["Kyverno"]},
    });
    policy(
        "serin-e2e-pods",
        &shop.namespace,
        json!({"guardrails": guardrails}),
    )
}

/// # Errors
/// If an expectation is not met.
pub async fn guardrails_on_pods_let_no_request_reach_a_release(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-pod-guardrails").await?;
    remove_pod_kinds(env).await?;
    let checked = Box::pin(check_pod_guardrails(env, &shop)).await;
    remove_from_cluster(env, &pod_policy(&shop)).await?;
    remove_pod_kinds(env).await?;
    checked?;
    shop.delete().await
}

async fn remove_pod_kinds(env: &Env) -> Result<()> {
    ForeignKind::VULNERABILITY_REPORT
        .remove(env, &["v1alpha1"])
        .await?;
    ForeignKind::POLICY_REPORT
        .remove(env, &["v1alpha2"])
        .await?;
    ForeignKind::CONSTRAINT.remove(env, &["v1beta1"]).await
}

async fn check_pod_guardrails(env: &Env, shop: &Shop) -> Result<()> {
    shop.deploy_first(&options(), &SampleRelease::good("v1"))
        .await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    let (revision, of_v2) = Box::pin(check_held_pods(env, shop)).await?;

    shop.apply(rollout(shop, "v3")).await?;
    let is_next = |rollout: &Rollout| {
        let state = rollout.status.as_ref().map(|status| &status.state);
        let current = state.and_then(|state| state.current_revision.as_ref());
        current.is_some_and(|current| current.as_str() != revision)
    };
    shop.wait_until("v3 supersedes v2", PATIENCE, is_next)
        .await?;
    let (next, pods) = shop.wait_for_canary_pods(1, PATIENCE).await?;
    ensure!(
        pods.iter().all(|pod| !of_v2.contains(pod)),
        "pods of v2: {pods:?}"
    );
    let replica_set = format!("{}-{next}", shop.name);
    shop.apply(policy_report("ReplicaSet", &replica_set, "pass"))
        .await?;
    for pod in &pods {
        shop.write_kyverno_verdict(pod).await?;
    }
    shop.apply(vulnerability_report(&replica_set, &[])).await?;
    Box::pin(release_with_verdicts(shop, &next)).await?;
    let report = stop_and_ensure_no_loss(load).await?;
    note!("{}", report.summary());
    ensure!(
        report.all().of_version("v2").counts().total() == 0,
        "v2 got a request"
    );
    ensure!(
        report.all().of_version("v3").counts().total() > 0,
        "v3 got no request"
    );
    Ok(())
}

/// Releases v2, which violates the guardrails on its pods, and checks that it is held and why.
/// Returns its revision and its pods.
async fn check_held_pods(env: &Env, shop: &Shop) -> Result<(String, Vec<String>)> {
    apply_policy(env, &pod_policy(shop)).await?;
    shop.apply(rollout(shop, "v2")).await?;
    // Nothing scans or checks the pods, so that they need not start.
    let rollout_now = shop
        .wait_for_holds(&[HoldCode::GuardrailUnknown], PATIENCE)
        .await?;
    let parts = [
        "VulnerabilityReports",
        "does not serve the kind",
        "1 more problem",
    ];
    ensure_message(&rollout_now, HoldCode::GuardrailUnknown, &parts)?;
    ensure!(
        shop.revisions().await?.len() == 1,
        "v2 must not have a ReplicaSet"
    );

    ForeignKind::VULNERABILITY_REPORT
        .install(env, &["v1alpha1"])
        .await?;
    ForeignKind::POLICY_REPORT
        .install(env, &["v1alpha2"])
        .await?;
    ForeignKind::CONSTRAINT.install(env, &["v1beta1"]).await?;
    let missing = [
        HoldCode::VulnerabilityReportMissing,
        HoldCode::ImageNotSigned,
    ];
    shop.wait_for_holds(&missing, KIND_IS_FOUND).await?;
    let (revision, pods) = shop.wait_for_canary_pods(1, PATIENCE).await?;
    let replica_set = format!("{}-{revision}", shop.name);
    shop.apply(vulnerability_report(&replica_set, &["CVE-2026-1001"]))
        .await?;
    shop.apply(policy_report("ReplicaSet", &replica_set, "fail"))
        .await?;
    apply_to_cluster(env, &constraint(POD_CONSTRAINT, &shop.namespace, &pods)).await?;
    let expected: [(HoldCode, [&str; 3]); 3] = [
        (
            HoldCode::Vulnerable,
            ["container sample", "CVE-2026-1001", "3.0.13-1"],
        ),
        (
            HoldCode::PolicyViolated,
            ["ReplicaSet", "require-ro-rootfs", "more problem"],
        ),
        (
            HoldCode::ImageNotSigned,
            [
                "pod template",
                "kyverno.io/verify-images",
                "Sign the images",
            ],
        ),
    ];
    let held = shop
        .wait_for_holds(&expected.map(|(code, _)| code), PATIENCE)
        .await?;
    for (code, parts) in expected {
        ensure_message(&held, code, &parts)?;
    }
    let share = shop.route_share().await?;
    ensure!(
        share.as_percent() == 0.0,
        "the canary has a share of {share:?}"
    );
    let (_, text) = run_plugin(env, shop, "kubectl-serin", &["explain", "shop"]).await?;
    ensure!(
        text.contains("CVE-2026-1001"),
        "explain does not name it: {text}"
    );

    Ok((revision, pods))
}

/// Waits until a release is stable, and meanwhile signs its further pods as Kyverno would.
async fn release_with_verdicts(shop: &Shop, revision: &str) -> Result<()> {
    let sign = async {
        loop {
            if let Ok((current, pods)) = shop.wait_for_canary_pods(1, PATIENCE).await
                && current == revision
            {
                for pod in pods {
                    // A pod may be gone meanwhile.
                    let _ = shop.write_kyverno_verdict(&pod).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        stable = shop.wait_until("v3 is stable", PATIENCE, is_stable) => stable.map(|_| ()),
        () = sign => Ok(()),
    }
}

//! Guardrails depend on the kinds that the cluster serves, and on the labels of the namespace.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use serin_core::hold::HoldCode;
use serin_crds::Rollout;

use super::guardrails::{KIND_IS_FOUND, PATIENCE, label_namespace, rollout, without_router};
use crate::env::Env;
use crate::guardrails::{
    ForeignKind, apply_policy, apply_to_cluster, ensure_message, holds, message_of, policy,
    remove_from_cluster,
};
use crate::shop::{Shop, is_paused, is_stable};

/// Longer than the time for which a list is shared.
const LIST_IS_SHARED: Duration = Duration::from_secs(7);
const KIND: ForeignKind = ForeignKind::CLUSTER_IMAGE_POLICY;

fn signature_policy(shop: &Shop) -> Value {
    let guardrails = json!({"imageSignature": {
        "mode": "Enforce", "verifiers": ["PolicyController"],
    }});
    policy(
        "serin-e2e-kinds",
        &shop.namespace,
        json!({"guardrails": guardrails}),
    )
}

/// A ClusterImagePolicy, whose policy-controller verifies every image of this registry.
fn image_policy(version: &str) -> Value {
    json!({
        "apiVersion": format!("policy.sigstore.dev/{version}"), "kind": "ClusterImagePolicy",
        "metadata": {"name": "serin-e2e-signed"},
        "spec": {
            "images": [{"glob": "serin.local/**"}],
            "authorities": [{"name": "authority-0", "key": {"hashAlgorithm": "sha256",
                "data": "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----"}}],
            "mode": "enforce",
        },
    })
}

/// # Errors
/// If an expectation is not met.
pub async fn kinds_of_guardrails_may_appear_disappear_and_change_their_version(
    env: &Env,
) -> Result<()> {
    let shop = Shop::create_without_route(env, "serin-e2e-guardrail-kinds", "shop").await?;
    KIND.remove(env, &["v1", "v1alpha1", "v1beta1"]).await?;
    let checked = Box::pin(check_kinds(env, &shop)).await;
    remove_from_cluster(env, &signature_policy(&shop)).await?;
    KIND.remove(env, &["v1", "v1alpha1", "v1beta1"]).await?;
    checked?;
    shop.delete().await
}

async fn check_kinds(env: &Env, shop: &Shop) -> Result<()> {
    let release = |version: &str| {
        let mut rollout = without_router(rollout(shop, version));
        rollout["spec"]["replicas"] = json!(2);
        rollout["spec"]["strategy"]["canary"]["steps"] = json!([{"setWeight": 50}, {"pause": {}}]);
        rollout
    };
    label_namespace(
        env,
        &shop.namespace,
        json!({"policy.sigstore.dev/include": "true"}),
    )
    .await?;
    shop.apply(release("v1")).await?;
    shop.wait_until("v1 is stable", PATIENCE, is_stable).await?;
    KIND.install(env, &["v1"]).await?;
    apply_policy(env, &signature_policy(shop)).await?;
    shop.apply(release("v2")).await?;
    let not_signed = [HoldCode::ImageNotSigned];
    // The discovery of a new kind may lag behind, and is then looked up again.
    let versions = "serves clusterimagepolicies.policy.sigstore.dev in v1, and Serin reads v1beta1";
    let is_named = |rollout: &Rollout| {
        message_of(rollout, HoldCode::ImageNotSigned)
            .is_ok_and(|message| message.contains(versions))
    };
    shop.wait_until("its versions are named", KIND_IS_FOUND, is_named)
        .await?;
    // The program now also serves a version that Serin reads.
    KIND.install(env, &["v1", "v1alpha1"]).await?;
    apply_to_cluster(env, &image_policy("v1alpha1")).await?;
    shop.wait_until(
        "v2 waits at its pause",
        KIND_IS_FOUND,
        is_paused_without_hold,
    )
    .await?;
    // It is uninstalled while the release is in progress. New pods are checked at once, with a list
    // that may be 5 s old.
    KIND.remove(env, &["v1", "v1alpha1"]).await?;
    shop.scale(6).await?;
    if shop
        .wait_for_holds(&not_signed, LIST_IS_SHARED)
        .await
        .is_err()
    {
        shop.scale(4).await?;
    }
    let held = shop.wait_for_holds(&not_signed, PATIENCE).await?;
    ensure_message(
        &held,
        HoldCode::ImageNotSigned,
        &["does not serve the kind"],
    )?;
    // Its next version serves other versions.
    KIND.install(env, &["v1beta1"]).await?;
    apply_to_cluster(env, &image_policy("v1beta1")).await?;
    shop.wait_until("nothing holds v2", KIND_IS_FOUND, is_paused_without_hold)
        .await?;
    let (done, message) = shop.run_command("promote", json!({})).await?;
    ensure!(done, "{message}");
    shop.wait_until("v2 is stable", PATIENCE, is_stable).await?;
    Ok(())
}

fn is_paused_without_hold(rollout: &Rollout) -> bool {
    let is_held = holds(rollout)
        .iter()
        .any(|hold| hold.code == HoldCode::ImageNotSigned);
    is_paused(rollout) && !is_held
}

// ---- Pod security without warnings ----

/// # Errors
/// If an expectation is not met.
pub async fn guardrails_name_what_pod_security_refuses_without_a_label_for_warnings(
    env: &Env,
) -> Result<()> {
    // The namespace enforces the level and has no label for warnings.
    let shop = Shop::create_without_route(env, "serin-e2e-refused-pods", "shop").await?;
    let guardrails = json!({"podSecurity": {"mode": "Enforce", "level": "restricted"}});
    let policy = policy(
        "serin-e2e-refused",
        &shop.namespace,
        json!({"guardrails": guardrails}),
    );
    apply_policy(env, &policy).await?;
    let checked = Box::pin(check_refused_pods(&shop)).await;
    remove_from_cluster(env, &policy).await?;
    checked?;
    shop.delete().await
}

async fn check_refused_pods(shop: &Shop) -> Result<()> {
    let mut refused = without_router(rollout(shop, "v1"));
    let container = &mut refused["spec"]["template"]["spec"]["containers"][0];
    container["securityContext"]["allowPrivilegeEscalation"] = json!(true);
    shop.apply(refused).await?;
    let code = HoldCode::PodSecurityViolated;
    let held = shop.wait_for_holds(&[code], PATIENCE).await?;
    ensure_message(&held, code, &["pod template", "allowPrivilegeEscalation"])?;
    ensure!(
        shop.revisions().await?.is_empty(),
        "v1 must not have a ReplicaSet"
    );
    shop.apply(without_router(rollout(shop, "v2"))).await?;
    shop.wait_until("v2 is stable", PATIENCE, is_stable).await?;
    Ok(())
}

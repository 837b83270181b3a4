//! The admission policies of the chart, which the API server evaluates.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::core::v1::Service;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use serin_core::state::Stage;
use serin_crds::Rollout;

use super::chart;
use crate::env::Env;
use crate::manifests::{self, RolloutOptions, SampleRelease};
use crate::shop::{Shop, is_aborted};

/// A user who may edit Rollouts and create ReplicaSets, but not patch Services and HTTPRoutes.
const EDITOR: &str = "mallory";

/// # Errors
/// If an expectation is not met.
pub async fn the_policies_limit_authors_commands_and_the_controller(env: &Env) -> Result<()> {
    chart::install(env, &[]).await?;
    let checked = check_policies(env).await;
    chart::uninstall(env).await?;
    checked
}

async fn check_policies(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-admission").await?;
    let spec = RolloutOptions {
        steps: Some(json!([{"setWeight": 20}, {"pause": {}}])),
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    grant_editor(&shop).await?;
    let editor = env.client_as(EDITOR).await?;
    ensure_services_need_permission(&shop, &editor, &spec).await?;
    ensure_deployments_need_permission(&shop, &editor, &spec).await?;
    shop.apply_release(&spec, &SampleRelease::good("v2"))
        .await?;
    let is_progressing = |rollout: &Rollout| {
        let status = rollout.status.as_ref();
        status.is_some_and(|status| status.state.stage == Stage::Progressing)
    };
    shop.wait_until("v2 is released", Duration::from_secs(60), is_progressing)
        .await?;
    ensure_analysis_is_fixed(&shop, &editor).await?;
    ensure_controller_is_limited(env, &shop).await?;
    ensure_commands_need_the_policy(env, &shop).await?;
    shop.delete().await
}

async fn grant_editor(shop: &Shop) -> Result<()> {
    let group = "rbac.authorization.k8s.io";
    let subjects = json!([{"apiGroup": group, "kind": "User", "name": EDITOR}]);
    let binding = |name: &str, kind: &str, role: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": kind, "name": role}, "subjects": subjects,
        })
    };
    shop.apply(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "workloads"},
        "rules": [{"apiGroups": ["apps"], "resources": ["replicasets"], "verbs": ["create"]}],
    }))
    .await?;
    shop.apply(binding("workloads", "Role", "workloads"))
        .await?;
    shop.apply(binding("editors", "ClusterRole", "serin-editor"))
        .await?;
    Ok(())
}

/// The message of a refusal by a policy. `None` if the request was not refused by one.
fn policy_refusal<T>(answer: kube::Result<T>) -> Option<String> {
    match answer {
        Err(kube::Error::Api(status)) if status.message.contains("ValidatingAdmissionPolicy") => {
            Some(status.message.clone())
        }
        _ => None,
    }
}

/// A Rollout of the editor must not take over the Service of another one.
async fn ensure_services_need_permission(
    shop: &Shop,
    editor: &Client,
    spec: &RolloutOptions,
) -> Result<()> {
    let mut evil = manifests::rollout("evil", spec, &SampleRelease::good("v1"));
    evil["spec"]["strategy"]["canary"]["stableService"] = json!(shop.name);
    let evil: Rollout = serde_json::from_value(evil)?;
    let rollouts = Api::<Rollout>::namespaced(editor.clone(), &shop.namespace);
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let expected = format!("patch the Service {}/{}", shop.namespace, shop.name);
    // The policy takes effect after a short delay.
    shop.eventually(
        "the Service is protected",
        Duration::from_secs(60),
        async || {
            let refusal = policy_refusal(rollouts.create(&dry_run, &evil).await);
            Ok(refusal.is_some_and(|message| message.contains(&expected)))
        },
    )
    .await
}

/// A Rollout of the editor must neither take over a Deployment nor be given back to one, if they may
/// not patch it.
async fn ensure_deployments_need_permission(
    shop: &Shop,
    editor: &Client,
    spec: &RolloutOptions,
) -> Result<()> {
    let rollouts = Api::<Rollout>::namespaced(editor.clone(), &shop.namespace);
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    for (field, value, deployment) in [
        ("adopt", json!({"deployment": "payments"}), "payments"),
        ("onDelete", json!("GiveBack"), "evil"),
    ] {
        let mut evil = manifests::rollout("evil", spec, &SampleRelease::good("v1"));
        evil["spec"][field] = value;
        let evil: Rollout = serde_json::from_value(evil)?;
        let refusal = policy_refusal(rollouts.create(&dry_run, &evil).await)
            .with_context(|| format!("spec.{field} needs no permission"))?;
        let expected = format!("patch the Deployment {}/{deployment}", shop.namespace);
        ensure!(refusal.contains(&expected), "{refusal}");
    }
    Ok(())
}

/// During a release, the editor can change neither the analysis nor the steps, but can start
/// another release.
async fn ensure_analysis_is_fixed(shop: &Shop, editor: &Client) -> Result<()> {
    let rollouts = Api::<Rollout>::namespaced(editor.clone(), &shop.namespace);
    let patch = async |dry_run: bool, change: Value| {
        let parameters = PatchParams {
            dry_run,
            ..PatchParams::default()
        };
        rollouts
            .patch(&shop.name, &parameters, &Patch::Merge(change))
            .await
    };
    for (change, field) in [
        (json!({"spec": {"analysis": null}}), "spec.analysis"),
        (
            json!({"spec": {"strategy": {"canary": {"steps": [{"setWeight": 90}]}}}}),
            "spec.strategy",
        ),
    ] {
        let refusal = policy_refusal(patch(false, change).await)
            .with_context(|| format!("{field} can be changed during a release"))?;
        ensure!(
            refusal.contains(field) && refusal.contains("override"),
            "{refusal}"
        );
    }
    patch(true, json!({"spec": {"replicas": 3}})).await?;
    let template = json!({"metadata": {"annotations": {"changed": "yes"}}});
    patch(true, json!({"spec": {"template": template}})).await?;
    Ok(())
}

/// With the controller's own token, Services of others cannot be changed.
async fn ensure_controller_is_limited(env: &Env, shop: &Shop) -> Result<()> {
    shop.apply(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "payments"},
        "spec": {"selector": {"app": "payments"}, "ports": [{"port": 80}]},
    }))
    .await?;
    let account = format!("system:serviceaccount:{}:serin", chart::NAMESPACE);
    let client = env.client_as(&account).await?;
    let services = Api::<Service>::namespaced(client, &shop.namespace);
    let label = json!({"labels": {"serin.dev/rollout": "shop"}});
    for (change, expected) in [
        (
            json!({"spec": {"selector": {"serin.dev/revision": "x"}}}),
            "with the label serin.dev/rollout",
        ),
        (
            json!({"metadata": label, "spec": {"selector": {"app": "shop"}}}),
            "only the key serin.dev/revision",
        ),
        (
            json!({"metadata": label, "spec": {"ports": [{"port": 80, "targetPort": 1}]}}),
            "ports",
        ),
    ] {
        let answer = services
            .patch(
                "payments",
                &PatchParams::default(),
                &Patch::Merge(change.clone()),
            )
            .await;
        let refusal = policy_refusal(answer)
            .with_context(|| format!("the controller can change a foreign Service: {change}"))?;
        ensure!(refusal.contains(expected), "{refusal}");
    }
    Ok(())
}

/// Commands are verified while the policy is in force, and refused without its binding.
async fn ensure_commands_need_the_policy(env: &Env, shop: &Shop) -> Result<()> {
    // Commands are refused for some seconds after the policy was installed, until every API server
    // enforces it.
    shop.eventually(
        "a command is verified",
        Duration::from_secs(20),
        async || {
            let (done, message) = shop.run_command("abort", json!({})).await?;
            let is_early = message.contains("before the admission policy");
            ensure!(done || is_early, "{message}");
            Ok(done)
        },
    )
    .await?;
    shop.wait_until("aborted", Duration::from_secs(30), is_aborted)
        .await?;
    let abort = shop.status().await?.state.abort.context("an abort")?;
    let by = abort.by.as_deref().unwrap_or_default();
    ensure!(
        !by.is_empty() && !by.contains("unverified"),
        "the requester must be verified: {by:?}"
    );
    Api::<ValidatingAdmissionPolicyBinding>::all(env.client.clone())
        .delete("serin-commands", &DeleteParams::default())
        .await?;
    shop.eventually(
        "commands are refused",
        Duration::from_secs(60),
        async || {
            let (done, message) = shop.run_command("pause", json!({})).await?;
            Ok(!done && message.contains("admission policy is not in force"))
        },
    )
    .await
}

//! Commands: the kubectl plugin, permissions per verb, and outdated preconditions.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::PostParams;
use serde_json::json;
use serin_crds::{Rollout, RolloutCommand};
use tokio::process::Command;

use crate::env::Env;
use crate::manifests::{RolloutOptions, SampleRelease};
use crate::note;
use crate::shop::{Shop, is_aborted, is_stable};

async fn start_paused_release(env: &Env, namespace: &str) -> Result<(Shop, RolloutOptions)> {
    let shop = Shop::create(env, namespace).await?;
    let steps = json!([{"setWeight": 20}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}]);
    let spec = RolloutOptions {
        steps: Some(steps),
        analysis: None,
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    shop.apply_release(&spec, &SampleRelease::good("v2"))
        .await?;
    wait_until_paused_at(&shop, 1).await?;
    Ok((shop, spec))
}

async fn wait_until_paused_at(shop: &Shop, index: usize) -> Result<()> {
    let at = |rollout: &Rollout| {
        let status = rollout.status.as_ref();
        let step = status
            .and_then(|status| status.state.step.as_ref())
            .map(|step| step.index);
        step == Some(index) && status.is_some_and(|status| status.state.pause.is_some())
    };
    shop.wait_until(
        &format!("paused at step {}", index + 1),
        Duration::from_secs(120),
        at,
    )
    .await?;
    Ok(())
}

/// Runs a plugin. Returns its exit code and its output.
///
/// # Errors
/// If it cannot be run.
pub async fn run_plugin(
    env: &Env,
    shop: &Shop,
    plugin: &str,
    arguments: &[&str],
) -> Result<(i32, String)> {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env.program(plugin))
        .env("KUBECONFIG", &env.kubeconfig)
        .env("NO_COLOR", "1")
        .args(arguments)
        .args(["--namespace", &shop.namespace])
        .output()
        .await
        .with_context(|| format!("{plugin} is not built: cargo build --package serin-kubectl"))?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
    note!("$ {plugin} {}\n{text}", arguments.join(" "));
    Ok((status.code().unwrap_or(-1), text))
}

/// # Errors
/// If an expectation is not met.
pub async fn the_kubectl_plugin_promotes_and_aborts(env: &Env) -> Result<()> {
    let (shop, spec) = start_paused_release(env, "serin-e2e-kubectl").await?;
    let (code, text) = run_plugin(env, &shop, "kubectl-serin", &["status", "shop"]).await?;
    ensure!(
        code == 0 && text.contains("20"),
        "the status does not show the weight: {text}"
    );
    let (code, text) = run_plugin(
        env,
        &shop,
        "kubectl-promote",
        &["shop", "--reason", "looks good"],
    )
    .await?;
    ensure!(code == 0, "{text}");
    wait_until_paused_at(&shop, 3).await?;
    let (code, text) = run_plugin(
        env,
        &shop,
        "kubectl-abort",
        &["shop", "--reason", "changed my mind"],
    )
    .await?;
    ensure!(code == 0, "{text}");
    shop.wait_until("aborted", Duration::from_secs(30), is_aborted)
        .await?;
    let abort = shop
        .status()
        .await?
        .state
        .abort
        .context("an abort in the status")?;
    ensure!(
        abort.message.contains("changed my mind"),
        "the abort does not have its reason: {}",
        abort.message
    );
    let (code, text) = run_plugin(env, &shop, "kubectl-promote", &["shop"]).await?;
    ensure!(
        code == 1,
        "a refused command must exit with code 1, not {code}: {text}"
    );
    shop.apply_release(&spec, &SampleRelease::good("v3"))
        .await?;
    wait_until_paused_at(&shop, 1).await?;
    let (code, text) = run_plugin(env, &shop, "kubectl-promote", &["shop", "--full"]).await?;
    ensure!(code == 0, "{text}");
    shop.wait_until("v3 is stable", Duration::from_secs(120), is_stable)
        .await?;
    shop.delete().await
}

/// # Errors
/// If an expectation is not met.
pub async fn commands_with_outdated_preconditions_are_refused(env: &Env) -> Result<()> {
    let (shop, _) = start_paused_release(env, "serin-e2e-stale").await?;
    let status = shop.status().await?;
    let (done, message) = shop
        .run_command("promote", json!({"revision": status.state.stable_revision}))
        .await?;
    ensure!(
        !done && message.contains("revision"),
        "a command for another revision must be refused: {message}"
    );
    let (done, message) = shop
        .run_command(
            "promote",
            json!({"revision": status.state.current_revision, "step": 0}),
        )
        .await?;
    ensure!(
        !done && message.contains("step"),
        "a command for another step must be refused: {message}"
    );
    let (done, message) = shop
        .run_command(
            "promote",
            json!({"revision": status.state.current_revision, "step": 1}),
        )
        .await?;
    ensure!(done, "{message}");
    wait_until_paused_at(&shop, 3).await?;
    shop.delete().await
}

/// # Errors
/// If an expectation is not met.
pub async fn a_user_with_abort_permission_only_cannot_promote(env: &Env) -> Result<()> {
    let (shop, _) = start_paused_release(env, "serin-e2e-rbac").await?;
    env.apply_admission_policy().await?;
    let rules = json!([
        {"apiGroups": ["serin.dev"], "resources": ["rollouts"], "verbs": ["get", "list", "watch", "abort"]},
        {"apiGroups": ["serin.dev"], "resources": ["rolloutcommands"], "verbs": ["get", "list", "watch", "create"]},
    ]);
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "aborter"}, "rules": rules,
    });
    shop.apply(role).await?;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "aborter"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "aborter"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "nightwatch"}],
    });
    shop.apply(binding).await?;
    let client = env.client_as("nightwatch").await?;
    let commands = kube::Api::<RolloutCommand>::namespaced(client, &shop.namespace);
    let new_command = |verb: &str, by: &str| {
        let object = json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "RolloutCommand",
            "metadata": {"generateName": "night-"},
            "spec": {"rolloutRef": {"name": shop.name}, "verb": verb, "requestedBy": by},
        });
        serde_json::from_value::<RolloutCommand>(object)
    };
    // The policy takes effect after a short delay.
    shop.eventually("promote is refused", Duration::from_secs(60), async || {
        let refused = commands
            .create(
                &PostParams::default(),
                &new_command("promote", "nightwatch")?,
            )
            .await;
        Ok(matches!(refused, Err(kube::Error::Api(status)) if status.message.contains("promote")))
    })
    .await?;
    let claimed = commands
        .create(
            &PostParams::default(),
            &new_command("abort", "somebody-else")?,
        )
        .await;
    ensure!(
        matches!(&claimed, Err(kube::Error::Api(_))),
        "a command in the name of another user must be refused: {claimed:?}"
    );
    commands
        .create(&PostParams::default(), &new_command("abort", "nightwatch")?)
        .await?;
    shop.wait_until("aborted", Duration::from_secs(30), is_aborted)
        .await?;
    let abort = shop
        .status()
        .await?
        .state
        .abort
        .context("an abort in the status")?;
    ensure!(
        // The controller of this case requires no policy, so it cannot know that it was evaluated.
        abort.by.as_deref() == Some("nightwatch (unverified)"),
        "the abort must have its user: {abort:?}"
    );
    env.remove_admission_policy().await?;
    shop.delete().await
}

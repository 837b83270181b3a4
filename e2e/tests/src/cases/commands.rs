//! Commands: by the kubectl plugin, by RBAC verb, and refused where they come too late.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::PostParams;
use serde_json::json;
use serin_crds::{Rollout, RolloutCommand};
use tokio::process::Command;

use crate::env::Env;
use crate::manifests::{Release, Spec};
use crate::note;
use crate::shop::{Shop, is_aborted, is_stable};

async fn paused(env: &Env, namespace: &str) -> Result<(Shop, Spec)> {
    let shop = Shop::open(env, namespace).await?;
    let steps = json!([{"setWeight": 20}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}]);
    let spec = Spec {
        steps: Some(steps),
        analysis: None,
        ..Spec::default()
    };
    shop.first(&spec, &Release::good("v1")).await?;
    shop.declare(&spec, &Release::good("v2")).await?;
    at_step(&shop, 1).await?;
    Ok((shop, spec))
}

async fn at_step(shop: &Shop, index: i32) -> Result<()> {
    let at = |rollout: &Rollout| {
        let status = rollout.status.as_ref();
        let step = status
            .and_then(|status| status.step.as_ref())
            .map(|step| step.index);
        step == Some(index) && status.is_some_and(|status| status.pause.is_some())
    };
    shop.until(
        &format!("paused at step {}", index + 1),
        Duration::from_secs(120),
        at,
    )
    .await?;
    Ok(())
}

/// Runs the plugin: its exit code, and what it said.
///
/// # Errors
/// When it cannot be run.
pub async fn kubectl(
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
/// When something is not as promised.
pub async fn kubectl_promotes_and_aborts(env: &Env) -> Result<()> {
    let (shop, spec) = paused(env, "serin-e2e-kubectl").await?;
    let (code, text) = kubectl(env, &shop, "kubectl-serin", &["status", "shop"]).await?;
    ensure!(
        code == 0 && text.contains("20"),
        "the status tells the weight: {text}"
    );
    let (code, text) = kubectl(
        env,
        &shop,
        "kubectl-promote",
        &["shop", "--reason", "looks good"],
    )
    .await?;
    ensure!(code == 0, "{text}");
    at_step(&shop, 3).await?;
    let (code, text) = kubectl(
        env,
        &shop,
        "kubectl-abort",
        &["shop", "--reason", "changed my mind"],
    )
    .await?;
    ensure!(code == 0, "{text}");
    shop.until("aborted", Duration::from_secs(30), is_aborted)
        .await?;
    let abort = shop.status().await?.abort.context("an abort on record")?;
    ensure!(
        abort.message.contains("changed my mind"),
        "why is on record: {}",
        abort.message
    );
    let (code, text) = kubectl(env, &shop, "kubectl-promote", &["shop"]).await?;
    ensure!(
        code == 1,
        "a refused command exits with 1, not {code}: {text}"
    );
    shop.declare(&spec, &Release::good("v3")).await?;
    at_step(&shop, 1).await?;
    let (code, text) = kubectl(env, &shop, "kubectl-promote", &["shop", "--full"]).await?;
    ensure!(code == 0, "{text}");
    shop.until("v3 is stable", Duration::from_secs(120), is_stable)
        .await?;
    shop.close().await
}

/// # Errors
/// When something is not as promised.
pub async fn stale_commands_are_refused(env: &Env) -> Result<()> {
    let (shop, _) = paused(env, "serin-e2e-stale").await?;
    let status = shop.status().await?;
    let (done, message) = shop
        .command("promote", json!({"revision": status.stable_revision}))
        .await?;
    ensure!(
        !done && message.contains("revision"),
        "for another revision: {message}"
    );
    let (done, message) = shop
        .command(
            "promote",
            json!({"revision": status.current_revision, "step": 0}),
        )
        .await?;
    ensure!(
        !done && message.contains("step"),
        "for another step: {message}"
    );
    let (done, message) = shop
        .command(
            "promote",
            json!({"revision": status.current_revision, "step": 1}),
        )
        .await?;
    ensure!(done, "{message}");
    at_step(&shop, 3).await?;
    shop.close().await
}

/// # Errors
/// When something is not as promised.
pub async fn who_may_only_abort_cannot_promote(env: &Env) -> Result<()> {
    let (shop, _) = paused(env, "serin-e2e-rbac").await?;
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
    let ask = |verb: &str, by: &str| {
        let object = json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "RolloutCommand",
            "metadata": {"generateName": "night-"},
            "spec": {"rolloutRef": {"name": shop.name}, "verb": verb, "requestedBy": by},
        });
        serde_json::from_value::<RolloutCommand>(object)
    };
    // The policy takes a moment to be in force.
    shop.eventually("promote is refused", Duration::from_secs(60), async || {
        let refused = commands
            .create(&PostParams::default(), &ask("promote", "nightwatch")?)
            .await;
        Ok(matches!(refused, Err(kube::Error::Api(status)) if status.message.contains("promote")))
    })
    .await?;
    let claimed = commands
        .create(&PostParams::default(), &ask("abort", "somebody-else")?)
        .await;
    ensure!(
        matches!(&claimed, Err(kube::Error::Api(_))),
        "nobody speaks in another's name: {claimed:?}"
    );
    commands
        .create(&PostParams::default(), &ask("abort", "nightwatch")?)
        .await?;
    shop.until("aborted", Duration::from_secs(30), is_aborted)
        .await?;
    let abort = shop.status().await?.abort.context("an abort on record")?;
    ensure!(
        abort.by.as_deref() == Some("nightwatch"),
        "who is on record: {abort:?}"
    );
    env.remove_admission_policy().await?;
    shop.close().await
}

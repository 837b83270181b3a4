//! The life cycle of Rollouts without a router, and the output of `kubectl serin status`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::commands::run_plugin;
use super::scaling::{apply_service_of_all_pods, rollout_without_router};
use crate::env::Env;
use crate::manifests::{RolloutOptions, SampleRelease};
use crate::shop::{Shop, is_aborted, is_paused, is_stable, stop_and_ensure_no_loss};

// argo-rollouts #1733: the first version never starts, and a second one must be released. #1292: an
// abort without a release scales stable to 0. #2048: a new revision after an abort does not start.
// #3774: draining after a second abort of a retried release.
/// # Errors
/// If an expectation is not met.
pub async fn a_rollout_recovers_from_a_failed_first_release_and_repeated_aborts(
    env: &Env,
) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-aborts").await?;
    apply_service_of_all_pods(&shop).await?;
    let steps = json!([{"setWeight": 50}, {"pause": {}}]);
    let spec = RolloutOptions {
        replicas: 2,
        steps: Some(steps),
        analysis: None,
        ..RolloutOptions::default()
    };
    let apply_release = async |release: &SampleRelease| {
        shop.apply(rollout_without_router(&shop, &spec, release))
            .await
    };
    apply_release(&SampleRelease::with_fault("v1", "NEVER_READY", "true")).await?;
    shop.eventually("v1 has pods", Duration::from_secs(60), async || {
        Ok(!shop.pods().await?.is_empty())
    })
    .await?;
    apply_release(&SampleRelease::good("v2")).await?;
    shop.wait_until("v2 is stable", Duration::from_secs(90), is_stable)
        .await?;
    let v2 = shop
        .status()
        .await?
        .state
        .stable_revision
        .context("a stable revision")?;
    shop.wait_until_answering().await?;
    let load = shop.start_load(50)?;

    let (_, message) = shop.run_command("abort", json!({})).await?;
    ensure!(
        message.contains("nothing to abort"),
        "an abort without a release must be refused: {message}"
    );
    let stable_is_complete = async || -> Result<()> {
        shop.wait_until_available(v2.as_str(), 2, Duration::from_secs(60))
            .await?;
        ensure!(
            shop.desired_replicas().await?.get(v2.as_str()) == Some(&2),
            "stable must keep its pods: {:?}",
            shop.desired_replicas().await?
        );
        Ok(())
    };
    stable_is_complete().await?;

    for version in ["v3", "v4"] {
        apply_release(&SampleRelease::good(version)).await?;
        shop.wait_until_unless_aborted(
            &format!("{version} waits"),
            Duration::from_secs(90),
            is_paused,
        )
        .await?;
        let (done, message) = shop.run_command("abort", json!({})).await?;
        ensure!(done, "{message}");
        shop.wait_until(
            &format!("{version} is aborted"),
            Duration::from_secs(30),
            is_aborted,
        )
        .await?;
    }
    let (done, message) = shop.run_command("retry", json!({})).await?;
    ensure!(done, "{message}");
    shop.wait_until_unless_aborted("v4 waits again", Duration::from_secs(90), is_paused)
        .await?;
    let (done, message) = shop.run_command("abort", json!({})).await?;
    ensure!(done, "{message}");
    let aborted = shop
        .wait_until("v4 is aborted again", Duration::from_secs(30), is_aborted)
        .await?;
    let v4 = aborted
        .status
        .and_then(|status| status.state.current_revision)
        .context("a current revision")?;
    shop.eventually("v4 is drained", Duration::from_secs(60), async || {
        Ok(shop.desired_replicas().await?.get(v4.as_str()) == Some(&0))
    })
    .await?;
    stable_is_complete().await?;
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

/// # Errors
/// If an expectation is not met.
pub async fn status_until_done_waits_for_the_new_revision(env: &Env) -> Result<()> {
    Box::pin(status_until_done(env, 10)).await
}

// argo-rollouts #771 and #1225: the reported health belonged to the previous spec.
/// Applies releases and runs `kubectl serin status --watch --until-done` right after each.
///
/// # Errors
/// If the command ends before the new version is healthy.
pub async fn status_until_done(env: &Env, releases: u32) -> Result<()> {
    let shop = Shop::create_without_route(env, "serin-e2e-status", "shop").await?;
    let spec = RolloutOptions {
        replicas: 1,
        steps: Some(json!([{"setWeight": 50}])),
        analysis: None,
        ..RolloutOptions::default()
    };
    let apply = async |version: &str| {
        let rollout = rollout_without_router(&shop, &spec, &SampleRelease::good(version));
        env.run_kubectl(
            &[
                "apply",
                "--server-side",
                "--filename",
                "-",
                "--namespace",
                &shop.namespace,
            ],
            &rollout,
        )
        .await
    };
    apply("v0").await?;
    shop.wait_until("v0 is stable", Duration::from_secs(90), is_stable)
        .await?;
    for number in 1..=releases {
        let version = format!("v{number}");
        let before = shop.status().await?.state.stable_revision;
        apply(&version).await?;
        let arguments = [
            "status",
            &shop.name,
            "--watch",
            "--until-done",
            "--timeout",
            "120s",
        ];
        let (code, text) = run_plugin(env, &shop, "kubectl-serin", &arguments).await?;
        let after = shop.rollout().await?;
        ensure!(code == 0, "{version}: exit code {code}: {text}");
        ensure!(
            is_stable(&after),
            "{version}: the command ended before the release: {text}"
        );
        let status = after.status.context("a status")?;
        ensure!(
            status.state.stable_revision != before,
            "{version}: the command ended with the health of the previous revision: {text}"
        );
    }
    shop.delete().await
}

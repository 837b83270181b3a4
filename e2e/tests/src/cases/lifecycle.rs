//! Whole lives of Rollouts without a router, and what `kubectl serin status` says at their turns.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::commands::kubectl;
use super::scaling::{apply_service_of_all_pods, unrouted};
use crate::env::Env;
use crate::manifests::{Release, Spec};
use crate::shop::{Shop, is_aborted, is_paused, is_stable, stop_without_loss};

// argo-rollouts #1733: the first version never starts and a second one must. #1292: an abort
// without a release scales stable to 0. #2048: a new revision after an abort does not start. #3774:
// the drain after a second abort of a retried release.
/// # Errors
/// If a promise is not kept.
pub async fn a_rollout_survives_a_broken_start_and_repeated_aborts(env: &Env) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-aborts").await?;
    apply_service_of_all_pods(&shop).await?;
    let steps = json!([{"setWeight": 50}, {"pause": {}}]);
    let spec = Spec {
        replicas: 2,
        steps: Some(steps),
        analysis: None,
        ..Spec::default()
    };
    let declare = async |release: &Release| shop.apply(unrouted(&shop, &spec, release)).await;
    declare(&Release::with("v1", "NEVER_READY", "true")).await?;
    shop.eventually("v1 has pods", Duration::from_secs(60), async || {
        Ok(!shop.pods().await?.is_empty())
    })
    .await?;
    declare(&Release::good("v2")).await?;
    shop.until("v2 is stable", Duration::from_secs(90), is_stable)
        .await?;
    let v2 = shop
        .status()
        .await?
        .stable_revision
        .context("a stable revision")?;
    shop.answers().await?;
    let load = shop.load(50)?;

    let (_, message) = shop.command("abort", json!({})).await?;
    ensure!(
        message.contains("nothing to abort"),
        "an abort without a release does nothing: {message}"
    );
    let stable_is_complete = async || -> Result<()> {
        shop.until_available(&v2, 2, Duration::from_secs(60))
            .await?;
        ensure!(
            shop.desired().await?.get(&v2) == Some(&2),
            "stable keeps its pods: {:?}",
            shop.desired().await?
        );
        Ok(())
    };
    stable_is_complete().await?;

    for version in ["v3", "v4"] {
        declare(&Release::good(version)).await?;
        shop.until_unless_aborted(
            &format!("{version} waits"),
            Duration::from_secs(90),
            is_paused,
        )
        .await?;
        let (done, message) = shop.command("abort", json!({})).await?;
        ensure!(done, "{message}");
        shop.until(
            &format!("{version} is aborted"),
            Duration::from_secs(30),
            is_aborted,
        )
        .await?;
    }
    let (done, message) = shop.command("retry", json!({})).await?;
    ensure!(done, "{message}");
    shop.until_unless_aborted("v4 waits again", Duration::from_secs(90), is_paused)
        .await?;
    let (done, message) = shop.command("abort", json!({})).await?;
    ensure!(done, "{message}");
    let aborted = shop
        .until("v4 is aborted again", Duration::from_secs(30), is_aborted)
        .await?;
    let v4 = aborted
        .status
        .and_then(|status| status.current_revision)
        .context("a current revision")?;
    shop.eventually("v4 is drained", Duration::from_secs(60), async || {
        Ok(shop.desired().await?.get(&v4) == Some(&0))
    })
    .await?;
    stable_is_complete().await?;
    stop_without_loss(load).await?;
    shop.close().await
}

/// # Errors
/// If a promise is not kept.
pub async fn status_until_done_never_ends_with_the_previous_health(env: &Env) -> Result<()> {
    Box::pin(status_until_done(env, 10)).await
}

// argo-rollouts #771 and #1225: the health that is reported is that of the spec before.
/// Applies releases and runs `kubectl serin status --watch --until-done` right after each.
///
/// # Errors
/// If it ends before the new version is healthy.
pub async fn status_until_done(env: &Env, releases: u32) -> Result<()> {
    let shop = Shop::open_without_route(env, "serin-e2e-status", "shop").await?;
    let spec = Spec {
        replicas: 1,
        steps: Some(json!([{"setWeight": 50}])),
        analysis: None,
        ..Spec::default()
    };
    let apply = async |version: &str| {
        let rollout = unrouted(&shop, &spec, &Release::good(version));
        env.kubectl(
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
    shop.until("v0 is stable", Duration::from_secs(90), is_stable)
        .await?;
    for number in 1..=releases {
        let version = format!("v{number}");
        let before = shop.status().await?.stable_revision;
        apply(&version).await?;
        let arguments = [
            "status",
            &shop.name,
            "--watch",
            "--until-done",
            "--timeout",
            "120s",
        ];
        let (code, text) = kubectl(env, &shop, "kubectl-serin", &arguments).await?;
        let after = shop.rollout().await?;
        ensure!(code == 0, "{version}: exit code {code}: {text}");
        ensure!(
            is_stable(&after),
            "{version}: it ended before the release did: {text}"
        );
        let status = after.status.context("a status")?;
        ensure!(
            status.stable_revision != before,
            "{version}: it ended with the health of the revision before: {text}"
        );
    }
    shop.close().await
}

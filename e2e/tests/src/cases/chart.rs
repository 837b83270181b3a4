//! The Helm chart, which runs the controller as a Deployment.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;

use crate::env::{CONTROLLER_IMAGE, Env};
use crate::manifests::{RolloutOptions, SampleRelease};
use crate::shop::{Shop, is_aborted, is_stable, stop_and_ensure_no_loss};

/// Namespace of the Helm release.
pub const NAMESPACE: &str = "serin-e2e-chart-system";

/// # Errors
/// If an expectation is not met.
pub async fn the_chart_installs_a_working_controller(env: &Env) -> Result<()> {
    install(env, &[]).await?;
    let released = run_releases(env).await;
    let restarts = restart_count(env).await?;
    uninstall(env).await?;
    released?;
    ensure!(restarts == 0, "controller pods restarted {restarts} times");
    Ok(())
}

/// Installs the chart with its defaults and these settings (`key=value`), and waits until both
/// replicas are ready.
///
/// # Errors
/// If they are not ready within two minutes.
pub async fn install(env: &Env, settings: &[String]) -> Result<()> {
    env.load_controller_image().await?;
    uninstall(env).await?;
    env.remove_admission_policy().await?;
    let (repository, tag) = CONTROLLER_IMAGE
        .rsplit_once(':')
        .context("an image with a tag")?;
    let chart = env
        .checkout
        .join("charts/serin")
        .to_string_lossy()
        .into_owned();
    let defaults = [
        format!("image.repository={repository}"),
        format!("image.tag={tag}"),
        format!("prometheus.address={}", env.prometheus_url),
    ];
    let mut arguments = vec![
        "upgrade",
        "--install",
        "serin",
        &chart,
        "--namespace",
        NAMESPACE,
        "--create-namespace",
    ];
    for setting in defaults.iter().chain(settings) {
        arguments.extend(["--set", setting]);
    }
    arguments.extend(["--wait", "--timeout", "120s"]);
    env.run_helm(&arguments).await?;
    Ok(())
}

async fn run_releases(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-chart").await?;
    let spec = RolloutOptions::default();
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    let load = shop.start_load(300)?;
    shop.apply_release(&spec, &SampleRelease::good("v2"))
        .await?;
    shop.wait_until("v2 is promoted", Duration::from_secs(120), is_stable)
        .await?;
    shop.apply_release(&spec, &SampleRelease::failing("v3", "10"))
        .await?;
    shop.wait_until("v3 is rolled back", Duration::from_secs(120), is_aborted)
        .await?;
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

/// How often containers of the controller were restarted.
///
/// # Errors
/// If the API server rejects the request.
pub async fn restart_count(env: &Env) -> Result<i32> {
    let pods = Api::<Pod>::namespaced(env.client.clone(), NAMESPACE)
        .list(&ListParams::default())
        .await?;
    let statuses = pods
        .items
        .into_iter()
        .filter_map(|pod| pod.status?.container_statuses);
    Ok(statuses
        .flatten()
        .map(|container| container.restart_count)
        .sum())
}

/// Uninstalls the chart if it is installed.
///
/// # Errors
/// If helm fails.
pub async fn uninstall(env: &Env) -> Result<()> {
    env.run_helm(&[
        "uninstall",
        "serin",
        "--namespace",
        NAMESPACE,
        "--ignore-not-found",
        "--wait",
    ])
    .await?;
    Ok(())
}

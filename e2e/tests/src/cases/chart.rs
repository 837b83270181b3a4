//! The chart: installed for real, with the controller as a pod.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;

use crate::env::{CONTROLLER_IMAGE, Env};
use crate::manifests::{Release, Spec};
use crate::shop::{Shop, is_aborted, is_stable, stop_without_loss};

const NAMESPACE: &str = "serin-e2e-chart-system";

/// # Errors
/// When something is not as promised.
pub async fn the_chart_installs_a_controller_that_works(env: &Env) -> Result<()> {
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
    let settings = [
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
    for setting in &settings {
        arguments.extend(["--set", setting]);
    }
    // Both replicas must become ready: that is what `--wait` waits for.
    arguments.extend(["--wait", "--timeout", "120s"]);
    env.helm(&arguments).await?;
    let released = release(env).await;
    let restarts = restarts(env).await?;
    uninstall(env).await?;
    released?;
    ensure!(restarts == 0, "controller pods restarted {restarts} times");
    Ok(())
}

async fn release(env: &Env) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-chart").await?;
    let spec = Spec::default();
    shop.first(&spec, &Release::good("v1")).await?;
    let load = shop.load(300)?;
    shop.declare(&spec, &Release::good("v2")).await?;
    shop.until("v2 is promoted", Duration::from_secs(120), is_stable)
        .await?;
    shop.declare(&spec, &Release::failing("v3", "10")).await?;
    shop.until("v3 is rolled back", Duration::from_secs(120), is_aborted)
        .await?;
    stop_without_loss(load).await?;
    shop.close().await
}

async fn restarts(env: &Env) -> Result<i32> {
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

async fn uninstall(env: &Env) -> Result<()> {
    env.helm(&[
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

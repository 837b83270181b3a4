//! The HorizontalPodAutoscaler of the controller manager, on an external value per pod, as KEDA
//! creates it. Such an autoscaler writes `status.replicas` to `spec.replicas` while the value is
//! within its tolerance.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::cases::scaling::with_long_drain;
use crate::env::Env;
use crate::external_metrics::{ExternalMetrics, METRIC};
use crate::manifests::{self, RolloutOptions, SampleRelease};
use crate::note;
use crate::shop::{
    Shop, is_aborted, is_paused, is_stable, stop_and_ensure_no_loss, verified_weight,
};

/// The value that one pod carries.
const VALUE_PER_POD: u32 = 10;
const FEWEST: u32 = 2;
const MOST: u32 = 12;
const LOAD_PER_SECOND: u32 = 100;
/// Time from a change of the value until the fleet follows: the period of the autoscaler and its
/// stabilization.
const REACTION: Duration = Duration::from_secs(90);
/// Three periods of the autoscaler.
const OBSERVATION: Duration = Duration::from_secs(45);

/// # Errors
/// If an expectation is not met.
pub async fn an_autoscaler_on_an_external_value_is_not_misled_by_a_release_or_an_abort(
    env: &Env,
) -> Result<()> {
    if env.cluster.is_none() {
        note!("skipped: the external metrics API is served beside the local cluster only");
        return Ok(());
    }
    let metrics = ExternalMetrics::start(env).await?;
    let ended = Box::pin(run(env, &metrics)).await;
    metrics.remove().await?;
    ended
}

async fn run(env: &Env, metrics: &ExternalMetrics) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-autoscaler-external").await?;
    metrics.set(4 * VALUE_PER_POD);
    shop.apply(rollout(&shop, "v1")).await?;
    shop.wait_until("v1 is stable", Duration::from_secs(90), is_stable)
        .await?;
    shop.apply(autoscaler(&shop)).await?;
    wait_for(&shop, "the first value", 4).await?;
    shop.wait_until_answering().await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    promote(&shop, metrics).await?;
    abort(&shop, metrics).await?;
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

/// A release under a constant value, and under one that doubles.
async fn promote(shop: &Shop, metrics: &ExternalMetrics) -> Result<()> {
    ensure_stays(shop, "before a release", 4).await?;
    shop.apply(rollout(shop, "v2")).await?;
    wait_at_50(shop).await?;
    ensure_stays(shop, "a canary at 50 %", 4).await?;
    metrics.set(8 * VALUE_PER_POD);
    wait_for(shop, "twice the value at 50 %", 8).await?;
    ensure_stays(shop, "twice the value at 50 %", 8).await?;
    let (done, message) = shop.run_command("promote", json!({})).await?;
    ensure!(done, "{message}");
    ensure_stays(shop, "a promotion", 8).await?;
    ensure!(is_stable(&shop.rollout().await?), "v2 is not stable");
    Ok(())
}

/// An abort under a value that is 5 % above its target, which the autoscaler tolerates.
async fn abort(shop: &Shop, metrics: &ExternalMetrics) -> Result<()> {
    shop.apply(rollout(shop, "v3")).await?;
    wait_at_50(shop).await?;
    metrics.set(4 * VALUE_PER_POD);
    wait_for(shop, "half of the value at 50 %", 4).await?;
    metrics.set(4 * VALUE_PER_POD + 2);
    ensure_stays(shop, "a tolerated value at 50 %", 4).await?;
    let (done, message) = shop.run_command("abort", json!({})).await?;
    ensure!(done, "{message}");
    ensure_stays(shop, "an abort", 4).await?;
    ensure!(is_aborted(&shop.rollout().await?), "v3 is not aborted");
    Ok(())
}

fn rollout(shop: &Shop, version: &str) -> Value {
    let steps = json!([{"setWeight": 50}, {"pause": {}}]);
    let options = RolloutOptions {
        steps: Some(steps),
        analysis: None,
        ..RolloutOptions::default()
    };
    let release = SampleRelease::good(version);
    let mut rollout = with_long_drain(manifests::rollout(&shop.name, &options, &release));
    if let Some(spec) = rollout["spec"].as_object_mut() {
        spec.remove("replicas");
    }
    rollout
}

fn autoscaler(shop: &Shop) -> Value {
    json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": shop.name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "serin.dev/v1alpha1", "kind": "Rollout", "name": shop.name},
            "minReplicas": FEWEST, "maxReplicas": MOST,
            "metrics": [{"type": "External", "external": {
                "metric": {"name": METRIC},
                "target": {"type": "AverageValue", "averageValue": VALUE_PER_POD.to_string()},
            }}],
            // A wrong recommendation must show within the case.
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 15}},
        },
    })
}

async fn replicas(shop: &Shop) -> Result<i32> {
    Ok(shop.rollout().await?.spec.replicas.unwrap_or(1))
}

/// Waits until the fleet follows a change of the value.
async fn wait_for(shop: &Shop, what: &str, expected: i32) -> Result<()> {
    let begin = Instant::now();
    while replicas(shop).await? != expected {
        if begin.elapsed() > REACTION {
            bail!(
                "{what}: {} replicas instead of {expected}",
                replicas(shop).await?
            );
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    note!(
        "{what}: {expected} replicas after {} s",
        begin.elapsed().as_secs()
    );
    Ok(())
}

/// The autoscaler does not change the fleet for some of its periods.
async fn ensure_stays(shop: &Shop, what: &str, expected: i32) -> Result<()> {
    let begin = Instant::now();
    let mut most_pods = 0;
    while begin.elapsed() < OBSERVATION {
        let found = replicas(shop).await?;
        let pods = shop.pods().await?.len();
        most_pods = most_pods.max(pods);
        ensure!(
            found == expected,
            "{what}: {found} replicas instead of {expected}, with {pods} pods"
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    note!("{what}: {expected} replicas and up to {most_pods} pods");
    Ok(())
}

async fn wait_at_50(shop: &Shop) -> Result<()> {
    shop.wait_until_unless_aborted("paused at 50 %", Duration::from_secs(120), |rollout| {
        is_paused(rollout) && verified_weight(rollout) == Some(50.0)
    })
    .await?;
    Ok(())
}

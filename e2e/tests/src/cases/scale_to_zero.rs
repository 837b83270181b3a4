//! Scaling to zero and back during a release.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use serin_core::state::{PauseReason, Stage};
use serin_crds::{Rollout, RolloutStatus};

use crate::env::Env;
use crate::manifests::{RolloutOptions, SampleRelease};
use crate::shop::{
    Shop, is_aborted, is_paused, is_stable, stop_and_ensure_no_loss, verified_weight,
};
use crate::traffic::ensure_share_at_most;

/// Time at zero replicas.
const NIGHT: Duration = Duration::from_secs(15);

const LOAD_PER_SECOND: u32 = 50;

/// Scales to zero, waits, and scales back to three, like a scheduled scaler at night.
async fn scale_to_zero_and_back(shop: &Shop) -> Result<RolloutStatus> {
    shop.scale(0).await?;
    shop.eventually("no pod is left", Duration::from_secs(90), async || {
        Ok(shop.pods().await?.is_empty())
    })
    .await?;
    tokio::time::sleep(NIGHT).await;
    let status = shop.status().await?;
    shop.scale(3).await?;
    Ok(status)
}

// argo-rollouts #3686 and PR #4950: replicas are set to 0 while a canary is in progress.
/// # Errors
/// If an expectation is not met.
#[expect(clippy::too_many_lines, reason = "a linear scenario")]
pub async fn scaling_to_zero_and_back_keeps_paused_and_aborted_releases(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-zero").await?;
    let steps = json!([{"setWeight": 20}, {"pause": {}}]);
    let spec = RolloutOptions {
        replicas: 3,
        steps: Some(steps),
        analysis: None,
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    let v1 = shop
        .status()
        .await?
        .state
        .stable_revision
        .context("a stable revision")?;
    shop.apply_release(&spec, &SampleRelease::good("v2"))
        .await?;
    let waits_at_20 =
        |rollout: &Rollout| is_paused(rollout) && verified_weight(rollout) == Some(20.0);
    shop.wait_until_unless_aborted("v2 waits at 20 %", Duration::from_secs(90), waits_at_20)
        .await?;
    let (done, message) = shop.run_command("pause", json!({})).await?;
    ensure!(done, "{message}");
    let by_person = |rollout: &Rollout| {
        let pause = rollout
            .status
            .as_ref()
            .and_then(|status| status.state.pause.as_ref());
        pause.is_some_and(|pause| pause.reason == PauseReason::Command)
    };
    let before = shop
        .wait_until("paused by a command", Duration::from_secs(20), by_person)
        .await?;
    let before = before.status.context("a status")?;

    let at_zero = scale_to_zero_and_back(&shop).await?;
    ensure!(
        at_zero.state.stable_revision.as_ref() == Some(&v1),
        "v2 became stable at zero replicas"
    );
    ensure!(
        shop.events("PromotedWithoutTraffic").await?.is_empty(),
        "v2 was promoted at zero replicas"
    );
    // Start the load with the first pod: v2 must not serve alone while v1 starts.
    let load = shop.start_load(LOAD_PER_SECOND)?;
    let is_back = |rollout: &Rollout| waits_at_20(rollout) || is_stable(rollout);
    let back = shop
        .wait_until_unless_aborted("v2 is back at 20 %", Duration::from_secs(90), is_back)
        .await?;
    let back = back.status.context("a status")?;
    ensure!(
        back.state.stable_revision.as_ref() == Some(&v1),
        "v1 must be stable: {:?}",
        back.state.stable_revision
    );
    ensure!(
        back.state.stage == before.state.stage,
        "the stage changed: {:?}, before {:?}",
        back.state.stage,
        before.state.stage
    );
    let step = |status: &RolloutStatus| status.state.step.as_ref().map(|step| step.index);
    ensure!(
        step(&back) == step(&before),
        "the step changed: {:?}, before {:?}",
        back.state.step,
        before.state.step
    );
    let pause = |status: &RolloutStatus| status.state.pause.as_ref().map(|pause| pause.reason);
    ensure!(
        pause(&back) == pause(&before),
        "the pause changed: {:?}, before {:?}",
        back.state.pause,
        before.state.pause
    );
    shop.wait_until_available(v1.as_str(), 3, Duration::from_secs(60))
        .await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    ensure_share_at_most(&load.stop().await, .., "v2", 0.2)?;

    // With pods on both sides no request is lost.
    let load = shop.start_load(LOAD_PER_SECOND)?;
    let (done, message) = shop.run_command("abort", json!({})).await?;
    ensure!(done, "{message}");
    shop.wait_until("v2 is aborted", Duration::from_secs(20), is_aborted)
        .await?;
    shop.eventually("v2 has no traffic", Duration::from_secs(20), async || {
        Ok(shop.route_share().await?.is_zero())
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    stop_and_ensure_no_loss(load).await?;

    let at_zero = scale_to_zero_and_back(&shop).await?;
    ensure!(
        at_zero.state.stage == Stage::Aborted,
        "the abort must be kept at zero replicas: {:?}",
        at_zero.state.stage
    );
    shop.wait_until_available(v1.as_str(), 3, Duration::from_secs(90))
        .await?;
    shop.wait_until("still aborted", Duration::from_secs(20), is_aborted)
        .await?;
    ensure!(
        shop.status().await?.state.stable_revision.as_ref() == Some(&v1),
        "v1 must still be stable"
    );
    shop.wait_until_answering().await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let report = stop_and_ensure_no_loss(load).await?;
    ensure!(
        report.all().of_version("v2").last().is_none(),
        "the aborted v2 answered"
    );
    shop.delete().await
}

//! Blue/green under load: switches and switch-backs with and without a router, and changes of the
//! strategy of a live Rollout.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use serin_core::units::Revision;
use serin_crds::Rollout;
use serin_crds::names::REVISION_LABEL;

use crate::env::{Env, count_from_env};
use crate::manifests::{self, RolloutOptions, SampleRelease};
use crate::note;
use crate::shop::{Shop, is_aborted, is_stable, stop_and_ensure_no_loss};

const REQUESTS_PER_SECOND: u32 = 300;
/// Number of switches, each followed by a switch back, unless `SERIN_SWITCHES` sets another one.
const SWITCHES: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(90);

/// The Rollout of the shop with this strategy, without an analysis.
fn rollout(shop: &Shop, strategy: &Value, version: &str) -> Value {
    let spec = RolloutOptions {
        analysis: None,
        ..RolloutOptions::default()
    };
    let release = SampleRelease::failing(version, "0");
    let mut rollout = manifests::rollout(&shop.name, &spec, &release);
    rollout["spec"]["strategy"] = strategy.clone();
    rollout
}

/// Blue/green whose old pods are kept long enough for an abort.
fn blue_green(is_routed: bool) -> Value {
    let mut strategy = json!({
        "activeService": "shop", "previewService": "shop-preview",
        "scaleDownDelaySeconds": 60, "abortScaleDownDelaySeconds": 5,
    });
    if is_routed {
        strategy["trafficRouting"] = json!({"gatewayAPI": {"httpRoute": "shop"}});
    }
    json!({"blueGreen": strategy})
}

fn canary() -> Value {
    json!({"canary": {
        "trafficRouting": {"gatewayAPI": {"httpRoute": "shop"}},
        "steps": [{"setWeight": 50}, {"pause": {"duration": "5s"}}],
        "scaleDownDelaySeconds": 5, "abortScaleDownDelaySeconds": 5,
    }})
}

fn stable_revision(rollout: &Rollout) -> Option<&Revision> {
    rollout.status.as_ref()?.state.stable_revision.as_ref()
}

async fn selected(shop: &Shop, service: &str) -> Result<Option<String>> {
    let service = shop.api::<Service>().get(service).await?;
    let selector = service.spec.and_then(|spec| spec.selector);
    Ok(selector.and_then(|selector| selector.get(REVISION_LABEL).cloned()))
}

/// Applies a version and waits until it is stable, which another revision than `before` is.
async fn release(shop: &Shop, strategy: &Value, version: &str) -> Result<Revision> {
    let before = shop
        .status()
        .await
        .ok()
        .and_then(|status| status.state.stable_revision);
    shop.apply(rollout(shop, strategy, version)).await?;
    let is_done =
        |rollout: &Rollout| is_stable(rollout) && stable_revision(rollout) != before.as_ref();
    let done = shop
        .wait_until_unless_aborted(&format!("{version} is stable"), PATIENCE, is_done)
        .await?;
    stable_revision(&done).cloned().context("a stable revision")
}

async fn switch_there_and_back(shop: &Shop, strategy: &Value, number: u32) -> Result<()> {
    let version = format!("v{number}");
    let stable = shop.status().await?.state.stable_revision;
    let stable = stable.context("a stable revision")?;
    let new = release(shop, strategy, &version).await?;
    ensure!(
        selected(shop, "shop").await?.as_deref() == Some(new.as_str()),
        "not switched"
    );
    shop.wait_until_answered_by("/", |answered| answered == version)
        .await?;
    let (is_done, message) = shop.run_command("abort", json!({})).await?;
    ensure!(is_done, "{version}: {message}");
    shop.wait_until("switched back", PATIENCE, is_aborted)
        .await?;
    shop.eventually(
        "the active Service selects the old revision",
        PATIENCE,
        async || Ok(selected(shop, "shop").await?.as_deref() == Some(stable.as_str())),
    )
    .await?;
    shop.wait_until_answered_by("/", |answered| answered == "v0")
        .await?;
    shop.wait_until_available(stable.as_str(), 2, PATIENCE)
        .await
}

async fn switches_lose_nothing(env: &Env, namespace: &str, is_routed: bool) -> Result<()> {
    let shop = Shop::create(env, namespace).await?;
    let strategy = blue_green(is_routed);
    shop.apply(rollout(&shop, &strategy, "v0")).await?;
    shop.wait_until("v0 is stable", PATIENCE, is_stable).await?;
    shop.wait_until_answering().await?;
    let load = shop.start_load(REQUESTS_PER_SECOND)?;
    let switches = count_from_env("SERIN_SWITCHES", SWITCHES);
    for number in 1..=switches {
        switch_there_and_back(&shop, &strategy, number).await?;
        note!("switch {number} of {switches}, there and back");
    }
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

/// # Errors
/// If an expectation is not met.
pub async fn switches_of_the_service_and_back_lose_no_request(env: &Env) -> Result<()> {
    Box::pin(switches_lose_nothing(env, "serin-e2e-blue-green", false)).await
}

/// # Errors
/// If an expectation is not met.
pub async fn switches_of_the_route_and_back_lose_no_request(env: &Env) -> Result<()> {
    Box::pin(switches_lose_nothing(
        env,
        "serin-e2e-blue-green-route",
        true,
    ))
    .await
}

/// # Errors
/// If an expectation is not met.
pub async fn the_strategy_of_a_live_rollout_changes_without_loss(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-strategies").await?;
    shop.apply(rollout(&shop, &canary(), "v0")).await?;
    shop.wait_until("v0 is stable", PATIENCE, is_stable).await?;
    shop.wait_until_answering().await?;
    let load = shop.start_load(REQUESTS_PER_SECOND)?;
    let strategies = [blue_green(false), canary(), blue_green(true), canary()];
    for (number, strategy) in (1..).zip(&strategies) {
        // The change comes in the same apply as a new version.
        let version = format!("v{number}");
        release(&shop, strategy, &version).await?;
        note!("{version} is stable with another strategy");
    }
    shop.apply(rollout(&shop, &canary(), "v5")).await?;
    let has_traffic = |rollout: &Rollout| {
        let status = rollout.status.as_ref();
        status.is_some_and(|status| {
            status
                .state
                .weights
                .verified
                .is_some_and(|weight| !weight.is_zero())
        })
    };
    shop.wait_until("v5 has traffic", PATIENCE, has_traffic)
        .await?;
    shop.apply(rollout(&shop, &blue_green(false), "v5")).await?;
    let keeps_strategy = |rollout: &Rollout| {
        let status = rollout.status.as_ref();
        status.is_some_and(|status| status.state.message.contains("change of spec.strategy"))
            || is_stable(rollout)
    };
    shop.wait_until("the change waits for the release", PATIENCE, keeps_strategy)
        .await?;
    shop.wait_until_unless_aborted("v5 is stable", PATIENCE, is_stable)
        .await?;
    shop.wait_until_answered_by("/", |answered| answered == "v5")
        .await?;
    release(&shop, &blue_green(false), "v6").await?;
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

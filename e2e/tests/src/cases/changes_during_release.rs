//! Changes to a Rollout and its route during a release.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use serin_crds::Rollout;
use serin_load::LoadHandle;

use serin_core::state::ReleaseResult;
use serin_core::units::{Revision, Weight};

use crate::env::{Env, requests_per_second};
use crate::manifests::{RolloutOptions, SampleRelease};
use crate::shop::{Shop, is_paused, is_stable, stop_and_ensure_no_loss, verified_weight};

/// Requests per second while other cases run. On a data plane of its own, there are more.
const LOAD_PER_SECOND: u32 = 100;

fn options_with_steps(percents: &[u32]) -> RolloutOptions {
    let mut steps: Vec<_> = percents
        .iter()
        .map(|percent| json!({"setWeight": percent}))
        .collect();
    steps.push(json!({"pause": {}}));
    RolloutOptions {
        steps: Some(json!(steps)),
        ..RolloutOptions::default()
    }
}

/// A Rollout under load whose v2 is paused at 50 %.
async fn start_release_paused_at_half(
    env: &Env,
    namespace: &str,
) -> Result<(Shop, LoadHandle, RolloutOptions)> {
    let shop = Shop::create(env, namespace).await?;
    let spec = options_with_steps(&[50]);
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    let load = shop.start_load(requests_per_second(LOAD_PER_SECOND))?;
    shop.apply_release(&spec, &SampleRelease::good("v2"))
        .await?;
    shop.wait_until("v2 waits at 50 %", Duration::from_secs(120), is_paused)
        .await?;
    Ok((shop, load, spec))
}

async fn close_without_loss(shop: Shop, load: LoadHandle) -> Result<()> {
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

/// # Errors
/// If an expectation is not met.
pub async fn an_edited_route_is_restored_and_reported(env: &Env) -> Result<()> {
    let (shop, load, _) = start_release_paused_at_half(env, "serin-e2e-drift").await?;
    let edit = json!([
        {"op": "replace", "path": "/spec/rules/0/backendRefs/0/weight", "value": 90},
        {"op": "replace", "path": "/spec/rules/0/backendRefs/1/weight", "value": 10},
    ]);
    let patch = Patch::Json::<()>(serde_json::from_value(edit)?);
    shop.routes()
        .patch(&shop.name, &PatchParams::default(), &patch)
        .await?;
    shop.eventually(
        "the weights are restored",
        Duration::from_secs(30),
        async || Ok(shop.route_share().await? == Weight::percent(50)),
    )
    .await?;
    shop.eventually(
        "an Event reports the drift",
        Duration::from_secs(30),
        async || Ok(shop.events("RouteDrift").await?.len() == 1),
    )
    .await?;
    shop.wait_until("verified again", Duration::from_secs(60), |rollout| {
        verified_weight(rollout) == Some(50.0)
    })
    .await?;
    close_without_loss(shop, load).await
}

/// # Errors
/// If an expectation is not met.
pub async fn a_new_release_supersedes_one_in_progress(env: &Env) -> Result<()> {
    let (shop, load, spec) = start_release_paused_at_half(env, "serin-e2e-supersede").await?;
    let before = shop.status().await?;
    shop.apply_release(&spec, &SampleRelease::good("v3"))
        .await?;
    let is_next = |rollout: &Rollout| {
        is_paused(rollout)
            && rollout.status.as_ref().is_some_and(|status| {
                status.state.current_revision != before.state.current_revision
            })
    };
    let rollout = shop
        .wait_until("v3 waits at 50 %", Duration::from_secs(120), is_next)
        .await?;
    let status = rollout.status.context("a status")?;
    ensure!(
        status.state.stable_revision == before.state.stable_revision,
        "v1 must stay stable"
    );
    let superseded = status
        .state
        .history
        .iter()
        .any(|release| release.result == ReleaseResult::Superseded);
    ensure!(
        superseded,
        "the history must have v2 as superseded: {:?}",
        status.state.history
    );
    let v2 = before.state.current_revision.context("v2's revision")?;
    shop.eventually("v2 has no pods", Duration::from_secs(60), async || {
        Ok(shop.desired_replicas().await?.get(v2.as_str()) == Some(&0))
    })
    .await?;
    close_without_loss(shop, load).await
}

/// # Errors
/// If an expectation is not met.
pub async fn reverting_the_manifest_aborts_the_release(env: &Env) -> Result<()> {
    let (shop, load, spec) = start_release_paused_at_half(env, "serin-e2e-revert").await?;
    shop.apply_release(&spec, &SampleRelease::good("v1"))
        .await?;
    let rollout = shop
        .wait_until(
            "v1 is the only revision",
            Duration::from_secs(60),
            is_stable,
        )
        .await?;
    let last = rollout
        .status
        .and_then(|status| status.state.history.last().cloned())
        .context("a history")?;
    ensure!(
        last.result == ReleaseResult::Aborted && last.message.contains("revert"),
        "{last:?}"
    );
    ensure!(
        shop.route_share().await? == Weight::ZERO,
        "the canary must have no weight in the route"
    );
    close_without_loss(shop, load).await
}

/// # Errors
/// If an expectation is not met.
pub async fn steps_can_be_edited_during_a_release(env: &Env) -> Result<()> {
    let (shop, load, _) = start_release_paused_at_half(env, "serin-e2e-edit").await?;
    shop.apply_release(&options_with_steps(&[10]), &SampleRelease::good("v2"))
        .await?;
    shop.wait_until("at 10 %", Duration::from_secs(60), |rollout| {
        is_paused(rollout) && verified_weight(rollout) == Some(10.0)
    })
    .await?;
    shop.apply_release(&options_with_steps(&[30, 60]), &SampleRelease::good("v2"))
        .await?;
    shop.wait_until("at 60 %", Duration::from_secs(120), |rollout| {
        is_paused(rollout) && verified_weight(rollout) == Some(60.0)
    })
    .await?;
    close_without_loss(shop, load).await
}

/// # Errors
/// If an expectation is not met.
pub async fn template_and_replicas_can_change_in_one_apply(env: &Env) -> Result<()> {
    let (shop, load, spec) = start_release_paused_at_half(env, "serin-e2e-both").await?;
    let spec = RolloutOptions {
        replicas: 4,
        ..spec
    };
    shop.apply_release(&spec, &SampleRelease::good("v3"))
        .await?;
    shop.wait_until("v3 waits at 50 %", Duration::from_secs(120), |rollout| {
        is_paused(rollout) && verified_weight(rollout) == Some(50.0)
    })
    .await?;
    let status = shop.status().await?;
    let desired = shop.desired_replicas().await?;
    let replicas_of = |revision: Option<Revision>| desired.get(revision?.as_str()).copied();
    ensure!(
        replicas_of(status.state.stable_revision.clone()) == Some(4),
        "stable must have four replicas: {desired:?}"
    );
    ensure!(
        replicas_of(status.state.current_revision.clone()) == Some(2),
        "the canary must have two replicas: {desired:?}"
    );
    close_without_loss(shop, load).await
}

/// # Errors
/// If an expectation is not met.
pub async fn a_paused_release_can_be_scaled(env: &Env) -> Result<()> {
    let (shop, load, _) = start_release_paused_at_half(env, "serin-e2e-scale").await?;
    let step = shop.status().await?.state.step;
    // Like `kubectl scale`.
    let patch = Patch::Merge(json!({"spec": {"replicas": 6}}));
    shop.api::<Rollout>()
        .patch_scale(&shop.name, &PatchParams::default(), &patch)
        .await?;
    shop.eventually(
        "both sides are scaled up",
        Duration::from_secs(60),
        async || {
            let mut counts: Vec<i32> = shop.desired_replicas().await?.into_values().collect();
            counts.sort_unstable();
            Ok(counts == [3, 6])
        },
    )
    .await?;
    let status = shop.status().await?;
    ensure!(
        status.state.step == step,
        "the step must not change: {:?}",
        status.state.step
    );
    ensure!(
        shop.route_share().await? == Weight::percent(50),
        "the traffic must not change"
    );
    shop.wait_until(
        "the status has the new replicas",
        Duration::from_secs(60),
        |rollout| {
            rollout
                .status
                .as_ref()
                .is_some_and(|status| status.replicas == 6)
        },
    )
    .await?;
    close_without_loss(shop, load).await
}

/// # Errors
/// If an expectation is not met.
pub async fn an_equivalent_template_does_not_start_a_release(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-same").await?;
    let spec = options_with_steps(&[50]);
    let mut object = crate::manifests::rollout(&shop.name, &spec, &SampleRelease::good("v1"));
    let requests = "/spec/template/spec/containers/0/resources/requests";
    *object.pointer_mut(requests).context("requests")? = json!({"cpu": "100m", "memory": "16Mi"});
    shop.apply(object.clone()).await?;
    shop.wait_until("v1 is stable", Duration::from_secs(120), is_stable)
        .await?;
    let before = shop.status().await?.state.current_revision;
    *object.pointer_mut(requests).context("requests")? = json!({"cpu": "0.1", "memory": "16384Ki"});
    shop.apply(object).await?;
    shop.wait_until(
        "the new generation is observed",
        Duration::from_secs(60),
        is_stable,
    )
    .await?;
    ensure!(
        shop.status().await?.state.current_revision == before,
        "cpu: 100m and cpu: 0.1 must be the same revision"
    );
    shop.delete().await
}

/// # Errors
/// If an expectation is not met.
pub async fn deleting_the_rollout_restores_the_route(env: &Env) -> Result<()> {
    let (shop, load, _) = start_release_paused_at_half(env, "serin-e2e-delete").await?;
    drop(load.stop().await);
    shop.api::<Rollout>()
        .delete(&shop.name, &kube::api::DeleteParams::default())
        .await?;
    shop.eventually(
        "the Rollout is deleted",
        Duration::from_secs(60),
        async || Ok(shop.api::<Rollout>().get_opt(&shop.name).await?.is_none()),
    )
    .await?;
    let route = shop.routes().get(&shop.name).await?;
    let backends = &route.data["spec"]["rules"][0]["backendRefs"];
    let names: Vec<_> = backends
        .as_array()
        .into_iter()
        .flatten()
        .map(|backend| backend["name"].clone())
        .collect();
    ensure!(
        names == [json!(shop.name)],
        "the route must be restored: {backends}"
    );
    shop.delete().await
}

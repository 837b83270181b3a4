//! What people do to a Rollout while it is under way.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use serin_crds::Rollout;
use serin_load::LoadHandle;

use serin_core::units::Weight;

use crate::env::Env;
use crate::manifests::{Release, Spec};
use crate::shop::{Shop, is_paused, is_stable, stop_without_loss, verified};

const LOAD_PER_SECOND: u32 = 100;

fn steps(percents: &[u32]) -> Spec {
    let mut steps: Vec<_> = percents
        .iter()
        .map(|percent| json!({"setWeight": percent}))
        .collect();
    steps.push(json!({"pause": {}}));
    Spec {
        steps: Some(json!(steps)),
        ..Spec::default()
    }
}

/// A shop whose v2 waits at 50 % for somebody to promote it, under load.
async fn halfway(env: &Env, namespace: &str) -> Result<(Shop, LoadHandle, Spec)> {
    let shop = Shop::open(env, namespace).await?;
    let spec = steps(&[50]);
    shop.first(&spec, &Release::good("v1")).await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    shop.declare(&spec, &Release::good("v2")).await?;
    shop.until("v2 waits at 50 %", Duration::from_secs(120), is_paused)
        .await?;
    Ok((shop, load, spec))
}

async fn close_without_loss(shop: Shop, load: LoadHandle) -> Result<()> {
    stop_without_loss(load).await?;
    shop.close().await
}

/// # Errors
/// When something is not as promised.
pub async fn an_edited_route_is_put_back_and_told(env: &Env) -> Result<()> {
    let (shop, load, _) = halfway(env, "serin-e2e-drift").await?;
    let edit = json!([
        {"op": "replace", "path": "/spec/rules/0/backendRefs/0/weight", "value": 90},
        {"op": "replace", "path": "/spec/rules/0/backendRefs/1/weight", "value": 10},
    ]);
    let patch = Patch::Json::<()>(serde_json::from_value(edit)?);
    shop.routes()
        .patch(&shop.name, &PatchParams::default(), &patch)
        .await?;
    shop.eventually("it is put back", Duration::from_secs(30), async || {
        Ok(shop.route_share().await? == Weight::percent(50))
    })
    .await?;
    shop.eventually("it is told", Duration::from_secs(30), async || {
        Ok(shop.events("RouteDrift").await?.len() == 1)
    })
    .await?;
    shop.until("verified again", Duration::from_secs(60), |rollout| {
        verified(rollout) == Some(50.0)
    })
    .await?;
    close_without_loss(shop, load).await
}

/// # Errors
/// When something is not as promised.
pub async fn v3_in_the_middle_of_v2(env: &Env) -> Result<()> {
    let (shop, load, spec) = halfway(env, "serin-e2e-supersede").await?;
    let before = shop.status().await?;
    shop.declare(&spec, &Release::good("v3")).await?;
    let is_next = |rollout: &Rollout| {
        is_paused(rollout)
            && rollout
                .status
                .as_ref()
                .is_some_and(|status| status.current_revision != before.current_revision)
    };
    let rollout = shop
        .until("v3 waits at 50 %", Duration::from_secs(120), is_next)
        .await?;
    let status = rollout.status.context("a status")?;
    ensure!(
        status.stable_revision == before.stable_revision,
        "stable stays v1"
    );
    let superseded = status
        .history
        .iter()
        .any(|release| release.result == "Superseded");
    ensure!(
        superseded,
        "v2 is on record as superseded: {:?}",
        status.history
    );
    let v2 = before.current_revision.context("v2's revision")?;
    shop.eventually("v2 has no pods", Duration::from_secs(60), async || {
        Ok(shop.desired().await?.get(&v2) == Some(&0))
    })
    .await?;
    close_without_loss(shop, load).await
}

/// # Errors
/// When something is not as promised.
pub async fn git_revert_in_mid_rollout(env: &Env) -> Result<()> {
    let (shop, load, spec) = halfway(env, "serin-e2e-revert").await?;
    shop.declare(&spec, &Release::good("v1")).await?;
    let rollout = shop
        .until("v1 is all there is", Duration::from_secs(60), is_stable)
        .await?;
    let last = rollout
        .status
        .and_then(|status| status.history.last().cloned())
        .context("a history")?;
    ensure!(
        last.result == "Aborted" && last.message.contains("revert"),
        "{last:?}"
    );
    ensure!(
        shop.route_share().await? == Weight::ZERO,
        "the canary is out of the route"
    );
    close_without_loss(shop, load).await
}

/// # Errors
/// When something is not as promised.
pub async fn steps_edited_in_mid_rollout(env: &Env) -> Result<()> {
    let (shop, load, _) = halfway(env, "serin-e2e-edit").await?;
    shop.declare(&steps(&[10]), &Release::good("v2")).await?;
    shop.until("at 10 %", Duration::from_secs(60), |rollout| {
        is_paused(rollout) && verified(rollout) == Some(10.0)
    })
    .await?;
    shop.declare(&steps(&[30, 60]), &Release::good("v2"))
        .await?;
    shop.until("at 60 %", Duration::from_secs(120), |rollout| {
        is_paused(rollout) && verified(rollout) == Some(60.0)
    })
    .await?;
    close_without_loss(shop, load).await
}

/// # Errors
/// When something is not as promised.
pub async fn template_and_replicas_in_one_apply(env: &Env) -> Result<()> {
    let (shop, load, spec) = halfway(env, "serin-e2e-both").await?;
    let spec = Spec {
        replicas: 4,
        ..spec
    };
    shop.declare(&spec, &Release::good("v3")).await?;
    shop.until("v3 waits at 50 %", Duration::from_secs(120), |rollout| {
        is_paused(rollout) && verified(rollout) == Some(50.0)
    })
    .await?;
    let status = shop.status().await?;
    let desired = shop.desired().await?;
    let of = |revision: Option<String>| desired.get(&revision.unwrap_or_default()).copied();
    ensure!(
        of(status.stable_revision.clone()) == Some(4),
        "stable has four: {desired:?}"
    );
    ensure!(
        of(status.current_revision.clone()) == Some(2),
        "the canary has half of four: {desired:?}"
    );
    close_without_loss(shop, load).await
}

/// # Errors
/// When something is not as promised.
pub async fn scaled_while_paused(env: &Env) -> Result<()> {
    let (shop, load, _) = halfway(env, "serin-e2e-scale").await?;
    let step = shop.status().await?.step;
    // As `kubectl scale` does.
    let patch = Patch::Merge(json!({"spec": {"replicas": 6}}));
    shop.api::<Rollout>()
        .patch_scale(&shop.name, &PatchParams::default(), &patch)
        .await?;
    shop.eventually(
        "both sides have grown",
        Duration::from_secs(60),
        async || {
            let mut counts: Vec<i32> = shop.desired().await?.into_values().collect();
            counts.sort_unstable();
            Ok(counts == [3, 6])
        },
    )
    .await?;
    let status = shop.status().await?;
    ensure!(
        status.step == step,
        "the step is the same: {:?}",
        status.step
    );
    ensure!(
        shop.route_share().await? == Weight::percent(50),
        "the traffic is the same"
    );
    shop.until("the scale is told", Duration::from_secs(60), |rollout| {
        rollout
            .status
            .as_ref()
            .is_some_and(|status| status.replicas == 9)
    })
    .await?;
    close_without_loss(shop, load).await
}

/// # Errors
/// When something is not as promised.
pub async fn the_same_template_written_otherwise_is_no_release(env: &Env) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-same").await?;
    let spec = steps(&[50]);
    let mut object = crate::manifests::rollout(&shop.name, &spec, &Release::good("v1"));
    let requests = "/spec/template/spec/containers/0/resources/requests";
    *object.pointer_mut(requests).context("requests")? = json!({"cpu": "100m", "memory": "16Mi"});
    shop.apply(object.clone()).await?;
    shop.until("v1 is stable", Duration::from_secs(120), is_stable)
        .await?;
    let before = shop.status().await?.current_revision;
    *object.pointer_mut(requests).context("requests")? = json!({"cpu": "0.1", "memory": "16384Ki"});
    shop.apply(object).await?;
    shop.until("it is taken in", Duration::from_secs(60), is_stable)
        .await?;
    ensure!(
        shop.status().await?.current_revision == before,
        "cpu: 100m and cpu: 0.1 are one revision"
    );
    shop.close().await
}

/// # Errors
/// When something is not as promised.
pub async fn deleting_the_rollout_restores_the_route(env: &Env) -> Result<()> {
    let (shop, load, _) = halfway(env, "serin-e2e-delete").await?;
    drop(load.stop().await);
    shop.api::<Rollout>()
        .delete(&shop.name, &kube::api::DeleteParams::default())
        .await?;
    shop.eventually("it is gone", Duration::from_secs(60), async || {
        Ok(shop.api::<Rollout>().get_opt(&shop.name).await?.is_none())
    })
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
        "the route is as it was: {backends}"
    );
    shop.close().await
}

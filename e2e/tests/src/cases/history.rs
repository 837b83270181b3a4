//! What earlier releases leave behind: their outcomes, and the restarts of their pods.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use serin_crds::Rollout;

use crate::env::Env;
use crate::manifests::{self, Release, Spec};
use crate::note;
use crate::shop::{Shop, is_aborted, is_paused, is_stable, stop_without_loss, verified};
use crate::traffic::ensure_share_at_most;

const LOAD_PER_SECOND: u32 = 100;

/// A Rollout with a rollback window that waits for a person at 20 %.
fn windowed(shop: &Shop, spec: &Spec, release: &Release) -> Value {
    let steps = json!([{"setWeight": 20}, {"pause": {}}]);
    let mut rollout = manifests::rollout(
        &shop.name,
        &Spec {
            steps: Some(steps),
            ..spec.clone()
        },
        release,
    );
    rollout["spec"]["rollbackWindow"] = json!({"revisions": 5});
    rollout
}

fn waits_at_20(rollout: &Rollout) -> bool {
    is_paused(rollout) && verified(rollout) == Some(20.0)
}

// argo-rollouts #3039 and PR #4281: the window counted ReplicaSets and did not know which of them
// ever became stable.
/// # Errors
/// If a promise is not kept.
pub async fn only_promoted_revisions_skip_the_steps_inside_the_rollback_window(
    env: &Env,
) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-window").await?;
    let release =
        async |release: &Release| shop.apply(windowed(&shop, &Spec::default(), release)).await;
    let (v1, v2, v3, v4) = (
        Release::good("v1"),
        Release::failing("v2", "30"),
        Release::good("v3"),
        Release::good("v4"),
    );
    release(&v1).await?;
    shop.until("v1 is stable", Duration::from_secs(90), is_stable)
        .await?;
    shop.answers().await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    release(&v2).await?;
    shop.until("v2 is aborted", Duration::from_secs(120), is_aborted)
        .await?;
    release(&v1).await?;
    shop.until("v1 is all there is", Duration::from_secs(60), is_stable)
        .await?;

    // Aborted: the steps, and judged again.
    let again_at = load.elapsed();
    release(&v2).await?;
    let is_over = |rollout: &Rollout| is_aborted(rollout) || is_stable(rollout);
    let over = shop
        .until("v2 is aborted again", Duration::from_secs(120), is_over)
        .await?;
    ensure_share_at_most(&load.report_so_far(), again_at.., "v2", 0.2)?;
    ensure!(
        is_aborted(&over),
        "the revision that was aborted became stable"
    );
    ensure!(
        shop.events("RollbackWindow").await?.is_empty(),
        "an aborted revision skipped its steps"
    );

    // Superseded before it was judged: the steps.
    release(&v3).await?;
    shop.until_unless_aborted("v3 waits at 20 %", Duration::from_secs(90), waits_at_20)
        .await?;
    release(&v4).await?;
    shop.until_unless_aborted("v4 waits at 20 %", Duration::from_secs(90), waits_at_20)
        .await?;
    let (done, message) = shop.command("promoteFull", json!({})).await?;
    ensure!(done, "{message}");
    shop.until_unless_aborted("v4 is stable", Duration::from_secs(90), is_stable)
        .await?;
    let again_at = load.elapsed();
    release(&v3).await?;
    let waits = |rollout: &Rollout| waits_at_20(rollout) || is_stable(rollout);
    let waiting = shop
        .until_unless_aborted("v3 waits at 20 % again", Duration::from_secs(90), waits)
        .await?;
    ensure_share_at_most(&load.report_so_far(), again_at.., "v3", 0.2)?;
    ensure!(
        waits_at_20(&waiting),
        "the revision that was superseded became stable without its steps"
    );

    // Promoted and not aborted since: no steps. A return to it is served at once.
    release(&v1).await?;
    shop.until_unless_aborted("v1 is stable again", Duration::from_secs(90), is_stable)
        .await?;
    ensure!(
        !shop.events("RollbackWindow").await?.is_empty(),
        "a promoted revision went through the steps"
    );
    stop_without_loss(load).await?;
    shop.close().await
}

/// How often the containers of each pod restarted.
async fn restarts(shop: &Shop) -> Result<Vec<i32>> {
    let of_pod = |pod: &Pod| {
        let containers = pod
            .status
            .as_ref()
            .and_then(|status| status.container_statuses.as_ref());
        containers
            .into_iter()
            .flatten()
            .map(|container| container.restart_count)
            .sum()
    };
    Ok(shop.pods().await?.iter().map(of_pod).collect())
}

// argo-rollouts #2939: a fast return to the previous revision, inside its scale-down delay, did not
// go through. Here the restarts that its pods had before the release were counted against it.
/// # Errors
/// If a promise is not kept.
pub async fn old_restarts_do_not_stop_a_return_to_the_previous_revision(env: &Env) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-restarts").await?;
    let spec = Spec {
        replicas: 3,
        scale_down_delay_seconds: 300,
        ..Spec::default()
    };
    let v1 = Release::with("v1", "CRASH_AFTER_REQUESTS", "1500");
    shop.apply(windowed(&shop, &spec, &v1)).await?;
    shop.until("v1 is stable", Duration::from_secs(90), is_stable)
        .await?;
    shop.answers().await?;
    // This load makes each pod crash, so requests are lost by intent.
    let load = shop.load(300)?;
    shop.eventually(
        "each pod has restarted",
        Duration::from_secs(90),
        async || {
            let restarts = restarts(&shop).await?;
            Ok(restarts.len() == 3 && restarts.iter().all(|count| *count > 0))
        },
    )
    .await?;
    drop(load.stop().await);
    note!("restarts before the release: {:?}", restarts(&shop).await?);
    shop.eventually(
        "all pods are ready again",
        Duration::from_secs(60),
        async || {
            Ok(shop
                .rollout()
                .await?
                .status
                .is_some_and(|status| status.available_replicas == 3))
        },
    )
    .await?;
    let stable = shop.status().await?.stable_revision;
    shop.answers().await?;

    // Far below what a pod survives, for as long as this takes.
    let load = shop.load(20)?;
    shop.apply(windowed(&shop, &spec, &Release::good("v2")))
        .await?;
    shop.until_unless_aborted("v2 waits at 20 %", Duration::from_secs(90), waits_at_20)
        .await?;
    let (done, message) = shop.command("promoteFull", json!({})).await?;
    ensure!(done, "{message}");
    shop.until_unless_aborted("v2 is stable", Duration::from_secs(90), is_stable)
        .await?;
    shop.apply(windowed(&shop, &spec, &v1)).await?;
    let back = shop
        .until_unless_aborted("v1 is stable again", Duration::from_secs(90), is_stable)
        .await?;
    let status = back.status.context("a status")?;
    ensure!(
        status.stable_revision == stable,
        "v1 is the same revision as before: {:?}",
        status.stable_revision
    );
    stop_without_loss(load).await?;
    shop.close().await
}

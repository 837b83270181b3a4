//! Effects of earlier releases: the rollback window, and earlier restarts of pods.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use serin_crds::Rollout;

use crate::env::Env;
use crate::manifests::{self, RolloutOptions, SampleRelease};
use crate::note;
use crate::shop::{
    Shop, is_aborted, is_paused, is_stable, stop_and_ensure_no_loss, verified_weight,
};
use crate::traffic::ensure_share_at_most;

const LOAD_PER_SECOND: u32 = 100;

/// A Rollout with a rollback window that pauses at 20 % until it is promoted.
fn rollout_with_window(shop: &Shop, spec: &RolloutOptions, release: &SampleRelease) -> Value {
    let steps = json!([{"setWeight": 20}, {"pause": {}}]);
    let mut rollout = manifests::rollout(
        &shop.name,
        &RolloutOptions {
            steps: Some(steps),
            ..spec.clone()
        },
        release,
    );
    rollout["spec"]["rollbackWindow"] = json!({"revisions": 5});
    rollout
}

fn waits_at_20(rollout: &Rollout) -> bool {
    is_paused(rollout) && verified_weight(rollout) == Some(20.0)
}

// argo-rollouts #3039 and PR #4281: the window counted ReplicaSets that never became stable.
/// # Errors
/// If an expectation is not met.
pub async fn only_promoted_revisions_skip_steps_within_the_rollback_window(
    env: &Env,
) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-window").await?;
    let release = async |release: &SampleRelease| {
        shop.apply(rollout_with_window(
            &shop,
            &RolloutOptions::default(),
            release,
        ))
        .await
    };
    let (v1, v2, v3, v4) = (
        SampleRelease::good("v1"),
        SampleRelease::failing("v2", "30"),
        SampleRelease::good("v3"),
        SampleRelease::good("v4"),
    );
    release(&v1).await?;
    shop.wait_until("v1 is stable", Duration::from_secs(90), is_stable)
        .await?;
    shop.wait_until_answering().await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    release(&v2).await?;
    shop.wait_until("v2 is aborted", Duration::from_secs(120), is_aborted)
        .await?;
    release(&v1).await?;
    shop.wait_until(
        "v1 is the only revision",
        Duration::from_secs(60),
        is_stable,
    )
    .await?;

    // An aborted revision runs its steps and is analyzed again.
    let again_at = load.elapsed();
    release(&v2).await?;
    let is_over = |rollout: &Rollout| is_aborted(rollout) || is_stable(rollout);
    let over = shop
        .wait_until("v2 is aborted again", Duration::from_secs(120), is_over)
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

    // A superseded revision runs its steps.
    release(&v3).await?;
    shop.wait_until_unless_aborted("v3 waits at 20 %", Duration::from_secs(90), waits_at_20)
        .await?;
    release(&v4).await?;
    shop.wait_until_unless_aborted("v4 waits at 20 %", Duration::from_secs(90), waits_at_20)
        .await?;
    let (done, message) = shop.run_command("promoteFull", json!({})).await?;
    ensure!(done, "{message}");
    shop.wait_until_unless_aborted("v4 is stable", Duration::from_secs(90), is_stable)
        .await?;
    let again_at = load.elapsed();
    release(&v3).await?;
    let waits = |rollout: &Rollout| waits_at_20(rollout) || is_stable(rollout);
    let waiting = shop
        .wait_until_unless_aborted("v3 waits at 20 % again", Duration::from_secs(90), waits)
        .await?;
    ensure_share_at_most(&load.report_so_far(), again_at.., "v3", 0.2)?;
    ensure!(
        waits_at_20(&waiting),
        "the revision that was superseded became stable without its steps"
    );

    // A promoted revision that was not aborted afterwards skips its steps.
    release(&v1).await?;
    shop.wait_until_unless_aborted("v1 is stable again", Duration::from_secs(90), is_stable)
        .await?;
    ensure!(
        !shop.events("RollbackWindow").await?.is_empty(),
        "a promoted revision went through the steps"
    );
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

/// The number of container restarts of each pod.
async fn restart_counts(shop: &Shop) -> Result<Vec<i32>> {
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

// argo-rollouts #2939: a fast rollback to the previous revision within its scale-down delay failed.
// Serin used to count restarts that the pods had before the release.
/// # Errors
/// If an expectation is not met.
pub async fn earlier_restarts_do_not_block_a_rollback_to_the_previous_revision(
    env: &Env,
) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-restarts").await?;
    let spec = RolloutOptions {
        replicas: 3,
        scale_down_delay_seconds: 300,
        ..RolloutOptions::default()
    };
    let v1 = SampleRelease::with_fault("v1", "CRASH_AFTER_REQUESTS", "1500");
    shop.apply(rollout_with_window(&shop, &spec, &v1)).await?;
    shop.wait_until("v1 is stable", Duration::from_secs(90), is_stable)
        .await?;
    shop.wait_until_answering().await?;
    // This load makes each pod crash, so lost requests are expected.
    let load = shop.start_load(300)?;
    shop.eventually(
        "each pod has restarted",
        Duration::from_secs(90),
        async || {
            let restarts = restart_counts(&shop).await?;
            Ok(restarts.len() == 3 && restarts.iter().all(|count| *count > 0))
        },
    )
    .await?;
    drop(load.stop().await);
    note!(
        "restarts before the release: {:?}",
        restart_counts(&shop).await?
    );
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
    let stable = shop.status().await?.state.stable_revision;
    shop.wait_until_answering().await?;

    // Few enough requests that no pod crashes during the rest of the case.
    let load = shop.start_load(20)?;
    shop.apply(rollout_with_window(
        &shop,
        &spec,
        &SampleRelease::good("v2"),
    ))
    .await?;
    shop.wait_until_unless_aborted("v2 waits at 20 %", Duration::from_secs(90), waits_at_20)
        .await?;
    let (done, message) = shop.run_command("promoteFull", json!({})).await?;
    ensure!(done, "{message}");
    shop.wait_until_unless_aborted("v2 is stable", Duration::from_secs(90), is_stable)
        .await?;
    shop.apply(rollout_with_window(&shop, &spec, &v1)).await?;
    let back = shop
        .wait_until_unless_aborted("v1 is stable again", Duration::from_secs(90), is_stable)
        .await?;
    let status = back.status.context("a status")?;
    ensure!(
        status.state.stable_revision == stable,
        "v1 is the same revision as before: {:?}",
        status.state.stable_revision
    );
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

//! The split of the traffic on a data plane: its weights, and what happens to it when pods, endpoints
//! or the gateway fail.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;
use serin_cluster::Component;
use serin_core::units::Weight;
use serin_crds::Rollout;
use serin_crds::names::REVISION_LABEL;
use serin_load::LoadHandle;

use crate::env::Env;
use crate::manifests::{RolloutOptions, SampleRelease};
use crate::note;
use crate::shop::{
    Shop, is_aborted, is_paused, is_stable, stop_and_ensure_no_loss, verified_weight,
};
use crate::traffic::ensure_share_between;

const LOAD_PER_SECOND: u32 = 300;
const PATIENCE: Duration = Duration::from_secs(120);
/// Requests that a weight is compared with.
const REQUESTS_PER_WEIGHT: u64 = 2_400;
/// Requests that were sent shortly before a gateway is killed may be lost.
const IN_FLIGHT: Duration = Duration::from_secs(1);

/// A Rollout that pauses at each weight, without an analysis.
fn pausing_at(percents: &[u32]) -> RolloutOptions {
    let pausing = |percent: &u32| [json!({"setWeight": percent}), json!({"pause": {}})];
    RolloutOptions {
        steps: Some(percents.iter().flat_map(pausing).collect()),
        analysis: None,
        ..RolloutOptions::default()
    }
}

/// A release without errors of its own, so that every failure is one of routing.
fn release(version: &str) -> SampleRelease {
    SampleRelease::failing(version, "0")
}

/// Starts the shop with v1 under load, and v2 as its canary.
async fn start(
    env: &Env,
    namespace: &str,
    options: &RolloutOptions,
    v2: &SampleRelease,
) -> Result<(Shop, LoadHandle)> {
    let shop = Shop::create(env, namespace).await?;
    shop.deploy_first(options, &release("v1")).await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    shop.apply_release(options, v2).await?;
    Ok((shop, load))
}

async fn wait_until_paused_at(shop: &Shop, percent: u32) -> Result<()> {
    let is_there = |rollout: &Rollout| {
        is_paused(rollout) && verified_weight(rollout) == Some(f64::from(percent))
    };
    shop.wait_until_unless_aborted(&format!("paused at {percent} %"), PATIENCE, is_there)
        .await?;
    Ok(())
}

async fn run(shop: &Shop, verb: &str) -> Result<()> {
    let (is_done, message) = shop.run_command(verb, json!({})).await?;
    ensure!(is_done, "{verb}: {message}");
    Ok(())
}

/// Waits until more requests have been sent, and returns the time in which they were.
async fn span_of_requests(shop: &Shop, load: &LoadHandle, count: u64) -> Result<Range<Duration>> {
    let (start, before) = (load.elapsed(), load.snapshot().counts.total());
    shop.eventually("enough requests", PATIENCE, async || {
        Ok(load.snapshot().counts.total() >= before + count)
    })
    .await?;
    Ok(start..load.elapsed())
}

/// While a weight is verified, the canary answers as many requests as it says. Later steps may have a
/// lower weight.
///
/// # Errors
/// If an expectation is not met.
pub async fn verified_weights_are_those_of_the_traffic_up_and_down(env: &Env) -> Result<()> {
    let percents = [5, 50, 20, 80, 10];
    let options = pausing_at(&percents);
    let (shop, load) = start(env, "serin-e2e-weights", &options, &release("v2")).await?;
    let mut spans = Vec::new();
    for percent in percents {
        wait_until_paused_at(&shop, percent).await?;
        spans.push((
            percent,
            span_of_requests(&shop, &load, REQUESTS_PER_WEIGHT).await?,
        ));
        run(&shop, "promote").await?;
    }
    shop.wait_until_unless_aborted("v2 is stable", PATIENCE, is_stable)
        .await?;
    let report = stop_and_ensure_no_loss(load).await?;
    for (percent, span) in spans {
        let (count, all) = ensure_share_between(&report, span, "v2", f64::from(percent) / 100.0)?;
        note!("{percent} %: v2 answered {count} of {all} requests");
    }
    shop.delete().await
}

/// A release is aborted at half of the traffic, and all pods of the canary are deleted as soon as the
/// route is written.
///
/// # Errors
/// If an expectation is not met.
pub async fn an_abort_whose_canary_pods_are_deleted_at_once_loses_nothing(env: &Env) -> Result<()> {
    let options = pausing_at(&[50]);
    let (shop, load) = start(env, "serin-e2e-no-canary", &options, &release("v2")).await?;
    wait_until_paused_at(&shop, 50).await?;
    let canary = shop.status().await?.state.current_revision;
    let canary = canary.context("a canary revision")?;
    let of_canary = ListParams::default().labels(&format!("{REVISION_LABEL}={canary}"));
    run(&shop, "abort").await?;
    shop.eventually("the canary has no weight", PATIENCE, async || {
        Ok(shop.route_share().await?.is_zero())
    })
    .await?;
    shop.api::<Pod>()
        .delete_collection(&DeleteParams::default(), &of_canary)
        .await?;
    shop.wait_until("aborted", PATIENCE, is_aborted).await?;
    span_of_requests(&shop, &load, REQUESTS_PER_WEIGHT).await?;
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

/// Endpoints appear late: the controller of the EndpointSlices does not run while the pods of the
/// canary become ready, and again while the release is aborted.
///
/// # Errors
/// If an expectation is not met.
pub async fn no_request_reaches_a_canary_before_its_endpoints_exist(env: &Env) -> Result<()> {
    let cluster = env.cluster.as_ref();
    let cluster = cluster.context("faults can be injected into the local cluster only")?;
    let options = pausing_at(&[50]);
    let slow = SampleRelease {
        faults: vec![("START_DELAY_MS", "5000".into())],
        ..release("v2")
    };
    let (shop, load) = start(env, "serin-e2e-endpoints", &options, &slow).await?;
    wait_for_pods(&shop, &load, false).await?;
    cluster.suspend(Component::ControllerManager)?;
    let observed = without_endpoints(&shop, &load).await;
    // In any case, because the next case needs it.
    cluster.resume_component(Component::ControllerManager)?;
    observed?;
    wait_until_paused_at(&shop, 50).await?;

    cluster.suspend(Component::ControllerManager)?;
    let aborted = async {
        run(&shop, "abort").await?;
        shop.wait_until("aborted", PATIENCE, is_aborted).await?;
        span_of_requests(&shop, &load, REQUESTS_PER_WEIGHT).await
    };
    let aborted = aborted.await;
    cluster.resume_component(Component::ControllerManager)?;
    aborted?;
    shop.eventually("the canary has no weight", PATIENCE, async || {
        Ok(shop.route_share().await?.is_zero())
    })
    .await?;
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

/// The pods of the canary become ready, but have no endpoints: the canary must have no traffic.
async fn without_endpoints(shop: &Shop, load: &LoadHandle) -> Result<()> {
    wait_for_pods(shop, load, true).await?;
    span_of_requests(shop, load, REQUESTS_PER_WEIGHT).await?;
    let share = shop.route_share().await?;
    ensure!(
        share == Weight::ZERO,
        "the canary has {share} without endpoints"
    );
    Ok(())
}

/// Waits until the canary has pods, or until one of them is ready.
async fn wait_for_pods(shop: &Shop, load: &LoadHandle, are_ready: bool) -> Result<()> {
    let is_counted = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|status| &status.conditions);
        let mut conditions = conditions.flatten();
        !are_ready || conditions.any(|one| one.type_ == "Ready" && one.status == "True")
    };
    shop.eventually("pods of the canary", PATIENCE, async || {
        let canary = shop.status().await?.state;
        if canary.current_revision == canary.stable_revision {
            return Ok(false);
        }
        let canary = canary.current_revision.context("a revision")?;
        let pods = shop.pods().await?;
        let is_canary = |pod: &&Pod| {
            pod.labels().get(REVISION_LABEL).map(String::as_str) == Some(canary.as_str())
        };
        ensure!(
            load.snapshot().counts.routing_failures() == 0,
            "lost requests"
        );
        Ok(pods.iter().filter(is_canary).any(is_counted))
    })
    .await
}

/// The gateway is killed at half of the traffic and started again. Nothing is lost while it runs, and
/// the weights are the same afterwards.
///
/// # Errors
/// If an expectation is not met.
pub async fn a_gateway_restarted_during_a_release_keeps_the_weights(env: &Env) -> Result<()> {
    let options = pausing_at(&[50]);
    let (shop, load) = start(env, "serin-e2e-gateway", &options, &release("v2")).await?;
    wait_until_paused_at(&shop, 50).await?;
    let killed = load.elapsed().saturating_sub(IN_FLIGHT);
    env.data_plane.restart().await?;
    shop.wait_until_answering().await?;
    let answering = load.elapsed() + IN_FLIGHT;
    span_of_requests(&shop, &load, REQUESTS_PER_WEIGHT / 4).await?;
    let span = span_of_requests(&shop, &load, REQUESTS_PER_WEIGHT).await?;
    run(&shop, "promote").await?;
    shop.wait_until_unless_aborted("v2 is stable", PATIENCE, is_stable)
        .await?;
    let report = load.stop().await;
    note!("{}", report.summary());
    let lost = |span| report.between(span).counts().routing_failures();
    let (before, during) = (lost(Duration::ZERO..killed), lost(killed..answering));
    let after = lost(answering..Duration::MAX);
    note!(
        "{during} requests were lost in the {:.1?} of the restart",
        answering.saturating_sub(killed)
    );
    ensure!(
        before == 0 && after == 0,
        "{before} requests were lost before the restart, and {after} after it: {:#?}",
        report.details
    );
    ensure_share_between(&report, span, "v2", 0.5)?;
    shop.delete().await
}

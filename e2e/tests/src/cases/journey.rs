//! Releases from end to end, under load.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use serin_core::units::Weight;

use crate::env::Env;
use crate::manifests::{Release, Spec, analysis};
use crate::note;
use crate::shop::{Shop, eventually, is_aborted, is_stable, stop_without_loss};

const LOAD_PER_SECOND: u32 = 300;

/// v1 stable, v2 bad, v3 good, v4 never ready, v5 in a crash loop: each ends as it must, and no
/// request is lost to routing.
///
/// # Errors
/// When something is not as promised.
pub async fn five_releases_under_load(env: &Env) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-journey").await?;
    let steps = json!([
        {"setWeight": 5}, {"pause": {"duration": "3s"}}, {"setWeight": 20}, {"pause": {"duration": "20s"}},
        {"setWeight": 50}, {"pause": {"duration": "3s"}},
    ]);
    let spec = Spec {
        replicas: 3,
        steps: Some(steps),
        ..Spec::default()
    };
    shop.first(&spec, &Release::good("v1")).await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    eventually(
        "stable has served a thousand requests",
        Duration::from_secs(30),
        async || Ok(load.snapshot().counts.total() > 1_000),
    )
    .await?;

    Box::pin(bad_release_is_rolled_back(&shop, &spec)).await?;
    shop.declare(&spec, &Release::good("v3")).await?;
    shop.until("v3 is promoted", Duration::from_secs(180), is_stable)
        .await?;
    let impatient = Spec {
        progress_deadline_seconds: 10,
        ..spec.clone()
    };
    shop.declare(&impatient, &Release::with("v4", "NEVER_READY", "true"))
        .await?;
    let rollout = shop
        .until("v4 is given up", Duration::from_secs(60), is_aborted)
        .await?;
    let cause = rollout
        .status
        .and_then(|status| status.abort)
        .map(|abort| abort.cause);
    ensure!(cause.as_deref() == Some("ProgressDeadline"), "{cause:?}");

    let before_crash = load.elapsed();
    crash_loop_is_aborted(&shop, &spec).await?;
    let after_crash = load.elapsed() + Duration::from_secs(3);
    eventually(
        "a thousand more requests",
        Duration::from_secs(20),
        async || Ok(load.elapsed() > after_crash + Duration::from_secs(4)),
    )
    .await?;

    let report = load.stop().await;
    note!("{}", report.summary());
    let lost = report.between(..before_crash).counts().routing_failures();
    ensure!(lost == 0, "{lost} routing failures: {:#?}", report.details);
    ensure!(
        report.all().of_version("v4").counts().total() == 0,
        "v4 was never ready and got a request"
    );
    let by_crash = report
        .between(before_crash..after_crash)
        .counts()
        .routing_failures();
    let after = report.between(after_crash..).counts().routing_failures();
    note!("v5: {by_crash} requests refused by its own crash");
    ensure!(after == 0, "{after} routing failures after v5 was given up");
    ensure!(
        by_crash < 300,
        "{by_crash} requests were refused by v5's crash"
    );
    ensure!(
        report.overruns == 0,
        "the load was held up: {} overruns",
        report.overruns
    );
    shop.close().await
}

/// v2: 3 % of its requests fail, against 0.05 % of stable's.
async fn bad_release_is_rolled_back(shop: &Shop, spec: &Spec) -> Result<()> {
    let first = shop.status().await?.stable_revision;
    shop.declare(spec, &Release::failing("v2", "3")).await?;
    let rollout = shop
        .until("v2 is rolled back", Duration::from_secs(120), is_aborted)
        .await?;
    let status = rollout.status.unwrap_or_default();
    let abort = status.abort.context("an abort on record")?;
    let by_evidence = matches!(abort.cause.as_str(), "Evidence" | "ErrorBudget");
    ensure!(
        by_evidence,
        "by evidence, not {}: {}",
        abort.cause,
        abort.message
    );
    ensure!(
        abort.message.contains("canary failed"),
        "the reason is told in counts: {}",
        abort.message
    );
    ensure!(status.stable_revision == first, "v1 stays stable");
    shop.eventually(
        "the Event tells it too",
        Duration::from_secs(5),
        async || {
            Ok(shop
                .events("RolledBack")
                .await?
                .iter()
                .any(|note| note.contains("canary failed")))
        },
    )
    .await?;
    canary_is_out(shop).await?;
    note!("v2: {}", abort.message);
    for evidence in &status.evidence {
        let spent = evidence.budget_spent.unwrap_or_default();
        let allotment = evidence.budget_allotment.unwrap_or_default();
        note!("v2: spent {spent:.1} of {allotment:.0} allotted errors");
        ensure!(spent <= allotment, "within the allotment");
    }
    Ok(())
}

/// v5: each pod ends after its 400th request.
async fn crash_loop_is_aborted(shop: &Shop, spec: &Spec) -> Result<()> {
    let mut object = crate::manifests::rollout(
        &shop.name,
        spec,
        &Release::with("v5", "CRASH_AFTER_REQUESTS", "400"),
    );
    // The first restart is one too many; and no metrics, so that it is the pods alone that tell.
    object["spec"]["strategy"]["canary"]["podRestartLimit"] = json!(1);
    without(&mut object["spec"], "analysis");
    shop.apply(object).await?;
    let rollout = shop
        .until("v5 is given up", Duration::from_secs(120), is_aborted)
        .await?;
    let abort = rollout
        .status
        .and_then(|status| status.abort)
        .context("an abort on record")?;
    note!("v5: {}: {}", abort.cause, abort.message);
    ensure!(
        abort.cause == "PodCrash",
        "through the pods: {}",
        abort.message
    );
    canary_is_out(shop).await
}

fn without(object: &mut serde_json::Value, field: &str) {
    if let Some(object) = object.as_object_mut() {
        object.remove(field);
    }
}

async fn canary_is_out(shop: &Shop) -> Result<()> {
    shop.eventually(
        "the canary is out of the route",
        Duration::from_secs(5),
        async || Ok(shop.route_share().await? == Weight::ZERO),
    )
    .await
}

/// A Rollout without steps: the evidence raises the weight and promotes.
///
/// # Errors
/// When something is not as promised.
pub async fn a_release_paced_by_evidence(env: &Env) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-evidence").await?;
    let mut analysis = analysis();
    // A service that promises 95 % needs few requests to be judged.
    analysis["objectives"][0]["objective"] = json!(95);
    let spec = Spec {
        steps: None,
        analysis: Some(analysis),
        ..Spec::default()
    };
    shop.first(&spec, &Release::good("v1")).await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    shop.declare(&spec, &Release::good("v2")).await?;
    shop.until("v2 is promoted", Duration::from_secs(400), is_stable)
        .await?;
    let raised = shop.events("WeightRaised").await?;
    ensure!(!raised.is_empty(), "the evidence raised the weight");
    shop.declare(&spec, &Release::failing("v3", "40")).await?;
    let rollout = shop
        .until("v3 is rolled back", Duration::from_secs(120), is_aborted)
        .await?;
    note!(
        "{}",
        rollout
            .status
            .and_then(|status| status.message)
            .unwrap_or_default()
    );
    stop_without_loss(load).await?;
    shop.close().await
}

/// Without a router the weights are approximated by replica counts.
///
/// # Errors
/// When something is not as promised.
pub async fn a_release_without_a_router(env: &Env) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-unrouted").await?;
    let steps = json!([{"setWeight": 30}, {"pause": {}}]);
    let spec = Spec {
        replicas: 4,
        steps: Some(steps),
        analysis: None,
        ..Spec::default()
    };
    let mut object = crate::manifests::rollout(&shop.name, &spec, &Release::good("v1"));
    for routed in [
        "trafficRouting",
        "scaleDownDelaySeconds",
        "abortScaleDownDelaySeconds",
    ] {
        without(&mut object["spec"]["strategy"]["canary"], routed);
    }
    shop.apply(object.clone()).await?;
    shop.until("v1 is stable", Duration::from_secs(60), is_stable)
        .await?;
    object["spec"]["template"] = crate::manifests::template(&shop.name, &Release::good("v2"));
    shop.apply(object).await?;
    let paused = |rollout: &serin_crds::Rollout| {
        rollout
            .status
            .as_ref()
            .is_some_and(|status| status.pause.is_some())
    };
    shop.until("paused", Duration::from_secs(60), paused)
        .await?;
    let mut counts: Vec<i32> = shop.desired().await?.into_values().collect();
    counts.sort_unstable();
    ensure!(counts == [1, 3], "30 % of 4 pods: {counts:?}");
    let (done, message) = shop.command("promote", json!({})).await?;
    ensure!(done, "{message}");
    shop.until("v2 is promoted", Duration::from_secs(90), is_stable)
        .await?;
    shop.close().await
}

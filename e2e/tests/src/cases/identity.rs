//! Which requests count: those of the two sides of this Rollout, each once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use serin_crds::Rollout;
use serin_load::LoadHandle;

use crate::env::Env;
use crate::manifests::{self, Release, Spec, analysis};
use crate::note;
use crate::shop::{Shop, is_paused, is_stable, stop_without_loss, verified};

fn half(pause: Value) -> Spec {
    Spec {
        steps: Some(json!([{"setWeight": 50}, {"pause": pause}])),
        ..Spec::default()
    }
}

fn waits_at_half(rollout: &Rollout) -> bool {
    is_paused(rollout) && verified(rollout) == Some(50.0)
}

/// Checks that the evidence counts requests, and no more than this Rollout was sent.
fn ensure_counts_own_requests(shop: &Shop, rollout: &Rollout, load: &LoadHandle) -> Result<()> {
    let evidence = rollout
        .status
        .as_ref()
        .and_then(|status| status.evidence.first())
        .context("evidence")?;
    let (canary, stable) = (evidence.canary.requests, evidence.stable.requests);
    let sent = f64::from(u32::try_from(load.snapshot().sent)?);
    note!(
        "{}: counted {canary} of the canary and {stable} of stable, sent {sent}",
        shop.namespace
    );
    ensure!(
        canary > 0.0,
        "{}: no request of the canary was counted",
        shop.namespace
    );
    ensure!(
        canary + stable <= sent,
        "{}: counted {} requests, sent {sent}",
        shop.namespace,
        canary + stable
    );
    Ok(())
}

/// Whether the release is held because its requests cannot be told apart from another route's,
/// which the message names.
fn is_held_as_ambiguous(rollout: &Rollout, other: &str) -> bool {
    let conditions = rollout.status.iter().flat_map(|status| &status.conditions);
    let mut unready = conditions
        .filter(|condition| condition.type_ == "MetricsReady" && condition.status == "False");
    unready.any(|condition| {
        condition.reason == "AmbiguousSeries"
            && condition.message.contains(other)
            && condition.message.contains("rename")
    })
}

// traefik #10139, #10105, PR #13367: a namespace and a Service that are joined by a dash are one
// ambiguous name in metrics. Both releases are held, with the reason and the remedy, and neither is
// judged by the other's requests.
/// # Errors
/// If a promise is not kept.
pub async fn two_services_whose_joined_names_are_equal_are_held_and_named(env: &Env) -> Result<()> {
    let bad = Shop::open_named(env, "serin-e2e-a", "b-shop").await?;
    let good = Shop::open_named(env, "serin-e2e-a-b", "shop").await?;
    let spec = half(json!({}));
    bad.declare(&spec, &Release::good("v1")).await?;
    good.first(&spec, &Release::good("v1")).await?;
    bad.first(&spec, &Release::good("v1")).await?;
    let (bad_load, good_load) = (bad.load(100)?, good.load(50)?);
    good.declare(&spec, &Release::good("v2")).await?;
    bad.declare(&spec, &Release::failing("v2", "20")).await?;
    for (shop, other) in [(&good, "serin-e2e-a/b-shop"), (&bad, "serin-e2e-a-b/shop")] {
        let is_held = |rollout: &Rollout| is_held_as_ambiguous(rollout, other);
        shop.until_unless_aborted(
            "it is held and the other route is named",
            Duration::from_secs(90),
            is_held,
        )
        .await?;
    }
    good.runs_without_abort(Duration::from_secs(10)).await?;
    stop_without_loss(good_load).await?;
    stop_without_loss(bad_load).await?;
    good.close().await?;
    bad.close().await
}

// rollouts-plugin-trafficrouter-gatewayapi PR #226: two rules name the same Service and only one of
// them is split. What the other rule sends to stable, here an uptime monitor that never fails, is
// no evidence.
/// # Errors
/// If a promise is not kept.
pub async fn requests_of_a_rule_that_is_not_split_do_not_count(env: &Env) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-rule").await?;
    let mut route = shop.route();
    let backends = json!([{"name": shop.name, "port": 8080}]);
    route["spec"]["rules"] = json!([
        {"name": "api", "matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": backends},
        {"name": "probe", "matches": [{"path": {"type": "Exact", "value": "/healthz"}}], "backendRefs": backends},
    ]);
    shop.apply(route).await?;
    let rollout = |version: &str| {
        let mut analysis = analysis();
        analysis["objectives"][0]["objective"] = json!(95);
        let spec = Spec {
            analysis: Some(analysis),
            ..half(json!({"duration": "30s"}))
        };
        let mut rollout = manifests::rollout(&shop.name, &spec, &Release::failing(version, "2"));
        rollout["spec"]["strategy"]["canary"]["trafficRouting"]["gatewayAPI"] =
            json!({"httpRoutes": [{"name": shop.name, "rule": "api"}]});
        rollout
    };
    shop.apply(rollout("v1")).await?;
    shop.until("v1 is stable", Duration::from_secs(90), is_stable)
        .await?;
    shop.answers().await?;
    shop.until_answered("/healthz", |_| true).await?;
    let (load, monitor) = (shop.load(60)?, shop.load_on("/healthz", 100)?);
    shop.apply(rollout("v2")).await?;
    shop.until_unless_aborted("v2 waits at 50 %", Duration::from_secs(90), waits_at_half)
        .await?;
    shop.runs_without_abort(Duration::from_secs(20)).await?;
    ensure_counts_own_requests(&shop, &shop.rollout().await?, &load)?;
    shop.until_unless_aborted("v2 is promoted", Duration::from_secs(120), is_stable)
        .await?;
    stop_without_loss(load).await?;
    let report = stop_without_loss(monitor).await?;
    ensure!(
        report.all().of_version("v1").last().is_some(),
        "the monitor reached v1"
    );
    shop.close().await
}

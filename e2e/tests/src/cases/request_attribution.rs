//! Attribution of requests: the evidence counts each request of this Rollout once, and no others.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use serin_crds::Rollout;
use serin_load::LoadHandle;

use crate::env::Env;
use crate::manifests::{self, RolloutOptions, SampleRelease, analysis};
use crate::note;
use crate::shop::{Shop, is_paused, is_stable, stop_and_ensure_no_loss, verified_weight};

fn options_at_half(pause: Value) -> RolloutOptions {
    RolloutOptions {
        steps: Some(json!([{"setWeight": 50}, {"pause": pause}])),
        ..RolloutOptions::default()
    }
}

fn waits_at_half(rollout: &Rollout) -> bool {
    is_paused(rollout) && verified_weight(rollout) == Some(50.0)
}

/// Checks that the evidence has requests, and not more than were sent to this Rollout.
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

/// Whether the release is held because its requests cannot be distinguished from those of another
/// route, which the message names.
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

// traefik #10139, #10105, PR #13367: metrics join namespace and Service name with a dash, which is
// ambiguous. Both releases are held with the reason and a fix, and neither is evaluated with the
// requests of the other.
/// # Errors
/// If an expectation is not met.
pub async fn services_with_ambiguous_metric_names_are_held_and_reported(env: &Env) -> Result<()> {
    let bad = Shop::create_named(env, "serin-e2e-a", "b-shop").await?;
    let good = Shop::create_named(env, "serin-e2e-a-b", "shop").await?;
    let spec = options_at_half(json!({}));
    bad.apply_release(&spec, &SampleRelease::good("v1")).await?;
    good.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    bad.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    let (bad_load, good_load) = (bad.start_load(100)?, good.start_load(50)?);
    good.apply_release(&spec, &SampleRelease::good("v2"))
        .await?;
    bad.apply_release(&spec, &SampleRelease::failing("v2", "20"))
        .await?;
    for (shop, other) in [(&good, "serin-e2e-a/b-shop"), (&bad, "serin-e2e-a-b/shop")] {
        let is_held = |rollout: &Rollout| is_held_as_ambiguous(rollout, other);
        shop.wait_until_unless_aborted(
            "it is held and the message names the other route",
            Duration::from_secs(90),
            is_held,
        )
        .await?;
    }
    good.ensure_no_abort_for(Duration::from_secs(10)).await?;
    stop_and_ensure_no_loss(good_load).await?;
    stop_and_ensure_no_loss(bad_load).await?;
    good.delete().await?;
    bad.delete().await
}

// rollouts-plugin-trafficrouter-gatewayapi PR #226: two rules have the same Service as backend, and
// only one of them is split. Requests of the other rule, here of an uptime monitor that never
// fails, must not count as evidence.
/// # Errors
/// If an expectation is not met.
pub async fn requests_of_unsplit_route_rules_are_not_counted(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-rule").await?;
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
        let spec = RolloutOptions {
            analysis: Some(analysis),
            ..options_at_half(json!({"duration": "30s"}))
        };
        let mut rollout =
            manifests::rollout(&shop.name, &spec, &SampleRelease::failing(version, "2"));
        rollout["spec"]["strategy"]["canary"]["trafficRouting"]["gatewayAPI"] =
            json!({"httpRoutes": [{"name": shop.name, "rule": "api"}]});
        rollout
    };
    shop.apply(rollout("v1")).await?;
    shop.wait_until("v1 is stable", Duration::from_secs(90), is_stable)
        .await?;
    shop.wait_until_answering().await?;
    shop.wait_until_answered_by("/healthz", |_| true).await?;
    let (load, monitor) = (shop.start_load(60)?, shop.start_load_on("/healthz", 100)?);
    shop.apply(rollout("v2")).await?;
    shop.wait_until_unless_aborted("v2 waits at 50 %", Duration::from_secs(90), waits_at_half)
        .await?;
    shop.ensure_no_abort_for(Duration::from_secs(20)).await?;
    ensure_counts_own_requests(&shop, &shop.rollout().await?, &load)?;
    shop.wait_until_unless_aborted("v2 is promoted", Duration::from_secs(120), is_stable)
        .await?;
    stop_and_ensure_no_loss(load).await?;
    let report = stop_and_ensure_no_loss(monitor).await?;
    ensure!(
        report.all().of_version("v1").last().is_some(),
        "the monitor must reach v1"
    );
    shop.delete().await
}

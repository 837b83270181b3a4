//! The progress deadline: what was achieved once is not overdue later.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use serin_core::units::Weight;
use serin_crds::Rollout;

use super::scaling::patient;
use crate::env::Env;
use crate::manifests::{self, Release, Spec};
use crate::shop::{Shop, is_stable, stop_without_loss, verified};

/// Long enough for pods to start on a busy machine.
const DEADLINE_SECONDS: u32 = 30;

/// A release that has made no progress for this long has used up its deadline.
const QUIET: Duration = Duration::from_secs(DEADLINE_SECONDS as u64 + 5);

/// So low that an objective of 99.9 % stays undecided.
const LOAD_PER_SECOND: u32 = 20;

/// A Rollout that the evidence paces, with half of the traffic from the beginning to the end.
fn paced_at_half(name: &str, release: &Release) -> Value {
    let spec = Spec {
        replicas: 4,
        steps: None,
        progress_deadline_seconds: DEADLINE_SECONDS,
        ..Spec::default()
    };
    let mut rollout = manifests::rollout(name, &spec, release);
    rollout["spec"]["strategy"]["canary"]["pace"] = json!({"firstWeight": 50, "maxWeight": 50});
    patient(rollout)
}

fn is_at_half(rollout: &Rollout) -> bool {
    verified(rollout) == Some(50.0)
}

/// Releases v2 and waits until it has half of the traffic.
async fn release_to_half(shop: &Shop, rollout: Value) -> Result<String> {
    shop.apply(rollout).await?;
    let rollout = shop
        .until_unless_aborted("v2 has 50 %", Duration::from_secs(60), is_at_half)
        .await?;
    rollout
        .status
        .and_then(|status| status.current_revision)
        .context("a current revision")
}

/// # Errors
/// If a promise is not kept.
pub async fn a_canary_is_not_overdue_when_a_pod_is_replaced_or_replicas_rise(
    env: &Env,
) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-deadline").await?;
    shop.apply(paced_at_half(&shop.name, &Release::good("v1")))
        .await?;
    shop.until("v1 is stable", Duration::from_secs(90), is_stable)
        .await?;
    shop.answers().await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    let canary = release_to_half(&shop, paced_at_half(&shop.name, &Release::good("v2"))).await?;
    shop.runs_without_abort(QUIET).await?;

    // argo-rollouts #1624: a pod that is replaced long after the last progress is no expired
    // deadline.
    let pods = shop.api::<Pod>();
    let of_canary = ListParams::default().labels(&format!("serin.dev/revision={canary}"));
    let deleted = pods
        .list(&of_canary)
        .await?
        .items
        .first()
        .context("a canary pod")?
        .name_any();
    pods.delete(&deleted, &DeleteParams::default()).await?;
    shop.eventually(
        "the canary pod is gone",
        Duration::from_secs(60),
        async || Ok(pods.get_opt(&deleted).await?.is_none()),
    )
    .await?;
    shop.until_available(&canary, 2, Duration::from_secs(60))
        .await?;
    shop.until_unless_aborted("v2 has 50 % again", Duration::from_secs(60), is_at_half)
        .await?;
    shop.runs_without_abort(QUIET).await?;

    // flagger #944: an autoscaler raises `replicas` in mid-release.
    shop.scale(8).await?;
    shop.until_available(&canary, 4, Duration::from_secs(60))
        .await?;
    shop.until_unless_aborted("v2 still has 50 %", Duration::from_secs(60), is_at_half)
        .await?;
    shop.runs_without_abort(Duration::from_secs(5)).await?;
    let (done, message) = shop.command("promoteFull", json!({})).await?;
    ensure!(done, "{message}");
    shop.until_unless_aborted("v2 is stable", Duration::from_secs(90), is_stable)
        .await?;
    stop_without_loss(load).await?;
    shop.close().await
}

/// One route with a rule for each of two Rollouts.
fn route_of_two(shop: &Shop, tracking: &Shop) -> Value {
    let mut route = shop.route();
    let rule = json!({
        "matches": [{"path": {"type": "PathPrefix", "value": "/tracking"}}],
        "backendRefs": [{"name": tracking.name, "port": 8080}],
    });
    if let Some(rules) = route["spec"]["rules"].as_array_mut() {
        rules.push(rule);
    }
    route
}

async fn edit_route(shop: &Shop, edit: Value) -> Result<()> {
    let patch = Patch::Json::<()>(serde_json::from_value(edit)?);
    shop.routes()
        .patch(&shop.name, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

// rollouts-plugin-trafficrouter-gatewayapi PR #164: each write of one Rollout makes the route's
// generation unconfirmed for the other one, and GitOps tools reset the weights.
/// # Errors
/// If a promise is not kept.
pub async fn two_rollouts_on_one_route_do_not_disturb_each_other(env: &Env) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-one-route").await?;
    let tracking = shop.sibling("tracking");
    shop.apply(route_of_two(&shop, &tracking)).await?;
    let tracking_rollout = |version: &str| {
        let mut rollout = paced_at_half(&tracking.name, &Release::good(version));
        rollout["spec"]["strategy"]["canary"]["trafficRouting"]["gatewayAPI"] =
            json!({"httpRoute": shop.name});
        rollout
    };
    shop.apply(paced_at_half(&shop.name, &Release::good("v1")))
        .await?;
    shop.apply(tracking_rollout("v1")).await?;
    shop.until("v1 of shop is stable", Duration::from_secs(90), is_stable)
        .await?;
    tracking
        .until(
            "v1 of tracking is stable",
            Duration::from_secs(90),
            is_stable,
        )
        .await?;
    shop.answers().await?;
    shop.until_answered("/tracking", |_| true).await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    let tracking_load = shop.load_on("/tracking", LOAD_PER_SECOND)?;

    release_to_half(&shop, paced_at_half(&shop.name, &Release::good("v2"))).await?;
    shop.runs_without_abort(QUIET).await?;
    release_to_half(&tracking, tracking_rollout("v2")).await?;
    shop.runs_without_abort(Duration::from_secs(5)).await?;

    let header = json!({"set": [{"name": "x-edited", "value": "yes"}]});
    let filter = json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": header}]);
    edit_route(
        &shop,
        json!([{"op": "add", "path": "/spec/rules/1/filters", "value": filter}]),
    )
    .await?;
    shop.runs_without_abort(Duration::from_secs(5)).await?;
    shop.until_unless_aborted(
        "shop's v2 still has 50 %",
        Duration::from_secs(30),
        is_at_half,
    )
    .await?;

    let reset = json!([
        {"op": "replace", "path": "/spec/rules/0/backendRefs/0/weight", "value": 100},
        {"op": "replace", "path": "/spec/rules/0/backendRefs/1/weight", "value": 0},
    ]);
    edit_route(&shop, reset).await?;
    shop.eventually(
        "the weights are put back",
        Duration::from_secs(30),
        async || {
            Ok(shop.route_share().await? == Weight::percent(50)
                && !shop.events("RouteDrift").await?.is_empty())
        },
    )
    .await?;
    shop.until_unless_aborted(
        "shop's v2 has 50 % again",
        Duration::from_secs(30),
        is_at_half,
    )
    .await?;
    tracking
        .until_unless_aborted(
            "tracking's v2 has 50 %",
            Duration::from_secs(30),
            is_at_half,
        )
        .await?;

    for rollout in [&shop, &tracking] {
        let (done, message) = rollout.command("promoteFull", json!({})).await?;
        ensure!(done, "{message}");
        rollout
            .until_unless_aborted("v2 is stable", Duration::from_secs(90), is_stable)
            .await?;
    }
    let route = shop.routes().get(&shop.name).await?;
    ensure!(
        route.data["spec"]["rules"][1]["filters"].is_array(),
        "the filter of the other rule is kept"
    );
    stop_without_loss(load).await?;
    stop_without_loss(tracking_load).await?;
    shop.close().await
}

//! Scaling during a release, and by an autoscaler.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use serde_json::{Value, json};
use serin_crds::Rollout;

use crate::env::Env;
use crate::manifests::{self, RolloutOptions, SampleRelease};
use crate::note;
use crate::shop::{Shop, is_paused, is_stable, stop_and_ensure_no_loss, verified_weight};
use crate::traffic::{ensure_share_at_most, ensure_share_at_most_in_windows};

const LOAD_PER_SECOND: u32 = 100;

/// Scales a release that is paused at 20 % up to ten pods and down to five, with some load at each
/// size.
async fn scale_up_and_down(shop: &Shop) -> Result<()> {
    for (replicas, what) in [(10_i32, "up"), (5, "down")] {
        shop.scale(replicas.unsigned_abs()).await?;
        shop.wait_until_unless_aborted(
            &format!("scaled {what}"),
            Duration::from_secs(90),
            |rollout| {
                let status = rollout.status.as_ref();
                let complete = |status: &serin_crds::RolloutStatus| {
                    // With a router the canary's pods exist in addition, a fifth at most.
                    status.replicas == replicas
                        && (replicas..=replicas + replicas / 5).contains(&status.available_replicas)
                };
                is_paused(rollout) && status.is_some_and(complete)
            },
        )
        .await?;
        tokio::time::sleep(Duration::from_secs(8)).await;
    }
    Ok(())
}

fn options_paused_at_20(replicas: u32) -> RolloutOptions {
    let steps = json!([{"setWeight": 20}, {"pause": {}}]);
    RolloutOptions {
        replicas,
        steps: Some(steps),
        analysis: None,
        ..RolloutOptions::default()
    }
}

// Regression test: all new pods went to the canary.
/// # Errors
/// If an expectation is not met.
pub async fn scaling_during_a_release_keeps_the_traffic_share_with_a_router(
    env: &Env,
) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-scale-routed").await?;
    let rollout = |version: &str| {
        with_long_drain(manifests::rollout(
            &shop.name,
            &options_paused_at_20(5),
            &SampleRelease::good(version),
        ))
    };
    shop.apply(rollout("v1")).await?;
    shop.wait_until("v1 is stable", Duration::from_secs(90), is_stable)
        .await?;
    shop.wait_until_answering().await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    shop.apply(rollout("v2")).await?;
    let waits = |rollout: &Rollout| is_paused(rollout) && verified_weight(rollout) == Some(20.0);
    shop.wait_until_unless_aborted("v2 waits at 20 %", Duration::from_secs(90), waits)
        .await?;
    let from = load.elapsed();
    scale_up_and_down(&shop).await?;
    let report = load.report_so_far();
    ensure_share_at_most_in_windows(
        &report,
        from..report.elapsed,
        Duration::from_secs(5),
        "v2",
        0.2,
    )?;
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

/// Applies a Service for all pods of a Rollout without a router.
///
/// # Errors
/// If the API server rejects it.
pub async fn apply_service_of_all_pods(shop: &Shop) -> Result<()> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": shop.name},
        "spec": {"selector": {"app": shop.name}, "ports": [{"name": "http", "port": 8080, "targetPort": "http"}]},
    });
    shop.apply(service).await?;
    Ok(())
}

/// A Rollout without a router.
pub fn rollout_without_router(
    shop: &Shop,
    spec: &RolloutOptions,
    release: &SampleRelease,
) -> Value {
    let mut rollout = manifests::rollout(&shop.name, spec, release);
    if let Some(canary) = rollout["spec"]["strategy"]["canary"].as_object_mut() {
        for field in [
            "trafficRouting",
            "scaleDownDelaySeconds",
            "abortScaleDownDelaySeconds",
        ] {
            canary.remove(field);
        }
    }
    with_long_drain(rollout)
}

/// Sets a long drain time, so that even a slow gateway removes a terminating pod before it stops
/// serving.
pub fn with_long_drain(mut rollout: Value) -> Value {
    manifests::set_env(&mut rollout, "DRAIN_MS", "6000");
    rollout
}

/// # Errors
/// If an expectation is not met.
pub async fn scaling_during_a_release_keeps_the_traffic_share_without_a_router(
    env: &Env,
) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-scale-unrouted").await?;
    apply_service_of_all_pods(&shop).await?;
    shop.apply(rollout_without_router(
        &shop,
        &options_paused_at_20(5),
        &SampleRelease::good("v1"),
    ))
    .await?;
    shop.wait_until("v1 is stable", Duration::from_secs(90), is_stable)
        .await?;
    shop.wait_until_answering().await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    shop.apply(rollout_without_router(
        &shop,
        &options_paused_at_20(5),
        &SampleRelease::good("v2"),
    ))
    .await?;
    shop.wait_until_unless_aborted("v2 waits at 20 %", Duration::from_secs(90), is_paused)
        .await?;
    // One of five pods. The gateway discovers them with a short delay.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let from = load.elapsed();
    scale_up_and_down(&shop).await?;
    let report = load.report_so_far();
    // The pods of both sides start one by one: temporarily 2 of 7 pods, which is 29 %.
    ensure_share_at_most_in_windows(
        &report,
        from..report.elapsed,
        Duration::from_secs(5),
        "v2",
        0.3,
    )?;
    ensure_share_at_most(&report, from.., "v2", 0.2)?;
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

fn remove_replicas(mut rollout: Value) -> Value {
    rollout["spec"]
        .as_object_mut()
        .map(|spec| spec.remove("replicas"));
    rollout
}

/// Waits until the Rollout has this many available pods, and checks that the number does not change
/// for 5 s.
async fn ensure_replicas_stay_at(shop: &Shop, replicas: i32) -> Result<()> {
    let has = |rollout: &Rollout| {
        let status = rollout.status.as_ref();
        is_stable(rollout) && status.is_some_and(|status| status.available_replicas == replicas)
    };
    shop.wait_until(
        &format!("{} has {replicas} pods", shop.name),
        Duration::from_secs(90),
        has,
    )
    .await?;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let desired = shop.own_desired_replicas().await?;
        ensure!(
            desired == replicas,
            "{}: {desired} pods are desired instead of {replicas}",
            shop.name
        );
    }
    Ok(())
}

// argo-rollouts #119: `/scale` returns an error if the manifest omits `replicas`.
// #3689: with a default value, removing `replicas: 10` from the manifest scales down to one pod.
/// # Errors
/// If an expectation is not met.
#[expect(clippy::too_many_lines, reason = "a linear scenario")]
pub async fn an_autoscaler_owns_replicas_that_the_manifest_omits(env: &Env) -> Result<()> {
    let shop = Shop::create_without_route(env, "serin-e2e-hpa", "shop").await?;
    let spec = RolloutOptions {
        replicas: 3,
        steps: Some(json!([{"setWeight": 50}])),
        analysis: None,
        ..RolloutOptions::default()
    };
    let namespace = ["--namespace", shop.namespace.as_str()];
    let apply = async |rollout: &Value, server_side: bool| {
        let mut arguments = vec!["apply", "--filename", "-"];
        if server_side {
            arguments.push("--server-side");
        }
        arguments.extend(namespace);
        env.run_kubectl(&arguments, rollout).await
    };
    // Two Rollouts with three replicas whose manifests will omit the field, one for each way of
    // applying.
    let fleets = [
        (shop.sibling("by-client"), false),
        (shop.sibling("by-server"), true),
    ];
    for (fleet, server_side) in &fleets {
        apply(
            &rollout_without_router(fleet, &spec, &SampleRelease::good("v1")),
            *server_side,
        )
        .await?;
    }
    let without = remove_replicas(rollout_without_router(
        &shop,
        &spec,
        &SampleRelease::good("v1"),
    ));
    apply(&without, false).await?;
    shop.wait_until("v1 is stable", Duration::from_secs(90), is_stable)
        .await?;
    let path = format!(
        "/apis/serin.dev/v1alpha1/namespaces/{}/rollouts/{}/scale",
        shop.namespace, shop.name
    );
    let scale: Value = serde_json::from_str(
        &env.run_kubectl(&["get", "--raw", &path], &Value::Null)
            .await?,
    )?;
    ensure!(
        scale["spec"]["replicas"] == 1 && scale["status"]["replicas"] == 1,
        "the scale is {scale}"
    );

    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": shop.name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "serin.dev/v1alpha1", "kind": "Rollout", "name": shop.name},
            "minReplicas": 3, "maxReplicas": 5,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}],
        },
    });
    shop.apply(autoscaler).await?;
    let autoscalers = shop.api::<HorizontalPodAutoscaler>();
    shop.eventually(
        "the autoscaler can scale",
        Duration::from_secs(60),
        async || {
            let status = autoscalers
                .get(&shop.name)
                .await?
                .status
                .context("no status yet")?;
            let conditions = status.conditions.unwrap_or_default();
            Ok(conditions
                .iter()
                .any(|condition| condition.type_ == "AbleToScale" && condition.status == "True"))
        },
    )
    .await?;
    ensure_replicas_stay_at(&shop, 3).await?;

    // As in the next sync of a GitOps tool.
    apply(&without, false).await?;
    ensure_replicas_stay_at(&shop, 3).await?;
    for (fleet, server_side) in &fleets {
        ensure_replicas_stay_at(fleet, 3).await?;
        apply(
            &remove_replicas(rollout_without_router(
                fleet,
                &spec,
                &SampleRelease::good("v1"),
            )),
            *server_side,
        )
        .await?;
        ensure_replicas_stay_at(fleet, 3).await?;
        // A release afterwards does not change it either.
        apply(
            &remove_replicas(rollout_without_router(
                fleet,
                &spec,
                &SampleRelease::good("v2"),
            )),
            *server_side,
        )
        .await?;
        ensure_replicas_stay_at(fleet, 3).await?;
        note!(
            "{}: spec.replicas is now {:?}",
            fleet.name,
            fleet.rollout().await?.spec.replicas
        );
    }
    shop.delete().await
}

//! Scaling: in mid-release, by an autoscaler, and when the manifest leaves the number to it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use serde_json::{Value, json};
use serin_crds::Rollout;

use crate::env::Env;
use crate::manifests::{self, Release, Spec};
use crate::note;
use crate::shop::{Shop, is_paused, is_stable, stop_without_loss, verified};
use crate::traffic::{ensure_share_at_most, ensure_share_at_most_in_windows};

const LOAD_PER_SECOND: u32 = 100;

/// Scales a release that waits at 20 % up to ten pods and down to five, and lets the load see each.
async fn scale_up_and_down(shop: &Shop) -> Result<()> {
    for (replicas, what) in [(10, "up"), (5, "down")] {
        shop.scale(replicas).await?;
        shop.until_unless_aborted(
            &format!("scaled {what}"),
            Duration::from_secs(90),
            |rollout| {
                let status = rollout.status.as_ref();
                let complete = |status: &serin_crds::RolloutStatus| {
                    status.available_replicas >= i32::try_from(replicas).unwrap_or(i32::MAX)
                        && status.available_replicas == status.replicas
                };
                is_paused(rollout) && status.is_some_and(complete)
            },
        )
        .await?;
        tokio::time::sleep(Duration::from_secs(8)).await;
    }
    Ok(())
}

fn at_20(replicas: u32) -> Spec {
    let steps = json!([{"setWeight": 20}, {"pause": {}}]);
    Spec {
        replicas,
        steps: Some(steps),
        analysis: None,
        ..Spec::default()
    }
}

// Seen here: all new pods went to the side that is not proven yet.
/// # Errors
/// If a promise is not kept.
pub async fn scaling_in_mid_release_keeps_the_share_of_a_routed_canary(env: &Env) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-scale-routed").await?;
    let rollout = |version: &str| {
        patient(manifests::rollout(
            &shop.name,
            &at_20(5),
            &Release::good(version),
        ))
    };
    shop.apply(rollout("v1")).await?;
    shop.until("v1 is stable", Duration::from_secs(90), is_stable)
        .await?;
    shop.answers().await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    shop.apply(rollout("v2")).await?;
    let waits = |rollout: &Rollout| is_paused(rollout) && verified(rollout) == Some(20.0);
    shop.until_unless_aborted("v2 waits at 20 %", Duration::from_secs(90), waits)
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
    stop_without_loss(load).await?;
    shop.close().await
}

/// Applies a Service in front of all pods of a Rollout without a router, as a user writes it.
///
/// # Errors
/// If the API server refuses.
pub async fn apply_service_of_all_pods(shop: &Shop) -> Result<()> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": shop.name},
        "spec": {"selector": {"app": shop.name}, "ports": [{"name": "http", "port": 8080, "targetPort": "http"}]},
    });
    shop.apply(service).await?;
    Ok(())
}

/// The Rollout without a router.
pub fn unrouted(shop: &Shop, spec: &Spec, release: &Release) -> Value {
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
    patient(rollout)
}

/// Pods that are removed while they serve: they go on for so long that even a busy gateway notices
/// before they stop.
pub fn patient(mut rollout: Value) -> Value {
    manifests::set_env(&mut rollout, "DRAIN_MS", "6000");
    rollout
}

/// # Errors
/// If a promise is not kept.
pub async fn scaling_in_mid_release_keeps_the_share_of_a_canary_without_a_router(
    env: &Env,
) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-scale-unrouted").await?;
    apply_service_of_all_pods(&shop).await?;
    shop.apply(unrouted(&shop, &at_20(5), &Release::good("v1")))
        .await?;
    shop.until("v1 is stable", Duration::from_secs(90), is_stable)
        .await?;
    shop.answers().await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    shop.apply(unrouted(&shop, &at_20(5), &Release::good("v2")))
        .await?;
    shop.until_unless_aborted("v2 waits at 20 %", Duration::from_secs(90), is_paused)
        .await?;
    // One of five pods; the gateway takes a moment to see them all.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let from = load.elapsed();
    scale_up_and_down(&shop).await?;
    let report = load.report_so_far();
    // Pods of both sides start one by one: 2 of 7 pods for a moment are 29 %.
    ensure_share_at_most_in_windows(
        &report,
        from..report.elapsed,
        Duration::from_secs(5),
        "v2",
        0.3,
    )?;
    ensure_share_at_most(&report, from.., "v2", 0.2)?;
    stop_without_loss(load).await?;
    shop.close().await
}

fn remove_replicas(mut rollout: Value) -> Value {
    rollout["spec"]
        .as_object_mut()
        .map(|spec| spec.remove("replicas"));
    rollout
}

/// Waits until the Rollout has this many available pods, and checks that it keeps them for a while.
async fn keeps(shop: &Shop, replicas: i32) -> Result<()> {
    let has = |rollout: &Rollout| {
        let status = rollout.status.as_ref();
        is_stable(rollout) && status.is_some_and(|status| status.available_replicas == replicas)
    };
    shop.until(
        &format!("{} has {replicas} pods", shop.name),
        Duration::from_secs(90),
        has,
    )
    .await?;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let desired = shop.desired_of_rollout().await?;
        ensure!(
            desired == replicas,
            "{}: {desired} pods are desired instead of {replicas}",
            shop.name
        );
    }
    Ok(())
}

// argo-rollouts #119: `/scale` answers with an error while the manifest leaves `replicas` out.
// #3689: with a default, a manifest that loses `replicas: 10` shrinks the fleet to one pod.
/// # Errors
/// If a promise is not kept.
pub async fn an_autoscaler_owns_replicas_that_the_manifest_leaves_out(env: &Env) -> Result<()> {
    let shop = Shop::open_without_route(env, "serin-e2e-hpa", "shop").await?;
    let spec = Spec {
        replicas: 3,
        steps: Some(json!([{"setWeight": 50}])),
        analysis: None,
        ..Spec::default()
    };
    let namespace = ["--namespace", shop.namespace.as_str()];
    let apply = async |rollout: &Value, server_side: bool| {
        let mut arguments = vec!["apply", "--filename", "-"];
        if server_side {
            arguments.push("--server-side");
        }
        arguments.extend(namespace);
        env.kubectl(&arguments, rollout).await
    };
    // The fleets at three whose manifests will lose the field, one by each way of applying.
    let fleets = [
        (shop.sibling("by-client"), false),
        (shop.sibling("by-server"), true),
    ];
    for (fleet, server_side) in &fleets {
        apply(&unrouted(fleet, &spec, &Release::good("v1")), *server_side).await?;
    }
    let without = remove_replicas(unrouted(&shop, &spec, &Release::good("v1")));
    apply(&without, false).await?;
    shop.until("v1 is stable", Duration::from_secs(90), is_stable)
        .await?;
    let path = format!(
        "/apis/serin.dev/v1alpha1/namespaces/{}/rollouts/{}/scale",
        shop.namespace, shop.name
    );
    let scale: Value =
        serde_json::from_str(&env.kubectl(&["get", "--raw", &path], &Value::Null).await?)?;
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
    keeps(&shop, 3).await?;

    // The next sync of a GitOps tool.
    apply(&without, false).await?;
    keeps(&shop, 3).await?;
    for (fleet, server_side) in &fleets {
        keeps(fleet, 3).await?;
        apply(
            &remove_replicas(unrouted(fleet, &spec, &Release::good("v1"))),
            *server_side,
        )
        .await?;
        keeps(fleet, 3).await?;
        // A release after that as well.
        apply(
            &remove_replicas(unrouted(fleet, &spec, &Release::good("v2"))),
            *server_side,
        )
        .await?;
        keeps(fleet, 3).await?;
        note!(
            "{}: spec.replicas is now {:?}",
            fleet.name,
            fleet.rollout().await?.spec.replicas
        );
    }
    shop.close().await
}

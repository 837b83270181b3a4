//! A cluster without the Gateway API, and its installation and removal at run time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use serin_cluster::{Cluster, Component};

use super::scaling::rollout_without_router;
use crate::controller::{Controller, ControllerOptions};
use crate::env::Env;
use crate::manifests::{self, RolloutOptions, SampleRelease};
use crate::shop::{Shop, is_stable, stop_and_ensure_no_loss};

const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// # Errors
/// If an expectation is not met.
pub async fn the_controller_works_without_the_gateway_api_and_detects_its_installation(
    env: &Env,
) -> Result<()> {
    let cluster = env
        .cluster
        .as_ref()
        .context("the Gateway API is deleted from the local cluster only")?;
    let worked = without_gateway_api(env, cluster).await;
    // Restore the Gateway API in any case, because the next case needs it.
    restore_gateway_api(cluster).await?;
    worked
}

async fn without_gateway_api(env: &Env, cluster: &Cluster) -> Result<()> {
    delete_gateway_api(env, cluster).await?;
    let options = ControllerOptions {
        name: "no-gateway".into(),
        port: 18_187,
        election: None,
    };
    let mut controller = Controller::start(env, &options)?;
    controller.wait_until_ready().await?;

    // Without the Gateway API, a Rollout without a router works.
    let shop = Shop::create_without_route(env, "serin-e2e-no-gateway", "shop").await?;
    let plain = shop.sibling("plain");
    let spec = RolloutOptions {
        steps: Some(json!([{"setWeight": 50}])),
        analysis: None,
        ..RolloutOptions::default()
    };
    let release_plain = async |version: &str| -> Result<()> {
        plain
            .apply(rollout_without_router(
                &plain,
                &spec,
                &SampleRelease::good(version),
            ))
            .await?;
        plain
            .wait_until_unless_aborted(
                &format!("{version} is stable"),
                Duration::from_secs(90),
                is_stable,
            )
            .await?;
        Ok(())
    };
    release_plain("v1").await?;
    release_plain("v2").await?;
    // A Rollout with a router waits and has a status.
    let routed =
        |version: &str| manifests::rollout(&shop.name, &spec, &SampleRelease::good(version));
    shop.apply(routed("v1")).await?;
    shop.wait_until("it has a status", Duration::from_secs(60), |rollout| {
        rollout
            .status
            .as_ref()
            .is_some_and(|status| !status.state.message.is_empty())
    })
    .await?;

    // After the installation, the same controller uses the Gateway API.
    restore_gateway_api(cluster).await?;
    shop.apply(shop.route()).await?;
    shop.wait_until("v1 is stable", Duration::from_secs(120), is_stable)
        .await?;
    shop.wait_until_answering().await?;
    let load = shop.start_load(100)?;
    shop.apply(routed("v2")).await?;
    shop.wait_until_unless_aborted("v2 is stable", Duration::from_secs(120), is_stable)
        .await?;
    let report = stop_and_ensure_no_loss(load).await?;
    ensure!(
        report.all().of_version("v2").last().is_some(),
        "v2 must answer requests"
    );

    // After the removal, other Rollouts continue, and deletions do not hang.
    delete_gateway_api(env, cluster).await?;
    release_plain("v3").await?;
    ensure!(
        controller.is_running()?,
        "the controller ended after the removal of the Gateway API"
    );
    shop.delete().await?;
    controller.stop().await
}

/// Stops the gateway and deletes the Gateway API with all of its objects.
async fn delete_gateway_api(env: &Env, cluster: &Cluster) -> Result<()> {
    cluster.kill(Component::Traefik).await?;
    let definitions = Api::<CustomResourceDefinition>::all(env.client.clone());
    let of_gateway = async || -> Result<Vec<String>> {
        let all = definitions.list(&ListParams::default()).await?;
        let ours = all
            .items
            .iter()
            .filter(|definition| definition.spec.group.ends_with(GATEWAY_API));
        Ok(ours.map(ResourceExt::name_any).collect())
    };
    for name in of_gateway().await? {
        definitions.delete(&name, &DeleteParams::default()).await?;
    }
    crate::shop::eventually(
        "the Gateway API is gone",
        Duration::from_secs(60),
        async || Ok(of_gateway().await?.is_empty()),
    )
    .await
}

async fn restore_gateway_api(cluster: &Cluster) -> Result<()> {
    cluster.apply_gateway_api().await?;
    cluster.start(Component::Traefik).await?;
    cluster.wait_for_gateway().await
}

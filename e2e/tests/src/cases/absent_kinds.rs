//! A cluster without the Gateway API, and what happens when its kinds come and go.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use serin_cluster::{Cluster, Component};

use super::scaling::unrouted;
use crate::controller::{Controller, Options};
use crate::env::Env;
use crate::manifests::{self, Release, Spec};
use crate::shop::{Shop, is_stable, stop_without_loss};

const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// # Errors
/// If a promise is not kept.
pub async fn a_cluster_without_the_gateway_api_works_and_its_kinds_may_come_and_go(
    env: &Env,
) -> Result<()> {
    let cluster = env
        .cluster
        .as_ref()
        .context("only the local cluster's definitions are deleted")?;
    let worked = without_gateway_api(env, cluster).await;
    // The next case needs the gateway, whatever came of this one.
    restore_gateway_api(cluster).await?;
    worked
}

async fn without_gateway_api(env: &Env, cluster: &Cluster) -> Result<()> {
    delete_gateway_api(env, cluster).await?;
    let options = Options {
        name: "no-gateway".into(),
        port: 18_187,
        election: None,
    };
    let mut controller = Controller::start(env, &options)?;
    controller.ready().await?;

    // Absent at the start: a Rollout without a router does not need the kinds.
    let shop = Shop::open_without_route(env, "serin-e2e-no-gateway", "shop").await?;
    let plain = shop.sibling("plain");
    let spec = Spec {
        steps: Some(json!([{"setWeight": 50}])),
        analysis: None,
        ..Spec::default()
    };
    let release_plain = async |version: &str| -> Result<()> {
        plain
            .apply(unrouted(&plain, &spec, &Release::good(version)))
            .await?;
        plain
            .until_unless_aborted(
                &format!("{version} is stable"),
                Duration::from_secs(90),
                is_stable,
            )
            .await?;
        Ok(())
    };
    release_plain("v1").await?;
    release_plain("v2").await?;
    // One with a router waits and has a status.
    let routed = |version: &str| manifests::rollout(&shop.name, &spec, &Release::good(version));
    shop.apply(routed("v1")).await?;
    shop.until("it has a status", Duration::from_secs(60), |rollout| {
        rollout
            .status
            .as_ref()
            .is_some_and(|status| status.message.is_some())
    })
    .await?;

    // They appear: the same controller uses them.
    restore_gateway_api(cluster).await?;
    shop.apply(shop.route()).await?;
    shop.until("v1 is stable", Duration::from_secs(120), is_stable)
        .await?;
    shop.answers().await?;
    let load = shop.load(100)?;
    shop.apply(routed("v2")).await?;
    shop.until_unless_aborted("v2 is stable", Duration::from_secs(120), is_stable)
        .await?;
    let report = stop_without_loss(load).await?;
    ensure!(
        report.all().of_version("v2").last().is_some(),
        "v2 answered"
    );

    // They disappear: others go on, and nothing that is deleted hangs.
    delete_gateway_api(env, cluster).await?;
    release_plain("v3").await?;
    ensure!(
        controller.runs()?,
        "the controller ended because a kind disappeared"
    );
    shop.close().await?;
    controller.stop().await
}

/// Stops the gateway and deletes its kinds, and all of their objects with them.
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
    cluster.settle().await
}

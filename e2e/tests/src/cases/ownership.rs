//! Services and routes belong to one Rollout, and pods of somebody else keep their Service.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};
use serin_core::hold::HoldCode;
use serin_crds::Rollout;

use crate::env::Env;
use crate::manifests::{RolloutOptions, SampleRelease, rollout, template};
use crate::note;
use crate::shop::{Shop, is_paused, is_stable, stop_and_ensure_no_loss};

const LOAD_PER_SECOND: u32 = 100;
/// Time in which a fight would be seen.
const QUIET: Duration = Duration::from_secs(10);

fn options() -> RolloutOptions {
    RolloutOptions {
        steps: Some(json!([{"setWeight": 20}, {"pause": {}}])),
        analysis: None,
        ..RolloutOptions::default()
    }
}

/// A Rollout of another name with the Services and the route of the shop.
fn copy_of(shop: &Shop, copy: &Shop) -> Value {
    let mut object = rollout(&copy.name, &options(), &SampleRelease::good("v1"));
    let canary = &mut object["spec"]["strategy"]["canary"];
    canary["stableService"] = json!(shop.name);
    canary["canaryService"] = json!(format!("{}-canary", shop.name));
    canary["trafficRouting"] = json!({"gatewayAPI": {"httpRoute": shop.name}});
    object
}

fn is_in_conflict(rollout: &Rollout) -> bool {
    let holds = rollout.status.iter().flat_map(|status| &status.state.holds);
    let mut codes = holds.map(|hold| hold.code);
    codes.any(|code| code == HoldCode::OwnershipConflict)
}

async fn route_generation(shop: &Shop) -> Result<i64> {
    let route = shop.routes().get(&shop.name).await?;
    route.metadata.generation.context("a generation")
}

/// # Errors
/// If an expectation is not met.
pub async fn a_second_rollout_of_a_route_changes_nothing_until_the_first_is_deleted(
    env: &Env,
) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-owner").await?;
    let copy = shop.sibling("copy");
    shop.deploy_first(&options(), &SampleRelease::good("v1"))
        .await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    shop.apply(copy_of(&shop, &copy)).await?;
    let held = copy
        .wait_until("the copy is held", Duration::from_secs(30), is_in_conflict)
        .await?;
    let message = held.status.map(|status| status.state.message.to_string());
    let message = message.unwrap_or_default();
    ensure!(
        message.contains(&shop.name),
        "the holder is named: {message}"
    );
    note!("{message}");

    shop.apply_release(&options(), &SampleRelease::good("v2"))
        .await?;
    shop.wait_until("v2 has 20 %", Duration::from_secs(60), is_paused)
        .await?;
    let before = route_generation(&shop).await?;
    tokio::time::sleep(QUIET).await;
    ensure!(
        route_generation(&shop).await? == before,
        "nobody changes the route during a pause"
    );
    let rollouts = shop.api::<Rollout>();
    rollouts
        .delete(&copy.name, &DeleteParams::default())
        .await?;
    shop.eventually("the copy is gone", Duration::from_secs(30), async || {
        Ok(rollouts.get_opt(&copy.name).await?.is_none())
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(
        route_generation(&shop).await? == before,
        "the deletion of the copy changes nothing"
    );
    let sets = shop
        .api::<ReplicaSet>()
        .list(&ListParams::default())
        .await?;
    let of_copy = sets
        .iter()
        .filter(|set| set.name_any().starts_with("copy-"));
    ensure!(of_copy.count() == 0, "the copy has no pods");

    let (done, message) = shop.run_command("promote", json!({})).await?;
    ensure!(done, "{message}");
    shop.wait_until("v2 is stable", Duration::from_secs(90), is_stable)
        .await?;
    stop_and_ensure_no_loss(load).await?;

    shop.apply(copy_of(&shop, &copy)).await?;
    copy.wait_until("the copy is held", Duration::from_secs(30), is_in_conflict)
        .await?;
    rollouts
        .delete(&shop.name, &DeleteParams::default())
        .await?;
    copy.wait_until("the copy takes over", Duration::from_secs(120), is_stable)
        .await?;
    shop.delete().await
}

/// A Deployment with the labels that the Service selects.
fn deployment(shop: &Shop) -> Value {
    let mut template = template(&shop.name, &SampleRelease::good("v0"));
    template["metadata"]["labels"]["legacy"] = json!("yes");
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "legacy"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": shop.name, "legacy": "yes"}},
            "template": template,
        },
    })
}

/// # Errors
/// If an expectation is not met.
pub async fn a_rollout_takes_over_the_service_of_a_running_deployment_without_loss(
    env: &Env,
) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-takeover").await?;
    shop.apply(deployment(&shop)).await?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": shop.name},
        "spec": {
            "selector": {"app": shop.name},
            "ports": [{"name": "http", "port": 8080, "targetPort": "http"}],
        },
    });
    shop.apply(service).await?;
    shop.wait_until_answering().await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    shop.apply(rollout(&shop.name, &options(), &SampleRelease::good("v1")))
        .await?;
    shop.wait_until("v1 is stable", Duration::from_secs(120), is_stable)
        .await?;
    let services = shop.api::<Service>();
    shop.eventually(
        "the Service is bound",
        Duration::from_secs(30),
        async || {
            let spec = services.get(&shop.name).await?.spec.unwrap_or_default();
            Ok(spec
                .selector
                .is_some_and(|selector| selector.contains_key("serin.dev/revision")))
        },
    )
    .await?;
    shop.api::<Deployment>()
        .delete("legacy", &DeleteParams::default())
        .await?;
    tokio::time::sleep(QUIET).await;
    stop_and_ensure_no_loss(load).await?;
    shop.delete().await
}

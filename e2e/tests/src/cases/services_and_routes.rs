//! Changes of ports, and routes that list the canary Service.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use serin_core::units::Weight;

use crate::env::Env;
use crate::manifests::{self, RolloutOptions, SampleRelease};
use crate::shop::{Shop, is_stable, share_of, stop_and_ensure_no_loss};

const LOAD_PER_SECOND: u32 = 50;

/// A Rollout whose container listens on port 9090 with the same port name.
fn on_another_port(shop: &Shop, spec: &RolloutOptions, version: &str) -> Value {
    let mut rollout = manifests::rollout(
        &shop.name,
        spec,
        &SampleRelease::with_fault(version, "PORT", "9090"),
    );
    let template = &mut rollout["spec"]["template"];
    template["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(9090);
    template["metadata"]["annotations"]["prometheus.io/port"] = json!("9090");
    rollout
}

/// Adds a second container that listens on a second named port.
fn add_admin_port(rollout: &mut Value) -> Result<()> {
    let containers = &mut rollout["spec"]["template"]["spec"]["containers"];
    let mut admin = containers[0].clone();
    admin["name"] = json!("admin");
    admin["ports"] = json!([{"name": "admin", "containerPort": 9091}]);
    admin["readinessProbe"]["httpGet"]["port"] = json!("admin");
    admin["env"] =
        json!([{"name": "VERSION", "value": "admin"}, {"name": "PORT", "value": "9091"}]);
    containers.as_array_mut().context("containers")?.push(admin);
    Ok(())
}

// flagger #279, PR #327, #1345: generated Services keep the port number of the first release.
/// # Errors
/// If an expectation is not met.
pub async fn releases_can_change_and_add_ports(env: &Env) -> Result<()> {
    let shop = Shop::create(env, "serin-e2e-ports").await?;
    let spec = RolloutOptions {
        analysis: None,
        ..RolloutOptions::default()
    };
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    shop.apply(on_another_port(&shop, &spec, "v2")).await?;
    shop.wait_until_unless_aborted(
        "v2 on another port is stable",
        Duration::from_secs(90),
        is_stable,
    )
    .await?;
    let mut v3 = on_another_port(&shop, &spec, "v3");
    add_admin_port(&mut v3)?;
    shop.apply(v3).await?;
    shop.wait_until_unless_aborted(
        "v3 with a second port is stable",
        Duration::from_secs(90),
        is_stable,
    )
    .await?;
    let services = shop.api::<Service>();
    shop.eventually(
        "the Service has the second port",
        Duration::from_secs(30),
        async || {
            let ports = services
                .get(&shop.name)
                .await?
                .spec
                .and_then(|spec| spec.ports)
                .unwrap_or_default();
            Ok(ports
                .iter()
                .any(|port| port.name.as_deref() == Some("admin") && port.port == 9091))
        },
    )
    .await?;
    // A second route, so that the load keeps using the first rule.
    let mut admin = shop.sibling("admin").route();
    admin["spec"]["rules"] = json!([{
        "matches": [{"path": {"type": "PathPrefix", "value": "/admin"}}],
        "backendRefs": [{"name": shop.name, "port": 9091}],
    }]);
    shop.apply(admin).await?;
    shop.wait_until_answered_by("/admin", |version| version == "admin")
        .await?;
    let report = stop_and_ensure_no_loss(load).await?;
    for version in ["v1", "v2", "v3"] {
        ensure!(
            report.all().of_version(version).last().is_some(),
            "{version} answered nothing"
        );
    }
    shop.delete().await
}

// traefik #9158: a route lists a backend with weight 0 that does not resolve. Users of other
// controllers often list both backends from the start.
/// # Errors
/// If an expectation is not met.
pub async fn a_route_may_list_the_canary_service_before_the_first_release(env: &Env) -> Result<()> {
    let shop = Shop::create_without_route(env, "serin-e2e-listed", "shop").await?;
    let canary = format!("{}-canary", shop.name);
    let mut route = shop.route();
    route["spec"]["rules"][0]["backendRefs"] = json!([
        {"name": shop.name, "port": 8080, "weight": 100},
        {"name": canary, "port": 8080, "weight": 0},
    ]);
    shop.apply(route).await?;
    let spec = RolloutOptions {
        analysis: None,
        scale_down_delay_seconds: 2,
        ..RolloutOptions::default()
    };
    // The first release becomes healthy.
    shop.deploy_first(&spec, &SampleRelease::good("v1")).await?;
    let load = shop.start_load(LOAD_PER_SECOND)?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    shop.apply_release(&spec, &SampleRelease::good("v2"))
        .await?;
    shop.wait_until_unless_aborted("v2 is stable", Duration::from_secs(90), is_stable)
        .await?;
    let resolved = async || -> Result<bool> {
        let route = shop.routes().get(&shop.name).await?;
        let parents = route.data["status"]["parents"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let conditions = parents
            .iter()
            .flat_map(|parent| parent["conditions"].as_array().into_iter().flatten());
        let unresolved = conditions.filter(|condition| {
            condition["type"] == "ResolvedRefs" && condition["status"] != "True"
        });
        Ok(unresolved.count() == 0 && share_of(&route, &canary) == Weight::ZERO)
    };
    shop.eventually(
        "the canary has no weight and all backends are resolved",
        Duration::from_secs(30),
        resolved,
    )
    .await?;
    // The pods of the canary are removed, and the canary Service has no endpoints.
    tokio::time::sleep(Duration::from_secs(5)).await;
    ensure!(
        resolved().await?,
        "the route must stay resolved after the release"
    );
    let report = stop_and_ensure_no_loss(load).await?;
    ensure!(
        report.all().of_version("v2").last().is_some(),
        "v2 must answer requests"
    );
    shop.delete().await
}

//! Services and routes as users write them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use serin_core::units::Weight;

use crate::env::Env;
use crate::manifests::{self, Release, Spec};
use crate::shop::{Shop, is_stable, share_of, stop_without_loss};

const LOAD_PER_SECOND: u32 = 50;

/// A Rollout whose container listens on 9090, under the same port name.
fn on_another_port(shop: &Shop, spec: &Spec, version: &str) -> Value {
    let mut rollout = manifests::rollout(&shop.name, spec, &Release::with(version, "PORT", "9090"));
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

// flagger #279, PR #327, #1345: generated Services are tied to the port number of the first
// release.
/// # Errors
/// If a promise is not kept.
pub async fn ports_that_move_or_are_added_ship(env: &Env) -> Result<()> {
    let shop = Shop::open(env, "serin-e2e-ports").await?;
    let spec = Spec {
        analysis: None,
        ..Spec::default()
    };
    shop.first(&spec, &Release::good("v1")).await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    shop.apply(on_another_port(&shop, &spec, "v2")).await?;
    shop.until_unless_aborted(
        "v2 on another port is stable",
        Duration::from_secs(90),
        is_stable,
    )
    .await?;
    let mut v3 = on_another_port(&shop, &spec, "v3");
    add_admin_port(&mut v3)?;
    shop.apply(v3).await?;
    shop.until_unless_aborted(
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
    // A second route, so that the first rule stays what the load goes through.
    let mut admin = shop.sibling("admin").route();
    admin["spec"]["rules"] = json!([{
        "matches": [{"path": {"type": "PathPrefix", "value": "/admin"}}],
        "backendRefs": [{"name": shop.name, "port": 9091}],
    }]);
    shop.apply(admin).await?;
    shop.until_answered("/admin", |version| version == "admin")
        .await?;
    let report = stop_without_loss(load).await?;
    for version in ["v1", "v2", "v3"] {
        ensure!(
            report.all().of_version(version).last().is_some(),
            "{version} answered nothing"
        );
    }
    shop.close().await
}

// traefik #9158: a route lists a backend of weight 0 that does not resolve. Many users of other
// controllers write both backends from the beginning.
/// # Errors
/// If a promise is not kept.
pub async fn a_route_may_list_the_canary_service_from_the_beginning(env: &Env) -> Result<()> {
    let shop = Shop::open_without_route(env, "serin-e2e-listed", "shop").await?;
    let canary = format!("{}-canary", shop.name);
    let mut route = shop.route();
    route["spec"]["rules"][0]["backendRefs"] = json!([
        {"name": shop.name, "port": 8080, "weight": 100},
        {"name": canary, "port": 8080, "weight": 0},
    ]);
    shop.apply(route).await?;
    let spec = Spec {
        analysis: None,
        scale_down_delay_seconds: 2,
        ..Spec::default()
    };
    // Healthy, before any release.
    shop.first(&spec, &Release::good("v1")).await?;
    let load = shop.load(LOAD_PER_SECOND)?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    shop.declare(&spec, &Release::good("v2")).await?;
    shop.until_unless_aborted("v2 is stable", Duration::from_secs(90), is_stable)
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
        "the route is at rest and resolved",
        Duration::from_secs(30),
        resolved,
    )
    .await?;
    // The canary's pods go, and the canary Service stays without endpoints.
    tokio::time::sleep(Duration::from_secs(5)).await;
    ensure!(
        resolved().await?,
        "the route stays resolved after the release"
    );
    let report = stop_without_loss(load).await?;
    ensure!(
        report.all().of_version("v2").last().is_some(),
        "v2 answered"
    );
    shop.close().await
}

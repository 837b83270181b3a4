//! The data planes that the traffic cases run on. A data plane is a gateway with its control plane,
//! and one kind of route.
//!
//! The cases use HTTPRoutes and the Traefik of the local cluster, unless `SERIN_GATEWAY` names
//! another data plane. Its control plane is then built from a pinned Go module, and started for the
//! cases that [`crate::cases::ON_EVERY_DATA_PLANE`] lists.

mod contour;
mod dns;
mod envoy;
mod envoy_gateway;
mod istio;
mod process;
mod traefik;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use futures::future::LocalBoxFuture;
use kube::Client;
use serde_json::{Value, json};
use serin_cluster::Cluster;
use serin_core::plan::RouteKind;

use crate::manifests::INDICATOR;
use contour::Contour;
use envoy_gateway::EnvoyGateway;
use istio::Istio;
use traefik::{LocalTraefik, TraefikWithCrds};

/// The environment variable that names the data plane.
pub const VARIABLE: &str = "SERIN_GATEWAY";

/// The names of all data planes. The first one is the default.
pub const NAMES: [&str; 6] = [
    "traefik-httproute",
    "traefik-traefikservice",
    "traefik-ingressroute",
    "envoy-gateway",
    "istio",
    "contour",
];

/// The service whose requests are routed.
#[derive(Clone, Copy, Debug)]
pub struct RoutedService<'a> {
    /// The namespace of all objects.
    pub namespace: &'a str,
    /// The name of the Rollout, of its route and of its stable Service.
    pub name: &'a str,
    /// The host name of the requests.
    pub host: &'a str,
}

/// A gateway with its control plane, and the kind of route that it is tested with.
pub trait DataPlane: Send + Sync {
    /// Its programs and their versions, for messages.
    fn versions(&self) -> &'static str;

    /// The base URL of the gateway, for this host.
    fn gateway_url(&self) -> &str;

    /// The base URL of a Prometheus that scrapes the gateway, if it is not that of the cluster.
    fn prometheus_url(&self) -> Option<&str> {
        None
    }

    /// The kind of the route that is split.
    fn route_kind(&self) -> RouteKind;

    /// Whether the gateway copies requests to a mirror that the route names.
    fn mirrors_requests(&self) -> bool {
        false
    }

    /// The route as a user writes it, and the objects that it needs.
    fn route_objects(&self, service: RoutedService<'_>) -> Vec<Value>;

    /// `trafficRouting` of the Rollout.
    fn traffic_routing(&self, name: &str) -> Value;

    /// The fields of an objective that select the requests of the gateway: an indicator or counters.
    fn counters(&self, service: RoutedService<'_>) -> Value;

    /// Restarts the gateway without a grace period. Returns when it has been started again, which
    /// may be before it answers.
    fn restart(&self) -> LocalBoxFuture<'_, Result<()>>;

    /// Stops what was started for this data plane.
    fn stop(&self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

impl dyn DataPlane {
    /// Adapts a Rollout for HTTPRoutes and Traefik to this data plane.
    pub fn adapt(&self, rollout: &mut Value, service: RoutedService<'_>) {
        for strategy in ["canary", "blueGreen"] {
            let path = format!("/spec/strategy/{strategy}/trafficRouting");
            if let Some(routing) = rollout.pointer_mut(&path) {
                *routing = self.traffic_routing(service.name);
            }
        }
        let objectives = rollout.pointer_mut("/spec/analysis/objectives");
        let objectives = objectives.and_then(Value::as_array_mut);
        for objective in objectives.into_iter().flatten() {
            let Some(fields) = objective.as_object_mut() else {
                continue;
            };
            if fields.get("indicator") == Some(&json!(INDICATOR)) {
                fields.remove("indicator");
                fields.extend(
                    self.counters(service)
                        .as_object()
                        .cloned()
                        .unwrap_or_default(),
                );
            }
        }
    }
}

/// The data plane of the local cluster, which every case can use.
pub fn default_data_plane(cluster: Option<Cluster>, gateway_url: String) -> Arc<dyn DataPlane> {
    Arc::new(LocalTraefik::new(cluster, gateway_url))
}

/// Starts the data plane that `name` names.
///
/// # Errors
/// If there is none of this name, or if it does not start.
pub async fn start(
    name: &str,
    cluster: &Cluster,
    client: &Client,
    checkout: &Path,
) -> Result<Arc<dyn DataPlane>> {
    let host = HostContext {
        cluster,
        client,
        checkout,
    };
    Ok(match name {
        "traefik-httproute" => default_data_plane(Some(cluster.clone()), cluster.gateway_url()),
        "traefik-traefikservice" => {
            Arc::new(TraefikWithCrds::start(host, RouteKind::TraefikService).await?)
        }
        "traefik-ingressroute" => {
            Arc::new(TraefikWithCrds::start(host, RouteKind::IngressRoute).await?)
        }
        "envoy-gateway" => Arc::new(EnvoyGateway::start(host).await?),
        "istio" => Arc::new(Istio::start(host).await?),
        "contour" => Arc::new(Contour::start(host).await?),
        other => bail!("{VARIABLE}={other}: use one of {}", NAMES.join(", ")),
    })
}

/// What a data plane is started with.
#[derive(Clone, Copy)]
struct HostContext<'a> {
    cluster: &'a Cluster,
    client: &'a Client,
    checkout: &'a Path,
}

impl HostContext<'_> {
    /// The folder with the pins of programs.
    fn tools(&self) -> PathBuf {
        self.checkout.join("e2e/tests/tools")
    }

    /// A new folder for the files of a data plane. Removes the one of an earlier run.
    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.checkout.join(".local/e2e").join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// The address of this host for the cluster, with a free port.
    fn free_address(&self) -> Result<String> {
        free_address(&self.cluster.network().host().to_string())
    }
}

/// An address of this host with a free port.
fn free_address(host: &str) -> Result<String> {
    let listener = std::net::TcpListener::bind(format!("{host}:0"))?;
    Ok(listener.local_addr()?.to_string())
}

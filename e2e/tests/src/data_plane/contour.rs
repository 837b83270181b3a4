//! Contour with Envoy, and its kind HTTPProxy.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use futures::future::LocalBoxFuture;
use serde_json::{Value, json};
use serin_cluster::{GoModule, Progress, build_programs, module_sources};
use serin_core::plan::RouteKind;
use tokio::process::Command;

use super::process::{HostProcess, ProcessOptions};
use super::{DataPlane, HostContext, RoutedService, envoy};
use crate::objects::apply_crds;
use crate::prometheus::Prometheus;

const MODULE: GoModule = GoModule {
    name: "contour",
    version: "Contour 1.33.8",
    linker: "",
    programs: &[("contour", "github.com/projectcontour/contour/cmd/contour")],
};

/// Contour and its Envoy, as processes of this host.
pub(super) struct Contour {
    gateway_url: String,
    controller: HostProcess,
    envoy: HostProcess,
    prometheus: Prometheus,
}

impl Contour {
    /// Builds Contour if necessary, installs its kinds, and starts both programs.
    ///
    /// # Errors
    /// If a program does not build, or if it is not ready in time.
    pub(super) async fn start(host: HostContext<'_>) -> Result<Self> {
        let programs = build_programs(&host.tools(), &[MODULE], Progress::detect()).await?;
        let contour = programs.get("contour").context("contour is not pinned")?;
        let pins = host.tools().join("contour");
        let sources = module_sources(&pins, "github.com/projectcontour/contour").await?;
        apply_crds(host.client, &sources.join("examples/contour/01-crds.yaml")).await?;

        let folder = host.folder("contour")?;
        let addresses = Addresses::new(host)?;
        let controller = HostProcess::start(ProcessOptions {
            program: contour.clone(),
            arguments: addresses.arguments(host),
            environment: Vec::new(),
            log: folder.join("contour.log"),
            ready_url: format!("http://{}/healthz", addresses.health),
        })
        .await?;
        let bootstrap = write_bootstrap(contour, &folder, &addresses.xds).await?;
        let ready_url = format!("http://{}/ready", addresses.stats);
        let envoy = envoy::start(host, &folder, &bootstrap, ready_url).await?;
        let job = envoy::scrape_job(&addresses.stats);
        let prometheus =
            Prometheus::start(host.cluster, host.checkout, "contour", "1s", vec![job]).await?;
        Ok(Self {
            gateway_url: format!("http://{}", addresses.gateway),
            controller,
            envoy,
            prometheus,
        })
    }
}

/// The addresses of both programs.
struct Addresses {
    gateway: String,
    stats: String,
    xds: String,
    health: String,
    metrics: String,
    debug: String,
}

impl Addresses {
    fn new(host: HostContext<'_>) -> Result<Self> {
        let local = || super::free_address("127.0.0.1");
        Ok(Self {
            gateway: host.free_address()?,
            stats: host.free_address()?,
            xds: local()?,
            health: local()?,
            metrics: local()?,
            debug: local()?,
        })
    }

    fn arguments(&self, host: HostContext<'_>) -> Vec<String> {
        let mut arguments = vec![
            "serve".to_owned(),
            format!("--kubeconfig={}", host.cluster.kubeconfig().display()),
            "--disable-leader-election".to_owned(),
            // Without TLS between the two programs.
            "--insecure".to_owned(),
            "--envoy-http-access-log=/dev/null".to_owned(),
        ];
        for (name, address) in [
            ("envoy-service-http", &self.gateway),
            ("stats", &self.stats),
            ("xds", &self.xds),
            ("health", &self.health),
            ("http", &self.metrics),
            ("debug-http", &self.debug),
        ] {
            if let Some((address, port)) = address.rsplit_once(':') {
                arguments.push(format!("--{name}-address={address}"));
                arguments.push(format!("--{name}-port={port}"));
            }
        }
        arguments
    }
}

/// Writes Envoy's bootstrap file with Contour's own command.
async fn write_bootstrap(contour: &Path, folder: &Path, xds: &str) -> Result<PathBuf> {
    let bootstrap = folder.join("bootstrap.json");
    let (address, port) = xds.rsplit_once(':').unwrap_or((xds, ""));
    let output = Command::new(contour)
        .arg("bootstrap")
        .arg(&bootstrap)
        .arg(format!("--xds-address={address}"))
        .arg(format!("--xds-port={port}"))
        .arg(format!(
            "--admin-address={}",
            folder.join("admin.sock").display()
        ))
        .output()
        .await?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "contour bootstrap: {errors}");
    Ok(bootstrap)
}

impl DataPlane for Contour {
    fn versions(&self) -> &'static str {
        "Contour 1.33.8, Envoy 1.40.0"
    }

    fn gateway_url(&self) -> &str {
        &self.gateway_url
    }

    fn prometheus_url(&self) -> Option<&str> {
        Some(&self.prometheus.url)
    }

    fn route_kind(&self) -> RouteKind {
        RouteKind::HttpProxy
    }

    fn route_objects(&self, RoutedService { name, host, .. }: RoutedService<'_>) -> Vec<Value> {
        vec![json!({
            "apiVersion": "projectcontour.io/v1", "kind": "HTTPProxy",
            "metadata": {"name": name},
            "spec": {
                "virtualhost": {"fqdn": host},
                "routes": [
                    {"conditions": [{"prefix": "/"}], "services": [{"name": name, "port": 8080}]},
                ],
            },
        })]
    }

    fn traffic_routing(&self, name: &str) -> Value {
        json!({"contour": {"httpProxies": [{"name": name}]}})
    }

    fn counters(&self, _service: RoutedService<'_>) -> Value {
        json!({"indicator": "contour"})
    }

    fn restart(&self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(self.envoy.restart())
    }

    fn stop(&self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(async {
            self.prometheus.stop().await?;
            self.envoy.stop().await?;
            self.controller.stop().await
        })
    }
}

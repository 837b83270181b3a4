//! Istio's control plane with Envoy as its gateway, and its kind VirtualService.
//!
//! Envoy is not Istio's own build of it, so that it has none of Istio's filters. They are disabled,
//! and the requests are counted with Envoy's own counters instead of Istio's standard metrics.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use futures::future::LocalBoxFuture;
use serde_json::{Value, json};
use serin_cluster::{GoModule, Progress, build_programs, module_sources};
use serin_core::plan::RouteKind;

use super::process::{HostProcess, ProcessOptions};
use super::{DataPlane, HostContext, RoutedService, envoy};
use crate::objects::{apply, apply_crds};
use crate::prometheus::Prometheus;

const MODULE: GoModule = GoModule {
    name: "istio",
    version: "Istio 1.31 of 2026-08-27",
    linker: "",
    programs: &[(
        "pilot-discovery",
        "istio.io/istio/pilot/cmd/pilot-discovery",
    )],
};
/// The namespace of the control plane and of the gateway.
const NAMESPACE: &str = "istio-system";
/// The label of the gateway that Gateways select.
const GATEWAY: &str = "ingressgateway";

/// The control plane and its Envoy, as processes of this host.
pub(super) struct Istio {
    gateway: String,
    gateway_url: String,
    pilot: HostProcess,
    envoy: HostProcess,
    prometheus: Prometheus,
}

impl Istio {
    /// Builds the control plane if necessary, installs its kinds, and starts both programs.
    ///
    /// # Errors
    /// If a program does not build, or if it is not ready in time.
    pub(super) async fn start(host: HostContext<'_>) -> Result<Self> {
        let programs = build_programs(&host.tools(), &[MODULE], Progress::detect()).await?;
        let pilot = programs.get("pilot-discovery");
        let pilot = pilot.context("pilot-discovery is not pinned")?.clone();
        let sources = module_sources(&host.tools().join("istio"), "istio.io/istio").await?;
        let crds = sources.join("manifests/charts/base/files/crd-all.gen.yaml");
        apply_crds(host.client, &crds).await?;
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        apply(host.client, &namespace).await?;

        let folder = host.folder("istio")?;
        let (gateway, admin) = (host.free_address()?, host.free_address()?);
        let xds = super::free_address("127.0.0.1")?;
        let pilot = HostProcess::start(pilot_options(host, pilot, &folder, &xds)?).await?;
        let bootstrap = write_bootstrap(&folder, &gateway, &admin, &xds)?;
        let ready_url = format!("http://{admin}/ready");
        let envoy = envoy::start(host, &folder, &bootstrap, ready_url).await?;
        let job = envoy::scrape_job(&admin);
        let prometheus =
            Prometheus::start(host.cluster, host.checkout, "istio", "1s", vec![job]).await?;
        Ok(Self {
            gateway_url: format!("http://{gateway}"),
            gateway,
            pilot,
            envoy,
            prometheus,
        })
    }
}

fn pilot_options(
    host: HostContext<'_>,
    program: PathBuf,
    folder: &Path,
    xds: &str,
) -> Result<ProcessOptions> {
    let mesh = folder.join("mesh.json");
    let providers = json!({"metrics": [], "tracing": [], "accessLogging": []});
    std::fs::write(&mesh, json!({"defaultProviders": providers}).to_string())?;
    let (http, monitoring) = (
        super::free_address("127.0.0.1")?,
        super::free_address("127.0.0.1")?,
    );
    let disabled = |name: &'static str| (name, "false".to_owned());
    Ok(ProcessOptions {
        program,
        arguments: vec![
            "discovery".into(),
            format!("--kubeconfig={}", host.cluster.kubeconfig().display()),
            format!("--meshConfig={}", mesh.display()),
            format!("--grpcAddr={xds}"),
            "--secureGRPCAddr=".into(),
            "--httpsAddr=".into(),
            format!("--httpAddr={http}"),
            format!("--monitoringAddr={monitoring}"),
            "--caCertFile=".into(),
        ],
        environment: vec![
            disabled("PILOT_ENABLE_METADATA_EXCHANGE"),
            disabled("PILOT_ENABLE_ALPN_FILTER"),
            disabled("INJECT_ENABLED"),
            ("POD_NAMESPACE", NAMESPACE.to_owned()),
        ],
        log: folder.join("pilot.log"),
        ready_url: format!("http://{http}/ready"),
    })
}

/// Writes Envoy's bootstrap file: everything is requested from the control plane.
fn write_bootstrap(folder: &Path, gateway: &str, admin: &str, xds: &str) -> Result<PathBuf> {
    let ip = gateway.rsplit_once(':').map_or(gateway, |(ip, _)| ip);
    let of_control_plane = json!({"ads": {}, "resource_api_version": "V3"});
    let http2 = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let bootstrap = json!({
        "node": {
            "id": format!("router~{ip}~{GATEWAY}.{NAMESPACE}~{NAMESPACE}.svc.cluster.local"),
            "cluster": GATEWAY,
            "metadata": {
                "NAMESPACE": NAMESPACE,
                "CLUSTER_ID": "Kubernetes",
                "LABELS": {"istio": GATEWAY},
            },
        },
        "admin": {"address": socket_address(admin)},
        // Istio ends the name of a cluster in a statistic with a semicolon, because it has dots. These
        // are the expressions of Istio's own bootstrap file.
        "stats_config": {"use_all_default_tags": false, "stats_tags": [
            {"tag_name": "cluster_name", "regex": r"^cluster(\.(.+);)"},
            {"tag_name": "response_code", "regex": r"_rq(_(\d{3}))$"},
            {"tag_name": "response_code_class", "regex": r"_rq(_(\dxx))$"},
        ]},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "cds_config": of_control_plane,
            "lds_config": of_control_plane,
        },
        "static_resources": {"clusters": [{
            "name": "xds",
            "type": "STATIC",
            "connect_timeout": "1s",
            "typed_extension_protocol_options": {http2: {
                "@type": format!("type.googleapis.com/{http2}"),
                "explicit_http_config": {"http2_protocol_options": {}},
            }},
            "load_assignment": {"cluster_name": "xds", "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": socket_address(xds)}}]},
            ]},
        }]},
    });
    let file = folder.join("bootstrap.json");
    std::fs::write(&file, format!("{bootstrap:#}"))?;
    Ok(file)
}

fn socket_address(address: &str) -> Value {
    let (ip, port) = address.rsplit_once(':').unwrap_or((address, "0"));
    let port = port.parse::<u16>().unwrap_or_default();
    json!({"socket_address": {"address": ip, "port_value": port}})
}

impl DataPlane for Istio {
    fn versions(&self) -> &'static str {
        "Istio 1.31 (eed52ebb66ad), Envoy 1.40.0"
    }

    fn gateway_url(&self) -> &str {
        &self.gateway_url
    }

    fn prometheus_url(&self) -> Option<&str> {
        Some(&self.prometheus.url)
    }

    fn route_kind(&self) -> RouteKind {
        RouteKind::VirtualService
    }

    fn mirrors_requests(&self) -> bool {
        true
    }

    fn route_objects(&self, RoutedService { name, host, .. }: RoutedService<'_>) -> Vec<Value> {
        let port = self.gateway.rsplit_once(':').map_or("", |(_, port)| port);
        let port = json!({
            "number": port.parse::<u16>().unwrap_or_default(), "name": "http", "protocol": "HTTP",
        });
        let destination = json!({"host": name, "port": {"number": 8080}});
        vec![
            json!({
                "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
                "metadata": {"name": name},
                "spec": {
                    "hosts": [host],
                    "gateways": [name],
                    "http": [{"route": [{"destination": destination}]}],
                },
            }),
            json!({
                "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
                "metadata": {"name": name},
                "spec": {
                    "selector": {"istio": GATEWAY},
                    "servers": [{"port": port, "hosts": [host]}],
                },
            }),
        ]
    }

    fn traffic_routing(&self, name: &str) -> Value {
        json!({"istio": {"virtualServices": [{"name": name}]}})
    }

    /// Istio names a cluster `outbound|<port>|<subset>|<host>`.
    fn counters(
        &self,
        RoutedService {
            namespace, name, ..
        }: RoutedService<'_>,
    ) -> Value {
        let side = |service: &str| {
            format!("outbound[|]8080[|][|]{service}[.]{namespace}[.]svc[.]cluster[.]local")
        };
        let (stable, canary) = (side(name), side(&format!("{name}-canary")));
        let both = format!("cluster_name=~\"{stable}|{canary}\"");
        let requests = "envoy_cluster_upstream_rq";
        json!({"counters": {
            "total": format!("{requests}{{{both},response_code_class!=\"\"}}"),
            "errors": format!("{requests}{{{both},response_code_class=\"5xx\"}}"),
            "variants": {"label": "cluster_name", "canary": canary, "stable": stable},
        }})
    }

    fn restart(&self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(self.envoy.restart())
    }

    fn stop(&self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(async {
            self.prometheus.stop().await?;
            self.envoy.stop().await?;
            self.pilot.stop().await
        })
    }
}

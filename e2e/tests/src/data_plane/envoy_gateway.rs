//! Envoy Gateway, whose proxies are pods, with HTTPRoutes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::LocalBoxFuture;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use serin_cluster::{
    GoModule, Image, Progress, build_cluster_programs, build_programs, module_sources,
};
use serin_core::plan::RouteKind;
use tokio::process::Command;

use super::dns::NameServer;
use super::{DataPlane, HostContext, RoutedService, envoy};
use crate::manifests;
use crate::objects::{api, apply, apply_crds};
use crate::shop::eventually;

const MODULE: GoModule = GoModule {
    name: "envoy-gateway",
    version: "Envoy Gateway 1.9.1",
    linker: "",
    programs: &[(
        "envoy-gateway",
        "github.com/envoyproxy/gateway/cmd/envoy-gateway",
    )],
};
const CONTROLLER_IMAGE: &str = "serin.local/envoy-gateway:v1.9.1";
const PROXY_IMAGE: &str = "serin.local/envoy:v1.40.0";
/// The namespace of the control plane, of the Gateway and of the proxies.
const NAMESPACE: &str = "envoy-gateway-system";
/// The name of the Gateway, of its class and of the settings of its proxies.
const NAME: &str = "envoy";
/// The labels of the proxies and of their Service.
const OF_GATEWAY: &str = "gateway.envoyproxy.io/owning-gateway-name=envoy";
/// The port of the proxies with their metrics.
const METRICS_PORT: &str = "19001";
/// Maximum time for the proxies to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// The installed Envoy Gateway. Its control plane and its proxies are pods of the local cluster.
pub(super) struct EnvoyGateway {
    client: Client,
    gateway_url: String,
    name_server: NameServer,
    helm: Helm,
}

impl EnvoyGateway {
    /// Builds Envoy Gateway if necessary, and installs its chart and a Gateway.
    ///
    /// # Errors
    /// If it does not build, if the chart cannot be installed, or if the proxies are not ready in
    /// time.
    pub(super) async fn start(host: HostContext<'_>) -> Result<Self> {
        let programs = build_programs(&host.tools(), &[MODULE], Progress::detect()).await?;
        let program = programs.get("envoy-gateway");
        let program = program.context("envoy-gateway is not pinned")?.clone();
        host.cluster
            .load_image(&Image::local(CONTROLLER_IMAGE, program))
            .await?;
        let proxy = envoy::program(host).await?;
        let image = Image::local_with_libraries(PROXY_IMAGE, proxy).await?;
        host.cluster.load_image(&image).await?;

        let pins = host.tools().join("envoy-gateway");
        let sources = module_sources(&pins, "github.com/envoyproxy/gateway").await?;
        let charts = sources.join("charts/gateway-helm");
        apply_crds(host.client, &charts.join("charts/crds/crds/generated")).await?;
        // The proxies find their control plane by name.
        let name_server = NameServer::start(host).await?;
        let helm = Helm::new(host).await?;
        helm.install(&charts).await?;
        for object in gateway_objects() {
            apply(host.client, &object).await?;
        }
        let client = host.client.clone();
        let gateway_url = proxy_url(&client).await?;
        Ok(Self {
            client,
            gateway_url,
            name_server,
            helm,
        })
    }

    fn proxies(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    async fn replace_proxies(&self) -> Result<()> {
        let of_gateway = ListParams::default().labels(OF_GATEWAY);
        let old: Vec<String> = names(&self.proxies().list(&of_gateway).await?.items);
        let now = DeleteParams::default().grace_period(0);
        self.proxies().delete_collection(&now, &of_gateway).await?;
        let is_replaced = async || {
            let pods = self.proxies().list(&of_gateway).await?.items;
            let is_new = |pod: &&Pod| !old.contains(&pod.name_any());
            Ok(pods.iter().filter(is_new).any(is_ready))
        };
        eventually("other proxies are ready", READY_TIMEOUT, is_replaced).await
    }

    async fn remove(&self) -> Result<()> {
        for object in gateway_objects().iter().rev() {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            api(&self.client, object)
                .delete(name, &DeleteParams::default())
                .await?;
        }
        let of_gateway = ListParams::default().labels(OF_GATEWAY);
        let is_removed = async || Ok(self.proxies().list(&of_gateway).await?.items.is_empty());
        eventually("the proxies are removed", READY_TIMEOUT, is_removed).await?;
        self.helm.uninstall().await?;
        self.name_server.stop().await
    }
}

fn names(pods: &[Pod]) -> Vec<String> {
    pods.iter().map(ResourceExt::name_any).collect()
}

fn is_ready(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let mut conditions = conditions.unwrap_or_default().iter();
    pod.metadata.deletion_timestamp.is_none()
        && conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The URL of the proxies, once one is ready.
async fn proxy_url(client: &Client) -> Result<String> {
    let of_gateway = ListParams::default().labels(OF_GATEWAY);
    let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    let is_any_ready = async || Ok(pods.list(&of_gateway).await?.items.iter().any(is_ready));
    eventually("the proxy is ready", READY_TIMEOUT, is_any_ready).await?;
    let services = Api::<Service>::namespaced(client.clone(), NAMESPACE);
    let services = services.list(&of_gateway).await?.items;
    let address = services
        .into_iter()
        .find_map(|service| service.spec?.cluster_ip);
    Ok(format!(
        "http://{}",
        address.context("the proxies have no Service")?
    ))
}

/// The Gateway, its class and the settings of its proxies.
fn gateway_objects() -> Vec<Value> {
    let settings = json!({
        "group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": NAME, "namespace": NAMESPACE,
    });
    vec![
        json!({
            "apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyProxy",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {
                // Each Service has a cluster of its own, whose requests can be counted.
                "mergeBackends": {},
                "concurrency": 1,
                "shutdown": {"drainTimeout": "5s", "minDrainDuration": "1s"},
                "provider": {"type": "Kubernetes", "kubernetes": {
                    "envoyDeployment": {
                        "container": {"image": PROXY_IMAGE},
                        "pod": {"annotations": {
                            "prometheus.io/scrape": "true",
                            "prometheus.io/port": METRICS_PORT,
                            "prometheus.io/path": envoy::METRICS_PATH,
                        }},
                    },
                    "envoyService": {"type": "ClusterIP"},
                }},
            },
        }),
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
            "metadata": {"name": NAME},
            "spec": {
                "controllerName": "gateway.envoyproxy.io/gatewayclass-controller",
                "parametersRef": settings,
            },
        }),
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {
                "gatewayClassName": NAME,
                "listeners": [{
                    "name": "http", "protocol": "HTTP", "port": 80,
                    "allowedRoutes": {"namespaces": {"from": "All"}},
                }],
            },
        }),
    ]
}

/// The release of the chart.
struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
    folder: PathBuf,
}

impl Helm {
    async fn new(host: HostContext<'_>) -> Result<Self> {
        let programs = build_cluster_programs(host.checkout, &["helm"], Progress::detect()).await?;
        Ok(Self {
            program: programs.get("helm").context("helm is not pinned")?.clone(),
            kubeconfig: host.cluster.kubeconfig(),
            folder: host.folder("envoy-gateway")?,
        })
    }

    /// Installs the chart. The sources of the module have a template of its values.
    async fn install(&self, chart: &Path) -> Result<()> {
        let template = std::fs::read_to_string(chart.join("values.tmpl.yaml"))?;
        let values = template
            .replace("${GatewayImage}", CONTROLLER_IMAGE)
            .replace("${GatewayImagePullPolicy}", "IfNotPresent");
        let copy = self.folder.join("chart");
        copy_folder(chart, &copy)?;
        std::fs::write(copy.join("values.yaml"), values)?;
        let image = "config.envoyGateway.provider.kubernetes.shutdownManager.image";
        self.run(&[
            "upgrade",
            "--install",
            NAME,
            &copy.to_string_lossy(),
            "--create-namespace",
            "--set=crds.enabled=false",
            "--set=topologyInjector.enabled=false",
            &format!("--set={image}={CONTROLLER_IMAGE}"),
            "--wait",
            "--timeout=3m",
        ])
        .await
    }

    async fn uninstall(&self) -> Result<()> {
        self.run(&["uninstall", NAME, "--wait"]).await
    }

    async fn run(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new(&self.program)
            .env("KUBECONFIG", &self.kubeconfig)
            .args(["--namespace", NAMESPACE])
            .args(arguments)
            .output()
            .await?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "helm {}: {errors}",
            arguments.join(" ")
        );
        Ok(())
    }
}

/// Copies a folder. The sources of a module cannot be written to, and neither can copies of its
/// folders that keep their permissions.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::write(target, std::fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

impl DataPlane for EnvoyGateway {
    fn versions(&self) -> &'static str {
        "Envoy Gateway 1.9.1, Envoy 1.40.0"
    }

    fn gateway_url(&self) -> &str {
        &self.gateway_url
    }

    fn route_kind(&self) -> RouteKind {
        RouteKind::HttpRoute
    }

    fn mirrors_requests(&self) -> bool {
        true
    }

    fn route_objects(&self, service: RoutedService<'_>) -> Vec<Value> {
        let gateway = (NAMESPACE, NAME);
        vec![manifests::http_route(service.name, service.host, gateway)]
    }

    fn traffic_routing(&self, name: &str) -> Value {
        json!({"gatewayAPI": {"httpRoute": name}})
    }

    fn counters(&self, _service: RoutedService<'_>) -> Value {
        json!({"indicator": "envoy-gateway"})
    }

    fn restart(&self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(self.replace_proxies())
    }

    fn stop(&self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(self.remove())
    }
}

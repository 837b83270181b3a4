//! Traefik: the one of the local cluster with HTTPRoutes, and another one with Traefik's own kinds.

use anyhow::{Context, Result};
use futures::future::LocalBoxFuture;
use serde_json::{Value, json};
use serin_cluster::{Cluster, Component};
use serin_core::plan::RouteKind;

use super::process::{HostProcess, ProcessOptions};
use super::{DataPlane, HostContext, RoutedService};
use crate::manifests::{self, INDICATOR};
use crate::objects::apply_crd;
use crate::prometheus::Prometheus;
use crate::shop::gateway;

const VERSIONS: &str = "Traefik 3.7.15";

/// The kinds of Traefik's own API. Its provider needs all of them.
const KINDS: [(&str, &str); 10] = [
    ("IngressRoute", "ingressroutes"),
    ("IngressRouteTCP", "ingressroutetcps"),
    ("IngressRouteUDP", "ingressrouteudps"),
    ("Middleware", "middlewares"),
    ("MiddlewareTCP", "middlewaretcps"),
    ("ServersTransport", "serverstransports"),
    ("ServersTransportTCP", "serverstransporttcps"),
    ("TLSOption", "tlsoptions"),
    ("TLSStore", "tlsstores"),
    ("TraefikService", "traefikservices"),
];

/// The Traefik of the cluster. Another cluster may have another gateway.
pub(super) struct LocalTraefik {
    cluster: Option<Cluster>,
    gateway_url: String,
}

impl LocalTraefik {
    pub(super) fn new(cluster: Option<Cluster>, gateway_url: String) -> Self {
        Self {
            cluster,
            gateway_url,
        }
    }
}

impl DataPlane for LocalTraefik {
    fn versions(&self) -> &'static str {
        VERSIONS
    }

    fn gateway_url(&self) -> &str {
        &self.gateway_url
    }

    fn route_kind(&self) -> RouteKind {
        RouteKind::HttpRoute
    }

    fn route_objects(&self, service: RoutedService<'_>) -> Vec<Value> {
        let (namespace, name) = gateway();
        let gateway = (namespace.as_str(), name.as_str());
        vec![manifests::http_route(service.name, service.host, gateway)]
    }

    fn traffic_routing(&self, name: &str) -> Value {
        json!({"gatewayAPI": {"httpRoute": name}})
    }

    fn counters(&self, _service: RoutedService<'_>) -> Value {
        json!({"indicator": INDICATOR})
    }

    fn restart(&self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(async {
            let cluster = self.cluster.as_ref();
            let cluster = cluster.context("only the local gateway can be restarted")?;
            cluster.kill(Component::Traefik).await?;
            cluster.start(Component::Traefik).await
        })
    }
}

/// A Traefik that serves TraefikServices and IngressRoutes, as a process of this host.
pub(super) struct TraefikWithCrds {
    route_kind: RouteKind,
    gateway_url: String,
    process: HostProcess,
    prometheus: Prometheus,
}

impl TraefikWithCrds {
    /// Installs Traefik's kinds and starts Traefik.
    ///
    /// # Errors
    /// If it is not ready in time.
    pub(super) async fn start(host: HostContext<'_>, route_kind: RouteKind) -> Result<Self> {
        for (kind, plural) in KINDS {
            apply_crd(
                host.client,
                serde_json::from_value(definition(kind, plural))?,
            )
            .await?;
        }
        let folder = host.folder("traefik-with-crds")?;
        let (web, internal) = (host.free_address()?, host.free_address()?);
        let credentials = host.cluster.credentials()?;
        let process = HostProcess::start(ProcessOptions {
            program: host.cluster.program(Component::Traefik),
            arguments: vec![
                format!("--entryPoints.web.address={web}"),
                format!("--entryPoints.internal.address={internal}"),
                "--ping=true".into(),
                "--ping.entryPoint=internal".into(),
                "--metrics.prometheus=true".into(),
                "--metrics.prometheus.entryPoint=internal".into(),
                "--metrics.prometheus.addServicesLabels=true".into(),
                "--providers.providersThrottleDuration=100ms".into(),
                "--providers.kubernetescrd=true".into(),
                format!("--providers.kubernetescrd.endpoint={}", credentials.server),
                format!("--providers.kubernetescrd.token={}", credentials.token),
                format!(
                    "--providers.kubernetescrd.certAuthFilePath={}",
                    credentials.certificate_authority.display()
                ),
                "--providers.kubernetescrd.throttleDuration=100ms".into(),
                "--global.checkNewVersion=false".into(),
                "--global.sendAnonymousUsage=false".into(),
                "--log.level=INFO".into(),
            ],
            environment: Vec::new(),
            log: folder.join("traefik.log"),
            ready_url: format!("http://{internal}/ping"),
        })
        .await?;
        let job = json!({"job_name": "traefik", "static_configs": [{"targets": [internal]}]});
        let prometheus =
            Prometheus::start(host.cluster, host.checkout, "traefik", "1s", vec![job]).await?;
        Ok(Self {
            route_kind,
            gateway_url: format!("http://{web}"),
            process,
            prometheus,
        })
    }
}

impl DataPlane for TraefikWithCrds {
    fn versions(&self) -> &'static str {
        VERSIONS
    }

    fn gateway_url(&self) -> &str {
        &self.gateway_url
    }

    fn prometheus_url(&self) -> Option<&str> {
        Some(&self.prometheus.url)
    }

    fn route_kind(&self) -> RouteKind {
        self.route_kind
    }

    fn route_objects(&self, RoutedService { name, host, .. }: RoutedService<'_>) -> Vec<Value> {
        let service = json!({"name": name, "port": 8080});
        let is_nested = self.route_kind == RouteKind::TraefikService;
        let target = if is_nested {
            json!({"name": name, "kind": "TraefikService"})
        } else {
            service.clone()
        };
        let route = json!({
            "apiVersion": "traefik.io/v1alpha1", "kind": "IngressRoute",
            "metadata": {"name": name},
            "spec": {"entryPoints": ["web"], "routes": [
                {"kind": "Rule", "match": format!("Host(`{host}`)"), "services": [target]},
            ]},
        });
        let nested = json!({
            "apiVersion": "traefik.io/v1alpha1", "kind": "TraefikService",
            "metadata": {"name": name},
            "spec": {"weighted": {"services": [service]}},
        });
        if is_nested {
            vec![nested, route]
        } else {
            vec![route]
        }
    }

    fn traffic_routing(&self, name: &str) -> Value {
        match self.route_kind {
            RouteKind::IngressRoute => json!({"traefik": {"ingressRoutes": [{"name": name}]}}),
            _ => json!({"traefik": {"traefikServices": [{"name": name}]}}),
        }
    }

    /// Traefik names a Service of its own kinds `<namespace>-<service>-<port>@kubernetescrd`.
    fn counters(
        &self,
        RoutedService {
            namespace, name, ..
        }: RoutedService<'_>,
    ) -> Value {
        let side = |service: &str| format!("{namespace}-{service}-8080@kubernetescrd");
        let (stable, canary) = (side(name), side(&format!("{name}-canary")));
        let both = format!("service=~\"{stable}|{canary}\"");
        json!({"counters": {
            "total": format!("traefik_service_requests_total{{{both}}}"),
            "errors": format!("traefik_service_requests_total{{{both},code=~\"5..\"}}"),
            "variants": {"label": "service", "canary": canary, "stable": stable},
        }})
    }

    fn restart(&self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(self.process.restart())
    }

    fn stop(&self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(async {
            self.prometheus.stop().await?;
            self.process.stop().await
        })
    }
}

/// The definition of a kind without a schema: Traefik checks the fields itself.
fn definition(kind: &str, plural: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.traefik.io")},
        "spec": {
            "group": "traefik.io",
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "x-kubernetes-preserve-unknown-fields": true,
                }},
            }],
        },
    })
}
